"""Loads and acts at the counter: committed, refused, torn and recovered; the queue that no kill can empty."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.authority import ActGrant, ActRequest, LoadAuthority, LoadGrant, LoadRequest
from cardcore.card_map import APPLICATIONS, MF
from cardcore.commands import DebitPurchase, GetTransactionProof, Select, VerifyPin
from cardcore.commands.security import WrongPinError
from cardcore.errors import CardError, FormatError, ReaderError, RefusedError
from cardcore.purse import Committed, Evidence, Refused, Unknown
from cardcore.record import Kind, Sector, Suite, TapRecord
from keys.columns import from_bytes
from keys.proof import act_digest, split_digest
from keys.store import EmbeddedStore
from keys.verifiers import OpenedAct, Verdict
from readers.counter.clerk import LoadOrder
from readers.counter.desk import Desk, DeskUnreachable
from readers.counter.loading import Claims, LoadCounter, draft
from readers.counter.queue import CounterQueue, OpenLoad
from readers.pcsc import purse, recovery, scard
from readers.pcsc.channel import DEADLINE_S, CardTorn, Replies
from readers.pcsc.connection import Connection
from readers.pcsc.direct import DirectChannel
from readers.pcsc.purse import Till
from simulators.card_os import PurseState, SoftwareCard
from simulators.nvm import TearPoint
from tests.counter_side import PIN, Service, authoriser, issued, make_store, order

TERMINAL = 130001
TILL = Till(TERMINAL, b"\0\0" + TERMINAL.to_bytes(4, "big"), "301")
ALLOWANCE_FEN = 800
CREDIT, PROOF = 0x52, 0x5A
SUITES = (Suite.TRIPLE_DES, Suite.SM4)
AFTER_COMMIT = (TearPoint.AFTER_MARKER, TearPoint.WHILE_COPYING, TearPoint.BEFORE_ANSWER)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


class Fragile(DirectChannel):
    """Loses power at `point` of the next CREDIT FOR LOAD; `returns` says whether the card is put back."""

    def __init__(self, card: SoftwareCard, point: TearPoint | None = None, returns: bool = True) -> None:
        super().__init__(card)
        self.card = card
        self.point = point
        self.returns = returns

    async def reset(self) -> bytes:
        if not self.returns and self.point is None:
            raise ReaderError("the card is gone")
        return await super().reset()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[-1].ins == CREDIT and self.point:
            self.card.tear_next(self.point)
            self.point = None
        return await super().run(commands, deadline_s)


async def start(store: EmbeddedStore, folder: Path, suite: Suite = Suite.SM4, number: int = 1) -> Fragile:
    channel = Fragile(await issued(store, folder, number, suite))
    await channel.reset()
    return channel


async def load(
    channel: Fragile, authority: LoadAuthority, fen: int = 5000, suite: Suite = Suite.SM4, pin: str = PIN
) -> purse.Load:
    return await purse.load(channel, authority, TILL, 1, suite, fen, pin)


def proven(store: EmbeddedStore, record: TapRecord) -> bool:
    return bool((store.tac_verifier().verify(from_bytes(record.encode())) == Verdict.OK).all())


@dataclass
class Noting:
    """The authority, with its last question and answer kept."""

    authority: LoadAuthority
    asked: list[tuple[LoadRequest, LoadGrant]] = field(default_factory=list)

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        grant = await self.authority.authorise_load(request)
        self.asked.append((request, grant))
        return grant

    def record(self, tac: bytes) -> TapRecord:
        request, grant = self.asked[-1]
        return replace(draft(request, grant, Claims(ALLOWANCE_FEN)), sequence=1, cryptogram=tac + bytes(4))


@pytest.mark.parametrize("suite", SUITES)
async def test_committed(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    channel, authority = await start(store, tmp_path, suite), Noting(authoriser(store))
    for times in (1, 2):
        done = await load(channel, authority, 5000, suite)
        assert isinstance(done.outcome, Committed) and done.outcome.tac is not None
        record = authority.record(done.outcome.tac)
        assert (record.balance_before_fen, record.overdraft_fen) == (5000 * (times - 1), ALLOWANCE_FEN)
        assert (record.kind, record.counter, record.card) == (Kind.LOAD, times, order(1, suite).card)
        assert proven(store, record)
        assert not proven(store, replace(record, amount_fen=5001))
        assert channel.card.purses()[1] == PurseState(5000 * times, 0, 1 + times)


async def test_wrong_pin(store: EmbeddedStore, tmp_path: Path) -> None:
    channel, authority = await start(store, tmp_path), Noting(authoriser(store))
    with pytest.raises(WrongPinError) as wrong:
        await load(channel, authority, pin="654321")
    assert wrong.value.tries_left == 2
    assert not authority.asked, "nothing was asked for"
    assert isinstance((await load(channel, authority)).outcome, Committed)


@dataclass
class Lying:
    """Answers a wrong MAC2."""

    authority: LoadAuthority

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        grant = await self.authority.authorise_load(request)
        return replace(grant, mac2=bytes(octet ^ 1 for octet in grant.mac2))


async def test_wrong_mac2(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = await start(store, tmp_path)
    done = await load(channel, Lying(authoriser(store)))
    assert isinstance(done.outcome, Refused) and done.outcome.sw == 0x9302
    assert channel.card.purses()[1].balance_fen == 0


@dataclass
class Refusing:
    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        raise RefusedError("over-limit", "too much")


async def test_refused_by_the_desk(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = await start(store, tmp_path)
    with pytest.raises(RefusedError, match="too much"):
        await load(channel, Refusing())
    assert channel.card.purses()[1] == PurseState(0, 0, 1)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("point", AFTER_COMMIT)
async def test_torn_after_the_commit(store: EmbeddedStore, tmp_path: Path, suite: Suite, point: TearPoint) -> None:
    channel, authority = await start(store, tmp_path, suite), Noting(authoriser(store))
    channel.point = point
    done = await load(channel, authority, 5000, suite)
    assert isinstance(done.outcome, Committed) and done.outcome.tac is not None, "by the card's proof"
    assert proven(store, authority.record(done.outcome.tac))
    assert channel.card.purses()[1].balance_fen == 5000


async def test_torn_before_the_commit(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = await start(store, tmp_path)
    channel.point = TearPoint.BEFORE_MARKER
    done = await load(channel, authoriser(store))
    assert isinstance(done.outcome, Refused) and done.outcome.sw == 0, "by the card's counter"
    assert channel.card.purses()[1] == PurseState(0, 0, 1)


@pytest.mark.parametrize(
    ("point", "ending", "fen"), [(TearPoint.BEFORE_MARKER, Refused, 0), (TearPoint.BEFORE_ANSWER, Committed, 5000)]
)
async def test_card_gone(store: EmbeddedStore, tmp_path: Path, point: TearPoint, ending: type, fen: int) -> None:
    channel = await start(store, tmp_path)
    channel.point, channel.returns = point, False
    done = await load(channel, authoriser(store))
    assert isinstance(done.outcome, Unknown), "a value, not an error"
    evidence, card = done.outcome.evidence, done.identity.card

    assert isinstance(await recovery.recover_load(channel, evidence, 1, done.key_index, PIN, card), Unknown)
    stranger = DirectChannel(await issued(store, tmp_path, 2))
    assert isinstance(await recovery.recover_load(stranger, evidence, 1, done.key_index, PIN, card), Unknown)
    with pytest.raises(CardError, match="not 0310"):
        await recovery.find_out(stranger, evidence, 1, done.key_index, PIN, card)
    channel.returns = True
    if ending is Refused:
        with pytest.raises(WrongPinError):
            await recovery.find_out(channel, evidence, 1, done.key_index, "111111", card)
    outcome = await recovery.recover_load(channel, evidence, 1, done.key_index, PIN, card)
    assert isinstance(outcome, ending)
    assert channel.card.purses()[1].balance_fen == fen


class Vanishing(Fragile):
    """A reader that is unplugged at the next CREDIT FOR LOAD, `heard` by the card or not."""

    def __init__(self, card: SoftwareCard, heard: bool) -> None:
        super().__init__(card, returns=False)
        self.heard = heard

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[-1].ins != CREDIT:
            return await super().run(commands, deadline_s)
        if self.heard:
            await super().run(commands, deadline_s)
        raise ReaderError("the reader is gone")


@pytest.mark.parametrize(("heard", "ending"), [(True, Committed), (False, Refused)])
async def test_a_reader_that_is_gone_tells_nothing(
    store: EmbeddedStore, tmp_path: Path, heard: bool, ending: type
) -> None:
    card = await issued(store, tmp_path)
    channel = Vanishing(card, heard)
    done = await load(channel, authoriser(store))
    assert isinstance(done.outcome, Unknown)
    assert card.purses()[1].balance_fen == 5000 * heard
    evidence, serial = done.outcome.evidence, done.identity.card
    outcome = await recovery.recover_load(DirectChannel(card), evidence, 1, done.key_index, PIN, serial)
    assert isinstance(outcome, ending)


async def test_another_load_came_in_between(store: EmbeddedStore, tmp_path: Path) -> None:
    """The proof is of another load then: the log tells whose, and in the end only the counter has moved on."""
    channel = await start(store, tmp_path)

    async def torn(point: TearPoint, fen: int) -> purse.Load:
        channel.point, channel.returns = point, False
        done = await load(channel, authoriser(store), fen)
        channel.returns = True
        await channel.reset()
        return done

    async def ask(done: purse.Load) -> object:
        assert isinstance(done.outcome, Unknown)
        return await recovery.find_out(channel, done.outcome.evidence, 1, done.key_index, PIN, done.identity.card)

    came, never = await torn(TearPoint.BEFORE_ANSWER, 5000), await torn(TearPoint.BEFORE_MARKER, 700)
    assert isinstance((await load(channel, authoriser(store), 300)).outcome, Committed), "takes the counter of `never`"
    assert isinstance(refused := await ask(never), Refused) and "another load" in refused.reason
    assert isinstance(found := await ask(came), Committed) and found.tac is None, "from the log, without a TAC"
    for _ in range(10):
        await load(channel, authoriser(store), 100)
    assert isinstance(await ask(came), Unknown), "the log has forgotten it"


class Keeping(Fragile):
    """A card that keeps the proof of a transaction beyond the next one, as GET TRANSACTION PROOF allows."""

    kept: Replies | None = None

    async def keep(self, evidence: Evidence) -> None:
        proof = GetTransactionProof(evidence.transaction_type, evidence.counter)
        self.kept = await super().run([Select(APPLICATIONS[1].aid).apdu(), proof.apdu()])

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[-1].ins == PROOF and self.kept:
            return Replies((self.kept.last(),))
        return await super().run(commands, deadline_s)


async def test_a_kept_proof_with_the_granted_mac2_decides(store: EmbeddedStore, tmp_path: Path) -> None:
    """Whatever the card has done since, and wrote on top of its log."""
    channel = Keeping((await start(store, tmp_path)).card)
    await channel.reset()
    channel.point, channel.returns = TearPoint.BEFORE_ANSWER, False
    torn = await load(channel, authoriser(store), 5000)
    assert isinstance(torn.outcome, Unknown)
    channel.returns = True
    await channel.reset()
    await channel.keep(torn.outcome.evidence)
    for _ in range(11):
        assert isinstance((await load(channel, authoriser(store), 100)).outcome, Committed)
    outcome = await recovery.find_out(channel, torn.outcome.evidence, 1, torn.key_index, PIN, torn.identity.card)
    assert isinstance(outcome, Committed) and outcome.tac is not None


@dataclass
class ActDesk:
    """Opens acts as the clearing desk does (rule 6)."""

    opened: list[OpenedAct] = field(default_factory=list)

    async def open_act(self, request: ActRequest) -> ActGrant:
        draw = random.Random(len(self.opened))
        act_id, challenge = draw.randbytes(8), draw.randbytes(8)
        record = act_record(request, act_id, bytes(8), 0)
        digest = act_digest(record, Sector(request.sector), challenge, request.split)
        self.opened.append(OpenedAct(Sector(request.sector), challenge, split_digest(request.split)))
        return ActGrant(act_id, challenge, record.date, record.time, digest)


def act_record(request: ActRequest, act_id: bytes, cryptogram: bytes, key_index: int) -> TapRecord:
    application = {Sector.SOCIAL: 2, Sector.MEDICAL: 5}[Sector(request.sector)]
    return TapRecord(
        kind=Kind.ACT, suite=request.identity.suite, key_index=key_index, purse=application,
        issuer=request.identity.issuer, card=request.identity.card, amount_fen=request.amount_fen,
        transaction_type=request.transaction_type, terminal_number=request.terminal_number,
        date=bytes.fromhex("20260301"), time=bytes.fromhex("090000"), terminal=request.terminal, sequence=1,
        cryptogram=cryptogram, act_id=act_id,
    )  # fmt: skip


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("sector", [Sector.SOCIAL, Sector.MEDICAL])
async def test_act(store: EmbeddedStore, tmp_path: Path, sector: Sector, suite: Suite) -> None:
    channel, desk = await start(store, tmp_path, suite), ActDesk()
    request = ActRequest(
        identity=order(1, suite).identity, terminal=TERMINAL, terminal_number=TILL.terminal_number, sector=sector,
        amount_fen=1000, transaction_type=0xA1, split={"fund": 700, "account": 300},
    )  # fmt: skip
    with pytest.raises(WrongPinError):
        await purse.act(channel, desk, request, "111111")
    assert not desk.opened, "the PIN comes first"
    done = await purse.act(channel, desk, request, PIN)
    record = act_record(request, done.grant.act_id, done.cryptogram, done.key_index)
    verifier = store.act_verifier()
    assert list(verifier.verify(from_bytes(record.encode()), desk.opened)) == [Verdict.OK]
    other = replace(desk.opened[0], split_digest=split_digest({"fund": 1000}))
    assert list(verifier.verify(from_bytes(record.encode()), [other])) == [Verdict.BAD]


async def test_act_torn(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = await start(store, tmp_path)
    request = ActRequest(order(1, Suite.SM4).identity, TERMINAL, TILL.terminal_number, Sector.SOCIAL, 1, 0xA1, {})

    class Leaving(ActDesk):
        async def open_act(self, request: ActRequest) -> ActGrant:
            channel.card.power_off()
            return await super().open_act(request)

    with pytest.raises(CardTorn):
        await purse.act(channel, Leaving(), request, PIN)


async def test_stranger(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = await start(store, tmp_path)
    for wrong in (MF.aid, APPLICATIONS[2].aid):
        assert (await channel.run([Select(wrong).apdu()])).last().ok
    with pytest.raises(CardError):
        await purse.load(channel, authoriser(store), TILL, 3, Suite.SM4, 100, PIN)


# --- the counter queue -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it but what a new process does."""


