"""The TapRecord: what happened at a terminal, in 128 canonical bytes (docs/record.md).

`FIELDS` is the one field table. The class below, the JSON names, the numpy dtype of `clearing` and the table in
docs/record.md are checked against it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from cardcore.errors import FormatError

VERSION = 1
RECORD_BYTES = 128
SEALED_BYTES = 120


class Kind(IntEnum):
    DEBIT = 1
    ENTRY = 2
    EXIT = 3
    LOAD = 4
    ACT = 5
    TORN = 6


OFFLINE_KINDS = frozenset({Kind.DEBIT, Kind.ENTRY, Kind.EXIT, Kind.TORN})
"""Kinds whose cryptogram is a purchase TAC. It does not cover the kind (rule 1): what says torn is a debit where a TAC
proves it."""


class Suite(IntEnum):
    """Algorithm id byte that a card answers."""

    TRIPLE_DES = 0x00
    SM4 = 0x04


class Sector(IntEnum):
    TRANSIT = 1
    SOCIAL = 2
    SMALLPAY = 3
    UTILITY = 4
    MEDICAL = 5

    @property
    def label(self) -> str:
        """Name of the sector in registries, ledgers and files."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the record: `unit` is `u` (unsigned), `i` (signed) or `b` (bytes), big-endian."""

    name: str
    offset: int
    width: int
    unit: str


def _layout(*columns: tuple[str, int, str]) -> tuple[Field, ...]:
    table: list[Field] = []
    offset = 0
    for name, width, unit in columns:
        table.append(Field(name, offset, width, unit))
        offset += width
    assert offset == RECORD_BYTES
    return tuple(table)


FIELDS = _layout(
    ("version", 1, "u"),
    ("kind", 1, "u"),
    ("flags", 1, "u"),
    ("suite", 1, "u"),
    ("key_version", 1, "u"),
    ("key_index", 1, "u"),
    ("purse", 1, "u"),
    ("generation", 1, "u"),
    ("issuer", 4, "b"),
    ("card", 10, "b"),
    ("counter", 2, "u"),
    ("amount_fen", 4, "u"),
    ("transaction_type", 1, "u"),
    ("terminal_number", 6, "b"),
    ("terminal_transaction", 4, "u"),
    ("date", 4, "b"),
    ("time", 3, "b"),
    ("cryptogram", 8, "b"),
    ("balance_before_fen", 4, "i"),
    ("overdraft_fen", 4, "u"),
    ("terminal", 4, "u"),
    ("epoch", 2, "u"),
    ("sequence", 4, "u"),
    ("line", 2, "u"),
    ("station", 2, "u"),
    ("entry_station", 2, "u"),
    ("entry_at", 4, "u"),
    ("concession", 1, "u"),
    ("full_fare_fen", 4, "u"),
    ("list_version", 4, "u"),
    ("fare_version", 2, "u"),
    ("operator", 2, "u"),
    ("act_id", 8, "b"),
    ("shift", 2, "u"),
    ("reserved", 15, "b"),
    ("seal", 8, "b"),
)
BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class TapRecord:
    """One record as named values; integers in the units of docs/record.md, bytes of exactly the field's width."""

    kind: int
    issuer: bytes
    card: bytes
    terminal_number: bytes
    date: bytes
    time: bytes
    terminal: int
    sequence: int
    version: int = VERSION
    flags: int = 0
    suite: int = Suite.TRIPLE_DES
    key_version: int = 1
    key_index: int = 1
    purse: int = 1
    generation: int = 0
    counter: int = 0
    amount_fen: int = 0
    transaction_type: int = 0
    terminal_transaction: int = 0
    cryptogram: bytes = bytes(8)
    balance_before_fen: int = 0
    overdraft_fen: int = 0
    epoch: int = 1
    line: int = 0
    station: int = 0
    entry_station: int = 0
    entry_at: int = 0
    concession: int = 0
    full_fare_fen: int = 0
    list_version: int = 0
    fare_version: int = 0
    operator: int = 0
    act_id: bytes = bytes(8)
    shift: int = 0
    reserved: bytes = bytes(15)
    seal: bytes = bytes(8)

    def encode(self) -> bytes:
        """The 128 canonical bytes; raises FormatError when a value does not fit its field."""
        return b"".join(_encode_value(field, getattr(self, field.name)) for field in FIELDS)

    @classmethod
    def decode(cls, raw: bytes) -> "TapRecord":
        """Read 128 bytes; every bit pattern is a record, judging it is the verdict's work.

        Raises FormatError on another length.
        """
        if len(raw) != RECORD_BYTES:
            raise FormatError(f"a record has {RECORD_BYTES} bytes, not {len(raw)}")
        values: dict[str, Any] = dict(_values(raw))  # the field table, checked above and below, types each value
        return cls(**values)

    def to_json(self) -> dict[str, int | str]:
        """JSON spelling: integers, and bytes in lower-case hex; `reserved` is left out."""
        return {
            field.name: value.hex() if isinstance(value, bytes) else value
            for field, value in ((field, getattr(self, field.name)) for field in FIELDS)
            if field.name != "reserved"
        }

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> "TapRecord":
        """Read the JSON spelling; raises FormatError that names the field at fault."""
        if unknown := set(document) - (set(BY_NAME) - {"reserved"}):
            raise FormatError(f"unknown field {sorted(unknown)[0]!r} in a record")
        if missing := _REQUIRED - set(document):
            raise FormatError(f"field {sorted(missing)[0]!r} is missing in a record")
        values: dict[str, Any] = {name: _from_json(BY_NAME[name], value) for name, value in document.items()}
        return cls(**values)


_REQUIRED = frozenset({"kind", "issuer", "card", "terminal_number", "date", "time", "terminal", "sequence"})
assert {field.name for field in fields(TapRecord)} == set(BY_NAME)


def _encode_value(field: Field, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        if field.unit != "b" or len(value) != field.width:
            raise FormatError(f"{field.name} takes {field.width} bytes, not {len(value)}")
        return value
    if field.unit == "b":
        raise FormatError(f"{field.name} takes {field.width} bytes, not a number")
    try:
        return value.to_bytes(field.width, "big", signed=field.unit == "i")
    except OverflowError as error:
        raise FormatError(f"{field.name} = {value} does not fit {field.width} bytes") from error


def _values(raw: bytes) -> Iterator[tuple[str, int | bytes]]:
    for field in FIELDS:
        part = raw[field.offset : field.offset + field.width]
        yield field.name, part if field.unit == "b" else int.from_bytes(part, "big", signed=field.unit == "i")


def _from_json(field: Field, value: object) -> int | bytes:
    if field.unit == "b":
        if not isinstance(value, str):
            raise FormatError(f"{field.name} takes hex text")
        try:
            return _encode_value(field, bytes.fromhex(value))
        except ValueError as error:
            raise FormatError(f"{field.name} takes {field.width} bytes in hex") from error
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"{field.name} takes an integer")
    _encode_value(field, value)
    return value
