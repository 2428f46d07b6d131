"""What each close must find and post: docs/ledger.md, read once more, over the records that the plan says are known by
then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from simulators.city.arrivals import sealed
from simulators.city.facts import Declared, Sent, Tap, business_date
from simulators.city.money import Books, fees, subsidised
from simulators.city.records import Kind, bcd_instant

OFFLINE = (Kind.DEBIT, Kind.ENTRY, Kind.EXIT)
TOTALLED = (*OFFLINE, Kind.ACT)
SELF_RESOLVING = {"card-gap": "filled", "sequence-gap": "filled", "missing-exit": "filled", "operator-total": "equal"}
"""Kinds that a close resolves when their condition no longer holds, with the city's word for it."""
CODE_CASES = {"bad-proof": "bad-proof", "clock": "clock", "replaced-card": "replaced-card", "denylisted": "denylist"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A case's condition holds at a close; with a resolution it is settled by the same evidence."""

    kind: str
    subject: str
    amount_fen: int
    resolution: str | None = None


@dataclass(slots=True)
class Case:
    kind: str
    subject: str
    amount_fen: int
    opened: date
    resolved: date | None = None
    resolution: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a card's purse has shown by a close; instants are those that the records name."""

    known: list[Sent]
    loads: list[tuple[datetime, int]]
    doubts: list[Tap]
    unsealed: list[tuple[datetime, int]]
    forked: set[int]


class Closer:
    """Closes the dates one after another; `cases` and `books` hold what must exist afterwards."""

    def __init__(
        self, sents: Sequence[Sent], doubts: Sequence[Tap], declared: Sequence[Declared], dates: Sequence[date]
    ) -> None:
        self._sents, self._declared, self._dates = sents, declared, dates
        self._doubts = list(doubts)
        self._committed: list[Tap] = []
        self.cases: dict[tuple[str, str], Case] = {}
        self.books = Books()

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
        for members in forks.values():
            for sent in members:
                sent.final = "disputed"
        findings = [*_record_findings(known), *_fork_findings(forks), *_missing_exits(known, day), *_terminals(known)]
        findings += [*_concessions(known), *self._torn(known)]
        findings += self._gaps(day, known, forks)
        findings += self._totals(day, known)
        self.books.forks(day, forks)
        self.books.subsidies(day, known)
        fees(self.books, day)
        self._settle(day, findings)

    def _settle(self, day: date, findings: Iterable[Finding]) -> None:
        seen = set()
        for f in findings:
            key = (f.kind, f.subject)
            seen.add(key)
            case = self.cases.setdefault(key, Case(f.kind, f.subject, f.amount_fen, day))
            if case.resolved is None:
                case.amount_fen = f.amount_fen
                if f.resolution:
                    case.resolved, case.resolution = day, f.resolution
        for key, case in self.cases.items():
            if key not in seen and case.resolved is None:
                case.resolved, case.resolution = day, SELF_RESOLVING[case.kind]

    def _gaps(self, day: date, known: Sequence[Sent], forks: Mapping[str, list[Sent]]) -> Iterator[Finding]:
        gaps: dict[str, tuple[int, int]] = {}
        for evidence in self._purses(day, known, forks).values():
            yield from self._walk(day, evidence, gaps)
        self.books.gaps(day, gaps)
        still = [t for t in self._doubts if business_date(t.at) <= day]
        yield from (Finding("load-in-doubt", _load_subject(t), t.amount_fen) for t in still)

    def _walk(self, day: date, e: Evidence, gaps: dict[str, tuple[int, int]]) -> Iterator[Finding]:
        """One purse: every pair of consecutive known records, beginning with the anchor."""
        last_counter, after, since = -1, 0, datetime.min.replace(tzinfo=e.known[0].at.tzinfo)
        for sent in e.known:
            counter, before, at = sent.tap.counter, sent.tap.balance_before_fen, sent.at
            between = range(last_counter + 1, counter)
            if not any(c in e.forked for c in between):
                loaded = sum(fen for t, fen in e.loads if since < t <= at)
                bare = [fen for t, fen in e.unsealed if since < t <= at]
                gap, missing = after + loaded - sum(bare) - before, len(between) - len(bare)
                doubt = next((t for t in e.doubts if since < t.at <= at), None)
                subject = f"{sent.tap.card.serial}/{sent.tap.purse}/0/{last_counter + 1}-{counter - 1}"
                if doubt is not None:
                    yield self._resolve(day, doubt, missing, gap)
                elif missing > 0 and gap >= 0:
                    gaps[subject] = (sent.tap.purse, gap)
                    yield Finding("card-gap", subject, gap)
                elif gap != 0:
                    raise AssertionError(f"the plan holds an unexplained difference of {gap} fen at {subject}")
            last_counter, after, since = counter, before - sent.tap.amount_fen, at

    def _resolve(self, day: date, load: Tap, missing: int, gap: int) -> Finding:
        if missing or gap not in (0, -load.amount_fen):
            raise AssertionError(f"the plan leaves the load {_load_subject(load)} without evidence")
        self._doubts.remove(load)
        if gap:
            self._committed.append(load)
            self.books.load(day, load)
        return Finding("load-in-doubt", _load_subject(load), load.amount_fen, "committed" if gap else "reversed")

    def _purses(
        self, day: date, known: Sequence[Sent], forks: Mapping[str, list[Sent]]
    ) -> dict[tuple[str, int], Evidence]:
        purses: dict[tuple[str, int], Evidence] = {}

        def of(tap: Tap) -> Evidence:
            return purses.setdefault((tap.card.serial, tap.purse), Evidence([], [], [], [], set()))

        forked = {id(s) for members in forks.values() for s in members}
        for sent in known:
            if not sent.proven:
                continue
            if sent.kind is Kind.LOAD:
                of(sent.tap).loads.append((sent.at, sent.tap.amount_fen))
            elif sent.kind in OFFLINE and not sealed(sent):
                of(sent.tap).unsealed.append((sent.at, sent.tap.amount_fen))
            elif id(sent) in forked:
                of(sent.tap).forked.add(sent.tap.counter)
            elif sent.kind in OFFLINE:
                of(sent.tap).known.append(sent)
        for load in self._committed:
            of(load).loads.append((load.at, load.amount_fen))
        for load in self._doubts:
            if business_date(load.at) <= day:
                of(load).doubts.append(load)
        for evidence in purses.values():
            evidence.known.sort(key=lambda s: s.tap.counter)
        return {key: evidence for key, evidence in purses.items() if evidence.known}

    def _torn(self, known: Sequence[Sent]) -> Iterator[Finding]:
        told = {
            (s.tap.card.serial, s.tap.purse, s.tap.counter)
            for s in known
            if s.proven and sealed(s) and s.kind in OFFLINE
        }
        for sent in known:
            if sent.kind is Kind.TORN:
                void = (sent.tap.card.serial, sent.tap.purse, sent.tap.counter) in told
                yield Finding("torn", sent.subject, sent.tap.amount_fen, "void" if void else None)

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
                yield Finding("operator-total", f"{d.operator}/{d.sector}/{d.date}", fen - d.fen)


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
            yield Finding("conflict", f"{sent.tap.card.serial}@{bcd_instant(sent.at).hex()}", amount)
        elif sent.code in CODE_CASES:
            yield Finding(CODE_CASES[sent.code], sent.subject, amount)
        if sent.proven and sent.kind in OFFLINE and not sealed(sent):
            yield Finding("bad-seal", sent.subject, amount)


def _fork_findings(forks: Mapping[str, list[Sent]]) -> Iterator[Finding]:
    for subject, members in forks.items():
        yield Finding("fork", subject, sum(s.tap.amount_fen for s in members))


def _missing_exits(known: Sequence[Sent], day: date) -> Iterator[Finding]:
    metro: dict[tuple[str, int], list[Sent]] = defaultdict(list)
    for sent in known:
        if sent.proven and sealed(sent) and sent.kind in (Kind.ENTRY, Kind.EXIT):
            metro[sent.tap.card.serial, sent.tap.purse].append(sent)
    for (card, purse), trips in metro.items():
        trips.sort(key=lambda s: s.tap.counter)
        for sent, following in zip(trips, [*trips[1:], None], strict=True):
            left = following is not None and following.kind is Kind.EXIT
            if sent.kind is Kind.ENTRY and sent.origin <= day and not left:
                yield Finding("missing-exit", f"{card}/{purse}/0/{sent.tap.counter}", 0)


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
            yield Finding("sequence-conflict", f"{terminal}/1", 0)
        expected = 1
        for sequence in sorted(seen):
            if sequence > expected:
                yield Finding("sequence-gap", f"{terminal}/1/{expected}-{sequence - 1}", 0)
            expected = sequence + 1
    yield from (Finding("batch-conflict", f"{terminal}/1", 0) for terminal in twins)


def _concessions(known: Sequence[Sent]) -> Iterator[Finding]:
    """Rides at a concession that the registry does not grant; what they would cost the treasury."""
    for sent in known:
        tap = sent.tap
        if subsidised(sent) and tap.card.ended:
            yield Finding("concession", sent.subject, tap.full_fare_fen - tap.amount_fen)


def _load_subject(load: Tap) -> str:
    return f"{load.card.serial}/{load.purse}/{load.counter}"
