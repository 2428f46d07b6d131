"""SQL of what was kept of uploads and imports: bodies as they came, records as they lie in facts and exhibits."""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import AsyncIterator, Iterable, Sequence

import asyncpg
import numpy as np
from numpy.typing import NDArray

from clearing.store import ask
from clearing.store.claims import claim, record_subject, reference
from clearing.store.copy import copy_in, copy_out, copy_rows

# How much is held at a time: bodies have at most 500 records.
BODIES, ROWS = 200, 20_000
_UPLOADED = "CREATE TEMP TABLE uploaded (batch_id bigint, record bytea) ON COMMIT DROP"
_NUMBERED = (
    "card", "kind", "purse", "generation", "counter", "amount_fen", "terminal", "epoch", "sequence",
)  # fmt: skip
_COVERED = (*_NUMBERED, "terminal_number", "terminal_transaction")


def _differs(alias: str, names: Sequence[str]) -> str:
    columns, claims = (
        ", ".join(parts) for parts in zip(*((f"{alias}.{n}", claim(n, f"{alias}.record")) for n in names), strict=True)
    )
    return f"({columns}) IS DISTINCT FROM ({claims})"


# The columns that are nothing but a reading of the record's bytes. Only what could not be read has no moment.
COLUMNS = f"""
    SELECT {_differs("f", _COVERED)} AS bad, 'proven record ' || {reference("f")} AS label FROM fact f
    UNION ALL
    SELECT {_differs("x", _NUMBERED)}
           OR (x.instant IS NULL OR x.origin_date IS NULL OR x.proof_key IS NULL)
              AND x.code NOT IN ('malformed', 'terminal-suspended'),
           'exhibit ' || {record_subject("x")} || ' ' || encode(x.digest, 'hex') FROM exhibit x"""
# An acknowledged record is proven, an exhibit, or the same bytes as one of those; and nothing is kept that nobody sent.
# Outer joins, since they are hashed at any size: NOT EXISTS as a value asks each row anew once a hash needs more memory
# than one may take.
UPLOADS = f"""
    SELECT u.record IS NULL AS bad, 'nobody sent the proven record ' || {reference("f")} AS label
    FROM fact f LEFT JOIN (SELECT DISTINCT batch_id, record FROM uploaded) AS u USING (batch_id, record)
    UNION ALL
    SELECT u.record IS NULL, 'nobody sent the exhibit ' || {record_subject("x")} || ' ' || encode(x.digest, 'hex')
    FROM exhibit x LEFT JOIN (SELECT DISTINCT batch_id, record FROM uploaded) AS u USING (batch_id, record)
    UNION ALL
    SELECT u.record IS NULL, 'nobody sent the sealed copy of ' || {reference("e")}
    FROM record_event e LEFT JOIN (SELECT DISTINCT record FROM uploaded) AS u USING (record) WHERE e.kind = 'adopted'
    UNION ALL
    SELECT k.record IS NULL, 'nothing is kept of a record of batch ' || b.terminal || '/' || b.n
    FROM uploaded u JOIN batch b USING (batch_id)
    LEFT JOIN (SELECT record FROM fact UNION SELECT record FROM exhibit) AS k USING (record)
    UNION ALL
    SELECT r.seen <> r.seen * coalesce(u.seen, '{{}}'), 'acknowledged records of terminal ' || terminal || ' are gone'
    FROM terminal_range r LEFT JOIN (
        SELECT terminal, epoch, range_agg(int8range(sequence, sequence, '[]')) AS seen
        FROM (SELECT DISTINCT {claim("terminal")} AS terminal, {claim("epoch")} AS epoch,
                     {claim("sequence")} AS sequence FROM uploaded) AS one
        GROUP BY 1, 2) AS u USING (terminal, epoch)"""
