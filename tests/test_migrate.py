"""The schema and the program mean the same, or nobody works; and the pool that they meet over."""

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest
from gmssl import func, sm3  # type: ignore[import-untyped,unused-ignore]  # an SM3 that is not ours

from clearing.store import connect
from clearing.store.connect import connect_pool
from clearing.store.errors import (
    DatabaseNewer,
    DatabaseOlder,
    MigrationFailed,
    MigrationsInvalid,
    ServerRefused,
    ServerTooOld,
    ServerUnreachable,
)
from clearing.store.launcher import Server, launch
from clearing.store.migrate import Migration, check, migrate, migrations

ONE = Migration(1, "till", "CREATE TABLE till (fen bigint NOT NULL);\nINSERT INTO till VALUES (1);")
TWO = Migration(2, "more", "INSERT INTO till SELECT fen + 1 FROM till;")
BROKEN = Migration(2, "broken", "INSERT INTO till VALUES (7);\n\nINSERT INTO nowhere VALUES (8);")


async def fetch(dsn: str, sql: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_a_fresh_database_gets_the_whole_schema_once(empty_database: str) -> None:
    pool = await connect_pool(empty_database, size=1)
    with pytest.raises(DatabaseOlder, match="0001_"):
        await check(pool)
    assert await migrate(pool) == migrations()
    await check(pool)
    assert await migrate(pool) == ()
    await pool.close()
    files = sorted((Path(connect.__file__).parent / "schema").glob("*.sql"))
    kept = await fetch(empty_database, "SELECT number, name, sm3 FROM schema_migration ORDER BY number")
    assert kept == [
        (int(file.name[:4]), file.stem[5:], bytes.fromhex(sm3.sm3_hash(func.bytes_to_list(file.read_bytes()))))
        for file in files
    ]
    assert kept


async def test_the_fixture_is_a_migrated_database(database: str) -> None:
    pool = await connect_pool(database, size=1)
    await check(pool)
    await pool.close()


async def test_an_older_database_is_named_and_then_upgraded(empty_database: str) -> None:
    pool = await connect_pool(empty_database, size=1)
    assert await migrate(pool, [ONE]) == (ONE,)
    with pytest.raises(DatabaseOlder, match="lacks 0002_more"):
        await check(pool, [ONE, TWO])
    assert await migrate(pool, [ONE, TWO]) == (TWO,)
    await check(pool, [ONE, TWO])
    await pool.close()
    assert await fetch(empty_database, "SELECT fen FROM till ORDER BY fen") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("program", "says"),
    [([ONE], "0002_more, which this version of onecard does not know"), ([ONE, BROKEN], "is not the 0002_broken")],
    ids=["unknown number", "other digest"],
)
async def test_a_newer_database_is_left_alone(empty_database: str, program: list[Migration], says: str) -> None:
    pool = await connect_pool(empty_database, size=1)
    await migrate(pool, [ONE, TWO])
    for act in (check, migrate):
        with pytest.raises(DatabaseNewer, match=says):
            await act(pool, program)
    await pool.close()
    assert await fetch(empty_database, "SELECT count(*) FROM schema_migration") == [(2,)]


async def test_a_refused_file_is_undone_as_a_whole(empty_database: str) -> None:
    pool = await connect_pool(empty_database, size=1)
    with pytest.raises(MigrationFailed, match=r"0002_broken\.sql line 3: .*nowhere"):
        await migrate(pool, [ONE, BROKEN])
    await check(pool, [ONE])
    await pool.close()
    assert await fetch(empty_database, "SELECT fen FROM till") == [(1,)]


async def test_a_file_and_its_record_stand_or_fall_together(empty_database: str) -> None:
    pool = await connect_pool(empty_database, size=1)
    with pytest.raises(asyncpg.DataError):
        await migrate(pool, [ONE, Migration(2**40, "beyond_the_column", TWO.sql)])
    await check(pool, [ONE])
    await pool.close()
    assert await fetch(empty_database, "SELECT fen FROM till") == [(1,)]


async def test_migrations_at_once_apply_each_file_once(empty_database: str) -> None:
    pool = await connect_pool(empty_database, size=4)
    done = await asyncio.gather(*(migrate(pool, [ONE, TWO]) for _ in range(4)))
    await pool.close()
    assert sorted(str(migration) for part in done for migration in part) == ["0001_till", "0002_more"]
    assert await fetch(empty_database, "SELECT count(*) FROM till") == [(2,)]


@pytest.mark.parametrize(
    "names", [["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["0002_b.sql"], ["first.sql"], []]
)
def test_files_out_of_line_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    package = tmp_path / f"numbered_{len(names)}_{'_'.join(names).replace('.', '_')}"
    (package / "schema").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in names:
        (package / "schema" / name).write_text("SELECT 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MigrationsInvalid, match="No database was touched"):
        migrations(package.name)


async def test_a_wrong_password_is_refused_at_once_and_not_told(postgres: Server) -> None:
    password = postgres.dsn.split(":")[2].split("@")[0]
    for wrong in ("", "guess" * 12):
        began = time.monotonic()
        with pytest.raises(ServerRefused) as refusal:
            await connect_pool(postgres.dsn.replace(password, wrong), size=1)
        assert time.monotonic() - began < 5
        assert "guess" not in str(refusal.value)


async def test_a_server_that_never_comes_is_waited_for_so_long(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"within 0\.5 s"):
        await connect_pool(f"postgresql://x:secret@/x?host={tmp_path}", size=1, patience_s=0.5)
    assert 0.2 < time.monotonic() - began < 3


async def test_a_server_that_restarts_is_waited_for(tmp_path: Path) -> None:
    server = await asyncio.to_thread(launch, tmp_path / "state")
    await asyncio.to_thread(server.stop)
    waiting = asyncio.create_task(connect_pool(server.dsn, size=2))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    server = await asyncio.to_thread(launch, tmp_path / "state")
    pool = await waiting
    assert await pool.fetchval("SHOW timezone") == "UTC"
    await pool.close()
    await asyncio.to_thread(server.stop)


async def test_an_old_server_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "OLDEST_MAJOR", 99)
    with pytest.raises(ServerTooOld, match="needs 99"):
        await connect_pool(database, size=1)
    assert await fetch(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'onecard'") == [(0,)]
