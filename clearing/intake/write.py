"""What the transaction of a settled group writes into facts, exhibits, the desk's rows and the ledger."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from clearing.intake.rows import exhibit_segments, fact_segments
from clearing.intake.settle import Arrivals, Settled
from clearing.ledger.postings import Posting
from clearing.registry.dates import Mask, date_of
from clearing.store import intake as rows
from clearing.store.types import Connection


async def write_settled(
    connection: Connection,
    arrivals: Arrivals,
    settled: Settled,
    batch_ids: NDArray[np.int64],
    open_date: date,
    at: datetime,
    exhibits: Mask | None = None,
) -> None:
    """Facts, exhibits (only those of the mask, if given), adoptions, used acts, confirmed loads.

    Raises ProofKnown when a fact is stored already; then the transaction is lost.
    """
    await rows.write_facts(connection, fact_segments(arrivals, settled, batch_ids))
    await rows.write_exhibits(connection, exhibit_segments(arrivals, settled, batch_ids, exhibits))
    if settled.adopted:
        raws = [arrivals.records[position].tobytes() for position in settled.adopted]
        keys = [settled.proofs.key[position].tobytes() for position in settled.adopted]
        cards = [arrivals.records["card"][position].tobytes() for position in settled.adopted]
        on_date = [open_date] * len(raws)
        await rows.write_adoptions(connection, zip(cards, keys, on_date, raws, strict=True))
    if settled.used_acts:
        await rows.use_acts(connection, settled.used_acts, at)
    if settled.confirmed_loads:
        await rows.confirm_loads(connection, settled.confirmed_loads)


class Books:
    """Writes journals, and remembers which accounts exist, so that they are not opened again and again."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, str]] = set()
        self._fresh: set[tuple[str, str, str]] = set()

    def begin(self) -> None:
        """A transaction begins; whatever an earlier one opened and did not commit is not there."""
        self._fresh = set()

    async def post(
        self,
        connection: Connection,
        cause: str,
        references: Mapping[int, str],
        postings: Mapping[int, Sequence[Posting]],
        at: datetime,
    ) -> None:
        """One journal for each batch that posts anything; batches go by their position in the group, as in
        `references`."""
        if not postings:
            return
        accounts = {(row.ledger, row.account, row.class_) for journal in postings.values() for row in journal}
        fresh = accounts - self._known
        if fresh:
            await rows.write_accounts(connection, sorted(fresh))
        self._fresh |= fresh
        await rows.write_journals(
            connection,
            cause,
            [references[batch] for batch in postings],
            at,
            [[_columns(row) for row in journal] for journal in postings.values()],
        )

    def committed(self) -> None:
        """The accounts that were opened since `begin` are there to stay."""
        self._known |= self._fresh
        self._fresh = set()


def _columns(posting: Posting) -> tuple[object, ...]:
    return (
        posting.ledger,
        posting.account,
        posting.class_,
        posting.rule,
        posting.version,
        date_of(posting.business_date),
        date_of(posting.origin_date),
        posting.count,
        posting.amount_fen,
        posting.merkle_root,
    )
