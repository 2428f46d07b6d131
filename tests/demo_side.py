"""A demo as its user runs it: a process, what it leaves behind, and the parts that it keeps running."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from clearing.store.launcher import launch
from clearing.store.postmaster import read_postmaster, serves

ONECARD = (sys.executable, "-m", "onecard")
PATIENCE_S = 120.0
NIGHT = "01:59:50+08:00"


def onecard(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command from start to end."""
    return subprocess.run(
        [*ONECARD, *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=_environment(environment),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that ended with status 2 said on its error output: one message, and no traceback."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


@dataclass(frozen=True, slots=True)
class Town:
    """What a demo is asked for."""

    cards: int
    debits: int
    seed: int


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that runs, or ran; its output and state directories lie in `place`."""

    place: Path
    process: subprocess.Popen[str]

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def state(self) -> Path:
        return self.place / "state"

    @property
    def index(self) -> Path:
        return self.out / "uploads" / "index.jsonl"

    @property
    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        return document

    def ended(self) -> tuple[int, str, str]:
        """Exit status, output and error output."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output, errors

    def uploads(self) -> list[dict[str, Any]]:
        """The answered requests and the closes of the index, in order."""
        text = self.index.read_text(encoding="utf-8") if self.index.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def answered(self) -> int:
        return sum("file" in line for line in self.uploads())

    def is_night(self, date: str) -> bool:
        """Whether the day's uploads of the night after `date` have begun, by the demo's clock."""
        clock = self.state / "clock"
        return clock.exists() and clock.read_text(encoding="ascii").strip() == f"{date}T{NIGHT}"

    def postmaster(self) -> int | None:
        data = self._data
        found = read_postmaster(data)
        return found.pid if found and found.ready and serves(found.pid, data) else None

    def service(self) -> int | None:
        """The process id of the service that runs on this state directory."""
        wanted = {b"serve", os.fsencode(self.state)}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if wanted <= set(words):
                    return int(entry.name)
        return None

    @property
    def _data(self) -> Path:
        return (self.state / "postgres" / "cluster").resolve() / "data"

    def end(self) -> None:
        """Leave nothing running, whatever the test did."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        if (service := self.service()) is not None:
            os.kill(service, signal.SIGKILL)
        if self.postmaster() is not None:
            launch(self.state).stop()


def _hear_interrupts() -> None:
    """Whoever runs the tests in the background of a shell ignores SIGINT, and so would their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def demo(place: Path, town: Town, *options: object, **environment: str) -> Iterator[Demo]:
    """A demo that was started; at the end of the `with` nothing of it runs."""
    figures = ("--cards", town.cards, "--debits", town.debits, "--seed", town.seed)
    where = ("--out", place / "out", "--state", place / "state")
    process = subprocess.Popen(
        [*ONECARD, "demo", *map(str, (*figures, *where, *options))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(environment),
        preexec_fn=_hear_interrupts,
    )  # fmt: skip
    started = Demo(place, process)
    try:
        yield started
    finally:
        started.end()


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A service in a process of its own, over the database `dsn`."""

    port: int
    dsn: str

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON document of the answer."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, json.loads(response.read())


@contextmanager
def service(state: Path, dsn: str, *options: object) -> Iterator[ServiceProcess]:
    """`onecard clearing serve` for the length of a `with`; its log is `state`/service.log."""
    command = ["clearing", "serve", "--state", state, "--dsn", dsn, "--port", 0, *options]
    log = state / "service.log"
    with log.open("wb") as file:
        process = subprocess.Popen([*ONECARD, *map(str, command)], stdout=file, stderr=file, env=_environment({}))
    try:
        until(lambda: process.poll() is not None or '"listening"' in log.read_text(encoding="utf-8"), "the service")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))
        assert found is not None, log.read_text(encoding="utf-8")
        yield ServiceProcess(int(found[1]), dsn)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def fetch(url: str) -> dict[str, Any]:
    """The JSON document at a loopback address."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http, as the demo says
        document: dict[str, Any] = json.load(answer)
        return document


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Look often; raises AssertionError when it does not become true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(0.005)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONECARD_")}
    return kept | {"NO_COLOR": "1"} | dict(more)
