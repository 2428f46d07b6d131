"""The journal of personalisation: which chip has come how far, kept through any kill (D5).

A stage of a chip is committed once, together with every other stage that ended in the same moment, so that many
readers share one write to the disk.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from cardcore.errors import SetupError
from cardcore.step import Stage
from readers.pcsc.state_file import committed, open_state

SCHEMA = """
CREATE TABLE IF NOT EXISTS chip (
    chip TEXT PRIMARY KEY, script TEXT NOT NULL, profile TEXT NOT NULL, reader TEXT NOT NULL, operator TEXT NOT NULL,
    progress TEXT NOT NULL, reason TEXT NOT NULL, begun_at TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS stage (
    chip TEXT NOT NULL REFERENCES chip, stage TEXT NOT NULL, steps TEXT NOT NULL, ended_at TEXT NOT NULL,
    PRIMARY KEY (chip, stage)
) STRICT;
CREATE TABLE IF NOT EXISTS key_versions (chip TEXT PRIMARY KEY REFERENCES chip, told TEXT NOT NULL) STRICT;
"""
_CHIP = """
INSERT INTO chip VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (chip) DO UPDATE SET
    reader = excluded.reader, operator = excluded.operator, progress = excluded.progress, reason = excluded.reason,
    updated_at = excluded.updated_at
"""


class Progress(Enum):
    RUNNING = "running"
    ISSUED = "issued"
    SCRAPPED = "scrapped"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows of one chip: `script` is the digest of its script, `done` are the stages that ended,
    `versions` the text of its keys' versions (`cardcore.versions`)."""

    chip: str
    script: str
    profile: str
    reader: str
    operator: str
    progress: Progress
    reason: str
    begun_at: datetime
    done: frozenset[Stage]
    versions: str = ""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step as it went: its id, the status word of its last command, and whether an earlier run had done it."""

    id: str
    sw: int
    already: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where a chip stands now, and the stage that ended with it, if one did; `at` is local time."""

    chip: str
    script: str
    profile: str
    reader: str
    operator: str
    progress: Progress
    at: datetime
    reason: str = ""
    stage: Stage | None = None
    steps: Sequence[StepReport] = ()
    versions: str = ""

    @property
    def _told(self) -> str:
        return json.dumps([[step.id, f"{step.sw:04X}", step.already] for step in self.steps])

    @property
    def chip_row(self) -> tuple[str, ...]:
        at = self.at.isoformat()
        who = self.chip, self.script, self.profile, self.reader, self.operator
        return (*who, self.progress.value, self.reason, at, at)

    @property
    def stage_rows(self) -> list[tuple[str, ...]]:
        return [(self.chip, self.stage.value, self._told, self.at.isoformat())] if self.stage else []


class Journal:
    """Opened on a file; `write` returns when the line is on the disk.

    A cancelled `write` may have written its line. Reopening the file after a kill shows every line that returned.
    """

    def __init__(self, path: Path) -> None:
        self._database = open_state(path, SCHEMA)
        # Reads have a connection of their own: they neither wait for the disk nor see what is not committed.
        self._reading = open_state(path, "")
        self._waiting: list[tuple[Line, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    def close(self) -> None:
        self._reading.close()
        self._database.close()

    def find(self, chip: str) -> Entry | None:
        """What is known of a chip (`card <serial>` or `PSAM <terminal number>`, hex)."""
        row = self._reading.execute(
            "SELECT script, profile, reader, operator, progress, reason, begun_at, coalesce(told, '') "
            "FROM chip LEFT JOIN key_versions USING (chip) WHERE chip = ?",
            (chip,),
        ).fetchone()
        if row is None:
            return None
        script, profile, reader, operator, progress, reason, begun_at, versions = row
        stages = self._reading.execute("SELECT stage FROM stage WHERE chip = ?", (chip,))
        done = frozenset(Stage(name) for (name,) in stages)
        begun = datetime.fromisoformat(begun_at)
        return Entry(chip, script, profile, reader, operator, Progress(progress), reason, begun, done, versions)

    def stock(self) -> dict[Progress, int]:
        """Chips by progress: what went in = issued + scrapped + still running."""
        found = dict(self._reading.execute("SELECT progress, count(*) FROM chip GROUP BY progress"))
        return {progress: found.get(progress.value, 0) for progress in Progress}

    async def write(self, line: Line) -> None:
        """Put a line on the disk; raises SetupError when that fails."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                # One turn of the loop lets every writer of this moment come along.
                await asyncio.sleep(0)
                taken, self._waiting = self._waiting, []
                fault = await asyncio.to_thread(self._commit, [line for line, _ in taken])
                for _, future in taken:
                    if future.done():
                        continue
                    if fault is None:
                        future.set_result(None)
                    else:
                        future.set_exception(fault)
        finally:
            self._flushing = None

    def _commit(self, lines: Sequence[Line]) -> SetupError | None:
        try:
            with committed(self._database):
                self._database.executemany(_CHIP, [line.chip_row for line in lines])
                told = [(line.chip, line.versions) for line in lines if line.versions]
                self._database.executemany("INSERT OR IGNORE INTO key_versions VALUES (?, ?)", told)
                ended = [row for line in lines for row in line.stage_rows]
                self._database.executemany("INSERT OR REPLACE INTO stage VALUES (?, ?, ?, ?)", ended)
        except SetupError as error:
            return error
        return None
