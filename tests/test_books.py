"""Books, digests, statements, explanations and commands, over days that are closed."""

import json
import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cardcore.errors import FormatError, RefusedError, SetupError
from clearing.close_cli import app
from clearing.explain import explain
from clearing.ledger.accounts import SettlementClass, class_of, party_of
from clearing.ledger.books import BookLine, Books, StateLine, SubstanceLine
from clearing.ledger.export import export
from tests.clearing_side import (
    BUS_CO,
    D1,
    D2,
    METRO,
    SHOP,
    WHERE,
    ClearingSide,
    at,
    card,
    clearing_side,
    proof_key,
    subject,
)
from tests.test_verify import busy_day

A, B, E = card(1), card(2), card(4)
Event = Callable[[ClearingSide], Awaitable[object]]


def day_one() -> list[Event]:
    """Events of D1 that may come in any order, and some of them a day late: rides, a subsidy, a gap that stays, a load
    in doubt.
    """
    return [
        lambda h: h.load(A, 0, 1000, 0, at("03-02 07:00"), load_id="a"),
        lambda h: h.tap(A, 0, 200, 1000, at("03-02 08:00"), sequence=1, terminal_transaction=1),
        lambda h: h.tap(A, 1, 150, 800, at("03-02 09:00"), terminal=SHOP, sequence=2, terminal_transaction=2),
        lambda h: h.tap(A, 3, 100, 600, at("03-02 10:00"), terminal=SHOP, sequence=3, terminal_transaction=3),
        lambda h: h.load(B, 0, 5000, 0, at("03-02 07:00"), load_id="b"),
        lambda h: h.load(B, 1, 500, 4900, at("03-02 08:30"), load_id="c", proven=False),
        lambda h: h.tap(B, 0, 100, 5000, at("03-02 08:00"), sequence=4, terminal_transaction=4, full_fare_fen=200,
        concession=2),
        lambda h: h.tap(B, 1, 200, 5400, at("03-02 09:00"), sequence=5, terminal_transaction=5, terminal=METRO, kind=3,
        station=9,
                        entry_station=5, full_fare_fen=400, concession=2),
        lambda h: h.tap(E, 0, 50, 0, at("03-02 11:00"), sequence=6, terminal_transaction=6, terminal=SHOP),
        lambda h: h.tap(E, 0, 70, 0, at("03-02 12:00"), sequence=7, terminal_transaction=7, terminal=SHOP),
    ]  # fmt: skip


@pytest.fixture
def digests_of(
    postgres: object, migrated: str, request: pytest.FixtureRequest
) -> Callable[[int, set[int]], Awaitable[tuple[str, str]]]:
    """Both digests after the events of D1 in a seeded order, those of the set only after D1 was closed."""
    from tests import conftest

    async def run(seed: int, late: set[int]) -> tuple[str, str]:
        import asyncio

        fresh = conftest._fresh(postgres, migrated)  # type: ignore[arg-type]
        dsn = await asyncio.to_thread(next, fresh)
        try:
            async with clearing_side(dsn) as side:
                order = list(enumerate(day_one()))
                random.Random(seed).shuffle(order)
                for number, event in order:
                    if number not in late:
                        await event(side)
                await side.close()
                for number, event in order:
                    if number in late:
                        await event(side)
                closing = await side.close()
                return closing.books_digest, closing.substance_digest
        finally:
            await asyncio.to_thread(next, fresh, None)

    return run


async def test_order_does_not_matter_and_delay_does_not_change_the_substance(
    digests_of: Callable[[int, set[int]], Awaitable[tuple[str, str]]],
) -> None:
    books, substance = await digests_of(0, set())
    for seed in (1, 2, 3):
        assert await digests_of(seed, set()) == (books, substance)
    for late in ({2}, {6, 7}, {9}, {1, 3, 5, 8}, set(range(10))):
        late_books, late_substance = await digests_of(4, late)
        assert late_substance == substance, late
        assert late_books != books


def test_digests_by_the_book() -> None:
    books = Books(
        lines=(BookLine(D1, "purse", "float:1", "CNY", "debit@1", 200, 0), BookLine(D1, "purse", "due:transit", "CNY",
        "debit@1", 0, 200)),
        states=(StateLine("accepted", 1, 200),),
        substance=(SubstanceLine("purse", "float:1", D1, 200), SubstanceLine("purse", "fraud", D1, 0)),
    )  # fmt: skip
    import hashlib

    text = (
        "2026-03-02|purse|due:transit|CNY|debit@1|0|200\n2026-03-02|purse|float:1|CNY|debit@1|200|0\naccepted|1|200\n"
    )
    assert books.books_digest == hashlib.new("sm3", text.encode()).hexdigest()
    assert books.substance_digest == hashlib.new("sm3", b"purse|float:1|2026-03-02|200\n").hexdigest()


