"""A clearing house for tests: a small registry, and taps stored as intake stores them (docs/ledger.md), by SQL of its
own.
"""

import hashlib
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import asyncpg

from cardcore.bcd import encode_moment
from cardcore.cryptogram import proof_input
from cardcore.record import TapRecord
from clearing.close.command import Closing, close

ISSUER = bytes.fromhex("02317910")
ZONE = ZoneInfo("Asia/Shanghai")
D1, D2, D3 = date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4)
BUS, METRO, SHOP, COUNTER = 110001, 110002, 120001, 900001
BUS_CO, METRO_CO, SHOP_CO, BANK = 101, 102, 201, 901
SECTORS = {1: "transit", 2: "social", 3: "smallpay", 4: "utility", 5: "medical"}
WHERE = {BUS: (1, BUS_CO), METRO: (1, METRO_CO), SHOP: (3, SHOP_CO), COUNTER: (1, BANK)}
POLICIES = [
    ("cut-off", "*", 1, {"timezone": "Asia/Shanghai", "at": "02:00"}),
    ("fare-flat", "7", 1, {"fen": 200}),
    ("fare-metro", "*", 1, {"base_fen": 200, "step_fen": 50, "max_fen": 900}),
    ("concession", "transit", 3, {"1": 100, "2": 50, "3": 0}),
    ("fee", "101", 2, {"bps": 30}),
    ("grace", "*", 1, {"hours": 24}),
    ("denylist", "*", 1, {"effective_after_s": 0, "publish_after_s": 3600}),
]


