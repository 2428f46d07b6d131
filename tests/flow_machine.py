"""The product's flows at one card, in any order and with anything going wrong, against what the card's memory says.

What a flow says must be so: Committed is in the memory, Refused and an error left it as it was, and what is Unknown is
asked for at a later tap, where the answer must be true as well. A flow that nothing disturbed may not be Unknown.
Hypothesis chooses flows, sums and troubles; `python -m tests.machines` plays many of them.
"""

import asyncio
import pickle
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cardcore.bcd import encode_moment
from cardcore.card_files import MetroRecord, MetroState
from cardcore.card_map import KeyType, key_id
from cardcore.errors import OnecardError
from cardcore.metro import EntryFinding
from cardcore.order import PsamOrder
from cardcore.purse import Committed, Outcome, Refused, Unknown
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.script import psam_steps
from keys.columns import from_bytes
from keys.loads import LOCAL, Quotas
from keys.spending import Quota
from keys.store import EmbeddedStore
from keys.verifiers import Verdict
from readers.counter.loading import Claims, draft
from readers.pcsc.budget import Budget
from readers.pcsc.debit import Purchase, debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.metro import Gate, Passage, enter, leave
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.purse import Load, Till, load
from readers.pcsc.recovery import find_allowance, find_debit, find_out
from readers.pcsc.unload import Unload, settle, unload
from readers.pcsc.upkeep import Allowance, set_allowance, unblock_pin
from simulators.card_os import SoftwareCard
from simulators.file_system import PurseFile, RecordFile
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, PIN, SUITE_NAMES, issued, make_store
from tests.intake_side import StoppedClock
from tests.tearing_side import tap_record
from tests.troubled_side import DeskHarm, Hand, Harm, Time, Trouble, TroubledDesk

SUITES = (Suite.TRIPLE_DES, Suite.SM4)
GATES = tuple(bytes.fromhex(f"79100100000{n}") for n in (1, 2))
TILL = Till(130001, bytes.fromhex("00000001FBD1"), "301")
NINE = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LONGEST = timedelta(hours=4)
FLAT_FEN, NEAR_FEN, FAR_FEN = 200, 300, 700
MOST_FEN = 0x7FFFFFFF
LOG_RECORDS = 10
PURSE, DF = 1, 0x3F01
Troubles = Sequence[Trouble]
DeskTrouble = tuple[DeskHarm, int] | None
Done = TypeVar("Done")


class Memory(NamedTuple):
    """The purse of the card: cells, log (newest first) and the metro record."""

    raw_fen: int
    allowance_fen: int
    online: int
    offline: int
    log: tuple[bytes, ...]
    metro: bytes

    @property
    def value_fen(self) -> int:
        """The holder's money."""
        return self.raw_fen - self.allowance_fen


@dataclass
class Made:
    """A store, and chips of it, pickled: a card and the PSAMs of two gates."""

    store: EmbeddedStore
    chips: bytes

    def copy(self) -> tuple[SoftwareCard, list[SoftwarePsam]]:
        """Chips that nobody has used."""
        chips: tuple[SoftwareCard, list[SoftwarePsam]] = pickle.loads(self.chips)  # noqa: S301 - ours
        return chips


@cache
def store_and_chips(suite: Suite) -> Made:
    return asyncio.run(_make(suite, Path(mkdtemp(prefix="onecard-flows-"))))


async def _make(suite: Suite, folder: Path) -> Made:
    store = make_store(folder)
    card = await issued(store, folder, 1, suite)
    sams = []
    with closing(Journal(folder / "psams.sqlite")) as journal:
        for number in GATES:
            sam = SoftwarePsam.blank(SUITE_NAMES[suite], rng=random.Random(number))
            made = PsamOrder(terminal_number=number, serial=bytes(10), sector=Sector.TRANSIT, suite=suite, gate=True)
            bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
            assert await bench.personalise(Job(made.identity, "psam", psam_steps(made), DirectChannel(sam))) is None
            sams.append(sam)
    for chip in (card, *sams):
        chip.power_off()
    return Made(store, pickle.dumps((card, sams)))