def test_accounts_know_their_class_and_party() -> None:
    assert class_of("cash:transfer") is SettlementClass.BANK_CASH
    assert class_of("subsidy_payable:101") is SettlementClass.TREASURY_SUBSIDY
    assert class_of("account_payable:301") is SettlementClass.PERSONAL_ACCOUNT
    assert class_of("payable:101") is SettlementClass.STORED_VALUE
    parties = ["payable:7", "fee:7", "subsidy", "fund", "account", "due:purse", "suspense:7", "source:municipal-taps"]
    assert [party_of(account) for account in parties] == [
        "7", "clearing", "treasury", "fund", "account", "issuer", "issuer", "source:municipal-taps",
    ]  # fmt: skip


async def test_files_of_a_day(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        books = await export(side.pool, tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "books.jsonl").read_text().splitlines()]
        postings = [line for line in lines if "account" in line]
        assert postings == sorted(
            postings, key=lambda line: (line["date"], line["ledger"], line["account"], line["rule"])
        )
        assert sum(line["debit_fen"] - line["credit_fen"] for line in postings) == 0
        assert {line["state"]: (line["count"], line["fen"]) for line in lines if "state" in line} == {
            "accepted": (14, 9350), "conflict": (1, 100), "disputed": (2, 400), "suspended": (1, 30),
        }  # fmt: skip
        assert len(lines) == len(books.lines) + 4
        cases = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
        assert [(case["kind"], case["subject"]) for case in cases] == sorted(
            (case["kind"], case["subject"]) for case in cases
        )
        assert set(cases[0]) == {"kind", "subject", "amount_fen", "opened", "resolved", "resolution", "owner", "detail"}
        shop = json.loads((tmp_path / "statements" / str(D2) / "201.json").read_text())
        # On D2: 150 late from D1, the fork's 300 accepted and taken back.
        assert shop == {
            "date": str(D2), "operator": 201,
            "lines": [{
                "sector": "smallpay", "class": "stored value", "count": 2, "gross_fen": 450, "fee_fen": 0,
                "net_fen": 150,
                "late": [{"origin_date": str(D1), "count": 1, "fen": 150}],
            }],
        }  # fmt: skip
        nets = json.loads((tmp_path / "statements" / str(D2) / "net.json").read_text())
        assert {"class": "stored value", "party": "201", "net_fen": 150} in nets
        assert sum(net["net_fen"] for net in nets if net["class"] == "stored value") == 0


async def test_explain_goes_both_ways(database: str) -> None:
    async with clearing_side(database) as side:
        await side.load(B, 0, 5000, 0, at("03-02 07:00"))
        tap = await side.tap(B, 0, 100, 5000, at("03-02 08:00"), full_fare_fen=200, concession=2)
        await side.tap(B, 2, 100, 4850, at("03-02 09:00"), full_fare_fen=200, concession=2)
        await side.close()
        story = await explain(side.pool, subject(tap))
        assert story == await explain(side.pool, f"{B.hex()}/{proof_key(tap).hex()}")
        assert "accepted: everything in order" in story
        assert "transit subsidy_payable:101 -100 of -200 fen, subsidy@3" in story
        assert "case card-gap" in story
        numbers = [line.split()[1] for line in story.splitlines() if line.strip().startswith("posting ")]
        assert len(numbers) == 6
        for number in numbers:
            told = await explain(side.pool, number)
            assert "recomputed, the same" in told
            assert proof_key(tap).hex() in told
        with pytest.raises(FormatError):
            await explain(side.pool, "yesterday")
        with pytest.raises(RefusedError):
            await explain(side.pool, "999999")


