"""The directory of applications (EF 0001): `61 {4F AID, 50 label, 87 priority}` (JR/T 0025)."""

from dataclasses import dataclass

from cardcore.card_files.fields import unsigned
from cardcore.errors import FormatError
from cardcore.tlv import Tlv, build_all, find, parse

_ENTRY, _TEMPLATE, _AID, _LABEL, _PRIORITY = 0x61, 0x70, 0x4F, 0x50, 0x87


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One application that a card announces; labels are ASCII, priority 0 where there is none."""

    aid: bytes
    label: str
    priority: int = 0

    def encode(self) -> bytes:
        try:
            label = self.label.encode("ascii")
        except UnicodeEncodeError as error:
            raise FormatError(f"a label of the directory is ASCII, not {self.label!r}") from error
        entry = (Tlv(_AID, self.aid), Tlv(_LABEL, label), Tlv(_PRIORITY, unsigned(self.priority, 1)))
        return build_all((Tlv(_ENTRY, build_all(entry)),))

    @classmethod
    def decode(cls, raw: bytes) -> "DirectoryEntry":
        """Read one record, also one inside a template 70 as some city cards have it; raises FormatError."""
        objects = parse(raw)
        inside = find(raw, _TEMPLATE) if objects and objects[0].tag == _TEMPLATE else raw
        aid = find(inside or b"", _ENTRY, _AID)
        if not aid:
            raise FormatError(f"{raw.hex()} announces no application")
        label = find(inside or b"", _ENTRY, _LABEL) or b""
        priority = find(inside or b"", _ENTRY, _PRIORITY) or b"\0"
        if not label.isascii() or len(priority) != 1:
            raise FormatError(f"{raw.hex()} has a label that is not ASCII, or a priority of several bytes")
        return cls(aid, label.decode("ascii"), priority[0])


def directory_entry(aid: bytes, label: str, priority: int) -> bytes:
    """One record of the DIR file."""
    return DirectoryEntry(aid, label, priority).encode()
