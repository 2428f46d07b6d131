"""Our own PostgreSQL server under a state directory: started when it does not run, found when it does."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from clearing.store.account import ENVIRONMENT
from clearing.store.binaries import Binaries, embedded_binaries
from clearing.store.cluster import (
    ADMIN,
    DATABASE,
    PORT,
    SERVICE,
    SOCKET_FILE,
    Cluster,
    failed,
)
from clearing.store.errors import LaunchBusy, ServerFailed
from clearing.store.place import make_place, open_cluster, state_dir_errors
from clearing.store.postmaster import PID_FILE, Postmaster, read_postmaster, serves

SYSTEM_HOME = Path("/var/lib/onecard")
SPACE_BYTES = 512 << 20
POLL_S = 0.01
# A killed postmaster's backends may finish their statement; until then nobody else may have the data.
STILL_IN_USE = "pre-existing shared memory block"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `dsn` is for the service, `admin_dsn` for backups; both hold a password, so neither is shown.

    `started` tells whether this launch started it, or found it running.
    """

    place: Path
    cluster: Cluster
    socket_dir: Path
    pid: int
    started: bool
    dsn: str = field(repr=False)
    admin_dsn: str = field(repr=False)

    def stop(self, *, patience_s: float = 60) -> None:
        """Roll back what is open, write a checkpoint, end the server. A server that is down already is fine.

        Raises `ServerFailed` when it still runs after `patience_s`; it then goes on shutting down. Blocks: in a
        coroutine, call it by `asyncio.to_thread`.
        """
        with _locked(self.place, patience_s):
            found = read_postmaster(self.cluster.data)
            pid = self.pid if found is None else found.pid
            if serves(pid, self.cluster.data):
                os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + patience_s
            while serves(pid, self.cluster.data):
                if time.monotonic() > deadline:
                    raise ServerFailed(
                        f"The database server (process {pid}) has not ended within {patience_s:g} s. It is still "
                        f"shutting down, nothing committed is lost. Look into {self.cluster.log}."
                    )
                time.sleep(POLL_S)
            if self.socket_dir.parent != self.cluster.home:
                with suppress(OSError):
                    self.socket_dir.rmdir()


def launch(
    state_dir: Path,
    *,
    binaries: Binaries | None = None,
    namespaces: bool = True,
    system_home: Path = SYSTEM_HOME,
    space_bytes: int = SPACE_BYTES,
    patience_s: float = 120,
) -> Server:
    """The server of `state_dir`: made by initdb if there is none, started if it does not run, checked by a connection.

    It listens on a unix socket in a 0700 directory only, and outlives us however we end; `Server.stop` ends it.
    Launches of one state directory wait for each other. A new database needs `space_bytes` of free disk.
    As root it runs in a user namespace; where those are refused, or when `namespaces` is false, as a system user, with
    files under `system_home` if need be. No mode of a directory that we did not make is changed.
    Blocks for up to `patience_s` (crash recovery takes its time): in a coroutine, call it by `asyncio.to_thread`.
    Raises a `StoreError` (clearing/store/errors.py).
    """
    binaries = binaries or embedded_binaries()
    state_dir = state_dir.absolute()
    place = make_place(state_dir)
    with _locked(place, patience_s), state_dir_errors(state_dir):
        cluster = open_cluster(state_dir, binaries, namespaces=namespaces, system_home=system_home)
        if not cluster.data.exists():
            cluster.make(space_bytes)
        cluster.check_version()
        before = read_postmaster(cluster.data)
        running = _run(cluster, patience_s)
        _must_answer(cluster, running)
    return Server(
        place,
        cluster,
        running.socket_dir,
        running.pid,
        started=before is None or before.pid != running.pid,
        dsn=_dsn(cluster, running, SERVICE, DATABASE),
        admin_dsn=_dsn(cluster, running, ADMIN, ADMIN),
    )


def _run(cluster: Cluster, patience_s: float) -> Postmaster:
    """The postmaster, ready; started when it does not run."""
    deadline = time.monotonic() + patience_s
    pid = None
    while time.monotonic() < deadline:
        found = read_postmaster(cluster.data)
        if found is not None and serves(found.pid, cluster.data):
            if found.ready:
                return found
        elif pid is None or not serves(pid, cluster.data):
            if pid is not None and STILL_IN_USE not in cluster.start_log.read_text(errors="replace"):
                raise failed("The database server did not start", _log(cluster), f"{cluster.data} is as it was.")
            pid = _start(cluster)
        time.sleep(POLL_S)
    raise failed(
        f"The database server was not ready within {patience_s:g} s",
        _log(cluster),
        "It may still be recovering; start again later.",
    )


def _start(cluster: Cluster) -> int:
    """Start the postmaster; its process id. No other one runs: what a killed one left to keep others out is removed."""
    log, socket_dir = cluster.directory("log"), cluster.socket_dir()
    for left_behind in (cluster.data / PID_FILE, socket_dir / f"{SOCKET_FILE}.lock"):
        left_behind.unlink(missing_ok=True)
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "logging_collector": "on",
        "log_directory": str(log),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return cluster.account.start(
        [cluster.binaries.program("postgres"), "-D", str(cluster.data), *options], cluster.start_log
    )


def _log(cluster: Cluster) -> str:
    """What the server wrote since it was started last: to its error output, then to the log of the day."""
    started_ns = cluster.start_log.stat().st_mtime_ns
    days = [path for path in cluster.log.glob("*.log") if path.stat().st_mtime_ns >= started_ns]
    said = [path.read_text(errors="replace") for path in (cluster.start_log, *days)]
    return "".join(text[max(text.rfind("starting PostgreSQL"), 0) :] for text in said)


def _must_answer(cluster: Cluster, running: Postmaster, patience_s: float = 10) -> None:
    """Connect with the password, as the service will. Raises `ServerFailed`."""
    question = [
        cluster.binaries.program("psql"), "--no-psqlrc", "--no-password", "--command=SELECT 1",
        f"--host={running.socket_dir}", f"--port={PORT}", f"--username={SERVICE}", f"--dbname={DATABASE}",
    ]  # fmt: skip
    # The environment, unlike the command line, is not for everybody to read.
    environment = {**ENVIRONMENT, "PGPASSWORD": cluster.password(SERVICE)}
    deadline = time.monotonic() + patience_s
    while (
        asked := subprocess.run(question, capture_output=True, text=True, check=False, env=environment, cwd="/")
    ).returncode:
        if time.monotonic() > deadline:
            raise failed(
                f"The database server (process {running.pid}) runs, but does not let us in",
                asked.stderr,
                f"It was left running. If {cluster.home} was restored by hand, restore its password files too.",
            )
        time.sleep(0.2)


def _dsn(cluster: Cluster, running: Postmaster, role: str, database: str) -> str:
    return f"postgresql://{role}:{cluster.password(role)}@/{database}?host={quote(str(running.socket_dir))}&port={PORT}"


@contextmanager
def _locked(place: Path, patience_s: float) -> Iterator[None]:
    deadline = time.monotonic() + patience_s
    with (place / "lock").open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LaunchBusy(
                        f"Another process has been starting or stopping the database in {place} for {patience_s:g} s. "
                        f"Nothing was changed by this one. Look what it waits for (lsof {place / 'lock'})."
                    ) from None
                time.sleep(POLL_S)
        yield
