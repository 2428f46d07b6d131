"""The one command: it ends quietly where nobody reads on, hides no fault of its own, and its doctor tells the truth."""

import io
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from cardcore.errors import KeyUseError, RefusedError, SetupError
from cardcore.record import Suite
from keys.store import open_store
from onecard import cli, doctor
from onecard.counter import CounterFront
from onecard.doctor import Finding
from readers.pcsc import scard
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench
from tests.counter_side import blank, make_store, order
from tests.test_personalise_enciphered import job as enciphered_job
from tests.test_personalise_enciphered import secret

ONECARD = (sys.executable, "-m", "onecard")


def piped(tokens: str, reader: str = "head -n 1", redirect: str = "") -> tuple[list[int], str, str]:
    """Exit status of the command and of its reader, what the reader saw, and what went to stderr."""
    line = f'"$0" -m onecard {tokens} {redirect} | {reader}; echo "${{PIPESTATUS[@]}}" >&3'
    read_end, write_end = os.pipe()
    try:
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&{write_end}; {line}", sys.executable],
            capture_output=True, text=True, pass_fds=(write_end,), check=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write_end)
    with os.fdopen(read_end) as told:
        return [int(status) for status in told.read().split()], done.stdout, done.stderr


@pytest.mark.parametrize("tokens", ["sim plan --cards 60 --debits 300", "keys --help", "--help"])
def test_a_reader_that_has_seen_enough(tokens: str) -> None:
    """Written line by line, or all at once by another library: no trace, and no complaint when Python ends."""
    for reader in ("head -n 1", "true"):
        (status, _), _, told = piped(tokens, reader)
        assert status in (0, 1, 141) and told == ""


def test_the_status_of_a_command_that_nobody_read() -> None:
    """The reader is gone before Python has started, so that it is no matter of luck who is faster."""
    (status, reader), _, told = piped("sim plan --cards 60 --debits 300", "true")
    assert (status, reader, told) == (141, 0, "")
    (status, _), _, told = piped("sim plan --cards 60 --debits 300", "true", "2>&1")
    assert (status, told) == (141, ""), "also where both outputs go the same way"


def test_what_an_audit_says_may_be_cut_short(tmp_path: Path) -> None:
    (status, _), _, told = piped(f"sim audit '{tmp_path}'", "true")
    assert status == 141 and told == ""


def test_a_whole_reading_keeps_its_status(tmp_path: Path) -> None:
    (status, _), shown, told = piped(f"sim audit '{tmp_path / 'absent'}'", "cat")
    assert status == 1 and "is no directory" in shown and told == ""
    done = subprocess.run([*ONECARD, "sim", "plan", "--cards", "60", "--debits", "300"], check=False, timeout=60)
    assert done.returncode == 0


def test_an_output_that_was_never_there() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m onecard sim plan --cards 60 --debits 300 >&-', sys.executable],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_of_ours_that_breaks_is_no_reader_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket to the database breaks with the same error: it must be seen."""

    def broken() -> None:
        raise BrokenPipeError(32, "the database has gone")

    monkeypatch.setattr(cli, "app", broken)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a stream with a descriptor, as a terminal is one
        monkeypatch.setattr(sys, "stdout", nowhere)
        monkeypatch.setattr(sys, "stderr", nowhere)
        with pytest.raises(BrokenPipeError, match="the database"):
            cli.main()


def test_an_error_for_people_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        raise SetupError("there is no key store in [here]; name the state directory")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "SetupError: there is no key store in [here]" in capsys.readouterr().err


