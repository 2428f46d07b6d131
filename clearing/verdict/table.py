"""The table of docs/ledger.md, "The verdict of a record": the first condition that holds decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from cardcore.record import Kind
from clearing.registry.dates import Instants, Mask
from clearing.registry.snapshot import Registry
from clearing.verdict.bearings import Bearings
from keys.columns import Records, octets, part


class State(StrEnum):
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    MEMO = "memo"
    PENDING_ISSUER = "pending_issuer"
    CONFLICT = "conflict"
    SUSPENDED = "suspended"
    ACCEPTED = "accepted"


class Verdict(IntEnum):
    """Numbered as the rows of the table."""

    DUPLICATE = 1
    TERMINAL_SUSPENDED = 2
    MALFORMED = 3
    UNKNOWN_PSAM = 4
    TORN = 5
    UNKNOWN_ISSUER = 6
    FOREIGN = 7
    NO_KEY = 8
    UNKNOWN_CARD = 9
    BAD_PROOF = 10
    CONFLICT = 11
    PSAM_INACTIVE = 12
    CLOCK = 13
    REPLACED_CARD = 14
    DENYLISTED = 15
    ROGUE_LOAD = 16
    ACCEPTED = 17

    @property
    def code(self) -> str:
        """The code of the contract; empty for an accepted record."""
        return "" if self is Verdict.ACCEPTED else self.name.lower().replace("_", "-")

    @property
    def state(self) -> State:
        return _STATES.get(self, State.SUSPENDED if self > Verdict.CONFLICT else State.QUARANTINED)


_STATES = {
    Verdict.DUPLICATE: State.DUPLICATE,
    Verdict.TORN: State.MEMO,
    Verdict.FOREIGN: State.PENDING_ISSUER,
    Verdict.CONFLICT: State.CONFLICT,
    Verdict.ACCEPTED: State.ACCEPTED,
}
# What `onecard clearing retake` takes up again.
RETAKEABLE = (
    Verdict.TERMINAL_SUSPENDED,
    Verdict.UNKNOWN_PSAM,
    Verdict.UNKNOWN_ISSUER,
    Verdict.NO_KEY,
    Verdict.UNKNOWN_CARD,
)


@dataclass(frozen=True, slots=True)
class Proofs:
    """What `keys` says of each record: the cryptogram is good, no key is there to tell, the seal is good; 16-byte
    proof keys."""

    good: Mask
    no_key: Mask
    sealed: Mask
    key: NDArray[np.void]

    def only(self, chosen: Mask) -> "Proofs":
        """Those of some records."""
        return Proofs(self.good[chosen], self.no_key[chosen], self.sealed[chosen], self.key[chosen])


Findings = Mapping[Verdict, Mask]


def find(
    records: Records, received: Instants, registry: Registry, bearings: Bearings, proofs: Proofs, ahead_us: Instants
) -> dict[Verdict, Mask]:
    """The conditions of the table that follow from records, registry and proofs; `received` in µs since 2000,
    `ahead_us` the tolerance of the clock policy. Rows 1, 2, 11 and 16, and what row 10 says of acts, depend on what
    else is known."""
    issuer, own = _issuers(records, registry)
    # The desk looked at the card when it authorised the load: the money was taken, whatever became of the card since.
    load = records["kind"] == Kind.LOAD
    return {
        Verdict.MALFORMED: ~bearings.readable,
        Verdict.UNKNOWN_PSAM: ~bearings.station.known,
        Verdict.TORN: (records["kind"] == Kind.TORN) & ~proofs.good,
        Verdict.UNKNOWN_ISSUER: ~issuer,
        Verdict.FOREIGN: ~own,
        Verdict.NO_KEY: proofs.no_key,
        Verdict.UNKNOWN_CARD: ~registry.registered(bearings.card),
        Verdict.BAD_PROOF: ~proofs.good,
        Verdict.PSAM_INACTIVE: ~bearings.station.active,
        Verdict.CLOCK: ~load & (bearings.instant > received + ahead_us),
        Verdict.REPLACED_CARD: ~load & registry.replaced.reached(bearings.card, received),
        Verdict.DENYLISTED: ~load & registry.denied.reached(bearings.card, bearings.instant),
    }


def decide(findings: Findings) -> NDArray[np.uint8]:
    """The row number (`Verdict`) of each record: the first condition that holds, else accepted."""
    rows = sorted(findings)
    return np.select([findings[row] for row in rows], [np.uint8(row) for row in rows], np.uint8(Verdict.ACCEPTED))


def _issuers(records: Records, registry: Registry) -> tuple[Mask, Mask]:
    """Which issuers are in the registry, and which of them are our own."""
    codes, where = np.unique(part(octets(records), "issuer").copy().view(">u4").ravel(), return_inverse=True)
    found = [registry.own.get(int(code).to_bytes(4)) for code in codes]
    known = np.array([own is not None for own in found], np.bool_)
    ours = np.array([own is True for own in found], np.bool_)
    return known[where], ours[where]
