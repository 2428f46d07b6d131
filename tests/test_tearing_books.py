"""Money over card and books: every flow that moves it, cut at every write and every answer, and recovered in every way.

Each cut has a card of its own in one city: the product's counter, bus and gate, the product's service, close and
verify. A cut in the middle of an answer is the loss of the answer to whoever waits for it (the bytes are counted in
test_tearing_line.py), so that writes and answers are all there is. An unload has no postings yet: its cuts are in
test_unload_flow.py. Rules 12, 17 and 22.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cardcore.errors import CardError, ReaderError
from cardcore.purse import Committed, Outcome, Refused, Unknown
from cardcore.record import Suite
from clearing.verify import verify
from readers.pcsc.direct import DirectChannel
from readers.pcsc.recovery import find_debit
from simulators.card_os import SoftwareCard
from tests.counter_side import PIN
from tests.tearing_side import City, Deed, Hand, Recovery, Tap, city

SUITES = (Suite.TRIPLE_DES, Suite.SM4)


@dataclass(frozen=True)
class Case:
    """One card's fate: which flow was cut, where, and when anybody asked."""

    deed: Deed
    suite: Suite
    recovery: Recovery
    after_writes: int | None = None
    lost_answer: int | None = None


@dataclass
class Played:
    """The card of a case, and what was known of the cut flow when the terminal was done with it."""

    case: Case
    card: SoftwareCard
    before_fen: int
    outcome: Outcome | None
    torn: bool
    did_it: bool


@pytest.fixture
async def town(database: str, tmp_path: Path) -> AsyncIterator[City]:
    async with city(database, tmp_path) as made:
        yield made


async def attempt(town: City, deed: Deed, hand: Hand, suite: Suite) -> tuple[Tap | None, Outcome | None]:
    """The flow: its tap (None of a load) and how it ended, None where it ended before anything was granted."""
    flows = {Deed.RIDE: town.ride, Deed.ENTRY: town.enter, Deed.EXIT: town.leave}
    try:
        if deed is Deed.LOAD:
            return None, await town.load(hand, suite)
        tap = await flows[deed](hand, suite)
    except (CardError, ReaderError):
        return None, None
    return tap, tap.done.outcome


async def ready(town: City, deed: Deed, suite: Suite) -> SoftwareCard:
    """A card with money, and for an exit with an entry that the gate has uploaded."""
    card = await town.card(suite)
    if deed is Deed.EXIT:
        entry = await town.enter(Hand(card), suite)
        await town.keep(entry, entry.done.outcome)
    return card


async def cuts(town: City, deed: Deed, suite: Suite) -> Iterator[Case]:
    """Every cut of this flow, counted on a card that is not cut."""
    card = await ready(town, deed, suite)
    hand, before = Hand(card), card.memory.written
    tap, outcome = await attempt(town, deed, hand, suite)
    assert isinstance(outcome, Committed)
    if tap is not None:
        await town.keep(tap, outcome)
    writes, answers = card.memory.written - before, hand.answers
    assert writes >= 4 and answers >= 3
    blank = Case(deed, suite, Recovery.AT_ONCE)
    return iter(
        [replace(blank, after_writes=n) for n in range(writes)]
        + [replace(blank, lost_answer=n) for n in range(answers)]
    )


async def play(town: City, case: Case) -> Played:
    card = await ready(town, case.deed, case.suite)
    before_fen, counters = value(card), moved(card)
    hand = Hand(card, returns=case.recovery is Recovery.AT_ONCE, lost_answer=case.lost_answer)
    card.power_on()
    card.memory.cut_after(case.after_writes)
    tap, outcome = await attempt(town, case.deed, hand, case.suite)
    if tap is not None:
        assert outcome is not None
        await town.keep(tap, outcome)
    hand.put_back()
    card.power_on()
    did_it, torn = moved(card) != counters, tap is not None and isinstance(outcome, Unknown)
    if case.recovery is Recovery.LATER:
        outcome = await asked_again(town, case, hand, tap, outcome)
    elif case.recovery is Recovery.ELSEWHERE:
        next_ride = await town.ride(hand, case.suite)
        assert isinstance(next_ride.done.outcome, Committed)
        await town.keep(next_ride, next_ride.done.outcome)
    return Played(case, card, before_fen, outcome, torn, did_it)


async def asked_again(town: City, case: Case, hand: Hand, tap: Tap | None, outcome: Outcome | None) -> Outcome | None:
    """The card is back at the terminal that knows of it; what it tells is written down."""
    channel = DirectChannel(hand)
    if case.deed is Deed.LOAD:
        settled = await town.counter.settle(channel, serial(town, hand.card), PIN)
        return settled[0].outcome if settled else outcome
    if tap is None or not isinstance(outcome, Unknown):
        return outcome
    found = await find_debit(channel, outcome.evidence, 1, tap.purchase.key_index, tap.record.card)
    if not isinstance(found, Unknown):
        await town.keep(tap, found)
    return found


def value(card: SoftwareCard) -> int:
    """Fen in the purse by the card's memory, its allowance left out."""
    return card.purses()[1].balance_fen


