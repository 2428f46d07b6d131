"""The service over keys in a token (a real SoftHSM2): it proves uploads, and says at once what the token cannot do."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from clearing.registry.document import parse_registry
from clearing.registry.take import take
from clearing.store.connect import connect_pool
from keys.engine.root import RootKey
from keys.pkcs11 import Missing
from keys.purposes import KeyId
from keys.store import open_store
from tests.intake_side import BUS, NOON, binary, debit, registry_document, roots, spoiled
from tests.softhsm import SoftHsm, softhsm

PATIENCE_S = 30.0


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftHsm]:
    with softhsm(tmp_path / "hsm") as made:
        path = tmp_path / "state" / "keys"
        path.parent.mkdir()
        with open_store(path, token=made.uri, missing=Missing.SEAL) as store:
            store.admit([RootKey(KeyId.parse(name), root, test=True) for name, root in roots().items()])
        yield made


async def _registered(dsn: str) -> None:
    pool = await connect_pool(dsn, size=1)
    async with pool.acquire() as connection, connection.transaction():
        await take(connection, parse_registry(json.dumps(registry_document())))
    await pool.close()


def _upload(url: str, body: bytes) -> dict[str, object]:
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)) as connection:
        headers = {"Content-Type": "application/vnd.onecard.batch"}
        connection.request("PUT", f"/v1/t/{BUS}/batches/1", body, headers)
        document: dict[str, object] = json.load(connection.getresponse())
    return document


def test_a_service_whose_keys_are_in_a_token(token: SoftHsm, database: str, tmp_path: Path) -> None:
    asyncio.run(_registered(database))
    clock, log = tmp_path / "clock", tmp_path / "log"
    clock.write_text(NOON.isoformat(), encoding="ascii")
    command = [sys.executable, "-m", "onecard", "clearing", "serve", "--port", "0", "--state", tmp_path / "state"]
    environment = os.environ | {"ONECARD_TOKEN": token.uri, "ONECARD_DSN": database}
    with log.open("wb") as told:
        service = subprocess.Popen([*map(str, command), "--clock", str(clock)], stderr=told, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "listening" not in log.read_text() and service.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        url = next(line["url"] for line in lines if line["event"] == "listening")
        limit = next(line["event"] for line in lines if line["level"] == "warning")
        assert limit.startswith("the token has no CKM_SM4_ECB")
        rides = [debit(1), debit(2, suite=4), spoiled(debit(3)), spoiled(debit(4, suite=4))]
        answer = _upload(url, binary(rides))
        assert answer["accepted"] == 2
        assert answer["quarantined"] == [{"seq": seq, "code": "bad-proof"} for seq in (3, 4)]
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE_S) == 0
