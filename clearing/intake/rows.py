"""Settled records as rows of `fact` and `exhibit`, in PostgreSQL's binary form."""

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from clearing.intake.settle import Arrivals, Settled
from clearing.registry.dates import Mask
from clearing.store.copy import Column, copy_rows
from clearing.store.intake import EXHIBIT, FACT
from clearing.verdict.table import State, Verdict
from keys.columns import Records, octets

_EXHIBITED = (State.QUARANTINED, State.CONFLICT, State.MEMO, State.PENDING_ISSUER)
_WIDTH = {"kind": "i2", "purse": "i2", "generation": "i2", "counter": "i4", "epoch": "i4"}
_CLAIMED = (
    "kind", "purse", "generation", "counter", "amount_fen", "terminal", "epoch", "sequence", "terminal_transaction",
)  # fmt: skip


def fact_segments(arrivals: Arrivals, settled: Settled, batch_ids: NDArray[np.int64]) -> list[bytes]:
    """Rows of the accepted and suspended records; `batch_ids` gives the stored id of each batch of the group."""
    return [
        copy_rows([columns[name] for name in FACT], count)
        for count, columns in _by_verdict(arrivals, settled, batch_ids, (State.ACCEPTED, State.SUSPENDED))
    ]


def exhibit_segments(
    arrivals: Arrivals, settled: Settled, batch_ids: NDArray[np.int64], only: Mask | None = None
) -> list[bytes]:
    """Rows of the quarantined, conflicting, pending and torn records, or of those of them that the mask chooses."""
    return [
        copy_rows([columns[name] for name in EXHIBIT], count)
        for count, columns in _by_verdict(arrivals, settled, batch_ids, _EXHIBITED, only)
    ]


def _by_verdict(
    arrivals: Arrivals,
    settled: Settled,
    batch_ids: NDArray[np.int64],
    states: Collection[State],
    only: Mask | None = None,
) -> Iterator[tuple[int, dict[str, Column]]]:
    """One segment per verdict, because a verdict decides which columns are texts and NULLs; rows in the order of their
    cards, so that neighbours in the tables' trees are written together."""
    for row in np.unique(settled.verdict):
        verdict = Verdict(int(row))
        if verdict.state not in states:
            continue
        chosen = settled.verdict == row
        positions = np.flatnonzero(chosen if only is None else chosen & only)
        if len(positions):
            positions = positions[np.argsort(settled.bearings.card[positions], kind="stable")]
            yield len(positions), _columns(arrivals, settled, batch_ids, positions, verdict)


def _columns(
    arrivals: Arrivals, settled: Settled, batch_ids: NDArray[np.int64], positions: NDArray[np.intp], verdict: Verdict
) -> dict[str, Column]:
    """Every column of both tables; what a record without readable moment or place cannot tell is NULL."""
    records: Records = arrivals.records[positions]
    bearings, station = settled.bearings, settled.bearings.station
    dated = verdict > Verdict.MALFORMED
    placed = verdict > Verdict.UNKNOWN_PSAM
    proven = verdict > Verdict.CONFLICT
    columns: dict[str, Column] = {name: records[name].astype(_WIDTH.get(name, "i8")) for name in _CLAIMED}
    return columns | {
        "card": bearings.card[positions],
        "proof_key": settled.proofs.key[positions] if dated else None,
        "digest": None if proven else np.array([settled.digests[int(position)] for position in positions], "V32"),
        "terminal_number": np.ascontiguousarray(records["terminal_number"]),
        "instant": bearings.instant[positions] if dated else None,
        "origin_date": bearings.origin[positions] if dated else None,
        "post_date": settled.post_date[positions] if dated else np.full(len(positions), settled.open_day, np.int32),
        "sector": station.sector[positions] if placed else None,
        "operator": station.operator[positions] if placed else None,
        "sealed": settled.proofs.sealed[positions],
        "state": verdict.state.encode(),
        "code": verdict.code.encode(),
        "batch_id": batch_ids[arrivals.batch[positions]],
        "received_at": arrivals.received[positions],
        "record": octets(records).view("V128").ravel(),
    }
