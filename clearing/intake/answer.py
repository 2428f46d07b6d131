"""The answer to a batch: what may be erased, what is missing, what became of each record (docs/wire.md)."""

import json
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from clearing.intake.frame import Batch
from clearing.verdict.table import State, Verdict

MOST_MISSING = 32
_COUNTED = {
    "accepted": State.ACCEPTED,
    "duplicate": State.DUPLICATE,
    "suspended": State.SUSPENDED,
    "pending": State.PENDING_ISSUER,
    "memo": State.MEMO,
    "conflict": State.CONFLICT,
}


def answer_text(
    batch: Batch, verdicts: NDArray[np.uint8], seen: Sequence[tuple[int, int]], pace_s: int, now: datetime
) -> str:
    """JSON text of the answer; `verdicts` are of the batch's records, `seen` the first ranges of its epoch, in
    order."""
    ack_seq, missing = acknowledged(seen)
    counts = np.bincount(verdicts, minlength=len(Verdict) + 1)
    answer: dict[str, object] = {"n": batch.n, "ack_seq": ack_seq, "missing": missing}
    for member, state in _COUNTED.items():
        answer[member] = int(sum(counts[verdict] for verdict in Verdict if verdict.state is state))
    answer["quarantined"] = (
        [
            {"seq": int(sequence), "code": Verdict(int(row)).code}
            for row, sequence in zip(verdicts, batch.records["sequence"], strict=True)
            if row > Verdict.DUPLICATE and Verdict(int(row)).state is State.QUARANTINED
        ]
        if counts[Verdict.TERMINAL_SUSPENDED : Verdict.CONFLICT].any()
        else []
    )
    return json.dumps(answer | {"pace_s": pace_s, "now": now.isoformat()})


def acknowledged(seen: Sequence[tuple[int, int]]) -> tuple[int, list[list[int]]]:
    """The highest sequence below which nothing is missing, and up to 32 missing ranges; `seen` ascends without
    touching."""
    ack_seq, expected = 0, 1
    missing: list[list[int]] = []
    for first, last in seen:
        if first > expected:
            missing.append([expected, first - 1])
        elif not missing:
            ack_seq = last
        expected = last + 1
    return ack_seq, missing[:MOST_MISSING]
