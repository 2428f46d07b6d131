"""`onecard counter`: what a clerk does with a reader and a card. Texts are Chinese and English."""

import getpass
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from cardcore.authority import PersonalisationAuthority, UpkeepAuthority
from cardcore.card_files import Concession
from cardcore.errors import FormatError, OnecardError, SetupError
from cardcore.order import CardOrder
from cardcore.profile import SUITE_NAMES, load_profile
from cardcore.record import Sector
from readers.counter.clerk import Clerk, LoadOrder, Status
from readers.counter.desk import Desk
from readers.counter.issuing import Issuing, Plan, Planned
from readers.counter.loading import LoadCounter
from readers.counter.psams import PsamPlan
from readers.counter.queue import CounterQueue
from readers.counter.words import parse_yuan, say
from readers.pcsc.batch import OrderT, Register, unregistered
from readers.pcsc.journal import Journal
from readers.pcsc.purse import Till
from readers.pcsc.seek import choose, choose_all, list_readers
from readers.pcsc.state_file import FILE_NAME
from readers.pcsc.trace import Trace
from readers.pcsc.worker import ReaderChannel

PIN = "123456"  # of every city card, until its holder chooses another (docs/card.md)

ReaderName = Annotated[str | None, Parameter(name="--reader", help="part of a name; else the only one with a card")]
ReaderNames = Annotated[
    tuple[str, ...], Parameter(name="--reader", help="part of a name, once for each; else the one with a card, or all")
]
TraceFile = Annotated[Path | None, Parameter(name="--trace", help="append every APDU, without its content")]
Profile = Annotated[str, Parameter(help="profile of the card: what it has, and how it differs from others")]
SuiteName = Literal["3des", "sm4"]
Operator = Annotated[str | None, Parameter(help="who issues; without it the user of this machine")]
StateFolder = Annotated[Path, Parameter(name="--state", help="directory of the counter's journal and queue")]


class FrontDoor(Protocol):
    """What the front door hands in: who holds the keys, and the local time."""

    def personalisation(
        self, state: Path, alone: bool
    ) -> AbstractAsyncContextManager[tuple[PersonalisationAuthority, UpkeepAuthority]]: ...

    def desk(self, url: str) -> AbstractAsyncContextManager[Desk]: ...

    def now(self) -> datetime: ...


def app_for(front: FrontDoor, clerk: Clerk | None = None) -> cyclopts.App:
    """The clerk's commands; they end with a `Status`. Coroutines: call the app by itself, or `run_async` in a loop."""
    app = cyclopts.App(name="counter", help="读卡、发卡、充值 Read, issue and load cards; make PSAMs.")
    counter = _Counter(front, clerk or Clerk(Console(), complaints=Console(stderr=True)))
    app.command(counter.readers, name="readers")
    app.command(counter.read, name="read")
    app.command(counter.issue, name="issue")
    app.command(counter.psam, name="psam")
    app.command(counter.load, name="load")
    return app


