"""Rule 1 made visible: what a TAC does not cover is a claim, and a false claim under a valid TAC moves no account.

Each claim is altered on the way, after the seal: the TAC still proves the record, the seal does not. The false record
comes before the genuine one, after it, and alone; a close then looks for subsidies and gaps.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from cardcore.record import BY_NAME, Kind, TapRecord
from clearing.close.command import close
from clearing.verify import verify
from tests.intake_side import CARDS, OWN, SHOP, House, binary, debit, house, registry_document, sealed

DAY = date(2026, 3, 2)
STUDENT = CARDS[0]
# The words of rule 1, and the two that only select a key.
COVERED = {"suite", "key_version", "purse", "issuer", "card", "amount_fen", "transaction_type",
           "terminal_number", "terminal_transaction", "date", "time", "cryptogram"}  # fmt: skip
FALSE: Mapping[str, Any] = {
    "version": 2, "kind": Kind.TORN,
    "flags": 1, "key_index": 3, "generation": 1, "counter": 9, "balance_before_fen": 90_000,
    "overdraft_fen": 800, "terminal": SHOP, "epoch": 2, "sequence": 4, "line": 8, "station": 3, "entry_station": 5,
    "entry_at": 1_772_000_000, "concession": 3, "full_fare_fen": 900, "list_version": 7, "fare_version": 2,
    "operator": 201, "act_id": b"\1" * 8, "shift": 2, "reserved": b"\1" * 15, "seal": b"\1" * 8,
}  # fmt: skip
# What no terminal writes is not even read as a record.
MALFORMED = {"version", "reserved"}


def registry() -> dict[str, Any]:
    """A student's fare is half of 200 fen, the other half is the treasury's."""
    document = registry_document()
    dated = {"from": "2026-01-01", "version": 1, "basis": "test"}
    rules = {"fare-flat": ("7", {"fen": 200}), "concession": ("transit", {"1": 100, "2": 50, "3": 0})}
    policies = [{"name": name, "scope": scope, "value": value, **dated} for name, (scope, value) in rules.items()]
    student = {"card": STUDENT, "issuer": OWN, "profile": "shared-purse", "suite": "3des", "class": 2, "generation": 0}
    return {"policies": document["policies"] + policies, "cards": [student, *document["cards"][1:]]}


@dataclass
class Rides:
    """Two sealed student rides of one card, neighbours in counter and balance; the second is the one that is bent."""

    house: House

    def __post_init__(self) -> None:
        self.first, self.second = (
            debit(number, card=STUDENT, amount_fen=100, full_fare_fen=200, concession=2,
                  balance_before_fen=10_000 - 100 * number)
            for number in (1, 2)
        )  # fmt: skip

    async def send(self, n: int, record: TapRecord) -> dict[str, Any]:
        status, answer = await self.house.put(n, binary([record], epoch=record.epoch), record.terminal)
        assert status == 200, answer
        return answer

    async def books(self) -> dict[str, int]:
        return {name: fen for name, fen in (await self.house.accounts()).items() if fen}


@pytest.fixture
async def rides(database: str, tmp_path: Path) -> AsyncIterator[Rides]:
    async with house(database, tmp_path, **registry()) as opened:
        yield Rides(opened)


def test_every_field_is_covered_or_a_claim() -> None:
    assert COVERED.isdisjoint(FALSE)
    assert COVERED | set(FALSE) == set(BY_NAME)


@pytest.mark.parametrize("claim", FALSE)
async def test_a_false_claim_moves_no_account(rides: Rides, claim: str) -> None:
    await rides.send(1, rides.first)
    bent = replace(rides.second, **{claim: FALSE[claim]})
    before = await rides.books()
    answer = await rides.send(2, bent)
    assert answer["accepted"] == (0 if claim in MALFORMED else 1), answer
    moved = {name: fen - before.get(name, 0) for name, fen in (await rides.books()).items()}
    money = {"purse/float:1": 100, "purse/due:transit": -100, "transit/due:purse": 100, "transit/payable:101": -100}
    assert {name: fen for name, fen in moved.items() if fen} == ({} if claim in MALFORMED else money)
    # The genuine record comes as well, and once more the false one: nothing moves that has not moved.
    answer = await rides.send(3, rides.second)
    assert (answer["accepted"], answer["conflict"]) == ((1, 0) if claim in MALFORMED else (0, 1))
    await rides.send(4, replace(bent, sequence=40) if claim != "sequence" else bent)
    assert await rides.books() == {name: 2 * fen for name, fen in money.items()}
    await close(rides.house.pool, DAY, rides.house.clock)
    subsidy = {"transit/subsidy": 200, "transit/subsidy_payable:101": -200}
    assert await rides.books() == {name: 2 * fen for name, fen in money.items()} | subsidy


@pytest.mark.parametrize("claim", sorted(FALSE.keys() - MALFORMED))
async def test_alone_it_earns_neither_subsidy_nor_gap(rides: Rides, claim: str) -> None:
    await rides.send(1, rides.first)
    await rides.send(2, replace(rides.second, **{claim: FALSE[claim]}))
    await close(rides.house.pool, DAY, rides.house.clock)
    assert await rides.books() == {
        "purse/float:1": 200, "purse/due:transit": -200, "transit/due:purse": 200, "transit/payable:101": -200,
        "transit/subsidy": 100, "transit/subsidy_payable:101": -100,
    }  # fmt: skip


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("sequence", [3, 9])
async def test_of_copies_that_differ_under_seals_the_one_that_was_said_first_counts(
    rides: Rides, sequence: int, order: tuple[int, ...]
) -> None:
    """Whichever arrives first (rule 14): a full fare, and a student's half of it, under one TAC."""
    student = sealed(replace(rides.second, sequence=5))
    adult = sealed(replace(student, sequence=sequence, concession=1, full_fare_fen=100, counter=7))
    copies = (student, adult, replace(student, counter=9))
    for n, at in enumerate(order, start=1):
        await rides.send(n, copies[at])
    await close(rides.house.pool, DAY, rides.house.clock)
    subsidy = 100 if sequence == 9 else 0
    books = await rides.books()
    assert (books.get("transit/subsidy", 0), books["purse/float:1"]) == (subsidy, 100)
    kinds = {row["kind"] for row in await rides.house.pool.fetch("SELECT kind FROM case_file")}
    common = {"conflict", "sequence-gap", "unexplained-credit"}
    assert kinds == common | ({"concession", "fare"} if sequence == 3 else set())
    assert [check.name for check in await verify(rides.house.pool) if not check.ok] == []


