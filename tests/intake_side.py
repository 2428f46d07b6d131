"""The other side of intake: a registry, cards whose cryptograms come from the simulators' ciphers, and batches over
HTTP.

Nothing of `keys` makes a cryptogram here, so that a wrong reading of the contract shows as a bad proof.
"""

import hashlib
import json
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg

from cardcore.bcd import encode_moment
from cardcore.cryptogram import load_tac_input, purchase_tac_input
from cardcore.record import Kind, Suite, TapRecord
from clearing.registry import parse_registry, take
from clearing.service import ServiceSettings, running
from clearing.store.connect import connect_pool
from keys.engine.root import RootKey
from keys.purposes import KeyId, required_roots
from keys.store import EmbeddedStore, open_store
from simulators.cipher import STORED_KEYS, Sm4Key, StoredKey

ZONE = ZoneInfo("Asia/Shanghai")
OWN, FOREIGN = "02317910", "02317950"
BUS, SHOP, COUNTER, HOSPITAL = 110001, 120001, 900001, 500001
BUS_PSAM, SHOP_PSAM, LOST_PSAM, OLD_PSAM = "791001000001", "791003000001", "791001000009", "791001000007"
BANK = 901
NOON = datetime(2026, 3, 2, 12, tzinfo=ZONE)


def card_serial(number: int) -> str:
    return f"0310{number:016}"


CARDS = [card_serial(number) for number in range(1, 21)]
DENIED, REPLACED, STRANGER = card_serial(901), card_serial(902), card_serial(999)


def registry_document(**more: Any) -> dict[str, Any]:
    policies = [
        ("cut-off", "*", {"timezone": "Asia/Shanghai", "at": "02:00"}),
        ("clock", "*", {"ahead_s": 300}),
        ("limit", "load", {"max_balance_fen": 100000, "max_load_fen": 50000}),
        ("licence", "1", {"sectors": ["transit", "smallpay", "utility"], "reserve_bank": BANK}),
        ("denylist", "*", {"effective_after_s": 0, "publish_after_s": 3600}),
        ("replacement", "*", {"offline_window_h": 0}),
    ]
    cards = [*CARDS, DENIED, REPLACED]
    return {
        "issuers": [{"code": OWN, "name": "own", "own": True}, {"code": FOREIGN, "name": "foreign", "own": False}],
        "parties": [
            {"id": 101, "kind": "operator", "name": "bus"},
            {"id": 201, "kind": "operator", "name": "shop"},
            {"id": 501, "kind": "operator", "name": "hospital"},
            {"id": BANK, "kind": "bank", "name": "bank"},
        ],
        "terminals": [
            {"id": BUS, "operator": 101, "sector": "transit", "class": "bus", "epoch": 1},
            {"id": SHOP, "operator": 201, "sector": "smallpay", "class": "pos", "epoch": 1},
            {"id": COUNTER, "operator": BANK, "sector": "transit", "class": "counter", "epoch": 1},
            {"id": HOSPITAL, "operator": 501, "sector": "medical", "class": "hospital", "epoch": 1},
        ],
        "psams": [
            psam(BUS_PSAM, "transit", 101),
            psam(SHOP_PSAM, "smallpay", 201),
            psam(LOST_PSAM, "transit", 101, state="lost"),
            psam(OLD_PSAM, "transit", 101, to="2026-02-01T00:00:00+08:00"),
        ],
        "policies": [
            {"name": name, "scope": scope, "from": "2026-01-01", "version": 1, "basis": "test", "value": value}
            for name, scope, value in policies
        ],
        "cards": [
            {"card": card, "issuer": OWN, "profile": "shared-purse", "suite": "3des", "class": 1, "generation": 0}
            for card in cards
        ],
    } | more


def psam(number: str, sector: str, operator: int, to: str | None = None, state: str = "active") -> dict[str, Any]:
    start = "2026-01-01T00:00:00+08:00"
    return {"number": number, "sector": sector, "operator": operator, "from": start, "to": to, "state": state}


@cache
def roots() -> dict[str, bytes]:
    """One root per name of a store, from a fixed seed."""
    return {name: hashlib.sha256(f"root {name}".encode()).digest()[:16] for name in required_roots()}


def key_store(path: Path, without: Sequence[str] = ()) -> EmbeddedStore:
    store = open_store(path)
    store.admit([RootKey(KeyId.parse(name), root, test=True) for name, root in roots().items() if name not in without])
    return store


@cache
def card_key(suite: int, purpose: str, scope: int, issuer: bytes, card: bytes) -> StoredKey:
    root = STORED_KEYS[suite](roots()[f"{'sm4' if suite else '3des'}/{purpose}/{scope}"])
    return root.derive(issuer + issuer).derive(card[-8:])


@cache
def record_key(terminal_number: bytes) -> Sm4Key:
    factor = b"\0\0" + terminal_number
    key = Sm4Key(roots()["sm4/RECORD"]).derive(factor).derive(factor)
    assert isinstance(key, Sm4Key)
    return key


