"""What needs a key, as questions that a holder of keys answers (`keys` implements them; a far counter asks over HTTP).

`readers` holds no key: it sends the card what these calls return.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cardcore.record import Suite
from cardcore.switches import OverdraftTacKey, Sm4SessionKey
from cardcore.versions import KeyVersions


@dataclass(frozen=True, slots=True)
class CardIdentity:
    """Whose keys are meant: issuer (4 bytes), application serial (10 bytes), and the suite of keys 36 to 39."""

    issuer: bytes
    card: bytes
    suite: Suite


@dataclass(frozen=True, slots=True)
class PsamIdentity:
    """A PSAM by its terminal number (6 bytes) and the suite of its control key."""

    terminal_number: bytes
    suite: Suite


class Under(Enum):
    """The control key that protects a step: the factory's transport key, or the DF's own 39.00."""

    TRANSPORT = "transport"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class KeyStep:
    """One WRITE KEY: where it goes and what surrounds the key bytes that only the authority knows (docs/card.md).

    `application` is 0 for the MF, else 1..5; `prefix` and `suffix` are the content before and after the key;
    `sector` says which purchase root (type 3E); `p1` is 01 to add a key, or the type to replace one.
    A PIN (type 3A) is no key of the authority: its digits are the `suffix`, and nothing stands between.
    For a PSAM `type` is the usage byte (42 purchase, 26 record MAC, 46 entry MAC) and `application` is 0.
    """

    application: int
    type: int
    id: int
    suite: Suite
    under: Under
    prefix: bytes
    suffix: bytes = field(default=b"", repr=False)
    sector: int = 0
    p1: int = 0x01
    # Which DF's 39.00 protects the step when `under` is CONTROL; the same as `application` save for a key that
    # replaces it, and the first of an application, which the MF's guards.
    guard: int = 0


@dataclass(frozen=True, slots=True)
class MoneyRequest:
    """What a card has opened with INITIALIZE and MAC1; amounts in fen, balance as the card answered.

    `session_key` is the rule of its profile (docs/card.md, "Switches"), `operator` the party whose terminal asks. The
    desk takes both from its registry; 0 is whoever has none.
    """

    identity: CardIdentity
    terminal: int
    terminal_number: bytes
    purse: int
    generation: int
    key_suite: Suite
    key_version: int
    key_index: int
    amount_fen: int
    channel: str
    raw_balance_fen: int
    counter: int
    random: bytes
    mac1: bytes
    session_key: Sm4SessionKey = Sm4SessionKey.PADDED
    operator: int = 0


@dataclass(frozen=True, slots=True)
class LoadRequest(MoneyRequest):
    """A load that the card has opened with INITIALIZE FOR LOAD."""


@dataclass(frozen=True, slots=True)
class UnloadRequest(MoneyRequest):
    """An unload that the card has opened with INITIALIZE FOR UNLOAD; MAC1 covers type 03."""


@dataclass(frozen=True, slots=True)
class UnloadGrant:
    """Permission for one unload: date, time (BCD) and MAC2 (4 bytes) for DEBIT FOR UNLOAD; `unload_id` names it."""

    unload_id: str
    date: bytes
    time: bytes
    mac2: bytes


@dataclass(frozen=True, slots=True)
class LoadGrant:
    """Permission for one load: date, time (BCD) and MAC2 (4 bytes) for CREDIT FOR LOAD; `load_id` names it."""

    load_id: str
    date: bytes
    time: bytes
    mac2: bytes


@dataclass(frozen=True, slots=True)
class OverdraftRequest:
    """An allowance change that the card has opened with INITIALIZE FOR UPDATE, which answered `key_version`;
    `session_key` as for a load."""

    identity: CardIdentity
    terminal_number: bytes
    purse: int
    key_suite: Suite
    limit_fen: int
    old_limit_fen: int
    raw_balance_fen: int
    counter: int
    random: bytes
    mac1: bytes
    date: bytes
    time: bytes
    session_key: Sm4SessionKey = Sm4SessionKey.PADDED
    key_version: int = 1


@dataclass(frozen=True, slots=True)
class OverdraftProof:
    """What the card answered to UPDATE OVERDRAFT LIMIT: its TAC, and the key that the profile says it is made with."""

    request: OverdraftRequest
    tac: bytes
    tac_key: OverdraftTacKey = OverdraftTacKey.FOLDED


@dataclass(frozen=True, slots=True)
class ProtectRequest:
    """A file command to be put under the line key (36) of an application: header and, for a write, Lc and data.

    `challenge` is the card's, had directly before; `enciphered` for a file that is.
    """

    identity: CardIdentity | PsamIdentity
    application: int
    command: bytes
    challenge: bytes
    enciphered: bool = False


@dataclass(frozen=True, slots=True)
class ProtectedAnswer:
    """What the card answered to a protected read: `body` as sent, its MAC (4 bytes), the challenge of the command."""

    identity: CardIdentity | PsamIdentity
    application: int
    body: bytes
    mac: bytes
    challenge: bytes
    enciphered: bool = False


class BlockAct(Enum):
    """What is done to a card or an application under secure messaging; the command whose header is covered."""

    CARD_BLOCK = "84160000"
    APPLICATION_BLOCK = "841e0000"
    APPLICATION_BLOCK_FOR_EVER = "841e0001"
    APPLICATION_UNBLOCK = "84180000"


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A card (application 0) or application to be blocked or unblocked, with the card's challenge."""

    identity: CardIdentity
    application: int
    act: BlockAct
    challenge: bytes


