"""The proofs of a group of records, asked of `keys` in one piece."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cardcore.record import Kind
from clearing.verdict.table import Proofs
from keys.columns import Records
from keys.proof import proof_keys
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier, Verdict


class VerifyingStore(Protocol):
    """The part of a key store that clearing uses: verify handles, which can make nothing."""

    def tac_verifier(self) -> TacVerifier: ...
    def seal_verifier(self) -> SealVerifier: ...
    def act_verifier(self) -> ActVerifier: ...


@dataclass(frozen=True, slots=True)
class Verifiers:
    """Handles that are good for any number of threads."""

    tac: TacVerifier
    seal: SealVerifier
    act: ActVerifier

    @classmethod
    def of(cls, store: VerifyingStore) -> "Verifiers":
        return cls(store.tac_verifier(), store.seal_verifier(), store.act_verifier())


def prove(records: Records, verifiers: Verifiers) -> Proofs:
    """Cryptogram, seal and proof key of each record; an act is not good before `clearing.intake.settle` saw what was
    opened."""
    verdict: NDArray[np.uint8] = verifiers.tac.verify(records)
    verdict = np.where(records["kind"] == Kind.ACT, np.uint8(Verdict.BAD), verdict)
    keys = np.ascontiguousarray(proof_keys(records)).view("V16").ravel()
    return Proofs(verdict == Verdict.OK, verdict == Verdict.NO_KEY, verifiers.seal.verify(records), keys)
