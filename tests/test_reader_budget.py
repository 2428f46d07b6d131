"""One deadline over a whole flow, and what a foreign reset does to it: on a real pcscd, and with a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
import smartcard.scard as raw

from cardcore.apdu import CommandApdu
from cardcore.authority import LoadAuthority, LoadGrant, LoadRequest
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Suite
from keys.store import EmbeddedStore
from readers.pcsc import purse, scard
from readers.pcsc.anew import anew
from readers.pcsc.budget import Budget, OutOfTime
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.look import look
from readers.pcsc.personalise import Bench
from readers.pcsc.recovery import find_out
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import PurseState, SoftwareCard
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import Link
from tests.counter_side import NOW, PIN, authoriser, blank, issued, job, make_store
from tests.pcscd import POLL_S, SlowLink, insert_and_wait, insert_slow, start, take, until_reset
from tests.reader_soak import soak

READERS = 8
TILL = purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")
CREDIT = 0x52


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(READERS)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


_turns = cycle(range(READERS))


@dataclass
class Place:
    """One reader, and the card in it."""

    port: int
    channel: ReaderChannel
    links: list[Link]

    async def put(self, card: SoftwareCard, delay_s: float | None = 0.0) -> SlowLink:
        link = await insert_slow(self.port, card, delay_s)
        self.links.append(link)
        await until_reset(self.channel)
        return link


@pytest.fixture
async def place(daemon: PrivatePcscd) -> AsyncIterator[Place]:
    turn = next(_turns)
    place = Place(daemon.ports[turn], ReaderChannel(daemon.readers[turn]), [])
    yield place
    for link in place.links:
        await link.remove()
    await place.channel.aclose()


@dataclass
class Desk:
    """The load authority; `delay_s` is how long it thinks, `granted` what it gave."""

    real: LoadAuthority
    delay_s: float = 0.0
    granted: int = 0

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        await asyncio.sleep(self.delay_s)
        self.granted += 1
        return await self.real.authorise_load(request)


async def load(channel: object, desk: Desk, budget: Budget | None = None) -> purse.Load:
    return await purse.load(channel, desk, TILL, 1, Suite.SM4, 700, PIN, budget)  # type: ignore[arg-type]


async def test_a_slow_card(place: Place, store: EmbeddedStore, tmp_path: Path) -> None:
    """0.15 s a command: the whole takes more than the half second, though no command takes longer than its own."""
    card, desk = await issued(store, tmp_path), Desk(authoriser(store))
    await place.put(card, 0.15)
    with pytest.raises(OutOfTime, match="time ran out at") as late:
        await load(place.channel, desk, Budget(0.4))
    assert late.value.step in ("VERIFY PIN", "INITIALIZE FOR LOAD")
    assert not desk.granted and card.purses()[1] == PurseState(0, 0, 1)
    await place.channel.reset()
    assert isinstance((await load(place.channel, desk, Budget(5))).outcome, Committed)


async def test_a_slow_desk(place: Place, store: EmbeddedStore, tmp_path: Path) -> None:
    card, desk = await issued(store, tmp_path), Desk(authoriser(store), delay_s=5)
    await place.put(card)
    began = asyncio.get_running_loop().time()
    with pytest.raises(OutOfTime, match=r"the desk's answer: the whole takes longer than the 0\.3 s"):
        await load(place.channel, desk, Budget(0.3))
    assert asyncio.get_running_loop().time() - began < 1
    assert card.purses()[1] == PurseState(0, 0, 1)


async def test_no_time_left_after_the_grant(store: EmbeddedStore, tmp_path: Path) -> None:
    """The card hears nothing of it, so that it is refused, not in doubt."""
    card, now = await issued(store, tmp_path), 0.0

    class Late(Desk):
        async def authorise_load(self, request: LoadRequest) -> LoadGrant:
            nonlocal now
            grant = await super().authorise_load(request)
            now = 100.0
            return grant

    channel = DirectChannel(card)
    await channel.reset()
    done = await load(channel, Late(authoriser(store)), Budget(60, clock=lambda: now))
    assert isinstance(done.outcome, Refused) and "heard nothing" in done.outcome.reason
    assert done.ran_out_at == "CREDIT FOR LOAD"
    assert card.purses()[1] == PurseState(0, 0, 1)


@pytest.mark.parametrize("heard", [False, True])
async def test_a_card_that_hangs_at_the_credit(place: Place, store: EmbeddedStore, tmp_path: Path, heard: bool) -> None:
    """Unknown, and the step is named; the next tap of the card tells how it ended."""
    card = await issued(store, tmp_path)
    link = await place.put(card)

    class Hanging(Desk):
        async def authorise_load(self, request: LoadRequest) -> LoadGrant:
            link.delay_s = 0.6 if heard else None
            return await super().authorise_load(request)

    done = await load(place.channel, Hanging(authoriser(store)), Budget(0.4))
    assert isinstance(done.outcome, Unknown)
    assert done.ran_out_at == "CREDIT FOR LOAD"
    # A card that is only slow has done it by now.
    await asyncio.sleep(0.4)
    await take(link, place.channel.reader)
    await place.put(card)
    found = await find_out(place.channel, done.outcome.evidence, 1, done.key_index, PIN, done.identity.card)
    assert isinstance(found, Committed if heard else Refused)
    assert card.purses()[1].balance_fen == (700 if heard else 0)


async def test_the_budget_is_one_for_all_steps() -> None:
    now = 0.0
    budget = Budget(10, clock=lambda: now)
    assert budget.left_s() == 10
    with budget.at("first"):
        now = 4.0
        assert budget.left_s() == 6
    assert await budget.wait("second", asyncio.sleep(0, "answer")) == "answer"
    now = 10.0
    with pytest.raises(OutOfTime, match="third"), budget.at("third"):
        budget.left_s()
    assert budget.ran_out_at == "third"


# --- another program resets the card -----------------------------------------------------------------------------


class Disturbed(DirectChannel):
    """Another program resets the card before the hops of these numbers; nothing of such a hop is sent."""

    def __init__(self, card: SoftwareCard, hops: Sequence[int]) -> None:
        super().__init__(card)
        self._chip, self._hops, self._hop = card, set(hops), 0

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        self._hop += 1
        if self._hop in self._hops:
            self._chip.power_on()
            raise scard.ForeignReset
        return await super().run(commands, deadline_s)


@pytest.mark.parametrize("hops", [[n] for n in range(1, 50, 7)] + [[3, 9, 30, 41]])
async def test_personalisation_goes_on_after_a_foreign_reset(
    store: EmbeddedStore, tmp_path: Path, hops: list[int]
) -> None:
    card, journal = blank(), Journal(tmp_path / "readers.sqlite")
    bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
    assert await bench.personalise(job(Disturbed(card, hops))) is None
    assert journal.stock()[Progress.ISSUED] == 1
    assert card.purses() == {1: PurseState(0, 0, 1)}
    assert await look(DirectChannel(card)) == await look(Disturbed(card, [2, 5, 11]))
    journal.close()


@pytest.mark.parametrize("hop", range(1, 6))
async def test_load_and_a_foreign_reset(store: EmbeddedStore, tmp_path: Path, hop: int) -> None:
    """Before the grant it begins anew; after it, the card is asked: nothing came, so nothing is in doubt."""
    card = await issued(store, tmp_path)
    desk = Desk(authoriser(store))
    channel = Disturbed(card, [hop])
    await channel.reset()
    done = await load(channel, desk)
    assert desk.granted == 1
    balance = card.purses()[1].balance_fen
    assert (type(done.outcome), balance) == ((Refused, 0) if hop == 4 else (Committed, 700))


async def test_a_program_that_never_stops(store: EmbeddedStore, tmp_path: Path) -> None:
    channel = Disturbed(await issued(store, tmp_path), range(1, 100))
    with pytest.raises(scard.ForeignReset, match="another program reset the card"):
        await look(channel)
    times = 0

    async def flow() -> None:
        nonlocal times
        times += 1
        raise scard.ForeignReset

    with pytest.raises(scard.ForeignReset):
        await anew(channel, flow)
    assert times == 4, "bounded"


async def test_foreign_resets_on_the_real_stack(
    daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a driver lets others in: somebody resets the card all the time, and it is issued all the same."""
    monkeypatch.setattr(scard.load(), "SCARD_SHARE_EXCLUSIVE", raw.SCARD_SHARE_SHARED)
    turn = next(_turns)
    card, channel = blank(), ReaderChannel(daemon.readers[turn])
    link = await insert_and_wait(daemon.ports[turn], card, channel)
    _, context = raw.SCardEstablishContext(raw.SCARD_SCOPE_SYSTEM)
    protocols = raw.SCARD_PROTOCOL_T0 | raw.SCARD_PROTOCOL_T1
    code, handle, _ = await asyncio.to_thread(
        raw.SCardConnect, context, daemon.readers[turn], raw.SCARD_SHARE_SHARED, protocols
    )
    assert code == 0
    resets = 0

    async def disturb() -> None:
        nonlocal resets
        for _ in range(3):
            await asyncio.to_thread(raw.SCardReconnect, handle, raw.SCARD_SHARE_SHARED, protocols, raw.SCARD_RESET_CARD)
            resets += 1

    class Disturbing:
        """The personaliser; at some of its keys the other program strikes."""

        def __init__(self) -> None:
            self._real, self._asked = store.personaliser(), 0

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        async def write_key(self, *given: object) -> bytes:
            self._asked += 1
            if self._asked in (3, 25):
                await disturb()
            return await self._real.write_key(*given)  # type: ignore[arg-type]  # passed on as it came

    journal = Journal(tmp_path / "readers.sqlite")
    bench = Bench(Disturbing(), journal, "wang", lambda: NOW)  # type: ignore[arg-type]  # by __getattr__
    assert await bench.personalise(job(channel)) is None
    assert resets == 6 and card.purses() == {1: PurseState(0, 0, 1)}
    raw.SCardDisconnect(handle, raw.SCARD_LEAVE_CARD)
    raw.SCardReleaseContext(context)
    journal.close()
    await channel.aclose()
    await link.remove()


async def test_nothing_grows(daemon: PrivatePcscd) -> None:
    """The reduced soak: `python -m tests.reader_soak` does the whole numbers."""
    await asyncio.sleep(POLL_S)
    figures = await soak(daemon, taps=400, reconnects=100, restarts=1, reader=READERS - 1)
    assert figures.grew == []
    assert figures.taps_s < 20
