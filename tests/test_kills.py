"""Service, database and demo are killed in the middle of uploads: nothing that was acknowledged is lost or doubled."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from clearing.service.logging import FIELDS
from clearing.store.launcher import launch
from tests.demo_side import PATIENCE_S, Demo, Town, demo, onecard, refused, until

CITY = Town(cards=100, debits=3000, seed=21)
SMALL = Town(cards=60, debits=1000, seed=21)
SOME = 20
DATES = ("2026-03-03", "2026-03-04")  # the mornings after
# When which part is killed, by the share of the night's uploads that were answered. The lock on which a close waits
# is taken while the service is still coming back: on a slow day the rest of the night would be over before we look.
KILLS: dict[str, list[tuple[float, str]]] = {
    DATES[0]: [
        (0.05, "service"),
        (0.2, "postmaster"),
        (0.4, "service"),
        (0.6, "rows"),
        (0.75, "service"),
        (0.75, "close"),
    ],
    DATES[1]: [(0.1, "postmaster"), (0.4, "service"), (0.7, "both"), (0.7, "close")],
}
NIGHT_UTC = "T17:59:50+00:00"
RECORD_BYTES, TAC, SEAL = 128, slice(46, 50), slice(120, 128)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("undisturbed"), CITY) as played:
        status, _, errors = played.ended()
        assert status == 0, errors
        yield played


@pytest.fixture(scope="module")
def disturbed(undisturbed: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, int, str]]:
    """A demo of the same seed whose parts are killed, with its exit status and error output."""
    nights = dict(zip(DATES, _nights(undisturbed), strict=True))
    with demo(tmp_path_factory.mktemp("disturbed"), CITY) as suffering:
        for date, kills in KILLS.items():
            first, last = nights[date]
            for share, victim in kills:
                _reach(suffering, date, first + int(share * (last - first)))
                _strike(suffering, victim)
        status, _, errors = suffering.ended()
        yield suffering, status, errors


def _nights(played: Demo) -> list[tuple[int, int]]:
    """For each date how many uploads were answered when its night began, and when it was closed."""
    nights, answered, before = [], 0, 0
    for line in played.uploads():
        if "close" in line:
            nights.append((before, answered))
        else:
            answered += 1
            before = before if line["at"].endswith(NIGHT_UTC) else answered
    return nights


def _reach(running: Demo, date: str, answered: int) -> None:
    def there() -> bool:
        assert running.process.poll() is None, running.ended()
        return running.is_night(date) and running.answered() >= answered

    until(there, f"{answered} answers in the night to {date}")


def _answers_of_the_first_night(running: Demo) -> int:
    return sum(line["at"].endswith(f"02{NIGHT_UTC}") for line in running.uploads())


def _strike(running: Demo, victim: str) -> None:
    find: dict[str, Callable[[], int | None]] = {"service": running.service, "postmaster": running.postmaster}
    if victim in STRIKES:
        asyncio.run(STRIKES[victim](running))
        return
    for part in find if victim == "both" else (victim,):
        until(find[part], f"a {part} to kill")
        process = find[part]()
        assert process is not None
        os.kill(process, signal.SIGKILL)


async def _refuse_rows(running: Demo) -> None:
    """For a while the database refuses every fact, and quotes it in its message: an error that nobody foresaw."""
    connection = await asyncpg.connect(launch(running.state).dsn)
    await connection.execute("ALTER TABLE fact ADD CONSTRAINT never CHECK (amount_fen < 0) NOT VALID")
    await asyncio.sleep(0.5)
    await connection.execute("ALTER TABLE fact DROP CONSTRAINT never")
    await connection.close()


async def _die_in_the_close(running: Demo) -> None:
    """The close waits for a lock of ours, with most of its work done, when its database dies."""
    until(running.postmaster, "a database to close in")
    connection = await asyncpg.connect(launch(running.state).dsn)
    lock = connection.transaction()
    await lock.start()
    await connection.execute("LOCK TABLE net_position IN SHARE MODE")
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'net_position'::regclass)"
    async with asyncio.timeout(PATIENCE_S):
        while not await connection.fetchval(waiting):  # noqa: ASYNC110 - another process waits, no event tells of it
            await asyncio.sleep(0.01)
    postmaster = running.postmaster()
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    connection.terminate()


STRIKES = {"rows": _refuse_rows, "close": _die_in_the_close}


def test_the_books_are_those_of_an_undisturbed_run(undisturbed: Demo, disturbed: tuple[Demo, int, str]) -> None:
    suffered, status, errors = disturbed
    assert status == 0, errors
    assert "Traceback" not in errors
    died = [victim for kills in KILLS.values() for _, victim in kills]
    databases = sum(died.count(victim) for victim in ("postmaster", "both", "close"))
    assert errors.count("the database had died and was started again") == databases
    assert errors.count("the service had died and was started again") >= died.count("service") + died.count("both")
    report, expected = suffered.report, undisturbed.report
    for name in ("books_digest", "substance_digest", "truth_digest", "sectors", "cases", "invariants"):
        assert report[name] == expected[name], name
    assert report["auditor_t"]["differences"] == report["auditor_e"]["differences"] == 0
    assert suffered.answered() == undisturbed.answered()


def test_a_disturbed_run_is_proved_again(disturbed: tuple[Demo, int, str]) -> None:
    suffered, _, _ = disturbed
    assert onecard("sim", "audit", suffered.out).returncode == 0
    assert onecard("clearing", "verify", "--state", suffered.state).returncode == 0


def test_the_log_tells_what_happened_and_no_secret(disturbed: tuple[Demo, int, str]) -> None:
    suffered, _, _ = disturbed
    text = (suffered.state / "service.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"listening", "database unavailable", "batch not stored"} <= {line["event"] for line in lines}
    assert all(set(line) <= set(FIELDS) for line in lines)
    refusals = [line for line in lines if line["event"] == "batch not stored"]
    assert "asyncpg.exceptions.CheckViolationError" in {line["error"] for line in refusals}
    assert all(any(place.startswith("clearing.store") for place in line["where"]) for line in refusals)
    secrets = _secrets(suffered)
    assert len(secrets) > 3000
    spelled = text.lower()
    for secret in secrets:
        assert secret.hex() not in spelled
        assert repr(secret)[2:-1].lower() not in spelled


def _secrets(played: Demo) -> set[bytes]:
    """Every cryptogram and seal that went up, and every MAC of the desk."""
    found = set()
    for line in played.uploads():
        body = (played.out / "uploads" / line["file"]).read_bytes() if "file" in line else b""
        if body[:4] == b"OCB1":
            records = [body[at : at + RECORD_BYTES] for at in range(32, len(body) - RECORD_BYTES + 1, RECORD_BYTES)]
            found |= {record[part] for record in records for part in (TAC, SEAL)}
    for text in (played.out / "desk.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        for document in (line["request"], line["answer"]):
            found |= {bytes.fromhex(document[name]) for name in ("mac1", "mac2", "challenge") if name in document}
    return {secret for secret in found if any(secret)}


def test_a_killed_demo_leaves_books_that_can_be_inspected(tmp_path: Path) -> None:
    with demo(tmp_path, SMALL) as killed:
        until(lambda: _answers_of_the_first_night(killed) >= SOME, "the first uploads")
        killed.process.kill()
        assert killed.process.wait(10) == -signal.SIGKILL
        acknowledged = {(line["terminal"], line["n"]) for line in killed.uploads() if line["status"] == 200}
        postmaster = killed.postmaster()
        assert postmaster is not None
        os.kill(postmaster, signal.SIGKILL)
        done = onecard("clearing", "verify", "--state", killed.state)
        assert done.returncode == 0, done
        assert acknowledged <= asyncio.run(_stored(killed.state))
        said = refused(onecard("demo", "--state", killed.state, "--out", tmp_path / "new"))
        assert "holds books already" in said
        assert "--state" in said
        done = onecard("clearing", "close", "--date", "2026-03-02", "--state", killed.state)
        assert done.returncode == 0, done
        assert onecard("clearing", "verify", "--state", killed.state).returncode == 0


async def _stored(state: Path) -> set[tuple[int, int]]:
    connection = await asyncpg.connect(launch(state).dsn)
    try:
        return {(row["terminal"], row["n"]) for row in await connection.fetch("SELECT terminal, n FROM batch")}
    finally:
        await connection.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_what_it_started(tmp_path: Path, how: signal.Signals) -> None:
    with demo(tmp_path, SMALL) as interrupted:
        until(lambda: _answers_of_the_first_night(interrupted) >= SOME, "the first uploads")
        began = time.monotonic()
        interrupted.process.send_signal(how)
        status, _, errors = interrupted.ended()
        assert status == 130
        assert "Traceback" not in errors
        assert time.monotonic() - began < 30
        assert interrupted.service() is None
        assert interrupted.postmaster() is None
        assert onecard("clearing", "verify", "--state", interrupted.state).returncode == 0
