"""What goes wrong, on purpose: every fault is a script of a few taps of one card at noon, on devices that nothing else
uses then.

A script that loses a record lets the card tap again on the same day, so that the loss shows at that day's close.
Scripts decide only what happens; what must follow is derived in `closing` from the recorded facts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from random import Random

from simulators.city.days import entry, flat, leave, load, local
from simulators.city.facts import Copying, DeskStep, Device, Fault, Manner, PlannedCard, Route, Seal, Sent, Tap
from simulators.city.parties import CONCESSION, FLAT_FEN, Fleet

NOON = 12 * 60
CLAIMS = (
    "flags", "key_index", "generation", "counter", "balance_before_fen", "overdraft_fen", "terminal", "epoch",
    "sequence", "line", "station", "entry_station", "entry_at", "concession", "full_fare_fen", "list_version",
    "fare_version", "operator", "shift",
)  # fmt: skip
"""The claimed fields whose alteration has one undisputed consequence: a debit without a good seal. Not here: `version`
and `reserved` (malformed), `kind` and `purse` (the cryptogram is read by them), `act_id` (zeros in a debit)."""
LOST, LATE = "lost", "late"


def run_length(scale: int) -> int:
    """Records in the late batch, and in the lost one."""
    return min(2 + 8 * (scale - 1), 60)


def cards_needed(scale: int) -> int:
    """Own cards that `Mishaps.inject` takes, with room for the altered claims."""
    return 18 * scale + 7 + 2 * (run_length(scale) + 1) + -(-len(CLAIMS) // 5)


class Mishaps:
    """Injects every fault; leaves `taps`, `steps` (reports, replacements), `copies` and `faults` behind."""

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

    def inject(self, scale: int) -> None:
        """Every single-card fault `scale` times, the altered claims once each."""
        one, two = self._dates
        for card in self._foreign:
            self.foreign(card)
        # Scripts that need a card of some class come first.
        self.late_batch(run_length(scale))
        self.replaced(two)
        self.concession_ended(one)
        for nth in range(scale):
            self.overdraft_ride((one, two)[nth % 2])
        self.clone(one, genuine_first=True)
        self.clone(two, genuine_first=False)
        self.lost_batch(run_length(scale))
        self.load_committed_overnight()
        self.load_lost_overnight()
        for nth in range(scale):
            for script in (self.bad_tac, self.load_in_gap, self.torn_committed, self.clock_ahead, self.missing_exit):
                script(one)
            for script in (
                self.unsealed, self.bad_twin, self.load_committed, self.load_lost, self.psam_gap, self.denylist_before,
                self.denylist_after, self.torn_recovered, self.torn_void, self.replay_sequence, self.replay_counter,
                self.replay_terminal,
            ):  # fmt: skip
                script((one, two)[(nth + len(script.__name__)) % 2])
        self.altered(-(-len(CLAIMS) // min(len(CLAIMS), len(self._free))) if self._free else len(CLAIMS))

    # -- one record is wrong
    # ------------------------------------------------------------------------------------------------

    def bad_tac(self, day: date) -> None:
        card = self._take("bad-tac")
        bad, _ = self._pair(card, day)
        bad.bad_tac = True
        self._fault("bad-tac", bad, "bad-proof")

    def unsealed(self, day: date) -> None:
        card = self._take("unsealed")
        bare, _ = self._pair(card, day)
        bare.seal = Seal.NONE
        self._fault("unsealed", bare, "bad-seal")

    def altered(self, per_card: int) -> None:
        """Every claimed field once; `per_card` of them on one card where cards are few."""
        card, used = self._take("altered-claim"), 0
        for nth, name in enumerate(CLAIMS):
            if used == per_card:
                card, used = self._take("altered-claim"), 0
            day = self._dates[nth % 2]
            device = self._device(card)
            sent = self._flat(card, device, day, 1 + used).sents[0]
            sent.seal, sent.altered = Seal.OLD, name
            if name == "terminal":
                sent.device = self._other(device)
            self._fault(f"altered-claim:{name}", sent, "bad-seal")
            used += 1
            if used == per_card or nth == len(CLAIMS) - 1:
                for each in self._dates:
                    self._flat(card, device, each, 9)

    # -- one debit is told twice
    # --------------------------------------------------------------------------------------------

    def replay_sequence(self, day: date) -> None:
        self._replay(day, "sequence")

    def replay_counter(self, day: date) -> None:
        self._replay(day, "counter")

    def replay_terminal(self, day: date) -> None:
        self._replay(day, "terminal")

    def _replay(self, day: date, name: str) -> None:
        card = self._take(f"replay:{name}")
        true, _ = self._pair(card, day)
        device = self._other(true.device) if name == "terminal" else true.device
        seal = Seal.OLD if name == "terminal" else Seal.GOOD
        stored = local(day, 23 * 60 + 50)
        again = Sent(true.tap, device, stored, Route(0, 1, f"replay {card.serial}"), seal, replayed=name)
        true.tap.sents.append(again)
        self._fault(f"replay:{name}", again, "conflict")

    def bad_twin(self, day: date) -> None:
        """A record with the counter of a true one, and a cryptogram that is none."""
        card = self._take("fork-with-bad-twin")
        true, _ = self._pair(card, day)
        stored = true.tap.at + timedelta(minutes=3)
        forged = Sent(
            true.tap, self._other(true.device), stored, Route(0, 0, f"forged {card.serial}"), forged=True, bad_tac=True
        )
        true.tap.sents.append(forged)
        self._fault("fork-with-bad-twin", forged, "bad-proof")

    def clone(self, day: date, genuine_first: bool) -> None:
        """A copy of the card pays the same as the card, with the same counter; whose record arrives first varies."""
        card = self._take("clone")
        if day == self._dates[0]:
            card.quiet_from = self._at(self._dates[1], -30)
        till = self._rng.choice(self._tills)
        places = [till, self._other(till)] if genuine_first else [self._other(till), till]
        self.copies.append(Copying(self._at(day, 1), card))
        genuine = self._flat(card, places[0], day, 2 if genuine_first else 4, 200)
        # The float falls by the first of the two. Where that is the genuine one, the copy may pay another amount; where
        # it is the copy, the same amount makes the float agree with the genuine card's memory.
        copied = flat(card, places[1], self._at(day, 4 if genuine_first else 2), 260 if genuine_first else 200)
        copied.manner, copied.twin = Manner.ON_CLONE, genuine
        self.taps.append(copied)
        late = copied if genuine_first else genuine
        late.sents[0].route = Route(0, 1, f"clone {card.serial}")
        self._flat(card, till, day, 6)
        self._fault("clone", copied.sents[0], "fork")

    # -- records that never come, or come late
    # -------------------------------------------------------------------------------

    def load_in_gap(self, day: date) -> None:
        card = self._take("load-in-gap")
        device = self._device(card)
        lost = self._flat(card, device, day, 1).sents[0]
        lost.route = Route(None, 0, f"{LOST} {card.serial}")
        self._load(card, device, day, 3)
        self._flat(card, device, day, 5)
        self._flat(card, device, day, 8)
        self._fault("load-in-gap", lost, "card-gap")

    def late_batch(self, cards: int) -> None:
        self._run("batch-late", self._late_bus, Route(1, 0, LATE), cards, "sequence-gap")

    def lost_batch(self, cards: int) -> None:
        self._run("batch-lost", self._lost_pos, Route(None, 0, LOST), cards, "sequence-gap")

    def _run(self, name: str, device: Device, route: Route, cards: int, case: str) -> None:
        """One batch of one device on day one; each of its cards taps again later that day, and so does the device."""
        day, paying = self._dates[0], [c for c in self._free if c.card_class != 3 or device.sector != "transit"]
        sents = []
        for nth, card in enumerate(paying[: max(1, min(cards, len(paying) - 1))]):
            self._use(card, name)
            tap = flat(card, device, self._at(day, 1) + timedelta(seconds=5 * nth), self._amount())
            tap.sents[0].route = route
            sents.append(tap.sents[0])
            self.taps.append(tap)
            other = self._buses if device.sector == "transit" else self._tills
            self._flat(card, self._rng.choice(other), day, 7)
        witness = self._take(f"{name}:after", lambda c: c.card_class != 3 or device.sector != "transit")
        self._flat(witness, device, day, 9)
        self.faults += [Fault(name, sent, case) for sent in sents[:1]]
        for sent in sents:
            sent.fault = name

    def torn_recovered(self, day: date) -> None:
        self._torn("torn-recovered", day, Manner.RECOVERED, None)

    def torn_committed(self, day: date) -> None:
        self._torn("torn-committed", day, Manner.TORN_COMMITTED, "torn")

    def torn_void(self, day: date) -> None:
        self._torn("torn-void", day, Manner.TORN_VOID, "torn")

    def _torn(self, name: str, day: date, manner: Manner, case: str | None) -> None:
        card = self._take(name)
        torn, _ = self._pair(card, day)
        torn.tap.manner = manner
        self._fault(name, torn, case)

    # -- loads whose answer was lost
    # ----------------------------------------------------------------------------------------

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
        card = self._take(name)
        device = self._device(card, "transit")
        self.taps.append(
            flat(card, device, tapped - timedelta(days=1) if loaded.date() < tapped.date() else self._before(loaded), 0)
        )
        tap = load(card, self._rng.choice(self._fleet.counters), 1, loaded, 3000, self._rng.choice(("901", "902")))
        tap.cut, tap.fault = cut, name
        tap.sents.clear()
        self.taps += [tap, flat(card, device, tapped, 0)]
        self.faults.append(Fault(name, None, "load-in-doubt"))

    @staticmethod
    def _before(instant: datetime) -> datetime:
        return instant - timedelta(minutes=15)

    # -- terminals, trips, holders
    # ------------------------------------------------------------------------------------------

    def psam_gap(self, day: date) -> None:
        card = self._take("psam-gap")
        gap, _ = self._pair(card, day)
        gap.tap.manner = Manner.PSAM_GAP
        self._fault("psam-gap", gap, None)

    def clock_ahead(self, day: date) -> None:
        card = self._take("clock-ahead")
        ahead, _ = self._pair(card, day)
        ahead.tap.ahead = timedelta(days=1)
        self._fault("clock-ahead", ahead, "clock")

    def missing_exit(self, day: date) -> None:
        card = self._take("missing-exit")
        gates = [g for g in self._fleet.metro if g.line == 1]
        open_trip = entry(card, gates[0], self._at(day, 1))
        again = entry(card, gates[-1], self._at(day, 5))
        self.taps += [open_trip, again, leave(again, gates[0], self._at(day, 8))]
        self._fault("missing-exit", open_trip.sents[0], "missing-exit")

    def concession_ended(self, day: date) -> None:
        """The card still names a concession that the registry has ended: all its rides of both dates are cases."""
        card = self._take("concession-ended", lambda c: c.card_class != 1)
        card.ended = True
        ride = self._flat(card, self._rng.choice(self._buses), day, 2)
        self._fault("concession-ended", ride.sents[0], "concession")

    def overdraft_ride(self, day: date) -> None:
        """The last ride takes the purse below zero, and a load brings it back."""
        card = self._take("overdraft-ride", lambda c: c.card_class == 1)
        device = self._device(card, "transit")
        ride = self._flat(card, device, day, 2)
        ride.leaves_fen = -self._rng.randrange(10, ride.amount_fen + 1, 10)
        self._load(card, device, day, 4, 20000)
        self._flat(card, device, day, 6)
        self._fault("overdraft-ride", ride.sents[0], None)

    def foreign(self, card: PlannedCard) -> None:
        """A card of the next city, which was loaded nowhere here, rides on its allowance."""
        card.fault = "foreign"
        cheap = [d for d in self._buses if FLAT_FEN[d.line] <= 250]
        for day in self._dates:
            tap = self._flat(card, self._rng.choice(cheap), day, 1 + self._rng.randrange(8))
            self._fault("foreign", tap.sents[0], None)

    def denylist_before(self, day: date) -> None:
        self._denylisted("denylist-before-applied", day, applied=False)

    def denylist_after(self, day: date) -> None:
        self._denylisted("denylist-after-applied", day, applied=True)

    def _denylisted(self, name: str, day: date, applied: bool) -> None:
        card = self._take(name)
        card.quiet_from = self._at(day, 0)
        device = self._device(card)
        self._flat(card, device, day, 0)
        report = DeskStep("report", self._at(day, 2), card.serial, reason="lost")
        self.reports.append(report)
        tap = self._flat(card, device, day, 6)
        tap.list_of = report if applied else None
        self._fault(name, tap.sents[0], "denylist")

    def replaced(self, day: date) -> None:
        """A bus ride of the morning arrives in the evening, when the card's value has long moved to a new card."""
        old = self._take("replaced-card-late-tap", lambda c: c.profile == "shared-purse" and c.card_class != 3)
        new = self._take("replaced-card-late-tap", lambda c: c.profile == "shared-purse")
        old.quiet_from = self._at(day, -30)
        new.blank, new.live_from = True, self._at(self._dates[1], 60)
        late = self._flat(old, self._rng.choice(self._buses), day, 0)
        step = DeskStep("replacement", self._at(day, 2), old.serial, purse=1, new_card=new.serial, tap=late)
        self.replacements.append(step)
        moved = load(new, self._fleet.counters[0], 1, self._at(day, 4), 0, "transfer")
        self.taps.append(moved)
        self._flat(new, self._rng.choice(self._tills), day, 8, 150)
        self._fault("replaced-card-late-tap", late.sents[0], "replaced-card")

    # -- small words
    # --------------------------------------------------------------------------------------------------------

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
