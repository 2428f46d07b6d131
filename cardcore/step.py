"""One step of a personalisation: what to send, what it needs, and how to see that it has been done (D5).

A step is idempotent: `settled` and `probe` tell that an earlier, interrupted run has done it. Each stage selects for
itself whatever it needs, so it can be repeated from its first step on a card that was reset.
"""

from dataclasses import dataclass
from enum import Enum

from cardcore.authority import KeyStep, Under
from cardcore.commands import Command
from cardcore.record import Suite
from cardcore.switches import Sm4SessionKey

ALREADY_THERE = frozenset({0x6A86})


class Stage(Enum):
    """The journal commits once per stage of a card (D5)."""

    # Whose the card is; a PSAM does not have this stage.
    IDENTITY = "identity"
    STRUCTURE = "structure"
    KEYS = "keys"
    DATA = "data"
    ISSUE = "issue"


@dataclass(frozen=True, slots=True)
class Plain:
    """A command as it is."""

    command: Command[object]


@dataclass(frozen=True, slots=True)
class Authenticate:
    """GET CHALLENGE, then EXTERNAL AUTHENTICATE with 39.00 of the selected DF."""

    application: int
    under: Under


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Make a chip ours, in one go: GET CHALLENGE, EXTERNAL AUTHENTICATE with the factory's 39.00, ERASE, GET CHALLENGE,
    and the WRITE KEY of `key`, our 39.00, in its place.

    A chip that proves our 39.00 of the MF has been through it, so nothing is in it that somebody else put there: the
    factory's key opened it before, and opens it no more.
    """

    key: KeyStep


@dataclass(frozen=True, slots=True)
class WriteKeyAct:
    """GET CHALLENGE, then the WRITE KEY that the authority makes of `key`."""

    key: KeyStep


@dataclass(frozen=True, slots=True)
class Secured:
    """GET CHALLENGE, then the command under the line key of the application; `enciphered` for a file that is."""

    application: int
    command: Command[None]
    enciphered: bool = False


@dataclass(frozen=True, slots=True)
class SetAllowance:
    """INITIALIZE FOR UPDATE, then UPDATE OVERDRAFT LIMIT with the authority's MAC2 by the profile's session rule."""

    application: int
    key_index: int
    key_suite: Suite
    limit_fen: int
    session_key: Sm4SessionKey


@dataclass(frozen=True, slots=True)
class Compare:
    """A read whose answer must be exactly `expected`."""

    command: Command[object]
    expected: bytes


@dataclass(frozen=True, slots=True)
class CompareSecured:
    """GET CHALLENGE, then a read of an enciphered file under the line key; its content must be exactly `expected`."""

    application: int
    command: Command[bytes]
    expected: bytes


Act = Plain | Authenticate | TakeOver | WriteKeyAct | Secured | SetAllowance | Compare | CompareSecured


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `id` is stable and unique in a script; the journal keeps it.

    When a stage is repeated, and only then, on a chip that has proved our 39.00 of its MF, a status word in `settled`
    counts as 9000, and `probe` is asked, which succeeds if the step has already been done.
    """

    id: str
    stage: Stage
    application: int
    act: Act
    settled: frozenset[int] = frozenset()
    probe: Authenticate | Compare | CompareSecured | None = None

    @property
    def needs_challenge(self) -> bool:
        """Whether a fresh challenge must be had directly before the command."""
        return isinstance(self.act, Authenticate | TakeOver | WriteKeyAct | Secured | CompareSecured)
