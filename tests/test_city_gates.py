"""Threat T6: a phone between card and metro gate. What the gates write, and that no false entry is ever priced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.card_files import MetroRecord
from cardcore.errors import FormatError
from cardcore.metro import judge_entry
from simulators.card_os import SoftwareCard
from simulators.city.days import entry, flat, leave
from simulators.city.facts import FOREIGN, OWN, DeskStep, Device, Manner, PlannedCard, Tap
from simulators.city.gates import LONGEST, Finding, crc16
from simulators.city.gates import Rider as Passenger
from simulators.city.parties import METRO_FARE
from simulators.city.parts import PurseView
from simulators.city.records import CHINA, Kind, TapRecord, bcd_instant
from simulators.city.validators import CityBroken, Validator
from simulators.nvm import TearPoint
from simulators.psam import SoftwarePsam
from tests.city_side import Issuer, cbc_last, derive, root

NINE = datetime(2026, 3, 2, 1, tzinfo=UTC)
RICH_FEN = 100_000_000
GATES = [Device(111001 + nth, 111, "transit", "metro", f"791001{111000 + nth:06d}", 1, 1 + 3 * nth) for nth in range(4)]
BUS = Device(101001, 101, "transit", "bus", "791001101000", 11)
SHARED, ALONE = "shared-purse", "purse-per-sector"


@dataclass
class Relay:
    """The phone: shows a gate another metro record than the card's."""

    card: SoftwareCard
    shows: Callable[[bytes], bytes] | None = None
    seen: bytes = b""

    def transmit(self, apdu: bytes) -> bytes:
        answer = self.card.transmit(apdu)
        if apdu[:3] != b"\x00\xb2\x21":
            return answer
        self.seen = answer[:-2]
        return self.shows(self.seen) + answer[-2:] if self.shows else answer

    def power_on(self) -> bytes:
        return self.card.power_on()

    def clone(self) -> Self:
        raise AssertionError("a phone copies no card")

    def tear_next(self, point: TearPoint | None) -> None:
        self.card.tear_next(point)

    def purses(self) -> Mapping[int, PurseView]:
        return self.card.purses()


@dataclass
class Counted:
    """A PSAM in a slot, and how often it was asked."""

    psam: SoftwarePsam
    asked: Counter[str] = field(default_factory=Counter)

    def power_on(self) -> bytes:
        return self.psam.power_on()

    def transmit(self, apdu: bytes) -> bytes:
        self.asked[apdu[:2].hex()] += 1
        return self.psam.transmit(apdu)


@dataclass
class Rider:
    """A card with money in the hands of somebody with a phone, and the city's knowledge of it."""

    planned: PlannedCard
    relay: Relay
    station: Mapping[str, Validator]
    now: datetime = NINE

    @classmethod
    def of(cls, issuer: Issuer, station: Mapping[str, Validator], serial: int, profile: str, whose: str = OWN) -> Rider:
        suite = ("3des", "sm4")[serial % 2]
        planned = PlannedCard(f"0310{whose[4:]}01{serial:010d}", whose, profile, suite, 1)
        card = issuer.card(planned)
        index = 0x11 if suite == "sm4" else 0x01
        step = DeskStep("load", NINE, planned.serial, 1, terminal_number="0" * 12, issuer=whose, suite=suite,
                        key_index=index, amount_fen=RICH_FEN)  # fmt: skip
        issuer.load(card, step)
        return cls(planned, Relay(card), station)

    def tap(self, tap: Tap) -> TapRecord:
        """A tap of this card now, with what the plan would know of the purse."""
        purse = self.relay.card.purses()[1]
        tap.counter, tap.balance_before_fen = purse.offline, purse.balance_fen
        return self.station[tap.device.psam].tap(self.relay, tap, 0)

    def enter(self, gate: Device, manner: Manner = Manner.PLAIN) -> Tap:
        self.now += timedelta(minutes=3)
        start = entry(self.planned, gate, self.now)
        start.manner = manner
        self.tap(start)
        return start

    def leave(self, start: Tap | None, gate: Device, manner: Manner = Manner.PLAIN) -> TapRecord:
        """An exit that is priced by an entry, or, where that must not be believed, without one."""
        self.now += timedelta(minutes=20)
        most = METRO_FARE[gate.line][2]
        without = Tap(Kind.EXIT, self.planned, gate, 1, self.now, most, most, transaction_type=9)
        end = leave(start, gate, self.now) if start else without
        end.manner = manner
        return self.tap(end)

    def record(self) -> bytes:
        """The metro record as the card has it."""
        card = self.relay.card
        card.power_on()
        card.transmit(bytes.fromhex("00A4040008A00000063201010500"))
        return card.transmit(bytes.fromhex("00B221D030"))[:-2]