class _Counter:
    def __init__(self, front: FrontDoor, clerk: Clerk) -> None:
        self._front = front
        self._clerk = clerk

    async def readers(self) -> int:
        """读卡器列表 List the readers and whether a card is on them."""
        return await self._told(self._list)

    async def read(self, *, reader: ReaderName = None, trace: TraceFile = None) -> int:
        """读卡 Show the card: whose, balance, applications, log. Changes nothing."""

        async def work() -> Status:
            name = await choose(reader)
            async with AsyncExitStack() as stack:
                return await self._clerk.read(await _opened(stack, name, self._traced(stack, trace)))

        return await self._told(work)

    async def issue(
        self,
        *,
        serial: Annotated[str, Parameter(help="20 digits")],
        issuer: Annotated[str, Parameter(help="8 hex digits")],
        state: StateFolder,
        profile: Profile = "shared-purse",
        suite: SuiteName = "sm4",
        concession: Annotated[Concession, Parameter(name="--class")] = Concession.ORDINARY,
        url: Annotated[str | None, Parameter(help="address of the desk, which registers the card first")] = None,
        operator: Operator = None,
        count: Annotated[int, Parameter(help="how many, with consecutive serials, on several readers at once")] = 1,
        reader: ReaderNames = (),
        trace: TraceFile = None,
    ) -> int:
        """发卡 Personalise blanks. After an interruption repeat the same command with the same card.

        A card is good for ten years from the day on which its issuing began.
        """

        async def work() -> Status:
            kind = load_profile(profile)
            plan = Plan(serial, count, _hex(issuer), kind, SUITE_NAMES[suite], concession, self._front.now())
            async with AsyncExitStack() as stack:
                register = await self._registration(stack, url, plan)
                return await self._issue(plan, count, register, state, operator, reader, trace, alone=url is None)

        return await self._told(work)

    async def psam(
        self,
        *numbers: Annotated[str, Parameter(help="terminal number of each, 12 hex digits")],
        sector: Annotated[Literal["transit", "smallpay", "utility"], Parameter(help="what it may debit for")],
        state: StateFolder,
        gate: Annotated[bool, Parameter(negative="", help="for a metro gate: with the ENTRY root")] = False,
        suite: Annotated[SuiteName, Parameter(help="of its own keys; it takes cards of every suite in use")] = "sm4",
        operator: Operator = None,
        reader: ReaderNames = (),
        trace: TraceFile = None,
    ) -> int:
        """发行PSAM Personalise blank PSAMs. After an interruption repeat the same command with the same PSAM.

        In a production store two custodians open this first, for a day: onecard keys issue-psams NUMBER…
        """

        async def work() -> Status:
            named, now = tuple(map(_hex, numbers)), self._front.now()
            plan = PsamPlan(named, Sector[sector.upper()], SUITE_NAMES[suite], gate, now)
            return await self._issue(plan, len(named), unregistered, state, operator, reader, trace)

        return await self._told(work)

    async def _issue(
        self,
        plan: Planned[OrderT],
        count: int,
        register: Register[OrderT],
        state: Path,
        operator: str | None,
        reader: tuple[str, ...],
        trace: Path | None,
        alone: bool = False,
    ) -> Status:
        many = count > 1 or len(reader) > 1
        # Whatever can be wrong is found before the journal is there.
        readers = await choose_all(reader) if many else [await choose(next(iter(reader), None))]
        async with AsyncExitStack() as stack:
            authority, upkeep = await stack.enter_async_context(self._front.personalisation(state, alone))
            notes = self._traced(stack, trace)
            journal = stack.enter_context(closing(Journal(_state(state))))
            who = operator or getpass.getuser()
            issuing = Issuing(self._clerk, journal, authority, upkeep, who, plan, register)
            if many:
                return await issuing.many(readers, notes)
            return await issuing.one(await _opened(stack, readers[0], notes))

    async def load(
        self,
        *,
        amount: Annotated[str, Parameter(help="yuan, like 50 or 12.50")],
        url: Annotated[str, Parameter(help="address of the desk")],
        terminal: Annotated[int, Parameter(help="this counter's terminal id")],
        channel: Annotated[str, Parameter(help="who takes the money: a party id, or transfer")],
        state: StateFolder,
        purse: Annotated[Literal[1, 3, 4, 6], Parameter(help="application of the purse; 6 of a city card")] = 1,
        profile: Profile = "shared-purse",
        epoch: Annotated[int, Parameter(help="the terminal's epoch in the registry")] = 1,
        ask_pin: Annotated[bool, Parameter(negative="", help="ask for the holder's PIN")] = False,
        reader: ReaderName = None,
        trace: TraceFile = None,
    ) -> int:
        """充值 Load a purse. What an earlier load left open is settled first."""

        async def work() -> Status:
            amount_fen = parse_yuan(amount)
            switches = load_profile(profile).switches
            pin = getpass.getpass("密码 PIN: ") if ask_pin else PIN
            till = Till(terminal, b"\0\0" + _four_bytes(terminal), channel)
            name = await choose(reader)
            async with AsyncExitStack() as stack:
                way = await _opened(stack, name, self._traced(stack, trace))
                queue = stack.enter_context(closing(CounterQueue(_state(state))))
                desk = await stack.enter_async_context(self._front.desk(url))
                order = LoadOrder(till, purse, epoch, amount_fen, pin)
                return await self._clerk.load(way, LoadCounter(desk, queue, switches), order)

        return await self._told(work)

    async def _list(self) -> Status:
        for view in await list_readers():
            card = "无卡 no card" if view.atr is None else f"有卡 card, ATR {view.atr.hex().upper()}"
            self._clerk.tell(f"{view.name}: {card}")
        return Status.DONE

    def _traced(self, stack: AsyncExitStack, path: Path | None) -> Trace | None:
        return stack.enter_context(closing(Trace(path, self._front.now))) if path else None

    async def _registration(self, stack: AsyncExitStack, url: str | None, plan: Plan) -> Register[CardOrder]:
        if url is None:
            return unregistered
        desk = await stack.enter_async_context(self._front.desk(url))
        suite = next(name for name, known in SUITE_NAMES.items() if known is plan.suite)
        return lambda order: desk.register(order, plan.profile.name, suite)

    async def _told(self, work: Callable[[], Awaitable[Status]]) -> int:
        try:
            return int(await work())
        except OnecardError as error:
            self._clerk.complain(say(error))
            return int(Status.FAILED)


async def _opened(stack: AsyncExitStack, reader: str, trace: Trace | None) -> ReaderChannel:
    channel = ReaderChannel(reader, trace)
    stack.push_async_callback(channel.aclose)
    return channel


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
