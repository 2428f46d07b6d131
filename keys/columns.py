"""Batches of TapRecords as numpy columns, derived from the one field table (docs/record.md)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardcore.errors import FormatError
from cardcore.record import BY_NAME, FIELDS, RECORD_BYTES, Field

Octets = NDArray[np.uint8]
# numpy cannot type the fields of a structured array.
Records = NDArray[Any]


def _column(field: Field) -> str:
    """Big-endian integers; bytes as `V<width>`."""
    return f"V{field.width}" if field.unit == "b" else f">{field.unit}{field.width}"


RECORD_DTYPE = np.dtype([(field.name, _column(field)) for field in FIELDS])


def from_bytes(raw: bytes | bytearray | memoryview) -> Records:
    """Whole records as an array of RECORD_DTYPE over the same memory; raises FormatError on a length that is no
    multiple of 128."""
    if len(raw) % RECORD_BYTES:
        raise FormatError(f"records have {RECORD_BYTES} bytes each; {len(raw)} bytes are no whole number of them")
    return np.frombuffer(raw, RECORD_DTYPE)


def octets(records: Records) -> Octets:
    """The same records as (n, 128) bytes; a copy only when they do not lie side by side."""
    return np.ascontiguousarray(records).view(np.uint8).reshape(-1, RECORD_BYTES)


def part(rows: Octets, name: str) -> Octets:
    """The bytes of one field, (n, width), as a view."""
    field = BY_NAME[name]
    return rows[:, field.offset : field.offset + field.width]


def number(columns: Octets) -> NDArray[np.uint64]:
    """Up to 8 byte columns as one unsigned number a row, big-endian: for comparing and sorting byte fields."""
    width = columns.shape[1]
    if width not in (4, 8):
        wide = np.zeros((len(columns), 8), np.uint8)
        wide[:, 8 - width :] = columns
        columns, width = wide, 8
    return columns.view(f">u{width}").ravel().astype(np.uint64)


def octets_of(numbers: NDArray[np.uint64]) -> Octets:
    """Each number as 8 bytes, big-endian."""
    return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)


def taken(columns: Octets, places: NDArray[np.intp]) -> Octets:
    """The bytes of these rows, each row moved as one item, which is several times faster than byte by byte."""
    width = columns.shape[1]
    return columns.view(f"V{width}").ravel().take(places).view(np.uint8).reshape(-1, width)
