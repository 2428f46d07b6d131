"""The clerk's steps between the taps: loads, acts, reports and replacements, through the desk over HTTP."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

from cardcore.apdu import CommandApdu
from cardcore.authority import ActRequest, CardIdentity
from cardcore.errors import OnecardError, ReaderError, RefusedError
from cardcore.purse import Committed, Unknown
from cardcore.record import Sector
from onecard.demo.counter_readers import CounterReaders
from onecard.demo.issuing import SUITES, Issued, profile_of
from readers.counter.desk import Desk
from readers.pcsc import purse
from readers.pcsc.channel import DEADLINE_S, Channel, Replies
from readers.pcsc.direct import DirectChannel
from simulators.card_os import SoftwareCard
from simulators.city import ActResult, DeskStep, LoadResult, Plan, ReplacementResult, ReportResult
from simulators.city.facts import DeskResult
from simulators.nvm import TearPoint

CREDIT_FOR_LOAD = 0x52
CUTS = {"before-commit": TearPoint.BEFORE_MARKER, "after-commit": TearPoint.BEFORE_ANSWER}


class RecordingDesk(Desk):
    """The desk, with every call kept for the auditor (docs/demo.md, desk.jsonl)."""

    def __init__(self, base_url: str, path: Path, counter: Iterator[int], now: Callable[[], datetime]) -> None:
        super().__init__(base_url)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._counter = counter
        self._now = now

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        await super().__aexit__(kind, error, trace)

    async def ask(self, call: str, document: Mapping[str, object]) -> Mapping[str, object]:
        at = self._now()
        try:
            answer = await super().ask(call, document)
        except RefusedError as refusal:
            self._note(call, at, document, 422, {"code": refusal.code, "detail": str(refusal)})
            raise
        self._note(call, at, document, 201, answer)
        return answer

    def _note(
        self, call: str, at: datetime, request: Mapping[str, object], status: int, answer: Mapping[str, object]
    ) -> None:
        line = {"order": next(self._counter), "at": at.isoformat(), "call": call, "request": request, "status": status,
                "answer": answer}  # fmt: skip
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")


class LeavingCard(DirectChannel):
    """A card that is pulled out at CREDIT FOR LOAD and does not come back to this counter."""

    def __init__(self, card: SoftwareCard, point: TearPoint) -> None:
        super().__init__(card)
        self._leaving = card
        self._point = point
        self._gone = False

    async def reset(self) -> bytes:
        if self._gone:
            raise ReaderError("the card is gone")
        return await super().reset()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[0].ins == CREDIT_FOR_LOAD:
            self._leaving.tear_next(self._point)
            self._gone = True
        return await super().run(commands, deadline_s)


class FrontDesk:
    """Does the plan's desk steps with the product."""

    def __init__(self, plan: Plan, issued: Issued, desk: Desk, readers: CounterReaders) -> None:
        self._readers = readers
        self._plan = plan
        self._issued = issued
        self._desk = desk
        self._hands: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._profiles = {card.serial: card.profile for card in plan.cards}

    async def do(self, step: DeskStep) -> DeskResult:
        """One step; gives what the city's player wants to know of it. Steps of one card wait for each other.

        Raises OnecardError when the product does not do it."""
        match step.kind:
            case "load":
                async with self._hands[step.card]:
                    return await self._load(step)
            case "act":
                async with self._hands[step.card]:
                    return await self._act(step)
            case "report":
                answer = await self._desk.ask(
                    "reports", {"card": step.card, "reason": step.reason, "reported_at": step.instant.isoformat()}
                )
                return ReportResult(int(str(answer["list_version"])))
            case "replacement":
                answer = await self._desk.ask("replacements", {"old": step.card, "new": step.new_card})
                assert isinstance(answer["values"], dict), "the desk answers what each purse held"
                values = {int(purse): int(fen) for purse, fen in answer["values"].items()}
                return ReplacementResult(int(str(answer["load_fen"])), values)
        raise OnecardError(f"the plan asks the desk for {step.kind!r}, which it does not know")

    async def _load(self, step: DeskStep) -> LoadResult | None:
        profile = profile_of(self._profiles[step.card])
        till = purse.Till(step.terminal, bytes.fromhex(step.terminal_number), step.channel)
        async with self._channel(step) as channel:
            done = await purse.load(
                channel, self._desk, till, step.purse, SUITES[step.suite], step.amount_fen, profile.pin
            )
        if step.cut:
            if not isinstance(done.outcome, Unknown):
                raise OnecardError(f"a load whose card left has the outcome {done.outcome}, which nobody can know")
            return None
        if not isinstance(done.outcome, Committed) or done.outcome.tac is None:
            raise OnecardError(f"the load of card {step.card} ended as {done.outcome}")
        return LoadResult(
            tac=done.outcome.tac,
            date=done.grant.date,
            time=done.grant.time,
            raw_balance=done.opened.raw_balance_fen,
            overdraft_fen=self._allowance(step),
            counter=done.opened.counter,
            suite=int(SUITES[step.suite]),
            key_version=done.opened.key_version,
            key_index=done.key_index,
        )

    @asynccontextmanager
    async def _channel(self, step: DeskStep) -> AsyncIterator[Channel]:
        """The way to a step's card: a reader of the counter, in process, or one that the card is torn out of."""
        card = self._issued.cards[step.card]
        if step.card in self._readers.serials and not step.cut:
            async with self._readers.holding(card) as channel:
                yield channel
        else:
            direct = LeavingCard(card, CUTS[step.cut]) if step.cut else DirectChannel(card)
            await direct.reset()
            yield direct

    def _allowance(self, step: DeskStep) -> int:
        applications = profile_of(self._profiles[step.card]).applications
        spec = next(item.purse for item in applications if item.number == step.purse)
        return spec.overdraft_fen if spec else 0

    async def _act(self, step: DeskStep) -> ActResult:
        suite = SUITES[step.suite]
        request = ActRequest(
            identity=CardIdentity(bytes.fromhex(step.issuer), bytes.fromhex(step.card), suite),
            terminal=step.terminal,
            terminal_number=bytes.fromhex(step.terminal_number),
            sector=int(Sector[step.sector.upper()]),
            amount_fen=step.amount_fen,
            transaction_type=step.transaction_type,
            split=step.split,
        )
        async with self._channel(step) as channel:
            done = await purse.act(channel, self._desk, request, profile_of(self._profiles[step.card]).pin)
        return ActResult(
            act_id=done.grant.act_id,
            cryptogram=done.cryptogram,
            date=done.grant.date,
            time=done.grant.time,
            suite=int(suite),
            key_version=1,
            key_index=done.key_index,
        )
