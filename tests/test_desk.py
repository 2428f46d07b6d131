"""The desk over HTTP, with cards whose MACs come from the simulators' ciphers; and the records that finish loads and
acts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cardcore.profile import load_profile
from cardcore.switches import Sm4SessionKey
from clearing.desk.purse import purse_terms
from keys.spending import Quota
from simulators.cipher import ComplementSm4Key
from tests.intake_side import (
    BANK,
    BUS,
    CARDS,
    DENIED,
    HOSPITAL,
    NOON,
    STRANGER,
    House,
    act_record,
    act_request,
    card_key,
    debit,
    house,
    load_record,
    load_request,
    registry_document,
)  # fmt: skip

LOADS, ACTS, REPORTS, REPLACEMENTS = (f"/v1/desk/{name}" for name in ("loads", "acts", "reports", "replacements"))
CARDS_CALL = "/v1/desk/cards"
OWN_CODE = bytes.fromhex("02317910")


@pytest.fixture
async def open_house(database: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(database, tmp_path) as opened:
        yield opened


async def test_a_load_from_request_to_posting(open_house: House) -> None:
    request = load_request(CARDS[0])
    status, grant = await open_house.post(LOADS, **request)
    assert status == 201
    covered = (5000).to_bytes(4) + b"\2" + bytes.fromhex(request["terminal_number"] + grant["date"] + grant["time"])
    session = card_key(0, "LOAD", 1, OWN_CODE, bytes.fromhex(CARDS[0])).session(bytes.fromhex("a1b2c3d4") + bytes(2))
    assert grant["mac2"] == session.mac(covered)[:4].hex()
    assert (grant["date"], grant["time"]) == ("20260302", "120000")
    assert await open_house.post(LOADS, **request) == (201, grant)
    order = await open_house.pool.fetchrow("SELECT load_id, state, channel FROM load_order")
    assert tuple(order) == (grant["load_id"], "authorised", str(BANK))

    record = load_record(request, grant, 1)
    assert (await open_house.upload(1, [record]))["accepted"] == 1
    assert await open_house.pool.fetchval("SELECT state FROM load_order") == "confirmed"
    assert await open_house.accounts() == {f"purse/cash:{BANK}": 5000, "purse/float:1": -5000}
    twin = load_record(request | {"balance_fen": 900}, grant, 2)
    assert (await open_house.upload(2, [twin]))["suspended"] == 1
    assert await open_house.states() == {("accepted", ""): 1, ("suspended", "rogue-load"): 1}


async def test_another_channel_is_no_other_quota(database: str, tmp_path: Path) -> None:
    """The quota is that of the operator whose terminal asks, as the registry has it: a counter that names one bank
    after the other takes all of it out of the same (K9). A repeated load takes nothing."""
    parties = [*registry_document()["parties"], {"id": 302, "kind": "bank", "name": "another bank"}]
    async with house(database, tmp_path, parties=parties) as opened:
        for turn, channel in enumerate((str(BANK), "302", "302")):
            request = load_request(CARDS[0], channel=channel, counter=min(turn, 1))
            assert (await opened.post(LOADS, **request))[0] == 201
        spent = {scope: given for scope, given, _ in opened.store.book.state.quotas("2026-03-02")}
        assert [scope for scope in spent if "operator" in scope] == [f"operator {BANK}"]
        assert set(spent.values()) == {Quota(2, 10_000)}
        assert f"channel 302 operator {BANK} key" in opened.store.audit()[-1][4]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"mac1": "00000000"}, 422, "bad-mac1"),
        ({"key_version": 9}, 422, "bad-mac1"),
        ({"card": STRANGER}, 422, "unknown-card"),
        ({"generation": 1}, 422, "unknown-card"),
        ({"card": DENIED}, 422, "frozen-card"),
        ({"amount_fen": 50001}, 422, "over-limit"),
        ({"raw_balance_fen": 96000}, 422, "over-limit"),
        ({"purse": 3}, 422, "licence"),
        ({"channel": "transfer"}, 422, "not-open"),
        ({"channel": "101"}, 400, "bad-schema"),
        ({"channel": "cash"}, 400, "bad-schema"),
        ({"terminal_number": "000000000001"}, 400, "bad-schema"),
        ({"suite": 3}, 400, "bad-schema"),
        ({"amount_fen": 0}, 400, "bad-schema"),
        ({"colour": "red"}, 400, "bad-schema"),
        ({"terminal": 7}, 403, "unknown-terminal"),
    ],
)
async def test_refused_loads_leave_nothing(open_house: House, change: dict[str, Any], status: int, code: str) -> None:
    await open_house.post(REPORTS, card=DENIED, reason="lost", reported_at=NOON.isoformat())
    made = {name: change[name] for name in ("amount_fen", "raw_balance_fen") if change.get(name)}
    rest = {name: value for name, value in change.items() if name not in made}
    answer = await open_house.post(LOADS, **(load_request(rest.get("card", CARDS[0]), **made) | rest))
    assert (answer[0], answer[1]["code"]) == (status, code)
    assert await open_house.pool.fetchval("SELECT count(*) FROM load_order") == 0


async def test_a_purse_beyond_transport_needs_a_licence(database: str, tmp_path: Path) -> None:
    narrow = [row for row in registry_document()["policies"] if row["name"] != "licence"]
    async with house(database, tmp_path, policies=narrow) as opened:
        status, answer = await opened.post(LOADS, **load_request(CARDS[0]))
        assert (status, answer["code"]) == (422, "licence")


async def test_the_same_load_asked_twice_at_once_is_one_authorised_order(open_house: House) -> None:
    request = load_request(CARDS[0])
    answers = await asyncio.gather(*(open_house.post(LOADS, **request) for _ in range(6)))
    granted = [grant for status, grant in answers if status == 201]
    assert granted and all(grant == granted[0] for grant in granted)
    assert await open_house.pool.fetchval("SELECT array_agg(state) FROM load_order") == ["authorised"]
    assert (await open_house.upload(1, [load_record(request, granted[0], 1)]))["accepted"] == 1


async def test_the_record_of_a_retried_load_finishes_the_order_of_its_own_terminal(open_house: House) -> None:
    request = load_request(CARDS[0])
    _, grant = await open_house.post(LOADS, **request)
    elsewhere = load_request(CARDS[0], terminal=HOSPITAL)
    assert (await open_house.post(LOADS, **elsewhere))[0] == 201
    assert (await open_house.upload(1, [load_record(request, grant, 1)]))["accepted"] == 1
    states = await open_house.pool.fetch("SELECT terminal, state FROM load_order")
    assert {row["terminal"]: row["state"] for row in states} == {
        request["terminal"]: "confirmed",
        HOSPITAL: "authorised",
    }


async def test_a_load_is_booked_whatever_became_of_the_card_since(open_house: House) -> None:
    request = load_request(CARDS[0])
    _, grant = await open_house.post(LOADS, **request)
    now = open_house.clock.now().isoformat()
    assert (await open_house.post(REPORTS, card=CARDS[0], reason="lost", reported_at=now))[0] == 201
    assert (await open_house.upload(1, [load_record(request, grant, 1)]))["accepted"] == 1
    assert await open_house.accounts() == {f"purse/cash:{BANK}": 5000, "purse/float:1": -5000}


async def test_an_act_is_opened_by_a_terminal_of_its_sector(open_house: House) -> None:
    status, refusal = await open_house.post(ACTS, **(act_request(CARDS[0]) | {"sector": "social"}))
    assert (status, refusal["code"]) == (400, "bad-schema")


async def test_a_card_is_registered_before_it_is_made(open_house: House) -> None:
    row = {
        "card": STRANGER,
        "issuer": "02317910",
        "profile": "shared-purse",
        "suite": "sm4",
        "class": 2,
        "generation": 0,
    }
    for _ in range(2):
        assert await open_house.post(CARDS_CALL, **row) == (201, {"card": STRANGER})
    stored = await open_house.pool.fetchrow("SELECT suite, class FROM card WHERE card = $1", bytes.fromhex(STRANGER))
    assert tuple(stored) == (4, 2)
    for change, code in (
        ({"class": 1}, "card-exists"),
        ({"issuer": "02317950"}, "unknown-card"),
        ({"profile": "another"}, "unknown-card"),
    ):
        status, refusal = await open_house.post(CARDS_CALL, **(row | change))
        assert (status, refusal["code"]) == (422, code)
    assert (await open_house.post(LOADS, **load_request(STRANGER)))[0] == 201


async def test_a_card_beyond_transport_is_not_issued_without_a_licence(database: str, tmp_path: Path) -> None:
    narrow = [row for row in registry_document()["policies"] if row["name"] != "licence"]
    row = {
        "card": STRANGER,
        "issuer": "02317910",
        "profile": "shared-purse",
        "suite": "sm4",
        "class": 1,
        "generation": 0,
    }
    async with house(database, tmp_path, policies=narrow) as opened:
        status, refusal = await opened.post(CARDS_CALL, **row)
        assert (status, refusal["code"]) == (422, "licence")
        assert await opened.pool.fetchval("SELECT count(*) FROM card WHERE card = $1", bytes.fromhex(STRANGER)) == 0


async def test_an_act_from_opening_to_posting(open_house: House) -> None:
    request = act_request(CARDS[0])
    status, grant = await open_house.post(ACTS, **request)
    assert (status, grant["expires_at"]) == (201, "2026-03-02T04:02:00+00:00")
    record = act_record(request, grant, 1)
    altered = replace(record, amount_fen=999)
    assert (await open_house.upload(1, [altered]))["quarantined"] == [{"seq": 1, "code": "bad-proof"}]
    answer = await open_house.upload(2, [record, replace(record, sequence=2)])
    assert (answer["accepted"], answer["quarantined"]) == (1, [{"seq": 2, "code": "bad-proof"}])
    assert (await open_house.upload(3, [replace(record, sequence=3)]))["quarantined"] == [
        {"seq": 3, "code": "bad-proof"}
    ]
    assert (await open_house.upload(4, [record]))["duplicate"] == 1
    assert await open_house.accounts() == {
        "medical/fund": 700, "medical/fund_payable:501": -700,
        "medical/account": 300, "medical/account_payable:501": -300,
    }  # fmt: skip


@pytest.mark.parametrize(("later", "accepted"), [(120, 1), (121, 0)])
async def test_an_act_lives_120_seconds(open_house: House, later: int, accepted: int) -> None:
    request = act_request(CARDS[0])
    _, grant = await open_house.post(ACTS, **request)
    open_house.clock.instant += timedelta(seconds=later)
    assert (await open_house.upload(1, [act_record(request, grant, 1)]))["accepted"] == accepted


async def test_an_act_is_bound_to_its_terminal(open_house: House) -> None:
    request = act_request(CARDS[0])
    _, grant = await open_house.post(ACTS, **request)
    answer = await open_house.upload(1, [act_record(request, grant, 1, terminal=BUS)])
    assert answer["quarantined"] == [{"seq": 1, "code": "bad-proof"}]
    forged = act_record(request, {**grant, "act_id": grant["act_id"]}, 1, act_id=bytes(8))
    assert (await open_house.upload(2, [forged]))["quarantined"] == [{"seq": 1, "code": "bad-proof"}]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"split": {"fund": 700}}, 422, "split"),
        ({"split": {"fund": 1100, "account": -100}}, 422, "split"),
        ({"split": {"fund": 700, "holder": 300}}, 422, "split"),
        ({"card": STRANGER}, 422, "unknown-card"),
        ({"card": DENIED}, 422, "frozen-card"),
        ({"sector": "transit"}, 400, "bad-schema"),
        ({"transaction_type": 6}, 400, "bad-schema"),
    ],
)
async def test_refused_acts_leave_nothing(open_house: House, change: dict[str, Any], status: int, code: str) -> None:
    await open_house.post(REPORTS, card=DENIED, reason="lost", reported_at=NOON.isoformat())
    answer = await open_house.post(ACTS, **(act_request(CARDS[0]) | change))
    assert (answer[0], answer[1]["code"]) == (status, code)
    assert await open_house.pool.fetchval("SELECT count(*) FROM act") == 0
    assert HOSPITAL


async def test_reports_are_versions_of_the_denylist(open_house: House) -> None:
    body = {"card": CARDS[0], "reason": "lost", "reported_at": "2026-03-02T11:00:00+08:00"}
    first = await open_house.post(REPORTS, **body)
    assert first == (201, {
        "list_version": 1, "effective_at": "2026-03-02T04:00:00+00:00", "published_at": "2026-03-02T05:00:00+00:00",
    })  # fmt: skip
    assert await open_house.post(REPORTS, **body) == first
    assert (await open_house.post(REPORTS, **(body | {"card": CARDS[1]})))[1]["list_version"] == 2
    assert (await open_house.post(REPORTS, **(body | {"card": STRANGER})))[1]["code"] == "unknown-card"
    assert (await open_house.post(REPORTS, **(body | {"reported_at": "yesterday"})))[1]["code"] == "bad-schema"
    tomorrow = body | {"reported_at": "2026-03-03T11:00:00+08:00"}
    assert (await open_house.post(REPORTS, **tomorrow))[1]["code"] == "over-limit"


async def test_a_replacement_carries_what_the_books_say(open_house: House) -> None:
    old, new = CARDS[0], CARDS[1]
    request = load_request(old)
    _, grant = await open_house.post(LOADS, **request)
    await open_house.upload(1, [load_record(request, grant, 1)])
    await open_house.upload(1, [debit(1, card=old, amount_fen=1200)])
    await open_house.pool.execute("UPDATE policy SET value = '{\"offline_window_h\": 6}' WHERE name = 'replacement'")

    async def refused() -> str:
        status, problem = await open_house.post(REPLACEMENTS, old=old, new=new)
        assert (status, problem["code"]) == (422, "not-open")
        return str(problem["detail"])

    assert "not reported" in await refused()
    await open_house.post(REPORTS, card=old, reason="lost", reported_at=NOON.isoformat())
    open_house.clock.instant += timedelta(hours=6, seconds=-1)
    assert "until 2026-03-02T10:00+00:00" in await refused()
    open_house.clock.instant += timedelta(seconds=1)
    await open_house.upload(2, [debit(2, card=old, amount_fen=100)])
    await open_house.upload(3, [debit(3, card=old, amount_fen=100, counter=2)])
    assert "fork" in await refused()
    await open_house.pool.execute("ALTER TABLE fact DISABLE TRIGGER history_stands")
    await open_house.pool.execute("DELETE FROM fact WHERE sequence > 1 AND kind = 1")
    made = await open_house.post(REPLACEMENTS, old=old, new=new)
    assert made == (201, {"load_fen": 3800, "values": {"1": 3800}})
    assert await open_house.post(REPLACEMENTS, old=old, new=new) == made
    for pair in ({"old": old, "new": CARDS[2]}, {"old": CARDS[2], "new": new}, {"old": CARDS[2], "new": old}):
        assert (await open_house.post(REPLACEMENTS, **pair))[1]["code"] == "frozen-card"
    for pair in ({"old": STRANGER, "new": CARDS[2]}, {"old": CARDS[2], "new": STRANGER}):
        assert (await open_house.post(REPLACEMENTS, **pair))[1]["code"] == "unknown-card"
    assert (await open_house.post(LOADS, **load_request(old, counter=1)))[1]["code"] == "frozen-card"

    over = load_request(new, amount_fen=3801, channel="transfer")
    assert (await open_house.post(LOADS, **over))[1]["code"] == "over-limit"
    carried = load_request(new, amount_fen=3800, channel="transfer")
    status, grant = await open_house.post(LOADS, **carried)
    assert status == 201
    # The card was torn before it took the load: the same counter may try once more, another one may not.
    second = await open_house.post(LOADS, **load_request(new, amount_fen=3800, channel="transfer", raw_balance_fen=801))
    assert second[0] == 201
    again = load_request(new, amount_fen=3800, channel="transfer", counter=1)
    assert (await open_house.post(LOADS, **again))[1]["code"] == "not-open"
    assert (await open_house.upload(2, [load_record(carried, grant, 2)]))["accepted"] == 1
    assert (await open_house.accounts())["purse/transfer"] == 3800


async def test_the_session_rule_is_that_of_the_card_s_profile(
    open_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to say it: the desk knows which card has which profile."""
    profile = load_profile("shared-purse")
    other = replace(profile, switches=replace(profile.switches, sm4_session_key=Sm4SessionKey.COMPLEMENT))
    request = load_request(CARDS[0], suite=4)
    key = card_key(4, "LOAD", 1, OWN_CODE, bytes.fromhex(CARDS[0]))
    number = bytes.fromhex(request["terminal_number"])
    covered = (800).to_bytes(4) + (5000).to_bytes(4) + b"\2" + number
    seed = bytes.fromhex("a1b2c3d4") + bytes(2)
    padded, complement = key.session(seed), ComplementSm4Key(key.value).session(seed)
    request["mac1"] = complement.mac(covered)[:4].hex()
    assert (await open_house.post(LOADS, **request))[0] == 422
    monkeypatch.setattr("clearing.desk.purse.load_profile", lambda _: other)
    purse_terms.cache_clear()
    try:
        status, grant = await open_house.post(LOADS, **request)
        assert status == 201
        ending = (5000).to_bytes(4) + b"\2" + number + bytes.fromhex(grant["date"] + grant["time"])
        assert grant["mac2"] == complement.mac(ending)[:4].hex()
        refused = request | {"mac1": padded.mac(covered)[:4].hex()}
        assert (await open_house.post(LOADS, **refused))[1]["code"] == "bad-mac1"
    finally:
        purse_terms.cache_clear()
