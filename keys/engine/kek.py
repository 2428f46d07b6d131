"""Where the key-encryption key of an embedded store comes from: a file beside the store, or a passphrase."""

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
    """How a store's key-encryption key is made; kept in the store, because it cannot be guessed from the passphrase."""

    FILE = "file"
    ARGON2ID = "argon2id"
    PBKDF2_SM3 = "pbkdf2-sm3"


def from_passphrase(source: KekSource, passphrase: str, salt: bytes) -> bytes:
    """Stretch a passphrase: Argon2id (64 MiB), or PBKDF2 with HMAC-SM3 where only SM algorithms may be used."""
    secret = passphrase.encode()
    if source is KekSource.ARGON2ID:
        return Argon2id(salt=salt, length=KEK_BYTES, iterations=3, lanes=4, memory_cost=65_536).derive(secret)
    return PBKDF2HMAC(SM3(), KEK_BYTES, salt, 600_000).derive(secret)


def make_file(path: Path) -> bytes:
    """Draw a key-encryption key into a new file of mode 0600; raises SetupError when the file is there already."""
    kek = os.urandom(KEK_BYTES)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SetupError(
            f"{path} exists, but its store does not: restore the store, or move the file away if it is gone for good"
        ) from error
    with os.fdopen(handle, "w") as file:
        file.write(kek.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return kek


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
