"""A key store in a token, with its evidence beside it.

The roots are objects of the token. A directory of this machine holds what the embedded store's does (`keys.store`):
list and lives of keys, rules, custodians, spent quota, audit. All of it is marked under a key of the token, so neither
can be taken without the other, and all acts of two persons (`keys.acts`) are the embedded store's.
"""

import hmac
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cardcore.errors import FormatError, KeyUseError, SetupError
from cardcore.record import Suite
from keys.chain import Chain
from keys.embedded import EmbeddedStore, state_file
from keys.engine.block import Sealer
from keys.engine.kek import KekSource
from keys.engine.root import RootKey
from keys.governed import Personaliser, SealVerifier
from keys.pkcs11.hsm import PREFIX, Hsm
from keys.pkcs11.limits import Limit, Missing, limits_of
from keys.pkcs11.personaliser import TokenPersonaliser
from keys.pkcs11.root import TokenRoot, label_of, left_of
from keys.pkcs11.uri import TokenUri
from keys.purposes import SUITE_LABELS, KeyId, KeyPurpose, KeyState
from keys.state import Clock, StateFile, Statement
from keys.wrapping import marked

FILE_NAME = "token.sqlite"
SEAL_KEY = f"{PREFIX}seal"
_MAGIC = "OCTK1"
_MARK_BYTES = 16
# Two unlike blocks: that both come out alike means that the key is the same.
_PROBE = bytes(range(16))


class TokenSealer(Sealer):
    """Blocks of a token's store: a root in the token is written down by name, state and check value under a mark;
    any other is sealed."""

    __slots__ = ("_hsm",)

    def __init__(self, hsm: Hsm) -> None:
        super().__init__(hsm.mark(SEAL_KEY, b"onecard key blocks"))
        self._hsm = hsm

    def seal(self, root: RootKey) -> bytes:
        """The row of a root."""
        if not isinstance(root, TokenRoot):
            return super().seal(root)
        test = "TEST" if root.test else "-"
        text = "|".join((_MAGIC, root.id.name, str(root.id.version), root.state, test, root.kcv.hex())).encode()
        return text + self.mark(text)

    def open(self, block: bytes) -> RootKey:
        """The root of a row; raises KeyUseError when the row was changed, or the token no longer holds what it says."""
        if not block.startswith(_MAGIC.encode()):
            return super().open(block)
        text, mark = block[:-_MARK_BYTES], block[-_MARK_BYTES:]
        if not hmac.compare_digest(self.mark(text), mark):
            raise KeyUseError("a row of the token store was changed; nothing was opened, restore its directory")
        try:
            _, name, version, state, test, kcv = text.decode().split("|")
            id, life = KeyId.parse(name, int(version)), KeyState(state)
        except (FormatError, ValueError) as error:
            raise KeyUseError("a row of the token store is of a form that this program does not know") from error
        root = TokenRoot(self._hsm, id, life, test == "TEST")
        if root.kcv.hex() != kcv:
            raise KeyUseError(f"{id} in the token has another check value than at its ceremony; nothing was opened")
        return root


