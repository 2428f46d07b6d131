"""How fast records are taken in: batches of 500 through `Intake`, verified, stored, posted and committed, fsync on.

Every round uploads new records: 3DES TACs and SM4 seals, all verified. Peer, in the same run and interleaved: one
INSERT per record into a table like `fact`, a transaction per batch, nothing verified. The limit is the server alone,
filling such a table by INSERT … SELECT generate_series. `python -m bench.ingest` prints, `run()` returns the figures.
"""

import asyncio
import json
import statistics
import struct
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cardcore.record import Kind, Suite
from clearing.intake import Intake, Verifiers, decode_batch
from clearing.intake.frame import BINARY
from clearing.registry import parse_registry, take
from clearing.store.connect import connect_pool
from clearing.store.launcher import launch
from clearing.store.migrate import migrate
from clearing.store.types import Pool
from keys.columns import RECORD_DTYPE, octets
from keys.engine.root import RootKey
from keys.purposes import KeyId, KeyPurpose
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier
from simulators.cipher import Sm4Key, TripleDesKey

BATCH = 500
BATCHES = 160
CARDS = 20_000
TERMINALS = 32
WAYS = 128
PEER_RECORDS = 2_000
ISSUER = "02317910"
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROOT = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
FLOORS = {"one INSERT per record": 2.5, "limit": 0.35}


class _Noon:
    def now(self) -> datetime:
        return NOW


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """One entry: `ours`, peers and limit in records per second of wall time (medians of interleaved rounds)."""
    return [asyncio.run(_measure(rounds))]


def main() -> None:
    """Print the figures."""
    for entry in run():
        print(f"{entry['bench']}: ours {entry['ours']:,.0f} {entry['unit']}, limit {entry['limit']:,.0f}")
        for name, ratio in entry["ratios"].items():
            print(f"    ours is {ratio:6.2f} × {name}")


async def _measure(rounds: int) -> dict[str, Any]:
    roots = [RootKey(KeyId(suite, purpose, scope), ROOT, test=True) for suite, purpose, scope in (
        (Suite.TRIPLE_DES, KeyPurpose.TAC, "1"), (Suite.SM4, KeyPurpose.RECORD, ""), (Suite.SM4, KeyPurpose.ACT, "5"),
    )]  # fmt: skip
    verifiers = Verifiers(TacVerifier(roots), SealVerifier(roots), ActVerifier(roots))
    made = _records(rounds * BATCHES * BATCH)
    bodies = [_body(at, made[at * BATCH : (at + 1) * BATCH]) for at in range(rounds * BATCHES)]
    samples: dict[str, list[float]] = {"ours": [], "one INSERT per record": [], "limit": []}
    with tempfile.TemporaryDirectory() as folder:
        server = launch(Path(folder))
        try:
            pool = await connect_pool(server.dsn, size=4)
            await migrate(pool)
            async with pool.acquire() as connection:
                await take(connection, parse_registry(_registry()))
                for table in ("like_peer", "like_limit"):
                    await connection.execute(f"CREATE TABLE {table} (LIKE fact INCLUDING ALL)")
            intake = Intake(pool, verifiers, _Noon())
            await intake.start()
            for at in range(rounds):
                samples["ours"].append(await _ours(intake, bodies[at * BATCHES : (at + 1) * BATCHES]))
                samples["one INSERT per record"].append(await _peer(pool, at))
                samples["limit"].append(await _limit(pool, at))
            await intake.stop()
            await pool.close()
        finally:
            server.stop()
    figures = {name: statistics.median(values) for name, values in samples.items()}
    ours, limit = figures.pop("ours"), figures["limit"]
    return {
        "bench": "intake: verify, store, post, commit",
        "unit": "records/s",
        "ours": ours,
        "peers": figures,
        "limit": limit,
        "ratios": {name: ours / figure for name, figure in figures.items()},
        "floors": FLOORS,
    }


async def _ours(intake: Intake, bodies: list[tuple[int, int, bytes]]) -> float:
    """Every batch waits for its answer; 128 of them are on their way at any time."""
    ways = asyncio.Semaphore(WAYS)

    async def upload(terminal: int, n: int, body: bytes) -> str:
        async with ways:
            return await intake.upload(decode_batch(BINARY, body, terminal, n))

    started = time.perf_counter()
    answers = await asyncio.gather(*(upload(*body) for body in bodies))
    elapsed = time.perf_counter() - started
    assert all(f'"accepted": {BATCH}, ' in answer for answer in answers)
    return len(bodies) * BATCH / elapsed


async def _peer(pool: Pool, at: int) -> float:
    row = "SELECT * FROM fact LIMIT 1"
    async with pool.acquire() as connection:
        values = list(await connection.fetchrow(row))
        marks = ", ".join(f"${column}" for column in range(1, len(values) + 1))
        insert = await connection.prepare(f"INSERT INTO like_peer VALUES ({marks})")  # noqa: S608 - only marks
        started = time.perf_counter()
        for start in range(0, PEER_RECORDS, BATCH):
            async with connection.transaction():
                for number in range(start, start + BATCH):
                    values[1] = struct.pack(">QQ", at, number)
                    await insert.fetch(*values)
        return PEER_RECORDS / (time.perf_counter() - started)


