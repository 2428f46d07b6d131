"""Strangers' programs at our card: OpenSC's tools and pcsc-tools walk it through pcscd, in both suites and protocols.

They know nothing of purses, so what they print is bytes; the expected ones are those that issuing was asked to write.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path

import pytest

from cardcore.card_files import CommonData, LogRecord
from cardcore.profile import load_profile
from cardcore.purse import Committed
from cardcore.record import Suite
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.direct import DirectChannel
from readers.pcsc.seek import list_readers
from simulators.card_line import Protocol
from simulators.card_os import SoftwareCard
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import ATRS, insert
from tests import counter_side, pcscd

PACKAGES = {"opensc-tool": "opensc", "opensc-explorer": "opensc", "pcsc_scan": "pcsc-tools"}
# Tools that wait for a card, or scan for ever, are ended after this time.
PATIENCE_S = 20.0
PURSE = load_profile("shared-purse").application(1)
TILL = purse.Till(900001, bytes.fromhex("00000000DBA1"), "301")
LOADED_FEN = 5000
ALLOWANCE_FEN = PURSE.purse.overdraft_fen if PURSE.purse else 0
SELECT_PURSE = "00A40400" + f"{len(PURSE.aid):02X}" + PURSE.aid.hex().upper()
BINARY = re.compile(r"^(?:\d{8}: )?((?:[0-9A-F]{2} )+)", re.MULTILINE)


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = pcscd.start(2)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with counter_side.make_store(tmp_path_factory.mktemp("opensc")) as store:
        yield store


def _called(pair: tuple[Suite, Protocol]) -> str:
    return f"{pair[0].name.lower()}-{pair[1]}"


@pytest.fixture(params=[(suite, protocol) for suite in Suite for protocol in ATRS], ids=_called)
async def card(
    request: pytest.FixtureRequest, daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path
) -> AsyncIterator[tuple[SoftwareCard, Protocol]]:
    """An issued card with money, in the first reader, seen by the daemon."""
    suite, protocol = request.param
    issued = await counter_side.issued(store, tmp_path, suite=suite)
    channel, authority = DirectChannel(issued), counter_side.authoriser(store)
    await channel.reset()
    load = await purse.load(channel, authority, TILL, 1, suite, LOADED_FEN, counter_side.PIN)
    assert isinstance(load.outcome, Committed)
    issued.power_off()
    link = await insert("127.0.0.1", daemon.ports[0], issued, protocol=protocol)
    await seen(daemon.readers[0])
    yield issued, protocol
    await pcscd.take(link, daemon.readers[0])


async def seen(reader: str) -> None:
    """Wait until the daemon knows the card's ATR."""
    async with asyncio.timeout(PATIENCE_S):
        while not any(view.name == reader and view.atr is not None for view in await list_readers()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"the program {name} is missing; Debian: apt install {PACKAGES[name]}")
    return found


async def told(name: str, *arguments: str, typed: str = "", until: str = "") -> str:
    """What a program prints: all of it, or what came until `until` was there (it is ended then)."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        program(name), *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(typed.encode())
    child.stdin.close()
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while part := await child.stdout.read(4096):
                said += part
                if until and until.encode() in said:
                    return said.decode(errors="replace")
            status = await child.wait()
    except TimeoutError:
        pytest.fail(f"{name} was still busy after {PATIENCE_S:.0f} s; it had said: {said.decode(errors='replace')}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert status == 0 and not until, f"{name} ended with status {status}; it said: {said.decode(errors='replace')}"
    return said.decode(errors="replace")


def octets(said: str) -> bytes:
    """The bytes of a dump."""
    return b"".join(bytes.fromhex(line) for line in BINARY.findall(said))


def answers(said: str) -> list[tuple[bytes, str]]:
    """Data and status word of each command that opensc-tool sent."""
    parts = re.split(r"Received \(SW1=0x(..), SW2=0x(..)\)", said.split("Sending:", 1)[1])
    bodies = [part.split("Sending:")[0] for part in parts[3::3]]
    return [(octets(body), one + two) for one, two, body in zip(parts[1::3], parts[2::3], bodies, strict=True)]


def check_common(said: bytes) -> None:
    """EF 0015 as it was ordered."""
    common = CommonData.decode(said)
    assert (common.issuer, common.card) == (counter_side.ISSUER, bytes.fromhex("03107910000000000001"))
    assert (common.starts, common.expires) == (date(2026, 3, 1), date(2036, 3, 1))


def check_log(said: bytes) -> None:
    """The newest record of EF 0018 is the load, at 01:00 UTC in local time; the oldest is issuing's own allowance."""
    log, first = LogRecord.decode(said[:23]), said[23:]
    assert not first or LogRecord.decode(first).transaction_type == 0x07
    assert (log.amount_fen, log.transaction_type, log.terminal_number) == (LOADED_FEN, 0x02, TILL.terminal_number)
    assert (log.date + log.time).hex() == "20260301090000"


