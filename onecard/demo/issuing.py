"""Cards and PSAMs, from blanks to issued, by the product's own script through channels."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path

from cardcore.errors import OnecardError
from cardcore.profile import Profile, load_profile
from cardcore.record import Sector, Suite
from cardcore.script import CardOrder, PsamOrder, psam_steps, steps
from keys.personaliser import Personaliser
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job, Scrapped
from simulators.card_os import SoftwareCard
from simulators.city import Plan
from simulators.city.facts import PlannedCard
from simulators.psam import SoftwarePsam

SUITES = {"3des": Suite.TRIPLE_DES, "sm4": Suite.SM4}
VALID_FROM, VALID_TO = date(2026, 1, 1), date(2036, 1, 1)
AT_ONCE = 64
OPERATOR = "demo"


@dataclass(frozen=True, slots=True)
class Issued:
    """The software cards by serial and the software PSAMs by terminal number (both hex)."""

    cards: dict[str, SoftwareCard]
    psams: dict[str, SoftwarePsam]


async def issue(
    plan: Plan, personaliser: Personaliser, state: Path, clock: Callable[[], datetime], advance: Callable[[], None]
) -> Issued:
    """Personalise every PSAM and card of the plan; `advance` is called for each chip that is ready.

    Raises OnecardError when a chip had to be scrapped, which a software chip never should.
    """
    issued = Issued({}, {})
    journal = Journal(state / "readers.sqlite")
    try:
        bench = Bench(personaliser, journal, OPERATOR, clock)
        async for result in bench.personalise_all(_jobs(plan, issued), AT_ONCE):
            if isinstance(result, Scrapped):
                raise OnecardError(f"{result.chip} was scrapped: {result.reason}")
            advance()
    finally:
        journal.close()
    return issued


def _jobs(plan: Plan, issued: Issued) -> Iterable[Job]:
    for number in sorted({device.psam: device for device in plan.devices if not device.online}):
        yield _psam_job(plan, number, issued)
    for card in plan.cards:
        yield _card_job(plan, card, issued)


def _psam_job(plan: Plan, number: str, issued: Issued) -> Job:
    sector = next(device.sector for device in plan.devices if device.psam == number)
    psam = issued.psams[number] = SoftwarePsam.blank("sm4", rng=random.Random(f"{plan.seed}/{number}"))
    terminal_number = bytes.fromhex(number)
    order = PsamOrder(
        terminal_number=terminal_number,
        serial=bytes(4) + terminal_number,
        sector=Sector[sector.upper()],
        suite=Suite.SM4,
    )
    return Job(order.identity, "psam", psam_steps(order), DirectChannel(psam))


def _card_job(plan: Plan, planned: PlannedCard, issued: Issued) -> Job:
    card = issued.cards[planned.serial] = SoftwareCard.blank(
        planned.suite, rng=random.Random(f"{plan.seed}/{planned.serial}")
    )
    order = CardOrder(
        issuer=bytes.fromhex(planned.issuer),
        card=bytes.fromhex(planned.serial),
        suite=SUITES[planned.suite],
        concession=planned.card_class,
        starts=VALID_FROM,
        expires=VALID_TO,
    )
    return Job(order.identity, planned.profile, steps(profile_of(planned.profile), order), DirectChannel(card))


@cache
def profile_of(name: str) -> Profile:
    """A profile of the product, read once."""
    return load_profile(name)
