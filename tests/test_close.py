"""The close, move by move: hand-computed postings and cases for every paragraph of docs/ledger.md."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC

import pytest
import pytest_asyncio
from asyncpg import RestrictViolationError

from cardcore.errors import RefusedError
from clearing.close.command import close
from clearing.explain import explain
from clearing.verify import verify
from tests.clearing_side import (
    BUS,
    BUS_CO,
    D1,
    D2,
    D3,
    METRO,
    SHOP,
    ClearingSide,
    StoppedClock,
    at,
    card,
    clearing_side,
    proof_key,
    resealed,
    subject,
)

A, B, C, E = card(1), card(2), card(3), card(4)
PURSE_A = f"{A.hex()}/1/0"


@pytest_asyncio.fixture
async def house(database: str) -> AsyncIterator[ClearingSide]:
    async with clearing_side(database) as side:
        yield side


async def test_subsidy_is_full_fare_less_charge(house: ClearingSide) -> None:
    await house.load(B, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(B, 0, 100, 1000, at("03-02 08:00"), full_fare_fen=200, concession=2)
    await house.close()
    assert await house.moves(D1, "subsidy") == {
        ("transit", "subsidy", "subsidy@3"): 100,
        ("transit", f"subsidy_payable:{BUS_CO}", "subsidy@3"): -100,
    }
    assert await house.cases() == {}


async def test_metro_fare_by_distance_and_without_entry(house: ClearingSide) -> None:
    await house.load(B, 0, 5000, 0, at("03-02 07:00"))
    # Four stops: 200 + 4 × 50 = 400, half for a student; without an entry the highest fare, 900.
    await house.tap(B, 0, 0, 5000, at("03-02 07:40"), terminal=METRO, kind=2, station=5)
    await house.tap(B, 1, 200, 5000, at("03-02 08:00"), terminal=METRO, kind=3, station=9, entry_station=5,
                    full_fare_fen=400, concession=2)  # fmt: skip
    await house.tap(B, 2, 450, 4800, at("03-02 09:00"), terminal=METRO, kind=3, station=9, entry_station=5, flags=4,
                    full_fare_fen=900, concession=2)  # fmt: skip
    await house.close()
    assert await house.moves(D1, "subsidy") == {
        ("transit", "subsidy", "subsidy@3"): 650,
        ("transit", "subsidy_payable:102", "subsidy@3"): -650,
    }
    assert await house.cases() == {}


async def test_wrong_fare_and_wrong_class_are_cases_and_pay_no_subsidy(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    dear = await house.tap(A, 0, 300, 1000, at("03-02 08:00"), full_fare_fen=300)
    nowhere = await house.tap(A, 1, 120, 700, at("03-02 08:10"), line=99)
    student = await house.tap(A, 2, 100, 580, at("03-02 09:00"), full_fare_fen=200, concession=2)
    await house.tap(A, 3, 100, 480, at("03-02 10:00"), sealed=False, full_fare_fen=200, concession=2)
    await house.close()
    assert await house.moves(D1, "subsidy") == {}
    cases = await house.cases()
    assert cases["fare", subject(dear)] == (100, D1, None, None, "operator")
    assert cases["fare", subject(nowhere)] == (120, D1, None, None, "operator")
    assert cases["concession", subject(student)] == (100, D1, None, None, "operator")
    assert {kind for kind, _ in cases} == {"fare", "concession", "bad-seal"}


async def test_subsidy_needs_seal_and_follows_adoption(house: ClearingSide) -> None:
    await house.load(B, 0, 1000, 0, at("03-02 07:00"))
    bare = await house.tap(B, 0, 100, 1000, at("03-02 08:00"), sealed=False, full_fare_fen=200, concession=2)
    await house.close()
    assert await house.moves(D1, "subsidy") == {}
    assert (await house.cases())["bad-seal", subject(bare)] == (100, D1, None, None, "operator")
    await house.adopt(bare, resealed(bare))
    await house.close()
    assert await house.moves(D2, "subsidy") == {
        ("transit", "subsidy", "subsidy@3"): 100,
        ("transit", "subsidy_payable:101", "subsidy@3"): -100,
    }
    assert (await house.cases())["bad-seal", subject(bare)] == (100, D1, D2, "adopted", "operator")
    rows = await house.pool.fetch("SELECT origin_date FROM posting WHERE rule = 'subsidy'")
    assert {row["origin_date"] for row in rows} == {D1}


async def test_adoption_takes_every_claim_of_the_sealed_copy(house: ClearingSide) -> None:
    await house.load(A, 0, 5000, 0, at("03-02 07:00"))
    bare = await house.tap(A, 0, 400, 5000, at("03-02 08:00"), terminal=METRO, sealed=False, sequence=41)
    shop = await house.tap(A, 1, 30, 4600, at("03-02 09:00"), terminal=METRO, sequence=41)
    # What the cryptogram does not cover, the unsealed copy got wrong: it was an exit, and of another number.
    sealed = replace(resealed(bare), kind=3, sequence=42, epoch=2, station=9, entry_station=5, concession=2)
    await house.adopt(bare, replace(sealed, full_fare_fen=400))
    await house.close()
    cases = await house.cases()
    assert cases["concession", subject(sealed)] == (0, D1, None, None, "operator")
    assert {kind for kind, _ in cases} == {"concession", "conflict", "fare", "missing-entry"}
    assert cases["fare", subject(shop)][0] == 170
    assert cases["fare", subject(sealed)][0] == 200
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_fork_disputes_every_member_and_takes_its_subsidy_back(house: ClearingSide) -> None:
    await house.load(B, 0, 1000, 0, at("03-02 07:00"))
    first = await house.tap(B, 0, 100, 1000, at("03-02 08:00"), full_fare_fen=200, concession=2)
    await house.close()
    # The clone's tap is the smaller in (date, time, …): float falls by it, and comes back for the other.
    clone = await house.tap(B, 0, 300, 1000, at("03-02 07:30"), terminal=SHOP)
    await house.close()
    assert await house.moves(D2, "fork", "subsidy") == {
        ("transit", "payable:101", "fork@1"): 100,
        ("transit", "suspense:101", "fork@1"): -100,
        ("smallpay", "payable:201", "fork@1"): 300,
        ("smallpay", "suspense:201", "fork@1"): -300,
        ("purse", "fraud", "fork@1"): 100,
        ("purse", "float:1", "fork@1"): -100,
        ("transit", "subsidy", "subsidy@3"): -100,
        ("transit", "subsidy_payable:101", "subsidy@3"): 100,
    }
    assert (await house.cases())["fork", f"{B.hex()}/1/0/0"] == (400, D2, None, None, "issuer")
    listed = await house.pool.fetchrow("SELECT reason, effective_at, published_at FROM denylist WHERE card = $1", B)
    assert listed["reason"] == "fork"
    assert listed["effective_at"] == at("03-04 03:00")
    assert listed["published_at"] == at("03-04 04:00")
    disputed = await house.pool.fetch("SELECT proof_key FROM record_event WHERE kind = 'disputed' AND on_date = $1", D2)
    assert {row["proof_key"] for row in disputed} == {proof_key(first), proof_key(clone)}
    # A third member, smaller still and suspended: the fraud grows, its own money already is in suspense.
    await house.tap(B, 0, 50, 1000, at("03-02 07:10"), state="suspended", code="clock")
    await house.close()
    assert await house.moves(D3, "fork") == {("purse", "fraud", "fork@1"): 300, ("purse", "float:1", "fork@1"): -300}
    assert (await house.cases())["fork", f"{B.hex()}/1/0/0"][0] == 450


async def test_fork_is_the_same_in_either_order(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 300, 1000, at("03-02 08:00"), terminal=SHOP)
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"), terminal=BUS)
    await house.close()
    # Same date and time: the terminal number decides, 7910…BUS is smaller than 7910…SHOP.
    assert (await house.moves(D1, "fork"))["purse", "fraud", "fork@1"] == 300


async def test_gap_is_booked_and_released_when_the_record_comes(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.tap(A, 2, 200, 650, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "gap") == {("purse", "float:1", "gap@1"): 150, ("purse", "unsettled:1", "gap@1"): -150}
    assert (await house.cases())["card-gap", f"{PURSE_A}/1-1"] == (150, D1, None, None, "clearing")
    await house.tap(A, 1, 150, 800, at("03-02 09:00"), terminal=SHOP)
    await house.close()
    assert await house.moves(D2, "gap") == {("purse", "float:1", "gap@1"): -150, ("purse", "unsettled:1", "gap@1"): 150}
    assert (await house.cases())["card-gap", f"{PURSE_A}/1-1"] == (150, D1, D2, "filled", "clearing")


async def test_gap_begins_at_the_anchor_and_may_be_worth_nothing(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 3, 200, 700, at("03-02 08:00"))
    await house.tap(A, 5, 200, 500, at("03-02 09:00"))
    await house.close()
    assert await house.moves(D1, "gap") == {("purse", "float:1", "gap@1"): 300, ("purse", "unsettled:1", "gap@1"): -300}
    cases = await house.cases()
    assert cases["card-gap", f"{PURSE_A}/0-2"][0] == 300
    assert cases["card-gap", f"{PURSE_A}/4-4"][0] == 0


async def test_unsealed_debit_explains_a_missing_counter(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.tap(A, 7, 150, 9, at("03-02 09:00"), terminal=SHOP, sealed=False)
    await house.tap(A, 2, 200, 650, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "gap") == {}
    assert {kind for kind, _ in await house.cases()} == {"bad-seal"}


async def test_unexplained_credit_freezes_and_unexplained_debit_does_not(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.tap(A, 1, 200, 1300, at("03-02 09:00"))
    await house.load(E, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(E, 0, 200, 940, at("03-02 08:00"))
    await house.close()
    cases = await house.cases()
    assert cases["unexplained-credit", f"{PURSE_A}/1"] == (500, D1, None, None, "issuer")
    assert cases["unexplained-debit", f"{E.hex()}/1/0/0"] == (60, D1, None, None, "issuer")
    assert await house.moves(D1, "gap") == {}
    assert [row["card"] for row in await house.pool.fetch("SELECT card FROM denylist")] == [A]


async def test_forked_counter_silences_the_gap_around_it(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.tap(A, 1, 200, 800, at("03-02 09:00"))
    await house.tap(A, 1, 200, 800, at("03-02 09:30"))
    await house.tap(A, 2, 200, 600, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "gap") == {}
    assert {kind for kind, _ in await house.cases()} == {"fork"}


async def test_load_in_doubt_is_committed_by_the_next_tap(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    late = await house.load(A, 1, 500, 800, at("03-02 09:00"), proven=False, load_id="doubt")
    await house.tap(A, 1, 200, 1300, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "load") == {
        ("purse", "cash:901", "load@1"): 1500,
        ("purse", "float:1", "load@1"): -1500,
    }
    assert await house.cases() == {
        ("load-in-doubt", f"{A.hex()}/1/1"): (500, D1, D1, "committed", "issuer"),
    }
    state = await house.pool.fetchrow("SELECT state, settled_on FROM load_order WHERE load_id = 'doubt'")
    assert tuple(state) == ("committed", D1)
    # Its own record comes at last: intake posts the load, the close takes back what stood in for it.
    await house.store(late, at("03-02 09:00"), sealed=False)
    await house.close()
    assert await house.moves(D2, "load") == {}
    assert await house.moves(D2, "gap") == {}
    causes = await house.pool.fetch(
        "SELECT cause, sum(amount_fen)::bigint AS fen FROM posting JOIN journal USING (journal_id) "
        "WHERE business_date = $1 AND account = 'cash:901' GROUP BY cause",
        D2,
    )
    assert {row["cause"]: row["fen"] for row in causes} == {"batch": 500, "close": -500}


async def test_a_load_decided_by_a_late_close_stays_on_record(house: ClearingSide) -> None:
    """Closes that lag behind see tomorrow's tap too: what the first of them decides is a case of the next ones as well,
    although the load's own date is still to come."""
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 500, 800, at("03-04 09:00"), proven=False)
    await house.tap(A, 1, 200, 1300, at("03-04 10:00"))
    late = StoppedClock(at("03-05 08:00").astimezone(UTC))
    for day in (D1, D2):
        await close(house.pool, day, late)
        assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, D1, "committed", "issuer")
        assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_load_in_doubt_is_reversed_when_the_value_never_came(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 500, 800, at("03-02 09:00"), proven=False)
    await house.close()
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, None, None, "issuer")
    await house.tap(A, 1, 200, 800, at("03-03 10:00"))
    await house.close()
    assert await house.moves(D2, "load") == {}
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, D2, "reversed", "issuer")


