"""The service is killed in the middle of uploads: whatever was acknowledged is there, and nothing is there twice."""

import asyncio
import json
import os
import random
import re
import signal
import sys
from pathlib import Path

import aiohttp

from clearing.registry import parse_registry, take
from clearing.store.connect import connect_pool
from tests.intake_side import BUS, NOON, binary, debit, key_store, registry_document

SERVE = "import sys; from clearing.cli import app; app(sys.argv[1:])"
KILLS = 4
BATCHES = 30


async def _start(state: Path, dsn: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, "serve", "--state", str(state), "--dsn", dsn, "--port", "0",
        "--clock", str(state / "now"), stderr=asyncio.subprocess.PIPE, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return process, found[0]
    raise AssertionError("the service did not start")


async def test_kill_9_in_the_middle_of_uploads(database: str, tmp_path: Path) -> None:
    (tmp_path / "now").write_text(NOON.isoformat())
    key_store(tmp_path / "keys").close()
    pool = await connect_pool(database, size=1)
    async with pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(registry_document())))
    bodies = {n: binary([debit(10 * n + at) for at in range(10)]) for n in range(BATCHES)}
    chance = random.Random(3)
    acknowledged: dict[int, object] = {}

    async def send(http: aiohttp.ClientSession, url: str, n: int) -> None:
        headers = {"Content-Type": "application/vnd.onecard.batch"}
        async with http.put(f"{url}/v1/t/{BUS}/batches/{n}", data=bodies[n], headers=headers) as response:
            answer = await response.json()
            assert response.status == 200, answer
            assert acknowledged.setdefault(n, answer) == answer

    for _ in range(KILLS):
        process, url = await _start(tmp_path, database)
        async with aiohttp.ClientSession() as http:
            sending = [asyncio.create_task(send(http, url, n)) for n in chance.sample(sorted(bodies), 12)]
            await asyncio.sleep(chance.uniform(0.005, 0.06))
            process.kill()
            for outcome in await asyncio.gather(*sending, return_exceptions=True):
                assert outcome is None or isinstance(outcome, (aiohttp.ClientError, ConnectionError)), outcome
        await process.wait()
        stored = await pool.fetch("SELECT n FROM batch")
        assert set(acknowledged) <= {row["n"] for row in stored}

    process, url = await _start(tmp_path, database)
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(send(http, url, n) for n in bodies))
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert await pool.fetchval("SELECT count(*) FROM fact") == 10 * BATCHES
    assert await pool.fetchval("SELECT sum(amount_fen) FROM posting WHERE account = 'float:1'") == 2000 * BATCHES
    assert await pool.fetchval("SELECT sum(count) FROM posting WHERE account = 'float:1'") == 10 * BATCHES
    assert await pool.fetchval("SELECT seen::text FROM terminal_range") == "{[0,300)}"
    await pool.close()
