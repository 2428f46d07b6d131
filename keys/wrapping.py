"""What opens an embedded store: a key file beside it, or a passphrase. Under it lies the store's own key, wrapped.

Changing what opens a store wraps that key anew, in one commit of the store's file. A new key file is written beside
the old one before the commit and takes its place after it: whenever a kill comes, one of the two opens the store.
"""

import fcntl
import hmac
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cardcore.errors import FormatError, KeyUseError, SetupError
from keys.engine import kek
from keys.engine.block import Sealer
from keys.engine.kek import KekSource
from keys.state import StateFile

Facts = dict[str, bytes]
SHORTEST = 12


def key_file(path: Path) -> Path:
    """Where the key-encryption key of a store without passphrase lies."""
    return path.parent / f"{path.name}.kek"


def _next_file(path: Path) -> Path:
    """Where a new key file waits for the commit that makes it the one."""
    return path.parent / f"{path.name}.kek.new"


def check_passphrase(words: str) -> None:
    """Raises FormatError for words that are guessed too easily to open a store."""
    if len(words) < SHORTEST:
        raise FormatError(f"the passphrase of a store has {SHORTEST} characters or more; nothing was done")


def founded(path: Path, kind: bytes, passphrase: str | None, kdf: KekSource) -> tuple[Facts, Sealer]:
    """What a new store says of itself, and its sealer. Raises SetupError when a key file is there already."""
    sealer = Sealer.drawn()
    return _facts({"kind": kind}, sealer, key_file(path), passphrase, kdf), sealer


def opened(path: Path, facts: Facts, passphrase: str | None) -> tuple[KekSource, Sealer]:
    """What opens the store, and its sealer. Raises KeyUseError when it does not open, or its facts were changed."""
    try:
        source, block, mark = KekSource(facts["kek"].decode()), facts["key"], facts["mark"]
        if source is KekSource.FILE:
            sealer = _by_file(path, block)
        elif passphrase is None:
            raise KeyUseError(f"the key store {path} is under a passphrase; give it")
        else:
            sealer = Sealer.unwrapped(block, kek.from_passphrase(source, passphrase, facts["salt"]))
    except (KeyError, ValueError) as error:
        raise KeyUseError(
            f"the key store {path} does not say what it is; nothing was opened, restore it from its backup"
        ) from error
    if sealer is None or not hmac.compare_digest(sealer.mark(marked(facts)), mark):
        raise KeyUseError(
            f"the key store {path} does not open: the passphrase or key file is wrong, or the store was changed"
        )
    return source, sealer


def marked(facts: Mapping[str, bytes]) -> bytes:
    """What the mark of a store's facts covers: all of them."""
    return b"|".join(name.encode() + b"=" + facts[name] for name in sorted(facts) if name != "mark")


@contextmanager
def rewrapped(state: StateFile, sealer: Sealer, passphrase: str | None, kdf: KekSource) -> Iterator[Facts]:
    """What the store says of itself under something new that opens it, to be committed inside; afterwards the key
    file that is not in force is gone, whether it came to a commit or not.

    Raises SetupError when another change is going on, or the new key file cannot be written.
    """
    path = state.path.parent
    with _alone(path):
        _settle(path, state.facts())
        try:
            yield _facts({"kind": state.facts()["kind"]}, sealer, _next_file(path), passphrase, kdf)
        finally:
            _settle(path, state.facts())


def _facts(facts: Facts, sealer: Sealer, file: Path, passphrase: str | None, kdf: KekSource) -> Facts:
    salt = os.urandom(16)
    if passphrase is not None:
        check_passphrase(passphrase)
    if passphrase is None:
        source, secret = KekSource.FILE, kek.make_file(file)
    else:
        source, secret = kdf, kek.from_passphrase(kdf, passphrase, salt)
    told = facts | {"kek": source.encode(), "salt": salt, "key": sealer.wrapped(secret)}
    return told | {"mark": sealer.mark(marked(told))}


def _by_file(path: Path, block: bytes) -> Sealer | None:
    file, waiting = key_file(path), _next_file(path)
    if waiting.is_file() and not _opens(file, block) and (sealer := _opens(waiting, block)):
        # A kill came after the commit. Whoever changes the key file now puts this one in its place himself.
        with suppress(SetupError, OSError), _alone(path):
            if _opens(waiting, block):
                _take_place(waiting, file)
        return sealer
    return Sealer.unwrapped(block, kek.read_file(file))


def _settle(path: Path, facts: Facts) -> None:
    """Leave the one key file that the store's facts are under, or none."""
    file, waiting = key_file(path), _next_file(path)
    if KekSource(facts["kek"].decode()) is not KekSource.FILE:
        file.unlink(missing_ok=True)
        waiting.unlink(missing_ok=True)
    elif _opens(waiting, facts["key"]):
        _take_place(waiting, file)
    elif _opens(file, facts["key"]):
        waiting.unlink(missing_ok=True)
    kek.sync_folder(file)


def _opens(file: Path, block: bytes) -> Sealer | None:
    with suppress(KeyUseError):
        return Sealer.unwrapped(block, kek.read_file(file))
    return None


def _take_place(waiting: Path, file: Path) -> None:
    waiting.replace(file)
    kek.sync_folder(file)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change at a time of what opens a store, in all processes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(
                f"what opens the store {path} is being changed by another program; nothing was done, try again"
            ) from error
        yield
    finally:
        os.close(handle)
