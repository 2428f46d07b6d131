"""`onecard demo`: the sequence of the two days."""

import asyncio
import gc
import itertools
import json
import signal
import sys
import tempfile
import time as stopwatch
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cardcore.errors import OnecardError, SetupError
from clearing.clock import FileClock
from clearing.close.command import close
from clearing.registry.document import parse_declared, parse_registry
from clearing.registry.take import declare, take
from clearing.store.connect import UNAVAILABLE
from keys.proof import sm3
from onecard.demo.counter_readers import CounterReaders
from onecard.demo.front_desk import FrontDesk, RecordingDesk
from onecard.demo.issuing import Issued, issue, work_force
from onecard.demo.report import Report, judge, show, write
from onecard.demo.stage import Stage, set_up, write_components
from simulators.city import Armer, DeskStep, Plan, Player, Uploader, plan, write_cards, write_papers
from simulators.city.facts import DeskResult
from simulators.city.validators import CityBroken

CITY_TIME = timezone(timedelta(hours=8), "CST")
DATES = (date(2026, 3, 2), date(2026, 3, 3))
FIRST_MORNING = datetime.combine(DATES[0], time(2), CITY_TIME)
CONNECTIONS = 16
SWITCH_S = 0.0005
CLOSE_PAUSES_S = (1, 2, 5, 10)
P = ParamSpec("P")
Result = TypeVar("Result")
console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Tally:
    """What the sequence counts on its way."""

    started: float
    records: int = 0
    upload_s: float = 0.0
    order: Iterator[int] = field(default_factory=itertools.count)


def command(
    *,
    cards: int = 2000,
    debits: int = 20_000,
    seed: int = 1,
    out: Path | None = None,
    state: Path | None = None,
    dsn: str | None = None,
    serve: bool = False,
    pcsc: int = 0,
) -> int:
    """Play two business days of a city, from blank cards to books that two auditors agree with.

    Parameters
    ----------
    cards: how many cards are issued
    debits: offline debits of the first day, at least, metro entries of 0 fen included; the second has about 30 %
    seed: the same seed gives the same city and the same books
    out: where everything goes that a stranger needs to judge the run (docs/demo.md)
    state: database, keys and journal; a new temporary directory, removed at the end, when not given
    dsn: an empty PostgreSQL ≥ 16 of your own instead of the embedded one
    serve: leave the service running at the end, and say where
    pcsc: so many of the cards are issued and loaded through pcscd and virtual readers, as at a counter
    """
    with tempfile.TemporaryDirectory(prefix="onecard-demo-", ignore_cleanup_errors=True) as scratch:
        place = state or (Path.cwd() / "onecard-demo" if serve else Path(scratch) / "state")
        with work_force() as processes:
            city = _planned(seed, cards, debits)
            # The plan lives to the end; a collector that walks it again and again would cost seconds.
            gc.freeze()
            # Taps are played in a thread; the desk's answers must not wait the usual 5 ms behind them each time.
            sys.setswitchinterval(SWITCH_S)
            report = _staged(_run(city, out or Path(scratch) / "out", place, dsn, serve, pcsc, processes))
    show(report, Console(highlight=False))
    return 0 if report.proven else 1


def _staged(run: Coroutine[None, None, Report]) -> Report:
    try:
        return asyncio.run(run)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except CityBroken as error:
        raise OnecardError(
            f"the city's plan and the parts do not agree, so this run proves nothing: {error}"
        ) from error


def _planned(seed: int, cards: int, debits: int) -> Plan:
    try:
        return plan(seed, cards, debits, DATES)
    except ValueError as error:
        raise SetupError(f"this city cannot be planned: {error}") from error


async def _run(
    city: Plan, out: Path, state: Path, dsn: str | None, serve: bool, pcsc: int, processes: Executor
) -> Report:
    tally = Tally(stopwatch.monotonic())
    # Whoever is told to end by a signal leaves nothing running.
    whole = asyncio.current_task()
    assert whole is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    stage, components = await set_up(state, out, dsn, city.seed, FIRST_MORNING)
    played = False
    try:
        write_components(components, out / "test-components.json")
        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        with bars:
            async with CounterReaders(card.serial for card in city.cards[:pcsc]) as readers, stage.kept_up():
                issued, truth_digest = await _prepare(stage, city, readers, processes, bars)
                await _play(stage, city, issued, readers, tally, bars)
        report = await judge(stage, city, tally.records, tally.upload_s, truth_digest, tally.started, processes)
        write(report, out)
        played = True
    finally:
        await stage.close(keep_running=serve and played)
    if serve and stage.service is not None:
        where = f"the service (process {stage.service.pid}) is running at {stage.base_url}"
        console.print(f"{where}; its state is in {stage.state}", markup=False)
    return report


async def _prepare(
    stage: Stage, city: Plan, readers: CounterReaders, processes: Executor, bars: Progress
) -> tuple[Issued, str]:
    """Cards and PSAMs; meanwhile the city's papers, and the service. The truth's digest is told before any upload."""
    chips = len(city.cards) + len({device.psam for device in city.devices if not device.online})
    issuing = bars.add_task("personalise cards and PSAMs", total=chips)
    moment = FIRST_MORNING.replace(tzinfo=None)
    try:
        async with asyncio.TaskGroup() as both:
            opened = both.create_task(_open(stage, city))
            issued = both.create_task(
                issue(city, stage, moment, lambda count: bars.advance(issuing, count), readers, processes)
            )
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return issued.result(), opened.result()


