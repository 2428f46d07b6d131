"""Unloads at the counter: paid for a MAC3 that was checked and for nothing else; every cut and every recovery."""

import pickle
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import UnloadAuthority, UnloadGrant, UnloadRequest
from cardcore.commands.security import WrongPinError
from cardcore.errors import CardError, KeyUseError, ReaderError, RefusedError
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Suite
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.budget import Budget, OutOfTime
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.purse import Till
from readers.pcsc.unload import Unload, settle, unload
from simulators.card_line import Line
from simulators.card_os import PurseState, SoftwareCard
from simulators.nvm import TearPoint
from tests.counter_side import PIN, authoriser, issued, make_store, unloader

TILL = Till(130001, b"\0\0" + (130001).to_bytes(4, "big"), "301")
SUITES = (Suite.TRIPLE_DES, Suite.SM4)
LOADED_FEN, TAKEN_FEN = 5000, 1250
DEBIT_UNLOAD = 0x54
ANSWER_BYTES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


class Fragile(DirectChannel):
    """Loses its power once: after so many writes, or bytes sent, of DEBIT FOR UNLOAD; after that, after so many bytes
    sent by the recovery. `gone`: it is not put back. `written`: the writes to its memory that the last debit was."""

    def __init__(
        self,
        card: SoftwareCard,
        writes: int | None = None,
        octets: int | None = None,
        later_octets: int | None = None,
        gone: bool = False,
    ) -> None:
        self.card, self.line = card, Line(card)
        super().__init__(self.line)
        self.writes, self.octets, self.later_octets, self.gone = writes, octets, later_octets, gone
        self.torn = False
        self.written = 0

    async def reset(self) -> bytes:
        if self.torn and self.gone:
            raise ReaderError("no card answers in the reader")
        self.card.cut_after(None)
        self.line.cut_after(self.later_octets if self.torn else None)
        self.later_octets = None if self.torn else self.later_octets
        return await super().reset()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[-1].ins == DEBIT_UNLOAD and not self.torn and (self.writes, self.octets) != (None, None):
            self.torn = True
            self.card.cut_after(self.writes)
            self.line.cut_after(self.octets)
        before = self.card.memory.written
        replies = await super().run(commands, deadline_s)
        self.written = self.card.memory.written - before if commands[-1].ins == DEBIT_UNLOAD else self.written
        return replies


@dataclass
class Desk:
    """The unload authority, with what it was asked, and faults in its place: `change` bends its grants, `down` makes it
    not answer about the next MAC3."""

    real: UnloadAuthority
    change: Callable[[UnloadGrant], UnloadGrant] = lambda grant: grant
    down: int = 0
    asked: list[UnloadRequest] = field(default_factory=list)
    paid: dict[str, int] = field(default_factory=dict)

    async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
        self.asked.append(request)
        return self.change(await self.real.authorise_unload(request))

    async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        if self.down:
            self.down -= 1
            raise KeyUseError("the desk does not answer")
        await self.real.confirm_unload(request, grant, mac3)

    def pay(self, done: Unload) -> None:
        """Once for each unload, as whoever pays has to see to."""
        if done.payable:
            self.paid[done.grant.unload_id] = done.request.amount_fen


_cards: dict[Suite, bytes] = {}


async def loaded(store: EmbeddedStore, folder: Path, suite: Suite = Suite.SM4) -> SoftwareCard:
    """A card with 50.00 yuan; each call gives one of its own, all with one serial."""
    if suite not in _cards:
        card = await issued(store, folder, 1, suite)
        channel = DirectChannel(card)
        await channel.reset()
        done = await purse.load(channel, authoriser(store), TILL, 1, suite, LOADED_FEN, PIN)
        assert isinstance(done.outcome, Committed)
        card.power_off()
        _cards[suite] = pickle.dumps(card)
    fresh: SoftwareCard = pickle.loads(_cards[suite])  # noqa: S301 - ours
    return fresh


async def take(channel: DirectChannel, desk: UnloadAuthority, suite: Suite = Suite.SM4, pin: str = PIN) -> Unload:
    await channel.reset()
    return await unload(channel, desk, TILL, 1, suite, TAKEN_FEN, pin)


def value(card: SoftwareCard) -> int:
    return card.purses()[1].balance_fen


