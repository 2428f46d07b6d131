"""The life of a key version and the way from 3DES to SM4: which moves there are, and on which dates a suite ends.

add → roll out → promote → retire (verify-only) → destroy. Nothing here touches a key or a file: the store asks, and
writes down what was decided.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from keys.purposes import SUITE_LABELS, KeyId, KeyState


class Move(StrEnum):
    """What two custodians may do to a version that is here already."""

    ROLL_OUT = "roll-out"
    PROMOTE = "promote"
    RETIRE = "retire"
    SUSPEND = "suspend"
    RESUME = "resume"
    COMPROMISE = "compromise"
    DESTROY = "destroy"


_S = KeyState
# From which states a move may start, and where it ends.
MOVES: Mapping[Move, tuple[frozenset[KeyState], KeyState]] = {
    Move.ROLL_OUT: (frozenset({_S.PRE_ACTIVE}), _S.ROLLING_OUT),
    Move.PROMOTE: (frozenset({_S.ROLLING_OUT}), _S.ACTIVE),
    Move.RETIRE: (frozenset({_S.ACTIVE, _S.SUSPENDED}), _S.VERIFY_ONLY),
    Move.SUSPEND: (frozenset({_S.ACTIVE}), _S.SUSPENDED),
    Move.RESUME: (frozenset({_S.SUSPENDED}), _S.ACTIVE),
    Move.COMPROMISE: (
        frozenset({_S.PRE_ACTIVE, _S.ROLLING_OUT, _S.ACTIVE, _S.VERIFY_ONLY, _S.SUSPENDED}),
        _S.COMPROMISED,
    ),
    Move.DESTROY: (frozenset({_S.PRE_ACTIVE, _S.VERIFY_ONLY, _S.COMPROMISED}), _S.DESTROYED),
}


@dataclass(frozen=True, slots=True)
class Life:
    """What is remembered of a version for ever, also when its key is destroyed: state, when it took that state (UTC,
    ISO 8601), check value (6 hexadecimal digits), TEST mark."""

    id: KeyId
    state: KeyState
    since: str
    kcv: str
    test: bool


def state_after(move: Move, id: KeyId, lives: Mapping[KeyId, Life]) -> KeyState:
    """The state that a move leads to. Raises KeyUseError when it may not start where the version is, or would leave
    nothing to work with."""
    life = lives.get(id)
    if life is None:
        raise KeyUseError(f"there is no key {id} in this store; nothing was changed, see onecard keys status")
    starts, end = MOVES[move]
    if life.state not in starts:
        wanted = " or ".join(sorted(starts))
        raise KeyUseError(f"{id} is {life.state} since {life.since} and {move} starts at {wanted}; nothing was changed")
    if move is Move.RETIRE and not _another_active(id, lives):
        raise KeyUseError(
            f"{id} is the only active version of its key: retiring it would stop what it serves. Nothing was changed; "
            "promote its successor first, or suspend it"
        )
    return end


def _another_active(id: KeyId, lives: Mapping[KeyId, Life]) -> bool:
    """Another active version of the same key, or its SM4 counterpart: 3DES retires in favour of SM4."""
    return any(
        life.state is KeyState.ACTIVE
        and other != id
        and (other.purpose, other.scope) == (id.purpose, id.scope)
        and (other.suite is id.suite or other.suite is Suite.SM4)
        for other, life in lives.items()
    )


def next_version(name: str, lives: Iterable[KeyId]) -> int:
    """The version that a new key of this name gets; a number is never used again."""
    return 1 + max((id.version for id in lives if id.name == name), default=0)


@dataclass(frozen=True, slots=True)
class Sunset:
    """The last local dates on which a suite may load and issue, and may verify."""

    suite: Suite
    making_until: date
    verifying_until: date

    def __post_init__(self) -> None:
        if self.verifying_until < self.making_until:
            raise RefusedError(
                "sunset",
                f"verification by {SUITE_LABELS[self.suite]} would end on {self.verifying_until}, before loading does "
                f"({self.making_until}): cards on their way could not be cleared; nothing was set",
            )


_SUBJECT = re.compile(r"card [0-9]{20}|issuer [0-9a-f]{8}|terminal [1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Demand:
    """From a local date on, this subject (`card <20 digits>`, `issuer <8 hex digits>`, `terminal <number>`) works with
    SM4 only. Raises FormatError for any other subject, which nothing would ever be compared with."""

    subject: str
    since: date

    def __post_init__(self) -> None:
        if not _SUBJECT.fullmatch(self.subject):
            raise FormatError(
                f"{self.subject!r} names no card (card and 20 digits), issuer (issuer and 8 lower-case hex digits) or "
                "terminal (terminal and its decimal number); nothing was set"
            )


@dataclass(frozen=True, slots=True)
class SuitePolicy:
    """Every dated rule of a store about suites."""

    sunsets: Mapping[Suite, Sunset]
    demands: Mapping[str, Demand]

    def may_make(self, suite: Suite, on: date, subjects: Iterable[str]) -> None:
        """Raises RefusedError('sunset') when the suite no longer loads and issues, RefusedError('downgrade') when one
        of the subjects has to work with SM4; nothing falls back."""
        end = self.sunsets.get(suite)
        if end and on > end.making_until:
            raise RefusedError(
                "sunset",
                f"{SUITE_LABELS[suite]} keys load and issue until {end.making_until} and today is {on}; nothing was "
                f"made. Records are verified until {end.verifying_until}; give the card an SM4 key set",
            )
        if suite is Suite.SM4:
            return
        for subject in subjects:
            demand = self.demands.get(subject)
            if demand and on >= demand.since:
                raise RefusedError(
                    "downgrade",
                    f"{subject} works with SM4 only since {demand.since} and was asked to work with "
                    f"{SUITE_LABELS[suite]}; nothing was made. Present the card again at a terminal that speaks SM4, "
                    "and look why this one did not",
                )

    def may_verify(self, suite: Suite, on: date) -> bool:
        """Whether records of the suite still get a verdict."""
        end = self.sunsets.get(suite)
        return end is None or on <= end.verifying_until
