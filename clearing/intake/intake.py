"""Intake: store, verify and post in one transaction before the answer (decision D8)."""

import asyncio
from collections.abc import Sequence
from datetime import date

import numpy as np
import structlog

from clearing.clock import Clock
from clearing.intake.answer import answer_text
from clearing.intake.evidence import look_up, sequence_runs
from clearing.intake.frame import Batch
from clearing.intake.group import Group, Upload, arrivals_of, prove_group
from clearing.intake.proving import Verifiers
from clearing.intake.settle import Settled, settle
from clearing.intake.write import Books, write_settled
from clearing.ledger.postings import summed
from clearing.problem import Problem, Retry, busy
from clearing.registry.snapshot import Registry, RegistryFeed
from clearing.store import intake as rows
from clearing.store.connect import UNAVAILABLE
from clearing.store.transaction import transaction
from clearing.store.types import Connection, Pool
from clearing.verdict.table import Verdict

GROUP = 64
WAITING_ROOM = 1024
_ONCE_PERHAPS_PROVEN = (Verdict.TERMINAL_SUSPENDED, Verdict.UNKNOWN_PSAM, Verdict.NO_KEY, Verdict.BAD_PROOF)
_log = structlog.get_logger("clearing.intake")


class Intake:
    """Takes batches in groups: while one group commits, the next one is proved. One intake per database does the
    writing; a second one (a retake) waits its turn."""

    def __init__(self, pool: Pool, verifiers: Verifiers, clock: Clock, feed: RegistryFeed | None = None) -> None:
        self.feed = feed or RegistryFeed()
        self._pool = pool
        self._verifiers = verifiers
        self._clock = clock
        self._queue: asyncio.Queue[Upload | None] = asyncio.Queue(WAITING_ROOM)
        self._held: Upload | None = None
        self._books = Books()
        self._look_first = False
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write groups."""
        self._writer = asyncio.create_task(self._write(), name="intake")

    async def stop(self) -> None:
        """Answer everything that waits, then end. No upload may be offered any more."""
        if self._writer:
            await self._queue.put(None)
            await self._writer
            self._writer = None

    async def upload(self, batch: Batch) -> str:
        """The answer to a batch as JSON text, after its commit; a repeated batch gets its first answer.

        Raises Problem: `batch-conflict` (409), `busy` (503; all of the batch or nothing is stored, sending it again is
        safe). A cancelled call may have stored the batch, wholly or not at all: send it again and see.
        """
        upload = Upload(batch, self._clock.now(), asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(upload)
        except asyncio.QueueFull:
            raise busy("Too many batches wait. Nothing of this one was stored. Send it later.") from None
        return await upload.answer

    async def _write(self) -> None:
        committing: asyncio.Task[None] | None = None
        while uploads := await self._gather():
            try:
                group = await asyncio.to_thread(prove_group, uploads, self._verifiers)
            except Exception:
                _log.exception("group not proved", batches=len(uploads))
                _answer(uploads, [_failed()] * len(uploads))
                continue
            if committing:
                await committing
            committing = asyncio.create_task(self._commit(group))
        if committing:
            await committing

    async def _gather(self) -> list[Upload]:
        """Whoever waits, up to 64, each number of a terminal once; nobody when the intake ends."""
        uploads: dict[tuple[int, int], Upload] = {}
        upload, self._held = self._held or await self._queue.get(), None
        while upload is not None:
            number = (upload.batch.terminal, upload.batch.n)
            if number in uploads:
                self._held = upload
                break
            uploads[number] = upload
            if len(uploads) == GROUP or self._queue.empty():
                break
            upload = self._queue.get_nowait()
        if upload is None and uploads:
            self._queue.put_nowait(None)
        return list(uploads.values())

    async def _commit(self, group: Group) -> None:
        """Store the group and answer; one that cannot be stored is taken apart, so that no batch spoils another's."""
        answers: Sequence[str | Problem]
        try:
            answers = await self._store(group)
        except UNAVAILABLE as error:
            _log.warning("database unavailable", error=repr(error), batches=len(group.uploads))
            away = busy("The database is away. Whether this batch was stored is unknown. Send it again.")
            answers = [away] * len(group.uploads)
        except Exception:
            if len(group.uploads) > 1:
                for at in range(len(group.uploads)):
                    await self._commit(group.only([at]))
                return
            batch = group.uploads[0].batch
            _log.exception("batch not stored", terminal=batch.terminal, n=batch.n)
            answers = [_failed()]
        _answer(group.uploads, answers)

    async def _store(self, group: Group) -> list[str | Problem]:
        """Optimistic: facts are copied straight into their table; the group looks first only when one is known
        already."""
        if not self._look_first:
            try:
                return await self._transact(group, look_first=False)
            except rows.ProofKnown:
                pass
        return await self._transact(group, look_first=True)

    async def _transact(self, group: Group, *, look_first: bool) -> list[str | Problem]:
        self._books.begin()
        async with transaction(self._pool) as connection:
            open_date = await rows.enter(connection)
            answers = await self._already_answered(connection, group)
            fresh = [at for at in range(len(group.uploads)) if at not in answers]
            if fresh:
                registry = await self.feed.current(connection)
                open_date = open_date or await self._open_books(connection, registry)
                texts = await self._take(connection, group.only(fresh), registry, open_date, look_first=look_first)
                answers.update(zip(fresh, texts, strict=True))
        self._books.committed()
        return [answers[at] for at in range(len(group.uploads))]

    async def _already_answered(self, connection: Connection, group: Group) -> dict[int, str | Problem]:
        """Answers of batches whose number is taken: the first answer for the same bytes, 409 for others, which are
        kept."""
        numbers = [(upload.batch.terminal, upload.batch.n) for upload in group.uploads]
        stored = await rows.stored_batches(connection, *zip(*numbers, strict=True))
        answers: dict[int, str | Problem] = {}
        for at, upload in enumerate(group.uploads):
            if (first := stored.get(numbers[at])) is None:
                continue
            digest, answer = first
            if digest == upload.batch.digest:
                answers[at] = answer
                continue
            await rows.write_batch_conflict(
                connection, *numbers[at], upload.batch.digest, upload.batch.body, upload.received
            )
            answers[at] = Problem(
                409,
                "batch-conflict",
                Retry.NEVER,
                f"Batch {upload.batch.n} is stored with other bytes; both bodies are kept, nothing of this one is "
                "posted. Give the batch a number that was never used.",
            )
        return answers

    async def _doubt(self, connection: Connection, group: Group, settled: Settled) -> None:
        """Raises ProofKnown when a record that got no proof now is a fact already: sent again after its act was used,
        its terminal suspended, its key or PSAM withdrawn. Only a look tells that it is a duplicate."""
        doubtful = np.flatnonzero(np.isin(settled.verdict, _ONCE_PERHAPS_PROVEN))
        cards = [group.records["card"][position].tobytes() for position in doubtful]
        keys = [settled.proofs.key[position].tobytes() for position in doubtful]
        if keys and await rows.known_facts(connection, cards, keys):
            raise rows.ProofKnown

    async def _open_books(self, connection: Connection, registry: Registry) -> date:
        day = registry.business_date(self._clock.now())
        await rows.open_first_day(connection, day)
        return day

    async def _take(
        self, connection: Connection, group: Group, registry: Registry, open_date: date, *, look_first: bool
    ) -> list[str]:
        """Judge and write a group of new batches; the text of each answer."""
        now = self._clock.now()
        arrivals, owners = arrivals_of(group, registry)
        runs = sequence_runs(group.records)
        evidence = await look_up(connection, arrivals, group.proofs, open_date, owners, runs=runs, facts=look_first)
        settled = await asyncio.to_thread(settle, arrivals, group.proofs, evidence, registry, self._verifiers)
        if not look_first:
            await self._doubt(connection, group, settled)
        batches = [upload.batch for upload in group.uploads]
        ids = await rows.next_ids(connection, "batch", "batch_id", len(batches))
        summing = asyncio.create_task(asyncio.to_thread(summed, settled.strands))  # while the server takes the facts
        try:
            await write_settled(connection, arrivals, settled, np.array(ids, np.int64), open_date, now)
        finally:
            postings = await summing
        seen = await rows.write_ranges(connection, runs)
        if others := {(batch.terminal, batch.epoch) for batch in batches} - seen.keys():
            seen |= await rows.read_ranges(connection, others)
        await rows.write_tallies(
            connection,
            [
                (*owner, tally.records, tally.bad)
                for owner, tally in zip(owners, evidence.tallies.values(), strict=True)
            ],
        )
        references = {at: f"{batch.terminal}/{batch.n}" for at, batch in enumerate(batches)}
        await self._books.post(connection, "batch", references, postings, now)
        verdicts = np.split(settled.verdict, np.cumsum([len(batch.records) for batch in batches])[:-1])
        pace_s = self._queue.qsize() // GROUP
        texts = [
            answer_text(batch, verdict, seen.get((batch.terminal, batch.epoch), []), pace_s, now)
            for batch, verdict in zip(batches, verdicts, strict=True)
        ]
        await rows.write_batches(
            connection,
            [
                (id_, batch.terminal, batch.n, batch.epoch, batch.first_seq, batch.last_seq, len(batch.records),
                 batch.digest, batch.media, batch.body, text, upload.received)
                for id_, batch, text, upload in zip(ids, batches, texts, group.uploads, strict=True)
            ],
        )  # fmt: skip
        self._look_first = bool((settled.verdict == Verdict.DUPLICATE).any()) and look_first
        return texts


def _failed() -> Problem:
    return busy("The service could not store this batch. Nothing of it was stored. Send it later.", 60)


def _answer(uploads: Sequence[Upload], answers: Sequence[str | Problem]) -> None:
    """Give everybody who still waits an answer."""
    for upload, answer in zip(uploads, answers, strict=True):
        if upload.answer.done():
            continue
        if isinstance(answer, Problem):
            upload.answer.set_exception(answer)
        else:
            upload.answer.set_result(answer)
