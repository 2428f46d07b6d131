"""Where keys live. A store hands out handles by purpose; it never hands out a key.

The embedded store is a directory with one SQLite file of sealed key blocks. Its key-encryption key comes from a file
of mode 0600 *beside* the directory, so that a copy of the directory alone opens nothing, or from a passphrase.
"""

import hmac
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Protocol

from cardcore.errors import KeyUseError, SetupError
from keys.engine import kek
from keys.engine.block import Sealer
from keys.engine.kek import KekSource
from keys.engine.root import RootKey
from keys.loads import LOCAL, LoadAuthoriser, Quotas
from keys.personaliser import Personaliser
from keys.purposes import KeyId, KeyState
from keys.state import Clock, StateFile
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier

FILE_NAME = "keys.sqlite"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What may be known of a key: its name, state, check value (3 bytes) and whether it is a TEST key."""

    id: KeyId
    state: KeyState
    kcv: bytes
    test: bool


class KeyStore(Protocol):
    """The only factory of handles; a getter raises KeyUseError when the store holds no usable key of its purpose."""

    def inventory(self) -> list[KeyFacts]:
        """What the store holds, sorted by name and version."""
        ...

    def admit(self, keys: Sequence[RootKey]) -> None:
        """Take in the keys that a ceremony has made, all or none; a key that is there already with the same value is
        left as it is.

        Raises KeyUseError for a TEST key in a production store, and for another value under a name that is taken.
        """
        ...

    def tac_verifier(self) -> TacVerifier: ...
    def seal_verifier(self) -> SealVerifier: ...
    def act_verifier(self) -> ActVerifier: ...
    def load_authoriser(self, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL) -> LoadAuthoriser: ...
    def personaliser(self) -> Personaliser: ...


class MachineClock:
    """The machine's own time, for the audit only."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class EmbeddedStore:
    """A `KeyStore` in a directory. Close it, or use it in a `with`: what the audit has only counted is written then."""

    def __init__(self, state: StateFile, sealer: Sealer, production: bool) -> None:
        self._state = state
        self._sealer = sealer
        self._roots: dict[KeyId, RootKey] = {}
        self.production = production
        for name, version, block in state.blocks():
            root = sealer.open(block)
            if (root.id.name, root.id.version) != (name, version):
                raise KeyUseError(
                    f"the block of {root.id} lies under the name {name} v{version}; nothing was opened, restore it"
                )
            if production and root.test:
                raise KeyUseError(
                    f"the production store holds the TEST key {root.id}; nothing was opened, restore the store"
                )
            self._roots[root.id] = root

    def __enter__(self) -> "EmbeddedStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what the audit has counted and let the file go; handles that write an audit stop working, verifiers
        do not."""
        self._state.close()

    def inventory(self) -> list[KeyFacts]:
        """What the store holds, sorted by name and version."""
        facts = [KeyFacts(root.id, root.state, root.kcv, root.test) for root in self._roots.values()]
        return sorted(facts, key=lambda fact: (fact.id.name, fact.id.version))

    def audit(self) -> list[tuple[int, str, str, str, str]]:
        """Every act on these keys: number, instant, act, subject, detail."""
        return self._state.audit_rows()

    def admit(self, keys: Sequence[RootKey]) -> None:
        """As `KeyStore.admit`."""
        fresh = [root for root in keys if not self._is_here(root)]
        if self.production and (tests := [str(root.id) for root in fresh if root.test]):
            raise KeyUseError(
                f"this is a production store and {tests[0]} is a TEST key; nothing was kept, open a test store"
            )
        if not fresh:
            return
        blocks = [(root.id.name, root.id.version, self._sealer.seal(root)) for root in fresh]
        self._state.keep(blocks, "ceremony", "TEST keys" if all(root.test for root in fresh) else "keys")
        self._roots.update((root.id, root) for root in fresh)

    def tac_verifier(self) -> TacVerifier:
        """Verdicts over the TACs of debits and loads."""
        return TacVerifier(self._roots.values())

    def seal_verifier(self) -> SealVerifier:
        """Verdicts over the seals of PSAMs."""
        return SealVerifier(self._roots.values())

    def act_verifier(self) -> ActVerifier:
        """Verdicts over online acts."""
        return ActVerifier(self._roots.values())

    def load_authoriser(self, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL) -> LoadAuthoriser:
        """Answers loads within daily quotas; `clock` tells aware UTC, `zone` is the local time that cards are told."""
        return LoadAuthoriser(self._roots.values(), self._state, clock, quotas, zone)

    def personaliser(self) -> Personaliser:
        """Makes key steps and secured commands."""
        return Personaliser(self._roots.values(), self._state)

    def _is_here(self, root: RootKey) -> bool:
        known = self._roots.get(root.id)
        if known is None:
            return False
        if not hmac.compare_digest(known.undiversified().reveal(), root.undiversified().reveal()):
            raise KeyUseError(
                f"{root.id} is here already with another value; nothing was kept, give the new key a new version"
            )
        return True


def open_store(
    path: Path,
    *,
    production: bool = False,
    passphrase: str | None = None,
    passphrase_kdf: KekSource = KekSource.ARGON2ID,
    clock: Clock | None = None,
) -> EmbeddedStore:
    """Open the embedded store in directory `path`, or found it there.

    Without a passphrase the key-encryption key lies in `<path>.kek`, mode 0600. `production` is decided when a store
    is founded: a production store refuses TEST keys for ever, and a test store cannot be opened as a production store.
    `clock` stamps the audit. Raises KeyUseError (wrong passphrase or key file, changed block, test store), SetupError
    (the directory cannot be used).
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only a new file is opened here: closing a descriptor of a database drops all locks of this process on it.
        with suppress(FileExistsError):
            os.close(os.open(path / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise SetupError(
            f"the key store {path} cannot be used ({error}); name a directory that this user may write"
        ) from error
    state = StateFile(path / FILE_NAME, clock or MachineClock())
    try:
        facts = state.facts()
        if facts:
            return _reopen(path, state, facts, production, passphrase)
        return _found(path, state, production, passphrase, passphrase_kdf)
    except BaseException:
        state.close()
        raise


def key_file(path: Path) -> Path:
    """Where the key-encryption key of a store without passphrase lies."""
    return path.parent / f"{path.name}.kek"


def _found(path: Path, state: StateFile, production: bool, passphrase: str | None, kdf: KekSource) -> EmbeddedStore:
    salt = os.urandom(16)
    if passphrase is None:
        source, secret = KekSource.FILE, kek.make_file(key_file(path))
    else:
        source, secret = kdf, kek.from_passphrase(kdf, passphrase, salt)
    sealer = Sealer(secret)
    facts = {"kind": b"production" if production else b"test", "kek": source.encode(), "salt": salt}
    state.found(facts | {"mark": sealer.mark(_marked(facts))})
    return EmbeddedStore(state, sealer, production)


def _reopen(
    path: Path, state: StateFile, facts: dict[str, bytes], production: bool, passphrase: str | None
) -> EmbeddedStore:
    source = KekSource(facts["kek"].decode())
    if source is KekSource.FILE:
        secret = kek.read_file(key_file(path))
    elif passphrase is None:
        raise KeyUseError(f"the key store {path} is under a passphrase; give it")
    else:
        secret = kek.from_passphrase(source, passphrase, facts["salt"])
    sealer = Sealer(secret)
    if not hmac.compare_digest(sealer.mark(_marked(facts)), facts["mark"]):
        raise KeyUseError(
            f"the key store {path} does not open: the passphrase or key file is wrong, or the store was changed"
        )
    is_production = facts["kind"] == b"production"
    if production and not is_production:
        raise KeyUseError(f"{path} was founded as a test store and cannot become a production store; found a new one")
    return EmbeddedStore(state, sealer, is_production)


def _marked(facts: dict[str, bytes]) -> bytes:
    return b"|".join(facts[name] for name in ("kind", "kek", "salt"))
