"""SQL of the close: what is true of all records known, what of it is not yet posted, and the day's end.

Everything per record is one statement over temporary tables keyed by card (`known`, `ride`, and those of
`clearing.store.purses`); they live as long as the transaction. All functions run inside the closer's transaction.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import asyncpg

from cardcore.record import Kind, Sector
from clearing.store import ask
from clearing.store.claims import LENT, OFFLINE, believed, claim, purse_subject, record_subject, reference
from clearing.store.purses import gather_purses

LOCK = int.from_bytes(b"close\x00\x00\x00")

_CLAIMED = ", ".join(
    f"{claim(name)} AS {name}"
    for name in (
        "kind", "terminal", "epoch", "sequence", "generation", "counter", "balance_before_fen", "overdraft_fen",
        "flags", "line", "station", "entry_station", "entry_at", "concession", "full_fare_fen", "list_version",
    )
)  # fmt: skip
# A copy lends all its claims or none; what the cryptogram covers is the same in both.
KNOWN = f"""
    CREATE TEMP TABLE known ON COMMIT DROP AS
    WITH believed AS (
        SELECT card, proof_key, f.purse, f.amount_fen, f.terminal_number, f.terminal_transaction, f.instant,
               f.origin_date, f.sector, f.operator, f.state, f.code, f.batch_id,
               f.sealed OR lent.card IS NOT NULL AS sealed, {believed("f", "lent")} AS record
        FROM fact f LEFT JOIN {LENT} AS lent USING (card, proof_key)
    ), claimed AS (
        SELECT card, proof_key, purse, amount_fen, terminal_number, terminal_transaction, instant, origin_date, sector,
               operator, state, code, batch_id, sealed, sealed AND {claim("kind")} IN {OFFLINE} AS counted,
               {claim("date")} || {claim("time")} AS moment, {_CLAIMED}
        FROM believed
    )
    SELECT *, counted AND count(*) OVER same > 1 AS forked, row_number() OVER (
        same ORDER BY moment, terminal_number, terminal_transaction) AS place
    FROM claimed WINDOW same AS (PARTITION BY card, purse, generation, counter, counted)"""

RIDE = f"""
    CREATE TEMP TABLE ride ON COMMIT DROP AS
    SELECT k.card, k.proof_key, {reference("k")} AS reference, {record_subject("k")} AS subject, k.kind, k.operator,
        k.origin_date,
           k.amount_fen, k.full_fare_fen, k.line, k.station, k.entry_station, k.flags & 4 <> 0 AS without_entry,
               k.concession, held.class
    FROM known k, LATERAL (SELECT class FROM card_class c WHERE c.card = k.card AND c.since <= k.instant
        ORDER BY c.since DESC LIMIT 1) AS held
    WHERE k.sector = {Sector.TRANSIT.value} AND k.kind IN ({Kind.DEBIT.value}, {Kind.EXIT.value}) AND k.state =
        'accepted'
      AND k.sealed AND NOT k.forked"""
RIDE_KEY = ("kind", "line", "station", "entry_station", "without_entry", "concession", "origin_date")
TARIFF = """
    CREATE TEMP TABLE tariff (kind smallint, line bigint, station bigint, entry_station bigint, without_entry boolean,
        concession bigint, origin_date date, full_fen bigint, due_fen bigint, version integer) ON COMMIT DROP"""

TARGET = """
    CREATE TEMP TABLE target (rule text, version integer, subject text, proof_key bytea, ledger text, account text,
        origin_date date, amount_fen bigint) ON COMMIT DROP"""
SUBSIDIES = """
    INSERT INTO target
    SELECT 'subsidy', t.version, r.reference, r.proof_key, 'transit', leg.account, r.origin_date,
           leg.sign * (r.full_fare_fen - r.amount_fen)
    FROM ride r JOIN tariff t USING (kind, line, station, entry_station, without_entry, concession, origin_date),
         LATERAL (VALUES ('subsidy', 1), ('subsidy_payable:' || r.operator, -1)) AS leg (account, sign)
    WHERE r.full_fare_fen > r.amount_fen
      AND (r.full_fare_fen, r.amount_fen, r.concession) = (t.full_fen, t.due_fen, r.class)"""


def _forks() -> str:
    labels = " ".join(f"WHEN {sector.value} THEN '{sector.label}'" for sector in Sector)
    return f"""
    INSERT INTO target
    SELECT 'fork', 1, {reference("k")}, k.proof_key, leg.ledger, leg.account, k.origin_date, leg.sign * k.amount_fen
    FROM known k, LATERAL (VALUES
        (CASE k.sector {labels} END, 'payable:' || k.operator, CASE k.state WHEN 'accepted' THEN 1 ELSE 0 END),
        (CASE k.sector {labels} END, 'suspense:' || k.operator, CASE k.state WHEN 'accepted' THEN -1 ELSE 0 END),
        ('purse', 'fraud', CASE WHEN k.place > 1 THEN 1 ELSE 0 END),
        ('purse', 'float:' || k.purse, CASE WHEN k.place > 1 THEN -1 ELSE 0 END)) AS leg (ledger, account, sign)
    WHERE k.forked AND k.amount_fen > 0 AND leg.sign <> 0"""


FORKS = _forks()
DELTA = """
    CREATE TEMP TABLE delta ON COMMIT DROP AS
    SELECT rule, version, subject, proof_key, ledger, account, origin_date, sum(amount_fen)::bigint AS amount_fen
    FROM (SELECT rule, version, subject, proof_key, ledger, account, origin_date, amount_fen FROM target
          UNION ALL
          SELECT rule, version, subject, proof_key, ledger, account, origin_date, -amount_fen FROM carried) AS
              both_sides
    GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(amount_fen) <> 0"""
DISPUTES = """
    INSERT INTO record_event (card, proof_key, kind, on_date)
    SELECT card, proof_key, 'disputed', $1::date FROM known WHERE forked ON CONFLICT DO NOTHING"""


async def lock_open_day(connection: asyncpg.Connection) -> date | None:
    """Wait for other closers and for intakes in flight; the open date, locked until the transaction ends, None when
    none is open.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    found: date | None = await connection.fetchval("SELECT date FROM open_day FOR UPDATE")
    return found


