"""The software PSAM: a validator's secure module with province roots (docs/card.md, "The PSAM")."""

import random
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

from simulators.card_behaviour import STANDARD, Behaviour
from simulators.chip import GENERAL_COMMANDS, OK, Chip, Command, Run
from simulators.cipher import CipherKey, StoredKey
from simulators.file_commands import FILE_COMMANDS
from simulators.file_system import LINE, BinaryFile, DedicatedFile, KeyRecord, Refused
from simulators.key_commands import KEY_COMMANDS
from simulators.nvm import Cell
from simulators.psam_ceilings import Ceilings

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

    def __init__(self, suite: str, rng: random.Random, behaviour: Behaviour = STANDARD) -> None:
        self.transaction = Cell(1)
        self.ceilings = Cell(Ceilings())
        self._derived: OrderedDict[tuple[StoredKey, bytes], StoredKey] = OrderedDict()
        self._slot = threading.Lock()
        super().__init__(suite, rng, behaviour)

    @classmethod
    def blank(cls, suite: str, *, rng: random.Random, behaviour: Behaviour = STANDARD) -> "SoftwarePsam":
        """A PSAM from the factory: one DF with the TEST transport key as 39.00. Raises KeyError for another suite."""
        return cls(suite, rng, behaviour)

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

    def derived(self, key: StoredKey, factors: bytes) -> StoredKey:
        """`key` diversified by each of the factors, 8 bytes each, the city's first, wherever it stands."""
        starts: Iterable[int] = range(0, len(factors), 8)
        if self.behaviour.psam_factor_order == "card-city":
            starts = reversed(range(0, len(factors), 8))
        for start in starts:
            key = self._once_derived(key, factors[start : start + 8])
        return key

    def _once_derived(self, key: StoredKey, factor: bytes) -> StoredKey:
        """By one factor, from a bounded memory of the last ones."""
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
    """INIT SAM FOR PURCHASE: transaction number ‖ MAC1; the number is stored before it is told, and the ceilings.

    6985 at a ceiling, 6983 after too many wrong MAC2s in a row: both until SET CEILINGS.
    """
    psam.purchase, data = None, command.data
    if command.p1 or command.p2:
        raise Refused(0x6A86)
    levels, rest = divmod(len(data) - 20, 8)
    if rest or not 1 <= levels <= 3 or len(psam.terminal_number) != 6:
        raise Refused(0x6985 if not rest and 1 <= levels <= 3 else 0x6700)
    number = psam.transaction.value
    if number > LAST_TRANSACTION:
        raise Refused(0x9402)
    key = psam.derived(_purchase_key(psam, levels, data[18], data[19]).secret, data[20:])
    ceilings, amount_fen = psam.ceilings.value, int.from_bytes(data[6:10], "big")
    if not ceilings.tries:
        raise Refused(0x6983)
    if not ceilings.admit(amount_fen):
        raise Refused(0x6985)
    told = number.to_bytes(4, "big")
    session = key.session(data[:6] + told[2:])
    mac1 = session.mac(data[6:11] + psam.terminal_number + data[11:18])[:4]
    used = ceilings.after(amount_fen)
    counted = () if used is ceilings else (psam.ceilings.becomes(used),)
    psam.memory.commit(psam.transaction.becomes(number + 1), *counted)
    psam.purchase = session, data[6:10]
    return told + mac1 + OK


def _purchase_key(psam: SoftwarePsam, levels: int, version: int, algorithm: int) -> KeyRecord:
    for record in psam.df.keys.value.values():
        if (record.kind, record.version, record.algorithm) == (levels << 5 | PURCHASE, version, algorithm):
            psam.require(record.use)
            return record
    raise Refused(0x9403)


def credit_for_purchase(psam: SoftwarePsam, command: Command) -> bytes:
    """CREDIT SAM FOR PURCHASE: checks the card's MAC2 once; 6901 without an 8070 before it.

    9302 for a wrong MAC2 after a right one, 63Cx for the next wrong ones: x tries are left. 63C0 locks purchases.
    """
    if command.p1 or command.p2:
        raise Refused(0x6A86)
    if len(command.data) != 4:
        raise Refused(0x6700)
    purchase, psam.purchase = psam.purchase, None
    if purchase is None:
        raise Refused(0x6901)
    session, amount = purchase
    before = psam.ceilings.value
    good = session.mac(amount)[:4] == command.data
    after = before.restored() if good else before.missed()
    if after is not before:
        psam.memory.commit(psam.ceilings.becomes(after))
    if good:
        return OK
    raise Refused(0x9302 if before is before.restored() else 0x63C0 | after.tries)


def set_ceilings(psam: SoftwarePsam, command: Command) -> bytes:
    """SET CEILINGS: count(4) ‖ amount(4) ‖ MAC under 36.00, after external authentication with 39.00.

    Both uses start anew and the tries for a MAC2 are given back.
    """
    if command.p1 or command.p2:
        raise Refused(0x6A86)
    if not psam.control_proved:
        raise Refused(0x6982)
    if command.head[0] != 0x84:
        raise Refused(0x6987)
    if len(command.data) != 12:
        raise Refused(0x6700)
    body, _, _ = psam.protected_body(command, psam.df, LINE)
    ceilings = Ceilings(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big"))
    psam.memory.commit(psam.ceilings.becomes(ceilings))
    return OK


def init_for_descrypt(psam: SoftwarePsam, command: Command) -> bytes:
    """INIT FOR DESCRYPT: P1 usage, P2 key id, a factor per level; the derived key serves CRYPT until the next reset."""
    record = psam.key(command.p1, command.p2, missing=0x9403)
    if command.p1 & 0x1F != RECORD_MAC:
        raise Refused(0x6985)
    psam.require(record.use)
    if len(command.data) != 8 * (command.p1 >> 5):
        raise Refused(0x6700)
    psam.record_key = psam.derived(record.secret, command.data)
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
    b"\x80\xe8": set_ceilings,
    b"\x84\xe8": set_ceilings,
    b"\x80\x1a": init_for_descrypt,
    b"\x80\xfa": crypt,
}
SoftwarePsam.commands = GENERAL_COMMANDS | FILE_COMMANDS | KEY_COMMANDS | PSAM_COMMANDS
