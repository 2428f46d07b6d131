"""Cards and PSAMs, from blanks to issued, by the product's own script through channels, on every core."""

import asyncio
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path

from cardcore.errors import OnecardError
from cardcore.profile import Profile, load_profile
from cardcore.record import Sector, Suite
from cardcore.script import CardOrder, steps
from cardcore.versions import KeyVersions
from keys.store import open_store
from onecard.demo.counter_readers import CounterReaders
from onecard.demo.stage import Stage
from readers.counter.psams import PsamPlan
from readers.pcsc.channel import Channel
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.state_file import FILE_NAME
from simulators.card_os import SoftwareCard
from simulators.city import Plan
from simulators.city.facts import Device, PlannedCard
from simulators.psam import SoftwarePsam

SUITES = {"3des": Suite.TRIPLE_DES, "sm4": Suite.SM4}
VALID_FROM, VALID_TO = date(2026, 1, 1), date(2036, 1, 1)
TRAY = 50
OPERATOR = "demo"


@dataclass(frozen=True, slots=True)
class Issued:
    """The software cards by serial and the software PSAMs by terminal number (both hex)."""

    cards: Mapping[str, SoftwareCard]
    psams: Mapping[str, SoftwarePsam]


@dataclass(frozen=True, slots=True)
class Blank:
    """What one blank is to become: a PSAM of a sector, in a metro gate or not, or a planned card."""

    name: str
    suite: str
    seed: str
    sector: str = ""
    gate: bool = False
    issuer: str = ""
    profile: str = ""
    card_class: int = 0


@contextmanager
def work_force() -> Iterator[ProcessPoolExecutor]:
    """As many processes as there are cores, which load their modules while others still plan or wait.

    On the way out, what has not begun is not done.
    """
    hired = os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(hired, mp_context=spawn, initializer=_arrive)
    try:
        for _ in range(hired):
            processes.submit(profile_of, "shared-purse")
        yield processes
    finally:
        processes.shutdown(cancel_futures=True)


