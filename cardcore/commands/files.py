"""Selecting, reading and writing files (ISO/IEC 7816-4)."""

from dataclasses import dataclass
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, Silent, exactly, writable
from cardcore.errors import FormatError
from cardcore.tlv import find


@dataclass(frozen=True, slots=True)
class FileControl:
    """Answer of SELECT: DF name, and the live content of EF 0015 where the application shows it (tag 9F0C)."""

    name: bytes = b""
    common: bytes | None = None


@dataclass(frozen=True, slots=True)
class Select(Command[FileControl]):
    """SELECT by file identifier (2 bytes) or by DF name (5 to 16 bytes)."""

    target: bytes
    name: ClassVar[str] = "SELECT"

    def apdu(self) -> CommandApdu:
        if len(self.target) == 2:
            return CommandApdu(0x00, 0xA4, 0x00, 0x00, self.target, 256)
        if not 5 <= len(self.target) <= 16:
            raise FormatError(f"a file identifier has 2 bytes, a DF name 5 to 16, not {len(self.target)}")
        return CommandApdu(0x00, 0xA4, 0x04, 0x00, self.target, 256)

    def parse(self, answer: bytes) -> FileControl:
        if not answer:
            return FileControl()
        return FileControl(find(answer, 0x6F, 0x84) or b"", find(answer, 0x6F, 0xA5, 0x9F0C))


@dataclass(frozen=True, slots=True)
class ReadBinary(Command[bytes]):
    """READ BINARY of `length` bytes from `offset` of the EF with this SFI; the EF becomes current.

    Beside an SFI the offset is 0..255; with `sfi` None it is 0..32767 in the current EF.
    """

    sfi: int | None
    length: int
    offset: int = 0
    name: ClassVar[str] = "READ BINARY"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xB0, *_place(self.sfi, self.offset), le=self.length)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, self.length)


@dataclass(frozen=True, slots=True)
class UpdateBinary(Silent):
    """UPDATE BINARY at `offset` of the EF with this SFI, or of the current EF as `ReadBinary`."""

    sfi: int | None
    content: bytes
    offset: int = 0
    name: ClassVar[str] = "UPDATE BINARY"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xD6, *_place(self.sfi, self.offset), writable(self.content))


@dataclass(frozen=True, slots=True)
class ReadRecord(Command[bytes]):
    """READ RECORD by number, 1 the first or, in a cyclic file, the newest; length 256 takes what there is."""

    sfi: int
    record: int
    length: int = 256
    name: ClassVar[str] = "READ RECORD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xB2, self.record, _reference(self.sfi) | 0x04, le=self.length)

    def parse(self, answer: bytes) -> bytes:
        return answer if self.length == 256 else exactly(answer, self.length)


@dataclass(frozen=True, slots=True)
class ReadObject(Command[bytes]):
    """READ RECORD by identifier: the record of a variable TLV file that starts with this tag, whole."""

    sfi: int
    tag: int
    name: ClassVar[str] = "READ RECORD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xB2, self.tag, _reference(self.sfi), le=256)

    def parse(self, answer: bytes) -> bytes:
        if len(answer) < 2 or answer[0] != self.tag or answer[1] != len(answer) - 2:
            raise FormatError(f"no record of tag {self.tag:02X}")
        return answer


@dataclass(frozen=True, slots=True)
class UpdateRecord(Silent):
    """UPDATE RECORD by number."""

    sfi: int
    record: int
    content: bytes
    name: ClassVar[str] = "UPDATE RECORD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xDC, self.record, _reference(self.sfi) | 0x04, writable(self.content))


@dataclass(frozen=True, slots=True)
class AppendRecord(Silent):
    """APPEND RECORD: the newest record of a cyclic file, the last one of any other."""

    sfi: int
    content: bytes
    name: ClassVar[str] = "APPEND RECORD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xE2, 0x00, _reference(self.sfi), writable(self.content))


@dataclass(frozen=True, slots=True)
class GetResponse(Command[bytes]):
    """GET RESPONSE: the bytes that a 61xx answer announced (protocol T=0)."""

    length: int
    name: ClassVar[str] = "GET RESPONSE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0xC0, 0x00, 0x00, le=self.length)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, self.length)


def _short(sfi: int) -> int:
    if not 1 <= sfi <= 30:
        raise FormatError(f"a short file identifier is 1..30, not {sfi}")
    return sfi


def _reference(sfi: int) -> int:
    return _short(sfi) << 3


def _place(sfi: int | None, offset: int) -> tuple[int, int]:
    if sfi is None:
        if not 0 <= offset <= 0x7FFF:
            raise FormatError(f"an offset in the current file is 0..32767, not {offset}")
        return offset >> 8, offset & 0xFF
    if not 0 <= offset <= 0xFF:
        raise FormatError(f"an offset beside an SFI is 0..255, not {offset}")
    return 0x80 | _short(sfi), offset