@dataclass
class Counter:
    """One counter: its queue file, opened anew after a kill, and the service it speaks with."""

    path: Path
    service: Service
    desk: Desk

    def open(self) -> tuple[LoadCounter, CounterQueue]:
        queue = CounterQueue(self.path)
        return LoadCounter(self.desk, queue), queue


@pytest.fixture
async def counter(store: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Counter]:
    service = Service(authoriser(store), store)
    runner, url = await service.serve()
    async with Desk(url) as desk:
        yield Counter(tmp_path / "readers.sqlite", service, desk)
    await runner.cleanup()


async def queued(counter: LoadCounter, channel: Fragile, fen: int = 5000, epoch: int = 1) -> object:
    ended = await counter.load(channel, TILL, Claims(ALLOWANCE_FEN, 2, epoch, 301), 1, Suite.SM4, fen, PIN)
    return ended.outcome


async def test_load_to_acknowledged_record(store: EmbeddedStore, tmp_path: Path, counter: Counter) -> None:
    channel = await start(store, tmp_path)
    loads, queue = counter.open()
    for fen in (5000, 1250, 1):
        assert isinstance(await queued(loads, channel, fen), Committed)
    assert [batch.n for batch in queue.waiting()] == [1, 2, 3]
    assert [batch.n for batch, _ in await loads.send()] == [1, 2, 3]
    assert not queue.waiting() and not await loads.send()
    records = [TapRecord.decode(raw) for raw in counter.service.records]
    assert [(record.sequence, record.amount_fen, record.epoch) for record in records] == [
        (1, 5000, 1), (2, 1250, 1), (3, 1, 1),
    ]  # fmt: skip
    assert {(record.concession, record.operator, record.terminal) for record in records} == {(2, 301, TERMINAL)}
    assert isinstance(await queued(loads, channel, 2, epoch=2), Committed)
    [later] = queue.waiting()
    assert (later.n, later.record.epoch, later.record.sequence) == (4, 2, 1), "sequences start anew in an epoch"


