"""The personaliser: the key-dependent parts of making a card or a PSAM (docs/card.md).

A step takes some tens of microseconds: the keys that guard the chips at hand stay open, and the audit is committed
before a chip's first answer and when it is finished; the uses between are counted, and written before they are many
(`keys.uses`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock

from cardcore.authority import CardIdentity, KeyStep, OverdraftRequest, PsamIdentity, Under
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Sector, Suite
from cardcore.versions import Key, KeyVersions
from keys import allowances
from keys.engine.root import RootKey, card_key, of_purpose
from keys.engine.suites import SuiteKey
from keys.guarded import Guarded
from keys.purposes import AUTHORISING, CITY_CARD, MAKING, KeyId, KeyPurpose, KeyState, required_roots
from keys.state import StateFile

Identity = CardIdentity | PsamIdentity

PURPOSES = frozenset(KeyPurpose)
CARD_KEYS = {
    0x32: KeyPurpose.ACT,
    0x34: KeyPurpose.TAC,
    0x36: KeyPurpose.MAINTENANCE,
    0x37: KeyPurpose.PIN_UNBLOCK,
    0x38: KeyPurpose.PIN_RELOAD,
    0x39: KeyPurpose.CONTROL,
    0x3C: KeyPurpose.OVERDRAFT,
    0x3D: KeyPurpose.UNLOAD,
    0x3E: KeyPurpose.PURCHASE,
    0x3F: KeyPurpose.LOAD,
}
PIN = 0x3A
PSAM_KEYS = {
    0x26: KeyPurpose.RECORD,
    0x36: KeyPurpose.MAINTENANCE,
    0x39: KeyPurpose.CONTROL,
    0x42: KeyPurpose.PURCHASE,
    0x46: KeyPurpose.ENTRY,
}
# Roots that a PSAM gets as they are, because it derives every card's key itself.
PSAM_ROOTS = frozenset({KeyPurpose.PURCHASE, KeyPurpose.ENTRY})
# Keys 36..39 carry no version and no algorithm: they are of the chip's own suite, version 01.
UNVERSIONED = frozenset({KeyPurpose.MAINTENANCE, KeyPurpose.PIN_UNBLOCK, KeyPurpose.PIN_RELOAD, KeyPurpose.CONTROL})
# What carries its version into a chip, and answers or proves by it.
VERSIONED = PURPOSES - UNVERSIONED - {KeyPurpose.TRANSPORT, KeyPurpose.ACT}
PREFIX_BYTES = 5
CHALLENGE_BYTES = 4
MAC_BYTES = 4
# UPDATE BINARY, UPDATE RECORD, APPEND RECORD: what a personalisation writes into files, and nothing else.
FILE_COMMANDS = frozenset({0xD6, 0xDC, 0xE2})
_CHIPS = 64


class Personaliser(Guarded):
    """Implements `cardcore.authority.PersonalisationAuthority`; it can write keys and files, and cannot load or
    verify."""

    __slots__ = ("_guards", "_lock", "_roots", "_state")

    def __init__(self, roots: Iterable[RootKey], state: StateFile) -> None:
        self._roots = of_purpose(roots, PURPOSES, MAKING)
        self._state = state
        self._lock = Lock()
        # The open guard keys of the chips at hand, by chip and then by what they guard.
        self._guards: OrderedDict[Identity, dict[tuple[KeyPurpose, int], SuiteKey]] = OrderedDict()

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    def key_versions(self) -> KeyVersions:
        """The versions of keys that go into chips now, for their orders."""
        rows = {id: (_written_as(id), id.version) for id in self._roots if id.purpose in VERSIONED}
        states = {id: self._state_of(root) for id, root in self._roots.items()}
        active = {row for id, row in rows.items() if states[id] in AUTHORISING}
        rotated = {key for key, version in active if version != 1}
        return KeyVersions(
            frozenset(row for row in active if row[0] in rotated),
            frozenset(row for id, row in rows.items() if states[id] is KeyState.ROLLING_OUT),
            missing=self._missing({key for key, _ in active}, states),
        )

    def _missing(self, active: set[Key], states: Mapping[KeyId, KeyState]) -> frozenset[tuple[Key, str]]:
        """Every key, with its name, of which nothing could be written: none is active, and the first, which goes into
        chips where nothing was rotated, may not."""
        first = {id.name for id, state in states.items() if id.version == 1 and state in MAKING}
        keys = [(_written_as(id), id.name) for id in map(KeyId.parse, required_roots())]
        return frozenset((key, name) for key, name in keys if key not in active and name not in first)

    async def authenticate(self, identity: Identity, application: int, under: Under, challenge: bytes) -> bytes:
        """Data of EXTERNAL AUTHENTICATE: 8 bytes 3DES, 16 bytes SM4. Raises KeyUseError, FormatError; the chip is
        as it was."""
        _check_challenge(challenge)
        if under is Under.TRANSPORT and isinstance(identity, PsamIdentity):
            self._check_they_leave()
        await self._take_up(identity, f"authenticate {application} {under.value}")
        with self._lock:
            return self._guard(identity, under, application).authentication(challenge)

    async def write_key(self, identity: Identity, step: KeyStep, challenge: bytes) -> bytes:
        """The whole command `84 D4 p1 id Lc …`: enciphered content and MAC under the guarding 39.00. Raises
        KeyUseError, FormatError."""
        _check_challenge(challenge)
        _check_step(step)
        await self._take_up(identity, f"write {step.application}:{step.type:02X}.{step.id:02X} {step.suite.name}")
        with self._lock:
            content = step.prefix + self._material(identity, step) + step.suffix
            guard = self._guard(identity, step.under, step.guard)
            enciphered = guard.encipher(content)
            head = bytes((0x84, 0xD4, step.p1, step.id, len(enciphered) + MAC_BYTES))
            return head + enciphered + guard.secure_mac(challenge, head + enciphered)

    async def secure(self, identity: Identity, application: int, command: bytes, challenge: bytes) -> bytes:
        """The file command with CLA x4, Lc + 4 and a MAC by the application's key 36. Raises KeyUseError,
        FormatError."""
        _check_challenge(challenge)
        head, content = _file_command(command)
        await self._take_up(identity, f"secure {application}")
        with self._lock:
            guard = self._open(identity, KeyPurpose.MAINTENANCE, application)
            return head + content + guard.secure_mac(challenge, head + content)

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        """MAC2 (4 bytes) for UPDATE OVERDRAW LIMIT; the audit has a row for it. Raises RefusedError('bad-mac1'),
        KeyUseError, FormatError; then nothing was changed."""
        allowances.check(request)
        await self._take_up(request.identity, f"overdraft {request.purse}")
        root = self._root(KeyId(request.key_suite, KeyPurpose.OVERDRAFT, str(request.purse), request.key_version))
        mac2 = allowances.answer(root, request)
        said = allowances.told(request)
        if mac2 is None:
            row = ("allowance refused", subject(request.identity), f"bad-mac1, {said}")
            await asyncio.to_thread(self._state.record, [row])
            raise RefusedError(
                "bad-mac1",
                f"MAC1 of card {request.identity.card.hex()} is wrong; its allowance is unchanged, try again",
            )
        self._state.count(subject(request.identity), said, "allowance")
        return mac2

    async def finish(self, identity: Identity) -> None:
        """Everything of this chip is in the audit, on the disk, when this returns. Raises KeyUseError when it cannot be
        written down; the chip counts as begun then."""
        await asyncio.to_thread(self._state.record, ())
        with self._lock:
            self._guards.pop(identity, None)

    async def _take_up(self, identity: Identity, use: str) -> None:
        """Write down that a chip is taken up before the first answer for it; afterwards count, as long as what was
        counted can still be written down."""
        if identity not in self._guards:
            await asyncio.to_thread(self._state.record, [("personalise", subject(identity), "taken up")])
            with self._lock:
                self._guards.setdefault(identity, {})
                while len(self._guards) > _CHIPS:
                    self._guards.popitem(last=False)
        elif self._state.overdue():
            await asyncio.to_thread(self._state.record, ())
        self._state.count(subject(identity), use)

    def _check_they_leave(self) -> None:
        """A blank PSAM is not opened by a token that keeps what it is to get. Raises KeyUseError."""
        for id, root in self._roots.items():
            if id.purpose in PSAM_ROOTS and self._state_of(root) in MAKING:
                root.undiversified()

    def _guard(self, identity: Identity, under: Under, application: int) -> SuiteKey:
        """The 39.00 that protects a step: the factory's, or that of the chip's DF."""
        if under is Under.TRANSPORT:
            return self._open(identity, KeyPurpose.TRANSPORT, 0)
        return self._open(identity, KeyPurpose.CONTROL, application)

    def _open(self, identity: Identity, purpose: KeyPurpose, application: int) -> SuiteKey:
        kept = self._guards.get(identity, {})
        key = kept.get((purpose, application))
        if key is None:
            key = kept[purpose, application] = self._derive(identity, purpose, identity.suite, application)
        return key

    def _material(self, identity: Identity, step: KeyStep) -> bytes:
        """The key bytes of a step; a PIN step has none, its digits stand in the suffix."""
        types = CARD_KEYS if isinstance(identity, CardIdentity) else PSAM_KEYS
        purpose = types.get(step.type)
        if purpose is None:
            if step.type == PIN and isinstance(identity, CardIdentity):
                return b""
            raise KeyUseError(f"no key of type {step.type:02X} is written to {subject(identity)}; nothing was made")
        if purpose in UNVERSIONED:
            return self._derive(identity, purpose, identity.suite, step.application).reveal()
        version, algorithm = step.prefix[3], step.prefix[4]
        if algorithm != step.suite:
            raise KeyUseError(
                f"key {step.type:02X}.{step.id:02X} is announced with algorithm {algorithm:02X} "
                f"but is of {step.suite.name}; nothing was made, correct the profile"
            )
        return self._derive(identity, purpose, step.suite, step.application, step.sector, version).reveal()

    def _derive(
        self, identity: Identity, purpose: KeyPurpose, suite: Suite, application: int, sector: int = 0, version: int = 1
    ) -> SuiteKey:
        """A chip's key of a purpose: a card's by city and serial, a PSAM's own by its terminal number; transport
        keys, and the purchase and entry roots of PSAMs, as they are."""
        root = self._root(KeyId(suite, purpose, _scope(purpose, application, sector), version))
        if purpose is KeyPurpose.TRANSPORT:
            return root.undiversified()
        if isinstance(identity, CardIdentity):
            return card_key(root, identity.issuer, identity.card)
        if len(identity.terminal_number) != 6:
            raise FormatError("a PSAM has a terminal number of 6 bytes; nothing was made")
        return root.undiversified() if purpose in PSAM_ROOTS else root.psam(identity.terminal_number)

    def _root(self, id: KeyId) -> RootKey:
        root = self._roots.get(id)
        if root is None:
            raise KeyUseError(f"the store holds no active key {id}; nothing was made, hold its ceremony first")
        state = self._state_of(root)
        if state not in MAKING:
            raise KeyUseError(f"{id} is {state} and goes into no chip; nothing was made, write the version in force")
        return root

    def _state_of(self, root: RootKey) -> KeyState:
        return root.state


def _scope(purpose: KeyPurpose, application: int, sector: int) -> str:
    match purpose:
        case KeyPurpose.TRANSPORT | KeyPurpose.RECORD | KeyPurpose.ENTRY:
            return ""
        case KeyPurpose.PURCHASE if str(application) != CITY_CARD:
            try:
                return Sector(sector).label
            except ValueError as error:
                raise FormatError(f"a purchase key is of a sector 1..5, not {sector}; correct the profile") from error
        case _:
            return str(application)


def _written_as(id: KeyId) -> Key:
    """How a script names the key of a root: its type, and where a card has it."""
    kind = next(kind for kind, purpose in (CARD_KEYS | PSAM_KEYS).items() if purpose is id.purpose)
    sectors = {sector.label: int(sector) for sector in Sector}
    return id.suite, kind, sectors.get(id.scope) or int(id.scope or 0)


def subject(identity: Identity) -> str:
    """Which chip, for the audit and for people."""
    if isinstance(identity, CardIdentity):
        return f"card {identity.card.hex()}"
    return f"PSAM {identity.terminal_number.hex()}"


def _check_challenge(challenge: bytes) -> None:
    if len(challenge) != CHALLENGE_BYTES:
        raise FormatError(f"a card's challenge has {CHALLENGE_BYTES} bytes, not {len(challenge)}; nothing was made")


def _check_step(step: KeyStep) -> None:
    """A step has the exact form of WRITE KEY, so that it can never be bent into an encipherment of chosen text."""
    pin = step.type == PIN
    if len(step.prefix) != PREFIX_BYTES or step.prefix[0] != step.type or step.p1 not in (0x01, step.type):
        raise FormatError(
            f"step {step.type:02X}.{step.id:02X} is no WRITE KEY: 5 bytes stand before the key, the first its type, "
            "and P1 is 01 or the type; nothing was made, correct the profile"
        )
    if not (2 <= len(step.suffix) <= 8 if pin else not step.suffix):
        raise FormatError("only a PIN follows the head of a key step, and it has 2 to 8 bytes; nothing was made")


def _file_command(command: bytes) -> tuple[bytes, bytes]:
    """Header with CLA x4 and the new Lc, and the data; raises FormatError on anything but a file command with data."""
    if len(command) < 6 or len(command) != 5 + command[4] or command[4] > 255 - MAC_BYTES:
        raise FormatError(
            "a command to be secured is CLA INS P1 P2 Lc data, with 1 to 251 bytes of data; nothing was made"
        )
    if command[1] not in FILE_COMMANDS:
        raise KeyUseError(
            f"personalisation secures no command INS {command[1]:02X}, only writes to files; nothing was made"
        )
    return bytes((command[0] | 0x04, *command[1:4], command[4] + MAC_BYTES)), command[5:]
