"""What a record becomes: the verdict table of docs/ledger.md row by row, its postings, and that the way of arrival
does not matter."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from cardcore.record import Kind, TapRecord
from clearing.close.command import close
from clearing.intake import Verifiers, retake
from clearing.registry import parse_registry, take
from clearing.verify import verify
from tests.intake_side import (
    BUS,
    BUS_PSAM,
    CARDS,
    DENIED,
    FOREIGN,
    LOST_PSAM,
    NOON,
    OLD_PSAM,
    REPLACED,
    SHOP,
    SHOP_PSAM,
    STRANGER,
    House,
    binary,
    debit,
    house,
    key_store,
    psam,
    registry_document,
    sealed,
    spoiled,
)  # fmt: skip


@pytest.fixture
async def open_house(database: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(database, tmp_path) as opened:
        yield opened


async def report(house_: House, card: str) -> None:
    """A report three hours before noon, taken then."""
    now = house_.clock.instant
    house_.clock.instant = now - timedelta(hours=3)
    reported_at = house_.clock.instant.isoformat()
    status, _ = await house_.post("/v1/desk/reports", card=card, reason="lost", reported_at=reported_at)
    house_.clock.instant = now
    assert status == 201


ROWS: list[tuple[TapRecord, str, str]] = [
    (replace(debit(1), kind=9), "quarantined", "malformed"),
    (replace(debit(1), version=2), "quarantined", "malformed"),
    (replace(debit(1), reserved=bytes(14) + b"\1"), "quarantined", "malformed"),
    (replace(debit(1), time=bytes.fromhex("246000")), "quarantined", "malformed"),
    (replace(debit(1), date=bytes.fromhex("20260230")), "quarantined", "malformed"),
    (replace(debit(1), card=bytes.fromhex("0310000000000000000a")), "quarantined", "malformed"),
    (debit(1, psam="790000000000"), "quarantined", "unknown-psam"),
    (debit(1, psam=OLD_PSAM), "quarantined", "unknown-psam"),
    (spoiled(debit(1, kind=Kind.TORN)), "memo", "torn"),
    (debit(1, kind=Kind.TORN), "accepted", ""),
    (debit(1, issuer="09999999"), "quarantined", "unknown-issuer"),
    (debit(1, issuer=FOREIGN), "pending_issuer", "foreign"),
    (replace(debit(1), key_version=9), "quarantined", "no-key"),
    (spoiled(debit(1)), "quarantined", "bad-proof"),
    (replace(debit(1), amount_fen=100), "quarantined", "bad-proof"),
    (debit(1, card=STRANGER), "quarantined", "unknown-card"),
    (debit(1, psam=LOST_PSAM), "suspended", "psam-inactive"),
    (debit(1, psam=OLD_PSAM, at=NOON.replace(month=2, day=1, hour=1)), "suspended", "psam-inactive"),
    (debit(1, at=NOON + timedelta(seconds=301)), "suspended", "clock"),
    (debit(1, at=NOON + timedelta(seconds=300)), "accepted", ""),
    (debit(1, card=REPLACED), "suspended", "replaced-card"),
    (debit(1, card=DENIED), "suspended", "denylisted"),
    (debit(1, card=DENIED, at=NOON - timedelta(hours=4)), "accepted", ""),
    (debit(1, kind=Kind.LOAD, transaction_type=2), "suspended", "rogue-load"),
    (debit(1, psam=SHOP_PSAM, terminal=SHOP), "accepted", ""),
    (debit(1, suite=4), "accepted", ""),
    (debit(1, seal=False), "accepted", ""),
]


@pytest.mark.parametrize(("record", "state", "code"), ROWS)
async def test_each_row_of_the_table(open_house: House, record: TapRecord, state: str, code: str) -> None:
    await report(open_house, DENIED)
    await report(open_house, REPLACED)
    assert (await open_house.post("/v1/desk/replacements", old=REPLACED, new=CARDS[19]))[0] == 201
    answer = await open_house.upload(1, [record])
    assert await open_house.states() == {(state, code): 1}
    if state == "quarantined":
        assert answer["quarantined"] == [{"seq": 1, "code": code}]
    again = await open_house.upload(2, [record])
    assert again["duplicate"] == 1
    assert await open_house.states() == {(state, code): 1}


async def test_postings_of_each_kind(open_house: House) -> None:
    await report(open_house, DENIED)
    await open_house.upload(
        1, [debit(1), debit(2, card=DENIED), debit(3, issuer=FOREIGN), debit(4, amount_fen=0), spoiled(debit(5))]
    )
    await open_house.upload(1, [debit(1, psam=SHOP_PSAM, terminal=SHOP, amount_fen=750)])
    assert await open_house.accounts() == {
        "purse/float:1": 1150, "purse/due:transit": -400, "purse/due:smallpay": -750, "transit/due:purse": 400,
        "transit/payable:101": -200, "transit/suspense:101": -200, "transit/pending_receivable:02317950": 200,
        "transit/pending_payable:101": -200, "smallpay/due:purse": 750, "smallpay/payable:201": -750,
    }  # fmt: skip


async def test_dates_and_merkle_roots(open_house: House) -> None:
    """A tap at 01:59 belongs to the day before; a late one posts to the open date and keeps its own."""
    import hashlib

    from cardcore.cryptogram import proof_input

    night = debit(1, at=NOON.replace(hour=1, minute=59))
    await open_house.upload(1, [night, debit(2), debit(3)])
    rows = await open_house.pool.fetch(
        "SELECT business_date, origin_date, count, amount_fen, merkle_root FROM posting "
        "WHERE account = 'float:1' ORDER BY 2"
    )
    assert [tuple(row)[:4] for row in rows] == [
        (date(2026, 3, 2), date(2026, 3, 1), 1, 200),
        (date(2026, 3, 2), date(2026, 3, 2), 2, 400),
    ]

    def sm3(octets: bytes) -> bytes:
        return hashlib.new("sm3", octets).digest()

    leaves = sorted(sm3(proof_input(record))[:16] for record in (debit(2), debit(3)))
    assert rows[1]["merkle_root"] == sm3(b"\1" + sm3(b"\0" + leaves[0]) + sm3(b"\0" + leaves[1]))


async def test_a_conflict_lends_its_claims_only_when_it_is_sealed_and_the_posted_copy_is_not(open_house: House) -> None:
    bare, whole = debit(1, seal=False, counter=9), debit(1)
    other = sealed(replace(debit(1), sequence=8))
    assert (await open_house.upload(1, [bare]))["accepted"] == 1
    assert (await open_house.upload(2, [sealed(replace(whole, counter=1)), other]))["conflict"] == 2
    assert (await open_house.upload(3, [bare, other]))["duplicate"] == 2
    events = await open_house.pool.fetch("SELECT kind, record FROM record_event")
    assert [tuple(row) for row in events] == [("adopted", sealed(replace(whole, counter=1)).encode())]
    assert (await open_house.accounts())["purse/float:1"] == 200
    # Within one batch the sealed copy is the fact from the start.
    assert (await open_house.upload(4, [debit(20, seal=False, counter=9), debit(20)]))["accepted"] == 1
    assert await open_house.pool.fetchval("SELECT record FROM fact WHERE sequence = 20") == debit(20).encode()


async def test_the_oracle_is_closed_after_twenty_bad_proofs(open_house: House) -> None:
    bad = [spoiled(debit(number)) for number in range(1, 25)]
    answer = await open_house.upload(1, [*bad[:12], debit(100), *bad[12:], debit(101)])
    codes = [entry["code"] for entry in answer["quarantined"]]
    assert (answer["accepted"], codes.count("bad-proof"), codes.count("terminal-suspended")) == (1, 21, 4)
    assert (await open_house.upload(2, [debit(102)]))["quarantined"] == [{"seq": 102, "code": "terminal-suspended"}]
    assert (await open_house.upload(4, [debit(100), bad[0], bad[22], debit(102)]))["duplicate"] == 4
    assert (await open_house.upload(1, [debit(1, psam=SHOP_PSAM, terminal=SHOP)]))["accepted"] == 1
    open_house.clock.instant += timedelta(days=1)
    assert (await open_house.upload(3, [debit(103)]))["accepted"] == 1


async def test_retake_when_keys_and_registry_have_grown(database: str, tmp_path: Path) -> None:
    async with house(database, tmp_path, without=["3des/TAC/1"]) as poor:
        ours = [debit(1), spoiled(debit(2)), debit(3, psam="791001000077"), debit(4, issuer="02317960")]
        # One sequence twice: the answer names it, and does not say which of the two records it means.
        await poor.upload(1, [*ours, debit(4, issuer=FOREIGN)])
        assert await poor.states() == {
            ("quarantined", "no-key"): 2, ("quarantined", "unknown-psam"): 1, ("quarantined", "unknown-issuer"): 1,
            ("pending_issuer", "foreign"): 1,
        }  # fmt: skip
        assert [check for check in await verify(poor.pool) if not check.ok] == []
        more = {
            "psams": [psam("791001000077", "transit", 101)],
            "issuers": [{"code": "02317960", "name": "new", "own": False}],
        }
        async with poor.pool.acquire() as connection:
            await take(connection, parse_registry(json.dumps(registry_document() | more)))
        with key_store(tmp_path / "rich") as store:
            twice = (retake(poor.pool, Verifiers.of(store), poor.clock) for _ in range(2))
            first, second = sorted(await asyncio.gather(*twice), key=lambda done: done.looked_at, reverse=True)
            assert (first.looked_at, first.proven, first.changed) == (4, 2, 2)
            assert (second.proven, second.changed) == (0, 0)
            assert (await retake(poor.pool, Verifiers.of(store), poor.clock)).proven == 0
        assert await poor.states() == {
            ("accepted", ""): 2, ("quarantined", "bad-proof"): 1, ("pending_issuer", "foreign"): 2,
        }  # fmt: skip
        assert [check for check in await verify(poor.pool) if not check.ok] == []
        accounts = await poor.accounts()
        assert (accounts["purse/float:1"], accounts["transit/pending_payable:101"]) == (400, -400)


async def test_a_total_that_a_retake_changes_waits_for_the_next_close(open_house: House) -> None:
    """A foreign city that is registered later: its ride counts as received from the retake on."""
    await open_house.upload(1, [debit(1), debit(2, issuer="02317960")])
    await open_house.pool.execute("INSERT INTO declared_total VALUES (101, 1, '2026-03-02', 2, 400)")

    async def closed() -> tuple[int, str | None]:
        open_house.clock.instant += timedelta(days=1)
        await close(open_house.pool, None, open_house.clock)
        return tuple(await open_house.pool.fetchrow("SELECT amount_fen, resolution FROM case_file WHERE kind = $1",
                                                    "operator-total"))  # fmt: skip

    assert await closed() == (-200, None)
    more = {"issuers": [{"code": "02317960", "name": "new", "own": False}]}
    async with open_house.pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(registry_document() | more)))
    await retake(open_house.pool, Verifiers.of(open_house.store), open_house.clock)
    assert [check for check in await verify(open_house.pool) if not check.ok] == []
    assert await closed() == (-200, "equal")
    assert [check for check in await verify(open_house.pool) if not check.ok] == []


def _stream(seed: int) -> list[TapRecord]:
    """A day of one terminal: good and bad records, renumbered copies, altered claims."""
    chance = random.Random(seed)
    records: list[TapRecord] = []
    for number in range(1, 41):
        record = debit(number, amount_fen=chance.choice((0, 100, 250)), seal=chance.random() > 0.2)
        match chance.randrange(10):
            case 0:
                record = spoiled(record) if number % 3 else debit(number, psam="790000000000")
            case 1:
                record = debit(number, issuer=FOREIGN)
            case 2:
                record = debit(number, card=STRANGER)
            case 3:
                records.append(replace(record, sequence=100 + number, counter=0))
        records.append(record)
    return records


@pytest.mark.parametrize("seed", [1, 2])
async def test_shuffles_splits_and_repeats_post_the_same_sums(
    postgres: Any, migrated: str, tmp_path: Path, seed: int
) -> None:
    from tests.conftest import _fresh

    outcomes = []
    for way in range(3):
        chance = random.Random(f"{seed} {way}")
        records = _stream(seed)
        if way:
            records += chance.sample(records, 15)
            chance.shuffle(records)
        fresh = _fresh(postgres, migrated)
        dsn = await asyncio.to_thread(next, fresh)
        async with house(dsn, tmp_path / f"{way}") as opened:
            cuts = sorted(chance.sample(range(1, len(records)), 5)) if way else []
            parts = [records[a:b] for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True)]
            bodies = [(n, binary(part)) for n, part in enumerate(parts, 1)]
            if way == 2:  # all at once, and each twice
                await asyncio.gather(*(opened.put(n, body) for n, body in bodies * 2))
            else:
                for n, body in bodies:
                    await opened.put(n, body)
            sums = {key[:4]: value for key, value in (await opened.sums()).items()}
            states = await opened.states()
            effective = await opened.pool.fetch(
                """SELECT proof_key, sealed OR EXISTS (SELECT FROM record_event e WHERE e.proof_key = fact.proof_key)
                   FROM fact ORDER BY 1"""
            )
        await asyncio.to_thread(next, fresh, None)
        outcomes.append((sums, states, [tuple(row) for row in effective]))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0][1]) >= 5


async def test_a_group_with_a_poisoned_batch_takes_in_the_others(open_house: House) -> None:
    """Should one batch ever be unstorable, its group is taken apart."""
    await open_house.pool.execute("ALTER TABLE batch ADD CHECK (n <> 3)")
    answers = await asyncio.gather(*(open_house.put(n, binary([debit(n)])) for n in range(1, 6)))
    assert [status for status, _ in answers] == [200, 200, 503, 200, 200]
    assert await open_house.states() == {("accepted", ""): 4}
    assert (await open_house.accounts())["purse/float:1"] == 800


async def test_missing_ranges(open_house: House) -> None:
    answer = await open_house.upload(1, [debit(5), debit(6), debit(9)])
    assert (answer["ack_seq"], answer["missing"]) == (0, [[1, 4], [7, 8]])
    answer = await open_house.upload(2, [debit(number) for number in range(1, 5)])
    assert (answer["ack_seq"], answer["missing"]) == (6, [[7, 8]])
    answer = await open_house.upload(3, [debit(number) for number in range(100, 200, 2)])
    assert (len(answer["missing"]), answer["missing"][:3]) == (32, [[7, 8], [10, 99], [101, 101]])
    # The header's epoch is asked about, though the records are of an earlier one.
    status, answer = await open_house.put(4, binary([debit(3, epoch=2)], epoch=1))
    assert (status, answer["ack_seq"], answer["missing"][0]) == (200, 6, [7, 8])
    status, answer = await open_house.put(5, binary([debit(7)], epoch=3))
    assert (status, answer["ack_seq"], answer["missing"]) == (200, 0, [])
    assert BUS_PSAM and BUS
