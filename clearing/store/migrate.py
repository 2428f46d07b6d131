"""The schema as numbered SQL files, and the proof that the database and this program mean the same schema."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from clearing.store.errors import DatabaseNewer, DatabaseOlder, MigrationFailed, MigrationsInvalid

FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
LOCK = int.from_bytes(b"onecard\x00")  # one advisory lock for whoever migrates
TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migration (
        number     integer PRIMARY KEY,
        name       text NOT NULL,
        sm3        bytea NOT NULL CHECK (length(sm3) = 32),
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `NNNN_name.sql`."""

    number: int
    name: str
    sql: str

    @property
    def sm3(self) -> bytes:
        return hashlib.new("sm3", self.sql.encode()).digest()

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


def migrations(package: str = "clearing.store", directory: str = "schema") -> tuple[Migration, ...]:
    """The SQL files of a package, 0001 first. Raises `MigrationsInvalid` unless they are numbered without gap."""
    found = []
    for file in files(package).joinpath(directory).iterdir():
        if file.name.endswith(".sql"):
            named = FILE_NAME.fullmatch(file.name)
            if named is None:
                raise MigrationsInvalid(
                    f"{directory}/{file.name} is not named NNNN_name.sql. No database was touched. Rename it."
                )
            found.append(Migration(int(named[1]), named[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if not found or [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationsInvalid(
            f"The SQL files in {directory} are {', '.join(map(str, found)) or 'none'}, not 0001, 0002 and so on. "
            f"No database was touched. Install onecard again, or number the new file next in line."
        )
    return tuple(found)


async def migrate(pool: asyncpg.Pool, known: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Apply what the database lacks, each file in its own transaction under one lock; what was applied now, in order.

    Raises `DatabaseNewer` before anything is changed, `MigrationFailed` when the server refuses a file: that file's
    transaction was undone, those before it stay. Cancelled, it leaves the same: whole files. Several callers at once
    are in order.
    """
    known = migrations() if known is None else known
    applied = []
    while (done := await _apply_next(pool, known)) is not None:
        applied.append(done)
    return tuple(applied)


async def prepare(pool: asyncpg.Pool) -> None:
    """Begin an empty database; of one with a past, only `check`. Raises as `check` and `migrate` do."""
    async with pool.acquire() as connection:
        empty = await connection.fetchval("SELECT to_regclass('schema_migration') IS NULL")
    await (migrate(pool) if empty else check(pool))


async def check(pool: asyncpg.Pool, known: Sequence[Migration] | None = None) -> None:
    """Raises `DatabaseOlder` or `DatabaseNewer` unless the database has exactly the schema of this program."""
    async with pool.acquire() as connection:
        exists = await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL")
        if lacking := await _lacking(connection if exists else None, migrations() if known is None else known):
            raise DatabaseOlder(
                f"The database lacks {', '.join(map(str, lacking))}. Nothing was changed. Make a backup, then start "
                f"`onecard clearing serve` of this version once: it migrates."
            )


async def _apply_next(pool: asyncpg.Pool, known: Sequence[Migration]) -> Migration | None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(TABLE)
        lacking = await _lacking(connection, known)
        if not lacking:
            return None
        migration = lacking[0]
        try:
            await connection.execute(migration.sql)
        except asyncpg.PostgresError as error:
            where = f" line {migration.sql.count(chr(10), 0, int(error.position)) + 1}" if error.position else ""
            raise MigrationFailed(
                f"The server refused {migration}.sql{where}: {error}. That file was undone, the database "
                "is as before it. Restore the missing right, extension or table, or install a corrected version of "
                "onecard; then migrate again."
            ) from error
        await connection.execute(
            "INSERT INTO schema_migration (number, name, sm3) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.sm3,
        )
        return migration


async def _lacking(connection: asyncpg.Connection | None, known: Sequence[Migration]) -> Sequence[Migration]:
    """What the database lacks of `known`. Raises `DatabaseNewer` unless what it has is the beginning of `known`."""
    query = "SELECT number, name, sm3 FROM schema_migration ORDER BY number"
    rows = [] if connection is None else await connection.fetch(query)
    for position, row in enumerate(rows):
        ours = known[position] if position < len(known) else None
        if ours is None or (row["number"], row["sm3"]) != (ours.number, ours.sm3):
            raise DatabaseNewer(
                f"The database holds migration {row['number']:04}_{row['name']}, which "
                f"{'this version of onecard does not know' if ours is None else f'is not the {ours} of this version'}. "
                "Nothing was changed. Use the version of onecard that this database was last migrated with, or a "
                "later one."
            )
    return known[len(rows) :]
