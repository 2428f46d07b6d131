"""Composite records (EF 001A): what changes together with a debit. Metro entry and exit, and the last leg of a journey.

A guarded record is 48 bytes: 0 id · 1 `2E` · 2 lock 00 · 3 its state · … · 36-37 the card's offline counter of the
debit that wrote it · 38-45 its MAC · 46-47 CRC-16 of bytes 0-45. Counter and MAC are zeros where the terminal has no
entry key. `cardcore.metro` says what the MAC covers and what an exit makes of it.
"""

from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum

from cardcore.bcd import decode_moment, encode_day
from cardcore.card_files.fields import Reader, crc16, exact, packed_moment, unsigned
from cardcore.errors import FormatError

METRO_ID = 0x21
TRANSFER_ID = 0x22
GUARDED_BYTES = 38
NO_MAC = bytes(8)
_CHECKED_BYTES = 46


class MetroState(IntEnum):
    """Where the holder is, as the metro record says."""

    OUT = 0
    IN = 1
    EXITED = 2


class Leg(IntEnum):
    """What the last leg of a journey was, as the transfer record says."""

    NONE = 0
    BUS = 1
    METRO = 2


@dataclass(frozen=True, slots=True)
class CompositeRecord:
    """Any composite record: its id, whether its application is locked, and what follows the first three bytes."""

    id: int
    locked: bool
    payload: bytes

    def encode(self) -> bytes:
        return unsigned(self.id, 1) + unsigned(len(self.payload) + 1, 1) + bytes((self.locked,)) + self.payload

    @classmethod
    def decode(cls, raw: bytes) -> "CompositeRecord":
        """Raises FormatError when the length byte contradicts the record, or the lock is neither 00 nor 01."""
        if len(raw) < 3 or raw[1] != len(raw) - 2 or raw[2] > 1:
            raise FormatError(f"{raw.hex()} is no composite record: id, length of the rest, lock 00 or 01")
        return cls(raw[0], bool(raw[2]), raw[3:])


def _guarded(id: int, body: bytes, counter: int, mac: bytes) -> bytes:
    head = bytes((id, _CHECKED_BYTES, 0x00))
    checked = exact(_CHECKED_BYTES, "a composite record before its check sum", head, body, unsigned(counter, 2), mac)
    return checked + crc16(checked)


def _opened(raw: bytes, id: int, what: str) -> Reader:
    reader = Reader(raw, 48, what)
    if reader.take(3) != bytes((id, _CHECKED_BYTES, 0x00)) or crc16(raw[:_CHECKED_BYTES]) != raw[_CHECKED_BYTES:]:
        raise FormatError(f"{raw.hex()} is not {what}, or its check sum is wrong")
    return reader


@dataclass(frozen=True, slots=True)
class MetroRecord:
    """Composite record 21 of EF 001A, 48 bytes: entry and exit of the last metro ride."""

    state: MetroState = MetroState.OUT
    entry_line: int = 0
    entry_station: int = 0
    entry_at: datetime | None = None
    entry_terminal: bytes = bytes(6)
    exit_line: int = 0
    exit_station: int = 0
    exit_at: datetime | None = None
    fare_fen: int = 0
    counter: int = 0
    mac: bytes = NO_MAC

    def encode(self) -> bytes:
        entry = unsigned(self.entry_line, 2) + unsigned(self.entry_station, 2) + packed_moment(self.entry_at)
        leave = unsigned(self.exit_line, 2) + unsigned(self.exit_station, 2) + packed_moment(self.exit_at)
        body = unsigned(self.state, 1) + entry + self.entry_terminal + leave + unsigned(self.fare_fen, 4)
        return _guarded(METRO_ID, body, self.counter, self.mac)

    @classmethod
    def decode(cls, raw: bytes) -> "MetroRecord":
        """Read 48 bytes; raises FormatError for another record, an unknown state or a wrong check sum."""
        reader = _opened(raw, METRO_ID, "a metro record")
        try:
            state = MetroState(reader.number(1))
        except ValueError as error:
            raise FormatError(f"{raw[3]:02X} is no state of a metro record") from error
        entry = reader.number(2), reader.number(2), reader.moment(), reader.take(6)
        leave = reader.number(2), reader.number(2), reader.moment(), reader.number(4)
        return cls(state, *entry, *leave, reader.number(2), reader.take(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """Composite record 22 of EF 001A, 48 bytes: the last leg of a journey, which a transfer discount builds on.

    `operator` is the operator number of the leg; `basis_fen` what a value discount is reckoned from; `chained` the legs
    since the first one; `rides_today` counts on `counted_on`. Offsets are in docs/card.md.
    """

    leg: Leg = Leg.NONE
    at: datetime | None = None
    operator: int = 0
    fare_fen: int = 0
    basis_fen: int = 0
    chained: int = 0
    rides_today: int = 0
    counted_on: date | None = None
    counter: int = 0
    mac: bytes = NO_MAC

    def encode(self) -> bytes:
        last = unsigned(self.leg, 1) + packed_moment(self.at) + unsigned(self.operator, 3)
        money = unsigned(self.fare_fen, 4) + unsigned(self.basis_fen, 4)
        counted = encode_day(self.counted_on) if self.counted_on else bytes(4)
        counts = unsigned(self.chained, 1) + unsigned(self.rides_today, 2) + counted
        return _guarded(TRANSFER_ID, last + money + counts + bytes(7), self.counter, self.mac)

    @classmethod
    def decode(cls, raw: bytes) -> "TransferRecord":
        """Read 48 bytes; raises FormatError for another record, an unknown leg or a wrong check sum."""
        reader = _opened(raw, TRANSFER_ID, "a transfer record")
        try:
            leg = Leg(reader.number(1))
        except ValueError as error:
            raise FormatError(f"{raw[3]:02X} is no leg of a transfer record") from error
        at, operator = reader.moment(), reader.number(3)
        fare_fen, basis_fen, chained, rides = reader.number(4), reader.number(4), reader.number(1), reader.number(2)
        day = reader.take(4)
        reader.take(7)
        return cls(
            leg=leg,
            at=at,
            operator=operator,
            fare_fen=fare_fen,
            basis_fen=basis_fen,
            chained=chained,
            rides_today=rides,
            counted_on=decode_moment(day, bytes(3)).date() if any(day) else None,
            counter=reader.number(2),
            mac=reader.take(8),
        )
