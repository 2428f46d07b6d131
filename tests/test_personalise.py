"""Personalisation in process: every profile and suite, torn at every command, killed, scrapped; the journal's stock."""

import asyncio
import pickle
import random
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.card_map import APPLICATIONS
from cardcore.commands import Select
from cardcore.errors import ReaderError, SetupError
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from cardcore.script import PsamOrder, psam_steps
from cardcore.step import Stage
from keys.store import EmbeddedStore
from readers.pcsc.channel import DEADLINE_S, CardTorn, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal, Line, Progress
from readers.pcsc.look import CardView, look
from readers.pcsc.personalise import Bench, Job, Scrapped, Unfinished, WrongChip
from simulators.card_behaviour import Behaviour
from simulators.card_os import PurseState, SoftwareCard
from simulators.file_system import RecordFile
from simulators.nvm import TearPoint
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, blank, job, make_store, order

PROFILES = ("shared-purse", "purse-per-sector")
SUITES = (Suite.TRIPLE_DES, Suite.SM4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "readers.sqlite"


def bench(store: EmbeddedStore, path: Path) -> tuple[Bench, Journal]:
    journal = Journal(path)
    return Bench(store.personaliser(), journal, "wang", lambda: NOW), journal


def memory(card: SoftwareCard) -> dict[str, object]:
    """Everything that lies in the card: every file, key, PIN and purse, by its place."""
    found: dict[str, object] = {}
    for df in (card.mf, *card.mf.applications()):
        place = f"{df.fid:04X}"
        found[f"{place} rights"] = df.create_right.value, df.erase_right.value, df.lock.value
        for (kind, number), record in df.keys.value.items():
            secret = record.secret.encrypt(bytes(16))
            shape = record.use, record.change, record.version, record.algorithm, record.next_state, record.tries
            found[f"{place} key {kind:02X}.{number:02X}"] = secret, shape
        found[f"{place} pins"] = {number: (pin.use, pin.tries, pin.next_state) for number, pin in df.pins.value.items()}
        for fid, file in df.files.value.items():
            cells = {name: getattr(file, name).value for name in ("content", "records", "purse") if hasattr(file, name)}
            found[f"{place} {fid:04X}"] = {name: _but_for_the_proof(value) for name, value in cells.items()}
    return found


def _but_for_the_proof(value: object) -> object:
    # Its MACs are over a random number of that one card.
    return value._replace(proof=None) if hasattr(value, "_replace") and hasattr(value, "proof") else value


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("profile", PROFILES)
async def test_from_blank_to_issued(store: EmbeddedStore, journal: Path, profile: str, suite: Suite) -> None:
    card = blank(suite)
    channel = DirectChannel(card)
    making, kept = bench(store, journal)
    stages: list[Stage] = []
    assert await making.personalise(job(channel, 1, suite, profile), stages.append) is None
    assert stages == list(Stage)
    entry = kept.find(f"card {order(1, suite).card.hex()}")
    assert entry is not None
    assert (entry.progress, entry.done, entry.profile, entry.operator) == (
        Progress.ISSUED, frozenset(Stage), profile, "wang",
    )  # fmt: skip
    told = sqlite3.connect(journal).execute("SELECT stage, steps FROM stage").fetchall()
    assert {name for name, _ in told} == {stage.value for stage in Stage}
    assert all('"9000"' in steps for _, steps in told)

    purses = {item.number: item.purse for item in load_profile(profile).purses}
    assert set(card.purses()) == set(purses)
    view = await look(channel)
    assert view.common == order(1, suite).common
    assert view.city is not None and view.city.concession == 2
    for number, spec in purses.items():
        seen = view.purse(number)
        assert seen is not None and spec is not None
        assert (seen.suite, seen.value_fen, seen.overdraft_fen) == (suite, 0, spec.overdraft_fen)
        assert card.purses()[number].balance_fen == 0
    assert view.applications == tuple(item.number for item in load_profile(profile).applications if item.number)


async def test_psam(store: EmbeddedStore, journal: Path) -> None:
    psam = SoftwarePsam.blank("sm4", rng=random.Random(2))
    made = PsamOrder(
        terminal_number=bytes.fromhex("791001000001"), serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4
    )
    making, kept = bench(store, journal)
    assert await making.personalise(Job(made.identity, "psam", psam_steps(made), DirectChannel(psam))) is None
    assert psam.terminal_number == made.terminal_number
    assert kept.find("PSAM 791001000001") is not None


class Cutting(DirectChannel):
    """Takes the card away around its `cut`-th command: before the card hears of it, or before its answer is heard."""

    def __init__(self, card: SoftwareCard, cut: int, delivered: bool) -> None:
        super().__init__(card)
        self._chip = card
        self._left = cut
        self._delivered = delivered
        self.sent = 0

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        answers: tuple[ResponseApdu, ...] = ()
        for command in commands:
            self.sent += 1
            self._left -= 1
            if not self._left and not self._delivered:
                self._chip.power_off()
            replies = await super().run([command])
            if not self._left:
                self._chip.power_off()
                replies = Replies((), torn=True)
            answers += replies.answers
            if replies.torn or not answers[-1].ok:
                return Replies(answers, replies.torn)
        return Replies(answers)


@dataclass(frozen=True)
class Untorn:
    """A card issued without interruption: what it holds, what it answers, and how many commands that took."""

    memory: dict[str, object]
    view: CardView
    commands: int


@pytest.fixture(scope="module")
def untorn(store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Suite], Untorn]:
    async def make(profile: str, suite: Suite) -> Untorn:
        card = blank(suite)
        channel = Cutting(card, 0, delivered=False)
        making, _ = bench(store, tmp_path_factory.mktemp("untorn") / "readers.sqlite")
        assert await making.personalise(job(channel, 1, suite, profile)) is None
        commands = channel.sent
        return Untorn(memory(card), await look(channel), commands)

    return {(profile, suite): asyncio.run(make(profile, suite)) for profile in PROFILES for suite in SUITES}