# What each answer said became of the records, beside what is kept. A retake turns exhibits into proven records, so
# those count with what they were; one exhibit may turn into another, so exhibits are counted together.
ANSWERS = """
    WITH kept AS (
        SELECT batch_id, count(*) FILTER (WHERE state = 'accepted') AS accepted,
               count(*) FILTER (WHERE state = 'suspended') AS suspended,
               count(*) FILTER (WHERE state = 'exhibit') AS exhibits
        FROM (SELECT f.batch_id, f.state FROM fact f
              WHERE NOT EXISTS (
                  SELECT FROM exhibit x WHERE x.card = f.card AND x.taken_up_at IS NOT NULL AND x.record = f.record)
              UNION ALL SELECT batch_id, 'exhibit' FROM exhibit) AS one GROUP BY batch_id)
    SELECT (coalesce(k.accepted, 0), coalesce(k.suspended, 0), coalesce(k.exhibits, 0)) IS DISTINCT FROM (
               (b.answer ->> 'accepted')::int, (b.answer ->> 'suspended')::int,
               (b.answer ->> 'pending')::int + (b.answer ->> 'memo')::int + (b.answer ->> 'conflict')::int
                   + jsonb_array_length(b.answer -> 'quarantined')) AS bad,
           'batch ' || b.terminal || '/' || b.n || ' was answered otherwise' AS label
    FROM batch b LEFT JOIN kept k USING (batch_id)"""


async def bodies(connection: asyncpg.Connection) -> AsyncIterator[list[asyncpg.Record]]:
    """Batches as they are stored, in pages: batch_id, terminal, n, epoch, first_seq, last_seq, count, digest, media,
    body.
    """
    cursor = await connection.cursor(
        "SELECT batch_id, terminal, n, epoch, first_seq, last_seq, count, digest, media, body FROM batch"
    )
    while page := await cursor.fetch(BODIES):
        yield page


async def begin_uploads(connection: asyncpg.Connection) -> None:
    """A place for the records of all bodies."""
    await connection.execute(_UPLOADED)


async def put_uploads(connection: asyncpg.Connection, batches: Iterable[tuple[int, NDArray[np.void]]]) -> None:
    """Lay out the records (V128) of some bodies, by the number of their batch."""
    segments = [
        copy_rows([np.full(len(records), batch_id, np.int64), records], len(records)) for batch_id, records in batches
    ]
    await copy_in(connection, "uploaded", ("batch_id", "record"), segments)


async def end_uploads(connection: asyncpg.Connection) -> None:
    """All bodies are laid out."""
    await connection.execute("ANALYZE uploaded")


async def moments(connection: asyncpg.Connection) -> AsyncIterator[list[NDArray[np.generic]]]:
    """Facts and exhibits with a moment, in pages: proof_key (V16), instant (µs), origin_date (days), both since 2000,
    and record (V128).
    """
    for table in ("fact", "exhibit"):
        edges = await ask.rows(
            connection,
            f"""
            SELECT DISTINCT batch_id FROM (
                SELECT batch_id, row_number() OVER (ORDER BY batch_id) AS place FROM {table}) AS one
            WHERE place % {ROWS} = 1 ORDER BY batch_id""",
        )
        ends = [row["batch_id"] for row in edges[1:]] + [2**63 - 1]
        for first, behind in zip([row["batch_id"] for row in edges], ends, strict=False):
            yield await copy_out(
                connection,
                f"""SELECT proof_key, instant, origin_date, record FROM {table} WHERE instant IS NOT NULL
                    AND batch_id >= {first:d} AND batch_id < {behind:d}""",
                "V16", ">i8", ">i4", "V128",
            )  # fmt: skip


async def exhibits(connection: asyncpg.Connection) -> AsyncIterator[list[asyncpg.Record]]:
    """digest and record of every exhibit, in pages."""
    cursor = await connection.cursor("SELECT digest, record FROM exhibit")
    while page := await cursor.fetch(ROWS):
        yield page


async def imported(connection: asyncpg.Connection) -> AsyncIterator[list[asyncpg.Record]]:
    """Imported rows, in pages: row, card, row_key, state, code, ride, full_fare_fen, charged_fen, instant, close_date,
    origin_date.
    """
    cursor = await connection.cursor(
        "SELECT row, card, row_key, state, code, ride, full_fare_fen, charged_fen, instant, close_date, origin_date "
        "FROM import_row"
    )
    while page := await cursor.fetch(ROWS):
        yield page