def _arrive() -> None:
    """A process of the work force leaves a signal of the terminal to its employer, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_employer, daemon=True).start()


def _leave_with_employer() -> None:
    employer = multiprocessing.parent_process()
    assert employer is not None, "the work force is spawned"
    employer.join()
    os._exit(1)


async def issue(
    plan: Plan,
    stage: Stage,
    moment: datetime,
    advance: Callable[[int], None],
    readers: CounterReaders,
    processes: Executor,
) -> Issued:
    """Personalise every PSAM and card of the plan at the local `moment`; `advance` is told how many more are ready.

    Cards of the readers go through these. The others go in trays to `processes`; each opens the key store and the
    journal for itself.
    Raises OnecardError when a chip had to be scrapped, which a software chip never should.
    """
    boxes = {device.psam: device for device in plan.devices if not device.online}
    blanks = [
        *(_blank_psam(plan, box) for _, box in sorted(boxes.items())),
        *(_blank_card(plan, card) for card in plan.cards),
    ]
    at_the_counter = [blank for blank in blanks if blank.name in readers.serials]
    blanks = [blank for blank in blanks if blank.name not in readers.serials]
    trays = [blanks[first : first + TRAY] for first in range(0, len(blanks), TRAY)]
    cards: dict[str, SoftwareCard] = {}
    psams: dict[str, SoftwarePsam] = {}

    async def one(tray: Sequence[Blank]) -> None:
        done = asyncio.get_running_loop().run_in_executor(processes, _issue_tray, tray, stage.state, moment)
        some_cards, some_psams = await done
        cards.update(some_cards)
        psams.update(some_psams)
        advance(len(tray))

    async def by_reader() -> None:
        cards.update(await _issue_by_reader(at_the_counter, stage, moment, readers, advance))

    await asyncio.gather(by_reader(), *map(one, trays))
    return Issued({card.serial: cards[card.serial] for card in plan.cards}, psams)


async def _issue_by_reader(
    blanks: Sequence[Blank], stage: Stage, moment: datetime, readers: CounterReaders, advance: Callable[[int], None]
) -> dict[str, SoftwareCard]:
    """Each card in a reader of its own, as at a counter."""
    cards = {blank.name: SoftwareCard.blank(blank.suite, rng=random.Random(blank.seed)) for blank in blanks}
    with closing(Journal(stage.state / FILE_NAME)) as journal:
        personaliser = stage.store.personaliser()
        versions = personaliser.key_versions()
        bench = Bench(personaliser, journal, OPERATOR, lambda: moment)

        async def one(blank: Blank) -> None:
            async with readers.holding(cards[blank.name]) as channel:
                scrapped = await bench.personalise(_card_job(blank, channel, versions))
            if scrapped is not None:
                raise OnecardError(f"{scrapped.chip} was scrapped: {scrapped.reason}")
            advance(1)

        await asyncio.gather(*map(one, blanks))
    return cards


def _blank_psam(plan: Plan, box: Device) -> Blank:
    gate = box.terminal_class == "metro"
    return Blank(box.psam, "sm4", f"{plan.seed}/{box.psam}", sector=box.sector, gate=gate)


def _blank_card(plan: Plan, card: PlannedCard) -> Blank:
    seed = f"{plan.seed}/{card.serial}"
    return Blank(card.serial, card.suite, seed, issuer=card.issuer, profile=card.profile, card_class=card.card_class)


def _issue_tray(
    tray: Sequence[Blank], state: Path, moment: datetime
) -> tuple[dict[str, SoftwareCard], dict[str, SoftwarePsam]]:
    """One tray in a process of its own; the chips come back as objects, memory included."""
    return asyncio.run(_personalise(tray, state, moment))


async def _personalise(
    tray: Sequence[Blank], state: Path, moment: datetime
) -> tuple[dict[str, SoftwareCard], dict[str, SoftwarePsam]]:
    psams = {
        blank.name: SoftwarePsam.blank(blank.suite, rng=random.Random(blank.seed)) for blank in tray if blank.sector
    }
    cards = {
        blank.name: SoftwareCard.blank(blank.suite, rng=random.Random(blank.seed)) for blank in tray if not blank.sector
    }
    with closing(Journal(state / FILE_NAME)) as journal, open_store(state / "keys") as store:
        personaliser = store.personaliser()
        versions = personaliser.key_versions()
        jobs = [_psam_job(blank, psams[blank.name], journal, versions, moment) for blank in tray if blank.sector]
        jobs += (_card_job(blank, DirectChannel(cards[blank.name]), versions) for blank in tray if not blank.sector)
        bench = Bench(personaliser, journal, OPERATOR, lambda: moment)
        async for result in bench.personalise_all(jobs, at_once=TRAY):
            if not isinstance(result, Job):
                raise OnecardError(f"{result.chip} was not issued: {result.reason}")
    return cards, psams


def _psam_job(blank: Blank, psam: SoftwarePsam, journal: Journal, versions: KeyVersions, moment: datetime) -> Job:
    number, sector = bytes.fromhex(blank.name), Sector[blank.sector.upper()]
    plan = PsamPlan((number,), sector, SUITES[blank.suite], blank.gate, moment)
    [order] = plan.orders(journal, versions)
    return plan.job(order, DirectChannel(psam), "in-process")


def _card_job(blank: Blank, channel: Channel, versions: KeyVersions) -> Job:
    order = CardOrder(
        issuer=bytes.fromhex(blank.issuer),
        card=bytes.fromhex(blank.name),
        suite=SUITES[blank.suite],
        concession=blank.card_class,
        starts=VALID_FROM,
        expires=VALID_TO,
        versions=versions,
    )
    return Job(order.identity, blank.profile, steps(profile_of(blank.profile), order), channel, versions=versions)


@cache
def profile_of(name: str) -> Profile:
    """A profile of the product, read once a process."""
    return load_profile(name)