async def test_a_load_retried_in_cash_is_one_case_and_committed_once(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 700, 800, at("03-02 09:00"), proven=False, load_id="bank")
    await house.load(A, 1, 500, 800, at("03-02 09:05"), proven=False, load_id="cash")
    await house.close()
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, None, None, "issuer")
    await house.tap(A, 1, 200, 1300, at("03-03 10:00"))
    await house.close()
    assert (await house.moves(D2, "load"))["purse", "cash:901", "load@1"] == 500
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, D2, "committed", "issuer")
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_a_record_of_a_retried_load_stands_for_the_order_that_intake_confirmed(house: ClearingSide) -> None:
    bank = await house.load(A, 0, 500, 0, at("03-02 07:00"), proven=False, load_id="bank")
    await house.load(A, 0, 500, 0, at("03-02 07:05"), proven=False, load_id="cash")
    await house.load(A, 0, 500, 0, at("03-02 07:10"), proven=False, load_id="card")
    await house.pool.execute("UPDATE load_order SET channel = 902 WHERE load_id = 'cash'")
    await house.store(bank, at("03-02 07:00"), sealed=False, channel=902)
    await house.pool.execute("UPDATE load_order SET state = 'authorised' WHERE load_id <> 'cash'")
    await house.close()
    assert await house.cases() == {}
    assert [check for check in await verify(house.pool) if not check.ok] == []
    assert "cash:902" in await explain(house.pool, subject(bank))


