"""The placement rule of docs/ledger.md, read for the tests from the records alone, arrives where the city knows that
its loads and unsealed debits truly lay, and decides of loads in doubt what the city's truth says."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.city import Plan, truth_lines
from simulators.city.facts import Seal, Sent, Tap, business_date
from simulators.city.records import Kind
from tests.city_side import DATES, of, small

Choice = tuple[int, float, tuple[int, ...]]
Credits = dict[Tap, tuple[bool, ...]]


@dataclass
class Span:
    """An interval; what its ends do not know (the anchor's clock, everything at the open end) is None."""

    first: int
    end: int | None
    after: int
    before: int | None
    since: datetime | None
    until: datetime | None
    forked: bool
    unsealed: list[int] = field(default_factory=list)

    def away(self, at: datetime) -> float:
        if self.since and at < self.since:
            return (self.since - at).total_seconds()
        return (at - self.until).total_seconds() if self.until and at > self.until else 0.0

    def takes(self, fen: int, loaded: int) -> bool:
        """Whether an unsealed debit finds a counter and, with `loaded` fen, room here."""
        if self.end is None or self.before is None:
            return True
        free = self.end - self.first > len(self.unsealed)
        return free and self.after + loaded - sum(self.unsealed) - self.before >= fen

    def holds(self, loads: Sequence[Tap], credits: Credits) -> bool:
        return self.forked or any(self._walks(loads, c) for c in itertools.product(*(credits[t] for t in loads)))

    def _walks(self, loads: Sequence[Tap], credited: Sequence[bool]) -> bool:
        exact, value = self.end == self.first, self.after
        for load, happened in zip(loads, credited, strict=True):
            found = load.balance_before_fen
            if found > value or (exact and found != value):
                return False
            value = found + load.amount_fen * happened
        return self.before is None or (self.before == value if exact else self.before <= value)


def spans(known: Iterable[Sent], forked: set[int]) -> list[Span]:
    found, first, after = [], 0, 0
    since: datetime | None = None
    for sent in sorted(known, key=lambda s: s.tap.counter):
        end, at = sent.tap.counter, None if sent.code == "clock" else sent.at
        inside = any(first <= c < end for c in forked)
        found.append(Span(first, end, after, sent.tap.balance_before_fen, since, at, inside))
        first, after, since = end + 1, sent.tap.balance_before_fen - sent.tap.amount_fen, at
    return [*found, Span(first, None, after, None, since, None, any(c >= first for c in forked))]


def placed(places: Sequence[Span], loads: Sequence[Tap], credits: Credits) -> Choice:
    """The best placement: spans from left to right, each taking a run of the loads that are left."""
    best: dict[int, Choice] = {0: (0, 0.0, ())}
    for nth, span in enumerate(places):
        longer: dict[int, Choice] = {}
        for taken, (bad, away, where) in best.items():
            for upto in range(taken, len(loads) + 1):
                run = loads[taken:upto]
                offer = (
                    bad + (not span.holds(run, credits)),
                    away + sum(span.away(t.at) for t in run),
                    (*where, *(nth for _ in run)),
                )
                longer[upto] = min(longer.get(upto, offer), offer)
        best = longer
    return best[len(loads)]


def decided(places: Sequence[Span], loads: Sequence[Tap], doubts: Iterable[Tap]) -> Credits:
    """Whether each load may be credited; of a load in doubt, what the fewest broken intervals leave open."""
    free: Credits = {t: (True, False) if t in doubts else (True,) for t in loads}
    fewest = placed(places, loads, free)[0]
    found = dict(free)
    for doubt in doubts:
        found[doubt] = tuple(c for c in free[doubt] if placed(places, loads, {**free, doubt: (c,)})[0] == fewest)
    return found


def take_up(places: Sequence[Span], unsealed: Iterable[Sent], loaded: Mapping[int, int]) -> dict[int, int]:
    """Counter → span of the unsealed debits, in their order, each in the nearest span that takes it beside the `loaded`
    fen of the certain loads in each."""
    found = {}
    for sent in sorted(unsealed, key=lambda s: (s.at, s.witness.psam, s.tap.terminal_transaction)):
        room = [n for n, s in enumerate(places) if s.takes(sent.tap.amount_fen, loaded.get(n, 0))]
        nth = min(room, key=lambda n: (places[n].away(sent.at), n))
        places[nth].unsealed.append(sent.tap.amount_fen)
        found[sent.tap.counter] = nth
    return found


def _span_of(places: Sequence[Span], counter: int) -> int:
    return next(n for n, s in enumerate(places) if s.end is None or counter <= s.end)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_values_put_every_load_where_it_truly_lay(seed: int) -> None:
    planned = small(seed)
    seen: Counter[str] = Counter()
    cases = {c["subject"]: c for c in of(truth_lines(planned), "case") if c["kind"] == "load-in-doubt"}
    for day in DATES:
        _compare(planned, day, cases, seen)
    assert min(seen[what] for what in ("loads", "doubts", "decided", "unsealed", "beside a gap")) > 0


def _compare(planned: Plan, day: date, cases: Mapping[str, Mapping[str, Any]], seen: Counter[str]) -> None:
    purses: dict[tuple[str, int], list[Sent]] = defaultdict(list)
    for sent in planned.sents:
        if sent.arrival and sent.arrival <= day and sent.proven and sent.kind is not Kind.ACT:
            purses[sent.tap.card.serial, sent.tap.purse].append(sent)
    for (serial, purse), told in purses.items():
        sealed = [s for s in told if s.kind is not Kind.LOAD and s.seal is Seal.GOOD]
        times = Counter(s.tap.counter for s in sealed)
        forked = {c for c, n in times.items() if n > 1}
        places = spans((s for s in sealed if s.tap.counter not in forked), forked)
        unsealed = [s for s in told if s.kind is not Kind.LOAD and s.seal is not Seal.GOOD]
        loads = [s.tap for s in told if s.kind is Kind.LOAD]
        doubts = [t for t in planned.taps if t.cut and (t.card.serial, t.purse) == (serial, purse)]
        doubts = [t for t in doubts if business_date(t.at) <= day]
        loads = sorted([*loads, *doubts], key=lambda t: (t.counter, t.at))
        open_doubts = [t for t in doubts if t.counter == loads[-1].counter]
        credits = decided(places, loads, open_doubts)
        where = placed(places, loads, credits)[2]
        assert list(where) == [_span_of(places, t.next_offline) for t in loads], (serial, purse, day)
        loaded: Counter[int] = Counter()
        for load, nth in zip(loads, where, strict=True):
            loaded[nth] += load.amount_fen * (False not in credits[load])
        for counter, nth in take_up(places, unsealed, loaded).items():
            assert nth == _span_of(places, counter), (serial, purse, counter, day)
        for doubt in doubts:
            case = cases[f"{serial}/{purse}/{doubt.counter}"]
            said = None if len(credits[doubt]) > 1 else "committed" if credits[doubt][0] else "reversed"
            assert said == (case["resolution"] if (case["resolved"] or "9") <= day.isoformat() else None), case
            seen["decided"] += said is not None
        seen.update(loads=len(loads), doubts=len(doubts), unsealed=len(unsealed))
        seen["beside a gap"] += sum(places[n].end not in (None, places[n].first) for n in where)
