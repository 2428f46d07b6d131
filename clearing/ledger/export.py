"""The books as files that a stranger can check: books.jsonl, cases.jsonl, statements/ (docs/ledger.md, "Files of a
day").
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cardcore.record import Sector
from clearing.ledger.books import UNIT, BookLine, Books, StateLine, SubstanceLine
from clearing.settlement.reading import read_movements
from clearing.settlement.statements import statements
from clearing.store import books as rows
from clearing.store.types import Connection, Pool


async def read_books(connection: Connection) -> Books:
    """All lines of the books as they stand now."""
    return Books(
        lines=tuple(
            BookLine(row["date"], row["ledger"], row["account"], UNIT, row["rule"], row["debit_fen"], row["credit_fen"])
            for row in await rows.lines(connection)
        ),
        states=tuple(StateLine(**row) for row in await rows.states(connection)),
        substance=tuple(
            SubstanceLine(row["ledger"], row["account"], row["origin_date"], row["net_fen"])
            for row in await rows.substance(connection)
        ),
    )


async def export(pool: Pool, directory: Path) -> Books:
    """Write books.jsonl, cases.jsonl and the statements of every closed date, all of one moment; the books written.

    Files of the same names are replaced; a cancelled call leaves some of them new and some old.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        books = await read_books(connection)
        cases = [dict(row) | {"detail": json.loads(row["detail"])} for row in await rows.cases(connection)]
        _write_lines(directory / "books.jsonl", books.documents())
        _write_lines(directory / "cases.jsonl", cases)
        for day in await rows.closed_dates(connection):
            folder = directory / "statements" / day.isoformat()
            for operator, document in statements(day, await read_movements(connection, day)).items():
                _write(folder / f"{operator}.json", document)
            _write(folder / "net.json", [dict(row) for row in await rows.net_positions(connection, day)])
    return books


async def debits(pool: Pool) -> dict[str, int]:
    """Proven and pending debits, entries, exits and acts by sector, as they stand now."""
    async with pool.acquire() as connection:
        return {Sector(row["sector"]).label: row["count"] for row in await rows.debits(connection)}


def _write_lines(path: Path, documents: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")


def _write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
