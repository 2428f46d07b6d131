"""Who comes first when several records of one group claim the same: bytes, proof key, act, load, the bad-proof
allowance.

Records stand in the order of arrival. The outcome is the same when the group is split into smaller ones.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearing.registry.dates import Mask
from clearing.verdict.table import Proofs
from keys.columns import Records

BAD_PROOFS_ALLOWED = 20
RECORDS_PER_BAD_PROOF = 1000


@dataclass(slots=True)
class Tally:
    """Records judged and bad proofs among them, of one terminal on one day of receipt (rule 8)."""

    records: int = 0
    bad: int = 0

    @property
    def over(self) -> bool:
        return self.bad > BAD_PROOFS_ALLOWED and self.bad * RECORDS_PER_BAD_PROOF > self.records


def rivals(keys: NDArray[np.void]) -> NDArray[np.intp]:
    """Positions of the 16-byte proof keys whose first half occurs more than once; nearly always none."""
    halves = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)[:, 0]
    order = np.argsort(halves, kind="stable")
    twin = halves[order][1:] == halves[order][:-1]
    mark = np.zeros(len(halves), np.bool_)
    mark[order[1:][twin]] = True
    mark[order[:-1][twin]] = True
    return np.flatnonzero(mark)


def repeated(records: Records, among: Iterable[int]) -> Mask:
    """Which records have the same 128 bytes as an earlier one; only positions of `among` can."""
    mark = np.zeros(len(records), np.bool_)
    seen: set[bytes] = set()
    for position in among:
        raw = records[position].tobytes()
        mark[position] = raw in seen
        seen.add(raw)
    return mark


def outdone(proofs: Proofs, contenders: Mask, among: Iterable[int]) -> Mask:
    """Which contenders lose their proof key to another: the first sealed copy stands, else the first copy."""
    mark = np.zeros(len(contenders), np.bool_)
    standing: dict[bytes, int] = {}
    for position in among:
        if not contenders[position]:
            continue
        first = standing.setdefault(proofs.key[position].tobytes(), position)
        if first == position:
            continue
        if proofs.sealed[position] and not proofs.sealed[first]:
            standing[proofs.key[position].tobytes()] = position
            mark[first] = True
        else:
            mark[position] = True
    return mark


def later(claims: Sequence[tuple[int, Hashable]], size: int) -> Mask:
    """Which positions claim something that an earlier position of `claims` has claimed."""
    mark = np.zeros(size, np.bool_)
    seen: set[Hashable] = set()
    for position, claim in claims:
        mark[position] = claim in seen
        seen.add(claim)
    return mark


def over_limit(owners: NDArray[np.int64], judged: Mask, bad: Mask, tallies: Mapping[int, Tally]) -> Mask:
    """Which records arrive after their owner (terminal and day, by number) used up its allowance; counts up the
    tallies.

    Only records that are `judged` count; those over the limit are no longer judged, so that a suspended terminal stays
    so.
    """
    mark = np.zeros(len(owners), np.bool_)
    for owner, tally in tallies.items():
        mine = judged & (owners == owner)
        spoiled = int(np.count_nonzero(mine & bad))
        if tally.bad + spoiled <= BAD_PROOFS_ALLOWED:
            tally.records += int(np.count_nonzero(mine))
            tally.bad += spoiled
            continue
        for position in np.flatnonzero(mine):
            mark[position] = tally.over
            if not mark[position]:
                tally.records += 1
                tally.bad += bool(bad[position])
    return mark