def moved(card: SoftwareCard) -> tuple[int, int]:
    """Both counters of the purse: whatever the card does moves one of them."""
    purse = card.purses()[1]
    return purse.offline, purse.online


def serial(town: City, card: SoftwareCard) -> bytes:
    return next(number for number, known in town.cards.items() if known is card)


async def test_no_cut_makes_or_loses_a_fen(town: City) -> None:
    played = []
    for deed in Deed:
        for suite in SUITES:
            for cut in [*await cuts(town, deed, suite)]:
                played += [await play(town, replace(cut, recovery=recovery)) for recovery in Recovery]
    assert len(played) > 400
    for one in played:
        told_truly(one)
    await town.upload()
    await town.close(3)
    checks = await verify(town.pool)
    assert not [check for check in checks if not check.ok]
    await books_are_the_cards(town, played)


def told_truly(one: Played) -> None:
    """Asked while the terminal still knew of it, the card always tells; and what is told is what its memory says."""
    if one.case.recovery in (Recovery.AT_ONCE, Recovery.LATER):
        assert not isinstance(one.outcome, Unknown), one.case
        assert isinstance(one.outcome, Committed) == one.did_it, one.case
        assert value(one.card) == one.before_fen + one.did_it * one.case.deed.value, one.case
    elif not isinstance(one.outcome, Unknown):
        assert isinstance(one.outcome, Committed) == one.did_it, one.case


async def books_are_the_cards(town: City, played: Sequence[Played]) -> None:
    """Card by card and in all: memory = loads - spends - gaps, and what a card that never came back took along; what is
    open is what nobody could have told."""
    memory = {number: value(card) for number, card in town.cards.items()}
    loads = await by_card(town, "load_order WHERE state IN ('confirmed', 'committed')")
    spends = await by_card(town, "fact WHERE kind IN (1, 2, 3) AND state = 'accepted'")
    gaps: Counter[bytes] = Counter()
    found: dict[str, set[str]] = {}
    for kind, subject, fen, detail in await town.pool.fetch(
        "SELECT kind, subject, amount_fen, detail ->> 'outcome' FROM case_file WHERE resolved IS NULL"
    ):
        card = await of_record(town, subject) if kind == "torn" else subject.split("/")[0]
        gaps[bytes.fromhex(card)] += fen if kind == "card-gap" else 0
        found.setdefault(f"{kind} {detail}" if kind == "torn" else kind, set()).add(card)
    taken = {serial(town, one.card): one.case.deed.value for one in played if never_told(one) and one.did_it}
    books = {number: loads[number] - spends[number] - gaps[number] for number in memory}
    assert memory == {number: fen + taken.get(number, 0) for number, fen in books.items()}
    assert await posted(town, "float:%") == sum(books.values())
    assert await posted(town, "payable:%") == spends.total()
    assert await posted(town, "unsettled:%") == gaps.total()
    assert found == {kind: {serial(town, one.card).hex() for one in played if of(one)} for kind, of in OPEN.items()} | {
        "missing-exit": await entries_alone(town)
    }


def vanished(one: Played) -> bool:
    """The card did it, its terminal never learnt that, and the next ride shows it."""
    unheard = isinstance(one.outcome, Unknown) and one.case.recovery is Recovery.ELSEWHERE
    return unheard and one.did_it and one.case.deed is not Deed.LOAD


def never_told(one: Played) -> bool:
    """Nobody saw the card again, and it alone knows."""
    return one.case.recovery is Recovery.NEVER and isinstance(one.outcome, Unknown)


def torn_and_open(one: Played) -> bool:
    """A torn declaration of what the card then denied, or never spoke of; clearing hears of it with its next ride."""
    denied = one.case.recovery is Recovery.LATER and not one.did_it
    return one.torn and (denied or one.case.recovery is Recovery.NEVER)


def granted_and_open(one: Played) -> bool:
    """A load that the desk granted and the card refused, or never spoke of; clearing hears of it with its next ride."""
    granted = one.case.deed is Deed.LOAD and isinstance(one.outcome, Refused | Unknown)
    return granted and one.case.recovery is not Recovery.ELSEWHERE


OPEN = {
    "card-gap": vanished,
    "torn committed": vanished,
    "torn undecided": torn_and_open,
    "load-in-doubt": granted_and_open,
}


async def by_card(town: City, rows: str) -> Counter[bytes]:
    query = f"SELECT card, sum(amount_fen)::bigint FROM {rows} GROUP BY 1"  # noqa: S608 - the test's own words
    return Counter(dict(await town.pool.fetch(query)))


async def posted(town: City, accounts: str) -> int:
    """What stands on these accounts, in credit."""
    return int(await town.pool.fetchval("SELECT -sum(amount_fen) FROM posting WHERE account LIKE $1", accounts))


async def of_record(town: City, subject: str) -> str:
    """The card of a torn declaration, which the bus has under this sequence."""
    return town.records[int(subject.split("/")[2]) - 1].card.hex()


async def entries_alone(town: City) -> set[str]:
    """Cards whose entry was proved and whose exit nobody knows of."""
    query = "SELECT encode(card, 'hex') FROM fact WHERE kind IN (2, 3) GROUP BY card HAVING max(kind) = 2"
    return {row[0] for row in await town.pool.fetch(query)}