async def _limit(pool: Pool, at: int) -> float:
    """As many rows, as many distinct cards, in one statement and one commit."""
    fill = """
        INSERT INTO like_limit
        SELECT substring(sm3 FROM 1 FOR 10), substring(sm3 FROM 11 FOR 16), kind, purse, generation, number % 65536,
        amount_fen,
               terminal_number, number, instant, origin_date, post_date, sector, operator, terminal, epoch, number,
               sealed,
               state, code, number / 500, received_at, record
        FROM (SELECT * FROM fact LIMIT 1) AS one,
             LATERAL (SELECT number, sha256(int8send($1 + number)) AS sm3 FROM generate_series(1,
             $2::bigint) AS number) AS made"""
    async with pool.acquire() as connection:
        started = time.perf_counter()
        await connection.execute(fill, at * 10_000_000, BATCHES * BATCH)
        return BATCHES * BATCH / (time.perf_counter() - started)


def _body(at: int, records: np.ndarray[Any, Any]) -> tuple[int, int, bytes]:
    """Terminal, number, body of the at-th batch; terminals take turns."""
    terminal, n = 110001 + at % TERMINALS, at // TERMINALS + 1
    first = int(records["sequence"][0])
    fen = int(records["amount_fen"].sum())
    header = struct.pack(">4sIHHIIQ4s", b"OCB1", terminal, 1, BATCH, first, first + BATCH - 1, fen, bytes(4))
    return terminal, n, header + records.tobytes()


def _records(count: int) -> np.ndarray[Any, Any]:
    """Bus rides with right TACs and seals, by ciphers that `keys` does not use."""
    random = np.random.default_rng(7)
    batch = np.arange(count) // BATCH
    records = np.zeros(count, RECORD_DTYPE)
    rows = octets(records)
    rows[:, 8:12] = np.frombuffer(bytes.fromhex(ISSUER), np.uint8)
    holders = random.integers(0, CARDS, count)
    rows[:, 12:22] = np.array([np.frombuffer(_card(holder), np.uint8) for holder in range(CARDS)])[holders]
    rows[:, 39:46] = np.frombuffer(bytes.fromhex("20260302195900"), np.uint8)
    terminals = 110001 + batch % TERMINALS
    numbers = np.array([np.frombuffer(_psam(terminal), np.uint8) for terminal in range(110001, 110001 + TERMINALS)])
    rows[:, 29:35] = numbers[batch % TERMINALS]
    sequence = batch // TERMINALS * BATCH + np.arange(count) % BATCH + 1
    for name, value in (
        ("version", 1), ("kind", Kind.DEBIT), ("key_version", 1), ("key_index", 1), ("purse", 1), ("transaction_type",
        6),
        ("amount_fen", 200), ("full_fare_fen", 200), ("epoch", 1), ("line", 7), ("concession", 1), ("terminal",
        terminals),
        ("sequence", sequence), ("terminal_transaction", sequence), ("counter", np.arange(count) % 65536),
    ):  # fmt: skip
        records[name] = value
    issuer = TripleDesKey(ROOT).derive(bytes.fromhex(ISSUER * 2))
    tac_keys = [issuer.derive(_card(holder)[-8:]).tac_key() for holder in range(CARDS)]
    seal_keys = []
    for number in numbers:
        factor = b"\0\0" + number.tobytes()
        seal_keys.append(Sm4Key(ROOT).derive(factor).derive(factor))
    for at, row in enumerate(rows):
        row[46:50] = np.frombuffer(tac_keys[holders[at]].mac(row[24:46].tobytes())[:4], np.uint8)
        row[120:128] = np.frombuffer(seal_keys[batch[at] % TERMINALS].mac(row[:120].tobytes())[:8], np.uint8)
    return records


def _card(holder: int) -> bytes:
    return bytes.fromhex(f"0310{holder:016}")


def _psam(terminal: int) -> bytes:
    return bytes.fromhex(f"{791_000_000_000 + terminal}")


def _registry() -> str:

    since = "2026-01-01T00:00:00+08:00"
    terminals = range(110001, 110001 + TERMINALS)
    cut_off = {"timezone": "Asia/Shanghai", "at": "02:00"}
    return json.dumps(
        {
            "issuers": [{"code": ISSUER, "name": "own", "own": True}],
            "parties": [{"id": 101, "kind": "operator", "name": "bus"}],
            "terminals": [
                {"id": terminal, "operator": 101, "sector": "transit", "class": "bus", "epoch": 1}
                for terminal in terminals
            ],
            "psams": [
                {
                    "number": _psam(terminal).hex(),
                    "sector": "transit",
                    "operator": 101,
                    "from": since,
                    "to": None,
                    "state": "active",
                }
                for terminal in terminals
            ],
            "policies": [
                {
                    "name": "cut-off",
                    "scope": "*",
                    "from": "2026-01-01",
                    "version": 1,
                    "basis": "bench",
                    "value": cut_off,
                }
            ],
            "cards": [
                {
                    "card": _card(holder).hex(),
                    "issuer": ISSUER,
                    "profile": "shared-purse",
                    "suite": "3des",
                    "class": 1,
                    "generation": 0,
                }
                for holder in range(CARDS)
            ],
        }
    )


if __name__ == "__main__":
    main()