def at(text: str) -> datetime:
    """An instant of Shanghai: `03-02 08:00` or with seconds."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=ZONE)


def card(number: int) -> bytes:
    return bytes.fromhex(f"0310{number:016}")


@dataclass
class StoppedClock:
    instant: datetime

    def now(self) -> datetime:
        return self.instant


@dataclass
class ClearingSide:
    """Stores what intake would store, one batch per record, and closes days at 03:00 of the next one."""

    pool: asyncpg.Pool
    open_day: date = D1
    arrived: int = 0

    async def tap(self, who: bytes, counter: int, amount_fen: int, before_fen: int, moment: datetime, *,
        terminal: int = BUS,
                  kind: int = 1, state: str = "accepted", code: str = "", sealed: bool = True,
                  **claims: int | bytes) -> TapRecord:  # fmt: skip
        """A proven debit (full fare = amount unless claimed otherwise), stored with its postings; the record."""
        self.arrived += 1
        day, time = encode_moment(moment.astimezone(ZONE).replace(tzinfo=None))
        values: dict[str, Any] = {
            "sequence": self.arrived, "terminal_transaction": self.arrived, "full_fare_fen": amount_fen,
            "concession": 1, "line": 7,
            "terminal_number": bytes.fromhex("7910") + terminal.to_bytes(4, "big"), "transaction_type": 6,
            "operator": 9,
        } | claims  # fmt: skip
        record = TapRecord(
            kind=kind, issuer=ISSUER, card=who, counter=counter, amount_fen=amount_fen, balance_before_fen=before_fen,
            date=day, time=time, terminal=terminal, seal=b"sealseal" if sealed else bytes(8), **values,
        )  # fmt: skip
        await self.store(record, moment, state=state, code=code, sealed=sealed)
        return record

    async def store(self, record: TapRecord, moment: datetime, *, state: str = "accepted", code: str = "",
                    sealed: bool = True, channel: int = BANK) -> None:  # fmt: skip
        """A fact with its batch and journal, posted on the later of its origin date and the open date."""
        sector, operator = WHERE[record.terminal]
        origin = (moment.astimezone(ZONE) - timedelta(hours=2)).date()
        post = max(origin, self.open_day)
        key = proof_key(record)
        async with self.pool.acquire() as connection, connection.transaction():
            batch = await self._batch(connection, record, state, code)
            await connection.execute(
                f"INSERT INTO fact VALUES ({', '.join(f'${n}' for n in range(1, 24))})",  # noqa: S608
                record.card, key, record.kind, record.purse, record.generation, record.counter, record.amount_fen,
                record.terminal_number, record.terminal_transaction, moment, origin, post, sector, operator,
                record.terminal,
                record.epoch, record.sequence, sealed, state, code, batch, moment, record.encode(),
            )  # fmt: skip
            ledger, suspended = SECTORS[sector], state == "suspended"
            legs = {
                4: [("purse", f"cash:{channel}", "bank cash", 1), ("purse", f"float:{record.purse}", "stored value",
                -1)],
            }.get(record.kind, [
                ("purse", f"float:{record.purse}", "stored value", 1), ("purse", f"due:{ledger}", "stored value", -1),
                (ledger, "due:purse", "stored value", 1),
                (ledger, f"{'suspense' if suspended else 'payable'}:{operator}", "stored value", -1),
            ])  # fmt: skip
            if record.amount_fen and not (record.kind == 4 and suspended):
                rule = "load" if record.kind == 4 else "debit"
                await self._post(connection, batch, rule, post, origin, record.amount_fen, key, legs)
            if record.kind == 4:
                await connection.execute(
                    "UPDATE load_order SET state = 'confirmed' WHERE (card, purse, counter) = ($1, $2, $3)",
                    record.card, record.purse, record.counter,
                )  # fmt: skip

    async def _batch(self, connection: asyncpg.Connection, record: TapRecord, state: str, code: str) -> int:
        """The body of one record as a terminal would send it (docs/wire.md), answered with what became of it."""
        body = b"OCB1" + struct.pack(">IHHIIQ4x", record.terminal, record.epoch, 1, record.sequence, record.sequence,
                                     record.amount_fen) + record.encode()  # fmt: skip
        counted = dict.fromkeys(("accepted", "duplicate", "suspended", "pending", "memo", "conflict"), 0)
        counted |= {{"pending_issuer": "pending"}.get(state, state): 1} if state != "quarantined" else {}
        refused = [{"seq": record.sequence, "code": code}] if state == "quarantined" else []
        batch: int = await connection.fetchval(
            """INSERT INTO batch (terminal, n, epoch, first_seq, last_seq, count, digest, media, body, answer,
                received_at)
               VALUES ($1, (SELECT count(*) FROM batch), $2, $3, $3, 1, $4, 'application/vnd.onecard.batch', $5, $6,
                now()) RETURNING batch_id""",
            record.terminal, record.epoch, record.sequence, sm3(body), body,
            json.dumps(counted | {"quarantined": refused}),
        )  # fmt: skip
        return batch

    async def _post(self, connection: asyncpg.Connection, batch: int, rule: str, post: date, origin: date,
        amount_fen: int,
                    key: bytes, legs: list[tuple[str, str, str, int]]) -> None:  # fmt: skip
        await connection.executemany(
            "INSERT INTO account VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [leg[:3] for leg in legs]
        )
        journal = await connection.fetchval(
            "INSERT INTO journal (cause, reference, posted_at) SELECT 'batch', terminal || '/' || n, now() FROM batch "
            "WHERE batch_id = $1 RETURNING journal_id",
            batch,
        )
        root = sm3(b"\0" + key)
        await connection.execute(
            """INSERT INTO posting (journal_id, ledger, account, class, rule, version, business_date, origin_date,
                count,
                                    amount_fen, merkle_root)
               SELECT $1, l, a, c, $2, 1, $3, $4, 1, s * $5::bigint, $6
               FROM unnest($7::text[], $8::text[], $9::text[], $10::int[]) AS leg (l, a, c, s)""",
            journal, rule, post, origin, amount_fen, root, *(list(column) for column in zip(*legs, strict=True)),
        )  # fmt: skip

    async def exhibit(self, record: TapRecord, moment: datetime, state: str, code: str, *, sealed: bool = True) -> None:
        """A record without a proof of ours."""
        sector, operator = WHERE[record.terminal]
        origin = (moment.astimezone(ZONE) - timedelta(hours=2)).date()
        async with self.pool.acquire() as connection, connection.transaction():
            batch = await self._batch(connection, record, state, code)
            await connection.execute(
                f"INSERT INTO exhibit VALUES ({', '.join(f'${n}' for n in range(1, 24))})",  # noqa: S608
                record.card, sm3(record.encode()), state, code, proof_key(record), record.kind,
                record.purse, record.generation, record.counter, record.amount_fen, moment, origin, max(origin,
                self.open_day),
                sector, operator, record.terminal, record.epoch, record.sequence, sealed, batch, moment, None,
                record.encode(),
            )  # fmt: skip

    async def load(self, who: bytes, counter: int, amount_fen: int, before_fen: int, moment: datetime, *,
                   proven: bool = True, load_id: str | None = None) -> TapRecord:  # fmt: skip
        """An authorised load through the bank; `proven` when the card's record came in as well."""
        await self.pool.execute(
            """INSERT INTO load_order (load_id, card, purse, generation, counter, amount_fen, channel, terminal,
                raw_fen, reserved_at, authorised_at, state) VALUES ($1, $2, 1, 0, $3, $4, $5, $6, $8, $7, $7,
                'authorised')""",
            load_id or uuid4().hex, who, counter, amount_fen, str(BANK), COUNTER, moment, before_fen,
        )  # fmt: skip
        day, time = encode_moment(moment.astimezone(ZONE).replace(tzinfo=None))
        self.arrived += 1
        record = TapRecord(
            kind=4, issuer=ISSUER, card=who, counter=counter, amount_fen=amount_fen, balance_before_fen=before_fen,
            date=day,
            time=time, terminal=COUNTER, sequence=self.arrived, transaction_type=2,
            terminal_number=b"\0\0" + COUNTER.to_bytes(4, "big"),
        )  # fmt: skip
        if proven:
            await self.store(record, moment, sealed=False)
        return record

    async def adopt(self, record: TapRecord, sealed: TapRecord) -> None:
        """A sealed copy comes in, is kept as a conflict, and lends its claims to the unsealed record that is stored."""
        moment = await self.pool.fetchval("SELECT instant FROM fact WHERE proof_key = $1", proof_key(record))
        await self.exhibit(sealed, moment, "conflict", "conflict")
        await self.pool.execute(
            "INSERT INTO record_event VALUES ($1, $2, 'adopted', $3, $4)",
            record.card, proof_key(record), self.open_day, sealed.encode(),
        )  # fmt: skip

    async def close(self) -> Closing:
        """Close the open date."""
        moment = datetime.combine(self.open_day + timedelta(days=1), datetime.min.time(), ZONE) + timedelta(hours=3)
        closing = await close(self.pool, self.open_day, StoppedClock(moment.astimezone(UTC)))
        self.open_day += timedelta(days=1)
        return closing

    async def moves(self, day: date, *rules: str) -> dict[tuple[str, str, str], int]:
        """Net fen by (ledger, account, rule@version) that a date posted under some rules."""
        rows = await self.pool.fetch(
            """SELECT ledger, account, rule || '@' || version AS rule, sum(amount_fen)::bigint AS fen FROM posting
               WHERE business_date = $1 AND rule = ANY($2) GROUP BY 1, 2, 3 HAVING sum(amount_fen) <> 0""",
            day, rules,
        )  # fmt: skip
        return {(row["ledger"], row["account"], row["rule"]): row["fen"] for row in rows}

    async def cases(self) -> dict[tuple[str, str], tuple[int, date, date | None, str | None, str]]:
        """amount, opened, resolved, resolution, owner by (kind, subject)."""
        rows = await self.pool.fetch("SELECT * FROM case_file")
        return {
            (row["kind"], row["subject"]): (
                row["amount_fen"],
                row["opened"],
                row["resolved"],
                row["resolution"],
                row["owner"],
            )
            for row in rows
        }


