"""How the file of a key store says no."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardcore.errors import KeyUseError

# The second comes when the words of an error quote a damaged schema.
BROKEN = (sqlite3.Error, UnicodeDecodeError)


@contextmanager
def told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise KeyUseError(
            f"the key store {path} is closed and cannot write down or tell anything; open it again, nothing was done"
        ) from error
    except BROKEN as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> KeyUseError:
    return KeyUseError(f"the key store {path} cannot be read ({error}); nothing was opened, restore it from its backup")


def changed(what: str) -> KeyUseError:
    return KeyUseError(
        f"the key store was changed by another hand: {what} is not as it was written. Nothing was done; restore the "
        "store from its backup and keep this file as evidence"
    )