async def test_the_counter_gets_both_hands_of_the_store(tmp_path: Path) -> None:
    """Who writes keys, and who protects files: a profile with enciphered files is issued by the command too."""
    front = CounterFront()
    with pytest.raises(SetupError, match="no key store"):
        async with front.personalisation(tmp_path, alone=True):
            pass
    make_store(tmp_path).close()
    card = blank(Suite.SM4)
    async with front.personalisation(tmp_path, alone=True) as (authority, upkeep):
        journal = Journal(tmp_path / "readers.sqlite")
        bench = Bench(authority, journal, "wang", front.now, upkeep)
        assert await bench.personalise(enciphered_job(DirectChannel(card), Suite.SM4, secret())) is None
        journal.close()
    assert card.serial == order(1, Suite.SM4).card


async def test_cards_of_production_are_registered_first(tmp_path: Path) -> None:
    """Only the desk knows whether the licence covers what the card pays for (rule 7)."""
    front = CounterFront()
    open_store(tmp_path / "keys", production=True).close()
    with pytest.raises(RefusedError, match="name the desk"):
        async with front.personalisation(tmp_path, alone=True):
            pass
    with pytest.raises(KeyUseError, match="hold the ceremony first"):
        async with front.personalisation(tmp_path, alone=False):
            pass


# --- the doctor --------------------------------------------------------------------------------------------------


def found(check: str) -> list[Finding]:
    return list(getattr(doctor, check)())


def only(check: str) -> Finding:
    [finding] = found(check)
    return finding


def test_every_illness_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever machine this runs: what is not well says what to do, what is well asks for nothing."""
    for finding in (finding for check in doctor.CHECKS for finding in check()):
        assert finding.found and bool(finding.remedy) is not finding.well, finding
    told: list[Finding] = []
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(told),))
    for well, status in ((True, 0), (False, 1)):
        told.append(Finding("reader", "counter", well, "[bold]Reader [CCID] 00", "" if well else "plug it in"))
        assert doctor.command() == status


def test_a_name_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("r", "c", True, "[CCID Interface] 00")]),))
    assert doctor.command() == 0
    assert "[CCID Interface] 00" in capsys.readouterr().out


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("_python").well
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert not only("_python").well


@pytest.mark.parametrize(
    ("encoding", "well"), [("utf-8", True), ("gb18030", True), ("latin-1", False), ("ascii", False)]
)
def test_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str, well: bool) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert only("_terminal").well is well


def test_sm3(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("_sm3").well
    monkeypatch.setattr(doctor.hashlib, "algorithms_available", {"sha256"})
    assert "OpenSSL" in only("_sm3").remedy


def test_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("_postgresql").well

    def absent() -> None:
        raise SetupError("The package is not installed. Install the requirements again.")

    monkeypatch.setattr(doctor, "embedded_binaries", absent)
    finding = only("_postgresql")
    assert not finding.well and "Install the requirements" in finding.remedy


def test_postgresql_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root needs a namespace or a user of the system, and an ordinary user nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert only("_postgresql").found.endswith("as this user")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "namespace_account", lambda *_: None)
    monkeypatch.setattr(doctor, "system_account", lambda: SimpleNamespace(uid=65534))
    assert "uid 65534" in only("_postgresql").found

    def nobody() -> None:
        raise SetupError("none of the users exists; run onecard as an ordinary user")

    monkeypatch.setattr(doctor, "system_account", nobody)
    assert "ordinary user" in only("_postgresql").remedy


def test_memory_counts_what_the_system_gives_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose memory is full of caches is well."""
    told = tmp_path / "meminfo"
    monkeypatch.setattr(doctor, "MEMORY", told)
    told.write_text("MemTotal: 8000000 kB\nMemFree: 100000 kB\nMemAvailable: 4194304 kB\n")
    assert only("_memory") == Finding("memory", "demo", True, "4096 MiB available")
    told.write_text("MemFree: 9000000 kB\nMemAvailable: 900000 kB\n")
    assert not only("_memory").well
    told.unlink()
    assert "MiB available" in only("_memory").found


def test_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("_state").well
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(0, 0, 5 * 2**20))
    assert "5 MiB left" in only("_state").found and not only("_state").well
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "--state" in only("_state").remedy


