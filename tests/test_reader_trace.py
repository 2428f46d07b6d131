"""The APDU trace: it shows what it may, and nothing of what went over the line (issuing, load and debit)."""

import base64
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.apdu import CommandApdu
from cardcore.card_map import APPLICATIONS, KeyType, key_id
from cardcore.commands import Select
from cardcore.errors import SetupError
from cardcore.purse import Committed
from cardcore.record import Sector, Suite
from cardcore.script import PsamOrder, psam_steps
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.debit import Purchase, debit
from readers.pcsc.direct import DirectChannel, InProcessCard
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.trace import COMMANDS, Exchange, Trace, line
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, PIN, authoriser, blank, job, make_store, order

TILL = purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")
TERMINAL_NUMBER = bytes.fromhex("791001000001")


@dataclass
class Overheard:
    """A card; everything that was sent to it and answered is kept, as somebody on the line would."""

    card: InProcessCard
    said: list[bytes] = field(default_factory=list)

    def power_on(self) -> bytes:
        return self.card.power_on()

    def transmit(self, apdu: bytes) -> bytes:
        answer = self.card.transmit(apdu)
        self.said += [CommandApdu.decode(apdu).data, answer[:-2]]
        return answer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


@dataclass(frozen=True)
class Day:
    """What was written, and all data that went over the line."""

    text: str
    said: tuple[bytes, ...]

    @property
    def rows(self) -> str:
        """Without the heading, whose date is also the cards'."""
        return self.text.partition("\n")[2]


async def _day(store: EmbeddedStore, folder: Path, suite: Suite) -> Day:
    """A card and a PSAM are issued, the card is loaded, and pays."""
    trace = Trace(folder / "trace", lambda: NOW)
    card, psam = Overheard(blank(suite)), Overheard(SoftwarePsam.blank("sm4", rng=random.Random(2)))
    to_card, to_psam = DirectChannel(card, trace), DirectChannel(psam, trace)
    journal = Journal(folder / "readers.sqlite")
    bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
    assert await bench.personalise(job(to_card, 1, suite)) is None
    made = PsamOrder(terminal_number=TERMINAL_NUMBER, serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4)
    assert await bench.personalise(Job(made.identity, "psam", psam_steps(made), to_psam)) is None
    loaded = await purse.load(to_card, authoriser(store), TILL, 1, suite, 98_765_432, PIN)
    assert isinstance(loaded.outcome, Committed)
    wanted = Purchase(
        12_345_678, 1, suite, key_id(KeyType.PURCHASE, suite, Sector.TRANSIT), TERMINAL_NUMBER,
        bytes.fromhex("20260301"), bytes.fromhex("091500"),
    )  # fmt: skip
    paid = await debit(to_card, to_psam, wanted)
    assert isinstance(paid.outcome, Committed) and paid.genuine
    trace.close()
    journal.close()
    return Day((folder / "trace").read_text(encoding="utf-8"), (*card.said, *psam.said))


def windows(secrets: Iterable[bytes], size: int = 4) -> set[bytes]:
    """Every run of `size` bytes; what is all one byte says nothing."""
    runs = {secret[at : at + size] for secret in secrets for at in range(len(secret) - size + 1)}
    return {run for run in runs if len(set(run)) > 1}


def leaks(text: str, secrets: Iterable[bytes]) -> Iterator[str]:
    """Runs of four secret bytes that a text shows, in any of the spellings that a program would give them."""
    plain, squeezed, raw = text.upper(), re.sub(r"[\s:,|-]", "", text.upper()), text.encode()
    for run in windows(secrets):
        spelled = run.hex().upper()
        as_text = run.decode("latin-1")
        if spelled in plain or spelled in squeezed or run in raw or as_text in text or str(list(run))[1:-1] in text:
            yield spelled
        if base64.b64encode(run[:3]).decode() in text:
            yield spelled