@pytest.mark.parametrize("suite", SUITES)
async def test_committed(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    card, desk = await loaded(store, tmp_path, suite), Desk(unloader(store))
    for times in (1, 2, 3, 4):
        done = await take(DirectChannel(card), desk, suite)
        assert isinstance(done.outcome, Committed) and done.outcome.mac is not None and done.payable
        desk.pay(done)
        assert value(card) == LOADED_FEN - times * TAKEN_FEN
        assert await settle(DirectChannel(card), desk, done, PIN) == done, "what is decided stays as it is"
    assert len(desk.paid) == 4 and sum(desk.paid.values()) == LOADED_FEN and value(card) == 0
    with pytest.raises(CardError, match="9401"):
        await take(DirectChannel(card), desk, suite)
    assert len(desk.asked) == 4, "the allowance is not the holder's, and nobody was asked"


async def test_wrong_pin(store: EmbeddedStore, tmp_path: Path) -> None:
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    with pytest.raises(WrongPinError):
        await take(DirectChannel(card), desk, pin="654321")
    assert not desk.asked and value(card) == LOADED_FEN


async def test_refused_by_the_desk(store: EmbeddedStore, tmp_path: Path) -> None:
    """A card of another issuer's keys has another MAC1."""
    foreign = make_store(tmp_path / "foreign", seed=8)
    card, desk = await issued(foreign, tmp_path, 1), Desk(unloader(store))
    channel = DirectChannel(card)
    await channel.reset()
    await purse.load(channel, authoriser(foreign), TILL, 1, Suite.SM4, LOADED_FEN, PIN)
    with pytest.raises(RefusedError, match="MAC1"):
        await take(channel, desk)
    assert value(card) == LOADED_FEN


async def test_wrong_mac2(store: EmbeddedStore, tmp_path: Path) -> None:
    card = await loaded(store, tmp_path)
    desk = Desk(unloader(store), change=lambda grant: replace(grant, mac2=bytes(4)))
    done = await take(DirectChannel(card), desk)
    assert isinstance(done.outcome, Refused) and done.outcome.sw == 0x9302 and not done.payable
    assert value(card) == LOADED_FEN


class Lying(DirectChannel):
    """Answers DEBIT FOR UNLOAD, or the proof too, with a MAC of its own; `moves`: the value leaves the card all the
    same."""

    def __init__(self, card: SoftwareCard, moves: bool, proof_too: bool) -> None:
        super().__init__(card)
        self._moves, self._proof_too = moves, proof_too

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        if commands[-1].ins == DEBIT_UNLOAD:
            if self._moves:
                await super().run(commands, deadline_s)
            return Replies((ResponseApdu(b"\xaa" * 4, 0x9000),))
        replies = await super().run(commands, deadline_s)
        if commands[-1].ins == 0x5A and self._proof_too:
            return Replies((ResponseApdu(b"\xaa" * 4 + bytes(4), 0x9000),))
        return replies


@pytest.mark.parametrize(
    ("moves", "proof_too", "ending", "payable"),
    [(False, False, Refused, False), (False, True, Refused, False), (True, False, Committed, True),
     (True, True, Unknown, False)],
)  # fmt: skip
async def test_a_wrong_mac3_pays_nothing(
    store: EmbeddedStore, tmp_path: Path, moves: bool, proof_too: bool, ending: type, payable: bool
) -> None:
    """9000 alone is worth nothing: a card that says it and keeps its value gets no money."""
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    lying = Lying(card, moves, proof_too)
    done = await take(lying, desk)
    assert isinstance(done.outcome, ending) and done.payable is payable
    if ending is Unknown:
        assert done.confirmed is False
        done = await settle(DirectChannel(card), desk, done, PIN)
        assert done.payable, "the card's true proof, at its next tap"
    assert value(card) + done.payable * TAKEN_FEN == LOADED_FEN


async def test_a_desk_that_does_not_confirm(store: EmbeddedStore, tmp_path: Path) -> None:
    """The value has left the card, and nothing is paid until the desk has seen the MAC3; the card is not needed."""
    card, desk = await loaded(store, tmp_path), Desk(unloader(store), down=2)
    done = await take(DirectChannel(card), desk)
    assert isinstance(done.outcome, Committed) and done.confirmed is None and not done.payable
    card.power_off()
    nobody = Fragile(card, gone=True)
    nobody.torn = True
    done = await settle(nobody, desk, done, PIN)
    assert not done.payable, "down once more"
    done = await settle(nobody, desk, done, PIN)
    assert done.payable and value(card) == LOADED_FEN - TAKEN_FEN


class Ticking:
    """A clock that stands still until it is told to leap."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("late_at", "ending", "step"),
    [
        (0x50, None, "the desk's answer"),
        ("grant", Refused, "DEBIT FOR UNLOAD"),
        (DEBIT_UNLOAD, Committed, "the desk's word on MAC3"),
    ],
    ids=["before the grant", "before the debit", "after the debit"],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::RuntimeWarning")
async def test_out_of_time(
    store: EmbeddedStore, tmp_path: Path, late_at: int | str, ending: type | None, step: str
) -> None:
    card, clock, real = await loaded(store, tmp_path), Ticking(), unloader(store)

    class Slow(DirectChannel):
        async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
            replies = await super().run(commands, deadline_s)
            clock.now += 100 * (commands[-1].ins == late_at)
            return replies

    class SlowDesk(Desk):
        async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
            clock.now += 100 * (late_at == "grant")
            return await super().authorise_unload(request)

    channel, desk = Slow(card), SlowDesk(real)
    await channel.reset()
    flow = unload(channel, desk, TILL, 1, Suite.SM4, TAKEN_FEN, PIN, Budget(60, clock))
    if ending is None:
        with pytest.raises(OutOfTime, match=step):
            await flow
        assert not desk.asked and value(card) == LOADED_FEN
        return
    done = await flow
    assert isinstance(done.outcome, ending) and done.ran_out_at == step and not done.payable
    done = await settle(channel, desk, done, PIN)
    assert done.payable is (ending is Committed) and done.ran_out_at == ""
    assert value(card) + done.payable * TAKEN_FEN == LOADED_FEN


# --- every cut, every recovery -----------------------------------------------------------------------------------


async def conserved(
    store: EmbeddedStore, make: Callable[[], Awaitable[Fragile]], suite: Suite
) -> tuple[Unload, list[Unload]]:
    """One unload that is cut, and then settled until it is decided: value on the card and money paid are what was."""
    channel, desk = await make(), Desk(unloader(store))
    first = done = await take(channel, desk, suite)
    desk.pay(done)
    later = []
    for _ in range(3):
        if not isinstance(done.outcome, Unknown):
            break
        assert not done.payable and not desk.paid, "nothing is paid while it is open"
        channel.gone = False
        done = await settle(channel, desk, done, PIN)
        desk.pay(done)
        later.append(done)
    channel.gone, channel.later_octets = False, None
    await channel.reset()
    assert isinstance(done.outcome, Committed | Refused), "the card decides it"
    moved = value(channel.card) != LOADED_FEN
    assert isinstance(done.outcome, Committed) is moved is done.payable
    assert value(channel.card) + sum(desk.paid.values()) == LOADED_FEN, "not a fen is lost or made"
    desk.pay(await settle(channel, desk, done, PIN))
    assert sum(desk.paid.values()) == TAKEN_FEN * moved, "and it is paid once"
    return first, later


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("gone", [False, True], ids=["put back", "next tap"])
async def test_every_write(store: EmbeddedStore, tmp_path: Path, suite: Suite, gone: bool) -> None:
    uncut, ends = Fragile(await loaded(store, tmp_path, suite)), []
    assert (await take(uncut, Desk(unloader(store)), suite)).payable
    for done in range(uncut.written + 1):
        card = await loaded(store, tmp_path, suite)

        async def make(card: SoftwareCard = card, done: int = done) -> Fragile:
            return Fragile(card, writes=done, gone=gone)

        first, later = await conserved(store, make, suite)
        assert isinstance(first.outcome, Unknown) is gone, "the cut came"
        ends.append(isinstance((later or [first])[-1].outcome, Committed))
    assert ends == sorted(ends) and set(ends) == {False, True}, "from the marker on it is done"


@pytest.mark.parametrize("suite", SUITES)
async def test_every_byte_of_the_answer(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    for gone in (False, True):
        for octets in range(ANSWER_BYTES + 1):
            card = await loaded(store, tmp_path, suite)

            async def make(card: SoftwareCard = card, octets: int = octets, gone: bool = gone) -> Fragile:
                return Fragile(card, octets=octets, gone=gone)

            first, later = await conserved(store, make, suite)
            whole = octets == ANSWER_BYTES
            assert isinstance(first.outcome, Unknown) is (gone and not whole)
            assert isinstance((later or [first])[-1].outcome, Committed), "the card had decided before it answered"


@pytest.mark.parametrize("point", [0, 3, ANSWER_BYTES - 1], ids=["unheard", "committed", "answering"])
async def test_every_byte_of_the_recovery(store: EmbeddedStore, tmp_path: Path, point: int) -> None:
    """The card leaves a second time, after any byte that it answers to the recovery."""
    opens = 0
    for later in range(2000):
        card = await loaded(store, tmp_path)

        async def make(card: SoftwareCard = card, later: int = later) -> Fragile:
            writes = 0 if point == 0 else None
            return Fragile(card, writes=writes, octets=None if point == 0 else point, later_octets=later)

        first, _ = await conserved(store, make, Suite.SM4)
        if not isinstance(first.outcome, Unknown):
            break
        opens += 1
    assert 60 < opens < 1999, "as long as the card leaves before it has told enough, it is open"


async def test_another_unload_came_in_between(store: EmbeddedStore, tmp_path: Path) -> None:
    """The proof is then of another one, by its terminal's word and by its MAC3: this one never came."""
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    never = await take(Fragile(card, writes=0, gone=True), desk)
    assert isinstance(never.outcome, Unknown)
    other = replace(TILL, terminal=130002, terminal_number=b"\0\0" + (130002).to_bytes(4, "big"))
    channel = DirectChannel(card)
    await channel.reset()
    done = await unload(channel, desk, other, 1, Suite.SM4, 300, PIN)
    assert done.payable and done.request.counter == never.request.counter
    ended = await settle(channel, desk, never, PIN)
    assert isinstance(ended.outcome, Refused) and "another unload" in ended.outcome.reason and not ended.payable


@pytest.mark.parametrize("raw_fen", [900, 300], ids=["less than the amount", "in the allowance"])
async def test_a_holder_who_spent_it_in_between(store: EmbeddedStore, tmp_path: Path, raw_fen: int) -> None:
    """The counter is asked by a load: the purse, which no longer holds the amount, still tells that it never left."""
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    never = await take(Fragile(card, writes=0, gone=True), desk)
    df = next(df for df in card.mf.applications() if df.fid == 0x3F01)
    file: Any = df.files.value[0x0002]
    file.purse.value = file.purse.value._replace(raw_fen=raw_fen, offline=1)
    ended = await settle(DirectChannel(card), desk, never, PIN)
    assert isinstance(ended.outcome, Refused) and "still is" in ended.outcome.reason


async def test_the_log_alone_pays_nothing(store: EmbeddedStore, tmp_path: Path) -> None:
    """A load later the card has no proof any more; its log says that the value left, which is a case and no payment."""
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    done = await take(Fragile(card, octets=2, gone=True), desk)
    assert isinstance(done.outcome, Unknown)
    channel = DirectChannel(card)
    await channel.reset()
    await purse.load(channel, authoriser(store), TILL, 1, Suite.SM4, 100, PIN)
    ended = await settle(channel, desk, done, PIN)
    assert isinstance(ended.outcome, Committed) and ended.outcome.mac is None
    assert ended.confirmed is None and not ended.payable


async def test_another_card_settles_nothing(store: EmbeddedStore, tmp_path: Path) -> None:
    card, desk = await loaded(store, tmp_path), Desk(unloader(store))
    open_one = await take(Fragile(card, octets=0, gone=True), desk)
    stranger = DirectChannel(await issued(store, tmp_path, 2))
    assert isinstance((await settle(stranger, desk, open_one, PIN)).outcome, Unknown)
    assert isinstance((await settle(DirectChannel(card), desk, open_one, PIN)).outcome, Committed)
    assert card.purses()[1] == PurseState(LOADED_FEN - TAKEN_FEN, 0, 3)


async def test_torn_at_the_named_points(store: EmbeddedStore, tmp_path: Path) -> None:
    """The named points of the memory are among the cuts above."""
    for point in TearPoint:
        card, desk = await loaded(store, tmp_path), Desk(unloader(store))

        class Torn(DirectChannel):
            async def run(
                self,
                commands: Sequence[CommandApdu],
                deadline_s: float = DEADLINE_S,
                card: SoftwareCard = card,
                point: TearPoint = point,
            ) -> Replies:
                if commands[-1].ins == DEBIT_UNLOAD:
                    card.tear_next(point)
                return await super().run(commands, deadline_s)

        done = await take(Torn(card), desk)
        assert done.payable is (point is not TearPoint.BEFORE_MARKER)
        assert value(card) + done.payable * TAKEN_FEN == LOADED_FEN
