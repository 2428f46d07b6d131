"""Our own PostgreSQL: real servers, started, found, killed and refused."""

import asyncio
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from clearing.store.binaries import binaries_in, embedded_binaries
from clearing.store.cluster import SOCKET_FILE, SOCKET_PATH_BYTES
from clearing.store.errors import (
    BinariesMissing,
    DiskFull,
    LaunchBusy,
    OtherMajorVersion,
    ServerFailed,
    SocketDirUnsafe,
    StateDirOccupied,
    StateDirUnwritable,
)
from clearing.store.launcher import Server, launch
from clearing.store.postmaster import serves

Start = Callable[..., Server]
ROOT = os.geteuid() == 0


@pytest.fixture
def start() -> Iterator[Start]:
    """`launch`, whose servers end with the test."""
    started: list[Server] = []

    def remember(state_dir: Path, **options: object) -> Server:
        started.append(launch(state_dir, **options))  # type: ignore[arg-type]  # options of launch, as they come
        return started[-1]

    yield remember
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose database was made, for tests that leave it whole; its server does not run."""
    state_dir = tmp_path_factory.mktemp("state")
    launch(state_dir).stop()
    return state_dir


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that every user of the machine can enter."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def ask(dsn: str, *statements: str) -> object:
    """The value of the last statement."""

    async def talk() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(talk())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )


LAUNCH = """
import json, pathlib, sys, time
from clearing.store.launcher import launch
server = launch(pathlib.Path(sys.argv[1]))
print(json.dumps([server.pid, server.started, server.dsn]), flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_cold_start_makes_a_durable_private_server(tmp_path: Path, start: Start) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    state = private / "state"
    state.mkdir(mode=0o755)
    # What an initdb that was killed leaves behind.
    (state / "postgres" / "cluster" / "data.draft" / "base").mkdir(parents=True)
    server = start(state)
    assert server.started
    expected = {
        "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
        "server_encoding": "UTF8", "lc_collate": "C", "listen_addresses": "", "shared_buffers": "256MB",
        "max_wal_size": "4GB", "password_encryption": "scram-sha-256",
    }  # fmt: skip
    query = "SELECT json_object_agg(name, current_setting(name)) FROM unnest($1::text[]) AS name"
    names = [name for name in expected if name != "lc_collate"]

    async def settings() -> dict[str, str]:
        connection = await asyncpg.connect(server.dsn)
        found: dict[str, str] = json.loads(await connection.fetchval(query, names))
        found["lc_collate"] = await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = 'onecard'")
        await connection.close()
        return found

    assert asyncio.run(settings()) == expected
    assert ask(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert ask(server.admin_dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    assert (mode(private), mode(state), mode(server.socket_dir), mode(server.cluster.data)) == (
        0o700,
        0o755,
        0o700,
        0o700,
    )
    for name in ("admin.password", "service.password", "start.log"):
        assert mode(server.cluster.home / name) == 0o600
    assert server.dsn.split(":")[2].split("@")[0] not in repr(server)


def test_the_server_has_no_network_socket(postgres: Server) -> None:
    fds = Path(f"/proc/{postgres.pid}/fd")
    sockets = {str(fd.readlink()).removeprefix("socket:[").rstrip("]") for fd in fds.iterdir()}
    network = {
        line.split()[9]
        for table in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{postgres.pid}/net/{table}").read_text().splitlines()[1:]
    }
    unix = {
        line.split()[6]
        for line in Path(f"/proc/{postgres.pid}/net/unix").read_text().splitlines()
        if line.endswith(str(postgres.socket_dir / SOCKET_FILE))
    }
    assert sockets & unix
    assert not sockets & network


def test_a_second_launch_finds_the_server(state: Path, start: Start) -> None:
    first = start(state)
    again = start(state)
    assert (again.pid, again.dsn, again.started) == (first.pid, first.dsn, False)
    first.stop()
    first.stop()
    assert not serves(first.pid, first.cluster.data)
    assert start(state).started


def test_a_killed_server_comes_back_with_what_it_committed(state: Path, start: Start) -> None:
    server = start(state)
    ask(server.dsn, "CREATE TABLE till (fen bigint)", "INSERT INTO till SELECT generate_series(1, 1000)")
    os.kill(server.pid, signal.SIGKILL)
    back = start(state)
    assert back.started
    assert back.pid != server.pid
    assert ask(back.dsn, "SELECT sum(fen) FROM till") == 500500


def test_a_backend_that_outlives_its_postmaster_is_waited_for(state: Path, start: Start) -> None:
    server = start(state)
    code = """
import asyncio, asyncpg, sys
async def busy():
    connection = await asyncpg.connect(sys.argv[1])
    print("busy", flush=True)
    await connection.execute("SELECT count(*) FROM generate_series(1, 4000000) a WHERE md5(a::text) = ''")
asyncio.run(busy())
"""
    with python(code, server.dsn) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "busy\n"
        time.sleep(0.1)
        os.kill(server.pid, signal.SIGKILL)
        assert ask(start(state).dsn, "SELECT 1") == 1


def test_the_number_of_a_killed_server_may_go_to_a_stranger(state: Path, start: Start) -> None:
    server = start(state)
    before = (server.cluster.data / "postmaster.pid").read_text().splitlines()
    server.stop()
    left_behind = "\n".join([str(os.getpid()), *before[1:]]) + "\n"
    (server.cluster.data / "postmaster.pid").write_text(left_behind)
    (server.socket_dir / f"{SOCKET_FILE}.lock").write_text(left_behind)
    assert start(state).started


def test_the_server_outlives_a_killed_service(state: Path, start: Start) -> None:
    with python(LAUNCH, state, 60) as service:
        assert service.stdout is not None
        pid, started, dsn = json.loads(service.stdout.readline())
        os.killpg(service.pid, signal.SIGKILL)
    assert started
    assert ask(dsn, "SELECT 1") == 1
    assert start(state).pid == pid


def test_launches_at_once_make_one_server(tmp_path: Path, start: Start) -> None:
    launches = [python(LAUNCH, tmp_path, 0) for _ in range(3)]
    answers = [json.loads(launch.communicate()[0]) for launch in launches]
    assert len({pid for pid, _, _ in answers}) == 1
    assert sorted(started for _, started, _ in answers) == [False, False, True]
    assert start(tmp_path).pid == answers[0][0]


def test_a_launch_does_not_wait_for_ever(tmp_path: Path) -> None:
    place = tmp_path / "postgres"
    place.mkdir()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LaunchBusy, match=r"for 0\.2 s"):
            launch(tmp_path, patience_s=0.2)


@pytest.mark.parametrize("below", ["x" * 60 + "/" + "y" * 60, '深, "a" $(b)'], ids=["deep", "odd"])
def test_a_path_unfit_for_a_socket_gets_it_elsewhere(public_dir: Path, start: Start, below: str) -> None:
    state = public_dir / below
    server = start(state)
    assert len(os.fsencode(server.socket_dir / SOCKET_FILE)) <= SOCKET_PATH_BYTES
    assert mode(server.socket_dir) == 0o700
    assert start(state).pid == server.pid
    assert ask(server.dsn, "SELECT 1") == 1
    server.stop()
    assert not server.socket_dir.exists() or server.socket_dir.is_relative_to(server.cluster.home)

    server.socket_dir.mkdir()
    server.socket_dir.chmod(0o777)
    with pytest.raises(SocketDirUnsafe, match=str(server.socket_dir)):
        launch(state)
    assert mode(server.socket_dir) == 0o777
    server.socket_dir.rmdir()


def test_a_state_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a directory")
    for state in (path, path / "below"):
        with pytest.raises(StateDirUnwritable, match=r"No database was made"):
            launch(state)
    assert path.read_text() == "not a directory"


def test_what_is_not_ours_is_left_alone(state: Path, start: Start) -> None:
    server = start(state)
    server.stop()
    version = server.cluster.data / "PG_VERSION"
    kept = version.read_text()
    version.write_text("15\n")
    with pytest.raises(OtherMajorVersion, match=r"made by PostgreSQL 15, the programs here are \d+"):
        launch(state)
    version.unlink()
    with pytest.raises(StateDirOccupied, match="no PostgreSQL data directory"):
        launch(state)
    assert not version.exists()
    version.write_text(kept)
    assert start(state).started


def test_a_lost_or_foreign_password_is_told(state: Path, start: Start) -> None:
    server = start(state)
    password = server.cluster.home / "service.password"
    kept = password.read_text()
    password.unlink()
    with pytest.raises(ServerFailed, match="Restore"):
        launch(state)
    password.write_text(kept)
    assert start(state).pid == server.pid


def test_a_broken_configuration_is_told_in_the_words_of_the_server(state: Path, start: Start) -> None:
    server = start(state)
    server.stop()
    settings = server.cluster.data / "postgresql.conf"
    kept = settings.read_text()
    settings.write_text(kept + "shared_buffers = 'plenty'\n")
    with pytest.raises(ServerFailed, match="plenty"):
        launch(state)
    settings.write_text(kept)
    assert start(state).started


def test_too_little_space_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="Nothing was made"):
        launch(tmp_path, space_bytes=1 << 60)
    assert not list(tmp_path.rglob("data*"))


def test_missing_programs_are_told(tmp_path: Path) -> None:
    with pytest.raises(BinariesMissing, match="no_such_wheel"):
        embedded_binaries("no_such_wheel")
    with pytest.raises(BinariesMissing, match="postgres, initdb, psql"):
        binaries_in(tmp_path)


def test_an_ordinary_user_runs_it_directly(public_dir: Path) -> None:
    """In a child that gives up root, with programs that it can read wherever ours are installed."""
    binaries = embedded_binaries().copy_under(public_dir)
    state = public_dir / "state"
    state.mkdir()
    user = pwd.getpwnam("nobody") if ROOT else pwd.getpwuid(os.geteuid())
    if ROOT:
        os.chown(state, user.pw_uid, user.pw_gid)
    child = os.fork()
    if child == 0:
        result = 1
        try:
            if ROOT:
                os.setgroups([])
                os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
                os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            server = launch(state, binaries=binaries)
            again = launch(state, binaries=binaries)
            owner = Path(f"/proc/{server.pid}").stat().st_uid
            server.stop()
            result = 0 if server.started and again.pid == server.pid and owner == user.pw_uid else 2
        finally:
            os._exit(result)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if ROOT:  # an ordinary user has nobody else to run it as
    # Containers and chroots refuse namespaces: there root's server runs as a system user, as the tests below see too.
    NAMESPACES = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode == 0

    def test_root_runs_it_in_a_user_namespace(postgres: Server) -> None:
        if not NAMESPACES:
            assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0
            return
        assert Path(f"/proc/{postgres.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
        assert postgres.cluster.data.stat().st_uid == 0
        inside = run_as(postgres.cluster.account.prefix, "id", "--user", "--name")
        # On a machine without this user initdb would find nobody of its uid.
        assert inside in ("postgres", "nobody")
        with pytest.raises(asyncpg.PostgresError, match="permission denied"):
            ask(postgres.dsn, "COPY (SELECT 1) TO PROGRAM 'cat'")

    @pytest.mark.parametrize("reachable", [True, False])
    def test_root_without_namespaces_runs_it_as_a_system_user(
        public_dir: Path, tmp_path: Path, start: Start, reachable: bool
    ) -> None:
        state = public_dir / "state" if reachable else tmp_path / "state"
        state.mkdir()
        system_home = public_dir / "onecard"
        tmp_path.chmod(0o700)
        server = start(state, namespaces=False, system_home=system_home)
        user = Path(f"/proc/{server.pid}").stat().st_uid
        assert user in {pwd.getpwnam(name).pw_uid for name in ("postgres", "nobody") if name in names_of_users()}
        assert server.cluster.data.stat().st_uid == user
        assert server.cluster.home.is_relative_to(state if reachable else system_home)
        assert (server.cluster.home / "service.password").stat().st_uid == 0
        assert mode(tmp_path) == 0o700
        ask(server.dsn, "CREATE TABLE till (fen bigint)")
        server.stop()
        again = start(state, system_home=system_home)  # what was once made stays with its user
        assert Path(f"/proc/{again.pid}").stat().st_uid == user
        assert ask(again.dsn, "SELECT count(*) FROM till") == 0

    def test_programs_out_of_the_system_users_reach_are_copied(public_dir: Path, tmp_path: Path, start: Start) -> None:
        tmp_path.chmod(0o700)
        hidden = embedded_binaries().copy_under(tmp_path)
        server = start(public_dir / "state", binaries=hidden, namespaces=False, system_home=public_dir / "onecard")
        assert server.cluster.binaries.bin.is_relative_to(public_dir / "onecard")
        assert ask(server.dsn, "SELECT 1") == 1

    def test_a_database_of_a_refused_namespace_is_not_replaced(state: Path, start: Start) -> None:
        server = start(state)
        server.stop()
        if NAMESPACES:
            with pytest.raises(StateDirOccupied, match="now refuses"):
                launch(state, namespaces=False)
        assert start(state).cluster == server.cluster

    def run_as(prefix: tuple[str, ...], *command: str) -> str:
        return subprocess.run([*prefix, *command], capture_output=True, text=True, check=True).stdout.strip()

    def names_of_users() -> set[str]:
        return {user.pw_name for user in pwd.getpwall()}
