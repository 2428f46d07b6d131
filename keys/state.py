"""The one SQLite file of a key store: sealed blocks, spent quota, and the audit of every use (decision D10).

WAL and synchronous=FULL: what was committed outlives a kill and a power cut. Rows of the audit are never changed:
triggers refuse it.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Protocol

from cardcore.errors import KeyUseError, RefusedError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS block (
    name TEXT NOT NULL, version INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (name, version)) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, act TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS quota (
    date TEXT NOT NULL, scope TEXT NOT NULL, loads INTEGER NOT NULL, fen INTEGER NOT NULL,
    PRIMARY KEY (date, scope)) STRICT;
CREATE TABLE IF NOT EXISTS load (
    request BLOB PRIMARY KEY, load_id TEXT NOT NULL UNIQUE, date BLOB NOT NULL, time BLOB NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS audit_is_never_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_is_never_shortened BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"""


class Clock(Protocol):
    """Tells the instant of now, aware, in UTC."""

    def now(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a load authoriser may give out in one day: number of loads, and fen."""

    loads: int
    fen: int


@dataclass(frozen=True, slots=True)
class Spending:
    """One load on its way: digest of its request, its name, its card date and time, and what the audit says of it."""

    request: bytes
    load_id: str
    date: bytes
    time: bytes
    fen: int
    detail: str


class StateFile:
    """The connection; safe in several threads, one transaction at a time.

    A use that cannot be written down is refused: every method raises KeyUseError when the file cannot be written.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._lock = RLock()
        self._uses: Counter[tuple[str, str]] = Counter()
        self._open = True
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Write down the uses that are still only counted, then let the file go; closing twice is no mistake."""
        with self._lock:
            if self._open:
                self.record(())
                self._db.close()
                self._open = False

    def facts(self) -> dict[str, bytes]:
        """What the store says of itself."""
        with self._lock:
            return dict(self._db.execute("SELECT name, value FROM store"))

    def found(self, facts: Mapping[str, bytes]) -> None:
        """Write down what a new store says of itself."""
        with self._transaction():
            self._db.executemany("INSERT INTO store VALUES (?, ?)", facts.items())

    def blocks(self) -> list[tuple[str, int, bytes]]:
        """Name, version and sealed block of every key."""
        with self._lock:
            return list(self._db.execute("SELECT name, version, sealed FROM block ORDER BY name, version"))

    def keep(self, blocks: Sequence[tuple[str, int, bytes]], act: str, subject: str) -> None:
        """Add blocks, all or none, with one row of audit."""
        with self._transaction():
            self._db.executemany("INSERT INTO block VALUES (?, ?, ?)", blocks)
            self._audit(act, subject, f"{len(blocks)} keys: " + ", ".join(name for name, _, _ in blocks))

    def count(self, subject: str, use: str) -> None:
        """Count one use of a key; it is written down with the next row."""
        with self._lock:
            if not self._open:
                raise KeyUseError(f"the key store is closed: {use} for {subject} was refused; open the store again")
            self._uses[subject, use] += 1

    def record(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Commit rows of audit (act, subject, detail) and all the uses counted so far."""
        with self._transaction():
            for row in rows:
                self._audit(*row)
            self._write_uses()

    def spend(self, spending: Spending, date: str, limits: Mapping[str, Quota]) -> Spending:
        """Take one load out of every quota and write it down, before anybody gets its MAC2.

        The same request again gets its first answer and spends nothing. Raises RefusedError('over-quota'), with
        nothing spent.
        """
        with self._transaction():
            known = self._db.execute(
                "SELECT load_id, date, time FROM load WHERE request = ?", (spending.request,)
            ).fetchone()
            if known is not None:
                load_id, on, at = known
                self._audit("load repeated", load_id, spending.detail)
                return Spending(spending.request, load_id, on, at, spending.fen, spending.detail)
            for scope, quota in limits.items():
                self._take(date, scope, quota, spending.fen)
            self._db.execute(
                "INSERT INTO load VALUES (?, ?, ?, ?)",
                (spending.request, spending.load_id, spending.date, spending.time),
            )
            self._audit("load", spending.load_id, spending.detail)
        return spending

    def spent(self, date: str, scope: str) -> Quota:
        """What was given out on a date under a scope."""
        with self._lock:
            row = self._db.execute(
                "SELECT loads, fen FROM quota WHERE date = ? AND scope = ?", (date, scope)
            ).fetchone()
        return Quota(*row) if row else Quota(0, 0)

    def audit_rows(self) -> list[tuple[int, str, str, str, str]]:
        """The whole audit: number, instant, act, subject, detail."""
        with self._lock:
            return list(self._db.execute("SELECT id, at, act, subject, detail FROM audit ORDER BY id"))

    def _take(self, date: str, scope: str, quota: Quota, fen: int) -> None:
        spent = self.spent(date, scope)
        if spent.loads + 1 > quota.loads or spent.fen + fen > quota.fen:
            raise RefusedError(
                "over-quota",
                f"the load quota of {scope} for {date} does not suffice: {spent.loads} of {quota.loads} loads and "
                f"{spent.fen} of {quota.fen} fen are spent; nothing was loaded, ask the custodian for a higher quota",
            )
        self._db.execute(
            "INSERT INTO quota VALUES (?, ?, 1, ?) "
            "ON CONFLICT DO UPDATE SET loads = loads + 1, fen = fen + excluded.fen",
            (date, scope, fen),
        )

    def _audit(self, act: str, subject: str, detail: str) -> None:
        self._db.execute(
            "INSERT INTO audit (at, act, subject, detail) VALUES (?, ?, ?, ?)",
            (self._clock.now().isoformat(timespec="seconds"), act, subject, detail),
        )

    def _write_uses(self) -> None:
        by_subject: dict[str, list[str]] = {}
        for (subject, use), times in self._uses.items():
            by_subject.setdefault(subject, []).append(f"{use} ×{times}")
        for subject, uses in by_subject.items():
            self._audit("used", subject, ", ".join(uses))
        self._uses.clear()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise KeyUseError(
                    f"the key store cannot write down what it is asked to do ({error}); it was refused, "
                    "free the disk or the file and ask again"
                ) from error
