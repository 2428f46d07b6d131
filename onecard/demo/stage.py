"""The parts on the stage: a state directory, a database, TEST keys, the service in its own process, one clock file."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cardcore.errors import SetupError
from clearing.store.connect import connect_pool
from clearing.store.launcher import Server, launch
from clearing.store.migrate import migrate
from clearing.store.types import Pool
from keys.ceremony import required_roots, test_ceremony
from keys.store import EmbeddedStore, open_store

SERVICE_PATIENCE_S = 30.0
WATCH_S = 0.5
LAST_WORDS = 800
POOL_SIZE = 4

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
        where = ("--state", str(self.state), *(("--dsn", self.dsn) if self.server is None else ()))
        how = ("--port", str(self.port), "--clock", str(self.clock_file))
        with (self.state / "service.log").open("ab") as log:
            self.service = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "onecard", "clearing", "serve", *where, *how),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + SERVICE_PATIENCE_S
        while asyncio.get_running_loop().time() < deadline and self.service.returncode is None:
            if await asyncio.to_thread(_ready, self.base_url):
                return
            await asyncio.sleep(0.05)
        last_words = (self.state / "service.log").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:].strip()
        raise SetupError(f"the service did not become ready; its last words: {last_words}")

    async def keep_up(self) -> None:
        """Start the database or the service again whenever one of them dies; cancelled, both are left as they are.

        What was acknowledged survives such a death; who uploads sends again what was not."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self.server is not None:
                self.server = await asyncio.to_thread(launch, self.state)
            if self.service is not None and self.service.returncode is not None:
                await self.start_service()

    async def close(self, keep_running: bool) -> None:
        """End the service and the database of this stage, or leave them running."""
        await self.pool.close()
        self.store.close()
        if keep_running:
            return
        if self.service is not None and self.service.returncode is None:
            self.service.terminate()
            await asyncio.wait_for(self.service.wait(), SERVICE_PATIENCE_S)
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)


async def set_up(state: Path, out: Path, dsn: str | None, seed: int, start: datetime) -> tuple[Stage, Components]:
    """State directory, database, migrations, TEST keys.

    Raises SetupError when any of them cannot be had; what was there is not touched."""
    _make_directory(state)
    _make_directory(out)
    server = None if dsn else await asyncio.to_thread(launch, state)
    reached = dsn or (server.dsn if server else "")
    pool = await connect_pool(reached, size=POOL_SIZE)
    await migrate(pool)
    if await pool.fetchval("SELECT EXISTS (SELECT FROM party) OR EXISTS (SELECT FROM batch)"):
        await pool.close()
        raise SetupError(
            "the database holds books already, and a demo begins with none; nothing was changed. "
            "Name another --state directory or an empty --dsn database."
        )
    clock_file = state / "clock"
    store = open_store(state / "keys")
    components = test_components(seed)
    test_ceremony(store, components)
    stage = Stage(state, out, server, reached, pool, store, clock_file)
    stage.set_clock(start)
    return stage, components


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


def _ready(base_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base_url}/healthz", timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
