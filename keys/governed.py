"""The handles that a store gives out: those of `verifiers` and `personaliser`, under the store's audit, states and
dates. A verdict is given after its batch is in the audit, or not at all."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import tzinfo

import numpy as np
from numpy.typing import NDArray

from cardcore.authority import CardIdentity, KeyStep, OverdraftRequest, PsamIdentity, Under
from cardcore.errors import RefusedError
from cardcore.record import Suite
from cardcore.versions import KeyVersions
from keys import personaliser, verifiers
from keys.columns import Octets, Records, octets, part
from keys.engine.root import RootKey
from keys.loads import LOCAL
from keys.proof import sm3
from keys.purposes import VERIFYING, KeyPurpose, KeyState
from keys.register import Register
from keys.state import StateFile
from keys.verifiers import OpenedAct, Verdict

Identity = CardIdentity | PsamIdentity
_OUT_OF_USE = frozenset({KeyState.VERIFY_ONLY, KeyState.COMPROMISED, KeyState.DESTROYED})
Selector = tuple[int, int, int]


class Book:
    """What handles ask before a use and write after it."""

    def __init__(self, state: StateFile, zone: tzinfo = LOCAL) -> None:
        self.state = state
        self.register = Register(state)
        self._zone = zone

    def verifying(self, roots: dict[Selector, RootKey]) -> dict[Selector, RootKey]:
        """Those of the roots that may verify today."""
        today = self.state.clock.now().astimezone(self._zone).date()
        policy = self.register.policy()
        return {
            selector: root
            for selector, root in roots.items()
            if self.register.state_of(root) in VERIFYING and policy.may_verify(root.id.suite, today)
        }

    def may_make(self, suite: Suite, subjects: Iterable[str] = ()) -> None:
        """Raises RefusedError('sunset' | 'downgrade')."""
        today = self.state.clock.now().astimezone(self._zone).date()
        self.register.policy().may_make(suite, today, subjects)

    def tell(self, purpose: KeyPurpose, cryptograms: Octets, counts: dict[str, int], roots: Iterable[RootKey]) -> None:
        """One row for a batch: how many of what, which keys were at hand, and SM3 over its cryptograms in order."""
        if not len(cryptograms):
            return
        verdicts = ", ".join(f"{count} {word}" for word, count in counts.items())
        names = ", ".join(sorted(str(root.id) for root in roots)) or "none"
        digest = sm3(cryptograms.tobytes()).hex()[:32]
        self.state.record(
            [("verify", purpose, f"{len(cryptograms)} records: {verdicts}; batch {digest}; keys {names}")]
        )


class _Governed(verifiers._Verifier):
    """A verifier whose roots are those that may verify at this moment."""

    __slots__ = ("_all", "_book")

    def __init__(self, roots: Iterable[RootKey], book: Book) -> None:
        self._book = book
        super().__init__(roots)

    @property
    def _roots(self) -> dict[Selector, RootKey]:
        return self._book.verifying(self._all)

    @_roots.setter
    def _roots(self, roots: dict[Selector, RootKey]) -> None:
        self._all = roots

    @property
    def label(self) -> str:
        return ", ".join(root.label for _, root in sorted(self._all.items()))

    def _told(self, records: Records, column: str, verdicts: NDArray[np.uint8]) -> NDArray[np.uint8]:
        counts = {word.name: int((verdicts == word).sum()) for word in Verdict}
        self._book.tell(self.purpose, part(octets(records), column), counts, self._roots.values())
        return verdicts


class TacVerifier(_Governed, verifiers.TacVerifier):
    """As its base; raises KeyUseError when the batch cannot be written down, and gives no verdict then."""

    __slots__ = ()

    def verify(self, records: Records) -> NDArray[np.uint8]:
        return self._told(records, "cryptogram", super().verify(records))


class SealVerifier(_Governed, verifiers.SealVerifier):
    """As its base; raises KeyUseError when the batch cannot be written down, and gives no verdict then."""

    __slots__ = ()

    def verify(self, records: Records) -> NDArray[np.bool_]:
        sealed = super().verify(records)
        counts = {"sealed": int(sealed.sum()), "not": int((~sealed).sum())}
        self._book.tell(self.purpose, part(octets(records), "seal"), counts, self._roots.values())
        return sealed


class ActVerifier(_Governed, verifiers.ActVerifier):
    """As its base; raises KeyUseError when the batch cannot be written down, and gives no verdict then."""

    __slots__ = ()

    def verify(self, records: Records, opened: Sequence[OpenedAct | None]) -> NDArray[np.uint8]:
        return self._told(records, "cryptogram", super().verify(records, opened))


class Personaliser(personaliser.Personaliser):
    """As its base, for the suites and states of today. It issues the PSAMs that two custodians have opened
    (`keys.acts.issue_psams`) and those named in `psams` (12 hexadecimal digits); any, when that is None.

    Raises RefusedError('sunset' | 'downgrade' | 'two-persons') besides; the chip is as it was.
    """

    __slots__ = ("_book", "_psams")

    def __init__(self, roots: Iterable[RootKey], book: Book, psams: frozenset[str] | None = None) -> None:
        super().__init__(roots, book.state)
        self._book = book
        self._psams = psams

    async def authenticate(self, identity: Identity, application: int, under: Under, challenge: bytes) -> bytes:
        # Only a chip that is still the factory's is issued now; one in the field is kept in order whatever its suite.
        if under is Under.TRANSPORT:
            self._book.may_make(identity.suite, _subjects(identity))
        return await super().authenticate(identity, application, under, challenge)

    async def write_key(self, identity: Identity, step: KeyStep, challenge: bytes) -> bytes:
        self._book.may_make(step.suite, _subjects(identity))
        return await super().write_key(identity, step, challenge)

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        self._book.may_make(request.key_suite, _subjects(request.identity))
        return await super().set_overdraft(request)

    async def _take_up(self, identity: Identity, use: str) -> None:
        if isinstance(identity, PsamIdentity) and self._psams is not None:
            number = identity.terminal_number.hex()
            until = self._book.register.psams().get(number)
            if number not in self._psams and (until is None or self._book.state.clock.now() > until):
                raise RefusedError(
                    "two-persons",
                    f"no two custodians have opened the issuing of PSAM {number}; nothing was made, let them do so "
                    "(onecard keys issue-psams)",
                )
        await super()._take_up(identity, use)

    def key_versions(self) -> KeyVersions:
        return replace(super().key_versions(), retired=frozenset(one for one in Suite if self._is_retired(one)))

    def _is_retired(self, suite: Suite) -> bool:
        """By its date, or because every purchase root that it ever had is out of use: one that waits for its ceremony
        or its promotion is missing, not retired."""
        try:
            self._book.may_make(suite)
        except RefusedError:
            return True
        states = [
            life.state
            for id, life in self._book.register.lives().items()
            if id.suite is suite and id.purpose is KeyPurpose.PURCHASE
        ]
        return bool(states) and set(states) <= _OUT_OF_USE

    def _state_of(self, root: RootKey) -> KeyState:
        return self._book.register.state_of(root)


def _subjects(identity: Identity) -> tuple[str, ...]:
    """Whom a demand for SM4 may name; a PSAM is issued by its own permission, with the keys of both suites."""
    if isinstance(identity, PsamIdentity):
        return ()
    return f"card {identity.card.hex()}", f"issuer {identity.issuer.hex()}"
