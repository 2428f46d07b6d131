"""A load at the counter, from the clerk's key to the acknowledged record (rule 17; docs/wire.md, docs/record.md)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cardcore.authority import LoadAuthority, LoadGrant, LoadRequest
from cardcore.commands.purse import TransactionType
from cardcore.errors import RefusedError
from cardcore.purse import Committed, Evidence, Outcome, Refused, Unknown
from cardcore.record import Kind, Suite, TapRecord
from cardcore.switches import DEFAULTS, Switches
from readers.counter.desk import Desk, Document
from readers.counter.queue import Batch, CounterQueue, LoadState, OpenLoad
from readers.pcsc import purse
from readers.pcsc.budget import Budget
from readers.pcsc.channel import Channel
from readers.pcsc.purse import Till
from readers.pcsc.recovery import find_out

MOST_RENUMBERINGS = 100


@dataclass(frozen=True, slots=True)
class Claims:
    """What a load's record says besides what the card proves: purse's allowance (fen), card class, epoch, party."""

    overdraft_fen: int
    concession: int = 0
    epoch: int = 1
    operator: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a load ended; `batch` is its record on the way to clearing, None where there is nothing to be proved.

    `ran_out_at` is the step at which its time was gone, "" when there was enough.
    """

    load: OpenLoad
    outcome: Outcome
    batch: Batch | None = None
    ran_out_at: str = ""


def draft(request: LoadRequest, grant: LoadGrant, claims: Claims) -> TapRecord:
    """The record of a granted load, without sequence and TAC."""
    return TapRecord(
        kind=Kind.LOAD,
        suite=request.key_suite,
        key_version=request.key_version,
        key_index=request.key_index,
        purse=request.purse,
        generation=request.generation,
        issuer=request.identity.issuer,
        card=request.identity.card,
        counter=request.counter,
        amount_fen=request.amount_fen,
        full_fare_fen=request.amount_fen,
        transaction_type=TransactionType.LOAD,
        terminal_number=request.terminal_number,
        date=grant.date,
        time=grant.time,
        balance_before_fen=request.raw_balance_fen - claims.overdraft_fen,
        overdraft_fen=claims.overdraft_fen,
        terminal=request.terminal,
        epoch=claims.epoch,
        sequence=0,
        concession=claims.concession,
        operator=claims.operator,
    )


@dataclass(frozen=True, slots=True)
class KeepingAuthority:
    """A load authority whose grants are on the disk before the card hears of them, so that no kill can lose one."""

    authority: LoadAuthority
    queue: CounterQueue
    claims: Claims

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """As the authority within; SetupError when the grant cannot be kept, and then MAC2 is not used."""
        grant = await self.authority.authorise_load(request)
        await asyncio.to_thread(self.queue.keep, OpenLoad(grant.load_id, draft(request, grant, self.claims)))
        return grant


class LoadCounter:
    """Loads cards at one terminal, and brings their records to the service."""

    def __init__(self, desk: Desk, queue: CounterQueue, switches: Switches = DEFAULTS) -> None:
        """`switches` are those of the profile whose cards come here."""
        self._desk = desk
        self._queue = queue
        self.switches = switches

    async def load(
        self,
        channel: Channel,
        till: Till,
        claims: Claims,
        application: int,
        suite: Suite,
        amount_fen: int,
        pin: str,
        budget: Budget | None = None,
    ) -> Ended:
        """As `readers.pcsc.purse.load`, kept at every point; an Unknown outcome stays open in the queue."""
        authority = KeepingAuthority(self._desk, self._queue, claims)
        done = await purse.load(channel, authority, till, application, suite, amount_fen, pin, budget, self.switches)
        [load] = [load for load in self._queue.open_loads(done.identity.card) if load.load_id == done.grant.load_id]
        return await self._ended(load, done.outcome, done.ran_out_at)

    async def settle(self, channel: Channel, card: bytes, pin: str) -> list[Ended]:
        """Ask the card in the reader how its open loads ended. What it cannot tell any more is left to clearing, which
        decides it by the next tap (rule 17). Raises CardError, CardTorn, ReaderError: the load stays open."""
        settled = []
        for load in self._queue.open_loads(card):
            record = load.draft
            place = record.purse, record.key_index
            outcome = await find_out(channel, _evidence(record), *place, pin, card, self.switches)
            if isinstance(outcome, Unknown):
                await asyncio.to_thread(self._queue.end, load, LoadState.UNDECIDED)
            settled.append(await self._ended(load, outcome))
        return settled

    async def send(self) -> Sequence[tuple[Batch, Document]]:
        """Send what is not acknowledged, the oldest first; gives the service's answers.

        Raises DeskUnreachable or RefusedError: what was not acknowledged waits for the next call.
        """
        answers = []
        for batch in self._queue.waiting():
            sent, answer = await self._deliver(batch)
            await asyncio.to_thread(self._queue.acknowledge, sent)
            answers.append((sent, answer))
        return answers

    async def _deliver(self, batch: Batch) -> tuple[Batch, Document]:
        for _ in range(MOST_RENUMBERINGS):
            try:
                return batch, await self._desk.upload(batch.terminal, batch.n, batch.body)
            except RefusedError as refusal:
                if refusal.code != "batch-conflict":
                    raise
            batch = await asyncio.to_thread(self._queue.renumber, batch)
        raise RefusedError(
            "batch-conflict",
            f"the service knows other batches under {MOST_RENUMBERINGS} numbers of terminal {batch.terminal}: is the "
            "terminal in use twice, or its state lost? The record is kept; ask clearing for a new epoch",
        )

    async def _ended(self, load: OpenLoad, outcome: Outcome, ran_out_at: str = "") -> Ended:
        match outcome:
            case Committed(tac=bytes() as tac):
                return Ended(load, outcome, await asyncio.to_thread(self._queue.finish, load, tac), ran_out_at)
            case Committed():
                await asyncio.to_thread(self._queue.end, load, LoadState.COMMITTED)
            case Refused():
                await asyncio.to_thread(self._queue.end, load, LoadState.REFUSED)
        return Ended(load, outcome, ran_out_at=ran_out_at)


def _evidence(record: TapRecord) -> Evidence:
    raw_balance_fen = record.balance_before_fen + record.overdraft_fen
    return Evidence(
        TransactionType.LOAD,
        record.counter,
        raw_balance_fen,
        record.amount_fen,
        record.terminal_number,
        record.date,
        record.time,
    )
