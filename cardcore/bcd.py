"""Compact numbers of the card: BCD dates, times and serials (PBOC, JR/T 0025)."""

from datetime import datetime

from cardcore.errors import FormatError


def decode_digits(packed: bytes) -> str:
    """Decimal digits of packed BCD; raises FormatError on a nibble above 9."""
    text = packed.hex()
    if not text.isdecimal():
        raise FormatError(f"{text} is not BCD: a nibble is above 9")
    return text


def encode_digits(digits: str) -> bytes:
    """Packed BCD of an even number of decimal digits; raises FormatError otherwise."""
    if not (digits.isascii() and digits.isdecimal()) or len(digits) % 2:
        raise FormatError(f"{digits!r} is not an even number of decimal digits")
    return bytes.fromhex(digits)


def decode_moment(date4: bytes, time3: bytes) -> datetime:
    """Local wall-clock moment of a card date YYYYMMDD and time hhmmss, without a zone: the zone is the scheme's, not the card's."""
    text = decode_digits(date4) + decode_digits(time3)
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S")  # noqa: DTZ007 - naive on purpose, see above
    except ValueError as error:
        raise FormatError(f"{text} is not a date and time") from error


def encode_moment(moment: datetime) -> tuple[bytes, bytes]:
    """Card date (4 bytes) and time (3 bytes) of a local wall-clock moment."""
    return bytes.fromhex(f"{moment:%Y%m%d}"), bytes.fromhex(f"{moment:%H%M%S}")
