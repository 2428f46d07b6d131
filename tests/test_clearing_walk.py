"""The books are right whatever comes in whatever order; WALKS and WALK_STEPS make more of it, WALK_FROM goes on."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.clearing_walk import Walk
from tests.intake_side import house

WALKS, STEPS, FIRST = (int(os.environ.get(*one)) for one in (("WALKS", "8"), ("WALK_STEPS", "150"), ("WALK_FROM", "1")))
SEEN: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + WALKS))
async def test_whatever_comes_the_books_are_right(database: str, tmp_path: Path, seed: int) -> None:
    async with house(database, tmp_path) as opened:
        walk = Walk(opened, random.Random(seed))
        await walk.play(STEPS)
        sums = await opened.pool.fetch("SELECT ledger, sum(amount_fen) AS fen FROM posting GROUP BY ledger")
        assert all(not row["fen"] for row in sums)
        SEEN.update(walk.happened)
        SEEN.update({f"{state} {code}".strip(): count for (state, code), count in (await opened.states()).items()})


def test_much_has_come() -> None:
    """The walks met what they are for."""
    wanted = (
        "accepted", "conflict conflict", "suspended denylisted", "quarantined bad-proof", "pending_issuer foreign",
        "closed", "retaken", "loads 201", "acts 201", "batch 400",
    )  # fmt: skip
    assert not [name for name in wanted if not SEEN[name]], SEEN
