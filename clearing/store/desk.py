"""SQL of the desk: online acts that are decided while the card waits."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg


async def card_row(connection: asyncpg.Connection, card: bytes) -> asyncpg.Record | None:
    """A registered card: issuer, profile, suite, class, generation, and whether it is on the denylist or replaced."""
    return await connection.fetchrow(
        """SELECT issuer, profile, suite, class, generation,
                  EXISTS (SELECT FROM denylist WHERE denylist.card = card.card)
                  OR EXISTS (SELECT FROM replacement WHERE old = card.card) AS frozen
           FROM card WHERE card = $1""",
        card,
    )


async def reserve_load(connection: asyncpg.Connection, order: dict[str, Any]) -> None:
    """Write down a load before it is authorised, once, however far it has come."""
    await connection.execute(
        """INSERT INTO load_order (load_id, card, purse, generation, counter, amount_fen, channel, terminal,
                                   raw_fen, reserved_at, state)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'reserved') ON CONFLICT (load_id) DO NOTHING""",
        *order.values(),
    )


async def drop_reservation(connection: asyncpg.Connection, load_id: str) -> None:
    """Forget a load that was never authorised."""
    await connection.execute("DELETE FROM load_order WHERE load_id = $1 AND state = 'reserved'", load_id)


async def authorise_load(connection: asyncpg.Connection, order: dict[str, Any], at: datetime) -> None:
    """The load has been authorised; asked again, nothing changes. A reservation that another, refused copy of the
    same request has dropped meanwhile is written again."""
    await connection.execute(
        """INSERT INTO load_order (load_id, card, purse, generation, counter, amount_fen, channel, terminal,
                                   raw_fen, reserved_at, state, authorised_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'authorised', $11)
           ON CONFLICT (load_id) DO UPDATE SET state = 'authorised', authorised_at = excluded.authorised_at
           WHERE load_order.state = 'reserved'""",
        *order.values(),
        at,
    )


async def transfer_of(connection: asyncpg.Connection, new: bytes) -> asyncpg.Record | None:
    """The replacement that `new` came from, held for this transaction: old, load_fen, and the load that carried its
    value."""
    return await connection.fetchrow(
        """SELECT old, load_fen, load_order.load_id, load_order.counter, load_order.purse, load_order.state
           FROM replacement LEFT JOIN load_order USING (load_id) WHERE new = $1 FOR UPDATE OF replacement""",
        new,
    )


async def carry_transfer(connection: asyncpg.Connection, new: bytes, load_id: str) -> None:
    """The value of the replaced card travels by this load."""
    await connection.execute("UPDATE replacement SET load_id = $2 WHERE new = $1", new, load_id)


async def insert_act(connection: asyncpg.Connection, act: dict[str, Any]) -> None:
    """An act that was opened; `split` is JSON text."""
    await connection.execute(
        """INSERT INTO act (act_id, challenge, card, sector, amount_fen, transaction_type, split, terminal,
                            terminal_number, date, time, digest, opened_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $12, $13)""",
        *act.values(),
    )


async def report(
    connection: asyncpg.Connection,
    card: bytes,
    reason: str,
    reported: datetime,
    effective: datetime,
    published: datetime,
) -> asyncpg.Record:
    """Denylist a card under the next version; the same report again gives the entry that it made: version, instants."""
    await connection.execute("LOCK TABLE denylist IN SHARE ROW EXCLUSIVE MODE")  # versions are committed in their order
    await connection.execute(
        """INSERT INTO denylist (card, version, reason, reported_at, effective_at, published_at)
           SELECT $1, nextval('denylist_version'), $2, $3, $4, $5
           WHERE NOT EXISTS (SELECT FROM denylist WHERE card = $1 AND reason = $2 AND reported_at = $3)""",
        card,
        reason,
        reported,
        effective,
        published,
    )
    row = await connection.fetchrow(
        """SELECT version, effective_at, published_at FROM denylist
           WHERE card = $1 AND reason = $2 AND reported_at = $3 ORDER BY version LIMIT 1""",
        card,
        reason,
        reported,
    )
    assert row is not None
    return row


async def replacements_with(connection: asyncpg.Connection, old: bytes, new: bytes) -> list[asyncpg.Record]:
    """Replacements in which either card takes part, on either side."""
    found: list[asyncpg.Record] = await connection.fetch(
        "SELECT old, new, load_fen FROM replacement WHERE old IN ($1, $2) OR new IN ($1, $2)", old, new
    )
    return found


async def insert_replacement(
    connection: asyncpg.Connection, old: bytes, new: bytes, values: Mapping[int, int], at: datetime
) -> None:
    """`new` takes the place of `old` from now on, and what `old` held, fen by purse, is on its way."""
    await connection.execute(
        "INSERT INTO replacement (old, new, load_fen, made_at) VALUES ($1, $2, $3, $4)",
        old,
        new,
        sum(values.values()),
        at,
    )
    await connection.executemany(
        "INSERT INTO replacement_value (old, purse, value_fen) VALUES ($1, $2, $3)",
        [(old, purse, fen) for purse, fen in values.items()],
    )
    await connection.execute("UPDATE card SET replaced_at = $2 WHERE card = $1", old, at)


async def replaced_value(connection: asyncpg.Connection, old: bytes) -> dict[int, int]:
    """What a replaced card held, fen by purse."""
    return dict(
        await connection.fetch("SELECT purse, value_fen FROM replacement_value WHERE old = $1 ORDER BY purse", old)
    )


async def reported_since(connection: asyncpg.Connection, card: bytes) -> datetime | None:
    """Since when a card is denylisted; None when it is not."""
    found: datetime | None = await connection.fetchval("SELECT min(effective_at) FROM denylist WHERE card = $1", card)
    return found


async def in_doubt(connection: asyncpg.Connection, card: bytes) -> list[str]:
    """What is open about the value of a card, as kinds of cases, whether a close has found it yet or not; sorted."""
    found = await connection.fetch(
        """SELECT kind FROM case_file WHERE split_part(subject, '/', 1) = encode($1, 'hex') AND resolved IS NULL
             AND kind IN ('fork', 'gap-or-load', 'unexplained-credit')
           UNION SELECT 'fork' FROM fact WHERE card = $1 AND kind IN (1, 2, 3, 6) AND sealed
             GROUP BY purse, generation, counter HAVING count(*) > 1
           UNION SELECT code FROM fact WHERE card = $1 AND code = 'rogue-load'
           UNION SELECT 'load-in-doubt' FROM load_order o WHERE card = $1 AND state = 'authorised' AND NOT EXISTS (
             SELECT FROM load_order p WHERE p.state = 'confirmed'
               AND (p.card, p.purse, p.generation, p.counter) = (o.card, o.purse, o.generation, o.counter))
           ORDER BY 1""",
        card,
    )
    return [row[0] for row in found]


async def shadow_values(connection: asyncpg.Connection, card: bytes) -> list[tuple[int, int]]:
    """What each purse of the card must still hold by the books, fen: loads that are proven or committed, less proven
    debits and open gaps."""
    found = await connection.fetch(
        """SELECT purse, sum(fen)::bigint AS fen FROM (
             SELECT purse, CASE kind WHEN 4 THEN amount_fen ELSE -amount_fen END AS fen FROM fact
               WHERE card = $1 AND (kind IN (1, 2, 3, 6) OR kind = 4 AND state = 'accepted')
             UNION ALL SELECT purse, amount_fen FROM load_order WHERE card = $1 AND state = 'committed'
             UNION ALL SELECT split_part(account, ':', 2)::smallint, -amount_fen FROM carried
               WHERE rule = 'gap' AND subject LIKE encode($1, 'hex') || '/%' AND account LIKE 'float:%') AS moved
           GROUP BY purse ORDER BY purse""",
        card,
    )
    return [(row["purse"], row["fen"]) for row in found]