@dataclass
class Open:
    """A flow that cannot say how it ended: how the card is asked again, and whether it did it.

    `since` counts what the card did from then on, this included.
    """

    name: str
    ask: Callable[[Hand], Awaitable[Outcome]]
    came: bool
    change_fen: int
    record: TapRecord | None = None
    since: int = 0


AT = st.one_of(st.none(), st.none(), st.integers(0, 12))
TROUBLE = st.builds(Trouble, st.sampled_from(Harm), AT, st.integers(0, 12), st.booleans())
TROUBLES = st.one_of(st.just(()), st.tuples(TROUBLE), st.tuples(TROUBLE, TROUBLE))
SAM_TROUBLES = st.one_of(st.just(()), st.just(()), st.just(()), st.tuples(TROUBLE))
DESK = st.one_of(st.none(), st.none(), st.tuples(st.sampled_from(DeskHarm), st.integers(0, 2)))
FEN = st.one_of(st.integers(1, 3_000), st.sampled_from([1, FLAT_FEN, FLAT_FEN, MOST_FEN]))
PINS = st.sampled_from([PIN] * 7 + ["654321"])
WAITS = st.sampled_from([1, 1, 20, 600, 5 * 3600])
COUNTER: dict[str, Any] = {"fen": FEN, "wait": WAITS, "troubles": TROUBLES, "desk": DESK, "pin": PINS}
GATE: dict[str, Any] = {"gate": st.integers(0, 1), "wait": WAITS, "troubles": TROUBLES, "sam": SAM_TROUBLES}


