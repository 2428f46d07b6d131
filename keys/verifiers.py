"""Verify handles: they take batches and give verdicts, and can make nothing (decision D4).

`records` is an array of `keys.columns.RECORD_DTYPE`. All of them are pure computing and safe in several threads: call
them through `asyncio.to_thread`, with as many records at a time as there are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cardcore.record import Kind, Sector
from keys.columns import Octets, Records, octets, part
from keys.engine import bulk
from keys.engine.root import RootKey, of_purpose
from keys.guarded import Guarded
from keys.proof import sm3
from keys.purposes import VERIFYING, KeyPurpose


class Verdict(IntEnum):
    """What a proof says of a record. NO_KEY: no key for its (suite, version, application) is here; it may be taken
    up again later."""

    OK = bulk.OK
    BAD = bulk.BAD
    NO_KEY = bulk.NO_KEY


class _Verifier(Guarded):
    """Roots of one purpose, chosen by what a record says of itself."""

    __slots__ = ("_roots",)
    purpose: KeyPurpose

    def __init__(self, roots: Iterable[RootKey]) -> None:
        chosen = of_purpose(roots, frozenset({self.purpose}), VERIFYING)
        self._roots = {(int(id.suite), id.version, int(id.scope or 0)): root for id, root in chosen.items()}

    @property
    def label(self) -> str:
        return ", ".join(root.label for _, root in sorted(self._roots.items()))


class TacVerifier(_Verifier):
    """Verifies the TACs of debits, entries, exits and loads of our own cards."""

    __slots__ = ()
    purpose = KeyPurpose.TAC

    def verify(self, records: Records) -> NDArray[np.uint8]:
        """A `Verdict` for each record; acts and torn declarations have no TAC and are BAD here."""
        return bulk.tac_verdicts(octets(records), self._roots)


class SealVerifier(_Verifier):
    """Verifies the seals of PSAMs (rule 2)."""

    __slots__ = ()
    purpose = KeyPurpose.RECORD

    def verify(self, records: Records) -> NDArray[np.bool_]:
        """Whether each record is sealed; a seal of zeros is none. With several versions of the key, any of them
        will do."""
        rows = octets(records)
        sealed = np.zeros(len(rows), np.bool_)
        for root in self._roots.values():
            sealed |= bulk.seals_hold(rows, root)
        return sealed


@dataclass(frozen=True, slots=True)
class OpenedAct:
    """What the desk remembers of an act it opened: sector, 8-byte challenge, SM3 (32 bytes) of the payer split."""

    sector: Sector
    challenge: bytes
    split_digest: bytes


class ActVerifier(_Verifier):
    """Verifies online acts against what was opened (rule 6)."""

    __slots__ = ()
    purpose = KeyPurpose.ACT

    def verify(self, records: Records, opened: Sequence[OpenedAct | None]) -> NDArray[np.uint8]:
        """A `Verdict` for each record: the digest is made anew from the record's own bytes and the act that was
        opened under its act_id; None (never opened, used, expired) is BAD, and so is a record that is no act."""
        rows = octets(records)
        if len(opened) != len(rows):
            raise ValueError(f"{len(rows)} records need as many opened acts, not {len(opened)}")
        known = np.array([act is not None for act in opened], np.bool_) & (part(rows, "kind")[:, 0] == Kind.ACT)
        digests = np.zeros((len(rows), 16), np.uint8)
        for place in np.flatnonzero(known).tolist():
            if (act := opened[place]) is not None:
                digests[place] = np.frombuffer(_act_digest(rows[place], act), np.uint8)
        return bulk.act_verdicts(rows, digests, known, self._roots)


_ACT_FIELDS = ("amount_fen", "transaction_type", "terminal_number", "date", "time", "card")


def _act_digest(row: Octets, act: OpenedAct) -> bytes:
    """First 16 bytes of SM3 over `cardcore.cryptogram.act_input`, cut straight from the record."""
    one = row[None, :]
    covered = b"".join(part(one, name).tobytes() for name in _ACT_FIELDS)
    opening = b"OCA1" + bytes((act.sector,)) + part(one, "act_id").tobytes() + act.challenge
    return sm3(opening + covered + act.split_digest)[:16]