async def _open(stage: Stage, city: Plan) -> str:
    """Papers, registry, service: everything that the first load needs but its card. Returns the truth's digest."""
    truth_digest = sm3(await asyncio.to_thread(write_papers, city, stage.out)).hex()
    console.print(f"truth.jsonl has the SM3 digest {truth_digest}")
    await _register(stage)
    await stage.start_service()
    return truth_digest


async def _register(stage: Stage) -> None:
    async with stage.pool.acquire() as connection, connection.transaction():
        await take(connection, parse_registry((stage.out / "registry.json").read_bytes()))
        await declare(connection, parse_declared((stage.out / "declared.jsonl").read_text(encoding="utf-8")))


async def _play(
    stage: Stage, city: Plan, issued: Issued, readers: CounterReaders, tally: Tally, bars: Progress
) -> None:
    player = Player(city, issued.cards, issued.psams)
    uploader = Uploader(city, player, stage.base_url, directory=stage.out, counter=tally.order)
    clock = FileClock(stage.clock_file)
    armer = Armer(city, player, uploader)
    await _aside(uploader, armer.arm, None)
    async with RecordingDesk(stage.base_url, stage.out / "desk.jsonl", tally.order, clock.now) as desk:
        front = FrontDesk(city, issued, desk, readers)
        for day in city.dates:
            await _play_day(stage, player, uploader, front, day, bars)
            night = datetime.combine(day + timedelta(days=1), time(1, 59, 50), CITY_TIME)
            stage.set_clock(night)
            await _upload(uploader, city, day, tally, bars)
            await _aside(uploader, armer.arm, day)
            stage.set_clock(night + timedelta(seconds=10))
            await _close(stage, clock, day, tally, bars)
    write_cards(player, stage.out)


async def _play_day(
    stage: Stage, player: Player, uploader: Uploader, front: FrontDesk, day: date, bars: Progress
) -> None:
    """Taps are played in a thread; meanwhile the desk serves cards that they can do without."""
    playing = bars.add_task(f"{day}: loads, acts and reports", total=None)

    async def attend(steps: Sequence[DeskStep]) -> None:
        stage.set_clock(steps[0].instant.astimezone(UTC))
        results = await asyncio.gather(*map(front.do, steps))
        # An act's record is sent at once; waiting for its answer must not keep others from starting the service again.
        await _aside(uploader, _tell, player, steps, results)
        bars.advance(playing, len(steps))

    at_the_desk: asyncio.Task[None] | None = None
    handed_out = player.steps(day)
    try:
        while (steps := await _aside(uploader, next, handed_out, None)) is not None:
            if at_the_desk is not None:
                await at_the_desk
            at_the_desk = asyncio.create_task(attend(steps)) if steps else None
    finally:
        if at_the_desk is not None:
            at_the_desk.cancel()
            await asyncio.wait([at_the_desk])
    bars.update(playing, total=bars.tasks[playing].completed)


def _tell(player: Player, steps: Sequence[DeskStep], results: Sequence[DeskResult]) -> None:
    for step, result in zip(steps, results, strict=True):
        player.done(step, result)


async def _aside(uploader: Uploader, work: Callable[P, Result], *args: P.args, **named: P.kwargs) -> Result:
    """What waits for answers to uploads, in a thread; when this is cancelled, nothing is sent any more."""
    try:
        return await asyncio.to_thread(work, *args, **named)
    except asyncio.CancelledError:
        uploader.stop()
        raise


async def _upload(uploader: Uploader, city: Plan, day: date, tally: Tally, bars: Progress) -> None:
    uploading = bars.add_task(f"{day}: uploads", total=len(city.deliveries[day]))
    uploaded = await _aside(uploader, uploader.day, day, threads=CONNECTIONS)
    bars.update(uploading, completed=len(city.deliveries[day]))
    tally.records += uploaded.records
    tally.upload_s += uploaded.seconds


async def _close(stage: Stage, clock: FileClock, day: date, tally: Tally, bars: Progress) -> None:
    closing = bars.add_task(f"{day}: close", total=1)
    await _close_patiently(stage, day, clock)
    line = {"order": next(tally.order), "close": day.isoformat(), "at": clock.now().isoformat()}
    with (stage.out / "uploads" / "index.jsonl").open("a", encoding="utf-8") as index:
        index.write(json.dumps(line) + "\n")
    bars.advance(closing)


async def _close_patiently(stage: Stage, day: date, clock: FileClock) -> None:
    """As an accountant does whose database died meanwhile: a close that was not committed left no trace."""
    for pause_s in CLOSE_PAUSES_S:
        try:
            await close(stage.pool, day, clock)
            return
        except UNAVAILABLE:
            await asyncio.sleep(pause_s)
    await close(stage.pool, day, clock)
