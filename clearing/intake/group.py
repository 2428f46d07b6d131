"""Uploads that share one transaction."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from clearing.intake.frame import Batch
from clearing.intake.proving import Verifiers, prove
from clearing.intake.settle import Arrivals
from clearing.registry.dates import instant_us
from clearing.registry.document import ClockTolerance
from clearing.registry.snapshot import Registry
from clearing.verdict.table import Proofs
from keys.columns import RECORD_DTYPE, Records, octets


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """A batch on its way through, the instant of its receipt, and where its answer (JSON text) is awaited."""

    batch: Batch
    received: datetime
    answer: asyncio.Future[str]


@dataclass(frozen=True, slots=True)
class Group:
    """Uploads of different numbers, their records in the order of arrival, and the proofs of those."""

    uploads: Sequence[Upload]
    records: Records
    proofs: Proofs

    def only(self, chosen: Sequence[int]) -> "Group":
        """The group of some of the uploads."""
        if len(chosen) == len(self.uploads):
            return self
        kept = np.isin(self.batch_of_record(), chosen)
        return Group([self.uploads[at] for at in chosen], self.records[kept], self.proofs.only(kept))

    def batch_of_record(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """For each record the position of its upload."""
        return np.repeat(np.arange(len(self.uploads)), [len(upload.batch.records) for upload in self.uploads])


def prove_group(uploads: Sequence[Upload], verifiers: Verifiers) -> Group:
    """Join the records and prove them in one piece; for a worker thread."""
    rows = np.concatenate([octets(upload.batch.records) for upload in uploads])
    records = rows.view(RECORD_DTYPE).ravel()
    return Group(uploads, records, prove(records, verifiers))


def arrivals_of(group: Group, registry: Registry) -> tuple[Arrivals, list[tuple[int, date]]]:
    """The group's arrivals, and the (terminal, day of receipt) that each tally number stands for.

    The day of receipt is the business date of the instant of receipt.
    """
    days = [registry.business_date(upload.received) for upload in group.uploads]
    owners = list(dict.fromkeys((upload.batch.terminal, day) for upload, day in zip(group.uploads, days, strict=True)))
    numbers = {owner: number for number, owner in enumerate(owners)}
    of_batch = [
        (instant_us(upload.received), ahead_us(registry, day), numbers[upload.batch.terminal, day])
        for upload, day in zip(group.uploads, days, strict=True)
    ]
    batch = group.batch_of_record()
    received, ahead, owner = np.array(of_batch, np.int64)[batch].T
    return Arrivals(group.records, batch, received, ahead, owner), owners


def ahead_us(registry: Registry, day: date) -> int:
    """How far ahead of the service's clock an instant may lie; not at all where no policy says so."""
    tolerance = registry.value(ClockTolerance, "*", day)
    return tolerance.ahead_s * 1_000_000 if tolerance else 0
