"""SQL of the registry: rows in, snapshot parts out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import asyncpg
import numpy as np
from numpy.typing import NDArray

from clearing.store.copy import copy_out

# Per table: the identity of a row, then what a changed row of the same identity replaces, each with its type.
TABLES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "issuer": ({"code": "bytea"}, {"name": "text", "own": "boolean"}),
    "party": ({"id": "integer"}, {"kind": "text", "name": "text"}),
    "terminal": (
        {"id": "bigint"},
        {"operator": "integer", "sector": "smallint", "class": "text", "epoch": "integer"},
    ),
    "psam": (
        {"number": "bytea", "valid_from": "timestamptz"},
        {"sector": "smallint", "operator": "integer", "valid_to": "timestamptz", "state": "text"},
    ),
    "card": (
        {"card": "bytea"},
        {"issuer": "bytea", "profile": "text", "suite": "smallint", "class": "smallint", "generation": "smallint"},
    ),
    "declared_total": (
        {"operator": "bigint", "sector": "smallint", "date": "date"},
        {"count": "bigint", "fen": "bigint"},
    ),
}


async def upsert(connection: asyncpg.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows, replace those of the same identity that differ; the number of rows that were new or changed."""
    if not rows:
        return 0
    key, rest = TABLES[table]
    columns = {**key, **rest}
    statement = f"""
        INSERT INTO {table} ({", ".join(columns)})
        SELECT * FROM unnest({", ".join(f"${at}::{kind}[]" for at, kind in enumerate(columns.values(), 1))})
        ON CONFLICT ({", ".join(key)}) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in rest)}
        WHERE ({", ".join(f"{table}.{name}" for name in rest)})
            IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in rest)})"""  # noqa: S608 - only names of TABLES
    status: str = await connection.execute(statement, *([row[name] for row in rows] for name in columns))
    return int(status.rsplit(" ", 1)[-1])


async def upsert_cards(connection: asyncpg.Connection, rows: Sequence[Mapping[str, Any]], at: datetime) -> int:
    """As `upsert` into `card`; the class of a new card holds for all time, a changed one from `at`."""
    changed = await upsert(connection, "card", rows)
    await connection.execute(
        """
        INSERT INTO card_class (card, since, class)
        SELECT card, CASE WHEN held.class IS NULL THEN '-infinity' ELSE $2::timestamptz END, card.class
        FROM card LEFT JOIN LATERAL (
            SELECT c.class FROM card_class c WHERE c.card = card.card ORDER BY since DESC LIMIT 1) AS held ON true
        WHERE card.card = ANY($1::bytea[]) AND card.class IS DISTINCT FROM held.class""",
        [row["card"] for row in rows],
        at,
    )
    return changed


async def last_closed(connection: asyncpg.Connection) -> date | None:
    """The latest closed business date, None before the first close."""
    found: date | None = await connection.fetchval("SELECT max(date) FROM closing")
    return found


async def read_policies(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """All policies, oldest first: name, scope, valid_from, version, basis, value as JSON text."""
    found: list[asyncpg.Record] = await connection.fetch(
        "SELECT name, scope, valid_from, version, basis, value::text FROM policy ORDER BY name, scope, valid_from"
    )
    return found


async def insert_policies(connection: asyncpg.Connection, rows: Iterable[tuple[str, str, date, int, str, str]]) -> None:
    """New policies: name, scope, valid_from, version, basis, value as JSON text."""
    await connection.executemany(
        "INSERT INTO policy (name, scope, valid_from, version, basis, value) VALUES ($1, $2, $3, $4, $5, $6::jsonb)",
        rows,
    )


async def versions(connection: asyncpg.Connection) -> dict[str, int]:
    """The version of each part of the registry: parties, cards, denylist, replacements."""
    return dict(await connection.fetch("SELECT part, version FROM registry_change"))


async def read_parties(connection: asyncpg.Connection) -> dict[str, list[asyncpg.Record]]:
    """The small tables, whole: issuer, party, terminal, psam (by number and valid_from), policy."""
    return {
        "issuer": await connection.fetch("SELECT code, name, own FROM issuer ORDER BY code"),
        "party": await connection.fetch("SELECT id, kind, name FROM party ORDER BY id"),
        "terminal": await connection.fetch("SELECT id, operator, sector, class, epoch FROM terminal ORDER BY id"),
        "psam": await connection.fetch(
            "SELECT number, sector, operator, valid_from, valid_to, state FROM psam ORDER BY number, valid_from"
        ),
        "policy": await read_policies(connection),
    }


async def read_cards(connection: asyncpg.Connection) -> NDArray[np.bytes_]:
    """All registered serials, sorted, as one array of 10 bytes each."""
    return (await copy_out(connection, "SELECT card FROM card ORDER BY card", "S10"))[0].astype("S10", copy=False)


async def read_denylist(connection: asyncpg.Connection) -> list[NDArray[np.generic]]:
    """Denylisted serials, sorted, and since when the earliest entry of each is effective (µs since 2000)."""
    return await copy_out(
        connection, "SELECT card, min(effective_at) FROM denylist GROUP BY card ORDER BY card", "S10", ">i8"
    )


async def read_replacements(connection: asyncpg.Connection) -> list[NDArray[np.generic]]:
    """Replaced serials, sorted, and when each was replaced (µs since 2000)."""
    return await copy_out(connection, "SELECT old, made_at FROM replacement ORDER BY old", "S10", ">i8")