async def test_explain_tells_what_stands_behind_a_posting_without_records(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)

        async def posting(rule: str, account: str) -> str:
            number = await side.pool.fetchval(
                "SELECT max(posting_id) FROM posting WHERE rule = $1 AND account LIKE $2 AND count = 0", rule, account
            )
            return await explain(side.pool, str(number))

        fee = await posting("fee", "fee:%")
        base = await side.pool.fetchrow(
            "SELECT -sum(amount_fen)::bigint AS fen, sum(count) AS count FROM posting WHERE account = 'payable:101' "
            "AND rule <> 'fee' AND business_date = (SELECT max(business_date) FROM posting WHERE rule = 'fee')"
        )
        assert f"stands on {base['fen']} fen posted to payable:101 of transit" in fee
        assert "at 30 bps of the fee policy's version 2" in fee
        assert f"{base['count']} records behind" in fee
        replaced = await posting("replace", "transfer")
        assert "stands on 1 replaced cards, together -550 fen" in replaced
        assert f"purse 1 of card {card(6).hex()} held 550 fen when card {card(7).hex()} replaced it" in replaced
        committed = await side.pool.fetchrow("SELECT * FROM load_order WHERE state = 'committed'")
        by_evidence = await posting("load", "float:1")
        assert "stands on 1 loads, together -300 fen" in by_evidence
        assert f"load {committed['load_id']} of 300 fen from cash:901" in by_evidence
        assert "committed on 2026-03-03 by evidence" in by_evidence
        story = await explain(side.pool, committed["load_id"])
        assert story == await explain(side.pool, f"{B.hex()}/1/1")
        assert "purse float:1 -300 of -300 fen, load@1" in story
        proven = await explain(side.pool, f"{B.hex()}/1/0")
        assert "confirmed by the card's own record" in proven
        assert re.search(rf"its record {B.hex()}/[0-9a-f]{{32}} is accepted", proven)


async def test_explain_tells_a_sector_its_share_of_the_fee(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WHERE, SHOP, (3, BUS_CO))
    async with clearing_side(database) as side:
        await side.tap(card(4), 0, 500, 1000, at("03-02 08:00"))
        await side.tap(card(5), 0, 1000, 1000, at("03-02 08:00"), terminal=SHOP)
        await side.close()
        # 1500 fen at 30 bps are 4.5 fen, half up 5: a third of them, 1.67, and two thirds, 3.33.
        for sector, base_fen, share_fen in (("transit", 500, 2), ("smallpay", 1000, 3)):
            number = await side.pool.fetchval(
                "SELECT posting_id FROM posting WHERE account = 'fee:101' AND ledger = $1", sector
            )
            told = await explain(side.pool, str(number))
            assert f"stands on {base_fen} fen posted to payable:101 of {sector} on {D1}, credits − debits\n" in told
            assert "1500 fen in all its sectors (smallpay 1000, transit 500) at 30 bps" in told
            assert "the fee policy's version 2: 5 fen, remainder -5000/10000" in told
            assert f"the share of {sector}, in proportion" in told
            assert f"by largest remainder: {share_fen} of 5 fen" in told


def test_commands(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    async def prepare() -> None:
        async with clearing_side(database) as side:
            await busy_day(side)

    asyncio.run(prepare())
    taps = tmp_path / "taps.csv"
    taps.write_text("deal_date,card_no\n2026-03-02 08:00:00,ABC\n", encoding="utf-8")
    clock = tmp_path / "clock"
    clock.write_text("2026-03-05T03:00:00+08:00")

    def said(*words: str) -> str:
        app([*words, "--dsn", database], result_action="return_value", exit_on_error=False)
        return capsys.readouterr().out

    assert "2026-03-03 was closed" in said("close", "--date", "2026-03-03", "--clock", str(clock))
    assert "missing-field 1" in said("import", str(taps), "--register-companies", "--clock", str(clock))
    closed = said("close", "--clock", str(clock))
    # The date had one debit; the close found that its card lacks a counter.
    assert "2026-03-04 is closed: it had 4 postings, and the close made 2 more; 1 case opened, 0 resolved, 7" in closed
    assert re.search(r"^substance_digest [0-9a-f]{64}$", closed, re.MULTILINE)
    assert "checks hold" in said("verify")
    head, *cases = said("cases", "--everything").splitlines()
    assert head.split("\t")[:3] == ["kind", "subject", "fen"]
    gap = next(cells for cells in (case.split("\t") for case in cases) if cells[0] == "card-gap")
    assert gap[1].count("/") == 3
    assert gap[1].startswith("0310")
    assert {len(case.split("\t")) for case in cases} == {7}
    assert "posting 1:" in said("explain", "1")
    assert "substance_digest" in said("books", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "books.jsonl").exists()


def test_a_reader_of_a_state_directory_without_a_database_makes_nothing(tmp_path: Path) -> None:
    for words in (["verify"], ["cases"], ["explain", "1"], ["books", "--out", str(tmp_path / "out")]):
        with pytest.raises(SetupError, match="holds no database"):
            app([*words, "--state", str(tmp_path / "typo")], result_action="return_value", exit_on_error=False)
    assert not list(tmp_path.iterdir())
