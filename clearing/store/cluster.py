"""One PostgreSQL cluster of our own: where its files lie, whose they are, and how it is made.

    <state directory>/postgres/        0711
        lock                           one launch at a time
        cluster/                       0700; 0711 when a system user runs the server, and a link to elsewhere if need be
            data/                      what initdb made; complete, or not there
            log/                       a file per weekday
            socket/                    when its path is short enough for a socket
            start.log                  what the server said before its log was open
            admin.password             0600, of the superuser `postgres`: for backups
            service.password           0600, of the role `onecard`, which owns the database and is no superuser

`data`, `log` and `socket` are 0700 and belong to whoever runs the server; everything else belongs to us, so that a
server gone bad cannot plant a link where we write.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clearing.store.account import Account
from clearing.store.binaries import Binaries
from clearing.store.errors import (
    DiskFull,
    OtherMajorVersion,
    ServerFailed,
    SocketDirUnsafe,
    StateDirOccupied,
    StoreError,
)

ADMIN, SERVICE, DATABASE = "postgres", "onecard", "onecard"
PORT = 5432  # no TCP port: it only names the socket file
SOCKET_FILE = f".s.PGSQL.{PORT}"
SOCKET_PATH_BYTES = 107  # sun_path of unix(7) without its final zero
# Written once into postgresql.conf, where an operator may tune them; what safety rests on is given at each start.
SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_filename": "%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Files under `home`, run as `account` with the programs `binaries`."""

    home: Path
    account: Account
    binaries: Binaries

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def start_log(self) -> Path:
        return self.home / "start.log"

    def password(self, role: str) -> str:
        """The password of `ADMIN` or `SERVICE`. Raises `ServerFailed` when its file is lost."""
        path = self._password_file(role)
        try:
            return path.read_text().strip()
        except OSError as error:
            raise ServerFailed(
                f"The password of the database role {role} cannot be read: {error}. The data in {self.data} are "
                f"untouched. Restore {path} from the backup of the state directory."
            ) from error

    def _password_file(self, role: str) -> Path:
        return self.home / ("admin.password" if role == ADMIN else "service.password")

    def check_version(self) -> None:
        """Raises `OtherMajorVersion`, or `StateDirOccupied` when `data` is no data directory."""
        try:
            major = (self.data / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise StateDirOccupied(
                f"{self.data} exists, but is no PostgreSQL data directory that can be read: {error}. Nothing was "
                "changed. Move it away, restore it from the backup, or choose another state directory."
            ) from error
        if major != str(self.binaries.major):
            raise OtherMajorVersion(
                f"The database in {self.data} was made by PostgreSQL {major}, the programs here are "
                f"{self.binaries.version}. Nothing was changed. Install the former version of onecard's "
                "requirements, or move the data with pg_dump."
            )

    def make(self, space_bytes: int) -> None:
        """Make the data directory with its roles and database; afterwards it is there in full, or not at all.

        Raises `DiskFull` when fewer than `space_bytes` are free, `ServerFailed` when initdb fails.
        """
        if (free := shutil.disk_usage(self.home).free) < space_bytes:
            raise DiskFull(
                f"A new database needs {space_bytes >> 20} MiB, {self.home} has {free >> 20} MiB free. Nothing was "
                "made. Make room, or choose another state directory."
            )
        shutil.rmtree(self.home / "data.draft", ignore_errors=True)
        draft = self.directory("data.draft")
        for role in (ADMIN, SERVICE):
            _write_secret(self._password_file(role))
        with self._lent(self._password_file(ADMIN)) as pwfile:
            self._must([
                self.binaries.program("initdb"), f"--pgdata={draft}", f"--username={ADMIN}", f"--pwfile={pwfile}",
                "--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C",
                *(f"--set={name}={value}" for name, value in SETTINGS.items()),
            ])  # fmt: skip
        # Our work needs no superuser, and a superuser could write files as whoever runs the server.
        self._must(
            [self.binaries.program("postgres"), "--single", "-D", str(draft), "-c", "exit_on_error=on", ADMIN],
            say=f"CREATE ROLE {SERVICE} LOGIN CREATEDB CREATEROLE PASSWORD '{self.password(SERVICE)}'\n"
            f"GRANT pg_monitor, pg_checkpoint TO {SERVICE}\n"
            f"CREATE DATABASE {DATABASE} OWNER {SERVICE}\n",
        )
        draft.rename(self.data)
        _flush(self.home)

    def _must(self, command: list[str], *, say: str = "") -> None:
        done = self.account.run(command, say=say)
        if done.returncode:
            program = Path(command[0]).name
            raise failed(f"{program} could not make the database in {self.home}", done.stderr, "No database was made.")

    @contextmanager
    def _lent(self, path: Path) -> Iterator[Path]:
        """A file of ours, readable for the server's account for a while."""
        self._give(path)
        yield path
        if self.account.uid is not None:
            os.chown(path, os.geteuid(), os.getegid())

    def _give(self, path: Path) -> None:
        if self.account.uid is not None:
            os.chown(path, self.account.uid, -1 if self.account.gid is None else self.account.gid)

    def directory(self, name: str) -> Path:
        """The directory `name` of the cluster, 0700 and the server's, made when missing."""
        path = self.home / name
        if not path.is_dir():
            path.mkdir(mode=0o700)
            self._give(path)
        return path

    def socket_dir(self) -> Path:
        """A 0700 directory for the socket: in the cluster, or, when that path is too long, in the temporary directory.

        Raises `SocketDirUnsafe` when somebody else holds the name in the temporary directory.
        """
        own = self.home / "socket"
        if _fits(own):
            return self.directory("socket")
        name = "onecard-" + hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        parents = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108
        path = next(parent / name for parent in parents if _fits(parent / name))
        try:
            path.mkdir(mode=0o700)
            self._give(path)
        except FileExistsError:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.owner or found.st_mode & 0o077:
                raise SocketDirUnsafe(
                    f"{path}, the place for the database's socket, belongs to or is open to somebody else. The "
                    f"server was not started. Remove {path}, or choose a state directory with a shorter path."
                ) from None
        return path


def failed(what: str, said: str, state: str) -> StoreError:
    """The error for a program that ended badly, by what it said last."""
    tail = "\n".join(said.strip().splitlines()[-12:])
    if "No space left on device" in said:
        return DiskFull(f"{what}: the disk is full. {state} Make room and start again. PostgreSQL said:\n{tail}")
    return ServerFailed(f"{what}. {state} PostgreSQL said:\n{tail}")


def _fits(directory: Path) -> bool:
    """Short enough for a socket, and free of what a DSN or a list of directories would read as its own."""
    path = str(directory / SOCKET_FILE)
    return len(path) <= SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9/._+-]+", path) is not None


def _write_secret(path: Path) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
