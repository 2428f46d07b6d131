"""The key store in a directory: one SQLite file of sealed key blocks. It hands out handles by purpose, and never a key.

What opens it lies beside the directory, so that a copy of the directory alone opens nothing (`keys.wrapping`); so does
its anchor, unless a deployment says where: an older copy of the file does not fit it.
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
from keys.chain import Anchor, Chain
from keys.engine.block import Sealer
from keys.engine.kek import PASSPHRASES, KekSource
from keys.engine.root import RootKey
from keys.entries import EntryGuard
from keys.governed import ActVerifier, Book, Personaliser, SealVerifier, TacVerifier
from keys.loads import LOCAL, LoadAuthoriser, Quotas
from keys.psams import PsamKeeper
from keys.purposes import KeyId, KeyState
from keys.register import life_row
from keys.rotation import Life
from keys.state import Clock, StateFile, Statement
from keys.unloads import UnloadAuthoriser
from keys.upkeep import CardUpkeep
from keys.wrapping import key_file

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
    def unload_authoriser(self, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL) -> UnloadAuthoriser: ...
    def upkeep(self) -> CardUpkeep: ...
    def entry_guard(self) -> EntryGuard: ...
    def psam_keeper(self) -> PsamKeeper: ...


class MachineClock:
    """The machine's own time, for the audit only."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class EmbeddedStore:
    """A `KeyStore` in a directory. Close it, or use it in a `with`: what the audit has only counted is written then.

    What changes its keys, rules and custodians needs two persons and stands in `keys.acts`.
    """

    # What the place of the keys cannot do, said when it opens; an embedded store can do everything.
    limits: Sequence[object] = ()

    def __init__(self, state: StateFile, sealer: Sealer, production: bool, source: KekSource) -> None:
        self._state = state
        self._chain = Chain(sealer)
        self.book = Book(state)
        self.production = production
        self.source = source
        # A copy that was put back answers nothing before two custodians have accepted it.
        self.restored = False
        self.path = state.path.parent
        self.anchor = state.anchor or Anchor(anchor_file(self.path))
        self._sealer = sealer
        self._roots = self._open_blocks()

    def __enter__(self) -> "EmbeddedStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what the audit has counted and let the file go; the handles stop working."""
        self._state.close()

    def inventory(self) -> list[KeyFacts]:
        """What the store holds, sorted by name and version."""
        facts = [KeyFacts(root.id, self._state_of(root), root.kcv, root.test) for root in self._roots.values()]
        return sorted(facts, key=lambda fact: (fact.id.name, fact.id.version))

    def audit(self, last: int | None = None) -> list[tuple[int, str, str, str, str, str]]:
        """Every act on these keys, or the last ones: number, instant, act, subject, detail."""
        return self._state.audit_rows(last)

    def admit(self, keys: Sequence[RootKey]) -> None:
        """As `KeyStore.admit`; TEST keys only, which are in force at once. Keys of production come by a ceremony of
        several persons (`keys.acts.install`)."""
        fresh = self.fresh(keys)
        if real := [str(root.id) for root in fresh if not root.test]:
            raise KeyUseError(f"{real[0]} is no TEST key and comes by a ceremony with two approvals; nothing was kept")
        if fresh:
            names = f"{len(fresh)} keys: " + ", ".join(root.id.name for root in fresh)
            self._state.change(self.rows_of(fresh), [("ceremony", "TEST keys", names)])
            self.reload()

    def check_holds(self, id: KeyId) -> None:
        """Raises KeyUseError for a key that cannot be kept here; a directory takes every one."""

    def fresh(self, keys: Sequence[RootKey]) -> list[RootKey]:
        """Those that are not here yet. Raises KeyUseError for another value under a name that is taken, for a TEST
        key in a production store, and the reverse."""
        fresh = [root for root in keys if not self._is_here(root)]
        for root in fresh:
            self._check_kind(root, "nothing was kept")
        return fresh

    def rows_of(self, keys: Sequence[RootKey]) -> list[Statement]:
        """How keys are written down: their sealed blocks, and their lives from now on."""
        since = self._state.clock.now().isoformat(timespec="seconds")
        rows: list[Statement] = []
        for root in keys:
            block = (root.id.name, root.id.version, self._sealer.seal(root))
            rows.append(("INSERT OR REPLACE INTO block VALUES (?, ?, ?)", block))
            rows.append(life_row(Life(root.id, root.state, since, root.kcv.hex().upper(), root.test)))
        return rows

    def in_state(self, id: KeyId, state: KeyState) -> RootKey:
        """A key of this store as it will be in another state, to be written down."""
        root = self._roots[id]
        return RootKey(id, root.undiversified().reveal(), state, root.test)

    def lift_anchor(self) -> None:
        """Let the anchor be written from this store again, whatever it remembered; only its acceptance does so."""
        assert self.restored
        self.anchor.path.unlink(missing_ok=True)
        self._state.anchor = self.anchor

    def reload(self) -> None:
        """Open the blocks again, after they have changed."""
        self._roots = self._open_blocks()

    def tac_verifier(self) -> TacVerifier:
        """Verdicts over the TACs of debits and loads."""
        return TacVerifier(self._in_use(), self.book)

    def seal_verifier(self) -> SealVerifier:
        """Verdicts over the seals of PSAMs."""
        return SealVerifier(self._in_use(), self.book)

    def act_verifier(self) -> ActVerifier:
        """Verdicts over online acts."""
        return ActVerifier(self._in_use(), self.book)

    def load_authoriser(self, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL) -> LoadAuthoriser:
        """Answers loads within daily quotas; `clock` tells aware UTC, `zone` is the local time that cards are told."""
        return LoadAuthoriser(self._in_use(), self._state, clock, quotas, zone)

    def unload_authoriser(self, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL) -> UnloadAuthoriser:
        """Answers unloads within daily quotas of their own; `clock` and `zone` as for loads."""
        return UnloadAuthoriser(self._in_use(), self.book, clock, quotas, zone)

    def upkeep(self) -> CardUpkeep:
        """Keeps issued chips in order; of a production store only those PSAMs that two custodians have opened."""
        return CardUpkeep(self._in_use(), self.book, frozenset() if self.production else None)

    def entry_guard(self) -> EntryGuard:
        """Makes and checks the MACs of metro gates."""
        return EntryGuard(self._in_use(), self.book)

    def psam_keeper(self) -> PsamKeeper:
        """Sets the ceilings of issued PSAMs."""
        return PsamKeeper(self._in_use(), self.book)

    def personaliser(self) -> Personaliser:
        """Makes key steps and secured commands; of a production store for cards, and for those PSAMs whose issuing
        two custodians have opened (`keys.acts.issue_psams`)."""
        return self.personaliser_for(frozenset() if self.production else None)

    def personaliser_for(self, psams: frozenset[str] | None) -> Personaliser:
        """The same, for these PSAMs too; None means any, which is for TEST stores."""
        return Personaliser(self._in_use(), self.book, psams)

    def places(self) -> dict[str, str]:
        """What lies where, for its custodians."""
        opener = f"a passphrase, {self.source}" if self.source in PASSPHRASES else f"key file {key_file(self.path)}"
        return {
            "keys (sealed), quota, audit": str(self._state.path),
            "opened by": opener,
            "anchor": str(self.anchor.path),
        }

    def _in_use(self) -> list[RootKey]:
        if self.restored:
            raise KeyUseError(
                "this store is a copy that was put back and nobody has accepted it; no key was used, let two "
                "custodians accept it (onecard keys accept-restored)"
            )
        return list(self._roots.values())

    def _open_blocks(self) -> dict[KeyId, RootKey]:
        """Every block, as it was sealed and under the name and in the state that it was sealed for."""
        lives = dict(self.book.register.lives())
        roots: dict[KeyId, RootKey] = {}
        for name, version, block in self._state.blocks():
            root = self._sealer.open(block)
            if (root.id.name, root.id.version) != (name, version):
                raise KeyUseError(
                    f"the block of {root.id} lies under the name {name} v{version}; nothing was opened, restore it"
                )
            life = lives.pop(root.id, None)
            if life is None or (life.state, life.test, life.kcv) != (root.state, root.test, root.kcv.hex().upper()):
                raise KeyUseError(f"the block of {root.id} is of another moment than its life; restore the store")
            self._check_kind(root, "nothing was opened, restore the store")
            roots[root.id] = root
        if gone := [str(id) for id, life in lives.items() if life.state is not KeyState.DESTROYED]:
            raise KeyUseError(f"the block of {gone[0]} is missing; nothing was opened, restore the store")
        return roots

    def _check_kind(self, root: RootKey, after: str) -> None:
        if self.production and root.test:
            raise KeyUseError(
                f"this is a production store and {root.id} is a TEST key; {after}, keep TEST keys in a test store"
            )
        if not self.production and not root.test:
            raise KeyUseError(
                f"this is a test store and {root.id} is a key of production; {after}, keep it in a production store"
            )

    def _state_of(self, root: RootKey) -> KeyState:
        return self.book.register.state_of(root)

    def _is_here(self, root: RootKey) -> bool:
        known = self._roots.get(root.id)
        if known is None:
            life = self.book.register.lives().get(root.id)
            if life:
                raise KeyUseError(f"{root.id} was here and is {life.state}; nothing was kept, give it a new version")
            return False
        if not hmac.compare_digest(known.undiversified().reveal(), root.undiversified().reveal()):
            raise KeyUseError(
                f"{root.id} is here already with another value; nothing was kept, give the new key a new version"
            )
        return True


def anchor_file(path: Path) -> Path:
    """Where the anchor of a store lies, unless a deployment names a better place."""
    return path.parent / f"{path.name}.anchor"


def state_file(path: Path, name: str, clock: Clock | None, anchor: Path | None) -> StateFile:
    """The file of a store in a directory, made there when it is not; raises SetupError when that cannot be done."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only a new file is opened here: closing a descriptor of a database drops all locks of this process on it.
        with suppress(FileExistsError):
            os.close(os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise SetupError(
            f"the key store {path} cannot be used ({error}); name a directory that this user may write"
        ) from error
    return StateFile(path / name, clock or MachineClock(), Anchor(anchor or anchor_file(path)))