@dataclass
class City:
    issuer: Issuer
    psams: Mapping[str, Counted]
    station: Mapping[str, Validator]
    serial: int = 0

    def rider(self, profile: str = SHARED, whose: str = OWN) -> Rider:
        self.serial += 1
        return Rider.of(self.issuer, self.station, self.serial, profile, whose)


@pytest.fixture(scope="module")
def city() -> City:
    issuer = Issuer(4)
    psams = {box.psam: Counted(issuer.psam(box.psam, box.sector, gate=box is not BUS)) for box in (*GATES, BUS)}
    return City(issuer, psams, {box.psam: Validator(box, psams[box.psam]) for box in (*GATES, BUS)})


def mac_of(rider: Rider, record: bytes) -> bytes:
    """The contract's MAC, by the tests' own reading of it."""
    issuer, serial = bytes.fromhex(rider.planned.issuer), bytes.fromhex(rider.planned.serial)
    key = derive(4, derive(4, root(4, "ENTRY"), issuer * 2), serial[2:])
    return cbc_last(4, key, b"OCM1" + serial + b"\x01" + record[:38])[:8]


def resealed(record: bytes) -> bytes:
    """An edited record with its check sum made right."""
    return record[:46] + crc16(record[:46])


@pytest.mark.parametrize("whose", [OWN, FOREIGN])
@pytest.mark.parametrize("profile", [SHARED, ALONE])
def test_what_the_gates_write(city: City, profile: str, whose: str) -> None:
    rider = city.rider(profile, whose)
    start = rider.enter(GATES[0])
    record = rider.record()
    assert record[:15].hex() == "212e00010001000120260302090300" and record[15:21].hex() == GATES[0].psam
    assert record[21:38] == bytes(15) + b"\0\0" and record[38:46] == mac_of(rider, record)
    told = rider.leave(start, GATES[3])
    assert (told.flags, told.entry_station, told.amount_fen) == (0, 1, 650)
    left = rider.record()
    assert left[3] == 2 and left[4:21] == record[4:21]
    assert left[21:38].hex() == "0001000a" + "20260302092300" + "0000028a" + "0001"
    assert left[38:46] == mac_of(rider, left) and left == resealed(left)


def test_a_gate_asks_its_psam_no_more_than_it_must(city: City) -> None:
    rider, gate, psam = city.rider(), city.station[GATES[0].psam], city.psams[GATES[0].psam]
    start = entry(rider.planned, GATES[0], NINE)
    record = rider.tap(start)
    psam.asked.clear()
    gate.seal(record)
    gate.seal(record)
    assert psam.asked == {"801a": 1, "80fa": 2}
    psam.asked.clear()
    gate.seal(rider.tap(leave(start, GATES[0], NINE + timedelta(minutes=9))))
    assert psam.asked == {"801a": 2, "80fa": 3, "8070": 1, "8072": 1}


def test_a_ride_by_bus_asks_for_no_entry_key(city: City) -> None:
    rider, psam = city.rider(), city.psams[BUS.psam]
    rider.tap(flat(rider.planned, BUS, NINE, 0))
    assert psam.asked == {"8070": 1, "8072": 1}
    assert psam.psam.transmit(bytes.fromhex("801A460110") + bytes(16)) == b"\x94\x03", "written to gates only"


def test_a_gate_without_the_entry_key_says_so(city: City) -> None:
    box = Device(111999, 111, "transit", "metro", "791001111999", 1, 1)
    gate = Validator(box, city.issuer.psam(box.psam, "transit"))
    rider = city.rider()
    rider.station = {box.psam: gate}
    with pytest.raises(CityBroken, match="9403"):
        rider.enter(box)


