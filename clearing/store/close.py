"""SQL of the close: what is true of all records known, what of it is not yet posted, and the day's end.

Everything per record is one statement over temporary tables keyed by card (`known`, `step`, `ride`); they live as long
as the transaction. All functions run inside the closer's transaction.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import asyncpg

from cardcore.record import Kind, Sector
from clearing.store import ask
from clearing.store.claims import claim, purse_subject, record_subject, reference

LOCK = int.from_bytes(b"close\x00\x00\x00")
OFFLINE = f"({Kind.DEBIT.value}, {Kind.ENTRY.value}, {Kind.EXIT.value})"

_CLAIMED = ", ".join(
    f"{claim(name)} AS {name}"
    for name in (
        "kind", "terminal", "epoch", "sequence", "generation", "counter", "balance_before_fen", "flags", "line",
        "station", "entry_station", "concession", "full_fare_fen", "list_version",
    )
)  # fmt: skip
# An adopted copy lends all its claims to the posted record, whichever came first; what the cryptogram covers is the
# same in both.
KNOWN = f"""
    CREATE TEMP TABLE known ON COMMIT DROP AS
    WITH believed AS (
        SELECT f.card, f.proof_key, f.purse, f.amount_fen, f.terminal_number, f.terminal_transaction, f.instant,
               f.origin_date, f.sector, f.operator, f.state, f.code, f.batch_id,
               f.sealed OR a.card IS NOT NULL AS sealed, coalesce(a.record, f.record) AS record
        FROM fact f LEFT JOIN record_event a ON (a.card, a.proof_key, a.kind) = (f.card, f.proof_key, 'adopted')
    ), claimed AS (
        SELECT card, proof_key, purse, amount_fen, terminal_number, terminal_transaction, instant, origin_date, sector,
               operator, state, code, batch_id, sealed, sealed AND {claim("kind")} IN {OFFLINE} AS counted,
               {claim("date")} || {claim("time")} AS moment, {_CLAIMED}
        FROM believed
    )
    SELECT *, counted AND count(*) OVER same > 1 AS forked, row_number() OVER (
        same ORDER BY moment, terminal_number, terminal_transaction) AS place
    FROM claimed WINDOW same AS (PARTITION BY card, purse, generation, counter, counted)"""

STEP = """
    CREATE TEMP TABLE step ON COMMIT DROP AS
    SELECT k.card, k.purse, k.generation, k.counter AS upper, k.proof_key, k.origin_date, k.instant AS upper_at,
           k.balance_before_fen AS before_fen, coalesce(lag(k.counter) OVER purse, -1) AS lower,
           coalesce(lag(k.balance_before_fen - k.amount_fen) OVER purse, 0) AS after_fen,
           coalesce(lag(k.instant) OVER purse, '-infinity') AS lower_at
    FROM known k JOIN card c USING (card) JOIN issuer i ON i.code = c.issuer AND i.own
    WHERE k.counted AND NOT k.forked
    WINDOW purse AS (PARTITION BY k.card, k.purse, k.generation ORDER BY k.counter)"""

# What changed the value of a purse between two known records. An unsealed debit is of no known generation.
VALUE = f"""
    CREATE TEMP TABLE value ON COMMIT DROP AS
    SELECT card, purse, generation, instant, amount_fen, 'load' AS what, '' AS load_id, counter
    FROM known WHERE kind = {Kind.LOAD.value} AND state = 'accepted'
    UNION ALL
    SELECT card, purse, NULL, instant, amount_fen, 'unsealed', '', 0 FROM known WHERE kind IN {OFFLINE} AND NOT sealed
    UNION ALL
    SELECT card, purse, generation, authorised_at, amount_fen, CASE state WHEN 'committed' THEN 'load' ELSE 'doubt' END,
           load_id, counter
    FROM unproven WHERE state IN ('authorised', 'committed')"""

# One online counter stands for one load: the try that a record proved leaves no doubt about the others.
UNPROVEN = """
    CREATE TEMP TABLE unproven ON COMMIT DROP AS
    SELECT load_id, card, purse, generation, counter, amount_fen, channel, authorised_at, state, settled_on
    FROM load_order o
    WHERE authorised_at IS NOT NULL AND state <> 'reserved' AND NOT EXISTS (
        SELECT FROM load_order p WHERE p.state = 'confirmed'
        AND (p.card, p.purse, p.generation, p.counter) = (o.card, o.purse, o.generation, o.counter))"""

OPEN_STEPS = """
    WITH between AS (
        SELECT s.card, s.purse, s.generation, s.upper,
               coalesce(sum(v.amount_fen) FILTER (WHERE what = 'load'), 0) AS loads_fen,
               coalesce(sum(v.amount_fen) FILTER (WHERE what = 'unsealed'), 0) AS unsealed_fen,
               count(*) FILTER (WHERE what = 'unsealed') AS unsealed,
               array_agg(v.load_id ORDER BY v.instant, v.load_id) FILTER (WHERE what = 'doubt') AS doubts,
               array_agg(v.amount_fen ORDER BY v.instant, v.load_id) FILTER (WHERE what = 'doubt') AS doubt_fens,
               array_agg(v.counter ORDER BY v.instant, v.load_id) FILTER (WHERE what = 'doubt') AS doubt_counters
        FROM step s JOIN value v ON v.card = s.card AND v.purse = s.purse AND coalesce(v.generation, s.generation) =
            s.generation
            AND v.instant > s.lower_at AND v.instant <= s.upper_at
        GROUP BY s.card, s.purse, s.generation, s.upper
    )
    SELECT s.card, s.purse, s.generation, s.lower, s.upper, s.proof_key, s.origin_date, s.after_fen::bigint,
        s.before_fen::bigint,
           coalesce(b.loads_fen, 0)::bigint AS loads_fen, coalesce(b.unsealed, 0) AS unsealed,
           coalesce(b.unsealed_fen, 0)::bigint AS unsealed_fen, b.doubts, b.doubt_fens, b.doubt_counters
    FROM step s LEFT JOIN between b USING (card, purse, generation, upper)
    WHERE (s.upper - s.lower - 1 - coalesce(b.unsealed, 0) <> 0 OR b.doubts IS NOT NULL
           OR s.after_fen + coalesce(b.loads_fen, 0) - coalesce(b.unsealed_fen, 0) <> s.before_fen)
      AND NOT EXISTS (SELECT FROM known f WHERE f.forked AND (f.card, f.purse, f.generation) = (s.card, s.purse,
          s.generation)
                      AND f.counter > s.lower AND f.counter < s.upper)
    ORDER BY s.card, s.purse, s.generation, s.upper"""

RIDE = f"""
    CREATE TEMP TABLE ride ON COMMIT DROP AS
    SELECT k.card, k.proof_key, {reference("k")} AS reference, {record_subject("k")} AS subject, k.kind, k.operator,
        k.origin_date,
           k.amount_fen, k.full_fare_fen, k.line, k.station, k.entry_station, k.flags & 4 <> 0 AS without_entry,
               k.concession,
           c.class
    FROM known k JOIN card c USING (card)
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
      AND NOT EXISTS (SELECT FROM finding f WHERE f.kind IN ('fare', 'concession') AND f.subject = r.subject)
      AND NOT EXISTS (SELECT FROM case_file c WHERE c.kind IN ('fare', 'concession') AND c.subject = r.subject)"""


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
    for statement in (UNPROVEN, STEP, VALUE, RIDE, TARIFF, TARGET):
        await connection.execute(statement)
    await connection.execute("ANALYZE step, value, ride")


async def dispute(connection: asyncpg.Connection, day: date) -> None:
    """Every member of a fork becomes disputed."""
    await connection.execute(DISPUTES, day)


async def open_steps(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Steps that do not explain themselves, in the order of card, purse, generation, counter."""
    return await ask.rows(connection, OPEN_STEPS)


