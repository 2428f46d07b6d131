"""The TapRecord and its batches, as the city's terminals spell them (docs/record.md, docs/wire.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from typing import NamedTuple

CHINA = timezone(timedelta(hours=8), "Asia/Shanghai")
BATCH_BINARY = "application/vnd.onecard.batch"
BATCH_JSON = "application/json"
SEAL_AT = 120


class Kind(IntEnum):
    """The record kinds of docs/record.md."""

    DEBIT = 1
    ENTRY = 2
    EXIT = 3
    LOAD = 4
    ACT = 5
    TORN = 6


class TapRecord(NamedTuple):
    """One record, its members in the order and with the names of docs/record.md."""

    kind: int
    suite: int
    key_version: int
    key_index: int
    purse: int
    issuer: bytes
    card: bytes
    counter: int
    amount_fen: int
    transaction_type: int
    terminal_number: bytes
    date: bytes
    time: bytes
    balance_before_fen: int
    overdraft_fen: int
    terminal: int
    epoch: int
    sequence: int
    concession: int
    full_fare_fen: int
    operator: int
    terminal_transaction: int = 0
    cryptogram: bytes = bytes(8)
    line: int = 0
    station: int = 0
    entry_station: int = 0
    entry_at: int = 0
    list_version: int = 0
    fare_version: int = 1
    act_id: bytes = bytes(8)
    shift: int = 1
    version: int = 1
    flags: int = 0
    generation: int = 0
    seal: bytes = bytes(8)


_LAYOUT = struct.Struct(">8B4s10sHIB6sI4s3s8siIIHIHHHIBIIHH8sH15s8s")
_RESERVED = bytes(15)


def encode(r: TapRecord) -> bytes:
    """The 128 bytes of a record."""
    return _LAYOUT.pack(
        r.version, r.kind, r.flags, r.suite, r.key_version, r.key_index, r.purse, r.generation, r.issuer, r.card,
        r.counter, r.amount_fen, r.transaction_type, r.terminal_number, r.terminal_transaction, r.date, r.time,
        r.cryptogram, r.balance_before_fen, r.overdraft_fen, r.terminal, r.epoch, r.sequence, r.line, r.station,
        r.entry_station, r.entry_at, r.concession, r.full_fare_fen, r.list_version, r.fare_version, r.operator,
        r.act_id, r.shift, _RESERVED, r.seal,
    )  # fmt: skip


_ORDER = (
    "version", "kind", "flags", "suite", "key_version", "key_index", "purse", "generation", "issuer", "card",
    "counter", "amount_fen", "transaction_type", "terminal_number", "terminal_transaction", "date", "time",
    "cryptogram", "balance_before_fen", "overdraft_fen", "terminal", "epoch", "sequence", "line", "station",
    "entry_station", "entry_at", "concession", "full_fare_fen", "list_version", "fare_version", "operator",
    "act_id", "shift", "reserved", "seal",
)  # fmt: skip


def spelled(record: bytes) -> dict[str, int | str]:
    """The JSON members of a record: byte fields in lower-case hex, `reserved` left out."""
    values = zip(_ORDER, _LAYOUT.unpack(record), strict=True)
    return {name: v.hex() if isinstance(v, bytes) else v for name, v in values if name != "reserved"}


def amount_of(record: bytes) -> int:
    """The amount of an encoded record, fen."""
    return int.from_bytes(record[24:28], "big")


def frame(terminal: int, epoch: int, first: int, records: Sequence[bytes], media: str) -> bytes:
    """The body of a batch whose records have the sequences `first`, `first + 1`, …, in the spelling of `media`."""
    total, last = sum(map(amount_of, records)), first + len(records) - 1
    if media == BATCH_BINARY:
        head = struct.pack(">4sIHHIIQ4x", b"OCB1", terminal, epoch, len(records), first, last, total)
        return head + b"".join(records)
    body = {
        "terminal": terminal, "epoch": epoch, "count": len(records), "first_seq": first, "last_seq": last,
        "amount_fen": total, "records": [spelled(r) for r in records],
    }  # fmt: skip
    return json.dumps(body, separators=(",", ":")).encode()


def bcd_instant(at: datetime) -> bytes:
    """Local `YYYYMMDDhhmmss` of an instant in 7 BCD bytes: date in the first 4, time in the last 3."""
    return bytes.fromhex(at.astimezone(CHINA).strftime("%Y%m%d%H%M%S"))
