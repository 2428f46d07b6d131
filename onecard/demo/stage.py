"""The parts on the stage: a state directory, a database, TEST keys, the service in its own process, one clock file."""

import asyncio
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from cardcore.errors import SetupError
from clearing.store.connect import connect_pool
from clearing.store.launcher import Server, launch
from clearing.store.migrate import migrate
from clearing.store.postmaster import serves
from clearing.store.types import Pool
from keys.ceremony import required_roots, test_ceremony
from keys.store import EmbeddedStore, open_store

SERVICE_PATIENCE_S = 30.0
WATCH_S = 0.5
LAST_WORDS = 800
POOL_SIZE = 4
GOODBYE_S = 5.0
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

# What a demo writes into --out (docs/demo.md).
OUTPUTS = frozenset({
    "registry.json", "truth.jsonl", "declared.jsonl", "test-components.json", "desk.jsonl", "cards.json", "books.jsonl",
    "cases.jsonl", "report.json", "statements", "uploads",
})  # fmt: skip

Components = Mapping[str, tuple[bytes, bytes]]


@dataclass(slots=True)
class Stage:
    """What a demo stands on. `pool` is the accountant's way to the books, `base_url` everybody else's way in."""

    state: Path
    out: Path
    server: Server | None
    dsn: str
    pool: Pool
    store: EmbeddedStore
    clock_file: Path
    service: asyncio.subprocess.Process | None = None
    port: int = 0
    base_url: str = ""

    def set_clock(self, instant: datetime) -> None:
        """Let the service's clock stand at `instant`."""
        fresh = self.clock_file.with_suffix(".next")
        fresh.write_text(instant.isoformat(), encoding="ascii")
        fresh.replace(self.clock_file)

    async def start_service(self) -> None:
        """Start the service on a free port of the loopback, or again on its own, and wait until it is ready.

        Raises SetupError with the service's last words."""
        self.port = self.port or _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        options = ("--state", str(self.state), "--port", str(self.port), "--clock", str(self.clock_file))
        with (self.state / "service.log").open("ab") as log:
            self.service = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "onecard", "clearing", "serve", *options),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=self._environment(),
            )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + SERVICE_PATIENCE_S
        while asyncio.get_running_loop().time() < deadline and self.service.returncode is None:
            if await asyncio.to_thread(_ready, self.base_url):
                return
            await asyncio.sleep(0.05)
        last_words = (self.state / "service.log").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:].strip()
        raise SetupError(f"the service did not become ready; its last words: {last_words}")

    def _environment(self) -> dict[str, str]:
        """Ours without the settings of another onecard; the DSN holds a password, which a command line would show."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONECARD_")}
        return inherited | {"ONECARD_DSN": self.dsn}

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Within it, the database or the service is started again whenever one of them dies.

        What was acknowledged survives such a death; who uploads sends again what was not. A start that fails, because
        the other part has just died, is tried again: the uploaders' patience is the limit."""
        over = asyncio.Event()
        watch = asyncio.create_task(self._watch(over))
        try:
            yield
        finally:
            # A start under way comes to its end, so that whoever closes this stage finds what was started.
            over.set()
            await watch

    async def _watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                if self.server is not None and not serves(self.server.pid, self.server.cluster.data):
                    self.server = await asyncio.to_thread(launch, self.state)
                    console.print("the database had died and was started again")
                if self.service is not None and self.service.returncode is not None:
                    await self.start_service()
                    console.print("the service had died and was started again")
            except SetupError as error:
                console.print(f"not started again yet: {error}")
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), WATCH_S)

    async def close(self, keep_running: bool) -> None:
        """End the service and the database of this stage, or leave them running."""
        self.store.close()
        await _close_pool(self.pool)
        if not keep_running:
            await self._stop_service()
            if self.server is not None:
                await asyncio.to_thread(self.server.stop)

    async def _stop_service(self) -> None:
        if self.service is None or self.service.returncode is not None:
            return
        self.service.terminate()
        try:
            await asyncio.wait_for(self.service.wait(), SERVICE_PATIENCE_S)
        except TimeoutError:
            self.service.kill()
            await self.service.wait()


async def set_up(state: Path, out: Path, dsn: str | None, seed: int, start: datetime) -> tuple[Stage, Components]:
    """State directory, database, migrations, TEST keys.

    Raises SetupError when any of them cannot be had; what was there is not touched, what was started is ended."""
    _must_be_ours(out)
    made = [path for directory in (out, state) for path in (directory, *directory.parents) if not path.exists()]
    try:
        return await _set_up(state, out, dsn, seed, start)
    except BaseException:
        # Whoever is refused finds no empty directory of ours; what holds anything stays.
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


async def _set_up(state: Path, out: Path, dsn: str | None, seed: int, start: datetime) -> tuple[Stage, Components]:
    for directory in (state, out):
        _make_directory(directory)
    # The driver tells at length of connections that died; `kept_up` tells it in a line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    server = None if dsn else await asyncio.to_thread(launch, state)
    try:
        reached = dsn or (server.dsn if server else "")
        pool = await connect_pool(reached, size=POOL_SIZE)
        try:
            await migrate(pool)
            await _must_hold_no_books(pool)
            store, components = open_store(state / "keys"), test_components(seed)
            test_ceremony(store, components)
        except BaseException:
            await _close_pool(pool)
            raise
    except BaseException:
        if server is not None and server.started:
            await asyncio.to_thread(server.stop)
        raise
    _clear(out)
    stage = Stage(state, out, server, reached, pool, store, state / "clock")
    stage.set_clock(start)
    return stage, components


async def _must_hold_no_books(pool: Pool) -> None:
    if await pool.fetchval("SELECT EXISTS (SELECT FROM party) OR EXISTS (SELECT FROM batch)"):
        raise SetupError(
            "the database holds books already, and a demo begins with none; nothing was changed. "
            "Name another --state directory or an empty --dsn database."
        )


async def _close_pool(pool: Pool) -> None:
    """A server that is gone does not say goodbye."""
    try:
        await asyncio.wait_for(pool.close(), GOODBYE_S)
    except Exception:
        pool.terminate()


def test_components(seed: int) -> Components:
    """Two components of every root key, drawn from the seed: TEST keys, which lie open in the demo's output."""
    rng = random.Random(f"{seed}/test components")
    return {name: (rng.randbytes(16), rng.randbytes(16)) for name in required_roots()}


def write_components(components: Components, path: Path) -> None:
    """test-components.json (docs/demo.md)."""
    document = {name: [part.hex() for part in parts] for name, parts in components.items()}
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"{path} cannot be made or used ({error.strerror}); nothing was changed, name another"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise SetupError(f"{path} is not writable for this user; nothing was changed, name another directory")


def _must_be_ours(out: Path) -> None:
    """New, empty, or the output of an earlier demo: evidence of two runs, or of other things, must not mix."""
    if out.exists() and not (out.is_dir() and all(path.name in OUTPUTS for path in out.iterdir())):
        raise SetupError(
            f"{out} holds something else than a demo's output; nothing was changed. "
            "Name another --out directory, or remove that one."
        )


def _clear(out: Path) -> None:
    """Take an earlier demo's output away."""
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _ready(base_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base_url}/healthz", timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
