"""SQL of the ceilings: what of a PSAM's terminal is stored, and what its PSAM was given before."""
# ruff: noqa: S608 - the texts are made of the record's field table, never of input

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import asyncpg

from clearing.store.claims import claim

MOST_RANGES = 32
# A PSAM's number has 6 bytes; two more keep it apart from the other locks.
_LOCK = int.from_bytes(b"\x4f\x43") << 48

_PROVEN = """
    SELECT terminal_transaction AS number FROM batch JOIN fact USING (batch_id)
    WHERE batch.terminal = ANY($1::bigint[]) AND batch_id > $2 AND terminal_number = $3"""
_STORED = f"""
    {_PROVEN}
    UNION
    SELECT {claim("terminal_transaction", "x.record")} FROM batch JOIN exhibit x USING (batch_id)
    WHERE x.terminal = ANY($1::bigint[]) AND batch_id > $2 AND {claim("terminal_number", "x.record")} = $3"""

_HOLES = """
    SELECT epoch, lower(hole) AS first, upper(hole) - 1 AS last FROM (
        SELECT epoch, unnest(int8multirange(
            int8range(1, greatest({highest}, CASE epoch WHEN $2 THEN $3::bigint END, 0) + 1)) - seen) AS hole
        FROM (SELECT epoch, seen FROM terminal_range WHERE terminal = $1 AND epoch BETWEEN 1 AND $2
              UNION ALL SELECT $2, int8multirange() WHERE NOT EXISTS (
                  SELECT FROM terminal_range WHERE terminal = $1 AND epoch = $2)) AS known) AS holes
    ORDER BY epoch DESC, first LIMIT $4"""
_BELOW_ANY = _HOLES.format(highest="upper(seen) - 1")
# A sequence that no seal proves may be anything: asking for all below it would ask for what never was.
_BELOW_SEALED = _HOLES.format(
    highest="""(SELECT max(sequence) FROM batch JOIN fact USING (batch_id)
                WHERE batch.terminal = $1 AND fact.epoch = known.epoch AND sealed)"""
)


async def hold(connection: asyncpg.Connection, psam: bytes) -> None:
    """One asks for a PSAM at a time, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK | int.from_bytes(psam))


async def last_arming(connection: asyncpg.Connection, psam: bytes) -> asyncpg.Record | None:
    """What the PSAM's terminal said when it was last armed: transaction and batch_id; None before the first time."""
    return await connection.fetchrow(
        "SELECT transaction, batch_id FROM psam_arming WHERE psam = $1 ORDER BY arming_id DESC LIMIT 1", psam
    )


async def terminals_of(connection: asyncpg.Connection, psam: bytes) -> set[int]:
    """The terminals that it was armed in."""
    rows = await connection.fetch("SELECT DISTINCT terminal FROM psam_arming WHERE psam = $1", psam)
    return {row["terminal"] for row in rows}


async def armings_on(connection: asyncpg.Connection, psam: bytes, day: date) -> int:
    """How often it was armed on a business date."""
    found: int = await connection.fetchval("SELECT count(*) FROM psam_arming WHERE psam = $1 AND date = $2", psam, day)
    return found


async def missing_sequences(
    connection: asyncpg.Connection, terminal: int, epoch: int, sequence: int
) -> list[tuple[int, int, int]]:
    """What is not stored of a terminal: (epoch, first, last), below `sequence` of its epoch, included, and below the
    highest that a seal proves, of this and of earlier epochs; the first 32."""
    rows = await connection.fetch(_BELOW_ANY, terminal, epoch, sequence, MOST_RANGES)
    if rows:
        # Few terminals have any; only theirs are worth a look at every seal.
        rows = await connection.fetch(_BELOW_SEALED, terminal, epoch, sequence, MOST_RANGES)
    return [(row["epoch"], row["first"], row["last"]) for row in rows]


async def highest_transaction(connection: asyncpg.Connection, psam: bytes, terminals: Sequence[int], since: int) -> int:
    """The highest of its numbers that a card's cryptogram proves, of the batches behind `since`; 0 without any."""
    found: int = await connection.fetchval(
        f"SELECT coalesce(max(number), 0) FROM ({_PROVEN}) AS proven", terminals, since, psam
    )
    return found


async def missing_transactions(
    connection: asyncpg.Connection, psam: bytes, terminals: Sequence[int], since: int, first: int, last: int
) -> tuple[int, list[tuple[int, int]]]:
    """How many numbers of the PSAM, first to last, no stored record names, of the batches behind `since`; and the
    first 32 ranges of them."""
    rows = await connection.fetch(
        f"""SELECT lower(hole) AS first, upper(hole) - 1 AS last FROM unnest(
                int8multirange(int8range($4, $5 + 1)) - (
                    SELECT coalesce(range_agg(int8range(number, number, '[]')), '{{}}') FROM ({_STORED}) AS stored)
            ) AS hole ORDER BY 1""",
        terminals,
        since,
        psam,
        first,
        last,
    )
    holes = [(row["first"], row["last"]) for row in rows]
    return sum(last - first + 1 for first, last in holes), holes[:MOST_RANGES]


async def write_arming(connection: asyncpg.Connection, arming: Mapping[str, Any]) -> None:
    """The PSAM is armed once more; every column but the newest batch, which this looks up."""
    names = ", ".join(arming)
    places = ", ".join(f"${at}" for at in range(1, len(arming) + 1))
    await connection.execute(
        f"INSERT INTO psam_arming ({names}, batch_id) SELECT {places}, coalesce(max(batch_id), 0) FROM batch",
        *arming.values(),
    )
