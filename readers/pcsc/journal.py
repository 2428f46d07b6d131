"""The journal of personalisation: which chip has come how far, kept through any kill (D5).

One SQLite file. A stage of a chip is committed once, together with every other stage that ended in the same moment,
so that many readers share one write to the disk.
"""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from cardcore.step import Stage

SCHEMA = """
CREATE TABLE IF NOT EXISTS chip (
    chip TEXT PRIMARY KEY, profile TEXT NOT NULL, reader TEXT NOT NULL, operator TEXT NOT NULL,
    progress TEXT NOT NULL, reason TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS stage (
    chip TEXT NOT NULL REFERENCES chip, stage TEXT NOT NULL, steps TEXT NOT NULL, ended_at TEXT NOT NULL,
    PRIMARY KEY (chip, stage)
) STRICT;
"""


class Progress(Enum):
    RUNNING = "running"
    ISSUED = "issued"
    SCRAPPED = "scrapped"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows of one chip: `done` are the stages that ended."""

    chip: str
    profile: str
    reader: str
    operator: str
    progress: Progress
    reason: str
    done: frozenset[Stage]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step as it went: its id, the status word of its last command, and whether an earlier run had done it."""

    id: str
    sw: int
    already: bool


@dataclass(frozen=True, slots=True)
class _Line:
    chip: str
    profile: str
    reader: str
    operator: str
    progress: Progress
    reason: str
    at: str
    stage: Stage | None
    steps: str


class Journal:
    """Opened on a file; `write` returns when the line is on the disk.

    A cancelled `write` may have written its line. Reopening the file after a kill shows every line that returned.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._waiting: list[tuple[_Line, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    def close(self) -> None:
        self._database.close()

    def find(self, chip: str) -> Entry | None:
        """What is known of a chip (`card <serial>` or `PSAM <terminal number>`, hex)."""
        row = self._database.execute(
            "SELECT profile, reader, operator, progress, reason FROM chip WHERE chip = ?", (chip,)
        ).fetchone()
        if row is None:
            return None
        stages = self._database.execute("SELECT stage FROM stage WHERE chip = ?", (chip,))
        return Entry(
            chip, row[0], row[1], row[2], Progress(row[3]), row[4], frozenset(Stage(name) for (name,) in stages)
        )

    def stock(self) -> dict[Progress, int]:
        """Chips by progress: what went in = issued + scrapped + still running."""
        found = dict(self._database.execute("SELECT progress, count(*) FROM chip GROUP BY progress"))
        return {progress: found.get(progress.value, 0) for progress in Progress}

    async def write(
        self,
        chip: str,
        *,
        profile: str,
        reader: str,
        operator: str,
        progress: Progress,
        at: datetime,
        reason: str = "",
        stage: Stage | None = None,
        steps: Sequence[StepReport] = (),
    ) -> None:
        """One line: where the chip stands now, and the stage that ended with it, if one did."""
        told = json.dumps([[step.id, f"{step.sw:04X}", step.already] for step in steps])
        line = _Line(chip, profile, reader, operator, progress, reason, at.isoformat(), stage, told)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await future

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)
            taken, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._commit, [line for line, _ in taken])
            except sqlite3.Error as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
            else:
                for _, future in taken:
                    if not future.done():
                        future.set_result(None)
        self._flushing = None

    def _commit(self, lines: Sequence[_Line]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(
                "INSERT INTO chip VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (chip) DO UPDATE SET reader = excluded.reader, operator = excluded.operator, progress = excluded.progress, reason = excluded.reason,"
                " updated_at = excluded.updated_at",
                [(x.chip, x.profile, x.reader, x.operator, x.progress.value, x.reason, x.at) for x in lines],
            )
            self._database.executemany(
                "INSERT OR REPLACE INTO stage VALUES (?, ?, ?, ?)",
                [(x.chip, x.stage.value, x.steps, x.at) for x in lines if x.stage is not None],
            )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
