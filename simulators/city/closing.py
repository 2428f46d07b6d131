"""What each close must find and post: docs/ledger.md, read once more, over the records that the plan says are known by
then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from simulators.city.arrivals import sealed
from simulators.city.facts import Plan, Sent, Tap, business_date
from simulators.city.intervals import OFFLINE, Interval, shown
from simulators.city.money import Books, Cause, fees, subsidised
from simulators.city.records import Kind, bcd_instant

TOTALLED = (*OFFLINE, Kind.ACT)
SELF_RESOLVING = {
    "card-gap": "filled", "sequence-gap": "filled", "missing-exit": "filled", "missing-entry": "filled",
    "operator-total": "equal",
    "gap-or-load": "evidence",
}  # fmt: skip
"""Kinds that a close resolves when their condition no longer holds, with the city's word for it."""
CODE_CASES = {"bad-proof": "bad-proof", "clock": "clock", "replaced-card": "replaced-card"}
OWNERS = {
    "bad-proof": "operator", "bad-seal": "operator", "conflict": "operator", "clock": "clearing",
    "replaced-card": "clearing", "fork": "issuer", "card-gap": "clearing", "gap-or-load": "clearing",
    "load-in-doubt": "issuer", "sequence-gap": "operator", "sequence-conflict": "operator",
    "batch-conflict": "operator", "torn": "clearing", "missing-exit": "operator", "missing-entry": "operator",
    "operator-total": "operator", "concession": "operator",
}  # fmt: skip
"""Whose each kind of case is; a denylisted tap is its bearer's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A case's condition holds at a close; with a resolution it is settled by the same evidence."""

    kind: str
    subject: str
    amount_fen: int
    owner: str
    resolution: str | None = None


@dataclass(slots=True)
class Case:
    kind: str
    subject: str
    amount_fen: int
    owner: str
    opened: date
    resolved: date | None = None
    resolution: str | None = None


