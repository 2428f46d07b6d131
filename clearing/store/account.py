"""As whom the server runs: PostgreSQL refuses to run as root."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clearing.store.binaries import Binaries
from clearing.store.errors import AccountUnusable

SYSTEM_USERS = ("postgres", "nobody")
# Nothing of the caller's environment (PGDATA, PGPORT, LD_PRELOAD, a locale) reaches the server.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """A prefix of the command line, and a uid and gid to change to (None: stay who we are)."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def owner(self) -> int:
        """The uid that owns the server's files, seen from here."""
        return os.geteuid() if self.uid is None else self.uid

    def run(self, command: Sequence[str], *, say: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with `say` on its standard input."""
        return subprocess.run(
            [*self.prefix, *command],
            input=say,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
        )

    def start(self, command: Sequence[str], log: Path) -> int:
        """Start a command that outlives us, in a session of its own, output to `log`; its process id.

        A shell stands between, so that the command is nobody's child here: it never becomes a zombie of a service that
        lives on.
        """
        with log.open("wb") as output:
            log.chmod(0o600)
            shell = subprocess.run(
                [*self.prefix, "/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                check=True,
                cwd="/",
                env=ENVIRONMENT,
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                start_new_session=True,
            )
        return int(shell.stdout)


def namespace_account(binaries: Binaries, home: Path, names: Sequence[str] = SYSTEM_USERS) -> Account | None:
    """Root in a user namespace, where it is the first of `names` that this machine has; outside, every file stays
    root's. None where that is refused, or where root without privileges cannot work in `home`."""
    user = _first_user(names)
    if user is None:
        return None
    # PostgreSQL asks for the name of whom it runs as, so it must be a user that is known here.
    account = Account(("unshare", "--user", f"--map-user={user.pw_uid}", "--"))
    probe = [
        "/bin/sh",
        "-c",
        'test -w "$1" && test -x "$1" && exec "$2" --version',
        "sh",
        str(home),
        binaries.program("postgres"),
    ]
    try:
        return account if account.run(probe).returncode == 0 else None
    except FileNotFoundError:
        return None


def system_account(names: Sequence[str] = SYSTEM_USERS) -> Account:
    """The first system user of `names` that this machine has. Raises `AccountUnusable`."""
    user = _first_user(names)
    if user is not None:
        return Account(uid=user.pw_uid, gid=user.pw_gid)
    raise AccountUnusable(
        "PostgreSQL does not run as root; user namespaces are refused here, and none of the users "
        f"{', '.join(names)} exists. Nothing was changed. Run onecard as an ordinary user, allow user namespaces, or "
        "give the DSN of a PostgreSQL server."
    )


def _first_user(names: Sequence[str]) -> pwd.struct_passwd | None:
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
