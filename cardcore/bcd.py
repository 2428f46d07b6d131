"""Compact numbers of the card: BCD dates, times and serials (PBOC, JR/T 0025)."""

from datetime import date, datetime

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
    """Local wall-clock moment of a card date YYYYMMDD and time hhmmss: naive, for the zone is the scheme's."""
    text = decode_digits(date4) + decode_digits(time3)
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S")
    except ValueError as error:
        raise FormatError(f"{text} is not a date and time") from error


def encode_moment(moment: datetime) -> tuple[bytes, bytes]:
    """Card date (4 bytes) and time (3 bytes) of a local wall-clock moment."""
    return encode_day(moment), bytes.fromhex(f"{moment:%H%M%S}")


def encode_day(day: date) -> bytes:
    """Card date, 4 bytes."""
    # strftime does not fill years before 1000 up to four digits everywhere.
    return bytes.fromhex(f"{day.year:04}{day.month:02}{day.day:02}")
