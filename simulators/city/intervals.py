"""What a card's purse has shown by a close, interval by interval (docs/ledger.md, Gaps).

The city knows the order in which a card lived: an offline counter says where every load truly lay. So nothing is placed
here, by values or by clocks; who has only the records must arrive at the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from simulators.city.arrivals import sealed
from simulators.city.facts import Sent, Tap
from simulators.city.records import Kind

OFFLINE = (Kind.DEBIT, Kind.ENTRY, Kind.EXIT)


@dataclass(frozen=True, slots=True)
class Interval:
    """What lies between two known records of a purse, or between the anchor and the first: the counters `first` up to
    `end` (not included) are missing, the value was `after` and then `before`, fen."""

    subject: str
    card: str
    purse: int
    first: int
    end: int
    after: int
    before: int
    loads: Sequence[Tap]
    doubts: Sequence[Tap]
    unsealed: Sequence[Tap]
    forked: bool

    @property
    def missing(self) -> int:
        """How many counters are missing that no unsealed debit takes up."""
        return self.end - self.first - len(self.unsealed)

    @property
    def unknown(self) -> set[int]:
        """Those counters."""
        return set(range(self.first, self.end)) - {t.counter for t in self.unsealed}

    def difference(self, credited: Iterable[Tap] = ()) -> int:
        """D of docs/ledger.md: what the known loads and these would leave above the value at the end, less what the
        unsealed debits took."""
        loaded = sum(t.amount_fen for t in itertools.chain(self.loads, credited))
        return self.after + loaded - sum(t.amount_fen for t in self.unsealed) - self.before

    def choices(self) -> list[tuple[Tap, ...]]:
        """Every set of loads in doubt that the card may have credited, as far as the interval shows."""
        sets = itertools.chain.from_iterable(
            itertools.combinations(self.doubts, size) for size in range(len(self.doubts) + 1)
        )
        return [credited for credited in sets if self._explained_by(credited)]

    def _explained_by(self, credited: Sequence[Tap]) -> bool:
        exact = self.first == self.end
        value = self.after
        for load in sorted([*self.loads, *self.doubts], key=lambda t: (t.counter, t.at)):
            if not _agree(load.balance_before_fen, value, exact):
                return False
            value = load.balance_before_fen + (load.amount_fen if load in self.loads or load in credited else 0)
        return _agree(self.before, value, exact)


def _agree(found: int, value: int, exact: bool) -> bool:
    """Whether a purse that held `value` may be found with `found`: debits that nobody knows only take away."""
    return found == value if exact else found <= value


@dataclass(slots=True)
class Shown:
    """What is known of one purse: its sealed debits, its loads that are certain or in doubt, its unsealed debits, its
    forked counters."""

    known: list[Sent] = field(default_factory=list)
    loads: list[Tap] = field(default_factory=list)
    doubts: list[Tap] = field(default_factory=list)
    unsealed: list[Tap] = field(default_factory=list)
    forked: set[int] = field(default_factory=set)

    def proved_by_counter(self) -> list[Tap]:
        """The loads in doubt that must have happened: the card's online counter has moved on since."""
        counters = [t.counter for t in itertools.chain(self.loads, self.doubts)]
        if len(counters) != len(set(counters)):
            raise AssertionError(f"the plan tries a load twice under one counter: {self.doubts[0].card.serial}")
        return [t for t in self.doubts if t.counter < max(counters)]

    def commit(self, load: Tap) -> None:
        """Takes a load in doubt for certain from now on."""
        self.doubts.remove(load)
        self.loads.append(load)

    def intervals(self) -> Iterator[Interval]:
        """Between consecutive known records, beginning with the anchor; what lies behind the last is left out."""
        first, after = 0, 0
        for sent in sorted(self.known, key=lambda s: s.tap.counter):
            tap, end = sent.tap, sent.tap.counter
            between = range(first, end)
            yield Interval(
                f"{tap.card.serial}/{tap.purse}/0/{first}-{end - 1}", tap.card.serial, tap.purse, first, end, after,
                tap.balance_before_fen,
                loads=[t for t in self.loads if first <= t.next_offline <= end],
                doubts=[t for t in self.doubts if first <= t.next_offline <= end],
                unsealed=[t for t in self.unsealed if t.counter in between],
                forked=not self.forked.isdisjoint(between),
            )  # fmt: skip
            first, after = end + 1, tap.balance_before_fen - tap.amount_fen


def shown(
    known: Iterable[Sent], forks: Mapping[str, list[Sent]], committed: Iterable[Tap], doubts: Iterable[Tap]
) -> dict[tuple[str, int], Shown]:
    """What the records of a close, and the loads resolved or in doubt, show of every purse: (serial, purse) → Shown."""
    purses: dict[tuple[str, int], Shown] = {}

    def of(tap: Tap) -> Shown:
        return purses.setdefault((tap.card.serial, tap.purse), Shown())

    forked = {id(s) for members in forks.values() for s in members}
    for sent in known:
        if not sent.proven:
            continue
        if sent.kind is Kind.LOAD:
            of(sent.tap).loads.append(sent.tap)
        elif sent.kind in OFFLINE and not sealed(sent):
            of(sent.tap).unsealed.append(sent.tap)
        elif id(sent) in forked:
            of(sent.tap).forked.add(sent.tap.counter)
        elif sent.kind in OFFLINE:
            of(sent.tap).known.append(sent)
    for load in committed:
        of(load).loads.append(load)
    for load in doubts:
        of(load).doubts.append(load)
    return purses
