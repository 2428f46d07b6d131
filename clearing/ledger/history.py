"""The digests of the books as each close knew them, from one reading of the postings."""

import json
from collections.abc import AsyncIterator, Hashable
from datetime import date

from clearing.ledger.books import UNIT, BookLine, StateLine, SubstanceLine
from clearing.store import books as rows
from clearing.store.types import Connection, StoredRow
from keys.proof import sm3


class _Lines:
    """Lines by what they are about, and their sorted text, which is made again only when a line has changed."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, bytes] = {}
        self._text: bytes | None = None

    def put(self, key: Hashable, line: str) -> None:
        self._lines[key], self._text = f"{line}\n".encode(), None

    def drop(self, key: Hashable) -> None:
        self._lines.pop(key, None)
        self._text = None

    def text(self) -> bytes:
        if self._text is None:
            self._text = b"".join(sorted(self._lines.values()))
        return self._text


class _Growing:
    """The books while one close after the other adds its postings."""

    def __init__(self) -> None:
        self._gross: dict[tuple[date, str, str, str], tuple[int, int]] = {}
        self._nets: dict[tuple[str, str, date], int] = {}
        self._lines, self._substance = _Lines(), _Lines()

    def add(self, row: StoredRow) -> None:
        key = row["date"], row["ledger"], row["account"], row["rule"]
        debit_fen, credit_fen = self._gross.get(key, (0, 0))
        self._gross[key] = gross = debit_fen + row["debit_fen"], credit_fen + row["credit_fen"]
        self._lines.put(key, BookLine(*key[:3], UNIT, key[3], *gross).text())
        if row["has_substance"]:
            about = row["ledger"], row["account"], row["origin_date"]
            self._nets[about] = net_fen = self._nets.get(about, 0) + row["debit_fen"] - row["credit_fen"]
            if net_fen:
                self._substance.put(about, SubstanceLine(*about, net_fen).text())
            else:
                self._substance.drop(about)

    def digests(self, states: list[StateLine]) -> tuple[str, str]:
        # A date sorts before every state, a digit before a letter: the lines of the states stand last.
        last = b"".join(sorted(f"{state.text()}\n".encode() for state in states))
        return sm3(self._lines.text() + last).hex(), sm3(self._substance.text()).hex()


async def digests_at_closes(connection: Connection) -> AsyncIterator[tuple[StoredRow, tuple[str, str]]]:
    """Closed dates (as `clearing.store.books.sealed`), oldest first, with the two digests of the books as each close
    knew them.
    """
    closings = await rows.sealed(connection)
    added: dict[int, list[StoredRow]] = {}
    for row in await rows.added(connection, [closing["last_journal"] for closing in closings]):
        added.setdefault(row["place"], []).append(row)
    books = _Growing()
    for place, closing in enumerate(closings):
        for row in added.get(place, ()):
            books.add(row)
        states = [StateLine(line["state"], line["count"], line["fen"]) for line in json.loads(closing["states"])]
        yield closing, books.digests(states)
