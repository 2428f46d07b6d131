"""The one SQLite file of the readers: journal of personalisation and counter queue, evidence of our own acts (D10)."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardcore.errors import SetupError

FILE_NAME = "readers.sqlite"


def open_state(path: Path, schema: str) -> sqlite3.Connection:
    """A connection whose commits outlive a kill and a power cut; raises SetupError when the file cannot be used."""
    try:
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(schema)
    except sqlite3.Error as error:
        raise SetupError(f"{path} cannot be used ({error}); name a state directory that this user may write") from error
    return database


@contextmanager
def committed(database: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it is on the disk afterwards; raises SetupError when it cannot be written."""
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise SetupError(
            f"the readers' state cannot be written ({error}): nothing was noted; free the disk, then repeat the command"
        ) from error
