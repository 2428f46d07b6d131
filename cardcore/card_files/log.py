"""What a card writes about itself: the purse log (EF 0018) and the trips (EF 001E)."""

from dataclasses import dataclass
from datetime import datetime

from cardcore.bcd import decode_digits, encode_digits
from cardcore.card_files.fields import Reader, exact, packed_moment, unsigned
from cardcore.switches import LogCounter


@dataclass(frozen=True, slots=True)
class LogRecord:
    """EF 0018, one record of 23 bytes: the last purse transactions, the newest first."""

    counter: int
    overdraft_fen: int
    amount_fen: int
    transaction_type: int
    terminal_number: bytes
    date: bytes
    time: bytes

    def counter_before(self, convention: LogCounter) -> int:
        """The counter that INITIALIZE answered and the cryptograms cover."""
        return self.counter - (convention is LogCounter.AFTER)

    def encode(self) -> bytes:
        amounts = unsigned(self.counter, 2) + unsigned(self.overdraft_fen, 3) + unsigned(self.amount_fen, 4)
        kind = unsigned(self.transaction_type, 1)
        return exact(23, "a log record", amounts, kind, self.terminal_number, self.date, self.time)

    @classmethod
    def decode(cls, raw: bytes) -> "LogRecord":
        reader = Reader(raw, 23, "a log record")
        return cls(
            reader.number(2),
            reader.number(3),
            reader.number(4),
            reader.number(1),
            reader.take(6),
            reader.take(4),
            reader.take(3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TripRecord:
    """EF 001E, one record of 48 bytes (T-Union): a ride, the newest first."""

    kind: int
    terminal: bytes
    sub_kind: int
    place: bytes
    amount_fen: int
    balance_fen: int
    at: datetime | None
    city: str
    acquirer: bytes

    def encode(self) -> bytes:
        money = unsigned(self.amount_fen, 4) + unsigned(self.balance_fen, 4)
        head = unsigned(self.kind, 1) + self.terminal + unsigned(self.sub_kind, 1) + self.place
        tail = packed_moment(self.at) + encode_digits(self.city) + self.acquirer + bytes(6)
        return exact(48, "a trip record", head, money, tail)

    @classmethod
    def decode(cls, raw: bytes) -> "TripRecord":
        reader = Reader(raw, 48, "a trip record")
        return cls(
            kind=reader.number(1),
            terminal=reader.take(8),
            sub_kind=reader.number(1),
            place=reader.take(7),
            amount_fen=reader.number(4),
            balance_fen=reader.number(4),
            at=reader.moment(),
            city=decode_digits(reader.take(2)),
            acquirer=reader.take(8),
        )
