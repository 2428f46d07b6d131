"""What goes wrong around loads: the answer is lost, a record beside it never comes, a terminal's clock tells another
order."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from simulators.city.days import entry, flat, leave, load, local
from simulators.city.facts import Fault, PlannedCard, Route
from simulators.city.noon import LOST, Noon
from simulators.city.parties import CONCESSION

SMALL_FEN = 30
"""Less than any tap of a script costs."""


def _pays(card: PlannedCard) -> bool:
    """Whether a ride costs the card anything: where nothing is ever taken, a lost load could still lie ahead."""
    return CONCESSION[card.card_class] > 0


class LoadMishaps(Noon):
    """The scripts of loads."""

    def load_in_gap(self, day: date) -> None:
        card = self._take("load-in-gap")
        device = self._device(card)
        lost = self._flat(card, device, day, 1).sents[0]
        lost.route = Route(None, 0, f"{LOST} {card.serial}")
        self._load(card, device, day, 3)
        self._flat(card, device, day, 5)
        self._flat(card, device, day, 8)
        self._fault("load-in-gap", lost, "card-gap")
        self._doubt_in_gap(card, day + timedelta(days=1))

    def _doubt_in_gap(self, card: PlannedCard, day: date) -> None:
        """A lost record before a load in doubt, which is smaller than it: only what the load found on the card tells
        that it was credited, and not that less is missing."""
        device = self._device(card)
        self._flat(card, device, day, 1)
        lost = self._flat(card, device, day, 2).sents[0]
        lost.route, lost.fault = Route(None, 0, f"{LOST} {card.serial}"), "load-in-doubt-in-gap"
        at, purse = self._at(day, 4), card.purse_for(device.sector)
        self._cut_load("load-in-doubt-in-gap", card, at, "after-commit", "card-gap", purse, SMALL_FEN)
        self._flat(card, device, day, 6)

    def load_committed(self, day: date) -> None:
        self._doubt("load-doubt-committed", "after-commit", self._at(day, 3), self._at(day, 6))

    def load_lost(self, day: date) -> None:
        self._doubt("load-doubt-lost", "before-commit", self._at(day, 3), self._at(day, 6))

    def load_committed_overnight(self) -> None:
        self._doubt(
            "load-doubt-committed", "after-commit", local(self._dates[0], 22 * 60 + 38), self._at(self._dates[1], 1)
        )

    def load_lost_overnight(self) -> None:
        self._doubt(
            "load-doubt-lost", "before-commit", local(self._dates[0], 22 * 60 + 39), self._at(self._dates[1], 1)
        )

    def _doubt(self, name: str, cut: str, loaded: datetime, tapped: datetime) -> None:
        card = self._take(name, _pays)
        device = self._device(card, "transit")
        self.taps.append(
            flat(card, device, tapped - timedelta(days=1) if loaded.date() < tapped.date() else self._before(loaded), 0)
        )
        self._cut_load(name, card, loaded, cut, "load-in-doubt")
        self.taps.append(flat(card, device, tapped, 0))

    @staticmethod
    def _before(instant: datetime) -> datetime:
        return instant - timedelta(minutes=15)

    def _cut_load(
        self, name: str, card: PlannedCard, at: datetime, cut: str, case: str, purse: int = 1, amount_fen: int = 3000
    ) -> None:
        """A load whose answer is lost; no record is made of it."""
        counter, channel = self._rng.choice(self._fleet.counters), self._rng.choice(("901", "902"))
        tap = load(card, counter, purse, at, amount_fen, channel)
        tap.cut, tap.fault = cut, name
        tap.sents.clear()
        self.taps.append(tap)
        self.faults.append(Fault(name, None, case, tap))

    def load_before_next_load(self, day: date) -> None:
        """Two loads of an evening, and no tap before the next noon: the second one's counter alone shows the first."""
        name = "load-in-doubt-next-load"
        card = self._take(name)
        device = self._device(card, "transit")
        self._flat(card, device, day, 1)
        self._cut_load(name, card, local(day, 22 * 60 + 35), "after-commit", "load-in-doubt")
        counter = self._rng.choice(self._fleet.counters)
        self.taps.append(load(card, counter, 1, local(day, 22 * 60 + 41), 2000, "901"))
        self._flat(card, device, day + timedelta(days=1), 1)

    def gap_or_load(self, day: date, comes_late: bool) -> None:
        """Beside a load in doubt a record is missing, so the value that the card shows next may be explained by both.

        The record is an entry of 0 fen and the load did not happen: clearing cannot know it, and no fen is astray."""
        card = self._take("gap-or-load", _pays)
        gate, other = self._rng.sample([g for g in self._fleet.metro if g.line == 1], 2)
        self._flat(card, self._device(card), day, 1)
        start = entry(card, gate, self._at(day, 3))
        start.sents[0].route = Route(1 if comes_late else None, 0, f"{LOST} {card.serial}")
        start.sents[0].fault = "gap-or-load"
        self.taps += [start, leave(start, other, self._at(day, 7))]
        self._cut_load("gap-or-load", card, self._at(day, 5), "before-commit", "gap-or-load")

    # -- terminals whose clock tells another order than the true one
    # --------------------------------------------------------

    def skewed_clocks(self) -> None:
        """A tap dated before the load that came before it, and one dated after the load that followed it: the load's
        found value and the taps' balances say the true order."""
        card = self._take("skewed-clock")
        one, two = self._dates
        self._skewed(card, one, ahead=-timedelta(minutes=10), loaded=-timedelta(minutes=3))
        self._skewed(card, two, ahead=timedelta(seconds=290), loaded=timedelta(seconds=130))

    def _skewed(self, card: PlannedCard, day: date, ahead: timedelta, loaded: timedelta) -> None:
        """A tap of a clock that is wrong by `ahead`, between two of good clocks; the load is `loaded` after it."""
        device = self._device(card)
        self._flat(card, device, day, 0)
        skewed = self._flat(card, device, day, 4)
        skewed.ahead = ahead
        purse, counter = card.purse_for(device.sector), self._rng.choice(self._fleet.counters)
        self.taps.append(load(card, counter, purse, skewed.at + loaded, 3000, self._rng.choice(("901", "902"))))
        self._flat(card, device, day, 8)
        self._fault("skewed-clock", skewed.sents[0], None)
