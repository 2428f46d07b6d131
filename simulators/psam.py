"""The software PSAM: a validator's secure module with province roots (docs/card.md, "The PSAM")."""

import random
import threading
from collections import OrderedDict
from typing import Any, ClassVar

from simulators.chip import GENERAL_COMMANDS, OK, Chip, Command, Run
from simulators.cipher import CipherKey, StoredKey
from simulators.file_commands import FILE_COMMANDS
from simulators.file_system import BinaryFile, DedicatedFile, KeyRecord, Refused
from simulators.key_commands import KEY_COMMANDS
from simulators.nvm import Cell

TERMINAL_NUMBER = 0x0016
PURCHASE, RECORD_MAC = 2, 6  # the low 5 bits of a usage; the upper 3 are the levels of derivation
LAST_TRANSACTION = 0xFFFFFFFF
REMEMBERED_KEYS = 2048


class SoftwarePsam(Chip):
    """A PSAM. Picklable; what it derived from its roots stays behind.

    Commands are taken one at a time, whatever threads share the slot; that 8072 follows its own 8070 is their care.
    """

    commands: ClassVar[dict[bytes, Run]]
    calculating_kinds = frozenset(levels << 5 | kind for levels in (1, 2, 3) for kind in (PURCHASE, RECORD_MAC))

    def __init__(self, suite: str, rng: random.Random) -> None:
        self.transaction = Cell(1)
        self._derived: OrderedDict[tuple[StoredKey, bytes], StoredKey] = OrderedDict()
        self._slot = threading.Lock()
        super().__init__(suite, rng)

    @classmethod
    def blank(cls, suite: str, *, rng: random.Random) -> "SoftwarePsam":
        """A PSAM from the factory: one DF with the TEST transport key as 39.00. Raises KeyError for another suite."""
        return cls(suite, rng)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_slot": None, "_derived": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_slot": threading.Lock()}

    def enter(self, df: DedicatedFile) -> None:
        super().enter(df)
        self.purchase: tuple[CipherKey, bytes] | None = None
        self.record_key: StoredKey | None = None

    def transmit(self, apdu: bytes) -> bytes:
        with self._slot:
            return super().transmit(apdu)

    @property
    def terminal_number(self) -> bytes:
        """6 bytes of EF 0016; b"" before personalisation."""
        file = self.mf.files.value.get(TERMINAL_NUMBER)
        return file.content.value[:6] if isinstance(file, BinaryFile) else b""

    @property
    def next_transaction(self) -> int:
        """The number that the next answered INIT SAM FOR PURCHASE will carry."""
        return self.transaction.value

    def derived(self, key: StoredKey, factor: bytes) -> StoredKey:
        """`key` diversified by `factor`, from a bounded memory of the last ones."""
        name = key, factor
        found = self._derived.get(name)
        if found is None:
            found = self._derived[name] = key.derive(factor)
            if len(self._derived) > REMEMBERED_KEYS:
                self._derived.popitem(last=False)
        else:
            self._derived.move_to_end(name)
        return found


def init_for_purchase(psam: SoftwarePsam, command: Command) -> bytes:
    """INIT SAM FOR PURCHASE: transaction number ‖ MAC1; the number is stored before it is told.

    The factors stand card first; derivation starts from the province, so it takes the last of them first.
    """
    data = command.data
    levels, rest = divmod(len(data) - 20, 8)
    if rest or not 1 <= levels <= 3 or len(psam.terminal_number) != 6:
        raise Refused(0x6985 if not rest and 1 <= levels <= 3 else 0x6700)
    number = psam.transaction.value
    if number > LAST_TRANSACTION:
        raise Refused(0x9402)
    key = _purchase_key(psam, levels, data[18], data[19]).secret
    for start in range(len(data) - 8, 12, -8):
        key = psam.derived(key, data[start : start + 8])
    told = number.to_bytes(4, "big")
    session = key.session(data[:6] + told[2:])
    mac1 = session.mac(data[6:11] + psam.terminal_number + data[11:18])[:4]
    psam.memory.commit(psam.transaction.becomes(number + 1))
    psam.purchase = session, data[6:10]
    return told + mac1 + OK


def _purchase_key(psam: SoftwarePsam, levels: int, version: int, algorithm: int) -> KeyRecord:
    for record in psam.df.keys.value.values():
        if (record.kind, record.version, record.algorithm) == (levels << 5 | PURCHASE, version, algorithm):
            psam.require(record.use)
            return record
    raise Refused(0x9403)


def credit_for_purchase(psam: SoftwarePsam, command: Command) -> bytes:
    """CREDIT SAM FOR PURCHASE: checks the card's MAC2 once; 6901 without an 8070 before it, 9302 for a wrong MAC."""
    if len(command.data) != 4:
        raise Refused(0x6700)
    purchase, psam.purchase = psam.purchase, None
    if purchase is None:
        raise Refused(0x6901)
    session, amount = purchase
    if session.mac(amount)[:4] != command.data:
        raise Refused(0x9302)
    return OK


def init_for_descrypt(psam: SoftwarePsam, command: Command) -> bytes:
    """INIT FOR DESCRYPT: P1 usage, P2 key id, a factor per level; the derived key serves CRYPT until the next reset."""
    record = psam.key(command.p1, command.p2, missing=0x9403)
    if command.p1 & 0x1F != RECORD_MAC:
        raise Refused(0x6985)
    psam.require(record.use)
    if len(command.data) != 8 * (command.p1 >> 5):
        raise Refused(0x6700)
    key = record.secret
    for start in range(len(command.data) - 8, -1, -8):
        key = psam.derived(key, command.data[start : start + 8])
    psam.record_key = key
    return OK


def crypt(psam: SoftwarePsam, command: Command) -> bytes:
    """CRYPT, mode 05: an 8-byte MAC in one block chain, the only thing a record key does."""
    if command.p1 != 0x05 or command.p2:
        raise Refused(0x6A86)
    if psam.record_key is None:
        raise Refused(0x6901)
    if not command.data:
        raise Refused(0x6700)
    return psam.record_key.mac(command.data)[:8] + OK


PSAM_COMMANDS: dict[bytes, Run] = {
    b"\x80\x70": init_for_purchase,
    b"\x80\x72": credit_for_purchase,
    b"\x80\x1a": init_for_descrypt,
    b"\x80\xfa": crypt,
}
SoftwarePsam.commands = GENERAL_COMMANDS | FILE_COMMANDS | KEY_COMMANDS | PSAM_COMMANDS
