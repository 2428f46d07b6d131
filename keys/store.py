"""Where keys live. A store hands out handles by purpose; it never hands out a key.

`open_store` is the one door: to a store in a directory (`keys.embedded`), and to one in a token with its evidence in a
directory (`keys.pkcs11`).
"""

from contextlib import suppress
from pathlib import Path

from cardcore.errors import KeyUseError, SetupError
from keys import wrapping
from keys.chain import Chain
from keys.embedded import (
    FILE_NAME,
    EmbeddedStore,
    KeyFacts,
    KeyStore,
    MachineClock,
    anchor_file,
    state_file,
)
from keys.engine.kek import PASSPHRASES, KekSource
from keys.pkcs11 import Missing, needs_pin, open_token_store
from keys.pkcs11.store import FILE_NAME as TOKEN_FILE_NAME
from keys.state import Clock, StateFile
from keys.wrapping import key_file

__all__ = [
    "FILE_NAME",
    "EmbeddedStore",
    "KeyFacts",
    "KeyStore",
    "MachineClock",
    "Missing",
    "anchor_file",
    "is_store",
    "key_file",
    "open_store",
    "secret_wanted",
]


def open_store(
    path: Path,
    *,
    token: str | None = None,
    production: bool = False,
    passphrase: str | None = None,
    passphrase_kdf: KekSource = KekSource.ARGON2ID,
    missing: Missing | None = None,
    clock: Clock | None = None,
    anchor: Path | None = None,
    restored: bool = False,
) -> EmbeddedStore:
    """Open the store in directory `path`, or found it there.

    With a `token` (a URI of RFC 7512) the keys are in that token, and `path` has their list, quota and audit;
    `passphrase` is then its PIN, where the URI names no source of it, and `missing` what becomes of keys that it cannot
    hold, as at its founding unless named. Otherwise they lie sealed in `path`: without a passphrase the key-encryption
    key lies in `<path>.kek`, mode 0600.

    `production` is decided when a store is founded: a production store refuses TEST keys for ever, and a test store
    cannot be opened as a production store. `clock` stamps the audit and tells the dates of sunsets. `anchor` is the
    file that an older copy of the store does not fit, `<path>.anchor` unless named; best on another disk than the
    store. `restored` opens a store that does not fit it, for nothing but its acceptance.

    Raises KeyUseError (wrong passphrase or key file, changed or older store, test store, another token), FormatError
    (URI, short passphrase), SetupError (the directory, module, token or PIN cannot be used).
    """
    _check_kind(path, token)
    if token is not None:
        return open_token_store(
            token, path, production=production, pin=passphrase, missing=missing, clock=clock, anchor=anchor,
            restored=restored,
        )  # fmt: skip
    state = state_file(path, FILE_NAME, clock, anchor)
    try:
        if facts := state.facts():
            return _reopen(path, state, facts, production, passphrase, restored)
        return _found(path, state, production, passphrase, passphrase_kdf)
    except BaseException:
        state.close()
        raise


def is_store(path: Path) -> bool:
    """Whether there is a store in this directory, of either kind."""
    return (path / FILE_NAME).is_file() or (path / TOKEN_FILE_NAME).is_file()


def secret_wanted(path: Path, token: str | None = None) -> str | None:
    """What `open_store` has to be given as `passphrase`, in words; None when it opens without. Raises FormatError for
    a token's URI that is none."""
    if token is not None:
        return "PIN of the token" if needs_pin(token) else None
    if not (path / FILE_NAME).is_file():
        return None
    with suppress(KeyUseError):
        state = StateFile(path / FILE_NAME, MachineClock())
        try:
            return f"Passphrase of the store {path}" if state.facts().get("kek", b"").decode() in PASSPHRASES else None
        finally:
            state.close()
    return None


def _check_kind(path: Path, token: str | None) -> None:
    """A store is never founded over one of the other kind."""
    if token is None and (path / TOKEN_FILE_NAME).is_file():
        raise SetupError(
            f"the keys of {path} are in a token; nothing was opened, name it (onecard keys … --token pkcs11:…)"
        )
    if token is not None and (path / FILE_NAME).is_file():
        raise SetupError(f"the keys of {path} lie in the directory itself; nothing was opened, name no token")


def _found(path: Path, state: StateFile, production: bool, passphrase: str | None, kdf: KekSource) -> EmbeddedStore:
    if state.anchor and state.anchor.exists():
        raise SetupError(
            f"{state.anchor.path} exists, but its store does not: restore the store, or move the anchor away if the "
            "store is gone for good"
        )
    facts, sealer = wrapping.founded(path, b"production" if production else b"test", passphrase, kdf)
    state.found(facts, Chain(sealer))
    return EmbeddedStore(state, sealer, production, KekSource(facts["kek"].decode()))


def _reopen(
    path: Path, state: StateFile, facts: wrapping.Facts, production: bool, passphrase: str | None, restored: bool
) -> EmbeddedStore:
    source, sealer = wrapping.opened(path, facts, passphrase)
    is_production = facts["kind"] == b"production"
    if production and not is_production:
        raise KeyUseError(f"{path} was founded as a test store and cannot become a production store; found a new one")
    state.trust(Chain(sealer), anchored=not restored)
    store = EmbeddedStore(state, sealer, is_production, source)
    if restored:
        state.anchor, store.restored = None, True
    return store