def proven(record: TapRecord) -> TapRecord:
    """With the TAC that the card would give."""
    covered = load_tac_input(record) if record.kind == Kind.LOAD else purchase_tac_input(record)
    key = card_key(record.suite, "TAC", record.purse, record.issuer, record.card).tac_key()
    return replace(record, cryptogram=key.mac(covered)[:4] + bytes(4))


def sealed(record: TapRecord) -> TapRecord:
    """With the seal that the PSAM would give."""
    covered = replace(record, seal=bytes(8)).encode()[:120]
    return replace(record, seal=record_key(record.terminal_number).mac(covered)[:8])


def debit(sequence: int, **fields: Any) -> TapRecord:
    """A good, sealed bus ride of 200 fen; `at`, `card`, `psam` and `issuer` in their readable spellings, other fields
    as they are."""
    moment = fields.pop("at", NOON - timedelta(hours=2) + timedelta(seconds=sequence))
    date, time = encode_moment(moment.astimezone(ZONE).replace(tzinfo=None))
    seal = fields.pop("seal", True)
    values: dict[str, Any] = {
        "kind": Kind.DEBIT, "issuer": bytes.fromhex(fields.pop("issuer", OWN)),
        "card": bytes.fromhex(fields.pop("card", CARDS[sequence % len(CARDS)])),
        "terminal_number": bytes.fromhex(fields.pop("psam", BUS_PSAM)), "terminal_transaction": sequence,
        "date": date, "time": time, "terminal": BUS, "sequence": sequence, "amount_fen": 200, "full_fare_fen": 200,
        "transaction_type": 6, "counter": sequence, "balance_before_fen": 10_000, "suite": Suite.TRIPLE_DES, "line": 7,
        "concession": 1,
    }  # fmt: skip
    record = proven(TapRecord(**(values | fields)))
    return sealed(record) if seal else record


def spoiled(record: TapRecord) -> TapRecord:
    """With a cryptogram that is wrong."""
    return replace(record, cryptogram=bytes([record.cryptogram[0] ^ 1]) + record.cryptogram[1:])


def binary(records: Sequence[TapRecord], /, **header: Any) -> bytes:
    values = {
        "magic": b"OCB1", "terminal": records[0].terminal, "epoch": 1, "count": len(records),
        "first": min(record.sequence for record in records), "last": max(record.sequence for record in records),
        "sum": sum(record.amount_fen for record in records), "zeros": bytes(4),
    } | header  # fmt: skip
    return struct.pack(">4sIHHIIQ4s", *values.values()) + b"".join(record.encode() for record in records)


def as_json(records: Sequence[TapRecord], /, **header: Any) -> bytes:
    values = {
        "terminal": records[0].terminal, "epoch": 1, "count": len(records), "first_seq": records[0].sequence,
        "last_seq": records[-1].sequence, "amount_fen": sum(record.amount_fen for record in records),
        "records": [record.to_json() for record in records],
    } | header  # fmt: skip
    return json.dumps(values).encode()


@dataclass
class StoppedClock:
    instant: datetime = field(default_factory=lambda: NOON.astimezone(UTC))

    def now(self) -> datetime:
        return self.instant


