"""What is kept of uploads and imports, held against the bytes that came: no column is believed that bytes can tell."""

import numpy as np

from clearing.intake.frame import decode_batch
from clearing.municipal.rows import Tap, judge_again
from clearing.problem import Problem
from clearing.registry.dates import Calendar, Days, Instants, Mask, days_of, instant_us, wall_moments, wall_us
from clearing.store import kept as rows
from clearing.store.types import Connection, StoredRow
from keys.columns import RECORD_DTYPE, Records, octets
from keys.proof import proof_keys, sm3

_HEADER = ("epoch", "first_seq", "last_seq")
# What the judgement of a row's text leads to, by the names under which it is kept.
_JUDGED = ("card", "ride", "full_fare_fen", "charged_fen", "close_date")


async def unlike_their_header(connection: Connection) -> tuple[int, list[str]]:
    """How many bodies there are, and which are not what their digest and header say; lays out the records of the
    others for `rows.UPLOADS`.
    """
    await rows.begin_uploads(connection)
    checked, wrong = 0, []
    async for page in rows.bodies(connection):
        checked += len(page)
        read = [(row, _records(row)) for row in page]
        wrong += [f"body of batch {row['terminal']}/{row['n']}" for row, records in read if records is None]
        whole = [(row["batch_id"], records) for row, records in read if records is not None]
        await rows.put_uploads(
            connection, [(number, octets(records).view("V128").ravel()) for number, records in whole]
        )
    await rows.end_uploads(connection)
    return checked, wrong


def _records(row: StoredRow) -> Records | None:
    """The records of a stored body; None when it is not the one that was acknowledged."""
    try:
        batch = decode_batch(row["media"], row["body"], row["terminal"], row["n"])
    except Problem:
        return None
    same = batch.digest == row["digest"] and len(batch.records) == row["count"]
    return batch.records if same and all(getattr(batch, name) == row[name] for name in _HEADER) else None


async def unlike_their_bytes(connection: Connection, calendar: Calendar) -> tuple[int, list[str]]:
    """How many records have a moment, and which have another moment, business date, proof key or digest than their
    bytes give them.
    """
    checked, wrong = 0, []
    async for keys, instants, origins, raws in rows.moments(connection):
        records = raws.view(RECORD_DTYPE).ravel()
        checked += len(records)
        wall, readable = wall_moments(records["date"], records["time"])
        good = readable & _fits(wall, instants.astype(np.int64), origins.astype(np.int32), calendar)
        good &= keys == proof_keys(records).view("V16").ravel()
        wrong += [f"a record of {_name(record)}" for record in records[~good]]
    async for page in rows.exhibits(connection):
        wrong += [f"exhibit {row['digest'].hex()}" for row in page if row["digest"] != sm3(row["record"])]
    return checked, wrong


def _name(record: np.void) -> str:
    return f"{record['terminal']}/{record['epoch']}/{record['sequence']}"


def _fits(wall: Instants, instants: Instants, origins: Days, calendar: Calendar) -> Mask:
    # A cut-off may begin on a date that was open already: records before it keep the one that they came under.
    good = np.zeros(len(wall), np.bool_)
    for cut_offs in calendar.alternatives():
        instant, origin = cut_offs.resolve(wall)
        good |= (instant == instants) & (origin == origins)
        if good.all():
            break
    return good


async def unlike_their_text(connection: Connection, calendar: Calendar) -> tuple[int, list[str]]:
    """How many imported rows there are, and which are not what their text says."""
    checked, wrong = 0, []
    async for page in rows.imported(connection):
        checked += len(page)
        taps = [_judged(row) for row in page]
        dated = [(row, tap) for row, tap in zip(page, taps, strict=True) if tap and tap.moment and row["instant"]]
        good = _fits(
            wall_us([tap.moment for _, tap in dated]),
            np.array([instant_us(row["instant"]) for row, _ in dated], np.int64),
            np.array([days_of(row["origin_date"]) for row, _ in dated], np.int32),
            calendar,
        )
        wrong += [_row(row) for row, tap in zip(page, taps, strict=True) if not (tap and _says(row, tap))]
        wrong += [_row(row) for (row, _), fits in zip(dated, good, strict=True) if not fits]
    return checked, wrong


def _row(row: StoredRow) -> str:
    return f"imported row {row['row_key'].hex()}"


def _judged(row: StoredRow) -> Tap | None:
    try:
        return judge_again(row["row"], row["code"])
    except ValueError:
        return None


def _says(row: StoredRow, tap: Tap) -> bool:
    """Whether a row was kept as its text is judged; whether its company was known then is for the row to say."""
    codes = (tap.code,) if tap.code else ("", "unknown-company")
    same = row["row_key"] == tap.key and all(row[name] == getattr(tap, name) for name in _JUDGED)
    dated = [value is None for value in (tap.moment, row["instant"], row["origin_date"])]
    return same and len(set(dated)) == 1 and row["code"] in codes and (row["state"] == "accepted") == (not row["code"])
