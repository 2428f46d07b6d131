"""What a card and a PSAM have in common: power, command dispatch, selection, security states, secure messaging.

Sources: ISO/IEC 7816-4, JR/T 0025, docs/card.md. A chip answers in one go; `t0` adds the manners of protocol T=0.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from simulators.card_behaviour import STANDARD, Behaviour
from simulators.cipher import SUITES, StoredKey, stored_key
from simulators.file_system import (
    ALWAYS,
    CONTACTLESS_NAME,
    CONTROL,
    LINE,
    MF_ID,
    MF_NAME,
    DedicatedFile,
    File,
    KeyFile,
    KeyRecord,
    Lock,
    Refused,
    Tries,
)
from simulators.nvm import CardTorn, Cell, Memory, TearPoint

OK = b"\x90\x00"
ATR_T0 = bytes.fromhex("3B6800000073C84013009000")
TEST_TRANSPORT_KEY = bytes.fromhex("54455354205452414E53504F52542031")  # a TEST key: "TEST TRANSPORT 1"


class Command(NamedTuple):
    """A command APDU taken apart. `head` is CLA INS P1 P2 Lc; `le` is 1..256, None when absent."""

    head: bytes
    p1: int
    p2: int
    data: bytes
    le: int | None


Run = Callable[[Any, Command], bytes]  # the first argument is the chip that has the command in its table


class Chip:
    """A chip with a file tree. Picklable; what a loss of power forgets is set up anew by `power_on`."""

    commands: ClassVar[Mapping[bytes, Run]]
    calculating_kinds: ClassVar[frozenset[int]]  # key types whose content carries a version and an algorithm

    def __init__(self, suite: str, rng: random.Random, behaviour: Behaviour = STANDARD) -> None:
        self.rng, self.behaviour = rng, behaviour
        self.memory = Memory()
        self.mf = DedicatedFile(MF_ID, MF_NAME, ALWAYS, ALWAYS, 0x01, None)
        self.mf.files.value = {0x0000: KeyFile(0x0000, 0x3F, 0xEF, ALWAYS)}
        transport = self.stored_key(SUITES[suite], TEST_TRANSPORT_KEY)
        control = KeyRecord(CONTROL, ALWAYS, ALWAYS, transport, next_state=0x0A, tries=Tries.of(0xFF))
        self.mf.keys.value = {(CONTROL, 0): control}
        self.suite = suite
        self.blocked = Cell(False)
        self.powered = False
        self._forget()

    def _forget(self) -> None:
        self.turn = 0
        self.mf_state = 0
        self.enter(self.mf)

    def enter(self, df: DedicatedFile) -> None:
        """Make `df` current: security state and PIN start anew; a challenge or an open transaction is gone."""
        self.df = df
        self.ef: File | None = None
        self.state = 0
        self.pin_verified = False
        self.control_proved = False
        self._challenge = b""
        self._challenge_turn = -1

    def power_on(self) -> bytes:
        """Cold or warm reset; the answer to reset (protocol T=0). Finishes what a torn commit had decided; b"" when the
        power goes in the middle of that.
        """
        self.powered = False
        try:
            self.memory.recover()
        except CardTorn:
            return b""
        self._forget()
        self.powered = True
        return ATR_T0

    def power_off(self) -> None:
        """Take the power away; until `power_on` every command is answered by nothing."""
        self.powered = False
        self._forget()

    def tear_next(self, point: TearPoint | None) -> None:
        """Lose the power at this point of the next command that changes the memory; None takes that back."""
        self.memory.tear_next(point)

    def cut_after(self, writes: int | None) -> None:
        """Lose the power once so many more single writes to the memory are done (`nvm`); None takes that back."""
        self.memory.cut_after(writes)

    def stored_key(self, algorithm: int, value: bytes) -> StoredKey:
        """A key as WRITE KEY brings it, 8 or 16 bytes; 6A80 when there is no such key."""
        found = stored_key(algorithm, value, complement_sessions=self.behaviour.sm4_session_key == "complement")
        if found is None:
            raise Refused(0x6A80)
        return found

    def transmit(self, apdu: bytes) -> bytes:
        """The answer with its status word; b"" from a chip that has no power, or lost it during this command."""
        if not self.powered:
            return b""
        self.turn += 1
        try:
            return self._run(apdu)
        except Refused as refused:
            return refused.answer
        except CardTorn:
            self.power_off()
            return b""

    def _run(self, apdu: bytes) -> bytes:
        length = len(apdu)
        if length < 4:
            raise Refused(0x6700)
        name = apdu[:2]
        run = self.commands.get(name)
        if self.blocked.value:
            raise Refused(0x6A81)
        if run is None:
            raise Refused(0x6D00 if name[0] in (0x00, 0x04, 0x80, 0x84) else 0x6E00)
        lock = self.df.lock.value
        if lock is not Lock.OPEN and name not in _EVEN_IF_BLOCKED:
            raise Refused(0x6A81 if lock is Lock.BLOCKED else 0x9303)
        if length <= 5:
            return run(self, Command(apdu, apdu[2], apdu[3], b"", None if length == 4 else apdu[4] or 256))
        end = 5 + apdu[4]
        if length == end and apdu[4]:
            le = None
        elif length == end + 1:
            le = apdu[end] or 256
        else:
            raise Refused(0x6700)
        return run(self, Command(apdu[:5], apdu[2], apdu[3], apdu[5:end], le))

    def allows(self, right: int, df: DedicatedFile | None = None) -> bool:
        """Right XY: Y ≤ state of `df`, by itself the current one, ≤ X; 0Y: the state of the MF is at least Y."""
        if right == ALWAYS:
            return True
        if right < 0x10:
            return self.mf_state >= right
        return right & 15 <= (self.mf_state if (df or self.df) is self.mf else self.state) <= right >> 4

    def require(self, right: int, df: DedicatedFile | None = None) -> None:
        """6982 unless the security state, of `df` where it is given, gives `right`."""
        if not self.allows(right, df):
            raise Refused(0x6982)

    def grant(self, next_state: int) -> None:
        """A key or PIN was proved: the security state of the current DF moves."""
        if self.df is self.mf:
            self.mf_state = next_state & 15
        else:
            self.state = next_state & 15

    def withdraw(self, next_state: int) -> None:
        """A PIN was missed: the state that a right one granted falls, one that a key granted stays."""
        if (self.mf_state if self.df is self.mf else self.state) == next_state & 15:
            self.grant(0)

    def take_challenge(self) -> bytes:
        """The challenge given out by the command just before; 6985 when there was none."""
        if self._challenge_turn != self.turn - 1:
            raise Refused(0x6985)
        return self._challenge

    def elementary(self, sfi: int) -> File:
        """The file of this SFI, which becomes current, or the current one for 0; 6A82."""
        file = self.df.elementary(sfi) if sfi else self.ef
        if file is None:
            raise Refused(0x6A82)
        self.ef = file
        return file

    def key(self, kind: int, number: int, missing: int = 0x6A88) -> KeyRecord:
        """A key of the current DF that may still be tried; `missing`, or 6983 after too many errors."""
        record = self.df.keys.value.get((kind, number))
        if record is None:
            raise Refused(missing)
        if record.tries is not None and not record.tries.left:
            raise Refused(0x6983)
        return record

    def protected_body(self, command: Command, owner: DedicatedFile, kind: int) -> tuple[bytes, KeyRecord, bytes]:
        """The data of a command that ends in a MAC under key `kind`.00 of `owner`, that key and the IV.

        6987 without a MAC, 6985 without a challenge, 6988 for a wrong MAC; too many in a row lock the key (6983), or,
        under the line protection key, the application for ever (9303).
        """
        record = owner.keys.value.get((kind, 0))
        if record is None:
            raise Refused(0x6A88)
        tries = record.tries
        if tries is not None and not tries.left:
            raise Refused(0x6983)
        if len(command.data) < 4:
            raise Refused(0x6987)
        iv = self.take_challenge()
        body = command.data[:-4]
        if record.secret.mac(command.head + body, iv)[:4] != command.data[-4:]:
            self._wrong_mac(owner, record)
        elif tries is not None and tries.left < tries.most:
            self.memory.commit(owner.with_key(kind, 0, replace(record, tries=tries.restored())))
        return body, record, iv

    def _wrong_mac(self, owner: DedicatedFile, record: KeyRecord) -> None:
        if record.tries is not None:
            tries = record.tries.missed()
            write = owner.with_key(record.kind, 0, replace(record, tries=tries))
            if record.kind == LINE and not tries.left:
                self.memory.commit(write, owner.lock.becomes(Lock.LOCKED))
                raise Refused(0x9303)
            self.memory.commit(write)
        raise Refused(0x6988)


def select(chip: Chip, command: Command) -> bytes:
    """SELECT by file identifier (P1 00, 01, 02) or by name (04) or its beginning. A blocked DF is selected too."""
    if command.p2:
        raise Refused(0x6A86)
    if command.p1 == 0x04:
        found: DedicatedFile | File | None = _named(chip.mf, command.data)
    elif command.p1 <= 0x02:
        if len(command.data) != 2:
            raise Refused(0x6700)
        found = _identified(chip, int.from_bytes(command.data, "big"))
    else:
        raise Refused(0x6A86)
    if isinstance(found, DedicatedFile):
        chip.enter(found)
        if found.lock.value is Lock.OPEN:
            return found.fci() + OK
        if chip.behaviour.blocked_select == "6a81":
            raise Refused(0x6A81)
        return found.fci() + b"\x62\x83"
    if found is None:
        raise Refused(0x6A82)
    if chip.df.lock.value is not Lock.OPEN:
        raise Refused(0x6A81)
    chip.ef = found
    return OK


def _named(mf: DedicatedFile, name: bytes) -> DedicatedFile | None:
    if not 5 <= len(name) <= 16:
        raise Refused(0x6700)
    if name in (mf.name, CONTACTLESS_NAME):
        return mf
    beginning = None
    for df in mf.applications():
        if df.name == name:
            return df
        if beginning is None and df.name.startswith(name):
            beginning = df
    return beginning


def _identified(chip: Chip, fid: int) -> DedicatedFile | File | None:
    if fid == MF_ID:
        return chip.mf
    if fid == chip.df.fid:
        return chip.df
    found = chip.df.files.value.get(fid)
    if found is None and isinstance(sibling := chip.mf.files.value.get(fid), DedicatedFile):
        return sibling
    return found


def get_challenge(chip: Chip, command: Command) -> bytes:
    """GET CHALLENGE: 4 or 8 random bytes, good for the next command only."""
    if command.p1 or command.p2:
        raise Refused(0x6A86)
    if command.data or command.le not in (4, 8):
        raise Refused(0x6700)
    chip._challenge = chip.rng.randbytes(command.le)
    chip._challenge_turn = chip.turn
    return chip._challenge + OK


GENERAL_COMMANDS: dict[bytes, Run] = {b"\x00\xa4": select, b"\x00\x84": get_challenge}
_EVEN_IF_BLOCKED = frozenset({b"\x00\xa4", b"\x00\x84", b"\x84\x18"})
