"""A batch over several readers: good + scrapped + left = stock in, through tears, kills and a dying pcscd."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.record import Suite
from cardcore.script import steps
from keys.store import EmbeddedStore
from readers.pcsc.batch import Batch, Now, Report, Tally
from readers.pcsc.channel import DEADLINE_S, Channel, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench
from readers.pcsc.presence import Presence
from readers.pcsc.seek import wait_for_readers
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import SoftwareCard
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import Link, insert
from tests.counter_side import NOW, blank, make_store, order
from tests.pcscd import POLL_S, start

READERS = 4


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(READERS)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


def job_of(made: CardOrder, channel: Channel, reader: str) -> Job:
    return Job(made.identity, "shared-purse", steps(load_profile("shared-purse"), made), channel, reader)


@dataclass
class Shop:
    """A batch with its journal, and everything that it told."""

    store: EmbeddedStore
    path: Path
    count: int
    reports: list[Report] = field(default_factory=list)
    registered: list[bytes] = field(default_factory=list)
    on_report: Callable[[Report], None] = lambda _: None

    def __post_init__(self) -> None:
        self.journal = Journal(self.path)
        self.batch = Batch(
            Bench(self.store.personaliser(), self.journal, "wang", lambda: NOW),
            self.journal,
            [order(number, Suite.SM4) for number in range(1, self.count + 1)],
            job_of,
            self._tell,
            self._register,
        )

    def _tell(self, report: Report) -> None:
        tally = report.tally
        assert tally.stock == self.count == tally.good + tally.scrapped + tally.left
        self.reports.append(report)
        self.on_report(report)

    async def _register(self, made: CardOrder) -> None:
        self.registered.append(made.card)

    def seen(self, now: Now) -> list[Report]:
        return [report for report in self.reports if report.now is now]


class Hand:
    """One reader that somebody feeds in process: chips come one after the other when the last has had its turn."""

    def __init__(self, reader: str, channels: Sequence[DirectChannel]) -> None:
        self.reader = reader
        self.channel: Channel = _Nobody()
        self._channels = list(channels)
        self._came = 0

    async def insertion(self, after: int) -> int:
        if not self._channels:
            await asyncio.Event().wait()
        self.channel = self._channels.pop(0)
        self._came += 1
        return self._came


class _Nobody(DirectChannel):
    def __init__(self) -> None:
        super().__init__(blank())


class Tearing(DirectChannel):
    """Loses its power at its `cut`-th hop."""

    def __init__(self, card: SoftwareCard, cut: int) -> None:
        super().__init__(card)
        self._chip, self._left = card, cut

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        self._left -= 1
        if not self._left:
            self._chip.power_off()
            return Replies((), torn=True)
        return await super().run(commands, deadline_s)


async def test_a_shift(store: EmbeddedStore, tmp_path: Path) -> None:
    """Good blanks, a torn one that comes back, one of the wrong suite, one that is issued already."""
    shop = Shop(store, tmp_path / "readers.sqlite", 8)
    torn, issued = blank(seed=50), blank(seed=51)
    left = Hand("left", [DirectChannel(issued), DirectChannel(issued), *_blanks(1, 3), DirectChannel(blank(seed=52))])
    right = Hand(
        "right", [Tearing(torn, 30), DirectChannel(torn), DirectChannel(blank(Suite.TRIPLE_DES)), *_blanks(60, 1)]
    )
    tally = await asyncio.wait_for(shop.batch.run([left, right], patience_s=2), 20)
    assert tally == Tally(8, good=7, scrapped=1) and tally.left == 0
    [rejected] = shop.seen(Now.REJECTED)
    assert rejected.reader == "left" and "no blank" in rejected.reason and rejected.number == b""
    [interrupted] = shop.seen(Now.INTERRUPTED)
    [scrapped] = shop.seen(Now.SCRAPPED)
    assert "6700" in scrapped.reason and interrupted.number in {report.number for report in shop.seen(Now.GOOD)}
    assert shop.journal.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 7, Progress.SCRAPPED: 1}
    good = {report.number for report in shop.seen(Now.GOOD)}
    assert len(good) == 7 and good | {scrapped.number} == {order(number, Suite.SM4).card for number in range(1, 9)}
    assert set(shop.registered) == good | {scrapped.number}, "registered before it was begun"


def _blanks(first: int, count: int) -> list[DirectChannel]:
    return [DirectChannel(blank(seed=number)) for number in range(first, first + count)]


async def test_a_begun_chip_in_another_reader(store: EmbeddedStore, tmp_path: Path) -> None:
    """It shows its serial once its identity is written, so any reader may go on with it; before that only its own."""
    shop = Shop(store, tmp_path / "readers.sqlite", 2)
    late, early = blank(seed=1), blank(seed=2)
    torn = [Hand("one", [Tearing(late, 50)]), Hand("two", [Tearing(early, 7)])]
    assert await shop.batch.run(torn, patience_s=0.3) == Tally(2)
    assert len(shop.seen(Now.INTERRUPTED)) == 2 and late.serial and not early.serial
    shop.journal.close()
    again = Shop(store, tmp_path / "readers.sqlite", 2)
    hands = [Hand("two", [DirectChannel(late), DirectChannel(early)]), Hand("one", [])]
    assert await again.batch.run(hands, patience_s=0.5) == Tally(2, good=2)
    assert {report.reader for report in again.seen(Now.GOOD)} == {"two"}
    assert (late.serial, early.serial) == (order(1, Suite.SM4).card, order(2, Suite.SM4).card)


async def test_a_chip_of_another_batch_spends_no_serial(store: EmbeddedStore, tmp_path: Path) -> None:
    """Half made elsewhere, it shows no serial yet; the next blank gets the serial that it was tried with."""
    half = blank(seed=1)
    elsewhere = Shop(store, tmp_path / "elsewhere.sqlite", 1)
    assert (await elsewhere.batch.run([Hand("far", [Tearing(half, 10)])], patience_s=0.2)).left == 1
    shop = Shop(store, tmp_path / "readers.sqlite", 1)
    good = blank(seed=2)
    hand = Hand("one", [DirectChannel(half), DirectChannel(good)])
    assert await shop.batch.run([hand], patience_s=1) == Tally(1, good=1)
    [rejected] = shop.seen(Now.REJECTED)
    assert "no blank" in rejected.reason and good.serial == order(1, Suite.SM4).card
    assert not half.serial


async def test_nobody_feeds(store: EmbeddedStore, tmp_path: Path) -> None:
    shop = Shop(store, tmp_path / "readers.sqlite", 3)
    tally = await shop.batch.run([Hand("one", _blanks(1, 1)), Hand("two", [])], patience_s=0.2)
    assert tally == Tally(3, good=1) and tally.left == 2
    shop.journal.close()
    again = Shop(store, tmp_path / "readers.sqlite", 3)
    assert again.batch.tally == Tally(3, good=1)
    assert await again.batch.run([Hand("one", _blanks(5, 2))], patience_s=1) == Tally(3, good=3)
    assert len(again.seen(Now.GOOD)) == 2, "none is made twice"


async def test_a_fault_that_concerns_all_ends_the_batch(store: EmbeddedStore, tmp_path: Path) -> None:
    shop = Shop(store, tmp_path / "readers.sqlite", 3)
    shop.journal._database.execute("PRAGMA query_only = ON")
    with pytest.raises(Exception, match="nothing was noted"):
        await shop.batch.run([Hand("one", _blanks(1, 3))], patience_s=1)


class Slow(DirectChannel):
    """5 ms an APDU."""

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        replies = await super().run(commands, deadline_s)
        await asyncio.sleep(0.005 * len(replies.answers))
        return replies


async def test_readers_work_at_once(store: EmbeddedStore, tmp_path: Path) -> None:
    """Near-linear: three readers take little longer for three times the cards (`bench/apdu.py` measures it)."""

    async def seconds(readers: int) -> float:
        shop = Shop(store, tmp_path / f"{readers}.sqlite", readers)
        began = time.perf_counter()
        hands = [Hand(f"{number}", [Slow(blank(seed=number))]) for number in range(readers)]
        assert await shop.batch.run(hands, patience_s=5) == Tally(readers, good=readers)
        return time.perf_counter() - began

    assert await seconds(3) < 2 * await seconds(1)


# --- on the real stack -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    reader: str
    channel: ReaderChannel
    presence: Presence

    async def insertion(self, after: int) -> int:
        return await self.presence.insertion(self.reader, after)


@pytest.fixture
async def feeds(daemon: PrivatePcscd) -> AsyncIterator[list[Feed]]:
    await asyncio.sleep(POLL_S)
    async with Presence() as presence:
        feeds = [Feed(name, ReaderChannel(name), presence) for name in daemon.readers]
        yield feeds
        for feed in feeds:
            await feed.channel.aclose()


class Operator:
    """Puts blanks down and takes what is done away, at every reader by itself."""

    def __init__(self, daemon: PrivatePcscd, cards: int) -> None:
        self._daemon = daemon
        self._stack = [blank(seed=number) for number in range(cards)]
        self.cards = list(self._stack)
        self._ended = {reader: asyncio.Event() for reader in daemon.readers}
        self.down: dict[str, tuple[SoftwareCard, Link]] = {}

    def told(self, report: Report) -> None:
        if report.now in (Now.GOOD, Now.SCRAPPED):
            self._ended[report.reader].set()

    async def feed(self, reader: str) -> None:
        port = self._daemon.ports[self._daemon.readers.index(reader)]
        while self._stack:
            card = self._stack.pop()
            self._ended[reader].clear()
            while not self._ended[reader].is_set():
                link = await insert("127.0.0.1", port, card)
                self.down[reader] = card, link
                ended = asyncio.create_task(self._ended[reader].wait())
                await asyncio.wait([ended, link.gone], return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not self._ended[reader].is_set():
                    # It was torn, or the daemon died: the same card is put back.
                    await asyncio.sleep(POLL_S)
            await link.remove()
            await asyncio.sleep(POLL_S)


async def _work(
    shop: Shop, feeds: list[Feed], operator: Operator, upset: Callable[[], "asyncio.Future[None] | None"]
) -> Tally:
    shop.on_report = operator.told
    hands = [asyncio.create_task(operator.feed(feed.reader)) for feed in feeds]
    batch = asyncio.create_task(shop.batch.run(feeds, patience_s=8))
    try:
        disturbed = upset()
        if disturbed is not None:
            await disturbed
        return await asyncio.wait_for(batch, 60)
    finally:
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
        for hand in hands:
            hand.cancel()
        await asyncio.gather(*hands, return_exceptions=True)
        for _, link in operator.down.values():
            await link.remove()


async def test_four_readers_and_a_torn_card(
    daemon: PrivatePcscd, feeds: list[Feed], store: EmbeddedStore, tmp_path: Path
) -> None:
    shop, operator = Shop(store, tmp_path / "readers.sqlite", 10), Operator(daemon, 10)

    async def tear() -> None:
        while not any(report.stage is not None for report in shop.reports):  # noqa: ASYNC110 - it rings no bell
            await asyncio.sleep(0.002)
        [working, *_] = [report.reader for report in shop.reports if report.stage is not None]
        await operator.down[working][1].remove()

    tally = await _work(shop, feeds, operator, lambda: asyncio.ensure_future(tear()))
    assert tally == Tally(10, good=10)
    assert shop.journal.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 10, Progress.SCRAPPED: 0}
    assert len({card.serial for card in operator.cards}) == 10
    assert {report.reader for report in shop.seen(Now.GOOD)} == set(daemon.readers), "all of them were used"


async def test_pcscd_dies_in_the_middle(
    daemon: PrivatePcscd, feeds: list[Feed], store: EmbeddedStore, tmp_path: Path
) -> None:
    """Killed while chips are half made: it comes back, the same chips go on, each serial is made once."""
    shop, operator = Shop(store, tmp_path / "readers.sqlite", 6), Operator(daemon, 6)

    async def kill() -> None:
        while sum(report.now is Now.STARTED for report in shop.reports) < 2:  # noqa: ASYNC110 - it rings no bell
            await asyncio.sleep(0.002)
        await asyncio.to_thread(daemon.stop, signal.SIGKILL)
        await asyncio.to_thread(daemon.start)
        await asyncio.to_thread(wait_for_readers, daemon.readers)

    tally = await _work(shop, feeds, operator, lambda: asyncio.ensure_future(kill()))
    assert tally == Tally(6, good=6)
    assert shop.seen(Now.INTERRUPTED), "it was in the middle"
    assert len({card.serial for card in operator.cards}) == 6
    assert shop.journal.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 6, Progress.SCRAPPED: 0}
