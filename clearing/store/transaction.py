"""A transaction on a pooled connection, whose loss shows as what it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from asyncpg.transaction import Transaction

from clearing.store.types import Connection


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """Commits at the end, rolls back on an exception. When the connection is lost the error says so
    (`connect.UNAVAILABLE`); lost during the commit, the transaction may have been committed."""
    async with pool.acquire() as connection:
        open_transaction = connection.transaction()
        try:
            await open_transaction.start()
            try:
                yield connection
            except BaseException:
                await _roll_back(connection, open_transaction)
                raise
            await open_transaction.commit()
        except asyncpg.InternalClientError as error:
            # The driver lost its place in the protocol, which it does when the server leaves between two messages.
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError(str(error)) from error


async def _roll_back(connection: Connection, open_transaction: Transaction) -> None:
    try:
        await open_transaction.rollback()
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError, OSError):
        connection.terminate()  # the server rolls back what its client has left