@pytest.mark.parametrize(
    ("profile", "suite", "delivered"),
    [
        ("shared-purse", Suite.SM4, False),
        ("shared-purse", Suite.SM4, True),
        ("purse-per-sector", Suite.TRIPLE_DES, True),
    ],
    ids=["unheard", "unanswered", "unanswered, a purse per sector"],
)
async def test_torn_at_every_command(
    store: EmbeddedStore,
    tmp_path: Path,
    untorn: dict[tuple[str, Suite], Untorn],
    profile: str,
    suite: Suite,
    delivered: bool,
) -> None:
    wanted, at_once = untorn[profile, suite], asyncio.Semaphore(8)

    async def tear(cut: int) -> None:
        async with at_once:
            card, path = blank(suite, seed=cut), tmp_path / f"{cut}.sqlite"
            making, kept = bench(store, path)
            with pytest.raises(CardTorn):
                await making.personalise(job(Cutting(card, cut, delivered), 1, suite, profile))
            kept.close()
            resuming, kept = bench(store, path)
            assert await resuming.personalise(job(DirectChannel(card), 1, suite, profile)) is None, f"cut at {cut}"
            assert kept.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 1, Progress.SCRAPPED: 0}
            kept.close()
            await _is_the_same(card, wanted)

    await asyncio.gather(*map(tear, range(1, wanted.commands + 1)))


@pytest.mark.parametrize("point", TearPoint)
async def test_power_lost_in_every_commit(
    store: EmbeddedStore, tmp_path: Path, untorn: dict[tuple[str, Suite], Untorn], point: TearPoint
) -> None:
    """One card, torn inside every commit of its memory in turn, until it is issued."""
    card = blank()
    channel, tears = TornOnce(card, point), 0
    making, kept = bench(store, tmp_path / "readers.sqlite")
    while True:
        try:
            assert await making.personalise(job(channel)) is None
            break
        except CardTorn:
            tears += 1
    assert tears > 60, "every file, key and record is a commit"
    assert kept.stock()[Progress.ISSUED] == 1
    await _is_the_same(card, untorn["shared-purse", Suite.SM4])


WRITING = frozenset({0xE0, 0xD4, 0xD6, 0xE2, 0x58})


