"""SQL of the seals, which cover what only its own row states and no record could tell again (docs/ledger.md, "Seals").

A row counts to the first close that saw it. What the next close may still change (how a case stands or was resolved) is
not under a seal.
"""
# ruff: noqa: S608 - the texts are made of constants, never of input

from collections.abc import Iterable
from datetime import date

import asyncpg

from clearing.store import ask


def _us(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


# Closes with seals, and what the one before had seen.
_SPAN = """
    SELECT date, last_batch, last_listed, lag(date, 1, '-infinity') OVER earlier AS seen_date,
           lag(last_batch, 1, 0::bigint) OVER earlier AS seen_batch,
           lag(last_listed, 1, 0::bigint) OVER earlier AS seen_listed
    FROM closing WHERE last_listed IS NOT NULL WINDOW earlier AS (ORDER BY date)"""
# By part: the rows of a span, each as a line.
_LINES = {
    "batches": (
        "batch AS r ON r.batch_id > span.seen_batch AND r.batch_id <= span.last_batch",
        f"concat_ws('|', r.terminal, r.n, encode(r.digest, 'hex'), {_us('r.received_at')})",
    ),
    "cases": (
        "case_file AS r ON r.opened > span.seen_date AND r.opened <= span.date",
        "concat_ws('|', r.kind, r.subject, r.opened)",
    ),
    "closing": (
        "closing AS r ON r.date = span.date",
        f"concat_ws('|', r.date, {_us('r.closed_at')}, r.books_digest, r.substance_digest, r.last_batch, "
        "coalesce(r.last_journal::text, '-'), r.last_listed)",
    ),
    "denylist": (
        "denylist AS r ON r.version > span.seen_listed AND r.version <= span.last_listed",
        "concat_ws('|', encode(r.card, 'hex'), r.version, r.reason, "
        f"{_us('r.reported_at')}, {_us('r.effective_at')}, {_us('r.published_at')})",
    ),
}
_COVERED = " UNION ALL ".join(
    f"""
    SELECT span.date, '{part}' AS part,
           string_agg({line}, E'\\n' ORDER BY {line} COLLATE "C") AS lines
    FROM span LEFT JOIN {rows} WHERE span.date = coalesce($1::date, span.date) GROUP BY span.date"""
    for part, (rows, line) in _LINES.items()
)


async def covered(connection: asyncpg.Connection, day: date | None = None) -> list[asyncpg.Record]:
    """What the seals of one closed date or of all cover, from the rows as they are: date, part, lines (text)."""
    return await ask.rows(connection, f"WITH span AS MATERIALIZED ({_SPAN}) {_COVERED}", day)


async def stored(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """The seals as their closes made them: date, part, digest."""
    return await ask.rows(connection, "SELECT date, part, digest FROM seal")


async def store(connection: asyncpg.Connection, seals: Iterable[tuple[date, str, str]]) -> None:
    """Keep seals: date, part, digest. The row of their close must lie there."""
    await connection.executemany("INSERT INTO seal (date, part, digest) VALUES ($1, $2, $3)", list(seals))
