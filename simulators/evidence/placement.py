"""Where the loads and the unsealed debits of a purse lie among its known counters (docs/ledger.md, "Gaps").

A load proves its online counter and the value that it found, so it has a place; clocks choose only among the places
that what it proves leaves open. An unsealed debit proves neither, so it never moves a load: it lies where value is
missing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby, product
from operator import attrgetter

from simulators.evidence.intake import Authorised, Fact

_HERE = timedelta()


@dataclass(frozen=True, slots=True)
class Loading:
    """A load of a purse and what it proves; `credited` is None while it is in doubt.

    `authorised` is its order when no accepted record finished it, `forgotten` are earlier tries of the same amount
    under its online counter, which the card forgot for this one.
    """

    counter: int
    instant: datetime
    found_fen: int
    fen: int
    credited: bool | None = True
    authorised: Authorised | None = None
    forgotten: tuple[Authorised, ...] = ()


@dataclass(slots=True)
class Interval:
    """Between two known records of a purse, the anchor (None) below the first and the open end (None) included."""

    lower: Fact | None
    upper: Fact | None
    forked: bool = False
    loads: Sequence[Loading] = ()
    debits: list[Fact] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The first counter that may be missing."""
        return self.lower.claims.counter + 1 if self.lower else 0

    @property
    def missing(self) -> int | None:
        """How many counters are missing; None in the open interval, where it may be any number."""
        return self.upper.claims.counter - self.first if self.upper else None

    @property
    def spare(self) -> int:
        """Missing counters that no unsealed debit took up; of no meaning in the open interval."""
        return (self.missing or 0) - len(self.debits)

    @property
    def after_fen(self) -> int:
        return self.lower.claims.after_fen if self.lower else 0

    @property
    def difference_fen(self) -> int:
        """D, by the loads that were credited for certain; of no meaning in the open interval."""
        loads_fen = sum(load.fen for load in self.loads if load.credited)
        debits_fen = sum(fact.tap.amount_fen for fact in self.debits)
        before_fen = self.upper.claims.balance_before_fen if self.upper else 0
        return self.after_fen + loads_fen - debits_fen - before_fen

    def has_room(self, fen: int) -> bool:
        """Whether an unsealed debit of `fen` may lie here beside the loads and debits that do."""
        return self.upper is None or (self.spare > 0 and self.difference_fen >= fen)

    def distance(self, instant: datetime) -> timedelta:
        """From an instant to the nearer end, zero between the ends; an end without a clock has no limit."""
        start, end = _clock(self.lower), _clock(self.upper)
        if start and end and start > end:
            start, end = end, start
        return max(start - instant if start else _HERE, instant - end if end else _HERE, _HERE)

    def walks(self, loads: Sequence[Loading]) -> set[int]:
        """The values after `loads`, in fen, by all ways through them that what each of them found allows."""
        values = {self.after_fen}
        for _, tries in groupby(loads, attrgetter("counter")):
            values = set(self._past(values, list(tries)))
        return values

    def _past(self, values: Iterable[int], tries: list[Loading]) -> Iterator[int]:
        """Through the tries of one load that lie here, of which at most one was credited."""
        certain: list[Loading | None] = [each for each in tries if each.credited]
        options = certain or [None, *(each for each in tries if each.credited is None)]
        for value_fen, credited in product(values, options):
            bears = True
            for each in tries:
                bears = bears and self._bears(value_fen, each.found_fen)
                value_fen = each.found_fen + (each.fen if each is credited else 0)
            if bears:
                yield value_fen

    def _bears(self, value_fen: int, found_fen: int) -> bool:
        """Debits under missing counters may have lowered the value unseen; nothing may have raised it."""
        return found_fen == value_fen if self.missing == 0 else found_fen <= value_fen

    def ends(self, values: Iterable[int]) -> bool:
        """Whether the upper record can have found what one of the walks leaves; nothing is asked of the open end."""
        return any(self.upper is None or self._bears(fen, self.upper.claims.balance_before_fen) for fen in values)

    def holds(self, loads: Sequence[Loading]) -> bool:
        """Whether the interval holds together with these loads in it."""
        return self.forked or self.ends(self.walks(loads))


def _clock(end: Fact | None) -> datetime | None:
    return end.instant if end and end.code != "clock" else None


def place_loads(intervals: Sequence[Interval], loads: Sequence[Loading]) -> Sequence[Loading]:
    """Decide the loads in doubt, then give every load (in the order of counter and instant) its interval.

    The answer is the loads as decided.
    """
    if not loads:
        return loads
    if any(load.credited is None for load in loads):
        loads = _decided(intervals, loads)
    places = _taken(intervals, loads)
    for at, interval in enumerate(intervals):
        interval.loads = [load for load, place in zip(loads, places, strict=True) if place == at]
    return loads