class TornOnce(DirectChannel):
    """Every command that writes loses its power at `point` when it comes for the first time."""

    def __init__(self, card: SoftwareCard, point: TearPoint) -> None:
        super().__init__(card)
        self._chip = card
        self._point = point
        self._torn: set[object] = set()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        answers: tuple[ResponseApdu, ...] = ()
        for command in commands:
            # The rest of a protected command differs at each try, with its challenge; what it adds to does not.
            df = self._chip.df
            records = [len(file.records.value) for file in df.files.value.values() if isinstance(file, RecordFile)]
            held = len(df.files.value), len(df.keys.value), len(df.pins.value), *records
            mark = command.encode()[:5], df.name, held
            if command.ins in WRITING and mark not in self._torn:
                self._torn.add(mark)
                self._chip.tear_next(self._point)
            replies = await super().run([command])
            self._chip.tear_next(None)
            answers += replies.answers
            if replies.torn or not answers[-1].ok:
                return Replies(answers, replies.torn)
        return Replies(answers)


async def _is_the_same(card: SoftwareCard, wanted: Untorn) -> None:
    """In what it holds, and in what it answers."""
    card.tear_next(None)
    assert memory(card) == wanted.memory
    assert await look(DirectChannel(card)) == wanted.view


async def test_refused_step_scraps(store: EmbeddedStore, journal: Path) -> None:
    making, kept = bench(store, journal)
    # A blank of the other suite does not know the transport key that is used on it.
    foreign = job(DirectChannel(blank(Suite.TRIPLE_DES)), 3, Suite.SM4)
    scrapped = await making.personalise(foreign)
    assert isinstance(scrapped, Scrapped)
    assert "identity.0.39-00.open: EXTERNAL AUTHENTICATE: 6700" in scrapped.reason
    assert await making.personalise(job(DirectChannel(blank()), 3)) == scrapped, "a scrapped serial stays scrapped"
    with pytest.raises(CardTorn):
        await making.personalise(job(Cutting(blank(), 50, delivered=True), 4))
    results = [result async for result in making.personalise_all(_mixed())]
    assert len(results) == 6
    assert sum(isinstance(result, Scrapped) for result in results) == 1
    assert sum(isinstance(result, Unfinished) for result in results) == 1
    stock = kept.stock()
    assert stock == {Progress.RUNNING: 2, Progress.ISSUED: 4, Progress.SCRAPPED: 2}
    assert sum(stock.values()) == 8, "what went in is issued, scrapped or running"


async def test_a_chip_whose_mac1_is_wrong_is_scrapped_and_the_others_go_on(store: EmbeddedStore, journal: Path) -> None:
    making, kept = bench(store, journal)
    odd = SoftwareCard.blank("sm4", rng=random.Random(5), behaviour=Behaviour(sm4_session_key="complement"))
    jobs = [job(DirectChannel(odd), 5, Suite.SM4), job(DirectChannel(blank(seed=6)), 6)]
    results = [result async for result in making.personalise_all(jobs)]
    [scrapped] = [result for result in results if isinstance(result, Scrapped)]
    assert "MAC1" in scrapped.reason
    assert kept.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 1, Progress.SCRAPPED: 1}
    assert await making.personalise(job(DirectChannel(odd), 5, Suite.SM4)) == scrapped


def _mixed() -> list[Job]:
    whole = [job(DirectChannel(blank(seed=number)), number) for number in range(10, 14)]
    return [*whole, job(DirectChannel(blank(Suite.TRIPLE_DES)), 20), job(Cutting(blank(), 30, delivered=False), 21)]


async def test_wrong_chip_is_left_alone(store: EmbeddedStore, journal: Path) -> None:
    making, kept = bench(store, journal)
    issued, half = blank(seed=1), blank(seed=2)
    assert await making.personalise(job(DirectChannel(issued), 1)) is None
    before = memory(issued)
    with pytest.raises(WrongChip, match="no blank"):
        await making.personalise(job(DirectChannel(issued), 2))
    assert kept.find(f"card {order(2, Suite.SM4).card.hex()}") is None, "no serial was spent on it"
    with pytest.raises(CardTorn):
        await making.personalise(job(Cutting(half, 130, delivered=True), 2))
    for other in (issued, blank(seed=3)):
        with pytest.raises(WrongChip, match="another chip"):
            await making.personalise(job(DirectChannel(other), 2))
    with pytest.raises(WrongChip, match="another order"):
        await making.personalise(job(DirectChannel(half), 2, profile="purse-per-sector"))
    assert memory(issued) == before
    assert await making.personalise(job(DirectChannel(half), 2)) is None
    assert half.purses() == {1: PurseState(0, 0, 1)}


class Unreachable(DirectChannel):
    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        raise ReaderError("the reader is gone")


