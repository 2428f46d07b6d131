"""Rows to and from PostgreSQL as numpy arrays: one structured dtype *is* the row of the COPY BINARY format.

Instants are microseconds and dates are days since 2000-01-01, as PostgreSQL stores them.
"""

from collections.abc import AsyncIterator, Iterable, Sequence

import asyncpg
import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.generic] | bytes | None

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"


def copy_rows(columns: Sequence[Column], count: int) -> bytes:
    """`count` rows of the binary format: an array column varies, a bytes column is the same text in each row, None is
    NULL.

    Arrays must have the width of the column's type; integers may have either byte order.
    """
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for index, column in enumerate(columns):
        layout.append((f"length{index}", ">i4"))
        if column is not None:
            layout.append((f"value{index}", _wire_type(column)))
    rows = np.zeros(count, np.dtype(layout))
    rows["fields"] = len(columns)
    for index, column in enumerate(columns):
        rows[f"length{index}"] = -1 if column is None else rows.dtype[f"value{index}"].itemsize
        if column is not None and rows.dtype[f"value{index}"].itemsize:
            rows[f"value{index}"] = np.void(column) if isinstance(column, bytes) else column.view(_wire_view(column))
    return rows.tobytes()


async def copy_in(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], segments: Iterable[bytes]
) -> None:
    """COPY the segments of `copy_rows` into the columns of a table."""

    async def stream() -> AsyncIterator[bytes]:
        yield _SIGNATURE
        for segment in segments:
            yield segment
        yield _END

    await connection.copy_to_table(table, source=stream(), columns=columns, format="binary")


async def copy_out(connection: asyncpg.Connection, query: str, *types: str) -> list[NDArray[np.generic]]:
    """The columns of a query without NULLs, as arrays of the given numpy types (`S10`, `>i8`, …), bytes of a fixed
    width."""
    received = bytearray()

    async def keep(chunk: bytes) -> None:
        received.extend(chunk)

    await connection.copy_from_query(query, output=keep, format="binary")
    layout = [("fields", ">i2")]
    for index, kind in enumerate(types):
        layout += [(f"length{index}", ">i4"), (f"value{index}", kind)]
    rows = np.frombuffer(bytes(received[len(_SIGNATURE) : -len(_END)]), np.dtype(layout))
    return [np.ascontiguousarray(rows[f"value{index}"]) for index in range(len(types))]


def _wire_type(column: NDArray[np.generic] | bytes) -> str:
    if isinstance(column, bytes):
        return f"V{len(column)}"
    if column.dtype.kind in "iu":
        return f">i{column.dtype.itemsize}"
    return f"V{column.dtype.itemsize}" if column.dtype.kind in "SV" else column.dtype.str


def _wire_view(column: NDArray[np.generic]) -> np.dtype[np.generic]:
    return np.dtype(f"V{column.dtype.itemsize}") if column.dtype.kind in "SV" else column.dtype
