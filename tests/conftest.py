"""One embedded PostgreSQL for the whole run, and a database of its own for every test that asks."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest

from clearing.store.cluster import DATABASE
from clearing.store.connect import connect_pool
from clearing.store.launcher import Server, launch
from clearing.store.migrate import migrate

TEMPLATE = "migrated"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server; its database `onecard` is empty.

    It does not wait for the disk, which makes databases twice as fast; test_launcher.py proves durability on servers of
    its own.
    """
    server = launch(tmp_path_factory.mktemp("postgres"))
    asyncio.run(_execute(server.admin_dsn, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated(postgres: Server) -> str:
    """The name of a database with the whole schema, to be copied, never to be connected to."""

    async def make() -> None:
        await _execute(_dsn(postgres, "postgres"), f"CREATE DATABASE {TEMPLATE}")
        pool = await connect_pool(_dsn(postgres, TEMPLATE), size=1)
        await migrate(pool)
        await pool.close()

    asyncio.run(make())
    return TEMPLATE


@pytest.fixture
def database(postgres: Server, migrated: str) -> Iterator[str]:
    """The DSN of a fresh, migrated database."""
    yield from _fresh(postgres, migrated)


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[str]:
    """The DSN of a fresh database without any schema."""
    yield from _fresh(postgres, "template0")


def _fresh(server: Server, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    asyncio.run(_execute(_dsn(server, "postgres"), f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield _dsn(server, name)
    # Only the administrator may end an autovacuum worker that is just looking at the database.
    asyncio.run(_execute(server.admin_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


def _dsn(server: Server, name: str) -> str:
    return server.dsn.replace(f"/{DATABASE}?", f"/{name}?")


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
