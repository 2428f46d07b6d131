"""The one SQLite file of a key store: sealed blocks, lives and rules of keys, spent quota, and the audit of every use
(decision D10).

WAL and synchronous=FULL: what was committed outlives a kill and a power cut. Rows of the audit are never changed:
triggers refuse it, the chain of their seals shows it (`keys.chain`).
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Protocol

from cardcore.errors import KeyUseError, RefusedError
from keys.caller import read_signed, signed, whoever_runs_this
from keys.chain import START, TALLY_MODULUS, Anchor, Chain, Head, link
from keys.convoy import Convoy
from keys.proof import sm3
from keys.refusals import BROKEN, changed, told, unreadable
from keys.schema import FORM, SCHEMA
from keys.spending import Quota, Spending
from keys.uses import Uses

# What the head digests: who the keys are, what they may do, who may say so. Loads and audit have marks of their own.
_REGISTER = ("store", "block", "life", "rule", "custodian", "approval")
# Opening a store follows this many rows of the audit back; `check_all` follows them all.
_TAIL = 5_000

AuditRow = tuple[str, str, str]
Cell = str | int | bytes
Statement = tuple[str, tuple[Cell, ...]]


class Clock(Protocol):
    """Tells the instant of now, aware, in UTC."""

    def now(self) -> datetime: ...


class StateFile:
    """The connection; safe in several threads, one transaction at a time, and several processes at one file.

    A use that cannot be written down is refused: every method raises KeyUseError when the file cannot be written, or
    when it is not as its own head says.
    """

    def __init__(self, path: Path, clock: Clock, anchor: Anchor | None = None) -> None:
        self.clock = clock
        self.path = path
        self.anchor = anchor
        self._lock = RLock()
        self._uses = Uses()
        self._open = True
        self._chain = Chain()
        self._written = Head()
        self._changes = 0
        self._edition = (0, -1)
        self._caller = whoever_runs_this()
        self._spendings = Convoy(self._spend_all)
        self._records = Convoy(self._record_all)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._found_tables()
        except BROKEN as error:
            self._db.close()
            raise unreadable(path, error) from error
        except BaseException:
            self._db.close()
            raise

    def _found_tables(self) -> None:
        (form,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'store'").fetchone()
        if form != FORM and tables and self._db.execute("SELECT count(*) FROM store").fetchone() != (0,):
            raise KeyUseError(
                f"{self.path} is of form {form} and this program knows form {FORM}; nothing was opened, use the "
                "program that made it, or found a new store by a ceremony"
            )
        self._db.executescript(f"{SCHEMA} PRAGMA user_version = {FORM};")

    def close(self) -> None:
        """Write down the uses that are still only counted, then let the file go; closing twice is no mistake."""
        with self._lock:
            if self._open:
                self._open = False
                try:
                    if self._uses:
                        self._record_all([()])
                finally:
                    self._db.close()

    def facts(self) -> dict[str, bytes]:
        """What the store says of itself."""
        rows = self._read("SELECT name, value FROM store")
        return {str(name): value for name, value in rows if isinstance(value, bytes)}

    def found(self, facts: Mapping[str, bytes], chain: Chain | None = None) -> None:
        """Write down what a new store says of itself, under its own chain from the start."""
        self._chain = chain or self._chain
        self.change([("INSERT INTO store VALUES (?, ?)", fact) for fact in facts.items()], ())

    def trust(self, chain: Chain, *, anchored: bool = True) -> None:
        """Take up the chain of a store that was found before, and check everything that opening may check; without
        `anchored` an older copy passes. Raises KeyUseError, naming what does not fit."""
        self._chain = chain
        remembered = self.anchor.read(chain) if self.anchor and anchored else None
        with self._lock, told(self.path):
            self._db.execute("BEGIN")
            try:
                head = self._head()
                self._check(head, since=max(0, head.number - _TAIL))
                if remembered:
                    self._check_anchor(head, remembered)
            finally:
                self._db.execute("ROLLBACK")

    def check_all(self) -> int:
        """Follow the whole audit and every load; returns the number of rows. Raises KeyUseError at the first that is
        not as it was written."""
        with self._lock, told(self.path):
            self._db.execute("BEGIN")
            try:
                if self._db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                    raise changed("its structure")
                self._check(head := self._head(), since=0)
                for request, load_id, date, time, mark in self._db.execute(
                    "SELECT request, load_id, date, time, mark FROM load"
                ):
                    self._check_load(request, load_id, date, time, mark)
                return head.number
            finally:
                self._db.execute("ROLLBACK")

    def head(self) -> Head:
        """Where the store stands now."""
        with self._lock, told(self.path):
            return self._head()

    def blocks(self) -> list[tuple[str, int, bytes]]:
        """Name, version and sealed block of every key."""
        with self._lock, told(self.path):
            return list(self._db.execute("SELECT name, version, sealed FROM block ORDER BY name, version"))

    def keep(self, blocks: Sequence[tuple[str, int, bytes]], act: str, subject: str) -> None:
        """Add blocks, all or none, with one row of audit."""
        names = f"{len(blocks)} keys: " + ", ".join(name for name, _, _ in blocks)
        self.change([("INSERT INTO block VALUES (?, ?, ?)", block) for block in blocks], [(act, subject, names)])

    def change(self, statements: Sequence[Statement], rows: Sequence[AuditRow]) -> None:
        """Change keys, lives, rules or custodians together with the rows of audit that tell it, all or nothing."""
        with self._transaction() as head:
            for text, cells in statements:
                self._db.execute(text, cells)
            for row in rows:
                head = self._audit(head, *row)
            self._write_head(replace(head, register=self._digest()))
        self._changes += 1

    def checkpoint(self) -> None:
        """Empty the log into the file, so that what was deleted is in neither."""
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")

    def edition(self) -> tuple[int, int]:
        """Changes whenever keys, lives or rules may have changed, here or in another process.

        Who asks while something is being written down is told of before: nothing of it has happened yet.
        """
        if self._lock.acquire(blocking=False):
            try:
                with told(self.path):
                    self._edition = self._changes, self._db.execute("PRAGMA data_version").fetchone()[0]
            finally:
                self._lock.release()
        return self._edition

    def rows(self, table: str) -> list[tuple[Cell, ...]]:
        """All rows of a table of the register, as they lie."""
        return self._read(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608 - one of our own table names

    def count(self, subject: str, use: str, act: str = "used") -> None:
        """Count one use of a key; it is written down with the next row, which `overdue` says has to come first."""
        with self._lock:
            if not self._open:
                raise KeyUseError(f"the key store is closed: {use} for {subject} was refused; open the store again")
            self._uses.add(act, subject, use, self.clock.now())

    def overdue(self) -> bool:
        """Whether the uses counted so far have to be written down before another answer (`keys.uses`)."""
        with self._lock:
            return self._uses.overdue(self.clock.now())

    def record(self, rows: Sequence[AuditRow]) -> None:
        """Commit rows of audit (act, subject, detail) and all the uses counted so far; who waits meanwhile comes
        along."""
        self._records.ask(rows)

    def _record_all(self, asked: Sequence[Sequence[AuditRow]]) -> list[bool]:
        # Under the lock until the end: what is counted meanwhile belongs to the next row.
        with self._lock:
            with self._transaction() as head:
                for rows in asked:
                    for row in rows:
                        head = self._audit(head, *row)
                for row in self._uses.rows():
                    head = self._audit(head, *row)
                self._write_head(head)
            self._uses.clear()
        return [True] * len(asked)

    def spend(self, spending: Spending, limits: Mapping[str, Quota]) -> Spending:
        """Take one load out of every quota of its date and write it down, before anybody gets its MAC2. Loads that wait
        for each other are written down in one transaction.

        The same request again gets its first answer and spends nothing. Raises RefusedError('over-quota'), with
        nothing spent.
        """
        return self._spendings.ask((spending, limits))

    def _spend_all(self, asked: Sequence[tuple[Spending, Mapping[str, Quota]]]) -> list[Spending | Exception]:
        answers: list[Spending | Exception] = []
        with self._transaction() as head:
            for spending, limits in asked:
                self._db.execute("SAVEPOINT load")
                try:
                    head, given = self._spend(head, spending, limits)
                    answers.append(given)
                except RefusedError as refusal:
                    self._db.execute("ROLLBACK TO load")
                    answers.append(refusal)
                self._db.execute("RELEASE load")
            self._write_head(head)
        return answers

    def _spend(self, head: Head, spending: Spending, limits: Mapping[str, Quota]) -> tuple[Head, Spending]:
        known = self._db.execute(
            "SELECT load_id, date, time, mark FROM load WHERE request = ?", (spending.request,)
        ).fetchone()
        if known is not None:
            load_id, on, at, mark = known
            self._check_load(spending.request, load_id, on, at, mark)
            head = self._audit(head, f"{spending.act} repeated", load_id, spending.detail)
            return head, replace(spending, load_id=load_id, date=on, time=at)
        for scope, quota in limits.items():
            head = self._take(head, spending, scope, quota)
        load = (spending.request, spending.load_id, spending.date, spending.time)
        self._db.execute("INSERT INTO load VALUES (?, ?, ?, ?, ?)", (*load, self._load_mark(*load)))
        return self._audit(head, spending.act, spending.load_id, spending.detail), spending

    def spent(self, date: str, scope: str) -> Quota:
        """What was given out on a date under a scope."""
        return next((spent for name, spent, _ in self.quotas(date) if name == scope), Quota(0, 0))

    def quotas(self, date: str) -> list[tuple[str, Quota, Quota]]:
        """Scope, what was given out, and the limit at the last load, for every scope of a date that had a load."""
        rows = self._read(
            "SELECT scope, loads, fen, max_loads, max_fen FROM quota WHERE date = ? "
            "ORDER BY scope = 'total' DESC, scope",
            date,
        )
        return [(str(scope), Quota(int(a), int(b)), Quota(int(c), int(d))) for scope, a, b, c, d in rows]

    def audit_rows(self, last: int | None = None) -> list[tuple[int, str, str, str, str, str]]:
        """The audit, or its last rows: number, instant, act, subject, detail, caller."""
        with self._lock, told(self.path):
            newest = self._db.execute(
                "SELECT id, at, act, subject, detail FROM audit ORDER BY id DESC LIMIT ?",
                (-1 if last is None else last,),
            )
            return [(*row, *read_signed(detail)) for *row, detail in newest][::-1]

    def _read(self, text: str, *cells: Cell) -> list[tuple[Cell, ...]]:
        with self._lock, told(self.path):
            return list(self._db.execute(text, cells))

    def _take(self, head: Head, spending: Spending, scope: str, quota: Quota) -> Head:
        date, fen = spending.quota_date, spending.fen
        row = self._db.execute("SELECT * FROM quota WHERE date = ? AND scope = ?", (date, scope)).fetchone()
        spent = Quota(*row[2:4]) if row else Quota(0, 0)
        if spent.loads + 1 > quota.loads or spent.fen + fen > quota.fen:
            raise RefusedError(
                "over-quota",
                f"the {spending.act} quota of {scope} for {date} does not suffice: {spent.loads} of {quota.loads} and "
                f"{spent.fen} of {quota.fen} fen are spent; nothing was done. Whoever runs the service sets it "
                "(ONECARD_QUOTA_FEN and its kin)",
            )
        now = (date, scope, spent.loads + 1, spent.fen + fen, quota.loads, quota.fen)
        self._db.execute("INSERT OR REPLACE INTO quota VALUES (?, ?, ?, ?, ?, ?)", now)
        # One sum over all rows of quota, kept up row by row: taking one row back, alone, no longer fits it.
        before = self._weight(row) if row else 0
        tally = (int(head.tally, 16) - before + self._weight(now)) % TALLY_MODULUS
        return replace(head, tally=f"{tally:032x}")

    def _weight(self, row: Sequence[Cell]) -> int:
        return int(self._chain.mark("quota", *row), 16)

    def _load_mark(self, request: bytes, load_id: str, date: bytes, time: bytes) -> str:
        return self._chain.mark("load", request, load_id, date, time)

    def _check_load(self, request: bytes, load_id: str, date: bytes, time: bytes, mark: str) -> None:
        if not self._chain.holds(mark, "load", request, load_id, date, time):
            raise changed(f"the load {load_id}")

    def _audit(self, head: Head, act: str, subject: str, detail: str) -> Head:
        number, at = head.number + 1, self.clock.now().isoformat(timespec="seconds")
        detail = signed(detail, self._caller)
        seal = link(head.seal, number, at, act, subject, detail)
        self._db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", (number, at, act, subject, detail, seal))
        return replace(head, number=number, seal=seal)

    def _head(self) -> Head:
        """The head, checked against its mark and the last row of audit."""
        row = self._db.execute("SELECT number, seal, tally, register, mark FROM head").fetchone()
        last = self._db.execute("SELECT id, seal FROM audit ORDER BY id DESC LIMIT 1").fetchone() or (0, START)
        if row is None:
            if last[0] or self._db.execute("SELECT count(*) FROM store").fetchone() != (0,):
                raise changed("its head, which is missing,")
            return Head()
        head = Head(*row[:4])
        if not self._chain.holds(row[4], "head", *head.parts):
            raise changed("its head")
        if last != (head.number, head.seal):
            raise changed(f"the end of its audit, which is no. {last[0]} where the head says {head.number},")
        return head

    def _write_head(self, head: Head) -> None:
        mark = self._chain.mark("head", *head.parts)
        self._db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?, ?)", (*head.parts, mark))
        self._written = head

    def _digest(self) -> str:
        """SM3 over all rows of the register."""
        lines = [
            json.dumps([table, *(cell.hex() if isinstance(cell, bytes) else cell for cell in row)])
            for table in _REGISTER
            for row in self.rows(table)
        ]
        return sm3("\n".join(sorted(lines)).encode()).hex()

    def _check(self, head: Head, since: int) -> None:
        # An index that no longer leads to a row would hide it from who asks by name, and from no digest of all rows.
        for table in (*_REGISTER, "quota"):
            if self._db.execute(f"PRAGMA integrity_check({table})").fetchall() != [("ok",)]:
                raise changed(f"the table {table}")
        if self._digest() != head.register:
            raise changed("a key, a rule or a custodian in it")
        tally = sum(self._weight(row) for row in self._db.execute("SELECT * FROM quota")) % TALLY_MODULUS
        if f"{tally:032x}" != head.tally:
            raise changed("the spent quota")
        self._check_rows(since)

    def _check_rows(self, since: int) -> None:
        """Follow the audit from a row on; the first row followed is believed to be where it says it is."""
        before = START
        rows = self._db.execute(
            "SELECT id, at, act, subject, detail, seal FROM audit WHERE id >= ? ORDER BY id", (since,)
        )
        for expected, (number, *texts, seal) in enumerate(rows, max(since, 1)):
            followed = expected != since
            if number != expected or (followed and link(before, number, *texts) != seal):
                raise changed(f"row {expected} of its audit")
            before = seal

    def _check_anchor(self, head: Head, remembered: Head) -> None:
        found = self._db.execute("SELECT seal FROM audit WHERE id = ?", (remembered.number,)).fetchone()
        seal = found[0] if found else START if remembered.number == 0 else None
        if seal != remembered.seal:
            what = "an older copy was put back" if head.number < remembered.number else "its history is another one"
            raise KeyUseError(
                f"the key store {self.path} stands at row {head.number} of its audit and its anchor at row "
                f"{remembered.number}: {what}. Nothing was opened. If a backup was restored on purpose, two custodians "
                "accept it (onecard keys accept-restored); otherwise keep both files and look for who did it"
            )

    @contextmanager
    def _transaction(self) -> Iterator[Head]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._head()
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except BROKEN as error:
                raise KeyUseError(
                    f"the key store cannot write down what it is asked to do ({error}); it was refused, "
                    "free the disk or the file and ask again"
                ) from error
            if self.anchor:
                self.anchor.write(self._written, self._chain)
