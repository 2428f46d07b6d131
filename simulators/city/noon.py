"""The noon of both dates, which ordinary days leave free: where the scripts of what goes wrong find their cards, their
devices and their minutes, and leave their taps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from random import Random

from simulators.city.days import flat, load, local
from simulators.city.facts import Copying, DeskStep, Device, Fault, PlannedCard, Sent, Tap
from simulators.city.parties import CONCESSION, Fleet

NOON = 12 * 60
LOST, LATE = "lost", "late"
"""Marks of routes on which records travel alone."""


class Noon:
    """`taps`, `reports`, `replacements`, `copies` and `faults` hold what the scripts have made happen."""

    def __init__(self, rng: Random, fleet: Fleet, cards: list[PlannedCard], dates: tuple[date, ...]) -> None:
        self._rng, self._fleet, self._dates = rng, fleet, dates
        self._free = [c for c in cards if c.own]
        rng.shuffle(self._free)
        self._foreign = [c for c in cards if not c.own]
        self.taps: list[Tap] = []
        self.reports: list[DeskStep] = []
        self.replacements: list[DeskStep] = []
        self.copies: list[Copying] = []
        self.faults: list[Fault] = []
        # Late and lost batches come from devices whose noon holds nothing but them.
        self._late_bus, *self._buses = fleet.bus[:-1]
        self._lost_pos, *self._tills = fleet.smallpay

    def _take(self, fault: str, fits: Callable[[PlannedCard], bool] = lambda c: True) -> PlannedCard:
        """A card that has no fault yet."""
        for card in self._free:
            if fits(card):
                self._use(card, fault)
                return card
        raise ValueError(f"no card is left for the fault {fault}: the plan needs more cards")

    def _use(self, card: PlannedCard, fault: str) -> None:
        card.fault = fault
        self._free.remove(card)

    def _at(self, day: date, slot: int) -> datetime:
        """An instant in the slot-th ten minutes of noon."""
        return local(day, NOON + 6 + 11 * slot + self._rng.random() * 4)

    def _amount(self) -> int:
        return self._rng.randrange(100, 601, 10)

    def _device(self, card: PlannedCard, sector: str | None = None) -> Device:
        """A bus or a till, at which this card pays more than nothing unless the sector is given."""
        free_ride = CONCESSION[card.card_class] == 0
        bus = sector == "transit" or (sector is None and not free_ride and self._rng.random() < 0.6)
        return self._rng.choice(self._buses if bus else self._tills)

    def _other(self, device: Device) -> Device:
        """Another device of the same sector."""
        pool = self._buses if device.sector == "transit" else self._tills
        return self._rng.choice([d for d in pool if d is not device])

    def _flat(self, card: PlannedCard, device: Device, day: date, slot: int, amount_fen: int = 0) -> Tap:
        tap = flat(card, device, self._at(day, slot), amount_fen or self._amount())
        self.taps.append(tap)
        return tap

    def _pair(self, card: PlannedCard, day: date) -> tuple[Sent, Sent]:
        """Two taps of one purse half an hour apart: the faulty one and the one that shows it."""
        device = self._device(card)
        return self._flat(card, device, day, 2).sents[0], self._flat(card, device, day, 6).sents[0]

    def _load(self, card: PlannedCard, device: Device, day: date, slot: int, amount_fen: int = 3000) -> None:
        purse, channel = card.purse_for(device.sector), self._rng.choice(("901", "902"))
        self.taps.append(
            load(card, self._rng.choice(self._fleet.counters), purse, self._at(day, slot), amount_fen, channel)
        )

    def _fault(self, name: str, sent: Sent, case: str | None) -> None:
        sent.fault = name
        self.faults.append(Fault(name, sent, case))