def sm3(message: bytes) -> bytes:
    return hashlib.new("sm3", message).digest()


def proof_key(record: TapRecord) -> bytes:
    return sm3(proof_input(record))[:16]


def subject(record: TapRecord) -> str:
    return f"{record.terminal}/{record.epoch}/{record.sequence}"


def resealed(record: TapRecord) -> TapRecord:
    return replace(record, seal=b"sealseal")


@asynccontextmanager
async def clearing_side(dsn: str, cards: int = 9) -> AsyncIterator[ClearingSide]:
    """A house with cards 1..`cards` (class 2 for card 2, 3 for card 3), open on D1."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        await pool.execute("INSERT INTO issuer VALUES ($1, 'city', true)", ISSUER)
        for party, kind in ((BUS_CO, "operator"), (METRO_CO, "operator"), (SHOP_CO, "operator"), (BANK, "bank")):
            await pool.execute("INSERT INTO party VALUES ($1, $2, $2)", party, kind)
        classes = {BUS: "bus", METRO: "metro", SHOP: "pos", COUNTER: "counter"}
        for terminal, (sector, operator) in WHERE.items():
            await pool.execute(
                "INSERT INTO terminal VALUES ($1, $2, $3, $4, 1)", terminal, operator, sector, classes[terminal]
            )
        await pool.executemany(
            "INSERT INTO policy VALUES ($1, $2, '2026-01-01', $3, '', $4)",
            [(name, scope, version, json.dumps(value)) for name, scope, version, value in POLICIES],
        )
        await pool.executemany(
            "INSERT INTO card VALUES ($1, $2, 'shared-purse', 0, $3, 0)",
            [(card(n), ISSUER, n if n in (2, 3) else 1) for n in range(1, cards + 1)],
        )
        await pool.execute("INSERT INTO card_class SELECT card, '-infinity', class FROM card")
        await pool.execute("INSERT INTO open_day (date) VALUES ($1)", D1)
        yield ClearingSide(pool)
