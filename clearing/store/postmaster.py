"""The server's main process, as its file `postmaster.pid` and the process table show it."""

import os
from dataclasses import dataclass
from pathlib import Path

PID_FILE = "postmaster.pid"


@dataclass(frozen=True, slots=True)
class Postmaster:
    """Lines 1, 5 and 8 of `postmaster.pid`; `ready` when the server takes connections."""

    pid: int
    socket_dir: Path
    ready: bool


def read_postmaster(data: Path) -> Postmaster | None:
    """What the pid file of a data directory says, or None when it is missing or still being written."""
    try:
        lines = (data / PID_FILE).read_text().splitlines()
        return Postmaster(abs(int(lines[0])), Path(lines[4]), lines[7].strip() == "ready")
    except (OSError, ValueError, IndexError):
        return None


def serves(pid: int, data: Path) -> bool:
    """Whether `pid` lives and is the postmaster of `data`: not a zombie, not a stranger to whom the number went."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self/cmdline").exists()  # without /proc the signal's word has to do
    return os.fsencode(data) in command.split(b"\0")
