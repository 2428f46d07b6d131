"""Creating files and writing keys, FMCOS style (docs/card.md).

A right is a byte XY: the security state must be at least Y and at most X; F0 is always, EF never.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Silent, number
from cardcore.errors import FormatError

_MAC_PROTECTED = 0x80
_ENCIPHERED = 0xC0
_UNUSED = 0xFF
KEY_FILE = 0x0000
DEPOSIT_FILE = 0x0001
PURSE_FILE = 0x0002


class FileKind(IntEnum):
    """Kinds of elementary files as CREATE FILE names them."""

    BINARY = 0x28
    FIXED = 0x2A
    VARIABLE = 0x2C
    CYCLIC = 0x2E


@dataclass(frozen=True, slots=True)
class CreateDf(Silent):
    """CREATE FILE of a directory; `shown_sfi` names the EF whose content SELECT answers (bit 80: an application)."""

    fid: int
    size: int
    create_right: int
    erase_right: int
    df_name: bytes
    shown_sfi: int = 0x95
    name: ClassVar[str] = "CREATE FILE"

    def apdu(self) -> CommandApdu:
        if not 5 <= len(self.df_name) <= 16:
            raise FormatError(f"a DF name has 5 to 16 bytes, not {len(self.df_name)}")
        content = bytes(
            (0x38, *number(self.size, 2, "size"), self.create_right, self.erase_right, self.shown_sfi, 0xFF, 0xFF)
        )
        return _create(self.fid, content + self.df_name)


@dataclass(frozen=True, slots=True)
class CreateKeyFile(Silent):
    """CREATE FILE of the key file, the first file of its directory; `add_right` is the right to add keys."""

    size: int
    add_right: int
    df_sfi: int = 0x95
    name: ClassVar[str] = "CREATE FILE"

    def apdu(self) -> CommandApdu:
        size = number(self.size, 2, "size")
        return _create(KEY_FILE, bytes((0x3F, *size, self.df_sfi, self.add_right, _UNUSED, _UNUSED)))


@dataclass(frozen=True, slots=True)
class CreateFile(Silent):
    """CREATE FILE of an EF: `count` 0 and `length` bytes of a binary, else `count` records of `length` bytes.

    `protected` asks for the MAC of secure messaging in every write, `enciphered` also for encipherment, of reads too.
    """

    fid: int
    kind: FileKind
    length: int
    read_right: int
    write_right: int
    protected: bool
    count: int = 0
    enciphered: bool = False
    name: ClassVar[str] = "CREATE FILE"

    def apdu(self) -> CommandApdu:
        if self.enciphered and not self.protected:
            raise FormatError("an enciphered file is a protected one: its writes carry a MAC as well")
        kind = self.kind | (_ENCIPHERED if self.enciphered else _MAC_PROTECTED if self.protected else 0)
        if self.kind is FileKind.BINARY:
            size = number(self.length, 2, "size")
        else:
            size = number(self.count, 1, "number of records") + number(self.length, 1, "record length")
        return _create(self.fid, bytes((kind, *size, self.read_right, self.write_right, _UNUSED, _UNUSED)))


@dataclass(frozen=True, slots=True)
class CreatePurse(Silent):
    """CREATE FILE of a purse, empty, with its log in the EF of `log_sfi`: EF 0002, of a deposit EF 0001."""

    right: int
    log_sfi: int = 0x18
    fid: int = PURSE_FILE
    name: ClassVar[str] = "CREATE FILE"

    def apdu(self) -> CommandApdu:
        return _create(self.fid, bytes((0x2F, 0x02, 0x08, self.right, 0x00, _UNUSED, self.log_sfi)))


@dataclass(frozen=True, slots=True)
class WriteKey(Silent):
    """WRITE KEY as the authority made it: enciphered, with its MAC."""

    command: bytes
    name: ClassVar[str] = "WRITE KEY"

    def apdu(self) -> CommandApdu:
        return CommandApdu.decode(self.command)


@dataclass(frozen=True, slots=True)
class EraseDf(Silent):
    """ERASE DF: everything inside the selected directory is gone."""

    name: ClassVar[str] = "ERASE DF"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x0E, 0x00, 0x00, le=256)


def _create(fid: int, content: bytes) -> CommandApdu:
    high, low = number(fid, 2, "file identifier")
    return CommandApdu(0x80, 0xE0, high, low, content)
