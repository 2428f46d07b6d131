"""The counters of each card, checked against its value: gaps, unexplained money, loads in doubt (rules 12 and 17)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations

from simulators.evidence.intake import Authorised, Fact, Intake
from simulators.evidence.taprecord import Kind

Purse = tuple[bytes, int, int]
Counters = Mapping[int, list[Fact]]
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """What an interval between two known counters says; `kind` is a case kind, or empty when all is well.

    `settled` are the loads in doubt that the interval decides: True committed, False reversed.
    """

    purse: Purse
    first: int
    upper: Fact
    kind: str = ""
    fen: int = 0
    settled: tuple[tuple[Authorised, bool], ...] = ()

    @property
    def subject(self) -> str:
        card, purse, generation = self.purse
        last = self.upper.claims.counter
        where = f"{last}" if self.kind.startswith("unexplained") else f"{self.first}-{last - 1}"
        return f"{card.hex()}/{purse}/{generation}/{where}"


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


def _explanations(doubtful: list[Authorised], deficit_fen: int) -> list[tuple[Authorised, ...]]:
    """Every choice of loads that explains the deficit, at most one under each online counter; of tries of one amount
    under one counter only the last can have been finished."""
    last = {(each.load.counter, each.load.amount_fen): each for each in doubtful}.values()
    return [
        chosen
        for size in range(len(last) + 1)
        for chosen in combinations(last, size)
        if sum(each.load.amount_fen for each in chosen) == deficit_fen
        and len({each.load.counter for each in chosen}) == size
    ]


def _most_fen(doubtful: list[Authorised]) -> int:
    """The most that loads can sum up to, of which those under one online counter are alternatives."""
    most: dict[int, int] = defaultdict(int)
    for each in doubtful:
        most[each.load.counter] = max(most[each.load.counter], each.load.amount_fen)
    return sum(most.values())


def _interval(purse: Purse, lower: Fact | None, upper: Fact, money: _Money, unsealed: list[Fact]) -> Finding:
    start = lower.instant if lower else _BEGINNING
    first = lower.claims.counter + 1 if lower else 0
    loads = [fact.tap.amount_fen for fact in money.loads if start < fact.instant <= upper.instant]
    debits = [fact.tap.amount_fen for fact in unsealed if start < fact.instant <= upper.instant]
    doubtful = [each for each in money.doubtful if start < each.instant <= upper.instant]
    missing = upper.claims.counter - first - len(debits)
    after_fen = lower.claims.after_fen if lower else 0
    difference_fen = after_fen + sum(loads) - sum(debits) - upper.claims.balance_before_fen
    if doubtful and missing > 0:
        return Finding(purse, first, upper, "gap-or-load", _most_fen(doubtful))
    if doubtful and missing == 0 and (choices := _explanations(doubtful, -difference_fen)):
        settled = tuple((each, each in choices[0]) for each in doubtful) if len(choices) == 1 else ()
        return Finding(purse, first, upper, settled=settled)
    if missing > 0 and difference_fen >= 0:
        return Finding(purse, first, upper, "card-gap", difference_fen)
    if difference_fen < 0:
        return Finding(purse, first, upper, "unexplained-credit", -difference_fen)
    return Finding(purse, first, upper, "unexplained-debit" if difference_fen else "", difference_fen)


def read_counters(intake: Intake, known: Mapping[Purse, Counters]) -> Iterator[Finding]:
    """All intervals of our registered cards that are not torn by a fork."""
    money = _money(intake)
    for purse, counters in known.items():
        card, application, _ = purse
        if card not in intake.registry.cards:
            continue
        forked = {counter for counter, facts in counters.items() if len(facts) > 1}
        unsealed = money[card, application, 0].unsealed
        lower: Fact | None = None
        for counter in sorted(counters.keys() - forked):
            (upper,) = counters[counter]
            below = lower.claims.counter if lower else -1
            if not any(below < each < counter for each in forked):
                yield _interval(purse, lower, upper, money[purse], unsealed)
            lower = upper