async def test_refused_load_leaves_no_gap(store: EmbeddedStore, tmp_path: Path, counter: Counter) -> None:
    channel = await start(store, tmp_path)
    loads, queue = counter.open()
    channel.point = TearPoint.BEFORE_MARKER
    assert isinstance(await queued(loads, channel), Refused)
    assert isinstance(await queued(loads, channel), Committed)
    [batch] = queue.waiting()
    assert (batch.n, batch.record.sequence) == (1, 1)
    assert not queue.open_loads()


@pytest.mark.parametrize("committed", [False, True], ids=["before the card heard", "after the card committed"])
async def test_kill_around_the_credit(store: EmbeddedStore, tmp_path: Path, counter: Counter, committed: bool) -> None:
    channel = await start(store, tmp_path)

    class Killing(Fragile):
        async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
            if commands[-1].ins == CREDIT:
                if committed:
                    await super().run(commands, deadline_s)
                raise Killed
            return await super().run(commands, deadline_s)

    loads, _ = counter.open()
    with pytest.raises(Killed):
        await queued(loads, Killing(channel.card))
    loads, queue = counter.open()
    [left] = queue.open_loads(order(1, Suite.SM4).card)
    assert left.draft.amount_fen == 5000 and not queue.open_loads(order(2, Suite.SM4).card)
    with pytest.raises(CardError, match="not 0310"):
        await loads.settle(DirectChannel(await issued(store, tmp_path, 2)), left.draft.card, PIN)
    [ended] = await loads.settle(channel, left.draft.card, PIN)
    assert isinstance(ended.outcome, Committed if committed else Refused)
    await loads.send()
    assert len(counter.service.records) == committed, "proved by the service's verifier"
    assert not queue.open_loads()
    assert await loads.settle(channel, left.draft.card, PIN) == []


