"""A batch of cards or PSAMs over several readers at once: stock in = good + scrapped + left, at every moment.

Whoever feeds the readers puts a blank on any of them. A chip that was begun is known by the serial that it shows, or,
before it shows one, by its reader; after a kill the journal tells both.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from cardcore.authority import CardIdentity, PsamIdentity
from cardcore.card_map import CITY_CARD, TRANSIT
from cardcore.errors import CardError, FormatError, ReaderError
from cardcore.step import Stage
from readers.pcsc.ask import common_data, psam_number
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.job import Job, WrongChip, chip_name, chip_number
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench

PATIENCE_S = 300.0


class Now(Enum):
    """What just happened at a reader."""

    STARTED = "started"
    STAGE = "stage"
    GOOD = "good"
    SCRAPPED = "scrapped"
    INTERRUPTED = "interrupted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the stock of a batch is; `left` are those that are not begun, and those that are not finished."""

    stock: int
    good: int = 0
    scrapped: int = 0

    @property
    def left(self) -> int:
        return self.stock - self.good - self.scrapped


@dataclass(frozen=True, slots=True)
class Report:
    """One event: at which reader, with which number (as `chip_number`, b"" for a chip that is none of the batch), and
    why, or what a good one cannot do."""

    reader: str
    now: Now
    number: bytes
    tally: Tally
    reason: str = ""
    stage: Stage | None = None


class Feed(Protocol):
    """One reader that is fed with chips."""

    @property
    def reader(self) -> str: ...

    @property
    def channel(self) -> Channel: ...

    async def insertion(self, after: int) -> int:
        """Wait for a chip that came after the `after`-th; gives the number of the last one."""
        ...


class Order(Protocol):
    """What is to be made of one blank: a card or a PSAM."""

    @property
    def identity(self) -> CardIdentity | PsamIdentity: ...


OrderT = TypeVar("OrderT", bound=Order)
JobOf = Callable[[OrderT, Channel, str], Job]
Register = Callable[[OrderT], Awaitable[None]]


async def unregistered(_: Order) -> None:
    """Where no registry is asked."""


class Batch(Generic[OrderT]):
    """Personalises `orders` on whatever readers it is given, each serial once, through any interruption.

    `register` is awaited before a serial is begun. Repeating a batch with the same orders goes on where it stopped.
    """

    def __init__(
        self,
        bench: Bench,
        journal: Journal,
        orders: Sequence[OrderT],
        job_of: JobOf[OrderT],
        tell: Callable[[Report], None],
        register: Register[OrderT] = unregistered,
    ) -> None:
        self._bench = bench
        self._job_of = job_of
        self._tell = tell
        self._register = register
        self._fresh: deque[OrderT] = deque()
        # Begun and not finished, with the reader where each was begun; those in `_working` are on a reader now.
        self._open: dict[bytes, tuple[OrderT, str]] = {}
        self._working: set[bytes] = set()
        self._ended = {Progress.ISSUED: 0, Progress.SCRAPPED: 0}
        self._stock = len(orders)
        # What a chip is asked for at 15 ms each: a PSAM's number, or a card's serial.
        self._shown = _psam_shown if any(isinstance(one.identity, PsamIdentity) for one in orders) else _card_shown
        self._something = asyncio.Event()
        for order in orders:
            entry = journal.find(chip_name(order.identity))
            if entry is None:
                self._fresh.append(order)
            elif entry.progress is Progress.RUNNING:
                self._open[chip_number(order.identity)] = order, entry.reader
            else:
                self._ended[entry.progress] += 1

    @property
    def tally(self) -> Tally:
        return Tally(self._stock, self._ended[Progress.ISSUED], self._ended[Progress.SCRAPPED])

    async def run(self, feeds: Sequence[Feed], patience_s: float = PATIENCE_S) -> Tally:
        """Work until nothing is left, or nothing happened at any reader for `patience_s`.

        Raises OnecardError that concerns all of them (keys, disk, registry). A cancelled call leaves chips as a kill
        does: the same batch resumes them.
        """
        feeding = [asyncio.create_task(self._feed(feed)) for feed in feeds]
        try:
            while self.tally.left:
                self._something.clear()
                waiting = asyncio.create_task(self._something.wait())
                done, _ = await asyncio.wait(
                    [waiting, *feeding], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                waiting.cancel()
                for failed in done - {waiting}:
                    failed.result()
                if not done and not self._working:
                    break
        finally:
            for task in feeding:
                task.cancel()
            await asyncio.gather(*feeding, return_exceptions=True)
        return self.tally

    async def _feed(self, feed: Feed) -> None:
        came = 0
        while True:
            came = await feed.insertion(came)
            order = None
            try:
                await feed.channel.reset()
                order = self._order_for(feed, await self._shown(feed.channel))
                await self._make(feed, order)
            except (CardError, ReaderError, FormatError) as error:
                now = Now.REJECTED if order is None or isinstance(error, WrongChip) else Now.INTERRUPTED
                self._say(feed, now, order, str(error))
            finally:
                if order is not None:
                    self._working.discard(chip_number(order.identity))

    def _order_for(self, feed: Feed, shown: bytes | None) -> OrderT:
        """The order that the chip in the reader is for; it counts as being worked on. Raises WrongChip."""
        begun_here = (chip for chip, (_, reader) in self._open.items() if reader == feed.reader)
        chip = shown if shown is not None else next((chip for chip in begun_here if chip not in self._working), None)
        if chip is None and self._fresh:
            order = self._fresh.popleft()
        elif chip in self._open and chip not in self._working:
            order, _ = self._open[chip]
        elif shown is not None:
            raise WrongChip("this chip is no blank, nor one that was begun here; nothing was changed, take it away")
        else:
            raise WrongChip("no serial is left for another blank; put back the chips that were interrupted")
        self._working.add(chip_number(order.identity))
        self._open[chip_number(order.identity)] = order, feed.reader
        return order

    async def _make(self, feed: Feed, order: OrderT) -> None:
        self._say(feed, Now.STARTED, order)
        job = self._job_of(order, feed.channel, feed.reader)
        try:
            await self._register(order)
            scrapped = await self._bench.personalise(job, lambda stage: self._say(feed, Now.STAGE, order, stage=stage))
        except WrongChip:
            if not self._bench.knows(job):
                del self._open[chip_number(order.identity)]
                self._fresh.appendleft(order)
            raise
        del self._open[chip_number(order.identity)]
        self._ended[Progress.SCRAPPED if scrapped else Progress.ISSUED] += 1
        self._say(feed, Now.SCRAPPED if scrapped else Now.GOOD, order, scrapped.reason if scrapped else job.remark)

    def _say(self, feed: Feed, now: Now, order: OrderT | None, reason: str = "", stage: Stage | None = None) -> None:
        self._something.set()
        number = chip_number(order.identity) if order else b""
        self._tell(Report(feed.reader, now, number, self.tally, reason, stage))


async def _card_shown(channel: Channel) -> bytes | None:
    """The serial that a chip shows, None for a blank and for one whose data are not written yet."""
    return await _shown_by(channel, TRANSIT.number) or await _shown_by(channel, CITY_CARD.number)


async def _psam_shown(channel: Channel) -> bytes | None:
    """The same of a PSAM and its number."""
    return await psam_number(channel) or None


async def _shown_by(channel: Channel, application: int) -> bytes | None:
    try:
        card = (await common_data(channel, application)).card
    except CardTorn:
        raise
    except (CardError, FormatError):
        return None
    return card if any(card) else None