class Closer:
    """Closes the dates one after another; `cases` and `books` hold what must exist afterwards."""

    def __init__(self, plan: Plan) -> None:
        self._sents, self._declared, self._dates = plan.sents, plan.declared, plan.dates
        self._replacements = plan.replacements
        self._doubts = [t for t in plan.taps if t.cut]
        self._committed: list[Tap] = []
        self.cases: dict[tuple[str, str], Case] = {}
        self.books = Books()
        self._subjects: dict[tuple[str, int, int], set[str]] = defaultdict(set)

    def causes(self, thing: Sent | Tap) -> set[Cause]:
        """What the books may give as the reason of a posting that is due to a record, or to a load in doubt: itself,
        and the forks and gaps that its counter is in."""
        if isinstance(thing, Tap):
            return {thing}
        return {thing, *self._subjects.get((thing.tap.card.serial, thing.tap.purse, thing.tap.counter), ())}

    def run(self) -> None:
        for sent in self._sents:
            sent.final = sent.state
        for day in self._dates:
            arrived = [s for s in self._sents if s.arrival == day]
            for sent in arrived:
                self.books.intake(sent, max(sent.origin, day))
            self._close(day, [s for s in self._sents if s.arrival is not None and s.arrival <= day])

    def _close(self, day: date, known: list[Sent]) -> None:
        forks = _forks(known)
        for subject, members in forks.items():
            for sent in members:
                sent.final = "disputed"
                self._subjects[sent.tap.card.serial, sent.tap.purse, sent.tap.counter].add(subject)
        findings = [*_record_findings(known), *_fork_findings(forks), *_halves(known, day), *_terminals(known)]
        findings += [*_concessions(known), *self._torn(known)]
        findings += self._gaps(day, known, forks)
        findings += self._totals(day, known)
        self.books.forks(day, forks)
        self.books.subsidies(day, known)
        for step in self._replacements:
            if business_date(step.instant) == day:
                self.books.replacement(day, step)
        fees(self.books, day)
        self._settle(day, findings)

    def _settle(self, day: date, findings: Iterable[Finding]) -> None:
        seen = set()
        for f in findings:
            key = (f.kind, f.subject)
            seen.add(key)
            case = self.cases.setdefault(key, Case(f.kind, f.subject, f.amount_fen, f.owner, day))
            if case.resolved is None:
                case.amount_fen = f.amount_fen
                if f.resolution:
                    case.resolved, case.resolution = day, f.resolution
        for key, case in self.cases.items():
            if key not in seen and case.resolved is None:
                case.resolved, case.resolution = day, SELF_RESOLVING[case.kind]

    def _gaps(self, day: date, known: Sequence[Sent], forks: Mapping[str, list[Sent]]) -> Iterator[Finding]:
        gaps: dict[str, tuple[int, int]] = {}
        doubts = [t for t in self._doubts if business_date(t.at) <= day]
        for purse in shown(known, forks, self._committed, doubts).values():
            for load in purse.proved_by_counter():
                purse.commit(load)
                yield self._resolved(day, load, committed=True)
            for interval in purse.intervals():
                if not interval.forked:
                    yield from self._judge(day, interval, gaps)
        self.books.gaps(day, gaps)
        still = [t for t in self._doubts if business_date(t.at) <= day]
        yield from (_finding("load-in-doubt", _load_subject(t), t.amount_fen) for t in still)

    def _judge(self, day: date, interval: Interval, gaps: dict[str, tuple[int, int]]) -> Iterator[Finding]:
        credited: Sequence[Tap] = ()
        if interval.doubts:
            choices = interval.choices()
            if len(choices) > 1:
                if interval.missing:
                    most = max(sum(t.amount_fen for t in choice) for choice in choices)
                    yield _finding("gap-or-load", interval.subject, most)
                return
            if not choices:
                raise AssertionError(f"the plan holds a load in doubt that nothing explains at {interval.subject}")
            credited = choices[0]
            for load in interval.doubts:
                yield self._resolved(day, load, committed=load in credited)
        gap = interval.difference(credited)
        if interval.missing and gap >= 0:
            gaps[interval.subject] = (interval.purse, gap)
            for counter in interval.unknown:
                self._subjects[interval.card, interval.purse, counter].add(interval.subject)
            yield _finding("card-gap", interval.subject, gap)
        elif gap or interval.missing < 0:
            raise AssertionError(f"the plan holds an unexplained difference of {gap} fen at {interval.subject}")

    def _resolved(self, day: date, load: Tap, committed: bool) -> Finding:
        self._doubts.remove(load)
        if committed:
            self._committed.append(load)
            self.books.load(day, load, load)
        resolution = "committed" if committed else "reversed"
        return _finding("load-in-doubt", _load_subject(load), load.amount_fen, resolution)

    def _torn(self, known: Sequence[Sent]) -> Iterator[Finding]:
        told = {
            (s.tap.card.serial, s.tap.purse, s.tap.counter)
            for s in known
            if s.proven and sealed(s) and s.kind in OFFLINE
        }
        for sent in known:
            if sent.kind is Kind.TORN:
                void = (sent.tap.card.serial, sent.tap.purse, sent.tap.counter) in told
                yield _finding("torn", sent.subject, sent.tap.amount_fen, "void" if void else None)

    def _totals(self, day: date, known: Sequence[Sent]) -> Iterator[Finding]:
        received: dict[tuple[int, str, date], list[int]] = defaultdict(lambda: [0, 0])
        for sent in known:
            if sent.kind in TOTALLED and sent.final in ("accepted", "suspended", "disputed", "pending_issuer"):
                total = received[sent.witness.operator, sent.witness.sector, sent.origin]
                total[0] += 1
                total[1] += sent.tap.amount_fen
        for d in self._declared:
            count, fen = received[d.operator, d.sector, d.date]
            if d.date <= day and (count, fen) != (d.count, d.fen):
                yield _finding("operator-total", f"{d.operator}/{d.sector}/{d.date}", fen - d.fen)


def _finding(kind: str, subject: str, amount_fen: int, resolution: str | None = None) -> Finding:
    return Finding(kind, subject, amount_fen, OWNERS[kind], resolution)