def place_debits(intervals: Sequence[Interval], unsealed: Iterable[Fact]) -> None:
    """Let proven debits without a seal take up missing counters, each in the nearest interval with room for it.

    The intervals already have their loads.
    """

    def order(fact: Fact) -> tuple[datetime, bytes, int]:
        return fact.instant, fact.tap.terminal_number, fact.tap.terminal_transaction

    for fact in sorted(unsealed, key=order):
        roomy = [each for each in intervals if each.has_room(fact.tap.amount_fen)]
        min(roomy, key=lambda interval: interval.distance(fact.instant)).debits.append(fact)


def _decided(intervals: Sequence[Interval], loads: Sequence[Loading]) -> list[Loading]:
    """Each load in doubt for itself: committed where it cannot be void, reversed where it cannot be credited."""
    fewest = _fewest_broken(intervals, loads)
    found = []
    for load in loads:
        if load.credited is None:
            void = [replace(each, credited=False) if each is load else each for each in loads]
            alone = [replace(each, credited=each is load) if each.counter == load.counter else each for each in loads]
            if not _possible(intervals, void, fewest):
                load = replace(load, credited=True)
            elif not _possible(intervals, alone, fewest):
                load = replace(load, credited=False)
        found.append(load)
    return found


def _fewest_broken(intervals: Sequence[Interval], loads: Sequence[Loading]) -> int:
    broken = _broken(intervals, loads, _by_clock(intervals, loads)[0])
    best = _best(intervals, loads, broken) if broken else None
    return best[0] if best else broken


def _possible(intervals: Sequence[Interval], loads: Sequence[Loading], broken: int) -> bool:
    """Whether some placement leaves no more than `broken` intervals that do not hold together."""
    by_clock = _by_clock(intervals, loads)[0]
    return _broken(intervals, loads, by_clock) <= broken or _best(intervals, loads, broken) is not None


def _taken(intervals: Sequence[Interval], loads: Sequence[Loading]) -> Sequence[int]:
    """The placement with the fewest intervals that do not hold together, the least distance, the earliest loads."""
    places, distance = _by_clock(intervals, loads)
    broken = _broken(intervals, loads, places)
    # Each load of `places` is as early as clocks and order allow at no distance, so none that is as good is earlier.
    best = _best(intervals, loads, broken) if broken or distance else None
    return best[2] if best else places


def _by_clock(intervals: Sequence[Interval], loads: Sequence[Loading]) -> tuple[list[int], timedelta]:
    """The first interval at no distance that the order leaves to each load, else the nearest; and all distances."""
    places: list[int] = []
    total = _HERE
    for load in loads:
        allowed = range(places[-1] if places else 0, len(intervals))
        here = next((place for place in allowed if not intervals[place].distance(load.instant)), None)
        if here is None:
            here = min(allowed, key=lambda place: intervals[place].distance(load.instant))
            total += intervals[here].distance(load.instant)
        places.append(here)
    return places, total


def _broken(intervals: Sequence[Interval], loads: Sequence[Loading], places: Sequence[int]) -> int:
    """How many intervals do not hold together under a placement."""
    lying: dict[int, list[Loading]] = defaultdict(list)
    for load, place in zip(loads, places, strict=True):
        lying[place].append(load)
    return sum(not interval.holds(lying.get(place, ())) for place, interval in enumerate(intervals))


Cost = tuple[int, timedelta, tuple[int, ...]]


def _best(intervals: Sequence[Interval], loads: Sequence[Loading], most_broken: int) -> Cost | None:
    """The best placement by a dynamic programme: interval by interval, the best for each number of loads placed.

    Costs add up and equally many places compare like the whole placements that they begin, so the best of a beginning
    is all that has to be kept; nothing is followed that breaks more than `most_broken`. None when all of them do.
    """
    best: dict[int, Cost] = {0: (0, _HERE, ())}
    for place, interval in enumerate(intervals):
        further: dict[int, Cost] = {}
        for placed, (broken, distance, places) in best.items():
            for until in range(placed, len(loads) + 1):
                lying = loads[placed:until]
                if lying:
                    distance += interval.distance(lying[-1].instant)
                    places = (*places, place)
                walks = interval.walks(lying)
                holds = interval.forked or interval.ends(walks)
                cost = broken + (not holds), distance, places
                if cost[0] <= most_broken:
                    further[until] = min(further.get(until, cost), cost)
                elif not walks:
                    break  # no way leads through these loads, so none leads through more of them
        best = further
    return best.get(len(loads))