# What the phone shows at an exit. Each is given the honest record, an older one of the same card and a fresh one of
# another card that has just entered.
Attack = Callable[[Random, bytes, bytes, bytes], bytes]


def _edited(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    changed = bytearray(own)
    changed[rng.randrange(3, 38)] ^= rng.randrange(1, 256)
    return resealed(bytes(changed))


def _moved(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    """The entry station that makes the shortest trip."""
    return resealed(own[:6] + rng.choice((1, 4, 7, 10)).to_bytes(2, "big") + own[8:])


def _guessed(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    return resealed(own[:38] + rng.randbytes(8))


def _unguarded(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    return resealed(own[:36] + bytes(10))


def _moved_and_unguarded(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    return _unguarded(rng, _moved(rng, own, old, other), old, other)


def _exchanged(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    """The pool of cards of LessPay: an entry near the exit, made by a card that stays there."""
    return other


def _pieced(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    """Another card's entry under this card's guard, and the other way round."""
    left, right = rng.choice(((own, other), (other, own)))
    return resealed(left[:38] + right[38:46])


def _older(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    return old


def _refreshed(rng: Random, own: bytes, old: bytes, other: bytes) -> bytes:
    """An older entry with the counter, or the time, of the new one."""
    return resealed(rng.choice((old[:36] + own[36:38], old[:8] + own[8:15] + old[15:38])) + old[38:46])


ATTACKS: tuple[Attack, ...] = (
    _edited, _moved, _guessed, _unguarded, _moved_and_unguarded, _exchanged, _pieced, _older, _refreshed,
)  # fmt: skip
JOURNEYS = 10_000


def test_t06_lesspay(city: City) -> None:
    """10,000 journeys of a pool of cards whose entries are replayed, edited and exchanged: whatever is not the entry
    of this very journey is priced as a missing entry, and written down as such."""
    rng = Random(6)
    pool = [city.rider(profile, whose) for profile, whose in ((ALONE, OWN), (SHARED, OWN), (ALONE, FOREIGN))]
    old = {id(rider): _older_entry(rider) for rider in pool}
    priced: Counter[int] = Counter()
    for _ in range(JOURNEYS // len(pool)):
        starts = {id(rider): rider.enter(rng.choice(GATES)) for rider in pool}
        shown = {id(rider): rider.record() for rider in pool}
        for nth, rider in enumerate(pool):
            attack = rng.choice(ATTACKS)
            own, other = shown[id(rider)], shown[id(pool[nth - 1])]
            false = attack(rng, own, old[id(rider)], other)
            rider.relay.shows = None if false == own else lambda _, false=false: false
            record = rider.leave(starts[id(rider)] if false == own else None, rng.choice(GATES))
            assert bool(record.flags) == (false != own), (attack, false.hex(), own.hex())
            assert record.flags == 0 or (record.amount_fen, record.entry_station, record.entry_at) == (900, 0, 0)
            assert not record.flags or rider.record()[4:21] == bytes(17), "and no gate guards what it did not believe"
            priced[record.flags] += 1
            old[id(rider)] = own if rider.planned.profile == ALONE else old[id(rider)]
    assert priced[4] > 0.9 * JOURNEYS - 100 and priced[4] + priced[0] == JOURNEYS // len(pool) * len(pool)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 9), st.integers(-5, 250))
def test_the_gates_and_cardcore_read_one_contract(
    city: City, data: st.DataObject, alone: bool, later: int, minutes: int
) -> None:
    """Two readings of docs/card.md find the same of any record, at any counter and time."""
    rider = city.rider(ALONE if alone else SHARED)
    for _ in range(later % 3):
        rider.leave(rider.enter(GATES[1]), GATES[2])
    rider.enter(GATES[0])
    own, number = rider.record(), len(ATTACKS)
    other = resealed(own[:8] + own[8:11] + b"\x19" + own[12:])
    attack = data.draw(st.sampled_from([*ATTACKS, lambda rng, own, old, other: own]))
    shown = attack(Random(data.draw(st.integers(0, number * 999))), own, other, other)
    who = Passenger(bytes.fromhex(rider.planned.issuer), bytes.fromhex(rider.planned.serial), 1, alone)
    at, counter = rider.now + timedelta(minutes=minutes), later
    found = city.station[GATES[3].psam]._gate.shown(who, shown, bcd_instant(at)).at(counter, who)
    try:
        record = MetroRecord.decode(shown)
    except FormatError:
        # Edited times may be none: then it is no record to one of the two, and a forged one to the other.
        assert found.finding in (Finding.NONE, Finding.FORGED)
        return
    now, mac = at.astimezone(CHINA).replace(tzinfo=None), mac_of(rider, shown)
    theirs = judge_entry(record, mac, counter, alone=alone, now=now, longest=LONGEST)
    assert found.finding.value == theirs.value


def _older_entry(rider: Rider) -> bytes:
    """A finished journey's entry; on a purse that pays other things too it is kept until it is too old."""
    start = rider.enter(GATES[1])
    record = rider.record()
    rider.leave(start, GATES[1])
    rider.now += LONGEST if rider.planned.profile == SHARED else timedelta(0)
    return record


def test_an_entry_serves_one_exit_where_the_purse_pays_transit_alone(city: City) -> None:
    rider = city.rider(ALONE)
    start = rider.enter(GATES[0])
    used = rider.record()
    assert rider.leave(start, GATES[1]).flags == 0
    rider.relay.shows = lambda _: used
    assert rider.leave(None, GATES[0]).flags == 4, "he jumped the gate at his entry"
    with pytest.raises(CityBroken, match="entry station"):
        rider.leave(start, GATES[0])


def test_a_shared_purse_can_show_a_used_entry_to_a_gate_but_not_to_the_clearing_house(city: City) -> None:
    """Debits of other sectors may stand between entry and exit, so a gate cannot know that this one was used. The exit
    names the entry, and clearing opens a `missing-entry` case (tests/test_close.py)."""
    rider = city.rider(SHARED)
    start = rider.enter(GATES[0])
    used = rider.record()
    rider.leave(start, GATES[1])
    rider.relay.shows = lambda _: used
    record = rider.leave(start, GATES[0])
    assert (record.flags, record.entry_station, record.entry_at) == (0, 1, int(start.at.timestamp()))
    rider.now += LONGEST
    assert rider.leave(None, GATES[0]).flags == 4, "and not for long"


def test_an_entry_ends_with_the_longest_journey(city: City) -> None:
    for late, flags in ((0, 0), (1, 4)):
        rider = city.rider(ALONE)
        start = rider.enter(GATES[0])
        rider.now += LONGEST - timedelta(minutes=20) + timedelta(seconds=late)
        assert rider.leave(None if flags else start, GATES[1]).flags == flags


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([SHARED, ALONE]),
    st.lists(st.sampled_from([Manner.RECOVERED, Manner.TORN_COMMITTED, Manner.TORN_VOID]), max_size=3),
    st.sampled_from([Manner.PLAIN, Manner.RECOVERED, Manner.TORN_COMMITTED]),
)
def test_torn_taps_leave_one_entry_or_the_one_before(
    city: City, profile: str, tears: list[Manner], last: Manner
) -> None:
    """The record changes with the debit or not at all: whatever was torn, the exit is priced by the last entry that
    the card has committed."""
    rider = city.rider(profile)
    rider.leave(rider.enter(GATES[3]), GATES[1])
    start = None
    for manner in tears:
        before = rider.record()
        tried = rider.enter(GATES[2], manner)
        assert (rider.record() == before) == (manner is Manner.TORN_VOID)
        start = start if manner is Manner.TORN_VOID else tried
    if start is None:
        assert rider.leave(None, GATES[0]).flags == 4
        start = rider.enter(GATES[1])
    void = rider.leave(start, GATES[0], Manner.TORN_VOID)
    assert void.kind == Kind.TORN
    record = rider.leave(start, GATES[3], last)
    assert (record.flags, record.entry_station) == (0, start.device.station)
    assert rider.record()[3] == 2