async def hold_open_day(connection: asyncpg.Connection) -> date | None:
    """The open date, held still until the transaction ends; None before the first."""
    found: date | None = await connection.fetchval("SELECT date FROM open_day FOR SHARE")
    return found


async def read_closing(connection: asyncpg.Connection, day: date) -> asyncpg.Record | None:
    """date, closed_at, books_digest, substance_digest of a closed date."""
    return await connection.fetchrow(
        "SELECT date, closed_at, books_digest, substance_digest FROM closing WHERE date = $1", day
    )


async def gather(connection: asyncpg.Connection) -> None:
    """Lay out what is known now: records with their believed claims, forks among them, steps between them, rides."""
    await connection.execute(KNOWN)
    await connection.execute("CREATE INDEX ON known (card, purse, generation, counter)")
    await connection.execute("ANALYZE known")
    await gather_purses(connection)
    for statement in (RIDE, TARIFF, TARGET):
        await connection.execute(statement)
    await connection.execute("ANALYZE ride")


async def dispute(connection: asyncpg.Connection, day: date) -> None:
    """Every member of a fork becomes disputed."""
    await connection.execute(DISPUTES, day)


async def ride_keys(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """The distinct combinations of what decides a fare: columns `RIDE_KEY`."""
    return await ask.rows(connection, f"SELECT DISTINCT {', '.join(RIDE_KEY)} FROM ride")


async def put_tariff(connection: asyncpg.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    """Fares by `RIDE_KEY`: then full_fen or None, due_fen or None, version."""
    await connection.copy_records_to_table("tariff", records=rows)
    await connection.execute("ANALYZE tariff")


async def put_targets(connection: asyncpg.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    """What must be posted for a subject: rule, version, subject, proof_key, ledger, account, origin_date,
    amount_fen.
    """
    await connection.copy_records_to_table("target", records=rows)


async def replaced_values(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """What replaced cards held: old, purse, value_fen, made_at."""
    return await ask.rows(
        connection,
        "SELECT old, purse, value_fen, made_at FROM replacement JOIN replacement_value USING (old) ORDER BY old, purse",
    )


async def target_sets(connection: asyncpg.Connection) -> None:
    """The targets that are sets: subsidies and forks."""
    await connection.execute(SUBSIDIES)
    await connection.execute(FORKS)


async def carry(connection: asyncpg.Connection, day: date) -> list[asyncpg.Record]:
    """Book the differences of targets to what was carried; per posting: rule, version, ledger, account, origin_date,
    fen, proof_keys.
    """
    await connection.execute(DELTA)
    await connection.execute(
        """
        INSERT INTO carried (rule, subject, ledger, account, origin_date, version, amount_fen, posted_on, proof_key)
        SELECT rule, subject, ledger, account, origin_date, version, amount_fen, $1::date, proof_key FROM delta""",
        day,
    )
    return await ask.rows(
        connection,
        """
        SELECT rule, version, ledger, account, origin_date, sum(amount_fen)::bigint AS fen,
               coalesce(array_agg(proof_key ORDER BY proof_key) FILTER (WHERE proof_key IS NOT NULL), '{}') AS
                   proof_keys
        FROM delta GROUP BY rule, version, ledger, account, origin_date, amount_fen > 0
        ORDER BY 1, 2, 3, 4, 5, 6""",
    )


async def count_postings(connection: asyncpg.Connection, day: date) -> int:
    """How many postings a date has."""
    found: int = await connection.fetchval("SELECT count(*) FROM posting WHERE business_date = $1", day)
    return found


async def post(connection: asyncpg.Connection, day: date, at: datetime, legs: Sequence[tuple[object, ...]]) -> int:
    """One journal of the close; legs: ledger, account, class, rule, version, origin_date, count, amount_fen,
    merkle_root.
    """
    await connection.executemany(
        "INSERT INTO account (ledger, account, class) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        sorted({leg[:3] for leg in legs}, key=str),
    )
    journal: int = await connection.fetchval(
        "INSERT INTO journal (cause, reference, posted_at) VALUES ('close', $1, $2) RETURNING journal_id", str(day), at
    )
    await connection.execute(
        """
        INSERT INTO posting (journal_id, business_date, ledger, account, class, rule, version, origin_date, count,
            amount_fen,
                             merkle_root)
        SELECT $1::bigint, $2::date, * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
            $8::date[], $9::integer[],
                                     $10::bigint[], $11::bytea[])""",
        journal,
        day,
        *(list(column) for column in zip(*legs, strict=True)),
    )
    return journal


async def freeze(
    connection: asyncpg.Connection, cards: Sequence[bytes], reason: str, at: datetime, published_at: datetime
) -> int:
    """Denylist cards that are not yet denylisted, effective at once; how many were."""
    status: str = await connection.execute(
        """
        INSERT INTO denylist (card, version, reason, reported_at, effective_at, published_at)
        SELECT card, nextval('denylist_version'), $2::text, $3::timestamptz, $3, $4::timestamptz FROM (SELECT DISTINCT
            unnest($1::bytea[]) AS card ORDER BY 1) AS c
        WHERE NOT EXISTS (SELECT FROM denylist d WHERE d.card = c.card AND d.effective_at <= $3)""",
        cards,
        reason,
        at,
        published_at,
    )
    return int(status.rsplit(" ", 1)[-1])


async def seal_day(connection: asyncpg.Connection, day: date, at: datetime, digests: tuple[str, str], states: str,
                   nets: Iterable[tuple[str, str, int]]) -> None:  # fmt: skip
    """The closing row with the states that its digest covers (JSON text), its net positions (class, party, net_fen),
    and the next date opens. No report to the denylist can be under way: `freeze` waits for them.
    """
    await connection.execute(
        """
        INSERT INTO closing (date, closed_at, books_digest, substance_digest, states, last_batch, last_journal,
                             last_listed)
        VALUES ($1, $2, $3, $4, $5::jsonb, (SELECT coalesce(max(batch_id), 0) FROM batch),
                (SELECT coalesce(max(journal_id), 0) FROM journal),
                (SELECT coalesce(max(version), 0) FROM denylist))""",
        day,
        at,
        *digests,
        states,
    )
    await connection.executemany(
        "INSERT INTO net_position (date, class, party, net_fen) VALUES ($1, $2, $3, $4)", [(day, *net) for net in nets]
    )
    await connection.execute("UPDATE open_day SET date = date + 1")


# Kept here so that the subject of a purse has one spelling in SQL.
FORK_SUBJECT = f"{purse_subject('k')} || '/' || k.counter"
