"""Taking up again what could not be judged when it came, once the registry or the keys have grown."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from cardcore.errors import SetupError
from clearing.clock import Clock
from clearing.intake.evidence import look_up
from clearing.intake.group import ahead_us
from clearing.intake.proving import Verifiers, prove
from clearing.intake.settle import Arrivals, settle
from clearing.intake.write import Books, write_settled
from clearing.ledger.postings import summed
from clearing.registry.dates import instant_of, instant_us
from clearing.registry.snapshot import Registry, RegistryFeed
from clearing.store import intake as rows
from clearing.store.transaction import transaction
from clearing.store.types import Connection, Pool, StoredRow
from clearing.verdict.table import RETAKEABLE, Verdict
from keys.columns import from_bytes

PAGE = 8192


@dataclass(frozen=True, slots=True)
class Retaken:
    """How many exhibits were looked at, became facts, or got another verdict."""

    looked_at: int
    proven: int
    changed: int


async def retake(pool: Pool, verifiers: Verifiers, clock: Clock) -> Retaken:
    """Judge every exhibit of the retakeable codes again, page by page, each page in one transaction.

    A record counts as received when it was first received. Cancelled, whole pages are done, and the rest is as it was.
    """
    feed, books = RegistryFeed(), Books()
    total = np.zeros(3, np.int64)
    behind = (b"", b"")
    while True:
        books.begin()
        async with transaction(pool) as connection:
            open_date = await rows.enter(connection)
            page = await rows.retakeable(connection, [verdict.code for verdict in RETAKEABLE], PAGE, behind)
            if not page:
                return Retaken(*total.tolist())
            if open_date is None:
                raise SetupError("No business date is open. Nothing was taken up. Start the service once, then retake.")
            registry = await feed.current(connection)
            total += await _retake_page(connection, page, registry, open_date, books, verifiers, clock)
        books.committed()
        behind = (page[-1]["card"], page[-1]["digest"])


async def _retake_page(
    connection: Connection,
    page: Sequence[StoredRow],
    registry: Registry,
    open_date: date,
    books: Books,
    verifiers: Verifiers,
    clock: Clock,
) -> tuple[int, int, int]:
    batches = list(dict.fromkeys((row["batch_id"], f"{row['terminal']}/{row['n']}") for row in page))
    position = {batch_id: at for at, (batch_id, _) in enumerate(batches)}
    arrivals = _arrivals(page, position, registry)
    proofs = await asyncio.to_thread(prove, arrivals.records, verifiers)
    evidence = await look_up(connection, arrivals, proofs, open_date, facts=True)
    settled = await asyncio.to_thread(settle, arrivals, proofs, evidence, registry, verifiers)

    proven = settled.verdict > Verdict.CONFLICT
    changed = np.array([Verdict(int(row)).code for row in settled.verdict]) != np.array([row["code"] for row in page])
    moved = changed & ~proven & (settled.verdict > Verdict.DUPLICATE)
    now = clock.now()
    await rows.mark_taken_up(connection, *_identities(page, proven), now)
    await rows.forget_exhibits(connection, *_identities(page, moved))
    batch_ids = np.array([batch_id for batch_id, _ in batches], np.int64)
    await write_settled(connection, arrivals, settled, batch_ids, open_date, now, moved)
    await rows.mark_retaken(connection, *_identities(page, moved))
    postings = await asyncio.to_thread(summed, settled.strands)
    await books.post(connection, "retake", {at: name for at, (_, name) in enumerate(batches)}, postings, now)
    return len(page), int(np.count_nonzero(proven)), int(np.count_nonzero(moved))


def _identities(
    page: Sequence[StoredRow], chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
) -> tuple[list[bytes], list[bytes]]:
    rows_ = [row for row, take in zip(page, chosen, strict=True) if take]
    return [row["card"] for row in rows_], [row["digest"] for row in rows_]


def _arrivals(page: Sequence[StoredRow], position: dict[int, int], registry: Registry) -> Arrivals:
    received = np.array([instant_us(row["received_at"]) for row in page], np.int64)
    moments, where = np.unique(received, return_inverse=True)
    ahead = np.array([ahead_us(registry, registry.business_date(instant_of(moment))) for moment in moments], np.int64)
    return Arrivals(
        records=from_bytes(b"".join(row["record"] for row in page)),
        batch=np.array([position[row["batch_id"]] for row in page], np.int64),
        received=received,
        ahead=ahead[where],
        owner=np.zeros(len(page), np.int64),
    )
