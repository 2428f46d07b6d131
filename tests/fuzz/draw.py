"""Values drawn from fuzzed bytes: what they run out of is zeros, so that every input is one of a structure too."""

from collections.abc import Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")


class Draw:
    """Takes values off the front of the input."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def octets(self, width: int) -> bytes:
        part = self._raw[self._at : self._at + width]
        self._at += width
        return part.ljust(width, b"\0")

    def number(self, width: int) -> int:
        return int.from_bytes(self.octets(width), "big")

    def rest(self) -> bytes:
        return self._raw[self._at :]

    def choice(self, items: Sequence[ItemT]) -> ItemT:
        return items[self.number(2) % len(items)]

    def text(self, width: int) -> str:
        """Any characters, lone surrogates too."""
        return self.octets(width).decode("utf-16", "surrogatepass") if width % 2 == 0 else chr(self.number(1))

    def value(self) -> object:
        """A value of any type that a document of TOML or JSON can hold."""
        match self.number(1) % 12:
            case 0:
                return self.number(1)
            case 1:
                return self.number(2)
            case 2:
                return -self.number(1)
            case 3:
                return 1 << 4 * self.number(1)
            case 4:
                return self.number(2) / 3
            case 5:
                return bool(self.number(1) & 1)
            case 6:
                return self.text(6)
            case 7:
                return self.octets(self.number(1) % 20).hex()
            case 8:
                return self.choice(("control", "purchase", "sm4", "3des", "transit", "cyclic", "before", "123456"))
            case 9:
                return []
            case 10:
                return {}
            case _:
                return [self.number(1), {"fid": self.number(2)}, "sm4"]


def pieces(raw: bytes) -> list[bytes]:
    """The input as parts, each behind its length (1 byte)."""
    draw, parts = Draw(raw), []
    while draw.rest():
        parts.append(draw.octets(draw.number(1)))
    return parts
