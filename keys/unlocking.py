"""What opens a store for a service or a counter: a file that is theirs alone to read, or whoever sits there."""

import getpass
import stat
import sys
from pathlib import Path

from cardcore.errors import SetupError
from keys.store import secret_wanted


def unlock(path: Path, token: str | None = None, file: Path | None = None) -> str | None:
    """The passphrase or PIN to open the store in `path` with: what `file` holds, without a newline at its end, or else
    what is typed; None where the store wants none. Raises SetupError where nobody can be asked, and for a file that
    cannot be read, is empty, or is open to others."""
    wanted = secret_wanted(path, token)
    if wanted is None:
        return None
    if file is not None:
        return _read(file, wanted)
    if not sys.stdin.isatty():
        raise SetupError(
            f"{wanted} is wanted and nobody is there to type it; nothing was opened. Name a file of mode 0600 that "
            "holds it: ONECARD_PASSPHRASE_FILE"
        )
    return getpass.getpass(f"{wanted} (not shown): ")


def _read(file: Path, wanted: str) -> str:
    try:
        others = stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
        secret = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{wanted} cannot be read from {file}: {error}; nothing was opened") from error
    if others:
        raise SetupError(f"{file} is open to others; nothing was opened. Close it (chmod 600) and think of who saw it")
    if not secret:
        raise SetupError(f"{file} is empty; nothing was opened. It has to hold: {wanted}")
    return secret
