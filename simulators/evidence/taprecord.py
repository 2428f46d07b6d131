"""The 128-byte TapRecord of docs/record.md as an auditor reads it."""

import struct
from datetime import date, time
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from simulators.evidence.ciphers import sm3

SIZE, SEALED_SIZE = 128, 120
PRICED_WITHOUT_ENTRY = 0x04  # the bit of `flags`
SECTOR_NUMBERS = {"transit": 1, "social": 2, "smallpay": 3, "utility": 4, "medical": 5}
_LAYOUT = struct.Struct("> 8B 4s 10s H I B 6s I 4s 3s 8s i I I H I 3H I B 2I 2H 8s H 15s 8s")
_WIDTHS = (1,) * 8 + (4, 10, 2, 4, 1, 6, 4, 4, 3, 8, 4, 4, 4, 2, 4, 2, 2, 2, 4, 1, 4, 4, 2, 2, 8, 2, 15, 8)


class Kind(IntEnum):
    DEBIT, ENTRY, EXIT, LOAD, ACT, TORN = range(1, 7)


OFFLINE = frozenset({Kind.DEBIT, Kind.ENTRY, Kind.EXIT, Kind.TORN})
"""Kinds under a purchase TAC, which does not cover the kind: what says torn is a debit where a TAC proves it."""


class Tap(NamedTuple):
    """The fields in the order of the record; bytes as bytes, the rest as integers (fen, counts, ids)."""

    version: int
    kind: int
    flags: int
    suite: int
    key_version: int
    key_index: int
    purse: int
    generation: int
    issuer: bytes
    card: bytes
    counter: int
    amount_fen: int
    transaction_type: int
    terminal_number: bytes
    terminal_transaction: int
    date: bytes
    time: bytes
    cryptogram: bytes
    balance_before_fen: int
    overdraft_fen: int
    terminal: int
    epoch: int
    sequence: int
    line: int
    station: int
    entry_station: int
    entry_at: int
    concession: int
    full_fare_fen: int
    list_version: int
    fare_version: int
    operator: int
    act_id: bytes
    shift: int
    reserved: bytes
    seal: bytes

    @property
    def subject(self) -> str:
        """The name of the record in cases: terminal/epoch/sequence."""
        return f"{self.terminal}/{self.epoch}/{self.sequence}"

    @property
    def said(self) -> tuple[int, int, bytes]:
        """What orders sealed copies of one tap: the first lends the claims."""
        return self.epoch, self.sequence, _LAYOUT.pack(*self)

    @property
    def purse_key(self) -> tuple[bytes, int, int]:
        """What a card counter counts in: card, purse, generation."""
        return self.card, self.purse, self.generation

    @property
    def after_fen(self) -> int:
        """Value in the purse after a debit."""
        return self.balance_before_fen - self.amount_fen

    @property
    def well_formed(self) -> bool:
        """Version, kind, BCD and reserved bytes as docs/record.md has them."""
        return (
            self.version == 1
            and Kind.DEBIT <= self.kind <= Kind.TORN
            and self.reserved == bytes(15)
            and self.card.hex().isdecimal()
            and local_date(self.date) is not None
            and local_time(self.time) is not None
        )

    @property
    def cryptogram_input(self) -> bytes:
        """What the TAC of a debit, entry or exit (22 bytes) or of a load (24 bytes) covers."""
        middle = struct.pack(">IB6s", self.amount_fen, self.transaction_type, self.terminal_number)
        if self.kind == Kind.LOAD:
            raw_new_fen = self.balance_before_fen + self.overdraft_fen + self.amount_fen
            return struct.pack(">IH", raw_new_fen & 0xFFFFFFFF, self.counter) + middle + self.date + self.time
        return middle + self.terminal_transaction.to_bytes(4, "big") + self.date + self.time

    @property
    def proof_key(self) -> bytes:
        """The 16 bytes that name a proven record for ever (rule 3)."""
        head = bytes([self.suite, self.key_version]) + self.card
        tail = bytes([self.purse]) + self.act_id if self.kind == Kind.ACT else self.cryptogram_input
        return sm3(head + tail)[:16]


def from_bytes(record: bytes) -> Tap:
    return Tap._make(_LAYOUT.unpack(record))


def to_bytes(tap: Tap) -> bytes:
    return _LAYOUT.pack(*tap)


def json_to_bytes(spelling: dict[str, str | int]) -> bytes:
    """The JSON spelling of a record as its 128 bytes; raises KeyError, ValueError or OverflowError if it is none."""
    parts = []
    for name, width in zip(Tap._fields, _WIDTHS, strict=True):
        value = bytes(width).hex() if name == "reserved" else spelling[name]
        parts.append(
            bytes.fromhex(value).rjust(width, b"\0")
            if isinstance(value, str)
            else value.to_bytes(width, "big", signed=name == "balance_before_fen")
        )
    return b"".join(parts)


@lru_cache(maxsize=4096)
def local_date(bcd: bytes) -> date | None:
    """A calendar date from BCD YYYYMMDD, None when there is no such day."""
    try:
        return date(int(bcd.hex()[:4]), int(bcd.hex()[4:6]), int(bcd.hex()[6:]))
    except ValueError:
        return None


@lru_cache(maxsize=1 << 17)
def local_time(bcd: bytes) -> time | None:
    """A time of day from BCD hhmmss, None when there is none."""
    try:
        return time(int(bcd.hex()[:2]), int(bcd.hex()[2:4]), int(bcd.hex()[4:]))
    except ValueError:
        return None
