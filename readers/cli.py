"""`onecard counter`: what a clerk does with a reader and a card. Texts are Chinese and English."""

import getpass
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from cardcore.authority import PersonalisationAuthority
from cardcore.bcd import encode_digits
from cardcore.card_files import Concession
from cardcore.errors import FormatError, OnecardError, SetupError
from cardcore.order import CardOrder
from cardcore.profile import SUITE_NAMES, load_profile
from cardcore.script import steps
from readers.counter.clerk import Clerk, LoadOrder, Status
from readers.counter.desk import Desk
from readers.counter.loading import LoadCounter
from readers.counter.queue import CounterQueue
from readers.counter.words import masked, parse_yuan, say
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.purse import Till
from readers.pcsc.seek import choose, list_readers
from readers.pcsc.state_file import FILE_NAME
from readers.pcsc.worker import ReaderChannel

PIN = "123456"  # of every city card, until its holder chooses another (docs/card.md)
VALID_YEARS = 10

ReaderName = Annotated[str | None, Parameter(name="--reader", help="part of a name; else the only one with a card")]
StateFolder = Annotated[Path, Parameter(name="--state", help="directory of the counter's journal and queue")]


class FrontDoor(Protocol):
    """What the front door hands in: who holds the keys, and the local time."""

    def personalisation(self, state: Path) -> AbstractAsyncContextManager[PersonalisationAuthority]: ...

    def desk(self, url: str) -> AbstractAsyncContextManager[Desk]: ...

    def now(self) -> datetime: ...


def app_for(front: FrontDoor, clerk: Clerk | None = None) -> cyclopts.App:
    """The clerk's commands; they end with a `Status`. Coroutines: call the app by itself, or `run_async` in a loop."""
    app = cyclopts.App(name="counter", help="读卡、发卡、充值 Read, issue and load cards.")
    counter = _Counter(front, clerk or Clerk(Console()))
    app.command(counter.readers, name="readers")
    app.command(counter.read, name="read")
    app.command(counter.issue, name="issue")
    app.command(counter.load, name="load")
    return app


class _Counter:
    def __init__(self, front: FrontDoor, clerk: Clerk) -> None:
        self._front = front
        self._clerk = clerk

    async def readers(self) -> int:
        """读卡器列表 List the readers and whether a card is on them."""
        return await self._told(self._list)

    async def read(self, *, reader: ReaderName = None) -> int:
        """读卡 Show the card: whose, balance, applications, log. Changes nothing."""

        async def work() -> Status:
            async with _opened(reader) as channel:
                return await self._clerk.read(channel)

        return await self._told(work)

    async def issue(
        self,
        *,
        serial: Annotated[str, Parameter(help="20 digits")],
        issuer: Annotated[str, Parameter(help="8 hex digits")],
        state: StateFolder,
        profile: str = "shared-purse",
        suite: Literal["3des", "sm4"] = "sm4",
        concession: Annotated[Concession, Parameter(name="--class")] = Concession.ORDINARY,
        url: Annotated[str | None, Parameter(help="address of the desk, which registers the card first")] = None,
        operator: Annotated[str | None, Parameter(help="who issues; without it the user of this machine")] = None,
        reader: ReaderName = None,
    ) -> int:
        """发卡 Personalise a blank. After an interruption repeat the same command with the same card.

        The card is good for ten years from the day on which its issuing began.
        """

        async def work() -> Status:
            card, code = encode_digits(serial), _hex(issuer)
            with closing(Journal(_state(state))) as journal:
                entry = journal.find(f"card {card.hex()}")
                if entry is not None and entry.progress is not Progress.RUNNING:
                    end = (
                        "已发卡 is issued"
                        if entry.progress is Progress.ISSUED
                        else f"已作废 is scrapped: {entry.reason}"
                    )
                    raise FormatError(f"{masked(card)} {end}; nothing was done, take the next serial")
                starts = (entry.begun_at if entry else self._front.now()).date()
                order = CardOrder(
                    issuer=code,
                    card=card,
                    suite=SUITE_NAMES[suite],
                    concession=concession,
                    starts=starts,
                    expires=_years_later(starts),
                )
                script = steps(load_profile(profile), order)
                if url is not None:
                    async with self._front.desk(url) as desk:
                        await desk.register(order, profile, suite)
                async with _opened(reader) as channel, self._front.personalisation(state) as authority:
                    bench = Bench(authority, journal, operator or getpass.getuser(), self._front.now)
                    job = Job(order.identity, profile, script, channel, channel.reader)
                    return await self._clerk.issue(bench, job, channel)

        return await self._told(work)

    async def load(
        self,
        *,
        amount: Annotated[str, Parameter(help="yuan, like 50 or 12.50")],
        url: Annotated[str, Parameter(help="address of the desk")],
        terminal: Annotated[int, Parameter(help="this counter's terminal id")],
        channel: Annotated[str, Parameter(help="who takes the money: a party id, or transfer")],
        state: StateFolder,
        purse: Annotated[Literal[1, 3, 4], Parameter(help="application of the purse")] = 1,
        epoch: Annotated[int, Parameter(help="the terminal's epoch in the registry")] = 1,
        ask_pin: Annotated[bool, Parameter(negative="", help="ask for the holder's PIN")] = False,
        reader: ReaderName = None,
    ) -> int:
        """充值 Load a purse. What an earlier load left open is settled first."""

        async def work() -> Status:
            amount_fen = parse_yuan(amount)
            pin = getpass.getpass("密码 PIN: ") if ask_pin else PIN
            till = Till(terminal, b"\0\0" + _four_bytes(terminal), channel)
            with closing(CounterQueue(_state(state))) as queue:
                async with _opened(reader) as way, self._front.desk(url) as desk:
                    order = LoadOrder(till, purse, epoch, amount_fen, pin)
                    return await self._clerk.load(way, LoadCounter(desk, queue), order)

        return await self._told(work)

    async def _list(self) -> Status:
        for view in await list_readers():
            card = "无卡 no card" if view.atr is None else f"有卡 card, ATR {view.atr.hex().upper()}"
            self._clerk.tell(f"{view.name}: {card}")
        return Status.DONE

    async def _told(self, work: Callable[[], Awaitable[Status]]) -> int:
        try:
            return int(await work())
        except OnecardError as error:
            self._clerk.tell(say(error))
            return int(Status.FAILED)


@asynccontextmanager
async def _opened(reader: str | None) -> AsyncIterator[ReaderChannel]:
    channel = ReaderChannel(await choose(reader))
    try:
        yield channel
    finally:
        await channel.aclose()


def _state(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{folder} cannot be the state directory ({error}); name another with --state") from error
    return folder / FILE_NAME


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise FormatError(f"{text!r} is not hex") from error


def _four_bytes(terminal: int) -> bytes:
    try:
        return terminal.to_bytes(4, "big")
    except OverflowError as error:
        raise FormatError(f"{terminal} is no terminal id") from error


def _years_later(day: date) -> date:
    try:
        return day.replace(year=day.year + VALID_YEARS)
    except ValueError:  # 29 February
        return day.replace(year=day.year + VALID_YEARS, day=28)
