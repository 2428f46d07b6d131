"""Where the loads and the unsealed debits of a purse lie between its known records (docs/ledger.md, "Gaps").

A load lies where what it proves fits: its cryptogram covers the online counter and the balance that it found. Clocks
only choose where that leaves a choice, since a gate that runs some minutes behind must not make a thief of a passenger.
Pure logic of rules 12 and 17; amounts in fen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise

NO_TIME = timedelta()


@dataclass(frozen=True, slots=True)
class Known:
    """A proven sealed record outside forks. `instant` is None when its clock is not asked (suspended for `clock`)."""

    counter: int
    before_fen: int
    after_fen: int
    instant: datetime | None
    proof_key: bytes
    origin_date: date


@dataclass(frozen=True, slots=True)
class Load:
    """A load of the purse under an online counter; `found_fen` is the value that it found, None when nobody noted it.

    `doubt`: authorised, and no evidence yet.
    """

    load_id: str
    counter: int
    found_fen: int | None
    amount_fen: int
    instant: datetime
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class Bare:
    """A proven debit without a seal: nothing but its amount and time is known."""

    instant: datetime
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Purse:
    """What is known of (card, application, generation): records by counter, loads by (online counter, instant),
    unsealed debits by time, and the counters of forks."""

    card: bytes
    number: int
    generation: int
    known: tuple[Known, ...]
    loads: tuple[Load, ...]
    bare: tuple[Bare, ...]
    forked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """Between two consecutive known records; `lower` None is the anchor, `upper` None the open end."""

    lower: Known | None
    upper: Known | None
    forked: bool
    loads: tuple[Load, ...] = ()
    bare: tuple[Bare, ...] = ()

    @property
    def between(self) -> int | None:
        """Counters strictly between; None behind the last record, where any number may be."""
        first = self.lower.counter + 1 if self.lower else 0
        return self.upper.counter - first if self.upper else None

    @property
    def after_fen(self) -> int:
        return self.lower.after_fen if self.lower else 0

    @property
    def bare_fen(self) -> int:
        """V: what unsealed debits took."""
        return sum(debit.amount_fen for debit in self.bare)

    @property
    def loads_fen(self) -> int:
        """L: what proven and committed loads brought."""
        return sum(load.amount_fen for load in self.loads if not load.doubt)

    def has_room(self, amount_fen: int) -> bool:
        """Whether a debit of which nothing else is known may have happened here."""
        if self.upper is None or self.between is None:
            return True
        room_fen = self.after_fen + self.loads_fen - self.bare_fen - self.upper.before_fen
        return self.between > len(self.bare) and room_fen >= amount_fen

    def distance(self, instant: datetime) -> timedelta:
        """How far the clock says that an instant lies from the interval."""
        if self.lower and self.lower.instant and instant < self.lower.instant:
            return self.lower.instant - instant
        if self.upper and self.upper.instant and instant > self.upper.instant:
            return instant - self.upper.instant
        return NO_TIME


@dataclass(frozen=True, slots=True)
class Fixed:
    """Loads in doubt whose outcome is supposed, by their ids."""

    credited: frozenset[str] = frozenset()
    void: frozenset[str] = frozenset()


NOTHING = Fixed()


def holds(interval: Interval, loads: Sequence[Load], fixed: Fixed = NOTHING) -> bool:
    """Whether values follow through the interval with these loads in it, some of those in doubt being credited."""
    if interval.forked:
        return True
    exact = interval.between == 0
    # Where the walk stands: the value, and the online counter credited last. Loads come in the order of counters, so
    # that is all a choice can depend on.
    stands = {(interval.after_fen, -1)}
    for load in loads:
        onward = set()
        for value_fen, counter in stands:
            found_fen = value_fen if load.found_fen is None else load.found_fen
            if found_fen > value_fen or (exact and found_fen != value_fen):
                continue
            if load.doubt and load.load_id not in fixed.credited:
                onward.add((found_fen, counter))
            if not load.doubt or (load.load_id not in fixed.void and load.counter != counter):
                onward.add((found_fen + load.amount_fen, load.counter))
        stands = onward
    if interval.upper is None:
        return bool(stands)
    before_fen = interval.upper.before_fen
    return any(value_fen == before_fen or (value_fen > before_fen and not exact) for value_fen, _ in stands)


def lay_out(purse: Purse) -> list[Interval]:
    """The intervals of a purse, empty, the open one last."""
    bounds = [None, *purse.known, None]
    return [
        Interval(lower, upper, any(_between(counter, lower, upper) for counter in purse.forked))
        for lower, upper in pairwise(bounds)
    ]


def place(intervals: Sequence[Interval], loads: Sequence[Load]) -> list[Interval]:
    """The intervals with the loads in them: fewest contradictions, then least distance of clocks, then the earliest."""
    _, shares = _shares(intervals, loads, NOTHING)
    return [replace(one, loads=tuple(share)) for one, share in zip(intervals, shares, strict=True)]


def spread(intervals: Sequence[Interval], bare: Sequence[Bare]) -> list[Interval]:
    """The intervals, with their loads, and each unsealed debit in the nearest one that misses a counter and value for
    it; behind the last record any number may be missing.
    """
    filled = list(intervals)
    for debit in bare:
        fitting = [at for at, one in enumerate(filled) if one.has_room(debit.amount_fen)]
        nearest = min(fitting, key=lambda at: (filled[at].distance(debit.instant), at))
        filled[nearest] = replace(filled[nearest], bare=(*filled[nearest].bare, debit))
    return filled


def contradictions(intervals: Sequence[Interval], loads: Sequence[Load], fixed: Fixed = NOTHING) -> int:
    """The fewest intervals that cannot hold together, whatever the placement."""
    return _shares(intervals, loads, fixed)[0]


def _between(counter: int, lower: Known | None, upper: Known | None) -> bool:
    return (lower is None or counter > lower.counter) and (upper is None or counter < upper.counter)


def _shares(intervals: Sequence[Interval], loads: Sequence[Load], fixed: Fixed) -> tuple[int, list[Sequence[Load]]]:
    # best[n]: the cost of laying loads[n:] into the intervals from here on; from the last interval to the first.
    best: list[tuple[int, timedelta]] = [(len(intervals) + 1, NO_TIME)] * len(loads) + [(0, NO_TIME)]
    taken: list[list[int]] = []
    for interval in reversed(intervals):
        costs, counts = [], []
        for first in range(len(loads) + 1):
            cost, stop = min(
                (_plus(_cost(interval, loads[first:stop], fixed), best[stop]), -stop)
                for stop in range(first, len(loads) + 1)
            )
            costs.append(cost)
            counts.append(-stop - first)
        best = costs
        taken.append(counts)
    shares, first = [], 0
    for counts in reversed(taken):
        shares.append(loads[first : first + counts[first]])
        first += counts[first]
    return best[0][0], shares


def _cost(interval: Interval, loads: Sequence[Load], fixed: Fixed) -> tuple[int, timedelta]:
    distance = sum((interval.distance(load.instant) for load in loads), NO_TIME)
    return int(not holds(interval, loads, fixed)), distance


def _plus(one: tuple[int, timedelta], other: tuple[int, timedelta]) -> tuple[int, timedelta]:
    return one[0] + other[0], one[1] + other[1]