async def resolve_loads(connection: asyncpg.Connection, state: str, load_ids: Sequence[str], day: date) -> None:
    """Loads in doubt that evidence decided, in the order book and in the closer's own view."""
    for table in ("load_order", "unproven"):
        await connection.execute(
            f"UPDATE {table} SET state = $1, settled_on = $2::date WHERE load_id = ANY($3) AND state = 'authorised'",
            state,
            day,
            load_ids,
        )


async def unproven_loads(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Authorised loads that no record proves, with the state that evidence gave them."""
    return await ask.rows(connection, "SELECT * FROM unproven ORDER BY load_id")


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


async def target_sets(connection: asyncpg.Connection) -> None:
    """The targets that are sets: subsidies (after the cases were found) and forks."""
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


async def seal_day(connection: asyncpg.Connection, day: date, at: datetime, digests: tuple[str, str],
                   nets: Iterable[tuple[str, str, int]]) -> None:  # fmt: skip
    """The closing row, its net positions (class, party, net_fen), and the next date opens."""
    await connection.execute(
        """
        INSERT INTO closing (date, closed_at, books_digest, substance_digest, last_batch)
        VALUES ($1, $2, $3, $4, (SELECT coalesce(max(batch_id), 0) FROM batch))""",
        day,
        at,
        *digests,
    )
    await connection.executemany(
        "INSERT INTO net_position (date, class, party, net_fen) VALUES ($1, $2, $3, $4)", [(day, *net) for net in nets]
    )
    await connection.execute("UPDATE open_day SET date = date + 1")


# Kept here so that the subject of a purse has one spelling in SQL.
FORK_SUBJECT = f"{purse_subject('k')} || '/' || k.counter"