async def test_kill_after_the_grant(
    store: EmbeddedStore, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept before it is used: where it cannot be kept, the card never hears of it."""
    channel = await start(store, tmp_path)
    loads, queue = counter.open()

    def kill(_: OpenLoad) -> None:
        raise Killed

    monkeypatch.setattr(queue, "keep", kill)
    with pytest.raises(Killed):
        await queued(loads, channel)
    assert counter.service.requests == 1
    assert channel.card.purses()[1] == PurseState(0, 0, 1)


async def test_sent_until_acknowledged(store: EmbeddedStore, tmp_path: Path, counter: Counter) -> None:
    channel = await start(store, tmp_path)
    loads, queue = counter.open()
    await queued(loads, channel)
    # A client may repeat a PUT by itself when its connection breaks, so two answers are lost.
    counter.service.down, counter.service.lost = 1, 2
    for trouble in ("busy", "does not answer"):
        with pytest.raises(DeskUnreachable, match=trouble):
            await loads.send()
        loads, queue = counter.open()
        assert len(queue.waiting()) == 1
    await loads.send()
    assert len(counter.service.records) == 1, "the same batch again is the same batch"
    assert not queue.waiting()


async def test_taken_batch_number(store: EmbeddedStore, tmp_path: Path, counter: Counter) -> None:
    channel = await start(store, tmp_path)
    counter.service.batches |= {(TERMINAL, 1): b"of an earlier life", (TERMINAL, 2): b"too"}
    loads, queue = counter.open()
    await queued(loads, channel)
    [(batch, answer)] = await loads.send()
    assert (batch.n, answer["n"], batch.record.sequence) == (3, 3, 1)
    assert not queue.waiting()
    await queued(loads, channel)
    [(batch, _)] = await loads.send()
    assert (batch.n, batch.record.sequence) == (4, 2)


async def test_undecided_load_is_left_to_clearing(store: EmbeddedStore, tmp_path: Path, counter: Counter) -> None:
    channel = await start(store, tmp_path)
    channel.point, channel.returns = TearPoint.BEFORE_ANSWER, False
    loads, queue = counter.open()
    assert isinstance(await queued(loads, channel), Unknown)
    channel.returns = True
    await channel.reset()
    for _ in range(11):
        await load(channel, authoriser(store), 1)
    [ended] = await loads.settle(channel, order(1, Suite.SM4).card, PIN)
    assert isinstance(ended.outcome, Unknown) and ended.batch is None
    assert not queue.open_loads() and not queue.waiting()


async def test_pin_is_not_shown() -> None:
    assert PIN not in repr(VerifyPin(PIN))
    command = VerifyPin(PIN).apdu()
    assert repr(command.data) not in repr(command)
    with pytest.raises(FormatError) as error:
        replace(command, p1=256).encode()
    assert repr(command.data) not in str(error.value)
    assert PIN not in repr(LoadOrder(TILL, 1, 1, 100, PIN))


@pytest.mark.parametrize("sw", ["6985", "6700", "6D00", "6F00"])
async def test_what_was_announced_and_is_lost_was_done_all_the_same(sw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T=0: the card has said 61xx, so it debited; an error to GET RESPONSE cannot deny it."""
    answers = iter((b"\x61\x08", bytes.fromhex(sw)))
    monkeypatch.setattr(scard, "transmit", lambda *_: next(answers))
    connection = Connection("a reader")
    connection._handle = 1
    assert connection.script([DebitPurchase(1, bytes(4), bytes(3), bytes(4)).apdu()]) == Replies((), torn=True)
