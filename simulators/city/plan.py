"""`plan` puts a city together: parties, cards, ordinary days, mishaps, books, batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from random import Random

from simulators.city import ceilings
from simulators.city.arrivals import Verdicts, deliver
from simulators.city.bookkeeping import Bookkeeper, fund, number
from simulators.city.days import OrdinaryDay
from simulators.city.facts import Declared, Device, Fault, Plan, Route, Sent, Tap, TimelineItem, business_date
from simulators.city.faults import Mishaps, cards_needed
from simulators.city.parties import Fleet, fleet, issue, registry
from simulators.city.records import Kind

SECOND_DAY_PERCENT = 30
MOST_TWIN_TAPS = 60
FEWEST_DEBITS = 200
"""With fewer, one city in some thousands has nobody who rides the bus that has a twin."""
FOREIGN_CARDS = 2


def plan(seed: int, cards: int, debits: int, dates: Sequence[date]) -> Plan:
    """Two dates of a city with `cards` cards and at least `debits` offline debits on the first date. The same arguments
    give the same plan.

    Raises ValueError when the cards are too few for the faults or for so many debits, the debits too few for the
    faults, or the dates not two consecutive ones."""
    one, two = dates
    if (two - one).days != 1:
        raise ValueError("a city lives two consecutive dates")
    for what, given, fewest in (
        ("cards", cards, cards_needed(1) + FOREIGN_CARDS), ("debits", debits, FEWEST_DEBITS),
    ):  # fmt: skip
        if given < fewest:
            raise ValueError(f"its faults need at least {fewest} {what}, {given} are given; say --{what} {fewest}")
    rng, devices = Random(f"{seed}/city"), fleet(debits)
    holders = issue(rng, cards, foreign=max(FOREIGN_CARDS, cards // 500))
    own = sum(c.own for c in holders)
    scale = max(s for s in range(1, min(6, 2 + debits // 20000)) if s == 1 or 2 * cards_needed(s) <= own)
    mishaps = Mishaps(rng, devices, holders, (one, two))
    mishaps.inject(scale)
    taps = list(mishaps.taps)
    for day, wanted in ((one, debits), (two, -(-debits * SECOND_DAY_PERCENT // 100))):
        ordinary = OrdinaryDay(rng, devices, day)
        taps += ordinary.taps(holders, wanted, acts=max(6, wanted // 100), reloads=max(3, cards // 20))
    faults = [*mishaps.faults, _twins(rng, devices, taps, one)]
    taps += fund(rng, devices, holders, taps, one)

    items: list[TimelineItem] = [*taps, *mishaps.reports, *mishaps.replacements, *mishaps.copies]
    items.sort(key=_instant)
    Bookkeeper(holders).walk(items)
    timeline: dict[date, list[TimelineItem]] = {day: [] for day in (one, two)}
    for item in items:
        timeline[business_date(_instant(item))].append(item)

    sents = sorted(
        (s for t in taps for s in t.sents), key=lambda s: (s.stored_at, s.tap.card.serial, s.device.terminal)
    )
    for nth, sent in enumerate(sents, 1):
        sent.id = nth
    verdicts = Verdicts(mishaps.reports, mishaps.replacements, (one, two))
    batches = number(rng, sents)
    for sent in sents:
        verdicts.judge(sent)
    deliveries, batch_faults = deliver(rng, batches, (one, two), scale)
    declared, off_by_one = _declare(sents, (one, two))
    return Plan(
        seed, debits, (one, two), registry((one, two), devices.all, holders, ceilings.policy(taps)), tuple(holders),
        devices.all, timeline,
        sents,
        deliveries, [*faults, *batch_faults, off_by_one], mishaps.reports, mishaps.replacements, declared,
    )  # fmt: skip


def _instant(item: TimelineItem) -> datetime:
    return item.at if isinstance(item, Tap) or not hasattr(item, "instant") else item.instant


def _twins(rng: Random, devices: Fleet, taps: Sequence[Tap], day: date) -> Fault:
    """Some ordinary rides of the last bus were made at its twin, which counts and numbers for itself."""
    bus = devices.bus[-1]
    rides = sorted((t for t in taps if t.device is bus and business_date(t.at) == day), key=lambda t: t.at)
    # A ride of an ended concession is a case under a sequence that both boxes use: one of the two must be without one.
    moved = [t for t in rides[::3] if t.fault is None and not t.card.ended][:MOST_TWIN_TAPS]
    for tap in moved:
        tap.device = devices.twin
        for sent in tap.sents:
            sent.device, sent.route, sent.fault = devices.twin, Route(0, 1, "twin"), "terminal-twins"
    if not moved:
        raise ValueError("the twin terminal has no ride on the first date: plan more debits")
    return Fault("terminal-twins", moved[0].sents[0], "sequence-conflict")


def _declare(sents: Sequence[Sent], dates: Sequence[date]) -> tuple[list[Declared], Fault]:
    """Every operator's total of what its own devices did, whether it arrived, late or never; on the second
    date the last utility errs by a fen, or whoever is last where nobody paid a bill."""
    totals: dict[tuple[int, str, date], list[int]] = defaultdict(lambda: [0, 0])
    for sent in sents:
        if sent.kind in (Kind.DEBIT, Kind.ENTRY, Kind.EXIT, Kind.ACT) and not sent.replayed and not sent.forged:
            device: Device = sent.tap.device
            total = totals[device.operator, device.sector, sent.origin]
            total[0] += 1
            total[1] += sent.tap.amount_fen
    wrong = max((key for key in totals if key[2] == dates[1]), key=lambda key: (key[1] == "utility", *key))
    totals[wrong][1] += 1
    return [Declared(*key, *total) for key, total in sorted(totals.items())], Fault(
        "operator-total-off-by-one", None, "operator-total"
    )
