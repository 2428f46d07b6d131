"""Where a command of the clearing house works: the database of its settings, in a known schema, and a clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cardcore.errors import SetupError
from clearing.clock import Clock, FileClock, SystemClock
from clearing.settings import Settings
from clearing.store.connect import connect_pool, losses_told
from clearing.store.launcher import launch
from clearing.store.migrate import check, migrate, prepare
from clearing.store.types import Pool

Readiness = Callable[[Pool], Awaitable[object]]
# A reader takes the schema as it is or says no; a writer may also begin an empty database; only the service migrates
# one that has a past, because it is what an operator restarts on purpose, after a backup.
READ: Readiness = check
WRITE: Readiness = prepare
SERVE: Readiness = migrate


def clock_of(settings: Settings) -> Clock:
    """The clock file of the settings, else the machine's clock."""
    return FileClock(settings.clock) if settings.clock else SystemClock()


@asynccontextmanager
async def open_pool(settings: Settings, readiness: Readiness, size: int = 2) -> AsyncIterator[Pool]:
    """A pool to the settings' database; the embedded server is started when it does not run, and stays up.

    Raises DatabaseOlder, DatabaseNewer or MigrationFailed as `readiness` does; SetupError when a reader names a state
    directory without a database, since only a writer may make one.
    """
    if readiness is READ and not settings.dsn and not (settings.state / "postgres").is_dir():
        raise SetupError(
            f"{settings.state} holds no database of the clearing house. Nothing was made or started. "
            "Give the state directory of the service with --state, or its server with --dsn."
        )
    dsn = settings.dsn or (await asyncio.to_thread(launch, settings.state)).dsn
    pool = await connect_pool(dsn, size=size)
    try:
        with losses_told():
            await readiness(pool)
            yield pool
    finally:
        await pool.close()
