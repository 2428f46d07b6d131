"""Issuing at the counter: one card or PSAM with its clerk, or a batch over several readers."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import date, datetime
from typing import Generic, Protocol

from cardcore.authority import PersonalisationAuthority, UpkeepAuthority
from cardcore.bcd import encode_digits
from cardcore.card_files import Concession
from cardcore.errors import FormatError
from cardcore.order import CardOrder
from cardcore.profile import Profile
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.versions import FIRST_VERSIONS, KeyVersions
from readers.counter.clerk import Clerk, Status
from readers.counter.words import COME, STAGES, STAY, named
from readers.pcsc.batch import Batch, Now, OrderT, Register, Report, Tally
from readers.pcsc.channel import Channel
from readers.pcsc.job import Job, chip_name, chip_number
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench
from readers.pcsc.presence import Presence
from readers.pcsc.trace import Trace
from readers.pcsc.worker import ReaderChannel

VALID_YEARS = 10
MOST_CARDS = 10_000
_SERIAL_DIGITS = 20
# Fetching the next box of blanks takes longer than putting a card back.
_BOX = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be issued: `count` cards from this serial (20 digits) on, all alike; `now` is local.

    Raises FormatError for what no card can be, ProfileError for a profile without that suite.
    """

    serial: str
    count: int
    issuer: bytes
    profile: Profile
    suite: Suite
    concession: Concession
    now: datetime

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_CARDS:
            raise FormatError(f"a batch has 1 to {MOST_CARDS} cards, not {self.count}")
        for number in (0, self.count - 1):
            steps(self.profile, self._order(number, self.now.date(), FIRST_VERSIONS))

    def orders(self, journal: Journal, versions: KeyVersions) -> list[CardOrder]:
        """The orders, with these versions of keys; a card that was begun keeps its day and its versions. Raises
        KeyUseError where a card is still to be begun and its suite is retired or a key of it missing."""
        found = []
        for number in range(self.count):
            order = self._order(number, self.now.date(), versions)
            entry = journal.find(chip_name(order.identity))
            if entry is None:
                # Made only to be refused here, before the first card, and not at the one that is in the reader.
                steps(self.profile, order)
            else:
                order = self._order(number, entry.begun_at.date(), KeyVersions.read(entry.versions))
            found.append(order)
        return found

    def job(self, order: CardOrder, channel: Channel, reader: str) -> Job:
        """The job that makes one of them of the blank behind the channel."""
        return Job(order.identity, self.profile.name, steps(self.profile, order), channel, reader, order.versions)

    def _order(self, number: int, starts: date, versions: KeyVersions) -> CardOrder:
        if len(self.serial) != _SERIAL_DIGITS or not (self.serial.isascii() and self.serial.isdecimal()):
            raise FormatError(f"a serial has {_SERIAL_DIGITS} digits, not {self.serial!r}")
        return CardOrder(
            issuer=self.issuer,
            card=encode_digits(f"{int(self.serial) + number:0{_SERIAL_DIGITS}}"),
            suite=self.suite,
            concession=self.concession,
            starts=starts,
            expires=_years_later(starts),
            versions=versions,
        )


class Planned(Protocol[OrderT]):
    """What is carried out: a `Plan` of cards, or a `PsamPlan`."""

    @property
    def now(self) -> datetime: ...

    def orders(self, journal: Journal, versions: KeyVersions) -> list[OrderT]: ...

    def job(self, order: OrderT, channel: Channel, reader: str) -> Job: ...


@dataclass(frozen=True, slots=True)
class Issuing(Generic[OrderT]):
    """Where a plan is carried out: the clerk, the journal, who issues, and with which keys."""

    clerk: Clerk
    journal: Journal
    authority: PersonalisationAuthority
    upkeep: UpkeepAuthority
    operator: str
    plan: Planned[OrderT]
    register: Register[OrderT]

    async def one(self, channel: ReaderChannel) -> Status:
        """Make the only chip of the plan of the blank in the reader."""
        [order] = self.plan.orders(self.journal, self.authority.key_versions())
        entry = self.journal.find(chip_name(order.identity))
        if entry is not None and entry.progress is not Progress.RUNNING:
            issued = entry.progress is Progress.ISSUED
            end = "已发卡 is issued" if issued else f"已作废 is scrapped: {entry.reason}"
            raise FormatError(f"{named(chip_number(order.identity))} {end}; nothing was done, take the next serial")
        await self.register(order)
        return await self.clerk.issue(self._bench(), self.plan.job(order, channel, channel.reader), channel)

    async def many(self, readers: Sequence[str], trace: Trace | None) -> Status:
        """Make the chips of the plan on all these readers at once, as blanks come."""
        self.clerk.tell(f"{COME}: {', '.join(readers)}")
        orders = self.plan.orders(self.journal, self.authority.key_versions())
        batch = Batch(self._bench(), self.journal, orders, self.plan.job, self._report, self.register)
        async with AsyncExitStack() as stack:
            presence = await stack.enter_async_context(Presence())
            feeds = [_Feed(reader, ReaderChannel(reader, trace), presence) for reader in readers]
            stack.push_async_callback(_close, feeds)
            tally = await batch.run(feeds, _BOX * self.clerk.patience_s)
        self.clerk.tell(counted(tally))
        if tally.left:
            self.clerk.tell("未完成，重复同一命令即可继续 not finished: repeat the same command to go on")
            return Status.OPEN
        return Status.FAILED if tally.scrapped else Status.DONE

    def _bench(self) -> Bench:
        return Bench(self.authority, self.journal, self.operator, lambda: self.plan.now, self.upkeep)

    def _report(self, report: Report) -> None:
        chip = named(report.number) if report.number else ""
        match report.now:
            case Now.STARTED:
                text = f"{chip} {STAY}"
            case Now.STAGE:
                assert report.stage is not None
                text = f"{chip} ✓ {STAGES[report.stage]}"
            case Now.GOOD:
                text = f"{chip} 发卡完成，请换下一张 issued, put the next blank ({counted(report.tally)})"
                text += f"; {report.reason}" if report.reason else ""
            case Now.SCRAPPED:
                text = f"{chip} 请将此卡作废 scrap this card: {report.reason} ({counted(report.tally)})"
            case Now.INTERRUPTED:
                back = "中断，请把同一张卡放回本读卡器 interrupted, put the same card back on this reader"
                text = f"{chip} {back}: {report.reason}"
            case Now.REJECTED:
                text = f"不可用，请拿走此卡 not used, take this card away: {report.reason}"
        self.clerk.tell(f"{report.reader}: {text}")


def counted(tally: Tally) -> str:
    """Stock in = good + scrapped + left."""
    return f"{tally.stock} 张 in = 完成 good {tally.good} + 作废 scrapped {tally.scrapped} + 剩余 left {tally.left}"


@dataclass(frozen=True, slots=True)
class _Feed:
    reader: str
    channel: ReaderChannel
    presence: Presence

    async def insertion(self, after: int) -> int:
        return await self.presence.insertion(self.reader, after)


async def _close(feeds: Sequence[_Feed]) -> None:
    await asyncio.gather(*(feed.channel.aclose() for feed in feeds))


def _years_later(day: date) -> date:
    try:
        return day.replace(year=day.year + VALID_YEARS)
    except ValueError:  # 29 February
        return day.replace(year=day.year + VALID_YEARS, day=28)
