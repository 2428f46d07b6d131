"""The clerk's operations on the card in a reader, told as they go; each ends in a status for the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from rich.console import Console

from cardcore.authority import CardIdentity
from cardcore.errors import CardError, OnecardError, ReaderError, RefusedError
from cardcore.purse import Refused, Unknown
from readers.counter.desk import DeskUnreachable
from readers.counter.loading import Claims, Ended, LoadCounter
from readers.counter.show import show_card, show_load
from readers.counter.words import BACK, STAGES, STAY, say
from readers.pcsc.channel import CardTorn
from readers.pcsc.job import Job, Scrapped
from readers.pcsc.look import CardView, look
from readers.pcsc.personalise import Bench
from readers.pcsc.purse import Till
from readers.pcsc.seek import until_card
from readers.pcsc.worker import ReaderChannel

PATIENCE_S = 60.0
MOST_RETURNS = 20


class Status(IntEnum):
    """Exit status of a command: done; something is open, and the text says what; failed, and nothing was changed."""

    DONE = 0
    OPEN = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What the holder wants: `amount_fen` onto the purse of `application`, at this till, in this epoch of it."""

    till: Till
    application: int
    epoch: int
    amount_fen: int
    pin: str = field(repr=False)


class Clerk:
    """Speaks to a console, and of errors to `complaints`; waits `patience_s` for a card that left to come back."""

    def __init__(self, console: Console, patience_s: float = PATIENCE_S, complaints: Console | None = None) -> None:
        self.console = console
        self.patience_s = patience_s
        self._complaints = complaints or console

    def tell(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def complain(self, text: str) -> None:
        """One line about what could not be done."""
        self._complaints.print(text, markup=False, highlight=False, soft_wrap=True)

    async def read(self, channel: ReaderChannel) -> Status:
        """Show the card."""
        show_card(self.console, await look(channel))
        return Status.DONE

    async def issue(self, bench: Bench, job: Job, channel: ReaderChannel) -> Status:
        """Personalise the blank in the reader, through any number of removals of it."""
        self.tell(STAY)
        for _ in range(MOST_RETURNS):
            try:
                scrapped = await bench.personalise(job, lambda stage: self.tell(f"✓ {STAGES[stage]}"))
            except (CardTorn, ReaderError) as error:
                if not await self._back(channel, error):
                    return Status.OPEN
            else:
                return await self._issued(scrapped, job, channel)
        return Status.OPEN

    async def _issued(self, scrapped: Scrapped | None, job: Job, channel: ReaderChannel) -> Status:
        if scrapped is not None:
            self.tell(f"发卡失败，请将此卡作废 scrap this card: {scrapped.reason}")
            return Status.FAILED
        self.tell("发卡完成 issued")
        if isinstance(job.identity, CardIdentity):
            return await self.read(channel)
        self.tell(job.chip)
        if job.remark:
            self.tell(job.remark)
        return Status.DONE

    async def load(self, channel: ReaderChannel, counter: LoadCounter, order: LoadOrder) -> Status:
        """Settle what an earlier load of the card left open; then load, unless that one turns out to have come."""
        self.tell(STAY)
        view = await look(channel, counter.switches.blocked_select)
        settled = await counter.settle(channel, _serial(view), order.pin)
        for ended in settled:
            show_load(self.console, ended)
        sent = await self._send(counter)
        if not all(isinstance(ended.outcome, Refused) for ended in settled):
            self.tell("以上为此前的充值，本次未充值 that was an earlier load; to load once more, repeat the command")
            return Status.OPEN
        ended = await self._load(channel, counter, order, view)
        show_load(self.console, ended)
        sent = await self._send(counter) and sent
        if isinstance(ended.outcome, Refused):
            return Status.FAILED
        return Status.DONE if sent and not isinstance(ended.outcome, Unknown) else Status.OPEN

    async def _load(self, channel: ReaderChannel, counter: LoadCounter, order: LoadOrder, view: CardView) -> Ended:
        purse = view.purse(order.application)
        if purse is None or purse.suite is None:
            raise CardError(f"the card has no purse in application {order.application}; nothing was loaded")
        party = int(order.till.channel) if order.till.channel.isdecimal() else 0
        claims = Claims(purse.overdraft_fen, view.concession or 0, order.epoch, party)
        await channel.reset()
        ended = await counter.load(
            channel, order.till, claims, order.application, purse.suite, order.amount_fen, order.pin
        )
        for _ in range(MOST_RETURNS):
            if not isinstance(ended.outcome, Unknown) or not await self._back(channel):
                break
            with self._told(CardError, ReaderError):
                [ended] = await counter.settle(channel, ended.load.draft.card, order.pin)
        return ended

    async def _back(self, channel: ReaderChannel, error: OnecardError | None = None) -> bool:
        """Ask for the card and wait; whether one answers again."""
        self.tell(BACK if error is None else f"{BACK} ({error})")
        try:
            await until_card(channel, self.patience_s)
        except ReaderError as given_up:
            self.tell(f"{say(given_up)} 稍后重复同一命令即可继续 repeat the same command later to go on")
            return False
        self.tell(STAY)
        return True

    async def _send(self, counter: LoadCounter) -> bool:
        """Send what waits; whether nothing waits any more."""
        try:
            for batch, answer in await counter.send():
                if answer.get("quarantined"):
                    self.tell(f"批次 {batch.n} 待查 batch {batch.n} is quarantined: {answer['quarantined']}")
        except (DeskUnreachable, RefusedError) as error:
            self.tell(f"交易记录已保存，下次自动上送 the record is kept and sent again next time: {say(error)}")
            return False
        return True

    @contextmanager
    def _told(self, *kinds: type[OnecardError]) -> Iterator[None]:
        try:
            yield
        except kinds as error:
            self.tell(say(error))


def _serial(view: CardView) -> bytes:
    if view.common is None:
        raise CardError(f"{view.remark}; nothing was done")
    return view.common.card