@pytest.mark.parametrize("suite", [Suite.TRIPLE_DES, Suite.SM4])
async def test_nothing_that_was_said_is_in_the_trace(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    day = await _day(store, tmp_path, suite)
    # All data of all commands and answers, not only what somebody thought of calling secret; and what was not sent.
    serial = order(1, suite).card
    money = {str(fen).encode() for fen in (98_765_432, 12_345_678, 98_765_432 - 12_345_678)}
    secrets = {*day.said, serial, PIN.encode(), bytes.fromhex(PIN), serial.hex().encode(), *money}
    assert len(day.said) > 250 and len(windows(secrets)) > 1000
    assert list(leaks(day.rows, secrets)) == []
    for fen in money:
        assert fen.decode() not in day.text
    assert PIN not in day.text and "123456" not in day.text

    told = day.text.splitlines()
    assert len(told) == 1 + len(day.said) // 2, "and every exchange is there"
    assert sum("WRITE KEY (secure)" in row for row in told) >= 20
    for name in (
        "SELECT application 1",
        "VERIFY PIN",
        "CREDIT FOR LOAD",
        "INIT SAM FOR PURCHASE",
        "DEBIT FOR PURCHASE",
    ):
        assert any(f"\t{name}\t" in row for row in told), name
    assert "OTHER" not in day.text, "every command of ours has a name"
    assert all(re.fullmatch(ROW, row) for row in told[1:])


TWO = "[0-9A-F-]{2} [0-9A-F-]{2}"
ROW = rf"in-process\t\d+\.\d ms\t[A-Za-z0-9 ()]+\t{TWO}\t\d+ B\t\d+ B\t(torn|{TWO})\t\d+ us"


async def test_the_check_sees_a_leak(store: EmbeddedStore, tmp_path: Path) -> None:
    """A trace that blanks out what it knows to be secret lets through what nobody thought of."""
    day = await _day(store, tmp_path, Suite.SM4)
    for spelled in (lambda b: b.hex(), lambda b: b.hex(" "), lambda b: str(list(b)), lambda b: b.decode("latin-1")):
        assert not list(leaks(day.rows, day.said))
        for said in random.Random(3).sample([said for said in day.said if len(set(said[:4])) > 2], 5):
            assert list(leaks(day.rows + spelled(said[:4]), day.said)), "four bytes of any command are seen"


short = st.integers(0, 255)


@given(short, short, short, short, st.data(), st.binary(max_size=64), st.integers(0, 0xFFFF), st.integers(0, 10**7))
def test_a_line_depends_on_no_data(
    cla: int, ins: int, p1: int, p2: int, draw: st.DataObject, data: bytes, sw: int, micros: int
) -> None:
    """Whitelist: two exchanges that differ only in their data give the same line."""
    other = draw.draw(st.binary(min_size=len(data), max_size=len(data)))
    aids = {item.aid for item in APPLICATIONS.values()}
    if {data, other} & aids:
        return
    answer, another = data + sw.to_bytes(2, "big"), other + sw.to_bytes(2, "big")
    lines = {
        line(Exchange(CommandApdu(cla, ins, p1, p2, sent, 256), answered, micros))
        for sent in (data, other)
        for answered in (answer, another)
    }
    assert len(lines) == 1
    [told] = lines
    if ins not in COMMANDS and (ins, p1) not in COMMANDS:
        assert told.startswith(("OTHER\t-- --", "OTHER (secure)\t-- --")), "not even the parameters of a strange one"


def test_selected_applications_by_number() -> None:
    told = line(Exchange(Select(APPLICATIONS[3].aid).apdu(), bytes.fromhex("6A82"), 12))
    assert told.startswith("SELECT application 3\t04 00\t8 B\t0 B\t6A 82")
    assert "application" not in line(Exchange(Select(bytes.fromhex("A0000003330101")).apdu(), b"", 1))
    assert line(Exchange(Select(b"12345").apdu(), b"", 1)).endswith("torn\t1 us")


def test_a_trace_is_bounded_and_never_disturbs(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = Trace(path, lambda: datetime(2026, 3, 1, tzinfo=UTC), most_bytes=2_000)
    exchange = Exchange(CommandApdu(0, 0x84, 0, 0, le=8), bytes(8) + b"\x90\x00", 99)
    for _ in range(500):
        trace.note("reader\n\x1b[31m 1", exchange)
    assert trace.lost == 0
    assert path.stat().st_size < 2_200 and (tmp_path / "trace.1").stat().st_size < 2_200
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trace", "trace.1"]
    assert "\x1b" not in path.read_text() and "reader??" in path.read_text()
    trace.close()
    trace.note("reader", exchange)
    assert trace.lost == 1
    trace.close()
    with pytest.raises(SetupError, match="another file"):
        Trace(tmp_path / "absent" / "trace", lambda: NOW)
