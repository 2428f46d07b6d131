"""What goes wrong, on purpose: every fault is a script of a few taps of one card at noon, on devices that nothing else
uses then.

A script that loses a record lets the card tap again on the same day, so that the loss shows at that day's close.
Scripts decide only what happens; what must follow is derived in `closing` from the recorded facts.
"""

from __future__ import annotations

from datetime import date, timedelta

from simulators.city.days import entry, flat, leave, load, local
from simulators.city.facts import Copying, DeskStep, Device, Fault, Manner, PlannedCard, Route, Seal, Sent
from simulators.city.load_faults import LoadMishaps
from simulators.city.noon import LATE, LOST
from simulators.city.parties import FLAT_FEN

CLAIMS = (
    "kind", "flags", "key_index", "generation", "counter", "balance_before_fen", "overdraft_fen", "terminal", "epoch",
    "sequence", "line", "station", "entry_station", "entry_at", "concession", "full_fare_fen", "list_version",
    "fare_version", "operator", "shift",
)  # fmt: skip
"""The claimed fields whose alteration has one undisputed consequence: a debit without a good seal. Not here: `version`
and `reserved` (malformed), `purse` (the cryptogram is read by it), `act_id` (zeros in a debit). What says torn under
the TAC of a debit is that debit."""

MOST_CLAIMS = 10
"""Claims altered on one card: five on each date leave it time for a last tap that shows them."""


def run_length(scale: int) -> int:
    """Records in the late batch, and in the lost one."""
    return min(2 + 8 * (scale - 1), 60)


def cards_needed(scale: int) -> int:
    """Own cards that `Mishaps.inject` takes, with room for the altered claims."""
    return 21 * scale + 8 + 2 * run_length(scale) + -(-len(CLAIMS) // MOST_CLAIMS)


class Mishaps(LoadMishaps):
    """Injects every fault."""

    def inject(self, scale: int) -> None:
        """Every single-card fault `scale` times, the altered claims once each."""
        one, two = self._dates
        for card in self._foreign:
            self.foreign(card)
        # Scripts that need a card of some class come first.
        witness = self._take("batch-witness", lambda c: c.card_class != 3)
        self.late_batch(run_length(scale), witness)
        self.replaced(two)
        self.concession_ended(one)
        for nth in range(scale):
            self.overdraft_ride((one, two)[nth % 2])
        self.clone(one, genuine_first=True)
        self.clone(two, genuine_first=False)
        self.lost_batch(run_length(scale), witness)
        self.load_committed_overnight()
        self.load_lost_overnight()
        for nth in range(scale):
            self.skewed_clocks()
            self.load_before_next_load(one)
            self.gap_or_load(one, comes_late=nth % 2 == 1)
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
            sent = self._flat(card, device, day, 1 + used // 2).sents[0]
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

    def late_batch(self, cards: int, witness: PlannedCard) -> None:
        self._run("batch-late", self._late_bus, Route(1, 0, LATE), cards)
        self._flat(witness, self._late_bus, self._dates[0], 9)

    def lost_batch(self, cards: int, witness: PlannedCard) -> None:
        self._run("batch-lost", self._lost_pos, Route(None, 0, LOST), cards)
        self._flat(witness, self._lost_pos, self._dates[0], 8)

    def _run(self, name: str, device: Device, route: Route, cards: int) -> None:
        """One batch of one device on day one; each of its cards taps again later that day, and so must the device."""
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
        self.faults += [Fault(name, sent, "sequence-gap") for sent in sents[:1]]
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
        """A card is lost one evening, and its value moves to a new card the next noon. Who has found it has ridden on
        it meanwhile: that record arrives in the evening, too late to be withheld from the new card."""
        old = self._take("replaced-card-late-tap", lambda c: c.card_class != 3)
        new = self._take("replaced-card-late-tap", lambda c: c.profile == "shared-purse")
        lost = DeskStep("report", local(day - timedelta(days=1), 22 * 60 + 41), old.serial, reason="lost")
        self.reports.append(lost)
        old.quiet_from = lost.instant
        new.blank, new.live_from = True, self._at(day, 60)
        late = self._flat(old, self._rng.choice(self._buses), day, 0)
        step = DeskStep("replacement", self._at(day, 2), old.serial, purse=1, new_card=new.serial, tap=late)
        self.replacements.append(step)
        moved = load(new, self._fleet.counters[0], 1, self._at(day, 4), 0, "transfer")
        self.taps.append(moved)
        self._flat(new, self._rng.choice(self._tills), day, 8, 150)
        self._fault("replaced-card-late-tap", late.sents[0], "replaced-card")
