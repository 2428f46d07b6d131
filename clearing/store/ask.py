"""Queries with the types that the driver does not state."""

import asyncpg


async def rows(connection: asyncpg.Connection, query: str, *arguments: object) -> list[asyncpg.Record]:
    """All rows of a query."""
    found: list[asyncpg.Record] = await connection.fetch(query, *arguments)
    return found
