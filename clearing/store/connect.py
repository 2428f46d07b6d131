"""A pool of connections to any PostgreSQL >= 16, waiting for a bounded time for a server that is on its way up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg

from clearing.store.errors import ServerRefused, ServerTooOld, ServerUnreachable

OLDEST_MAJOR = 16
# The server is down, starting, stopping or full: the same call may succeed a moment later.
UNAVAILABLE: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.TooManyConnectionsError,
)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


async def connect_pool(dsn: str, *, size: int, patience_s: float = 30) -> asyncpg.Pool:
    """A pool of `size` open connections in UTC. Tries again for `patience_s` while the server is `UNAVAILABLE`.

    Raises `ServerUnreachable` when that time is over, `ServerRefused` on a wrong password, user, database or DSN,
    `ServerTooOld` below PostgreSQL 16. A cancelled call leaves no connection behind.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await _open(dsn, size, max(deadline - loop.time(), 1.0))
        except UNAVAILABLE as error:
            if loop.time() + pause_s > deadline:
                raise ServerUnreachable(
                    f"No connection to {_shown(dsn)} within {patience_s:g} s: {error or type(error).__name__}. "
                    f"Nothing was sent. See whether the database server runs, and start again."
                ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise ServerRefused(
                f"{_shown(dsn)} does not let us in: {error}. Nothing was changed. Correct the DSN, or the role on "
                "the server."
            ) from error
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


@contextmanager
def losses_told() -> Iterator[None]:
    """For commands that people give: a connection that is lost within it is raised as `ServerUnreachable`."""
    try:
        yield
    except (*UNAVAILABLE, asyncpg.InterfaceError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ServerUnreachable(
            f"The connection to the database was lost: {error or type(error).__name__}. What was not committed was "
            "undone, whether this command was committed is unknown. See whether the database server runs, look at the "
            "books, and give the command again: twice is once."
        ) from error


async def _open(dsn: str, size: int, timeout_s: float) -> asyncpg.Pool:
    pool = asyncpg.create_pool(
        dsn,
        min_size=size,
        max_size=size,
        timeout=timeout_s,
        reset=_as_it_is,
        server_settings={"application_name": "onecard", "timezone": "UTC"},
    )
    try:
        await pool
        async with pool.acquire() as connection:
            major = connection.get_server_version().major
        if major < OLDEST_MAJOR:
            raise ServerTooOld(
                f"{_shown(dsn)} is PostgreSQL {major}; onecard needs {OLDEST_MAJOR} or later. Nothing was changed. "
                f"Upgrade that server, or use the embedded one."
            )
    except BaseException:
        pool.terminate()
        raise
    return pool


async def _as_it_is(_: asyncpg.Connection) -> None:
    """Nobody here leaves settings, cursors, listeners or locks of a session behind, so a connection goes back without
    the round trip that would clear them; an open transaction is rolled back by the driver all the same."""


def _shown(dsn: str) -> str:
    """The server and database of a DSN without the password."""
    try:
        parts = urlsplit(dsn)
        return (
            f"PostgreSQL {parts.hostname or ''}{parts.path}{'?' + parts.query.partition('&')[0] if parts.query else ''}"
        )
    except ValueError:
        return "the PostgreSQL of this DSN"