async def test_opensc_tool(card: tuple[SoftwareCard, Protocol], daemon: PrivatePcscd) -> None:
    chip, protocol = card
    assert daemon.readers[0] in await told("opensc-tool", "--list-readers")
    atr = await told("opensc-tool", "--reader", "0", "--atr")
    assert bytes.fromhex(atr.strip().replace(":", "")) == ATRS[protocol]
    # A purse is no identity card: OpenSC has no driver of it, says so, and still speaks to it.
    assert (await told("opensc-tool", "--reader", "0", "--name")).strip() == "Unsupported card"
    commands = [SELECT_PURSE, "805C000204", "00B095001E", "00B201C417", "00B203C417", "00B0951F01", "00FF0000"]
    sent = [word for command in commands for word in ("--send-apdu", command)]
    got = answers(await told("opensc-tool", "--reader", "0", *sent))
    # The log has two records; nothing stands behind the end of EF 0015; there is no command FF.
    assert [status for _, status in got] == ["9000", "9000", "9000", "9000", "6A83", "6B00", "6D00"]
    assert int.from_bytes(got[1][0], "big") == LOADED_FEN + ALLOWANCE_FEN
    check_common(got[2][0])
    check_log(got[3][0])
    assert chip.purses()[1].balance_fen == LOADED_FEN, "looking changes nothing"


async def test_opensc_explorer(card: tuple[SoftwareCard, Protocol]) -> None:
    # `cat` reads records by a decimal SFI, 24 for the log. It reads a binary file only where SELECT describes it, which
    # cards of this family do for directories alone, so EF 0015 is read by a command of its own.
    lines = ["info", f"cd aid:{PURSE.aid.hex()}", "info", "ls", "cat sfi:24", "cat 0015", "apdu 00 B0 95 00 1E", "quit"]
    said = await told("opensc-explorer", "--reader", "0", typed="\n".join(lines) + "\n")
    root, _, inside, listing, log, unread, common, _ = re.split(r"OpenSC \[[0-9A-F/]+\]> ", said)[1:]
    assert "DF name:                 1PAY.SYS.DDF01" in root
    assert "Dedicated File" in inside and r"\xA0\x00\x00\x062\x01\x01\x05" in inside
    assert "9F 0C 1E" in inside, "the FCI carries EF 0015"
    assert "Not supported" in listing, "no card of this family lists its files"
    assert len(octets(log)) == 46, "the load, and the allowance that issuing gave"
    check_log(octets(log))
    assert "unable to select file: Unknown data received from card" in unread
    check_common(octets(common))


async def test_pcsc_scan(card: tuple[SoftwareCard, Protocol], daemon: PrivatePcscd) -> None:
    atr = " ".join(f"{octet:02X}" for octet in ATRS[card[1]])
    said = await told("pcsc_scan", "-n", until=atr)
    assert daemon.readers[0] in said and "Card inserted" in said


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_missing_program_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match=f"{name} is missing; Debian: apt install {package}"):
        program(name)