@dataclass
class House:
    """A service on a database of its own."""

    url: str
    http: aiohttp.ClientSession
    pool: asyncpg.Pool
    store: EmbeddedStore
    clock: StoppedClock

    async def put(
        self, n: int, body: bytes, terminal: int = BUS, media: str = "application/vnd.onecard.batch", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        url = f"{self.url}/v1/t/{terminal}/batches/{n}"
        async with self.http.put(url, data=body, headers={"Content-Type": media} | headers) as response:
            document = await response.json(content_type=None)
            if response.status >= 400:
                assert response.headers["Onecard-Code"] == document["code"]
                assert response.content_type == "application/problem+json"
            return response.status, document

    async def upload(self, n: int, records: Sequence[TapRecord]) -> dict[str, Any]:
        status, answer = await self.put(n, binary(records), records[0].terminal)
        assert status == 200, answer
        return answer

    async def post(self, path: str, **document: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.url + path, json=document) as response:
            return response.status, await response.json(content_type=None)

    async def sums(self) -> dict[tuple[Any, ...], tuple[int, int]]:
        """Records and net fen by (ledger, account, class, rule, post date, origin date)."""
        rows = await self.pool.fetch(
            "SELECT ledger, account, class, rule, business_date, origin_date, sum(count)::int, sum(amount_fen)::bigint "
            "FROM posting GROUP BY 1, 2, 3, 4, 5, 6"
        )
        return {tuple(row)[:6]: (row[6], row[7]) for row in rows}

    async def accounts(self) -> Mapping[str, int]:
        """Net fen by `ledger/account`."""
        rows = await self.pool.fetch("SELECT ledger || '/' || account, sum(amount_fen)::bigint FROM posting GROUP BY 1")
        return dict(rows)

    async def states(self) -> dict[tuple[str, str], int]:
        """Stored records by state and code."""
        rows = await self.pool.fetch(
            "SELECT state, code, count(*) FROM (SELECT state, code FROM fact UNION ALL "
            "SELECT state, code FROM exhibit WHERE taken_up_at IS NULL) AS record GROUP BY 1, 2"
        )
        return {(row[0], row[1]): row[2] for row in rows}


@asynccontextmanager
async def house(dsn: str, path: Path, without: Iterable[str] = (), **registry: Any) -> AsyncIterator[House]:
    pool = await connect_pool(dsn, size=2)
    clock = StoppedClock()
    with key_store(path / "keys", tuple(without)) as store:
        async with pool.acquire() as connection:
            await take(connection, parse_registry(json.dumps(registry_document(**registry))))
        settings = ServiceSettings(dsn, store, clock, port=0)
        async with running(settings) as service, aiohttp.ClientSession() as http:
            yield House(service.url, http, pool, store, clock)
    await pool.close()


def load_request(
    card: str,
    *,
    amount_fen: int = 5000,
    counter: int = 0,
    raw_balance_fen: int = 800,
    terminal: int = COUNTER,
    **more: Any,
) -> dict[str, Any]:
    """The body of a load as a counter sends it, with the MAC1 that the card would give; value = raw balance − 800."""
    number, random_ = b"\0\0" + terminal.to_bytes(4), bytes.fromhex("a1b2c3d4")
    covered = raw_balance_fen.to_bytes(4) + amount_fen.to_bytes(4) + b"\2" + number
    session = card_key(0, "LOAD", 1, bytes.fromhex(OWN), bytes.fromhex(card)).session(random_ + counter.to_bytes(2))
    return {
        "terminal": terminal, "terminal_number": number.hex(), "issuer": OWN, "card": card, "purse": 1,
        "generation": 0, "suite": 0,
        "key_version": 1, "key_index": 1, "amount_fen": amount_fen, "channel": str(BANK),
        "balance_fen": raw_balance_fen,
        "counter": counter, "random": random_.hex(), "mac1": session.mac(covered)[:4].hex(),
    } | more  # fmt: skip


def load_record(request: Mapping[str, Any], grant: Mapping[str, Any], sequence: int) -> TapRecord:
    """The record of a load that the card took."""
    return proven(
        TapRecord(
            kind=Kind.LOAD,
            issuer=bytes.fromhex(OWN),
            card=bytes.fromhex(request["card"]),
            transaction_type=2,
            terminal_number=bytes.fromhex(request["terminal_number"]),
            terminal=COUNTER,
            sequence=sequence,
            date=bytes.fromhex(grant["date"]),
            time=bytes.fromhex(grant["time"]),
            counter=request["counter"],
            amount_fen=request["amount_fen"],
            balance_before_fen=request["balance_fen"] - 800,
            overdraft_fen=800,
        )
    )


def act_request(card: str, **more: Any) -> dict[str, Any]:
    return {
        "terminal": HOSPITAL, "terminal_number": "0000" + HOSPITAL.to_bytes(4).hex(), "sector": "medical",
        "issuer": OWN,
        "card": card, "amount_fen": 1000, "transaction_type": 0xA2, "split": {"fund": 700, "account": 300},
    } | more  # fmt: skip


def act_record(request: Mapping[str, Any], grant: Mapping[str, Any], sequence: int, **fields: Any) -> TapRecord:
    """The record of an act that the card authenticated: SM3 by hashlib, MAC by the simulators' cipher."""
    number, date, time = (bytes.fromhex(text) for text in (request["terminal_number"], grant["date"], grant["time"]))
    split = ";".join(f"{payer}={fen}" for payer, fen in sorted(request["split"].items())).encode()
    covered = (
        b"OCA1\x05" + bytes.fromhex(grant["act_id"] + grant["challenge"]) + request["amount_fen"].to_bytes(4)
        + bytes([request["transaction_type"]]) + number + date + time + bytes.fromhex(request["card"])
        + hashlib.new("sm3", split).digest()
    )  # fmt: skip
    digest = hashlib.new("sm3", covered).digest()[:16]
    assert digest.hex() == grant["digest"]
    key = card_key(0, "ACT", 5, bytes.fromhex(OWN), bytes.fromhex(request["card"]))
    values: dict[str, Any] = {
        "kind": Kind.ACT, "issuer": bytes.fromhex(OWN), "card": bytes.fromhex(request["card"]), "purse": 5,
        "terminal_number": number, "terminal": HOSPITAL, "sequence": sequence, "date": date, "time": time,
        "amount_fen": request["amount_fen"], "transaction_type": request["transaction_type"],
        "act_id": bytes.fromhex(grant["act_id"]), "cryptogram": key.mac(digest)[:8],
    }  # fmt: skip
    return TapRecord(**(values | fields))
