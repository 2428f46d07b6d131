"""Where a state directory keeps its cluster, and who runs it (clearing/store/cluster.py draws the layout)."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clearing.store.account import Account, namespace_account, system_account
from clearing.store.binaries import Binaries
from clearing.store.cluster import Cluster
from clearing.store.errors import AccountUnusable, DiskFull, StateDirOccupied, StateDirUnwritable


def make_place(state_dir: Path) -> Path:
    """`state_dir`/postgres, made with its parents when missing. Raises `StateDirUnwritable`, `DiskFull`."""
    place = state_dir / "postgres"
    with state_dir_errors(state_dir):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o711, exist_ok=True)
        (place / "lock").touch(mode=0o600)
    return place


def open_cluster(state_dir: Path, binaries: Binaries, *, namespaces: bool, system_home: Path) -> Cluster:
    """The cluster of a state directory, its directories made when missing; who runs it is decided when it is made.

    Raises `StateDirOccupied`, `AccountUnusable`, `OSError`.
    """
    link = state_dir / "postgres" / "cluster"
    link.mkdir(mode=0o700, exist_ok=True)
    home = _ours(link)
    if os.geteuid() != 0:
        return Cluster(home, Account(), binaries)
    if (home / "log").is_dir() and (owner := (home / "log").stat()).st_uid != 0:
        account = Account(uid=owner.st_uid, gid=owner.st_gid)
        return Cluster(home, account, _usable(binaries, account, system_home))
    if namespaces and (inside := namespace_account(binaries, home)) is not None:
        return Cluster(home, inside, binaries)
    if (home / "data").exists():
        raise StateDirOccupied(
            f"The database in {home} was made by root in a user namespace, which this machine now refuses. "
            "Nothing was changed. Allow user namespaces (sysctl user.max_user_namespaces), or give the files to "
            "an ordinary user and run onecard as that user."
        )
    return _new_system_cluster(link, binaries, system_home)


def _new_system_cluster(link: Path, binaries: Binaries, system_home: Path) -> Cluster:
    """A cluster of a system user: in the state directory where that user can reach it, else under `system_home`.

    There it gets a fresh name: a state directory that was deleted and made again must not find its former database.
    """
    account = system_account()
    binaries = _usable(binaries, account, system_home)
    home = link
    if account.run(["test", "-x", str(link.parent)]).returncode:
        home = Path(tempfile.mkdtemp(prefix="cluster-", dir=_make_public(system_home)))
        shutil.rmtree(link)
        link.symlink_to(home)
    home.chmod(0o711)
    cluster = Cluster(home.resolve(), account, binaries)
    cluster.directory("log")
    return cluster


def _usable(binaries: Binaries, account: Account, system_home: Path) -> Binaries:
    """The programs where they are, or, where the account cannot run those, a copy. Raises `AccountUnusable`."""
    try:
        if account.run([binaries.program("postgres"), "--version"]).returncode == 0:
            return binaries
    except PermissionError:
        pass
    copy = binaries.copy_under(_make_public(system_home))
    try:
        account.run([copy.program("postgres"), "--version"]).check_returncode()
    except (OSError, subprocess.CalledProcessError) as error:
        raise AccountUnusable(
            f"PostgreSQL does not run as root, and the user with uid {account.uid} cannot run it either: {error}. No "
            f"database was made. Run onecard as an ordinary user, or let that user reach {system_home}."
        ) from error
    return copy


def _make_public(directory: Path) -> Path:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        directory.chmod(0o755)
    return directory


def _ours(home: Path) -> Path:
    owner = home.stat().st_uid
    if owner != os.geteuid():
        raise StateDirOccupied(
            f"The database in {home} belongs to the user with uid {owner}. Nothing was changed. Run onecard as that "
            "user, or choose another state directory."
        )
    return home.resolve()


@contextmanager
def state_dir_errors(state_dir: Path) -> Iterator[None]:
    """Turns an `OSError` over the files of a state directory into `StateDirUnwritable` or `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"The disk of {state_dir} is full. No database was started. Make room and start again."
            ) from error
        raise StateDirUnwritable(
            f"The state directory {state_dir} cannot be used: {error}. No database was made or started. "
            f"Give the path of a directory that this user may write."
        ) from error
