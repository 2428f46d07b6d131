"""The ordinary days: who rides, buys and pays where and when. Noon (12:00-14:00) is left free for what goes wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from random import Random

from simulators.city.facts import Device, PlannedCard, Sent, Tap
from simulators.city.parties import CONCESSION, FLAT_FEN, Fleet, metro_fare
from simulators.city.records import CHINA, Kind

SPELLS = ((6 * 60, 12 * 60), (14 * 60, 22 * 60 + 30))
"""The two spells of a day in which ordinary taps fall, minutes of local time."""
EVENING = (22 * 60 + 45, 150)
"""When the online acts begin, and how long they go on, minutes."""
SLOTS_MIN = (10, 6, 4, 3)
"""Minutes between the taps of a card: the widest that leaves room for the day's debits is taken."""
THRIFTY_FEN = 14000
"""A card that has paid so much on a day rides the cheapest bus from then on: a first load has a limit."""
LONGEST_RIDE = timedelta(minutes=100)
"""A trip by metro; an entry that is older than its longest journey is not believed any more (`gates.LONGEST`)."""
MOST_PER_DAY = sum((end - start) // SLOTS_MIN[-1] for start, end in SPELLS)


def local(day: date, minutes: float) -> datetime:
    """The UTC instant of a local time of day, whole seconds."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=CHINA)
    return (midnight + timedelta(seconds=int(minutes * 60))).astimezone(UTC)


def sent_of(tap: Tap) -> Tap:
    """The tap with the one record that its own device makes of it."""
    tap.sents.append(Sent(tap, tap.device, tap.at))
    return tap


def flat(card: PlannedCard, device: Device, at: datetime, amount_fen: int) -> Tap:
    """A bus ride (the amount follows from line and class), a purchase or a bill."""
    full = amount_fen
    if device.sector == "transit":
        full = FLAT_FEN[device.line]
        amount_fen = full * CONCESSION[card.card_class] // 100
    purse = card.purse_for(device.sector)
    return sent_of(Tap(Kind.DEBIT, card, device, purse, at, amount_fen, full, transaction_type=0x06))


def entry(card: PlannedCard, gate: Device, at: datetime) -> Tap:
    """A metro entry: a composite purchase of 0 fen."""
    return sent_of(Tap(Kind.ENTRY, card, gate, 1, at, 0, 0, transaction_type=0x09))


def leave(start: Tap, gate: Device, at: datetime) -> Tap:
    """The exit that closes a trip, at the fare of its line."""
    full = metro_fare(gate.line, start.device.station, gate.station)
    amount = full * CONCESSION[start.card.card_class] // 100
    return sent_of(Tap(Kind.EXIT, start.card, gate, 1, at, amount, full, entry=start, transaction_type=0x09))


class OrdinaryDay:
    """Itineraries of one date; `taps` yields them card by card."""

    def __init__(self, rng: Random, fleet: Fleet, day: date) -> None:
        self._rng, self._fleet, self._day = rng, fleet, day
        self._slot_min = SLOTS_MIN[0]
        self._spent: dict[PlannedCard, int] = defaultdict(int)
        cheapest = min(FLAT_FEN[bus.line] for bus in fleet.bus)
        self._cheap = [bus for bus in fleet.bus if FLAT_FEN[bus.line] == cheapest]
        self._lines = {gate.line: [g for g in fleet.metro if g.line == gate.line] for gate in fleet.metro}

    def taps(self, cards: Sequence[PlannedCard], debits: int, acts: int, reloads: int) -> Iterator[Tap]:
        """At least `debits` taps spread over the cards that are in use, and among them some acts and later loads.

        Raises ValueError when the cards are too few to tap that often."""
        spells = {c: [s for s in SPELLS if self._in_use(c, s)] for c in cards if c.own}
        users = [c for c, free in spells.items() if free]
        for self._slot_min in SLOTS_MIN:
            slots = {c: sum((end - start) // self._slot_min for start, end in spells[c]) for c in users}
            if debits <= sum(slots.values()):
                break
        else:
            raise ValueError(
                f"{debits} debits a day need some {debits // MOST_PER_DAY + 25} cards: plan more cards or fewer debits"
            )
        for card, wanted in _shares(self._rng, slots, debits).items():
            yield from self._itinerary(card, spells[card], slots[card], wanted)
        night = local(self._day, sum(EVENING))
        calm = [c for c in users if len(spells[c]) == len(SPELLS) and not (c.quiet_from and night > c.quiet_from)]
        for nth, card in enumerate(self._rng.choices(calm, k=acts)):
            yield self._act(card, self._fleet.acts[nth % len(self._fleet.acts)])
        for card in _calm(self._rng, [c for c in calm if c.fault is None], reloads):
            yield self._reload(card)

    def _in_use(self, card: PlannedCard, spell: tuple[int, int]) -> bool:
        start, end = local(self._day, spell[0]), local(self._day, spell[1])
        return not (card.live_from and start < card.live_from) and not (card.quiet_from and end > card.quiet_from)

    def _itinerary(
        self, card: PlannedCard, spells: Sequence[tuple[int, int]], slots: int, wanted: int
    ) -> Iterator[Tap]:
        """`wanted` taps, spread over the spells in proportion to their lengths; a metro trip takes two neighbouring
        slots."""
        left = wanted
        for nth, (start, end) in enumerate(spells):
            room = (end - start) // self._slot_min
            count = left if nth == len(spells) - 1 else max(left - (slots - room), min(room, wanted * room // slots))
            left -= count
            yield from self._spell(card, start, end, count)

    def _spell(self, card: PlannedCard, start: int, end: int, count: int) -> Iterator[Tap]:
        rng = self._rng
        times = [local(self._day, start + (i + rng.random() / 2) * (end - start) / count) for i in range(count)]
        i = 0
        while i < count:
            draw = rng.random()
            if self._spent[card] > THRIFTY_FEN:
                yield self._paid(flat(card, rng.choice(self._cheap), times[i], 0))
            elif draw < 0.28 and i + 1 < count:
                gates = rng.choice(list(self._lines.values()))
                start_tap = entry(card, rng.choice(gates), times[i])
                yield start_tap
                yield self._paid(leave(start_tap, rng.choice(gates), min(times[i + 1], times[i] + LONGEST_RIDE)))
                i += 1
            elif draw < 0.80:
                yield self._paid(flat(card, rng.choice(self._fleet.bus), times[i], 0))
            elif draw < 0.94:
                yield self._paid(flat(card, rng.choice(self._fleet.smallpay), times[i], rng.randrange(100, 901, 10)))
            else:
                yield self._paid(flat(card, rng.choice(self._fleet.utility), times[i], rng.randrange(300, 1501, 25)))
            i += 1

    def _paid(self, tap: Tap) -> Tap:
        self._spent[tap.card] += tap.amount_fen
        return tap

    def _evening(self) -> datetime:
        """An instant after the last ordinary tap, so that an online act stands minutes from any tap of its card; some
        are after midnight, which is the same business date."""
        return local(self._day, EVENING[0] + self._rng.random() * EVENING[1])

    def _act(self, card: PlannedCard, device: Device) -> Tap:
        rng = self._rng
        amount = rng.randrange(500, 30001, 10)
        kind, split = 0xA3, {"fund": amount}
        if device.sector == "medical":
            fund = amount * rng.randrange(30, 90) // 100
            kind, split = 0xA2, {"fund": fund, "account": amount - fund}
        elif rng.random() < 0.5:
            kind = 0xA1
        at, purse = self._evening(), 2 if device.sector == "social" else 5
        return sent_of(Tap(Kind.ACT, card, device, purse, at, amount, amount, transaction_type=kind, split=split))

    def _reload(self, card: PlannedCard) -> Tap:
        rng = self._rng
        purse = rng.choice(card.purses)
        at = local(self._day, SPELLS[0][1] + 5 + rng.random() * 110)
        return load(
            card,
            rng.choice(self._fleet.counters),
            purse,
            at,
            rng.randrange(2000, 8001, 1000),
            rng.choice(("901", "902")),
        )


def load(card: PlannedCard, counter: Device, purse: int, at: datetime, amount_fen: int, channel: str) -> Tap:
    """A load at a counter; the record follows when the card has answered."""
    return sent_of(
        Tap(Kind.LOAD, card, counter, purse, at, amount_fen, amount_fen, transaction_type=0x02, channel=channel)
    )


def _shares(rng: Random, slots: dict[PlannedCard, int], wanted: int) -> dict[PlannedCard, int]:
    """`wanted` taps over the cards, uneven, none above its number of slots."""
    weights = {c: room * (0.4 + rng.random()) for c, room in slots.items()}
    total = sum(weights.values())
    shares = {c: min(slots[c], int(wanted * w / total)) for c, w in weights.items()}
    missing = wanted - sum(shares.values())
    while missing > 0:
        for card in rng.sample(list(slots), min(missing, len(slots))):
            if shares[card] < slots[card]:
                shares[card] += 1
                missing -= 1
    return shares


def _calm(rng: Random, cards: Iterable[PlannedCard], count: int) -> list[PlannedCard]:
    pool = list(cards)
    return rng.sample(pool, min(count, len(pool)))
