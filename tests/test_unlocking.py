"""A store under a passphrase, its anchor on another disk, as docs/keys.md founds it: the service and the counter open
it, and say in words what is missing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cardcore.errors import KeyUseError, SetupError
from clearing.service import daily_quotas
from clearing.settings import Settings
from keys.ceremony import required_roots, test_ceremony
from keys.store import open_store
from keys.unlocking import unlock
from onecard.counter import CounterFront
from tests.demo_side import onecard, refused

SECRET = "一卡通 onecard 西安"
PATIENCE_S = 30.0


@pytest.fixture
def opened_by(tmp_path: Path) -> Mapping[str, str]:
    """A store in `state`, and the environment that opens it."""
    anchor, file = tmp_path / "other-disk" / "anchor", tmp_path / "passphrase"
    anchor.parent.mkdir()
    (tmp_path / "state").mkdir()
    file.touch(0o600)
    file.write_text(SECRET + "\n", encoding="utf-8")
    draw = random.Random(1)
    with open_store(tmp_path / "state" / "keys", passphrase=SECRET, anchor=anchor) as store:
        test_ceremony(store, {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()})
    return {"ONECARD_ANCHOR": str(anchor), "ONECARD_PASSPHRASE_FILE": str(file)}


async def test_the_counter_opens_it(
    opened_by: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in opened_by.items():
        monkeypatch.setenv(name, value)
    async with CounterFront().personalisation(tmp_path / "state", alone=True) as (personaliser, _):
        assert personaliser.key_versions()
    monkeypatch.delenv("ONECARD_ANCHOR")
    with pytest.raises(KeyUseError, match="anchor"):
        async with CounterFront().personalisation(tmp_path / "state", alone=True):
            pass


def test_the_service_opens_it(opened_by: Mapping[str, str], database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onecard", "clearing", "serve", "--port", "0", "--dsn", database]
    log = tmp_path / "log"
    with log.open("wb") as told:
        service = subprocess.Popen(
            [*command, "--state", str(tmp_path / "state")], stderr=told, env={**os.environ, **opened_by}
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "listening" not in log.read_text() and service.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "listening" in log.read_text(), log.read_text()
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE_S) == 0


def test_nobody_to_ask(opened_by: Mapping[str, str], database: str, tmp_path: Path) -> None:
    """Said before anything starts, by every command that opens keys."""
    anchor = {"ONECARD_ANCHOR": opened_by["ONECARD_ANCHOR"]}
    for command in ("serve", "retake"):
        said = refused(onecard("clearing", command, "--dsn", database, "--state", tmp_path / "state", **anchor))
        assert "ONECARD_PASSPHRASE_FILE" in said and "nothing was opened" in said


def test_files_that_tell_nothing_or_too_much(opened_by: Mapping[str, str], tmp_path: Path) -> None:
    file, keys = Path(opened_by["ONECARD_PASSPHRASE_FILE"]), tmp_path / "state" / "keys"
    assert unlock(keys, file=file) == SECRET
    assert unlock(tmp_path / "none", file=file) is None
    file.chmod(0o640)
    with pytest.raises(SetupError, match="open to others"):
        unlock(keys, file=file)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(SetupError, match="is empty"):
        unlock(keys, file=file)
    file.unlink()
    with pytest.raises(SetupError, match="cannot be read"):
        unlock(keys, file=file)


def test_the_quota_is_set_where_the_service_runs(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("ONECARD_QUOTA_FEN", "12300")
    settings = Settings()
    quotas = daily_quotas(settings.quota_fen, settings.operator_quota_fen, settings.terminal_quota_fen)
    assert (quotas.total.fen, quotas.operator.fen) == (12_300, 2_500_000_000)