def _forks(known: Sequence[Sent]) -> dict[str, list[Sent]]:
    """Proven sealed offline records that share a counter, by the case's subject."""
    by_counter: dict[tuple[str, int, int], list[Sent]] = defaultdict(list)
    for sent in known:
        if sent.proven and sealed(sent) and sent.kind in OFFLINE:
            by_counter[sent.tap.card.serial, sent.tap.purse, sent.tap.counter].append(sent)
    return {f"{c}/{p}/0/{n}": members for (c, p, n), members in by_counter.items() if len(members) > 1}


def _record_findings(known: Sequence[Sent]) -> Iterator[Finding]:
    for sent in known:
        amount = sent.tap.amount_fen
        if sent.code == "conflict":
            yield _finding("conflict", f"{sent.tap.card.serial}@{bcd_instant(sent.at).hex()}", amount)
        elif sent.code in CODE_CASES:
            yield _finding(CODE_CASES[sent.code], sent.subject, amount)
        elif sent.code == "denylisted":
            # No grace ends within the plan, so only a list that the terminal says to know makes the acquirer bear it.
            bearer = "acquirer" if sent.tap.list_of and sealed(sent) else "issuer"
            yield Finding("denylist", sent.subject, amount, bearer)
        if sent.proven and sent.kind in OFFLINE and not sealed(sent):
            yield _finding("bad-seal", sent.subject, amount)


def _fork_findings(forks: Mapping[str, list[Sent]]) -> Iterator[Finding]:
    for subject, members in forks.items():
        yield _finding("fork", subject, sum(s.tap.amount_fen for s in members))


def _halves(known: Sequence[Sent], day: date) -> Iterator[Finding]:
    """Entries without the exit that should follow, and exits without the entry that they were priced by."""
    metro: dict[tuple[str, int], list[Sent]] = defaultdict(list)
    for sent in known:
        if sent.proven and sealed(sent) and sent.kind in (Kind.ENTRY, Kind.EXIT):
            metro[sent.tap.card.serial, sent.tap.purse].append(sent)
    for (card, purse), trips in metro.items():
        trips.sort(key=lambda s: s.tap.counter)
        for before, sent, after in zip([None, *trips], trips, [*trips[1:], None], strict=False):
            subject = f"{card}/{purse}/0/{sent.tap.counter}"
            if sent.origin > day:
                continue
            if sent.kind is Kind.ENTRY and not (after and after.kind is Kind.EXIT and after.tap.entry):
                yield _finding("missing-exit", subject, 0)
            elif sent.kind is Kind.EXIT and sent.tap.entry and not (before and before.tap is sent.tap.entry):
                yield _finding("missing-entry", subject, 0)


def _terminals(known: Sequence[Sent]) -> Iterator[Finding]:
    """Sequence gaps, two records under one sequence, and two bodies under one batch number, terminal by terminal."""
    sequences: dict[int, dict[int, set[Tap]]] = defaultdict(lambda: defaultdict(set))
    twins = set()
    for sent in known:
        taps = sequences[sent.device.terminal][sent.sequence]
        if sent.proven:
            taps.add(sent.tap)
        if sent.device.twin:
            twins.add(sent.device.terminal)
    for terminal, seen in sequences.items():
        if any(len(taps) > 1 for taps in seen.values()):
            yield _finding("sequence-conflict", f"{terminal}/1", 0)
        expected = 1
        for sequence in sorted(seen):
            if sequence > expected:
                yield _finding("sequence-gap", f"{terminal}/1/{expected}-{sequence - 1}", 0)
            expected = sequence + 1
    yield from (_finding("batch-conflict", f"{terminal}/1", 0) for terminal in twins)


def _concessions(known: Sequence[Sent]) -> Iterator[Finding]:
    """Rides at a concession that the registry does not grant; what they would cost the treasury."""
    for sent in known:
        tap = sent.tap
        if subsidised(sent) and tap.card.ended:
            yield _finding("concession", sent.subject, tap.full_fare_fen - tap.amount_fen)


def _load_subject(load: Tap) -> str:
    return f"{load.card.serial}/{load.purse}/{load.counter}"