class TokenStore(EmbeddedStore):
    """A store whose roots stay in a token; `limits` says what the token cannot do.

    Close it, or use it in a `with`; then all its handles stop. Its calls wait for the token: in an event loop open it
    and take the handles at start-up, or through `asyncio.to_thread`. The handles themselves are the embedded store's.
    """

    def __init__(
        self, hsm: Hsm, state: StateFile, sealer: TokenSealer, limits: tuple[Limit, ...],
        inside: frozenset[Suite], sealed: frozenset[Suite], production: bool,
    ) -> None:  # fmt: skip
        """`inside` are the suites whose roots live in the token, `sealed` those whose roots lie sealed beside it."""
        self._hsm = hsm
        self._inside, self._sealed = inside, sealed
        self.limits: Sequence[Limit] = limits
        self._installed: list[str] = []
        super().__init__(state, sealer, production, KekSource.TOKEN)

    def __enter__(self) -> "TokenStore":
        return self

    def close(self) -> None:
        """Write what the audit has counted, log out of the token and let both go."""
        try:
            with suppress(KeyUseError):
                self._take_back()
            self._state.close()
        finally:
            self._hsm.close()

    def places(self) -> dict[str, str]:
        """What lies where, for its custodians."""
        beside = "list of keys, quota, audit"
        return {
            "keys": f"{self._hsm.uri}, serial {self._hsm.serial.decode(errors='replace')}, {self._hsm.made_by}",
            f"keys (sealed), {beside}" if self.sealed_beside else beside: str(self._state.path),
            "opened by": self._hsm.uri.opened_by,
            "anchor": str(self.anchor.path),
        }

    @property
    def in_software(self) -> bool:
        """Whether the token is a program, whose keys lie in files."""
        return "softhsm" in self._hsm.made_by.casefold()

    @property
    def sealed_beside(self) -> int:
        """How many keys lie sealed beside the token, and open in this process."""
        return sum(not isinstance(root, TokenRoot) for root in self._roots.values())

    def check_holds(self, id: KeyId) -> None:
        """Raises KeyUseError for a key that this token cannot hold."""
        if id.suite not in self._inside | self._sealed:
            raise KeyUseError(f"{id} cannot be kept: {self._limit(id)}; nothing was kept")

    def fresh(self, keys: Sequence[RootKey]) -> list[RootKey]:
        """As `EmbeddedStore.fresh`; raises KeyUseError also for a key that this token cannot hold."""
        fresh = super().fresh(keys)
        for root in fresh:
            self.check_holds(root.id)
        return fresh

    def rows_of(self, keys: Sequence[RootKey]) -> list[Statement]:
        """As `EmbeddedStore.rows_of`. New roots go into the token first: without their rows they are never used, and
        are taken back before the next ones or when the store closes."""
        self._take_back()
        return super().rows_of([self._kept(root) for root in keys])

    def in_state(self, id: KeyId, state: KeyState) -> RootKey:
        """As `EmbeddedStore.in_state`."""
        root = self._roots[id]
        return (
            TokenRoot(self._hsm, id, state, root.test) if isinstance(root, TokenRoot) else super().in_state(id, state)
        )

    def seal_verifier(self) -> SealVerifier:
        """Verdicts over the seals of PSAMs, which are SM4; raises KeyUseError also when this store can hold no SM4."""
        if Suite.SM4 not in self._inside | self._sealed:
            raise KeyUseError(str(self._limit(KeyId(Suite.SM4, KeyPurpose.RECORD))))
        return super().seal_verifier()

    def personaliser_for(self, psams: frozenset[str] | None) -> Personaliser:
        """As `EmbeddedStore.personaliser_for`; the purchase keys of PSAMs are not among what it makes (`limits`)."""
        return TokenPersonaliser(self._in_use(), self.book, psams, self._hsm)

    def _open_blocks(self) -> dict[KeyId, RootKey]:
        roots = super()._open_blocks()
        for root in roots.values():
            if not isinstance(root, TokenRoot) and root.id.suite not in self._sealed:
                raise KeyUseError(
                    f"{root.id} lies sealed under the token; nothing was opened, accept that by missing = seal"
                )
        # Two persons have destroyed these; a kill may have come between their act and this.
        for id, life in self.book.register.lives().items():
            if life.state is KeyState.DESTROYED:
                label = label_of(id, life.test)
                self._hsm.destroy([label, left_of(label)])
        return roots

    def _is_here(self, root: RootKey) -> bool:
        known = self._roots.get(root.id)
        if not isinstance(known, TokenRoot):
            return super()._is_here(root)
        held = self._hsm.encrypt(label_of(known.id, known.test), _PROBE)
        if not hmac.compare_digest(held, root.undiversified().encrypt(_PROBE)):
            raise KeyUseError(
                f"{root.id} is here already with another value; nothing was kept, give the new key a new version"
            )
        return True

    def _limit(self, id: KeyId) -> Limit:
        return next(limit for limit in self.limits if id.name in limit.keys)

    def _kept(self, root: RootKey) -> RootKey:
        """The root as this store holds it: in the token, or as it is when it will lie sealed."""
        if isinstance(root, TokenRoot) or root.id.suite in self._sealed:
            return root
        label, octets = label_of(root.id, root.test), root.undiversified().reveal()
        parts = {label: octets}
        if root.id.purpose is KeyPurpose.TRANSPORT:
            parts[left_of(label)] = octets[:8] * 2
        for part, value in parts.items():
            self._installed.append(part)
            self._hsm.install(part, value)
        inside = TokenRoot(self._hsm, root.id, root.state, root.test)
        if inside.kcv != root.kcv:
            raise KeyUseError(f"the token took {root.id} in with another check value; nothing was kept, ask its maker")
        return inside

    def _take_back(self) -> None:
        """Destroy what was brought into the token for an act that did not come to pass."""
        lives = self.book.register.lives()
        here = {label_of(id, life.test) for id, life in lives.items()}
        here |= {left_of(label) for label in here}
        self._hsm.destroy(label for label in self._installed if label not in here)
        self._installed.clear()


