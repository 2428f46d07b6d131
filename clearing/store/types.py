"""The store's types for the other rooms, which import no driver."""

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection = asyncpg.Connection | PoolConnectionProxy
Pool = asyncpg.Pool
StoredRow = asyncpg.Record