async def test_a_claim_under_a_seal_does_count(rides: Rides) -> None:
    """The other side of the rule: the same words, sealed, carry the subsidy; so the tests above can fail."""
    await rides.send(1, rides.first)
    await rides.send(2, sealed(replace(rides.second, counter=9, balance_before_fen=9_000)))
    await close(rides.house.pool, DAY, rides.house.clock)
    books = await rides.books()
    assert books["transit/subsidy"] == 200
    assert (books["purse/float:1"], books["purse/unsettled:1"]) == (1000, -800)


@pytest.mark.parametrize("kind", [Kind.ENTRY, Kind.EXIT, Kind.TORN])
async def test_another_kind_under_the_same_tac_is_the_same_money(rides: Rides, kind: Kind) -> None:
    """The shadow of the purse follows too: no gap, and `verify` finds nothing that does not fit."""
    await rides.send(1, rides.first)
    await rides.send(2, replace(rides.second, kind=kind))
    await rides.send(3, debit(3, card=STUDENT, amount_fen=100, full_fare_fen=200, concession=2,
                              balance_before_fen=9_700))  # fmt: skip
    await close(rides.house.pool, DAY, rides.house.clock)
    books = await rides.books()
    assert (books["purse/float:1"], books["transit/payable:101"]) == (300, -300)
    assert "purse/unsettled:1" not in books
    assert [check.name for check in await verify(rides.house.pool) if not check.ok] == []


async def test_what_is_torn_without_a_tac_is_a_memo(rides: Rides) -> None:
    answer = await rides.send(1, sealed(replace(rides.first, kind=Kind.TORN, cryptogram=bytes(8))))
    assert (answer["accepted"], answer["memo"], await rides.books()) == (0, 1, {})


async def test_a_load_is_proven_by_its_type(rides: Rides) -> None:
    answer = await rides.send(1, replace(rides.first, kind=Kind.LOAD))
    assert (answer["accepted"], await rides.books()) == (0, {})
