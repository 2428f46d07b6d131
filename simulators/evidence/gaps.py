"""The counters of each card, checked against its value: gaps, unexplained money, loads in doubt (rules 12 and 17)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from simulators.evidence.intake import Authorised, Fact, Intake
from simulators.evidence.placement import Interval, Loading, place_debits, place_loads
from simulators.evidence.taprecord import Kind

Purse = tuple[bytes, int, int]
Counters = Mapping[int, list[Fact]]
Settled = tuple[Authorised, bool]


@dataclass(frozen=True, slots=True)
class Finding:
    """What an interval between two known counters says; `kind` is a case kind, `spare` how many counters are missing
    that no unsealed debit took up."""

    purse: Purse
    first: int
    upper: Fact
    kind: str
    fen: int
    spare: int

    @property
    def subject(self) -> str:
        card, purse, generation = self.purse
        last = self.upper.claims.counter
        where = f"{last}" if self.kind.startswith("unexplained") else f"{self.first}-{last - 1}"
        return f"{card.hex()}/{purse}/{generation}/{where}"


@dataclass(slots=True)
class Reading:
    """What all counters say: cases, the loads in doubt that are decided (True committed, False reversed), and what
    lies behind the last known record of each purse."""

    findings: list[Finding] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    behind: dict[Purse, Interval] = field(default_factory=dict)


def known_counters(facts: Iterable[Fact]) -> dict[Purse, dict[int, list[Fact]]]:
    """Proven sealed offline records by purse and counter; more than one under a counter is a fork."""
    found: dict[Purse, dict[int, list[Fact]]] = defaultdict(lambda: defaultdict(list))
    for fact in facts:
        if fact.known:
            found[fact.claims.purse_key][fact.claims.counter].append(fact)
    return found


def loads_in_doubt(intake: Intake) -> list[Authorised]:
    """Authorisations that no accepted record finished; a record finishes all tries under its online counter."""
    return [each for key, authorised in intake.loads.items() if key not in intake.loaded for each in authorised]


@dataclass(slots=True)
class _Money:
    """What moved value on one purse besides its known records."""

    loads: list[Fact] = field(default_factory=list)
    unsealed: list[Fact] = field(default_factory=list)
    doubtful: list[Authorised] = field(default_factory=list)


def _money(intake: Intake) -> dict[Purse, _Money]:
    """By purse; unsealed debits prove no generation, so they stand under generation 0 and are read for every one."""
    found: dict[Purse, _Money] = defaultdict(_Money)
    for fact in intake.facts:
        if fact.state == "accepted" and fact.tap.kind == Kind.LOAD:
            found[fact.tap.purse_key].loads.append(fact)
        elif fact.proven and fact.offline and not fact.sealed:
            found[fact.tap.card, fact.tap.purse, 0].unsealed.append(fact)
    for authorised in loads_in_doubt(intake):
        load = authorised.load
        found[load.card, load.purse, load.generation].doubtful.append(authorised)
    return found


def _loadings(money: _Money, overdraft_fen: int) -> list[Loading]:
    """The loads of a purse in their order, (online counter, instant, authorisation), with what each proves."""
    found = []
    for fact in money.loads:
        raw_fen = fact.tap.balance_before_fen + fact.tap.overdraft_fen
        found.append(Loading(fact.tap.counter, fact.instant, raw_fen - overdraft_fen, fact.tap.amount_fen))
    tries = sorted(money.doubtful, key=lambda each: each.instant)
    highest = max([*(load.counter for load in found), *(each.load.counter for each in tries)], default=0)
    alike: dict[tuple[int, int], list[Authorised]] = defaultdict(list)
    for each in tries:
        alike[each.load.counter, each.load.amount_fen].append(each)
    different = Counter(counter for counter, _ in alike)
    for each in tries:
        load = each.load
        *forgotten, last = alike[load.counter, load.amount_fen]
        if each is last:
            found.append(
                Loading(
                    counter=load.counter,
                    instant=each.instant,
                    found_fen=load.raw_balance_fen - overdraft_fen,
                    fen=load.amount_fen,
                    credited=True if different[load.counter] == 1 and load.counter < highest else None,
                    authorised=each,
                    forgotten=tuple(forgotten),
                )
            )
    return sorted(found, key=lambda load: (load.counter, load.instant))


def _intervals(counters: Counters) -> list[Interval]:
    """Between the known records that no fork disputes; the last one is open."""
    forked = {counter for counter, facts in counters.items() if len(facts) > 1}
    known = [counters[counter][0] for counter in sorted(counters.keys() - forked)]
    found = [Interval(lower, upper) for lower, upper in pairwise([None, *known, None])]
    if forked:
        for interval in found:
            interval.forked = any(
                interval.first <= each and (interval.upper is None or each < interval.upper.claims.counter)
                for each in forked
            )
    return found


def _judge(purse: Purse, interval: Interval) -> Finding | None:
    """The case that an interval is, if it is one."""
    upper = interval.upper
    if interval.forked or upper is None:
        return None
    doubtful = [load for load in interval.loads if load.credited is None]
    if doubtful and interval.holds(interval.loads):
        fen, spare = _most_fen(doubtful), interval.spare
        return Finding(purse, interval.first, upper, "gap-or-load", fen, spare) if spare else None
    left_fen = interval.difference_fen
    if interval.spare and left_fen >= 0:
        return Finding(purse, interval.first, upper, "card-gap", left_fen, interval.spare)
    if left_fen == 0:
        return None
    kind = "unexplained-credit" if left_fen < 0 else "unexplained-debit"
    return Finding(purse, interval.first, upper, kind, abs(left_fen), interval.spare)


def _most_fen(doubtful: Iterable[Loading]) -> int:
    """The most that loads in doubt can sum up to; those under one online counter are alternatives."""
    most: dict[int, int] = defaultdict(int)
    for load in doubtful:
        most[load.counter] = max(most[load.counter], load.fen)
    return sum(most.values())


def _settled(loads: Iterable[Loading]) -> Iterator[Settled]:
    """The orders that are decided; with the last of some tries, those that the card had forgotten for it."""
    for load in loads:
        if load.authorised and load.credited is not None:
            yield load.authorised, load.credited
            yield from ((each, False) for each in load.forgotten)


def read_counters(intake: Intake, known: Mapping[Purse, Counters]) -> Reading:
    """All intervals of our registered cards, and the loads in doubt that their values and counters decide."""
    money, reading = _money(intake), Reading()
    for purse in sorted(known.keys() | money.keys()):
        card, application, _ = purse
        if card not in intake.registry.cards:
            continue
        intervals = _intervals(known.get(purse, {}))
        first = intervals[0].upper
        overdraft_fen = first.claims.overdraft_fen if first else 0
        loads = _loadings(money[purse], overdraft_fen) if purse in money else []
        reading.settled += _settled(place_loads(intervals, loads))
        if (card, application, 0) in money:
            place_debits(intervals, money[card, application, 0].unsealed)
        reading.findings += filter(None, (_judge(purse, interval) for interval in intervals))
        reading.behind[purse] = intervals[-1]
    return reading
