"""A metro gate's part of a tap: the guarded record of entry and exit on the card (docs/card.md, "Metro and transfer").

A phone between card and gate can show any entry it likes. So a gate has its PSAM guard the entry that it writes, and
prices an exit by the entry station only when the guard is that of this card, this debit and this time.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from simulators.city.facts import Device
from simulators.city.parties import METRO_FARE, metro_fare
from simulators.city.sam import Sam

METRO_RECORD, METRO_SFI = 0x21, 0x1A
RECORD_BYTES, COVERED_BYTES, CHECKED_BYTES = 48, 38, 46
IN, EXITED = 1, 2
ENTRY_USAGE, ENTRY_KEY = 0x46, 0x01
LONGEST = timedelta(hours=4)
"""The longest journey of this city's metro: an older entry is no longer believed."""


class Finding(Enum):
    """What a gate makes of the entry that a card shows; only a genuine one is priced by its station."""

    GENUINE = "genuine"
    UNGUARDED = "unguarded"
    FORGED = "forged"
    STALE = "stale"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rider:
    """Whose record it is: issuer (4 bytes), serial (10), purse; the keys prove these. `alone`: the purse pays nothing
    but transit, which a gate knows by issuer and serial, never by what the card shows."""

    issuer: bytes
    serial: bytes
    purse: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Journey:
    """The entry that a card showed at an exit, and what it is worth before the card's counter is known."""

    record: bytes
    finding: Finding

    @property
    def station(self) -> int:
        return int.from_bytes(self.record[6:8], "big")

    def at(self, counter: int, rider: Rider) -> Journey:
        """The same once INITIALIZE has answered its counter: an entry of an earlier journey is stale."""
        written = int.from_bytes(self.record[36:38], "big")
        follows = counter == written + 1 if rider.alone else counter > written
        return self if self.finding is not Finding.GENUINE or follows else Journey(self.record, Finding.STALE)


class Gate:
    """One gate: guards what it writes, and believes only what a gate has guarded."""

    def __init__(self, device: Device, sam: Sam) -> None:
        self._device, self._sam = device, sam
        self._place = device.line.to_bytes(2, "big") + device.station.to_bytes(2, "big")

    def entered(self, rider: Rider, counter: int, stamp: bytes) -> bytes:
        """The record of an entry, for the cache of the card; `counter` is that of this very debit."""
        head = bytes((METRO_RECORD, CHECKED_BYTES, 0x00, IN))
        return self._guarded(rider, head + self._place + stamp + self._sam.number + bytes(15), counter)

    def shown(self, rider: Rider, record: bytes, stamp: bytes) -> Journey:
        """What the record of a card is worth to an exit at `stamp`."""
        return Journey(record, self._judged(rider, record, stamp))

    def _judged(self, rider: Rider, record: bytes, stamp: bytes) -> Finding:
        head = bytes((METRO_RECORD, CHECKED_BYTES, 0x00, IN))
        if len(record) != RECORD_BYTES or record[:4] != head or record[CHECKED_BYTES:] != crc16(record[:CHECKED_BYTES]):
            return Finding.NONE
        mac = record[COVERED_BYTES:CHECKED_BYTES]
        if mac == bytes(8):
            return Finding.UNGUARDED
        if mac != self._mac(rider, record[:COVERED_BYTES]):
            return Finding.FORGED
        return Finding.GENUINE if timedelta(0) <= _time(stamp) - _time(record[8:15]) <= LONGEST else Finding.STALE

    def full_fare(self, journey: Journey) -> int:
        """Fen before concessions: by the entry station where it is proven, else the most of the line."""
        line = self._device.line
        known = journey.finding is Finding.GENUINE
        return metro_fare(line, journey.station, self._device.station) if known else METRO_FARE[line][2]

    def exited(self, rider: Rider, journey: Journey, fare_fen: int, counter: int, stamp: bytes) -> bytes:
        """The record of an exit; an entry that is not believed is not written on under a new guard."""
        entry = journey.record[4:21] if journey.finding is Finding.GENUINE else bytes(17)
        head = bytes((METRO_RECORD, CHECKED_BYTES, 0x00, EXITED))
        return self._guarded(rider, head + entry + self._place + stamp + fare_fen.to_bytes(4, "big"), counter)

    def _guarded(self, rider: Rider, body: bytes, counter: int) -> bytes:
        covered = body + counter.to_bytes(2, "big")
        checked = covered + self._mac(rider, covered)
        return checked + crc16(checked)

    def _mac(self, rider: Rider, covered: bytes) -> bytes:
        factors = rider.serial[2:] + rider.issuer + rider.issuer
        return self._sam.mac(ENTRY_USAGE, ENTRY_KEY, factors, b"OCM1" + rider.serial + bytes((rider.purse,)) + covered)


def crc16(octets: bytes) -> bytes:
    """CRC-16/CCITT (initial value FFFF) of the metro record."""
    return crc_hqx(octets, 0xFFFF).to_bytes(2, "big")


def _time(stamp: bytes) -> datetime:
    return datetime.strptime(stamp.hex(), "%Y%m%d%H%M%S")