async def test_the_record_of_one_try_undoes_what_evidence_said_of_another(house: ClearingSide) -> None:
    bank = await house.load(A, 0, 500, 0, at("03-02 07:00"), proven=False, load_id="bank")
    await house.load(A, 0, 500, 0, at("03-02 07:05"), proven=False, load_id="cash")
    await house.pool.execute("UPDATE load_order SET channel = 902 WHERE load_id = 'cash'")
    await house.tap(A, 0, 200, 500, at("03-02 08:00"))
    await house.close()
    assert (await house.moves(D1, "load"))["purse", "cash:902", "load@1"] == 500
    await house.store(bank, at("03-02 07:00"), sealed=False)
    await house.pool.execute("UPDATE load_order SET state = 'committed' WHERE load_id = 'cash'")
    assert [check for check in await verify(house.pool) if not check.ok] == []
    await house.close()
    assert await house.moves(D2, "load") == {
        ("purse", "cash:901", "load@1"): 500, ("purse", "cash:902", "load@1"): -500,
    }  # fmt: skip
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_a_load_under_a_higher_online_counter_proves_the_one_before(house: ClearingSide) -> None:
    first = await house.load(A, 0, 500, 0, at("03-02 07:00"), proven=False, load_id="first")
    await house.load(A, 1, 500, 500, at("03-02 09:00"), proven=False, load_id="second")
    await house.close()
    assert await house.moves(D1, "load") == {("purse", "cash:901", "load@1"): 500, ("purse", "float:1", "load@1"): -500}
    assert await house.cases() == {
        ("load-in-doubt", f"{A.hex()}/1/0"): (500, D1, D1, "committed", "issuer"),
        ("load-in-doubt", f"{A.hex()}/1/1"): (500, D1, None, None, "issuer"),
    }
    assert [check for check in await verify(house.pool) if not check.ok] == []
    await house.store(first, at("03-02 07:00"), sealed=False)
    await house.tap(A, 0, 200, 500, at("03-03 10:00"))
    await house.close()
    assert await house.moves(D2, "load") == {}
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, D2, "reversed", "issuer")
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_of_equal_tries_that_a_higher_counter_proves_the_last_happened(house: ClearingSide) -> None:
    await house.load(A, 0, 500, 0, at("03-02 07:00"), proven=False, load_id="first")
    await house.load(A, 0, 500, 0, at("03-02 07:05"), proven=False, load_id="again")
    await house.load(A, 1, 700, 500, at("03-02 09:00"), proven=False, load_id="next")
    await house.close()
    states = await house.pool.fetch("SELECT load_id, state FROM load_order")
    assert dict(states) == {"first": "reversed", "again": "committed", "next": "authorised"}
    assert (await house.moves(D1, "load"))["purse", "cash:901", "load@1"] == 500
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_gap_or_load_waits_for_evidence(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 500, 800, at("03-02 09:00"), proven=False)
    await house.tap(A, 2, 200, 700, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "gap") == {}
    cases = await house.cases()
    assert cases["gap-or-load", f"{PURSE_A}/1-1"] == (500, D1, None, None, "clearing")
    assert cases["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, None, None, "issuer")
    await house.tap(A, 1, 600, 1300, at("03-02 09:30"))
    await house.close()
    assert (await house.moves(D2, "load"))["purse", "cash:901", "load@1"] == 500
    cases = await house.cases()
    assert cases["gap-or-load", f"{PURSE_A}/1-1"] == (500, D1, D2, "evidence", "clearing")
    assert cases["load-in-doubt", f"{A.hex()}/1/1"] == (500, D1, D2, "committed", "issuer")


async def test_more_value_than_a_load_found_proves_it_though_a_record_is_missing(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 500, 800, at("03-02 09:00"), proven=False)
    await house.tap(A, 2, 200, 1100, at("03-02 10:00"))
    await house.close()
    assert await house.moves(D1, "gap", "load") == {
        ("purse", "cash:901", "load@1"): 1500, ("purse", "float:1", "load@1"): -1500,
        ("purse", "float:1", "gap@1"): 200, ("purse", "unsettled:1", "gap@1"): -200,
    }  # fmt: skip
    assert await house.cases() == {
        ("card-gap", f"{PURSE_A}/1-1"): (200, D1, None, None, "clearing"),
        ("load-in-doubt", f"{A.hex()}/1/1"): (500, D1, D1, "committed", "issuer"),
    }
    assert [check for check in await verify(house.pool) if not check.ok] == []


@pytest.mark.parametrize("gate", ["08:40", "09:20"])
async def test_a_gate_whose_clock_is_wrong_makes_no_thief_of_its_passenger(house: ClearingSide, gate: str) -> None:
    """The tap that the gate dates 08:40 came after the load of 09:00, the one that it dates 09:20 before it."""
    behind = gate < "09:00"
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.load(A, 1, 500, 800 if behind else 600, at("03-02 09:00"))
    await house.tap(A, 1, 200, 1300 if behind else 800, at(f"03-02 {gate}"))
    await house.tap(A, 2, 200, 1100, at("03-02 10:00"))
    await house.close()
    assert await house.cases() == {}
    assert await house.pool.fetchval("SELECT count(*) FROM denylist") == 0
    assert [check for check in await verify(house.pool) if not check.ok] == []


@pytest.mark.parametrize("later_load", [False, True])
async def test_a_last_tap_by_a_slow_clock_brings_no_load_twice(house: ClearingSide, later_load: bool) -> None:
    """By the clocks alone the first load lies before the first tap, and behind the last one too."""
    await house.load(A, 0, 1000, 0, at("03-02 08:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:02"))
    await house.tap(A, 1, 200, 800, at("03-02 07:59"))
    if later_load:
        await house.load(A, 1, 500, 600, at("03-02 08:01"))
    await house.close()
    assert await house.cases() == {}
    assert [check for check in await verify(house.pool) if not check.ok] == []


async def test_a_class_counts_from_when_the_registry_took_it(house: ClearingSide) -> None:
    await house.load(B, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(B, 0, 100, 1000, at("03-02 08:00"), full_fare_fen=200, concession=2)
    await house.close()
    await house.pool.execute("UPDATE card SET class = 1 WHERE card = $1", B)
    await house.pool.execute("INSERT INTO card_class VALUES ($1, $2, 1)", B, at("03-03 09:00"))
    await house.tap(B, 1, 100, 900, at("03-02 09:00"), full_fare_fen=200, concession=2)
    student = await house.tap(B, 2, 100, 800, at("03-03 10:00"), full_fare_fen=200, concession=2)
    await house.close()
    assert (await house.moves(D2, "subsidy"))["transit", "subsidy", "subsidy@3"] == 100
    assert await house.cases() == {("concession", subject(student)): (100, D2, None, None, "operator")}


async def test_a_counter_near_its_end_asks_for_another_card(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.load(B, 0xFC00, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0xFBFF, 0, 1000, at("03-02 08:00"))
    await house.close()
    assert [subject for kind, subject in await house.cases() if kind == "renewal"] == [f"{B.hex()}/1/0"]
    await house.tap(A, 0xFC00, 0, 1000, at("03-03 08:00"))
    await house.close()
    assert (await house.cases())["renewal", PURSE_A] == (0, D2, None, None, "issuer")


async def test_nothing_is_posted_into_a_closed_date(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.close()
    with pytest.raises(RestrictViolationError, match="closed business date"):
        await house.pool.execute(
            "INSERT INTO posting (journal_id, ledger, account, class, rule, version, business_date, origin_date, "
            "count, amount_fen) SELECT journal_id, ledger, account, class, rule, version, business_date, origin_date, "
            "0, -amount_fen FROM posting"
        )


async def test_fee_is_half_up_on_the_sum_of_the_day(house: ClearingSide) -> None:
    await house.load(A, 0, 9000, 0, at("03-02 07:00"))
    # 4 × 125 = 500 fen, 30 bps: 1.5 fen, half up 2.
    for counter in range(4):
        await house.tap(A, counter, 125, 9000 - 125 * counter, at(f"03-02 08:0{counter}"))
    await house.tap(A, 4, 200, 8500, at("03-02 09:00"), terminal=SHOP)
    closing = await house.close()
    assert await house.moves(D1, "fee") == {("transit", "payable:101", "fee@2"): 2, ("transit", "fee:101", "fee@2"): -2}
    assert [(fee.base_fen, fee.fee_fen, fee.remainder) for fee in closing.fees] == [(500, 2, -5000)]
    nets = await house.pool.fetch("SELECT class, party, net_fen FROM net_position WHERE date = $1", D1)
    assert {tuple(row) for row in nets} == {
        ("stored value", "101", 498), ("stored value", "201", 200), ("stored value", "clearing", 2), ("stored value",
        "issuer", -700),
    }  # fmt: skip


async def test_quarantine_conflict_and_torn_cases(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    tap = await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    forged = replace(tap, sequence=77, cryptogram=b"\1" * 8, amount_fen=55)
    await house.exhibit(forged, at("03-02 08:00"), "quarantined", "bad-proof")
    await house.exhibit(replace(forged, sequence=78), at("03-02 08:00"), "quarantined", "terminal-suspended")
    await house.exhibit(replace(tap, sequence=79), at("03-02 08:00"), "conflict", "conflict")
    torn = [
        replace(tap, kind=6, sequence=80 + n, counter=counter, cryptogram=bytes(8))
        for n, counter in enumerate((0, 1, 3))
    ]
    await house.tap(A, 2, 200, 600, at("03-02 09:00"))
    for record in torn:
        await house.exhibit(record, at("03-02 08:30"), "memo", "torn")
    await house.close()
    cases = await house.cases()
    assert cases["bad-proof", subject(forged)] == (55, D1, None, None, "operator")
    assert cases["conflict", f"{A.hex()}@20260302080000"] == (200, D1, None, None, "operator")
    assert [cases["torn", subject(record)] for record in torn] == [
        (200, D1, D1, "void", "clearing"), (200, D1, None, None, "clearing"), (200, D1, None, None, "clearing"),
    ]  # fmt: skip
    details = await house.pool.fetch(
        "SELECT detail ->> 'outcome' AS outcome FROM case_file WHERE kind = 'torn' ORDER BY subject"
    )
    assert [row["outcome"] for row in details] == ["void", "committed", "undecided"]
    assert cases["terminal-suspended", subject(replace(forged, sequence=78))] == (55, D1, None, None, "operator")
    assert {kind for kind, _ in cases} == {"bad-proof", "terminal-suspended", "conflict", "torn", "card-gap"}
    await house.pool.execute("UPDATE exhibit SET taken_up_at = now() WHERE code = 'bad-proof'")
    await house.tap(A, 1, 200, 800, at("03-02 08:30"))
    await house.close()
    cases = await house.cases()
    assert cases["bad-proof", subject(forged)] == (55, D1, D2, "taken up", "operator")
    assert cases["torn", subject(torn[1])] == (200, D1, D2, "void", "clearing")


@pytest.mark.parametrize(
    "code", ["bad-proof", "unknown-psam", "unknown-issuer", "no-key", "unknown-card", "malformed", "terminal-suspended"]
)
async def test_a_quarantined_record_is_a_case_until_it_is_taken_up(house: ClearingSide, code: str) -> None:
    record = await house.tap(A, 0, 0, 0, at("03-02 08:00"), terminal=METRO, kind=3, flags=4, full_fare_fen=0)
    record = replace(record, sequence=77, cryptogram=b"\1" * 8, amount_fen=55)
    await house.exhibit(record, at("03-02 08:00"), "quarantined", code)
    await house.close()
    assert (await house.cases())[code, subject(record)] == (55, D1, None, None, "operator")
    await house.pool.execute("UPDATE exhibit SET taken_up_at = now()")
    await house.close()
    assert (await house.cases())[code, subject(record)] == (55, D1, D2, "taken up", "operator")


async def test_suspended_records_are_cases_and_stay(house: ClearingSide) -> None:
    codes = ("clock", "psam-inactive", "replaced-card")
    taps = [await house.tap(card(5), n, 10, 100 - 10 * n, at(f"03-02 08:0{n}"), terminal=SHOP, state="suspended",
        code=code)
            for n, code in enumerate(codes)]  # fmt: skip
    rogue = await house.load(card(6), 0, 100, 0, at("03-02 07:00"), proven=False)
    await house.pool.execute("DELETE FROM load_order")
    await house.store(rogue, at("03-02 07:00"), state="suspended", code="rogue-load", sealed=False)
    await house.close()
    await house.close()
    cases = await house.cases()
    for code, tap in zip(codes, taps, strict=True):
        assert cases[code, subject(tap)] == (10, D1, None, None, "clearing")
    assert cases["rogue-load", subject(rogue)] == (100, D1, None, None, "clearing")


async def test_a_rogue_load_is_no_value_and_freezes_the_card(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    rogue = await house.load(A, 1, 500, 800, at("03-02 09:00"), proven=False)
    await house.pool.execute("DELETE FROM load_order WHERE counter = 1")
    await house.store(rogue, at("03-02 09:00"), state="suspended", code="rogue-load", sealed=False)
    await house.close()
    listed = await house.pool.fetch("SELECT card, reason, effective_at FROM denylist")
    assert [tuple(row) for row in listed] == [(A, "rogue-load", at("03-03 03:00"))]
    await house.tap(A, 1, 200, 1300, at("03-03 10:00"), state="suspended", code="denylisted")
    await house.close()
    assert (await house.cases())["unexplained-credit", f"{PURSE_A}/1"] == (500, D2, None, None, "issuer")
    assert await house.pool.fetchval("SELECT count(*) FROM denylist") == 1
    assert [check for check in await verify(house.pool) if not check.ok] == []
    await house.pool.execute("DELETE FROM denylist")
    assert [check.name for check in await verify(house.pool) if not check.ok] == [
        "rule 14 seals are of what each close saw",
        "rule 19 who was denylisted stands on the list",
        "rule 4 disputed cards are frozen",
    ]


async def test_a_load_is_in_doubt_although_a_rogue_record_names_it(house: ClearingSide) -> None:
    rogue = await house.load(A, 0, 500, 0, at("03-02 09:00"), proven=False)
    await house.store(rogue, at("03-02 09:00"), state="suspended", code="rogue-load", sealed=False)
    await house.pool.execute("UPDATE load_order SET state = 'authorised'")
    await house.close()
    assert (await house.cases())["load-in-doubt", f"{A.hex()}/1/0"] == (500, D1, None, None, "issuer")


async def test_denylist_bearer(house: ClearingSide) -> None:
    await house.pool.execute(
        "INSERT INTO denylist VALUES ($1, 5, 'lost', $2, $2, $3)", A, at("03-02 08:00"), at("03-02 09:00")
    )
    knew = await house.tap(
        A, 0, 10, 0, at("03-02 08:30"), state="suspended", code="denylisted", list_version=5, terminal=SHOP
    )
    new = await house.tap(
        A, 1, 10, -10, at("03-03 08:59"), state="suspended", code="denylisted", list_version=4, terminal=SHOP
    )
    bare = await house.tap(A, 2, 10, -20, at("03-03 08:59"), state="suspended", code="denylisted", list_version=5,
        terminal=SHOP,
                           sealed=False)  # fmt: skip
    grace = await house.tap(A, 3, 10, -20, at("03-03 09:00"), state="suspended", code="denylisted", terminal=SHOP)
    await house.close()
    cases = await house.cases()
    assert [cases["denylist", subject(tap)][4] for tap in (knew, new, bare, grace)] == [
        "acquirer",
        "issuer",
        "issuer",
        "acquirer",
    ]


async def test_an_unsealed_record_proves_no_terminal_whose_grace_it_could_have(house: ClearingSide) -> None:
    await house.pool.execute("INSERT INTO policy VALUES ('grace', 'pos', '2026-01-01', 1, '', '{\"hours\": 48}')")
    await house.pool.execute(
        "INSERT INTO denylist VALUES ($1, 5, 'lost', $2, $2, $3)", A, at("03-02 08:00"), at("03-02 09:00")
    )
    sealed, bare = [
        await house.tap(A, n, 10, -10 * n, at(f"03-03 09:0{n}"), state="suspended", code="denylisted", terminal=SHOP,
                        sealed=n == 0)
        for n in range(2)
    ]  # fmt: skip
    await house.close()
    cases = await house.cases()
    assert [cases["denylist", subject(tap)][4] for tap in (sealed, bare)] == ["issuer", "acquirer"]


async def test_sequence_and_batch_cases(house: ClearingSide) -> None:
    await house.pool.execute("INSERT INTO terminal_range VALUES ($1, 1, '{[1,4),[6,7),[9,10)}')", BUS)
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"), sequence=3)
    await house.tap(A, 1, 200, 800, at("03-02 08:10"), sequence=3)
    await house.pool.execute("INSERT INTO batch_conflict VALUES ($1, 12, '', '', now())", BUS)
    await house.close()
    expected = {
        ("sequence-gap", f"{BUS}/1/4-5"), ("sequence-gap", f"{BUS}/1/7-8"), ("sequence-conflict", f"{BUS}/1"),
        ("batch-conflict", f"{BUS}/12"),
    }  # fmt: skip
    assert await house.cases() == dict.fromkeys(expected, (0, D1, None, None, "operator"))
    await house.pool.execute("UPDATE terminal_range SET seen = '{[1,7),[9,10)}'")
    await house.close()
    cases = await house.cases()
    assert cases["sequence-gap", f"{BUS}/1/4-5"] == (0, D1, D2, "filled", "operator")
    assert cases["sequence-gap", f"{BUS}/1/7-8"][2] is None


async def test_missing_exit_until_the_exit_comes(house: ClearingSide) -> None:
    await house.load(A, 0, 5000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 0, 5000, at("03-02 08:00"), terminal=METRO, kind=2, station=5)
    await house.tap(A, 2, 900, 4800, at("03-02 10:00"), terminal=METRO, kind=3, station=9, flags=4)
    # Taken after the cut-off: it belongs to the next date, and is not missed before.
    await house.tap(E, 0, 0, 0, at("03-03 02:30"), terminal=METRO, kind=2, station=5)
    await house.close()
    cases = await house.cases()
    assert cases["missing-exit", f"{PURSE_A}/0"] == (0, D1, None, None, "operator")
    assert ("missing-exit", f"{E.hex()}/1/0/0") not in cases
    await house.tap(A, 1, 200, 5000, at("03-02 08:20"), terminal=METRO, kind=3, station=5, entry_station=5)
    await house.close()
    cases = await house.cases()
    assert cases["missing-exit", f"{PURSE_A}/0"] == (0, D1, D2, "exit", "operator")
    assert cases["missing-exit", f"{E.hex()}/1/0/0"][1] == D2


async def test_missing_entry_until_the_entry_comes(house: ClearingSide) -> None:
    """An exit says which entry it was priced by: that has to be the last thing known of the holder's journeys."""
    ride = {"terminal": METRO, "station": 5}
    leave = {"terminal": METRO, "kind": 3, "station": 9, "entry_station": 5}
    eight = at("03-02 08:00")
    await house.load(A, 0, 5000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 0, 5000, eight, kind=2, **ride)
    await house.tap(A, 1, 300, 5000, at("03-02 08:10"), terminal=SHOP)
    await house.tap(A, 2, 400, 4700, at("03-02 08:20"), entry_at=int(eight.timestamp()), **leave)
    # The entry is shown once more at another exit; then an entry that is another one than the exit was priced by.
    await house.tap(A, 3, 400, 4300, at("03-02 08:40"), entry_at=int(eight.timestamp()), **leave)
    await house.tap(A, 4, 0, 3900, at("03-02 09:00"), kind=2, terminal=METRO, station=1)
    await house.tap(A, 5, 400, 3900, at("03-02 09:20"), **leave)
    await house.tap(A, 6, 0, 3500, at("03-02 10:00"), kind=2, **ride)
    await house.tap(A, 7, 400, 3500, at("03-02 10:20"), entry_at=int(eight.timestamp()), **leave)
    # An entry that is not uploaded yet, and an exit that was priced without any.
    await house.load(B, 0, 5000, 0, at("03-02 07:00"))
    await house.tap(B, 1, 400, 5000, at("03-02 08:20"), entry_at=int(eight.timestamp()), **leave)
    await house.tap(B, 2, 900, 4600, at("03-02 09:20"), flags=4, **leave)
    await house.close()
    purse_b = PURSE_A.replace(A.hex(), B.hex())
    wanted = {f"{PURSE_A}/3", f"{PURSE_A}/5", f"{PURSE_A}/7", f"{purse_b}/1"}
    opened = {name: case for (kind, name), case in (await house.cases()).items() if kind == "missing-entry"}
    assert opened == dict.fromkeys(wanted, (0, D1, None, None, "operator"))
    await house.tap(B, 0, 0, 5000, eight, kind=2, **ride)
    await house.close()
    assert (await house.cases())["missing-entry", f"{purse_b}/1"] == (0, D1, D2, "entry", "operator")
    assert (await house.cases())["missing-entry", f"{PURSE_A}/3"][2] is None


async def test_operator_total_until_it_matches(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.pool.execute("INSERT INTO declared_total VALUES ($1, 1, $2, 2, 500), ($1, 1, $3, 1, 1)", BUS_CO, D1, D2)
    await house.close()
    assert (await house.cases())["operator-total", f"{BUS_CO}/transit/{D1}"] == (-300, D1, None, None, "operator")
    await house.tap(A, 1, 300, 800, at("03-02 09:00"))
    await house.close()
    cases = await house.cases()
    assert cases["operator-total", f"{BUS_CO}/transit/{D1}"] == (-300, D1, D2, "equal", "operator")
    assert cases["operator-total", f"{BUS_CO}/transit/{D2}"] == (-1, D2, None, None, "operator")


async def test_close_again_changes_nothing_and_dates_close_in_order(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    closing = await house.close()
    clock = StoppedClock(at("03-09 12:00"))
    again = await close(house.pool, D1, clock)
    assert again.repeated
    assert (again.books_digest, again.closed_at) == (closing.books_digest, closing.closed_at)
    with pytest.raises(RefusedError, match="the open date is 2026-03-03"):
        await close(house.pool, D3, clock)
    assert await house.pool.fetchval("SELECT date FROM open_day") == D2
    assert await house.pool.fetchval("SELECT count(*) FROM closing") == 1


async def test_balances_fold_from_day_to_day(house: ClearingSide) -> None:
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.close()
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.close()
    rows = await house.pool.fetch(
        "SELECT date, debit_fen, credit_fen, closing_fen FROM balance WHERE account = 'float:1' ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(D1, 0, 1000, -1000), (D2, 200, 0, -800)]
