"""The counter queue: what a counter owes to clearing, kept through any kill (D10; docs/wire.md).

A load is kept from its grant on, before the card hears of it. When the card has told how it ended, it either is
nothing, or a record in a batch of its own, which is sent until it is acknowledged. Sequence and batch number are given
only then, so that a load that came to nothing leaves no gap.
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from cardcore.record import TapRecord
from readers.pcsc.state_file import committed, open_state

SCHEMA = """
CREATE TABLE IF NOT EXISTS load (
    load_id TEXT PRIMARY KEY, card BLOB NOT NULL, draft BLOB NOT NULL, state TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS batch (
    terminal INTEGER NOT NULL, n INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    record BLOB NOT NULL, acknowledged INTEGER NOT NULL,
    PRIMARY KEY (terminal, n), UNIQUE (terminal, epoch, sequence)
) STRICT;
"""
_HEADER = struct.Struct(">4sIHHIIQ4x")


class LoadState(Enum):
    """How far a load came; `OPEN` until the card has told, `UNDECIDED` when it could not tell any more."""

    OPEN = "open"
    COMMITTED = "committed"
    REFUSED = "refused"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """A granted load: its record as it will be, but for sequence and TAC."""

    load_id: str
    draft: TapRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """One record on its way, under its terminal's batch number `n`."""

    terminal: int
    n: int
    record: TapRecord

    @property
    def body(self) -> bytes:
        """The batch as sent: the same bytes at every try."""
        record = self.record
        place = record.epoch, 1, record.sequence, record.sequence
        return _HEADER.pack(b"OCB1", self.terminal, *place, record.amount_fen) + record.encode()


class CounterQueue:
    """Opened on the readers' state file. Every method returns when it is on the disk; raises SetupError."""

    def __init__(self, path: Path) -> None:
        self._database = open_state(path, SCHEMA)

    def close(self) -> None:
        self._database.close()

    def keep(self, load: OpenLoad) -> None:
        """Keep a granted load; granted again, it is the same one."""
        with committed(self._database):
            row = load.load_id, load.draft.card, load.draft.encode(), LoadState.OPEN.value
            self._database.execute("INSERT OR IGNORE INTO load VALUES (?, ?, ?, ?)", row)

    def open_loads(self, card: bytes | None = None) -> list[OpenLoad]:
        """Loads that nobody knows the end of, of one card (10-byte serial) or of all, the oldest first."""
        rows = self._database.execute(
            "SELECT load_id, draft FROM load WHERE state = ? AND card = coalesce(?, card) ORDER BY rowid",
            (LoadState.OPEN.value, card),
        )
        return [OpenLoad(load_id, TapRecord.decode(draft)) for load_id, draft in rows]

    def finish(self, load: OpenLoad, tac: bytes) -> Batch:
        """The card has committed it and this is its TAC (4 bytes): give it sequence and batch number."""
        terminal, epoch = load.draft.terminal, load.draft.epoch
        with committed(self._database):
            n = self._next("n", "terminal = ?", terminal)
            sequence = self._next("sequence", "terminal = ? AND epoch = ?", terminal, epoch)
            record = replace(load.draft, sequence=sequence, cryptogram=tac + bytes(4))
            row = terminal, n, epoch, sequence, record.encode()
            self._database.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?, FALSE)", row)
            self._close_load(load, LoadState.COMMITTED)
        return Batch(terminal, n, record)

    def end(self, load: OpenLoad, state: LoadState) -> None:
        """It came to nothing, or to nothing that can be proved: no record is sent."""
        with committed(self._database):
            self._close_load(load, state)

    def waiting(self) -> list[Batch]:
        """Batches that are not acknowledged, in the order of their numbers."""
        rows = self._database.execute(
            "SELECT terminal, n, record FROM batch WHERE NOT acknowledged ORDER BY terminal, n"
        )
        return [Batch(terminal, n, TapRecord.decode(record)) for terminal, n, record in rows]

    def acknowledge(self, batch: Batch) -> None:
        """The service has it."""
        with committed(self._database):
            self._database.execute(
                "UPDATE batch SET acknowledged = TRUE WHERE terminal = ? AND n = ?", (batch.terminal, batch.n)
            )

    def renumber(self, batch: Batch) -> Batch:
        """Another batch has this number at the service (409): take the next one for the same record."""
        with committed(self._database):
            n = self._next("n", "terminal = ?", batch.terminal)
            self._database.execute("UPDATE batch SET n = ? WHERE terminal = ? AND n = ?", (n, batch.terminal, batch.n))
        return replace(batch, n=n)

    def _next(self, column: str, where: str, *values: int) -> int:
        query = f"SELECT coalesce(max({column}), 0) + 1 FROM batch WHERE {where}"  # noqa: S608 - both are ours
        (number,) = self._database.execute(query, values).fetchone()
        return int(number)

    def _close_load(self, load: OpenLoad, state: LoadState) -> None:
        self._database.execute("UPDATE load SET state = ? WHERE load_id = ?", (state.value, load.load_id))