class FlowMachine(RuleBasedStateMachine):
    """The rules are what happens at a counter and at two gates."""

    happened: ClassVar[Counter[str]] = Counter()

    @initialize(suite=st.sampled_from(SUITES), old=st.integers(0, 40), seconds=st.sampled_from([5.0, 60.0]))
    def begin(self, suite: Suite, old: int, seconds: float) -> None:
        """A card with 100 yuan, now and then one whose counters are about to end; flows that have so many seconds."""
        made = store_and_chips(suite)
        self.suite, self.store, self.clock = suite, made.store, StoppedClock(NINE)
        self.time, self.seconds = Time(), seconds
        self.card, self.sams = made.copy()
        plenty = Quota(10**9, 10**15)
        quotas = Quotas(plenty, plenty, plenty)
        self.desk = TroubledDesk(
            self.store.load_authoriser(self.clock, quotas), self.store.unload_authoriser(self.clock, quotas),
            self.store.personaliser(), self.store.upkeep(),
        )  # fmt: skip
        if old < 4:
            cell = _purse(self.card).purse
            cell.value = cell.value._replace(online=0xFFFF - 2 * old, offline=0xFFFF - old)
        self.loop = asyncio.Runner()
        self.open: list[Open] = []
        self.proved: list[TapRecord] = []
        self.numbers = dict.fromkeys(GATES, 0)
        self.books_fen = 0
        self.unloads: dict[str, tuple[Unload, bool]] = {}
        for chip in (self.card, *self.sams):
            chip.power_on()
        self.load(10_000, 1, (), None, PIN)

    def teardown(self) -> None:
        """At the end of its days the card is asked for all that is open, and the books are what it holds."""
        if not hasattr(self, "loop"):
            return
        for opened in list(self.open):
            self._settle(opened, ())
        lost_fen = sum(opened.change_fen for opened in self.open if opened.came)
        assert self.books_fen + lost_fen == _memory(self.card).value_fen
        self._prove()
        self.loop.close()

    # Rules: the counter

    @rule(**COUNTER)
    def load(self, fen: int, wait: int, troubles: Troubles, desk: DeskTrouble, pin: str) -> None:
        self._begin(wait, desk)
        before = _memory(self.card)
        may = self._pin_is(pin) and before.raw_fen + fen <= MOST_FEN and before.online < 0xFFFF
        wanted = before._replace(raw_fen=before.raw_fen + fen, online=before.online + 1)

        async def flow(hand: Hand, budget: Budget) -> Load:
            return await load(hand, self.desk, TILL, PURSE, self.suite, fen, pin, budget)

        done = self._play("load", flow, troubles, wanted, may)
        if done is None:
            return
        [record] = [
            draft(request, grant, Claims(before.allowance_fen))
            for request, grant in self.desk.asked
            if grant.load_id == done.grant.load_id
        ][-1:]
        place = PURSE, done.key_index, PIN, done.identity.card
        self._heard("load", done.outcome, fen, record, lambda hand: find_out(hand, done.outcome.evidence, *place))

    @rule(**COUNTER)
    def unload(self, fen: int, wait: int, troubles: Troubles, desk: DeskTrouble, pin: str) -> None:
        self._begin(wait, desk)
        before = _memory(self.card)
        may = self._pin_is(pin) and fen <= before.value_fen and before.online < 0xFFFF
        wanted = before._replace(raw_fen=before.raw_fen - fen, online=before.online + 1)

        async def flow(hand: Hand, budget: Budget) -> Unload:
            return await unload(hand, self.desk, TILL, PURSE, self.suite, fen, pin, budget)

        done = self._play("unload", flow, troubles, wanted, may)
        if done is None:
            return
        came, unload_id = self.came, done.grant.unload_id
        self.unloads[unload_id] = done, came

        async def again(hand: Hand) -> Outcome:
            ended = await settle(hand, self.desk, self.unloads[unload_id][0], PIN, self._budget())
            self.unloads[unload_id] = ended, came
            return ended.outcome

        self._heard("unload", done.outcome, -fen, None, again)

    @rule(limit_fen=st.sampled_from([0, 500, 800, 1_500]), wait=WAITS, troubles=TROUBLES, desk=DESK)
    def allowance(self, limit_fen: int, wait: int, troubles: Troubles, desk: DeskTrouble) -> None:
        self._begin(wait, desk)
        before = _memory(self.card)
        raw_fen = before.raw_fen + limit_fen - before.allowance_fen
        may = 0 <= raw_fen <= MOST_FEN and before.online < 0xFFFF
        wanted = before._replace(raw_fen=raw_fen, allowance_fen=limit_fen, online=before.online + 1)
        moment = encode_moment(self._now)

        async def flow(hand: Hand, budget: Budget) -> Allowance:
            place = PURSE, self.suite, limit_fen, TILL.terminal_number
            return await set_allowance(hand, self.desk, self.desk, *place, moment, budget)  # type: ignore[arg-type]

        done = self._play("allowance", flow, troubles, wanted, may)
        if done is None:
            return
        assert done.confirmed is not False
        place = PURSE, key_id(KeyType.OVERDRAFT, self.suite), done.request.identity.card
        self._heard(
            "allowance", done.outcome, 0, None, lambda hand: find_allowance(hand, done.outcome.evidence, *place)
        )

    @rule(troubles=TROUBLES)
    def unblock(self, troubles: Troubles) -> None:
        """The holder's PIN is set anew; what was interrupted is done again."""
        before, hand = _memory(self.card), Hand(self.card, troubles, self.time)
        done = False
        with suppress(OnecardError):
            self.loop.run(unblock_pin(hand, self.desk.upkeep, PURSE, self.suite, PIN, self._budget()))
            done = True
        hand.put_back()
        assert _memory(self.card) == before and (self._pin_is(PIN) if done else hand.disturbed)

    # Rules: the gates

    @rule(fen=FEN, **GATE)
    def ride(self, fen: int, gate: int, wait: int, troubles: Troubles, sam: Troubles) -> None:
        self._begin(wait)
        wanted = Purchase(fen, PURSE, self.suite, self._index, GATES[gate], *encode_moment(self._now))
        before = _memory(self.card)

        async def flow(hand: Hand, psam: Hand, budget: Budget) -> Passage:
            return Passage(await debit(hand, psam, wanted, budget), MetroRecord.decode(before.metro))

        self._pass("ride", flow, gate, fen, troubles, sam)

    @rule(**GATE)
    def enter(self, gate: int, wait: int, troubles: Troubles, sam: Troubles) -> None:
        self._begin(wait)

        async def flow(hand: Hand, psam: Hand, budget: Budget) -> Passage:
            return await enter(hand, psam, self._gate(gate), self._now, budget)

        self._pass("entry", flow, gate, 0, troubles, sam)

    @rule(**GATE)
    def leave(self, gate: int, wait: int, troubles: Troubles, sam: Troubles) -> None:
        """Priced by the entry that the card holds: the gate finds by its MAC what the memory says."""
        self._begin(wait)
        entry = MetroRecord.decode(_memory(self.card).metro)
        inside = entry.state is MetroState.IN and entry.entry_at is not None
        in_time = inside and entry.entry_at is not None and self._now - entry.entry_at <= LONGEST
        expected = EntryFinding.GENUINE if in_time else EntryFinding.STALE if inside else EntryFinding.NONE

        def priced(finding: EntryFinding, shown: MetroRecord) -> int:
            assert finding is expected and shown == (entry if in_time else MetroRecord())
            self.happened[f"entry found {finding.value}"] += 1
            return NEAR_FEN if in_time else FAR_FEN

        async def flow(hand: Hand, psam: Hand, budget: Budget) -> Passage:
            return await leave(hand, psam, self._gate(gate), self._now, priced, budget)

        self._pass("exit", flow, gate, NEAR_FEN if in_time else FAR_FEN, troubles, sam)

    def _pass(
        self,
        name: str,
        flow: Callable[[Hand, Hand, Budget], Awaitable[Passage]],
        gate: int,
        fen: int,
        troubles: Troubles,
        sam: Troubles,
    ) -> None:
        """A debit at a gate, with its PSAM as the pool gives it."""
        before, psam = _memory(self.card), Hand(self.sams[gate], sam, self.time)
        psam.put_back()
        may = fen <= before.raw_fen and before.offline < 0xFFFF
        wanted = before._replace(raw_fen=before.raw_fen - fen, offline=before.offline + 1)
        done = self._play(name, lambda hand, budget: flow(hand, psam, budget), troubles, wanted, may, psam)
        psam.put_back()
        if done is None:
            return
        taken = done.debit
        assert taken.transaction > self.numbers[GATES[gate]], "no number is told twice"
        self.numbers[GATES[gate]] = taken.transaction
        assert taken.genuine is not False
        paid = Purchase(fen, PURSE, self.suite, self._index, GATES[gate], *encode_moment(self._now), name != "ride")
        record = tap_record(taken, paid, Kind.DEBIT, 700_001)
        place = PURSE, self._index, taken.identity.card
        self._heard(name, taken.outcome, -fen, record, lambda hand: find_debit(hand, taken.outcome.evidence, *place))

    # Rules: the card comes back

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), troubles=TROUBLES, desk=DESK)
    def come_back(self, which: int, troubles: Troubles, desk: DeskTrouble) -> None:
        """The card is asked for something that is open."""
        self._begin(1, desk)
        self._settle(self.open[which % len(self.open)], troubles)

    @invariant()
    def only_what_left_is_paid(self) -> None:
        """Nobody is paid for what did not leave the card."""
        self.happened["steps"] += 1
        for done, came in getattr(self, "unloads", {}).values():
            assert not done.payable or came

    def _settle(self, opened: Open, troubles: Troubles) -> None:
        before, hand = _memory(self.card), Hand(self.card, troubles, self.time)
        asked_by_pin = self._pin_is(PIN)
        try:
            outcome = self.loop.run(_awaited(opened.ask(hand)))
        except OnecardError:
            outcome = None
        hand.put_back()
        assert _memory(self.card) == before, "asking changes nothing"
        decided = isinstance(outcome, Committed | Refused)
        quiet = not hand.disturbed and not self.desk.harmed and asked_by_pin
        assert decided or not quiet or opened.since > LOG_RECORDS, (opened.name, outcome)
        if decided:
            self.open.remove(opened)
            self._said(opened, outcome)
            self.happened[f"{opened.name} settled"] += 1

    # How flows are played and judged

    def _begin(self, wait: int, desk: DeskTrouble = None) -> None:
        self.clock.instant += timedelta(seconds=wait)
        self.desk.trouble(desk)

    def _play(
        self,
        name: str,
        flow: Callable[[Hand, Budget], Awaitable[Done]],
        troubles: Troubles,
        wanted: Memory,
        may: bool,
        psam: Hand | None = None,
    ) -> Done | None:
        """The flow, None when it raised; the memory is as before, or `wanted` and what the flow says of the rest."""
        before, hand = _memory(self.card), Hand(self.card, troubles, self.time)
        done: Done | None = None
        with suppress(OnecardError):
            done = self.loop.run(_awaited(flow(hand, self._budget())))
        hand.put_back()
        now = _memory(self.card)
        came = (now.online, now.offline) != (before.online, before.offline)
        metro = done.record.encode() if came and isinstance(done, Passage) else before.metro
        after = wanted._replace(log=(now.log[0], *before.log)[:LOG_RECORDS], metro=metro) if came else before
        assert now == after, "all of it or nothing"
        assert done is not None or not came, "a flow that raised has moved nothing"
        quiet = not (hand.harmed or self.desk.harmed or (psam is not None and psam.disturbed))
        assert not quiet or came == may, (name, came, may)
        for opened in self.open:
            opened.since += came
        self.came = came
        self.happened[name if came else f"{name}, nothing moved"] += 1
        return done

    def _heard(
        self,
        name: str,
        outcome: Outcome,
        change_fen: int,
        record: TapRecord | None,
        ask: Callable[[Hand], Awaitable[Outcome]],
    ) -> None:
        opened = Open(name, ask, self.came, change_fen, record, int(self.came))
        if isinstance(outcome, Unknown):
            self.open.append(opened)
            self.happened[f"{name}, Unknown"] += 1
        else:
            self._said(opened, outcome)

    def _said(self, opened: Open, outcome: Outcome | None) -> None:
        """What was said is so; what came of it goes into the books."""
        assert isinstance(outcome, Committed) == opened.came, (opened.name, outcome)
        if not isinstance(outcome, Committed):
            return
        self.books_fen += opened.change_fen
        if opened.record is not None and outcome.tac is not None:
            self.proved.append(replace(opened.record, cryptogram=outcome.tac + bytes(4)))

    def _prove(self) -> None:
        """Every TAC that a flow brought proves its record."""
        if self.proved:
            verdicts = self.store.tac_verifier().verify(from_bytes(b"".join(one.encode() for one in self.proved)))
            assert (verdicts == Verdict.OK).all(), verdicts

    @property
    def _now(self) -> datetime:
        return self.clock.instant.astimezone(LOCAL).replace(tzinfo=None)

    @property
    def _index(self) -> int:
        return key_id(KeyType.PURCHASE, self.suite, Sector.TRANSIT)

    def _budget(self) -> Budget:
        return Budget(self.seconds, self.time)

    def _gate(self, gate: int) -> Gate:
        return Gate(1, 1 + gate, GATES[gate], PURSE, self.suite, self._index, LONGEST, lambda _: False)

    def _pin_is(self, pin: str) -> bool:
        """Whether the card would take it."""
        held = next(df for df in self.card.mf.applications() if df.fid == DF).pins.value[0]
        return held.tries is not None and held.tries.left > 0 and held.matches(bytes.fromhex(pin))


async def _awaited(work: Awaitable[Done]) -> Done:
    return await work


def _purse(card: SoftwareCard) -> PurseFile:
    files = next(df for df in card.mf.applications() if df.fid == DF).files.value
    return next(file for file in files.values() if isinstance(file, PurseFile))


def _memory(card: SoftwareCard) -> Memory:
    files, cell = next(df for df in card.mf.applications() if df.fid == DF).files.value, _purse(card).purse.value
    log, metro = files[0x18], files[0x1A]
    assert isinstance(log, RecordFile) and isinstance(metro, RecordFile)
    return Memory(
        cell.raw_fen, cell.allowance_fen, cell.online, cell.offline, tuple(log.records.value), metro.records.value[0]
    )
