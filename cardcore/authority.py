"""What needs a key, as questions that a holder of keys answers (`keys` implements them; a far counter asks over HTTP).

`readers` holds no key: it sends the card what these calls return.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from cardcore.record import Suite


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
    For a PSAM `type` is the usage byte (42 purchase, 26 record MAC) and `application` is 0.
    """

    application: int
    type: int
    id: int
    suite: Suite
    under: Under
    prefix: bytes
    suffix: bytes = b""
    sector: int = 0
    p1: int = 0x01
    # Which DF's 39.00 protects the step when `under` is CONTROL; the same as `application` save for a key that
    # replaces it.
    guard: int = 0


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A load that the card has opened with INITIALIZE FOR LOAD; amounts in fen, balance as the card answered."""

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


@dataclass(frozen=True, slots=True)
class LoadGrant:
    """Permission for one load: date, time (BCD) and MAC2 (4 bytes) for CREDIT FOR LOAD; `load_id` names it."""

    load_id: str
    date: bytes
    time: bytes
    mac2: bytes


@dataclass(frozen=True, slots=True)
class OverdraftRequest:
    """An allowance change that the card has opened with INITIALIZE FOR UPDATE."""

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


class LoadAuthority(Protocol):
    """Answers a load; the quota is spent and the authorisation stored before MAC2 leaves (rule 17)."""

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """Raises RefusedError with a code of docs/wire.md.

        A cancelled call may have authorised the load, which is then in doubt.
        """
        ...


class ActAuthority(Protocol):
    """Opens online acts of social security and medical."""

    async def open_act(self, request: ActRequest) -> ActGrant:
        """Raises RefusedError with a code of docs/wire.md; a cancelled call leaves an act that expires by itself."""
        ...


class CardAuthority(PersonalisationAuthority, LoadAuthority, Protocol):
    """Everything that the reader side asks of a holder of keys."""
