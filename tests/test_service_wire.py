"""Every code of docs/wire.md, over real HTTP on a real PostgreSQL."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog.testing

from cardcore.errors import SetupError
from clearing.service import ServiceSettings, running
from tests.intake_side import BUS, NOON, SHOP, House, StoppedClock, as_json, binary, debit, house, key_store, spoiled


@pytest.fixture
async def open_house(database: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(database, tmp_path) as opened:
        yield opened


async def test_a_batch_is_answered_after_its_commit_and_again_with_the_first_answer(open_house: House) -> None:
    records = [debit(1), debit(2), spoiled(debit(4))]
    answer = await open_house.upload(7, records)
    assert answer == {
        "n": 7, "ack_seq": 2, "missing": [[3, 3]], "accepted": 2, "duplicate": 0, "suspended": 0, "pending": 0,
        "memo": 0,
        "conflict": 0, "quarantined": [{"seq": 4, "code": "bad-proof"}], "pace_s": 0,
        "now": "2026-03-02T04:00:00+00:00",
    }  # fmt: skip
    open_house.clock.instant += timedelta(hours=1)
    await open_house.upload(8, [debit(3)])
    assert await open_house.upload(7, records) == answer
    async with open_house.http.get(f"{open_house.url}/v1/t/{BUS}/batches/7") as response:
        assert await response.json() == answer
    assert await open_house.pool.fetchval("SELECT count(*) FROM batch") == 2
    assert await open_house.accounts() == {
        "purse/float:1": 600, "purse/due:transit": -600, "transit/due:purse": 600, "transit/payable:101": -600,
    }  # fmt: skip


async def test_json_becomes_the_same_records(open_house: House) -> None:
    status, first = await open_house.put(1, as_json([debit(1), debit(2)]), media="application/json; charset=utf-8")
    assert (status, first["accepted"]) == (200, 2)
    second = await open_house.upload(2, [debit(1), debit(2)])
    assert (second["accepted"], second["duplicate"]) == (0, 2)
    stored = await open_house.pool.fetch("SELECT record FROM fact ORDER BY sequence")
    assert [row["record"] for row in stored] == [debit(1).encode(), debit(2).encode()]


async def test_a_refusal_names_the_records_at_fault(open_house: House) -> None:
    status, problem = await open_house.put(
        1, binary([debit(1), debit(2, terminal=SHOP), debit(3), debit(4, terminal=9)])
    )
    assert (status, problem["code"], problem["seq"]) == (422, "wrong-terminal", [2, 4])
    listed = [debit(number).to_json() for number in (1, 2, 3)]
    whole = json.loads(as_json([debit(1), debit(2), debit(3)]))
    status, problem = await open_house.put(
        1, json.dumps(whole | {"records": [listed[0], listed[1] | {"kind": 300}]}).encode(), media="application/json"
    )
    assert (status, problem["code"]) == (400, "bad-schema")
    assert problem["detail"].startswith("Record 2 of the batch: ")


async def test_another_method_is_told_which_there_are(open_house: House) -> None:
    async with open_house.http.post(f"{open_house.url}/v1/t/{BUS}/batches/1") as response:
        assert (response.status, response.headers["Onecard-Code"]) == (405, "method")
        assert {"GET", "PUT"} <= set(response.headers["Allow"].split(","))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (binary([debit(1)])[:-1], 400, "bad-frame"),
        (binary([debit(1)])[:20], 400, "bad-frame"),
        (b"", 400, "bad-frame"),
        (binary([debit(1)], magic=b"OCB2"), 400, "bad-frame"),
        (binary([debit(1)], zeros=b"\0\0\0\1"), 400, "bad-frame"),
        (binary([debit(1)], count=2), 400, "bad-frame"),
        (binary([debit(1)], count=0), 400, "bad-frame"),
        (binary([debit(1)], sum=199), 400, "bad-frame"),
        (binary([debit(1)] * 501), 413, "too-large"),
        (bytes(1024 * 1024 + 1), 413, "too-large"),
        (binary([debit(1)], terminal=SHOP), 422, "wrong-terminal"),
        (binary([debit(1), debit(2, terminal=SHOP)]), 422, "wrong-terminal"),
    ],
)
async def test_bad_frames(open_house: House, body: bytes, status: int, code: str) -> None:
    answer = await open_house.put(1, body)
    assert (answer[0], answer[1]["code"]) == (status, code)
    assert answer[1]["retry"] == ("never" if code == "wrong-terminal" else "now")
    assert await open_house.pool.fetchval("SELECT count(*) FROM batch") == 0
    kept = await open_house.pool.fetch("SELECT kind, terminal, body FROM security_event")
    assert [tuple(row) for row in kept] == ([("wrong-terminal", BUS, body)] if code == "wrong-terminal" else [])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad-schema"),
        (b"[" * 200_000, "bad-schema"),
        (b"[]", "bad-schema"),
        (b'{"terminal":110001}', "bad-schema"),
        (as_json([debit(1)], terminal="110001"), "bad-schema"),
        (as_json([debit(1)], epoch=-1), "bad-schema"),
        (as_json([debit(1)], records=[1]), "bad-schema"),
        (as_json([debit(1)], records=[debit(1).to_json() | {"amount_fen": 2**40}]), "bad-schema"),
        (as_json([debit(1)], records=[debit(1).to_json() | {"colour": "red"}]), "bad-schema"),
        (as_json([debit(1)], count=2), "bad-frame"),
        (as_json([debit(1)], amount_fen=1), "bad-frame"),
        (as_json([debit(1)], records=[]), "bad-frame"),
        (as_json([debit(1)] * 501), "too-large"),
    ],
)
async def test_bad_json(open_house: House, body: bytes, code: str) -> None:
    _, answer = await open_house.put(1, body, media="application/json")
    assert answer["code"] == code
    assert answer["retry"] == ("never" if code == "bad-schema" else "now")


async def test_media(open_house: House) -> None:
    for media, headers in (("text/plain", {}), ("application/vnd.onecard.batch", {"Content-Encoding": "br"})):
        status, answer = await open_house.put(1, binary([debit(1)]), media=media, **headers)
        assert (status, answer["code"]) == (415, "media")


async def test_a_gzip_body_is_what_it_holds(open_house: House) -> None:
    encoded = {"Content-Encoding": "gzip"}
    bodies = {"application/vnd.onecard.batch": binary([debit(1)]), "application/json": as_json([debit(3)])}
    for n, (media, plain) in enumerate(bodies.items(), start=10):
        first = await open_house.put(n, gzip.compress(plain), media=media, **encoded)
        assert (first[0], first[1]["accepted"]) == (200, 1)
        assert await open_house.put(n, plain, media=media) == first
    whole = gzip.compress(binary([debit(2)]))
    for damaged in (whole[:-1], whole[:40], b"no gzip", whole + b"x", whole + whole, b""):
        status, answer = await open_house.put(2, damaged, **encoded)
        assert (status, answer["code"], answer["retry"]) == (400, "bad-frame", "now")
    status, answer = await open_house.put(2, gzip.compress(bytes(64 << 20)), **encoded)
    assert (status, answer["code"]) == (413, "too-large")
    assert (await open_house.put(2, whole, **encoded))[1]["accepted"] == 1


async def test_unknown_terminals_and_batches(open_house: House) -> None:
    status, answer = await open_house.put(1, binary([debit(1, terminal=7)]), terminal=7)
    assert (status, answer["code"], answer["retry"]) == (403, "unknown-terminal", "never")
    assert await open_house.pool.fetchval("SELECT kind FROM security_event WHERE terminal = 7") == "unknown-terminal"
    async with open_house.http.get(f"{open_house.url}/v1/t/{BUS}/batches/99") as response:
        assert (response.status, response.headers["Onecard-Code"]) == (404, "unknown-batch")
    async with open_house.http.get(f"{open_house.url}/nowhere") as response:
        assert (response.status, response.headers["Onecard-Code"]) == (404, "not-found")


async def test_the_same_number_with_other_bytes_is_a_conflict_and_both_are_kept(open_house: House) -> None:
    await open_house.upload(1, [debit(1)])
    other = binary([debit(2)])
    for _ in range(2):
        status, answer = await open_house.put(1, other)
        assert (status, answer["code"], answer["retry"]) == (409, "batch-conflict", "never")
    assert [tuple(row) for row in await open_house.pool.fetch("SELECT n, body FROM batch_conflict")] == [(1, other)]
    # Side by side in one group, too.
    bodies = [binary([debit(3)]), binary([debit(4)])]
    statuses = [status for status, _ in await asyncio.gather(*(open_house.put(2, body) for body in bodies))]
    assert sorted(statuses) == [200, 409]


async def test_time_health_and_host(open_house: House) -> None:
    async with open_house.http.get(f"{open_house.url}/v1/time") as response:
        assert await response.json() == {"now": "2026-03-02T04:00:00+00:00"}
    async with open_house.http.get(f"{open_house.url}/healthz") as response:
        assert await response.json() == {"ready": True}
    async with open_house.http.get(f"{open_house.url}/v1/time", headers={"Host": "evil.example"}) as response:
        assert (response.status, response.headers["Onecard-Code"]) == (421, "host")


async def test_a_client_that_hangs_up_is_not_the_database_away(open_house: House) -> None:
    with structlog.testing.capture_logs() as told:
        _, writer = await asyncio.open_connection("127.0.0.1", int(open_house.url.rsplit(":", 1)[-1]))
        head = f"PUT /v1/t/{BUS}/batches/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n"
        writer.write(head.encode() + b"Content-Type: application/vnd.onecard.batch\r\n\r\nOCB1")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()
        for _ in range(50):
            if told:
                break
            await asyncio.sleep(0.1)
    assert [entry["event"] for entry in told] == ["client hung up in the middle of a body"]


async def test_a_dripping_body_is_cut_off(open_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearing.service.edge.BODY_DEADLINE_S", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        yield b"OCB1"
        await asyncio.sleep(30)

    url = f"{open_house.url}/v1/t/{BUS}/batches/1"
    headers = {"Content-Type": "application/vnd.onecard.batch"}
    with pytest.raises((aiohttp.ClientError, AssertionError)):
        async with open_house.http.put(url, data=drip(), headers=headers, timeout=aiohttp.ClientTimeout(5)) as response:
            assert response.status == 200, response.status


async def test_lost_connections_lose_nothing_that_was_acknowledged(open_house: House) -> None:
    """The database drops every connection again and again; whoever was told `busy` sends again."""
    stop = asyncio.Event()

    async def cut() -> None:
        while not stop.is_set():
            await open_house.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND query <> ''"
            )
            await asyncio.sleep(0.1)

    async def send(n: int) -> None:
        while True:
            status, answer = await open_house.put(n, binary([debit(2 * n - 1), debit(2 * n)]))
            if status == 200:
                return
            assert (status, answer["code"], answer["retry"]) == (503, "busy", "after")
            assert answer["after_s"] > 0

    cutter = asyncio.create_task(cut())
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(send(n) for n in range(1, 21)))
    finally:
        stop.set()
        await asyncio.gather(cutter, return_exceptions=True)
    assert (await open_house.http.get(f"{open_house.url}/healthz")).status in (200, 503)
    assert (await open_house.put(1, binary([debit(1), debit(2)])))[0] == 200
    assert await open_house.states() == {("accepted", ""): 40}
    assert (await open_house.accounts())["purse/float:1"] == 8000


async def test_only_the_loopback_and_only_a_free_port(open_house: House, database: str, tmp_path: Path) -> None:
    port = int(open_house.url.rsplit(":", 1)[1])
    for settings, words in (({"host": "0.0.0.0"}, "loopback"), ({"port": port}, "is taken")):  # noqa: S104 - refused
        with key_store(tmp_path / "other") as store, pytest.raises(SetupError, match=words):
            async with running(replace(ServiceSettings(database, store, StoppedClock()), **settings)):
                pass


async def test_new_rows_of_the_registry_are_seen_by_the_next_batch(open_house: House) -> None:
    from clearing.registry import parse_registry, take
    from tests.intake_side import OWN, STRANGER, psam, registry_document

    answer = await open_house.upload(1, [debit(1, card=STRANGER)])
    assert answer["quarantined"] == [{"seq": 1, "code": "unknown-card"}]
    card = {"card": STRANGER, "issuer": OWN, "profile": "shared-purse", "suite": "3des", "class": 1, "generation": 0}
    more = {"cards": [card], "psams": [psam("791001000077", "transit", 101)]}
    assert (await open_house.upload(2, [debit(2, psam="791001000077")]))["quarantined"][0]["code"] == "unknown-psam"
    async with open_house.pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(registry_document() | more)))
    assert (await open_house.upload(3, [debit(3, card=STRANGER, psam="791001000077")]))["accepted"] == 1
    status, _ = await open_house.post("/v1/desk/reports", card=STRANGER, reason="lost", reported_at=NOON.isoformat())
    assert status == 201
    late = debit(4, card=STRANGER, at=NOON + timedelta(seconds=1))
    assert (await open_house.upload(4, [late]))["suspended"] == 1
