"""Fields of fixed contents: taking them off the front, and putting them together, with FormatError and nothing else."""

from binascii import crc_hqx
from datetime import date, datetime

from cardcore.bcd import decode_moment, encode_moment
from cardcore.errors import FormatError

_MIDNIGHT = bytes(3)


class Reader:
    """Takes fields off the front of a content whose length was checked."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes, size: int, what: str) -> None:
        if len(raw) != size:
            raise FormatError(f"{what} has {size} bytes, not {len(raw)}")
        self._raw = raw
        self._at = 0

    def take(self, width: int) -> bytes:
        part = self._raw[self._at : self._at + width]
        self._at += width
        return part

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def day(self) -> date:
        return decode_moment(self.take(4), _MIDNIGHT).date()

    def moment(self) -> datetime | None:
        """A moment of 7 BCD bytes, None when they are zeros: nothing happened yet."""
        packed = self.take(7)
        return decode_moment(packed[:4], packed[4:]) if any(packed) else None

    def text(self, width: int) -> str:
        return read_text(self.take(width))


def exact(size: int, what: str, *parts: bytes) -> bytes:
    """The parts as one content of `size` bytes; raises FormatError when a part was of another width."""
    raw = b"".join(parts)
    if len(raw) != size:
        raise FormatError(f"{what} has {size} bytes, but its fields have {len(raw)}")
    return raw


def unsigned(value: int, width: int) -> bytes:
    try:
        return value.to_bytes(width, "big")
    except OverflowError as error:
        raise FormatError(f"{value} does not fit {width} bytes") from error


def packed_moment(moment: datetime | None) -> bytes:
    """7 BCD bytes, zeros for None."""
    return b"".join(encode_moment(moment)) if moment else bytes(7)


def packed_text(text: str, width: int) -> bytes:
    """GBK, filled with 00; raises FormatError for text that the card's alphabet or the width does not hold."""
    try:
        packed = text.encode("gbk")
    except UnicodeEncodeError as error:
        raise FormatError(f"{text!r} has characters that GBK, the card's alphabet, lacks") from error
    if len(packed) > width or b"\0" in packed:
        raise FormatError(f"{text!r} does not fit {width} bytes of GBK")
    return packed.ljust(width, b"\0")


def read_text(raw: bytes) -> str:
    try:
        return raw.rstrip(b"\0").decode("gbk")
    except UnicodeDecodeError as error:
        raise FormatError(f"{raw.hex()} is not GBK text") from error


def crc16(content: bytes) -> bytes:
    """CRC-16/CCITT, polynomial 1021, from FFFF, not reflected."""
    return crc_hqx(content, 0xFFFF).to_bytes(2, "big")