async def test_reader_failure_spends_nothing(store: EmbeddedStore, journal: Path) -> None:
    making, kept = bench(store, journal)
    with pytest.raises(ReaderError):
        await making.personalise(job(Unreachable(blank()), 1))
    assert sum(kept.stock().values()) == 0
    assert await making.personalise(job(DirectChannel(blank()), 1)) is None


BATCH = """
import asyncio, itertools, os, pickle, signal, sys
from pathlib import Path
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench
from tests.counter_side import NOW, blank, job, make_store

FOLDER, LAST_HOP = Path(sys.argv[1]), int(sys.argv[2])
hops = itertools.count(1)

class Lying(DirectChannel):
    # What lies in the card is in a file at every moment, as it is in a card.
    def __init__(self, number):
        self.card, self.file = blank(seed=number), FOLDER / f"{number}.card"
        super().__init__(self.card)
    async def run(self, commands, deadline_s=10.0):
        replies = await super().run(commands)
        self.file.write_bytes(pickle.dumps(self.card))
        if next(hops) == LAST_HOP:
            os.kill(os.getpid(), signal.SIGKILL)
        return replies

async def main():
    bench = Bench(make_store(FOLDER).personaliser(), Journal(FOLDER / "readers.sqlite"), "wang", lambda: NOW)
    async for _ in bench.personalise_all((job(Lying(number), number) for number in range(20)), 4):
        print("issued", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("last_hop", [333, 777, 1001])
async def test_killed_in_the_middle_of_a_batch(tmp_path: Path, last_hop: int) -> None:
    command = [sys.executable, "-c", BATCH, str(tmp_path), str(last_hop)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    making, kept = bench(make_store(tmp_path), tmp_path / "readers.sqlite")
    before = kept.stock()
    assert before[Progress.ISSUED] >= told.count(b"issued"), "what was told to be issued is in the journal"
    assert before[Progress.RUNNING] > 0, "the kill came in the middle"
    cards = {}
    for number in range(20):
        file = tmp_path / f"{number}.card"
        cards[number] = pickle.loads(file.read_bytes()) if file.exists() else blank(seed=number)  # noqa: S301 - ours
        cards[number].power_off()
    jobs = [job(DirectChannel(card), number) for number, card in cards.items()]
    results = [result async for result in making.personalise_all(jobs)]
    assert all(isinstance(result, Job) for result in results)
    assert kept.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 20, Progress.SCRAPPED: 0}
    assert all(card.purses() == {1: PurseState(0, 0, 1)} for card in cards.values())


def _line(chip: str, progress: Progress = Progress.RUNNING) -> Line:
    return Line(chip=chip, script="", profile="p", reader="r", operator="o", progress=progress, at=NOW)


async def test_a_write_is_on_the_disk_when_it_returns(journal: Path) -> None:
    kept = Journal(journal)
    for number in range(5):
        await kept.write(_line(f"card {number}"))
        # Another process sees it, and the file says that it was forced to the disk.
        with sqlite3.connect(journal) as other:
            assert other.execute("SELECT count(*) FROM chip").fetchone() == (number + 1,)
    assert kept._database.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    assert kept._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_writers_of_one_moment_share_a_commit(journal: Path) -> None:
    kept = Journal(journal)
    commits = 0

    def traced(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    kept._database.set_trace_callback(traced)
    await asyncio.gather(*(kept.write(_line(f"card {number}")) for number in range(100)))
    assert commits <= 2
    assert kept.stock()[Progress.RUNNING] == 100


async def test_a_journal_that_cannot_be_written_says_so(journal: Path, tmp_path: Path) -> None:
    kept = Journal(journal)
    kept._database.execute("PRAGMA query_only = ON")
    with pytest.raises(SetupError, match="nothing was noted"):
        await kept.write(_line("card 1"))
    kept._database.execute("PRAGMA query_only = OFF")
    await kept.write(_line("card 1"))
    assert kept.stock()[Progress.RUNNING] == 1
    with pytest.raises(SetupError, match="state directory"):
        Journal(tmp_path / "absent" / "readers.sqlite")


async def test_selecting_tells_a_blank(store: EmbeddedStore) -> None:
    """What `WrongChip` rests on: a blank has none of our applications."""
    channel = DirectChannel(blank())
    await channel.reset()
    for item in list(APPLICATIONS.values())[1:]:
        assert (await channel.run([Select(item.aid).apdu()])).last().sw == 0x6A82