@dataclass(frozen=True, slots=True)
class PinReloadRequest:
    """A new PIN for an application without the old one, under key 38: BCD, 2 to 6 bytes, never shown."""

    identity: CardIdentity
    application: int
    pin: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PinUnblockRequest:
    """A blocked PIN to be unblocked and set, under key 37: `command` is the plain PIN UNBLOCK, the new PIN its data."""

    identity: CardIdentity
    application: int
    command: bytes = field(repr=False)
    challenge: bytes


@dataclass(frozen=True, slots=True)
class ActRequest:
    """An online act to be opened (rule 6): amount and its split by payer in fen."""

    identity: CardIdentity
    terminal: int
    terminal_number: bytes
    sector: int
    amount_fen: int
    transaction_type: int
    split: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ActGrant:
    """An open act, good for 120 s and one use: the card authenticates `digest` (16 bytes)."""

    act_id: bytes
    challenge: bytes
    date: bytes
    time: bytes
    digest: bytes


class PersonalisationAuthority(Protocol):
    """Makes the key-dependent parts of a personalisation; every call is one audited use of a key."""

    def key_versions(self) -> KeyVersions:
        """The versions of keys that go into chips now, for their orders."""
        ...

    async def authenticate(
        self, identity: CardIdentity | PsamIdentity, application: int, under: Under, challenge: bytes
    ) -> bytes:
        """Data of EXTERNAL AUTHENTICATE (8 bytes 3DES, 16 bytes SM4) for the 4-byte challenge."""
        ...

    async def write_key(self, identity: CardIdentity | PsamIdentity, step: KeyStep, challenge: bytes) -> bytes:
        """The whole WRITE KEY command, enciphered and MACed."""
        ...

    async def secure(
        self, identity: CardIdentity | PsamIdentity, application: int, command: bytes, challenge: bytes
    ) -> bytes:
        """The command (header, Lc, data) with CLA x4 and a MAC by the application's line-protection key 36."""
        ...

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        """MAC2 (4 bytes) for UPDATE OVERDRAW LIMIT, after checking MAC1; raises RefusedError('bad-mac1')."""
        ...

    async def finish(self, identity: CardIdentity | PsamIdentity) -> None:
        """The chip is made: once this returns, every use of a key for it is in the audit."""
        ...


class LoadAuthority(Protocol):
    """Answers a load; the quota is spent and the authorisation stored before MAC2 leaves (rule 17)."""

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """Raises RefusedError with a code of docs/wire.md.

        A cancelled call may have authorised the load, which is then in doubt.
        """
        ...


class UnloadAuthority(Protocol):
    """Answers an unload: MAC1 is checked before MAC2 leaves, MAC3 before any money does (rule 18)."""

    async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
        """Raises RefusedError with a code of docs/wire.md ('bad-mac1').

        Asking again for the same opening gets the same grant. A cancelled call may have authorised the unload, which is
        then in doubt.
        """
        ...

    async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        """Check MAC3 (4 bytes) by the session key of the request; raises RefusedError('bad-mac3'): pay nothing."""
        ...


class UpkeepAuthority(Protocol):
    """The upkeep of an issued card at a counter; every call is one audited use of a key of the card."""

    async def protect(self, request: ProtectRequest) -> bytes:
        """The whole command under secure messaging, without Le; only file commands are protected so."""
        ...

    async def reveal(self, answer: ProtectedAnswer) -> bytes:
        """The content of a protected read, after its MAC was checked; raises RefusedError('bad-mac')."""
        ...

    async def block(self, request: BlockRequest) -> bytes:
        """MAC (4 bytes) by key 36 over the header of the act and Lc = 04."""
        ...

    async def reload_pin(self, request: PinReloadRequest) -> bytes:
        """MAC (4 bytes) over the new PIN alone, by the halves of key 38 XORed (3DES) or the whole key (SM4), IV 0."""
        ...

    async def unblock_pin(self, request: PinUnblockRequest) -> bytes:
        """The whole PIN UNBLOCK: the PIN enciphered, and the MAC, both under key 37."""
        ...

    async def confirm_overdraft(self, proof: OverdraftProof) -> None:
        """Check the TAC of an allowance by the TAC key of the purse; raises RefusedError('bad-tac')."""
        ...


class ActAuthority(Protocol):
    """Opens online acts of social security and medical."""

    async def open_act(self, request: ActRequest) -> ActGrant:
        """Raises RefusedError with a code of docs/wire.md; a cancelled call leaves an act that expires by itself."""
        ...


class CardAuthority(PersonalisationAuthority, LoadAuthority, UnloadAuthority, UpkeepAuthority, Protocol):
    """Everything that the reader side asks of a holder of keys."""
