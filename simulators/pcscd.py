"""A private PC/SC daemon with virtual readers: pcscd on a socket of its own, with the vpcd driver.

Several run side by side, as any user. The daemon gets its bound socket by the systemd activation protocol; clients find
it by the environment variable PCSCLITE_CSOCK_NAME, which their library reads at its first call and never again.
The readers listen on every address without any authentication: for test machines only.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SOCKET_VARIABLE = "PCSCLITE_CSOCK_NAME"
SLOTS = 2
MOST_READERS = 16
_DRIVERS = ("/usr/lib/pcsc/drivers/serial/libifdvpcd.so", "/usr/local/lib/pcsc/drivers/serial/libifdvpcd.so")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_LISTENING = "0A"
# The activation protocol wants the socket as descriptor 3 and the daemon's own process id, which only a process that
# becomes the daemon knows.
_BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
_START_S = 10.0


class PcscdMissing(RuntimeError):
    """The daemon or its driver is not installed, or did not come up; the message says which and what to do."""


class PrivatePcscd:
    """A daemon with `count` readers; `readers[i]` listens for its card at loopback port `ports[i]`.

    Use it as a context manager, or `start` and `stop` it; `socket` stays the same over restarts. Raises PcscdMissing.
    """

    def __init__(self, count: int = SLOTS, folder: Path | None = None) -> None:
        if not 1 <= count <= MOST_READERS:
            raise ValueError(f"pcscd has 1 to {MOST_READERS} readers, not {count}")
        self._driver, self._program = _driver(), _program()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pcscd-"))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = self.folder / "comm"
        self._daemon: subprocess.Popen[bytes] | None = None
        pairs = (count + SLOTS - 1) // SLOTS
        base = _free_ports(pairs * SLOTS)
        self.ports = [base + place for place in range(count)]
        self.readers = [f"onecard{place // SLOTS} 00 {place % SLOTS:02}" for place in range(count)]
        self._listening = frozenset(range(base, base + pairs * SLOTS))
        shutil.rmtree(self._config, ignore_errors=True)
        for pair in range(pairs):
            self._configure(pair, base + SLOTS * pair)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the daemon and wait until its readers listen. It does not change this process's environment."""
        self.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as door, (self.folder / "log").open("ab") as log:
            door.bind(str(self.socket))
            door.listen(64)
            command = [sys.executable, "-c", _BECOME, str(door.fileno()), self._program, "-f", "-c", str(self._config)]
            self._daemon = subprocess.Popen(command, pass_fds=(door.fileno(),), stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._listening <= _listening_ports():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PcscdMissing(f"pcscd did not bring up its readers: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon, by SIGKILL if asked so, and wait for it. Safe to call twice."""
        if self._daemon is not None:
            self._daemon.send_signal(how)
            self._daemon.wait()
            self._daemon = None

    @property
    def _config(self) -> Path:
        return self.folder / "readers"

    def _configure(self, pair: int, port: int) -> None:
        # Two entries of one driver file would share its variables, so each pair of readers has a copy.
        driver = self.folder / f"libifdvpcd{pair}.so"
        shutil.copy(self._driver, driver)
        self._config.mkdir(exist_ok=True)
        (self._config / f"reader{pair}").write_text(
            f'FRIENDLYNAME "onecard{pair}"\nDEVICENAME /dev/null:{port}\nLIBPATH {driver}\nCHANNELID {port}\n'
        )


def _driver() -> Path:
    for name in _DRIVERS:
        if Path(name).exists():
            return Path(name).resolve()
    raise PcscdMissing("the driver of virtual readers is missing; Debian: apt install vsmartcard-vpcd")


def _program() -> str:
    found = shutil.which("pcscd", path=_PATH)
    if found is None:
        raise PcscdMissing("the PC/SC daemon pcscd is missing; Debian: apt install pcscd")
    return found


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row, starting at a place that differs by process."""
    for attempt in range(200):
        base = 10_000 + (os.getpid() * 32 + attempt * 37) % 20_000
        if not _listening_ports() & set(range(base, base + count)) and all(map(_can_bind, range(base, base + count))):
            return base
    raise PcscdMissing("there are no free ports for virtual readers")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _listening_ports() -> set[int]:
    """TCP ports that somebody listens at. Connecting to see would put a card into the reader."""
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == _LISTENING:
            ports.add(int(local.rpartition(":")[2], 16))
    return ports