def open_token_store(
    uri: str,
    path: Path,
    *,
    production: bool = False,
    pin: str | None = None,
    missing: Missing | None = None,
    clock: Clock | None = None,
    anchor: Path | None = None,
    restored: bool = False,
) -> TokenStore:
    """Open the store in the token of `uri` (RFC 7512) with its evidence in directory `path`, or found it there.

    `pin` opens it when the URI names no source of one. `missing` says what becomes of a suite that the token cannot do:
    what was said at the founding, unless named; then REFUSE. What follows stands in `limits`. `clock`, `anchor` and
    `restored` are those of `keys.store.open_store`. Raises FormatError (URI), SetupError (module, token, PIN,
    mechanisms, directory) and KeyUseError (token and directory do not belong together, a changed or older store, a
    test store). Nothing is changed then.
    """
    hsm = Hsm(TokenUri.parse(uri, pin))
    try:
        missing = missing or _founded_with(path)
        limits, inside = limits_of(hsm.mechanisms, missing)
        sealed = frozenset(SUITE_LABELS) - inside if missing is Missing.SEAL else frozenset[Suite]()
        state = state_file(path, FILE_NAME, clock, anchor)
        try:
            founded, sealer = _bind(hsm, state, path, production, missing, anchored=not restored)
            store = TokenStore(hsm, state, sealer, limits, inside, sealed, founded)
            if restored:
                state.anchor, store.restored = None, True
            return store
        except BaseException:
            state.close()
            raise
    except BaseException:
        hsm.close()
        raise


def needs_pin(uri: str) -> bool:
    """Whether a token's URI leaves open where its PIN is. Raises FormatError."""
    return not TokenUri.parse(uri).has_pin


def _founded_with(path: Path) -> Missing:
    """What the store was founded with; a fact that was changed is found when the store is bound to its token."""
    if not (path / FILE_NAME).is_file():
        return Missing.REFUSE
    state = state_file(path, FILE_NAME, None, None)
    try:
        said = state.facts().get("missing", b"").decode(errors="replace")
    finally:
        state.close()
    return Missing(said) if said in list(Missing) else Missing.REFUSE


def _bind(
    hsm: Hsm, state: StateFile, path: Path, production: bool, missing: Missing, *, anchored: bool
) -> tuple[bool, TokenSealer]:
    """Whether it is a production store, and its sealer, whose key the token makes anew each time."""
    facts, labels = state.facts(), hsm.labels()
    if not facts:
        return production, _found(hsm, state, path, labels, production, missing)
    if SEAL_KEY not in labels:
        raise KeyUseError(f"{path} belongs to another token than {hsm.uri}; nothing was opened, name that one")
    sealer = TokenSealer(hsm)
    if not hmac.compare_digest(sealer.mark(marked(facts)), facts.get("mark", b"")):
        raise KeyUseError(f"{path} belongs to another token than {hsm.uri}, or was changed; nothing was opened")
    if production and facts["kind"] != b"production":
        raise KeyUseError(f"{path} was founded as a test store and cannot become a production store; found a new one")
    state.trust(Chain(sealer), anchored=anchored)
    return facts["kind"] == b"production", sealer


def _found(
    hsm: Hsm, state: StateFile, path: Path, labels: frozenset[str], production: bool, missing: Missing
) -> TokenSealer:
    # The sealing key alone is what a kill while founding leaves.
    if labels - {SEAL_KEY}:
        raise KeyUseError(
            f"the token holds a store whose directory is not {path}: its spent quota and audit would be lost; restore "
            "that directory, or name an empty token"
        )
    if state.anchor and state.anchor.exists():
        raise SetupError(
            f"{state.anchor.path} exists, but its store does not: restore the store, or move the file away"
        )
    if SEAL_KEY not in labels:
        hsm.generate(SEAL_KEY)
    sealer = TokenSealer(hsm)
    kind, opener = b"production" if production else b"test", KekSource.TOKEN.encode()
    facts = {"kind": kind, "kek": opener, "salt": hsm.serial, "missing": missing.encode()}
    state.found(facts | {"mark": sealer.mark(marked(facts))}, Chain(sealer))
    return sealer
