"""Where the key-encryption key of an embedded store comes from: a file beside the store, or a passphrase. It opens the
store's own key and nothing else (`keys.engine.block`)."""

import os
import stat
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SM3
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from cardcore.errors import KeyUseError, SetupError

KEK_BYTES = 16


class KekSource(StrEnum):
    """What opens a store; kept in it, because it cannot be guessed from a passphrase. A token opens by its PIN."""

    FILE = "file"
    ARGON2ID = "argon2id"
    PBKDF2_SM3 = "pbkdf2-sm3"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret


PASSPHRASES = frozenset({KekSource.ARGON2ID, KekSource.PBKDF2_SM3})


def from_passphrase(source: KekSource, passphrase: str, salt: bytes) -> bytes:
    """Stretch a passphrase: Argon2id (64 MiB), or PBKDF2 with HMAC-SM3 where only SM algorithms may be used. Raises
    KeyUseError for what is no passphrase."""
    secret = passphrase.encode()
    if source is KekSource.ARGON2ID:
        return Argon2id(salt=salt, length=KEK_BYTES, iterations=3, lanes=4, memory_cost=65_536).derive(secret)
    if source is KekSource.PBKDF2_SM3:
        return PBKDF2HMAC(SM3(), KEK_BYTES, salt, 600_000).derive(secret)
    raise KeyUseError(f"a {source} is no passphrase; nothing was opened")


def make_file(path: Path) -> bytes:
    """Draw a key-encryption key into a new file of mode 0600, which is on the disk when this returns; raises SetupError
    when the file is there already, or cannot be written."""
    kek = os.urandom(KEK_BYTES)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(kek.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path)
    except FileExistsError as error:
        raise SetupError(
            f"{path} exists, but its store does not: restore the store, or move the file away if it is gone for good"
        ) from error
    except OSError as error:
        raise SetupError(f"the key file {path} cannot be written ({error}); nothing was done, make room") from error
    return kek


def sync_folder(path: Path) -> None:
    """Put the name of a file on the disk, or its absence."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path) -> bytes:
    """Read it; raises KeyUseError when it is missing, malformed, or readable by others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except OSError as error:
        raise KeyUseError(
            f"the key file {path} of the store cannot be read; restore it from its safe: {error}"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUseError(f"the key file {path} is open to other users; set its mode to 0600, nothing was opened")
    try:
        kek = bytes.fromhex(text)
    except ValueError as error:
        raise KeyUseError(f"the key file {path} holds no hexadecimal text; restore it from its safe") from error
    if len(kek) != KEK_BYTES:
        raise KeyUseError(
            f"the key file {path} holds {len(kek)} bytes instead of {KEK_BYTES}; restore it from its safe"
        )
    return kek
