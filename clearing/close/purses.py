"""The purses that do not explain themselves, read for judgement."""

from collections import defaultdict

from clearing.close.placement import Bare, Known, Load, Purse
from clearing.store.purses import puzzles
from clearing.store.types import Connection, StoredRow

_Key = tuple[bytes, int, int]


async def read_purses(connection: Connection) -> list[Purse]:
    """Their known records, loads, unsealed debits and forks, each in the order of docs/ledger.md, "Gaps"."""
    known, value, forked = map(_by_purse, await puzzles(connection))
    return [
        Purse(
            *key,
            known=tuple(map(_known, rows)),
            loads=_loads(value[key], rows[0]["allowance_fen"]),
            bare=tuple(Bare(row["instant"], row["amount_fen"]) for row in value[key] if row["what"] == "bare"),
            forked=tuple(row["counter"] for row in forked[key]),
        )
        for key, rows in known.items()
    ]


def _by_purse(rows: list[StoredRow]) -> defaultdict[_Key, list[StoredRow]]:
    found: defaultdict[_Key, list[StoredRow]] = defaultdict(list)
    for row in rows:
        found[row["card"], row["purse"], row["generation"]].append(row)
    return found


def _known(row: StoredRow) -> Known:
    return Known(
        row["counter"], row["before_fen"], row["left_fen"], row["instant"], row["proof_key"], row["origin_date"]
    )


def _loads(rows: list[StoredRow], allowance_fen: int) -> tuple[Load, ...]:
    return tuple(
        Load(
            row["load_id"],
            row["counter"],
            None if row["raw_fen"] is None else row["raw_fen"] - allowance_fen,
            row["amount_fen"],
            row["instant"],
            doubt=row["what"] == "doubt",
        )
        for row in rows
        if row["what"] != "bare"
    )
