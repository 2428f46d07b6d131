"""The file tree of an FMCOS-style card: dedicated files, elementary files, keys, and the rights that guard them.

Shapes come from CREATE FILE and WRITE KEY (docs/card.md). All content sits in cells (`nvm.Cell`), so that a command
may change several files, counters and keys in one commit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from simulators.cipher import StoredKey
from simulators.nvm import Cell, Write

MF_ID, KEY_FILE_ID = 0x3F00, 0x0000
MF_NAME = b"1PAY.SYS.DDF01"
CONTACTLESS_NAME = b"2PAY.SYS.DDF01"
ALWAYS = 0xF0

CONTROL, LINE, PIN_UNBLOCK, PIN_RELOAD, PIN = 0x39, 0x36, 0x37, 0x38, 0x3A


class Refused(Exception):
    """A command ends with this status word and changes nothing."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status:04X}")
        self.answer = status.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Tries:
    """An error counter: attempts allowed in a row, attempts left."""

    most: int
    left: int

    @classmethod
    def of(cls, octet: int) -> "Tries | None":
        """High nibble most, low nibble left; a counter of at most 0 does not count."""
        return cls(octet >> 4, octet & 15) if octet >> 4 else None

    def missed(self) -> "Tries":
        return Tries(self.most, self.left - 1)

    def restored(self) -> "Tries":
        return Tries(self.most, self.most)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key in a key file. `use` and `change` are rights; `next_state` and `tries` exist where the type has them."""

    kind: int
    use: int
    change: int
    secret: StoredKey
    version: int = 0x01
    algorithm: int = 0x00
    next_state: int = 0
    tries: Tries | None = None


@dataclass(frozen=True, slots=True)
class PinRecord:
    """A PIN as written, 2 to 8 bytes; FF at its end is filling."""

    use: int
    next_state: int
    tries: Tries | None
    pin: bytes

    def matches(self, presented: bytes) -> bool:
        return presented.rstrip(b"\xff") == self.pin.rstrip(b"\xff")


class File:
    """An elementary file. The upper bits of its type ask for line protection: 80 a MAC, C0 encipherment and a MAC."""

    __slots__ = ("fid", "kind", "read_right", "write_right")

    def __init__(self, fid: int, kind: int, read_right: int, write_right: int) -> None:
        self.fid, self.kind, self.read_right, self.write_right = fid, kind, read_right, write_right

    @property
    def protected(self) -> bool:
        return bool(self.kind & 0x80)

    @property
    def enciphered(self) -> bool:
        return self.kind & 0xC0 == 0xC0


class KeyFile(File):
    """Where a dedicated file keeps its keys; it must come first. Its write right is the right to add keys."""

    __slots__ = ()


class BinaryFile(File):
    """A transparent file of fixed size, zeros at first."""

    __slots__ = ("content",)

    def __init__(self, fid: int, kind: int, read_right: int, write_right: int, size: int) -> None:
        super().__init__(fid, kind, read_right, write_right)
        self.content = Cell(bytes(size))


Records = tuple[bytes, ...]


class RecordFile(File):
    """Records in the order of their numbers: fixed (2A), variable TLV (2C) or cyclic (2E, number 1 is the newest)."""

    __slots__ = ("count", "length", "records")

    def __init__(self, fid: int, kind: int, read_right: int, write_right: int, count: int, length: int) -> None:
        super().__init__(fid, kind, read_right, write_right)
        self.count, self.length = count, length
        self.records: Cell[Records] = Cell(())

    @property
    def cyclic(self) -> bool:
        return self.kind & 0x3F == 0x2E

    @property
    def variable(self) -> bool:
        return self.kind & 0x3F == 0x2C

    def number(self, records: Records, p1: int, p2: int) -> int:
        """Index of the record that P1 and P2 name: a number (100), else (000) an identifier in a variable file, or 00,
        the newest of a cyclic file; 6A83.
        """
        if p2 & 7 == 4:
            if 1 <= p1 <= len(records):
                return p1 - 1
        elif p2 & 7 == 0 and self.cyclic and not p1 and records:
            return 0
        elif p2 & 7 == 0 and self.variable:
            for index, record in enumerate(records):
                if record[0] == p1:
                    return index
        raise Refused(0x6A83)

    def appended(self, records: Records, record: bytes) -> Records:
        """`records` with one more; 6A84 when a file that does not turn over is full, 6700 or 6A80 for a wrong shape."""
        self._check(record)
        if self.cyclic:
            return (record, *records[: self.count - 1])
        if len(records) >= self.count:
            raise Refused(0x6A84)
        return (*records, record)

    def updated(self, records: Records, p1: int, p2: int, record: bytes) -> Records:
        """`records` with the named one replaced. An unnamed cyclic record and an unknown identifier are appended."""
        if p2 & 7 == 0 and (self.cyclic or (self.variable and all(old[0] != p1 for old in records))):
            if self.variable and record[:1] != bytes([p1]):
                raise Refused(0x6A80)
            return self.appended(records, record)
        self._check(record)
        index = self.number(records, p1, p2)
        if self.variable and record[0] != records[index][0]:
            raise Refused(0x6A80)
        return (*records[:index], record, *records[index + 1 :])

    def _check(self, record: bytes) -> None:
        if self.variable:
            if len(record) < 2 or record[1] != len(record) - 2:
                raise Refused(0x6A80)
            if len(record) > self.length:
                raise Refused(0x6A84)
        elif len(record) != self.length:
            raise Refused(0x6700)


class Proof(NamedTuple):
    """What GET TRANSACTION PROOF tells of the last committed change of a purse."""

    transaction_type: int
    counter: int
    mac: bytes
    tac: bytes


class PurseCell(NamedTuple):
    """A purse: raw balance = value + allowance, both fen; the two counters; the last proof."""

    raw_fen: int = 0
    allowance_fen: int = 0
    online: int = 0
    offline: int = 0
    proof: Proof | None = None


class PurseFile(File):
    """A purse and the SFI of its log."""

    __slots__ = ("log_sfi", "purse")

    def __init__(self, fid: int, kind: int, right: int, log_sfi: int) -> None:
        super().__init__(fid, kind, right, right)
        self.log_sfi = log_sfi
        self.purse = Cell(PurseCell())


class Lock(Enum):
    """What APPLICATION BLOCK or too many wrong MACs did to an application."""

    OPEN = auto()
    BLOCKED = auto()
    LOCKED = auto()  # for ever


class DedicatedFile:
    """A DF. `info_sfi` has bit 80 in an application, and then names the file that its FCI shows."""

    __slots__ = ("create_right", "erase_right", "fid", "files", "info_sfi", "keys", "lock", "name", "parent", "pins")

    def __init__(
        self, fid: int, name: bytes, create_right: int, erase_right: int, info_sfi: int, parent: "DedicatedFile | None"
    ) -> None:
        self.fid, self.name, self.info_sfi, self.parent = fid, name, info_sfi, parent
        self.create_right, self.erase_right = Cell(create_right), Cell(erase_right)
        self.files: Cell[dict[int, File | DedicatedFile]] = Cell({})
        self.keys: Cell[dict[tuple[int, int], KeyRecord]] = Cell({})
        self.pins: Cell[dict[int, PinRecord]] = Cell({})
        self.lock = Cell(Lock.OPEN)

    @property
    def guard(self) -> "DedicatedFile":
        """Where 39.00 is that guards this one: here, or while there is none here in the nearest above; the MF's never
        goes."""
        df = self
        while (CONTROL, 0) not in df.keys.value and df.parent is not None:
            df = df.parent
        return df

    def applications(self) -> "Iterator[DedicatedFile]":
        """The dedicated files below, nearest first."""
        for file in self.files.value.values():
            if isinstance(file, DedicatedFile):
                yield file
                yield from file.applications()

    def elementary(self, sfi: int) -> File | None:
        """The file with this short identifier: 00xx before the others."""
        files = self.files.value
        found = files.get(sfi) if sfi else None
        if found is None:
            found = next((file for fid, file in files.items() if sfi and fid & 0x1F == sfi), None)
        return found if isinstance(found, File) else None

    def key_with(self, kind: int, algorithm: int) -> KeyRecord | None:
        """The first key of this type that calculates by this algorithm."""
        for (found, _), record in self.keys.value.items():
            if found == kind and record.secret.algorithm == algorithm:
                return record
        return None

    def with_key(self, kind: int, number: int, record: KeyRecord) -> Write:
        return self.keys.becomes({**self.keys.value, (kind, number): record})

    def with_pin(self, number: int, record: PinRecord) -> Write:
        return self.pins.becomes({**self.pins.value, number: record})

    def fci(self) -> bytes:
        """`6F {84 name, A5 {…}}`: the DIR of a DDF, or the live common file of an ADF if anyone may read it."""
        shown = b"" if self.info_sfi & 0x80 else bytes([0x88, 1, self.info_sfi])
        if self.info_sfi & 0x80 and isinstance(common := self.elementary(self.info_sfi & 0x1F), BinaryFile):
            content = common.content.value
            if common.read_right == ALWAYS and not common.enciphered and len(content) <= 0x40:
                shown = b"\x9f\x0c" + bytes([len(content)]) + content
        body = bytes([0x84, len(self.name)]) + self.name + bytes([0xA5, len(shown)]) + shown
        return bytes([0x6F, len(body)]) + body


def created(fid: int, data: bytes, parent: DedicatedFile) -> File | DedicatedFile:
    """The empty file that CREATE FILE describes; 6A80 when it describes none."""
    if data[0] == 0x38:
        if not 5 <= len(data) - 8 <= 16:
            raise Refused(0x6A80)
        return DedicatedFile(fid, data[8:], data[3], data[4], data[5], parent)
    kind, size, read_right, write_right = data[0], int.from_bytes(data[1:3], "big"), data[3], data[4]
    if kind == 0x3F:
        return KeyFile(fid, kind, 0xEF, write_right)
    if kind == 0x2F and len(data) >= 7:
        return PurseFile(fid, kind, read_right, data[6] & 0x1F)
    if kind & 0x3F == 0x28 and size:
        return BinaryFile(fid, kind, read_right, write_right, size)
    if kind & 0x3F in (0x2A, 0x2C, 0x2E) and data[1] and data[2]:
        return RecordFile(fid, kind, read_right, write_right, data[1], data[2])
    raise Refused(0x6A80)
