"""The seals of closes over what no record could tell again (docs/ledger.md, "Seals")."""

from collections.abc import Mapping
from datetime import date

from clearing.store import seals as rows
from clearing.store.types import Connection
from keys.proof import sm3

Seals = Mapping[tuple[date, str], str]


async def made(connection: Connection, day: date | None = None) -> Seals:
    """The seals (SM3 in hex) of one closed date or of all, made from the rows as they are, by (date, part)."""
    covered = await rows.covered(connection, day)
    return {(row["date"], row["part"]): sm3(row["lines"].encode()).hex() for row in covered}


async def stored(connection: Connection) -> Seals:
    """The seals as their closes made them, by (date, part)."""
    return {(row["date"], row["part"]): row["digest"] for row in await rows.stored(connection)}


async def seal(connection: Connection, day: date) -> None:
    """Seal what the close of a date, whose row lies there, saw first."""
    await rows.store(connection, [(*key, digest) for key, digest in (await made(connection, day)).items()])
