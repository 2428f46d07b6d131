"""A transaction, or one statement, on a pooled connection, whose loss shows as what it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from asyncpg.transaction import Transaction

from clearing.store.types import Connection


@asynccontextmanager
async def connected(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """A connection on which each statement commits by itself. When it is lost the error says so
    (`connect.UNAVAILABLE`); lost during a statement, that may have been committed."""
    async with pool.acquire() as connection:
        try:
            yield connection
        except asyncpg.InternalClientError as error:
            # The driver lost its place in the protocol, which it does when the server leaves between two messages.
            _hang_up(connection)
            raise asyncpg.ConnectionDoesNotExistError(str(error)) from error


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """Commits at the end, rolls back on an exception; lost during the commit, it may have been committed. Errors as
    `connected`."""
    async with connected(pool) as connection:
        open_transaction = connection.transaction()
        await open_transaction.start()
        try:
            yield connection
        except BaseException:
            await _roll_back(connection, open_transaction)
            raise
        await open_transaction.commit()


async def _roll_back(connection: Connection, open_transaction: Transaction) -> None:
    try:
        await open_transaction.rollback()
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError, OSError):
        _hang_up(connection)  # the server rolls back what its client has left


def _hang_up(connection: Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # the pool has taken back a connection that it saw die
        connection.terminate()
