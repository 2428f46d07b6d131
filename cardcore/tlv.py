"""BER-TLV as cards use it (ISO/IEC 7816-4 annex E): bounded, and total, so that bad bytes give FormatError only."""

from collections.abc import Iterable
from dataclasses import dataclass

from cardcore.errors import FormatError

MAX_OBJECTS = 256
MAX_LENGTH = 0xFFFF
_LENGTH_BYTES = {0x81: 1, 0x82: 2}


@dataclass(frozen=True, slots=True)
class Tlv:
    """One data object: tag (1 or 2 bytes as a number) and value."""

    tag: int
    value: bytes

    @property
    def children(self) -> tuple["Tlv", ...]:
        """The objects inside a constructed one; raises FormatError when the value is no TLV."""
        return parse(self.value)


def parse(raw: bytes) -> tuple[Tlv, ...]:
    """The data objects of one level, filler bytes 00 and FF between them skipped; raises FormatError."""
    objects: list[Tlv] = []
    at = 0
    while at < len(raw):
        if raw[at] in (0x00, 0xFF):
            at += 1
            continue
        if len(objects) == MAX_OBJECTS:
            raise FormatError(f"more than {MAX_OBJECTS} data objects in one value")
        tag, at = _tag(raw, at)
        length, at = _length(raw, at)
        if at + length > len(raw):
            raise FormatError(f"tag {tag:02X} says {length} bytes, but {len(raw) - at} are left")
        objects.append(Tlv(tag, raw[at : at + length]))
        at += length
    return tuple(objects)


def find(raw: bytes, *path: int) -> bytes | None:
    """Value of the first object reached by the tags of `path`, None when there is none; raises FormatError."""
    value = raw
    for tag in path:
        found = next((item.value for item in parse(value) if item.tag == tag), None)
        if found is None:
            return None
        value = found
    return value


def build(tag: int, value: bytes) -> bytes:
    """One data object in the shortest length form; raises FormatError when tag or length do not fit."""
    head = _tag_bytes(tag)
    size = len(value)
    if size > MAX_LENGTH:
        raise FormatError(f"a value has at most {MAX_LENGTH} bytes, not {size}")
    if size < 0x80:
        return head + bytes((size,)) + value
    if size < 0x100:
        return head + bytes((0x81, size)) + value
    return head + b"\x82" + size.to_bytes(2, "big") + value


def build_all(objects: Iterable[Tlv]) -> bytes:
    """Data objects one after the other."""
    return b"".join(build(item.tag, item.value) for item in objects)


def _tag_bytes(tag: int) -> bytes:
    one_byte = 0 < tag < 0xFF and tag & 0x1F != 0x1F
    two_bytes = 0 < tag >> 8 < 0xFF and tag >> 8 & 0x1F == 0x1F and not tag & 0x80
    if not one_byte and not two_bytes:
        raise FormatError(f"{tag:#x} is no tag of one or two bytes")
    return tag.to_bytes(1 if one_byte else 2, "big")


def _tag(raw: bytes, at: int) -> tuple[int, int]:
    if raw[at] & 0x1F != 0x1F:
        return raw[at], at + 1
    if at + 1 >= len(raw):
        raise FormatError(f"the value ends inside tag {raw[at]:02X}")
    if raw[at + 1] & 0x80:
        raise FormatError(f"tag {raw[at : at + 2].hex()} has more than two bytes")
    return raw[at] << 8 | raw[at + 1], at + 2


def _length(raw: bytes, at: int) -> tuple[int, int]:
    if at >= len(raw):
        raise FormatError("the value ends before a length")
    first = raw[at]
    if first < 0x80:
        return first, at + 1
    width = _LENGTH_BYTES.get(first)
    if width is None or at + 1 + width > len(raw):
        raise FormatError(f"length {first:02X} is not of the short form, 81 or 82, or is cut off")
    return int.from_bytes(raw[at + 1 : at + 1 + width], "big"), at + 1 + width