def test_a_driver_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "READER_FILES", tmp_path)
    here = tmp_path / "driver.so"
    here.write_bytes(b"")
    (tmp_path / "good").write_text(f'FRIENDLYNAME "Virtual PCD"\nLIBPATH      {here}\n')
    (tmp_path / "commented").write_text("#LIBPATH /usr/lib/absent.so\n")
    assert list(doctor._leftovers()) == []
    (tmp_path / "left").write_text('FRIENDLYNAME "Old"\n  LIBPATH "/usr/lib/absent.so"\nCHANNELID 1\n')
    [finding] = doctor._leftovers()
    assert finding.found == f"{tmp_path / 'left'} names /usr/lib/absent.so, which is gone" and not finding.well
    monkeypatch.setattr(doctor, "READER_FILES", tmp_path / "absent")
    assert list(doctor._leftovers()) == []


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, tuple[int, bytes]]:
    """A PC/SC service with these readers: state and ATR by name."""
    readers: dict[str, tuple[int, bytes]] = {}
    monkeypatch.setattr(doctor, "READER_FILES", tmp_path)
    monkeypatch.setattr(scard, "load", lambda: None)
    monkeypatch.setattr(scard, "establish", lambda: 1)
    monkeypatch.setattr(scard, "release", lambda _: None)
    monkeypatch.setattr(scard, "list_readers", lambda _: list(readers))
    monkeypatch.setattr(scard, "status_change", lambda *_: [(name, *seen) for name, seen in readers.items()])
    return readers


def test_readers(service: dict[str, tuple[int, bytes]]) -> None:
    [_, answers, none] = found("_readers")
    assert answers.well and not none.well and "plug" in none.remedy
    service |= {
        "empty": (0x0010, b""),
        "full": (scard.PRESENT | 3 << 16, b"\x3b\x00"),
        "held": (scard.PRESENT | scard.EXCLUSIVE, b"\x3b\x00"),
        "mute": (scard.PRESENT | scard.MUTE_CARD, b""),
    }
    told = {finding.found: finding.well for finding in found("_readers")[2:]}
    assert told == {
        "empty: no card": True,
        "full: a card": True,
        "held: its card is held by another program": False,
        "mute: what lies on it does not answer": False,
    }


def test_no_service(service: dict[str, tuple[int, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not installed, installed and stopped, refused by polkit, and gone while it was asked: a sentence for each."""

    def refused(code: int) -> None:
        def establish() -> int:
            raise scard.PcscError(code, "asking the PC/SC service for a context")

        monkeypatch.setattr(scard, "establish", establish)

    refused(0x8010001D)
    monkeypatch.setattr(doctor, "DAEMON_PATH", str(tmp_path))
    assert found("_readers")[-1].remedy == "Debian: apt install pcscd libccid"
    daemon = tmp_path / "pcscd"
    daemon.write_text("#!/bin/sh\n")
    daemon.chmod(0o755)
    assert "start pcscd" in found("_readers")[-1].remedy
    refused(0x8010006A)
    assert "polkit" in found("_readers")[-1].remedy
    monkeypatch.setattr(scard, "establish", lambda: 1)

    def gone(_: int) -> list[str]:
        raise scard.PcscError(0x8010001E, "listing the readers")

    monkeypatch.setattr(scard, "list_readers", gone)
    assert "does not answer" in found("_readers")[-1].found


def test_the_daemon_is_found_where_an_ordinary_user_does_not_look() -> None:
    assert "/usr/sbin" in doctor.DAEMON_PATH.split(":")


def test_no_pyscard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is said about a service that cannot be asked."""

    def absent() -> None:
        raise SetupError("card readers need the library pyscard. Install the extra onecard[pcsc].")

    monkeypatch.setattr(doctor, "READER_FILES", tmp_path)
    monkeypatch.setattr(scard, "load", absent)
    [finding] = found("_readers")
    assert finding.thing == "pyscard" and "onecard[pcsc]" in finding.remedy
