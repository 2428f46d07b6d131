"""The books that the city keeps of itself: every purse's value and counters, every PSAM's number, every terminal's
sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from random import Random

from simulators.city.days import load, local
from simulators.city.facts import (
    ALLOWANCE_FEN,
    Batch,
    Copying,
    DeskStep,
    Device,
    Manner,
    PlannedCard,
    Sent,
    Tap,
    TimelineItem,
    business_date,
)
from simulators.city.parties import Fleet
from simulators.city.records import Kind

OPENING_MIN, OPENING_SPAN_S = 130, 30 * 60
"""The first loads fall between 02:10 and 02:40 local time of the first date, after its cut-off and before its first
tap."""
MAX_LOAD_FEN = 50000
ONLINE_START = 1
"""The online counter of a personalised purse: setting its allowance has used one."""


def fund(rng: Random, fleet: Fleet, cards: Sequence[PlannedCard], taps: Iterable[Tap], first: date) -> list[Tap]:
    """The first load of every purse in use: enough for all that the card will pay, or exactly what an overdraft ride
    needs."""
    spends: dict[tuple[str, int], list[Tap]] = defaultdict(list)
    for tap in sorted(taps, key=lambda t: t.at):
        spends[tap.card.serial, tap.purse].append(tap)
    wanted = [
        (card, purse, amount)
        for card in cards
        if card.own and not card.blank
        for purse in card.purses
        for amount in _parts(card, _first_load(rng, spends[card.serial, purse]))
    ]
    loads = []
    for nth, (card, purse, amount) in enumerate(wanted):
        at = local(first, OPENING_MIN) + timedelta(seconds=nth * OPENING_SPAN_S // len(wanted))
        tap = load(card, fleet.counters[nth % len(fleet.counters)], purse, at, amount, ("901", "902")[nth % 2])
        tap.initial = True
        loads.append(tap)
    return loads


def _parts(card: PlannedCard, amount_fen: int) -> tuple[int, ...]:
    """The first value of a purse in one load, or in two where one may not carry so much."""
    if amount_fen > 2 * MAX_LOAD_FEN:
        raise ValueError(
            f"card {card.serial} would spend {amount_fen} fen, more than two loads: plan more cards or fewer debits"
        )
    return (amount_fen,) if amount_fen <= MAX_LOAD_FEN else (MAX_LOAD_FEN, amount_fen - MAX_LOAD_FEN)


def _first_load(rng: Random, taps: Sequence[Tap]) -> int:
    """Fen of the first load, given the purse's taps in order of time."""
    paid = 0
    for nth, tap in enumerate(taps):
        paid += tap.amount_fen if _moves(tap) else 0
        if tap.leaves_fen is not None:
            later = sum(t.amount_fen for t in taps[nth + 1 :] if t.kind is not Kind.LOAD)
            refill = next(t for t in taps[nth + 1 :] if t.kind is Kind.LOAD)
            refill.amount_fen = refill.full_fare_fen = (later // 1000 + 2) * 1000
            return paid + tap.leaves_fen
    total = sum(t.amount_fen for t in taps if _moves(t))
    return (total + rng.randrange(2000, 5000)) // 100 * 100


def _moves(tap: Tap) -> bool:
    """Whether the genuine card's purse falls by the tap."""
    return tap.kind not in (Kind.LOAD, Kind.ACT) and tap.manner not in (Manner.TORN_VOID, Manner.ON_CLONE)


class Bookkeeper:
    """Walks the timeline once and fills in what each tap finds and leaves."""

    def __init__(self, cards: Iterable[PlannedCard]) -> None:
        self._cards = {c.serial: c for c in cards}
        self._numbers: dict[str, int] = defaultdict(int)
        self._transfers: dict[str, int] = {}
        for card in self._cards.values():
            card.value = dict.fromkeys(card.purses, 0)
            card.offline = dict.fromkeys(card.purses, 0)
            card.online = dict.fromkeys(card.purses, ONLINE_START)

    def walk(self, items: Iterable[TimelineItem]) -> None:
        """`items` in order of time."""
        twins = []
        for item in items:
            if isinstance(item, DeskStep):
                self._replacement(item)
            elif isinstance(item, Tap):
                if item.kind is Kind.LOAD:
                    self._load(item)
                elif item.kind is not Kind.ACT:
                    self._debit(item)
                if item.manner is Manner.ON_CLONE:
                    twins.append(item)
            else:
                assert isinstance(item, Copying)
        for tap in twins:
            assert tap.twin is not None
            tap.counter, tap.balance_before_fen = tap.twin.counter, tap.twin.balance_before_fen

    def _replacement(self, step: DeskStep) -> None:
        """The desk knows what has arrived: the old card's values before its late tap (`step.tap`) are what the new one
        may carry."""
        if step.kind == "replacement":
            assert step.tap is not None
            step.values = self._cards[step.card].value | {step.tap.purse: step.tap.balance_before_fen}
            step.amount_fen = self._transfers[step.new_card] = sum(step.values.values())

    def _load(self, tap: Tap) -> None:
        card, purse = tap.card, tap.purse
        if tap.channel == "transfer":
            tap.amount_fen = tap.full_fare_fen = self._transfers[card.serial]
        tap.counter, tap.next_offline = card.online[purse], card.offline[purse]
        tap.balance_before_fen = card.value[purse]
        if tap.cut != "before-commit":
            card.online[purse] += 1
            card.value[purse] += tap.amount_fen

    def _debit(self, tap: Tap) -> None:
        card, purse = tap.card, tap.purse
        self._numbers[tap.device.psam] += 2 if tap.manner is Manner.PSAM_GAP else 1
        tap.terminal_transaction = self._numbers[tap.device.psam]
        if tap.manner is Manner.ON_CLONE:
            return
        tap.counter, tap.balance_before_fen = card.offline[purse], card.value[purse]
        if tap.manner is Manner.TORN_VOID:
            return
        card.offline[purse] += 1
        card.value[purse] -= tap.amount_fen
        floor = -ALLOWANCE_FEN if tap.leaves_fen is not None or not card.own else 0
        if card.value[purse] < floor or (tap.leaves_fen is not None and card.value[purse] != tap.leaves_fen):
            raise ValueError(f"card {card.serial} would hold {card.value[purse]} fen after its tap at {tap.at}")


def number(rng: Random, sents: Iterable[Sent]) -> list[Batch]:
    """Gives every record its sequence and cuts the batches, device by device, in the order in which they were
    stored."""
    stores: dict[Device, list[Sent]] = defaultdict(list)
    for sent in sents:
        stores[sent.device].append(sent)
    batches: list[Batch] = []
    for device in sorted(stores, key=lambda d: (d.terminal, d.psam)):
        store = sorted(stores[device], key=lambda s: (s.stored_at, s.tap.card.serial))
        for sequence, sent in enumerate(store, 1):
            sent.sequence = sequence
        batches += [Batch(device, n, cut) for n, cut in enumerate(_cuts(rng, store), 1)]
    return batches


def _cuts(rng: Random, store: Sequence[Sent]) -> list[list[Sent]]:
    """Runs of 50-200 records (shorter where a day has few), never across a day or routes; what travels alone stays
    together."""
    per_day: dict[date, int] = defaultdict(int)
    for sent in store:
        per_day[business_date(sent.stored_at)] += 1
    cuts: list[list[Sent]] = []
    key, room = None, 0
    for sent in store:
        day = business_date(sent.stored_at)
        here = (day, sent.route, sent.id if sent.kind is Kind.ACT else 0)
        if here != key or room == 0:
            cuts.append([])
            usual = min(rng.randint(50, 200), max(5, -(-per_day[day] // 3)))
            key, room = here, (len(store) if sent.route.alone else usual)
        cuts[-1].append(sent)
        room -= 1
    return cuts
