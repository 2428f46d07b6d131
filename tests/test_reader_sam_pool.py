"""SAM slots as a pool on a real pcscd: leases in order, deadlines, mute SAMs, a known state after every end; debits."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from cardcore.card_map import KeyType, key_id
from cardcore.commands import GetChallenge
from cardcore.commands.psam import CreditSam
from cardcore.errors import CardError, ReaderError
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Sector, Suite
from cardcore.script import PsamOrder, psam_steps
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.budget import Budget
from readers.pcsc.channel import ReaderQuarantined
from readers.pcsc.debit import Debit, Purchase, debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.recovery import find_debit
from readers.pcsc.sam_pool import LeaseEnded, NoSam, SamPool
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import SoftwareCard
from simulators.nvm import TearPoint
from simulators.pcscd import PrivatePcscd
from simulators.psam import SoftwarePsam
from simulators.vpcd import Link
from tests.counter_side import NOW, PIN, authoriser, issued, make_store
from tests.pcscd import POLL_S, insert_and_wait, insert_slow, start, until_reset

READERS = 8
SLOTS = 2
TERMINAL_NUMBER = bytes.fromhex("791001000001")
DATE, TIME = bytes.fromhex("20260301"), bytes.fromhex("091500")
CHALLENGE = GetChallenge(8).apdu()


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(READERS)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


async def psam(store: EmbeddedStore, folder: Path, number: int) -> SoftwarePsam:
    """A PSAM of the transit sector with that number."""
    chip = SoftwarePsam.blank("sm4", rng=random.Random(number))
    terminal = TERMINAL_NUMBER[:5] + bytes((number,))
    made = PsamOrder(terminal_number=terminal, serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4)
    journal = Journal(folder / f"psam-{number}.sqlite")
    bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
    assert await bench.personalise(Job(made.identity, "psam", psam_steps(made), DirectChannel(chip))) is None
    journal.close()
    return chip


@dataclass
class Rack:
    """A pool of two slots on the real stack."""

    pool: SamPool
    names: list[str]
    ports: list[int]
    chips: list[SoftwarePsam]
    channels: list[ReaderChannel]
    links: list[Link]


_turns = cycle(range(0, READERS, SLOTS))


@pytest.fixture
async def rack(daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Rack]:
    # The readers take turns, so that nobody waits for the last SAM to be seen gone.
    first = next(_turns)
    places = range(first, first + SLOTS)
    names, ports = [daemon.readers[at] for at in places], [daemon.ports[at] for at in places]
    rack = Rack(SamPool(), names, ports, [], [ReaderChannel(name) for name in names], [])
    for at, (port, channel) in enumerate(zip(ports, rack.channels, strict=True)):
        rack.chips.append(await psam(store, tmp_path, at + 1))
        rack.links.append(await insert_and_wait(port, rack.chips[at], channel))
        await rack.pool.put_in(names[at], channel)
    yield rack
    await rack.pool.aclose()
    for link in rack.links:
        await link.remove()
    for channel in rack.channels:
        await channel.aclose()


async def charged(store: EmbeddedStore, folder: Path, number: int = 1) -> SoftwareCard:
    """A card with 100 yuan."""
    card = await issued(store, folder, number)
    till = purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")
    done = await purse.load(DirectChannel(card), authoriser(store), till, 1, Suite.SM4, 10_000, PIN)
    assert isinstance(done.outcome, Committed)
    return card


def wanted(chip: SoftwarePsam, fen: int = 200) -> Purchase:
    index = key_id(KeyType.PURCHASE, Suite.SM4, Sector.TRANSIT)
    return Purchase(fen, 1, Suite.SM4, index, chip.terminal_number, DATE, TIME)


async def pay(rack: Rack, card: DirectChannel, fen: int = 200, budget: Budget | None = None) -> Debit:
    async with rack.pool.lease() as sam:
        return await debit(card, sam, wanted(rack.chips[rack.names.index(sam.slot)], fen), budget)


async def test_debit(rack: Rack, store: EmbeddedStore, tmp_path: Path) -> None:
    card = await charged(store, tmp_path)
    for times in (1, 2, 3):
        done = await pay(rack, DirectChannel(card))
        assert isinstance(done.outcome, Committed) and done.genuine and done.outcome.tac is not None
        assert card.purses()[1].balance_fen == 10_000 - 200 * times
    with pytest.raises(CardError, match="9401"):
        await pay(rack, DirectChannel(card), 9_999_999)
    assert sum(chip.next_transaction - 1 for chip in rack.chips) == 3, "a refused opening asks no SAM"


async def test_many_tills_share_two_sams(rack: Rack, store: EmbeddedStore, tmp_path: Path) -> None:
    """Every debit keeps its 8070 and 8072 together: the PSAM takes the MAC2 of each."""
    cards = [await charged(store, tmp_path, number) for number in range(1, 7)]

    async def till(card: SoftwareCard) -> list[Debit]:
        return [await pay(rack, DirectChannel(card)) for _ in range(5)]

    for done in await asyncio.gather(*map(till, cards)):
        assert all(isinstance(debit.outcome, Committed) and debit.genuine for debit in done)
    assert all(card.purses()[1].balance_fen == 9_000 for card in cards)
    assert sum(chip.next_transaction - 1 for chip in rack.chips) == 30
    assert min(chip.next_transaction for chip in rack.chips) > 8, "both were used"


@pytest.mark.parametrize(
    ("point", "ending", "fen"),
    [(TearPoint.BEFORE_MARKER, Refused, 10_000), (TearPoint.BEFORE_ANSWER, Committed, 9_800)],
)
async def test_torn_debit_is_recovered_at_once(
    rack: Rack, store: EmbeddedStore, tmp_path: Path, point: TearPoint, ending: type, fen: int
) -> None:
    card = await charged(store, tmp_path)
    done = await pay(rack, _Torn(card, point))
    assert isinstance(done.outcome, ending)
    assert done.genuine is (True if ending is Committed else None), "the proof's MAC2 is good for the SAM"
    assert card.purses()[1].balance_fen == fen


async def test_torn_debit_is_recovered_at_the_next_tap(rack: Rack, store: EmbeddedStore, tmp_path: Path) -> None:
    card = await charged(store, tmp_path)
    done = await pay(rack, _Torn(card, TearPoint.BEFORE_ANSWER, returns=False))
    assert isinstance(done.outcome, Unknown) and done.genuine is None
    other = await charged(store, tmp_path, 2)
    evidence, index = done.outcome.evidence, wanted(rack.chips[0]).key_index
    with pytest.raises(CardError, match="put that card"):
        await find_debit(DirectChannel(other), evidence, 1, index, done.identity.card)
    found = await find_debit(DirectChannel(card), evidence, 1, index, done.identity.card)
    assert isinstance(found, Committed) and found.tac is not None
    assert card.purses()[1].balance_fen == 9_800


class _Torn(DirectChannel):
    """A card that loses its power in DEBIT FOR PURCHASE."""

    def __init__(self, card: SoftwareCard, point: TearPoint, returns: bool = True) -> None:
        super().__init__(card)
        self._chip, self._point, self._returns = card, point, returns
        self._left = False

    async def reset(self) -> bytes:
        if self._left and not self._returns:
            raise ReaderError("the card is gone")
        return await super().reset()

    async def run(self, commands, deadline_s=10.0):  # type: ignore[no-untyped-def]  # as the channel's
        if commands[-1].ins == 0x54 and not self._left:
            self._chip.tear_next(self._point)
            self._left = True
        return await super().run(commands, deadline_s)


# --- leases ------------------------------------------------------------------------------------------------------


async def test_first_come_first_served(rack: Rack) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        async with rack.pool.lease() as sam:
            order.append(number)
            await sam.run([CHALLENGE] * 3)

    tasks = []
    for number in range(12):
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == sorted(order)


async def test_nobody_waits_for_ever(rack: Rack) -> None:
    async with rack.pool.lease(), rack.pool.lease():
        with pytest.raises(NoSam, match="no SAM was free"):
            async with rack.pool.lease(patience_s=0.1):
                pass
    async with rack.pool.lease(patience_s=1), rack.pool.lease(patience_s=1):
        pass


async def test_a_lease_ends_at_its_deadline(rack: Rack) -> None:
    async with rack.pool.lease():
        began = asyncio.get_running_loop().time()
        async with rack.pool.lease(lease_s=0.2) as kept:
            assert (await kept.run([CHALLENGE])).last().ok
            # The holder sits on it: the next one gets the slot all the same.
            async with rack.pool.lease(patience_s=2) as following:
                assert asyncio.get_running_loop().time() - began >= 0.19
                assert following.slot == kept.slot
                with pytest.raises(LeaseEnded, match="nothing was sent"):
                    await kept.run([CHALLENGE])
                with pytest.raises(LeaseEnded):
                    await kept.reset()
                assert (await following.run([CHALLENGE])).last().ok


@pytest.mark.parametrize("how", ["cancelled", "failed", "ended", "expired"])
async def test_given_back_in_a_known_state(rack: Rack, store: EmbeddedStore, tmp_path: Path, how: str) -> None:
    """A purchase that was opened in the SAM is gone, however its holder left it."""
    opened = asyncio.Event()
    card = await charged(store, tmp_path, 9)
    chips = dict(zip(rack.names, rack.chips, strict=True))

    async def hold() -> str:
        async with rack.pool.lease(lease_s=0.5 if how == "expired" else 5) as sam:
            torn = _Torn(card, TearPoint.BEFORE_MARKER, returns=False)
            assert isinstance((await debit(torn, sam, wanted(chips[sam.slot]))).outcome, Unknown)
            assert chips[sam.slot].purchase is not None
            opened.set()
            if how == "failed":
                raise ValueError(sam.slot)
            if how != "ended":
                await asyncio.sleep(3 if how == "cancelled" else 0.6)
            return sam.slot

    async with rack.pool.lease() as busy:
        holding = asyncio.create_task(hold())
        await asyncio.wait([holding, asyncio.create_task(opened.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not opened.is_set():
            await holding
        if how == "cancelled":
            holding.cancel()
        async with rack.pool.lease(patience_s=2) as sam:
            assert sam.slot != busy.slot
            assert chips[sam.slot].purchase is None
            with pytest.raises(CardError, match="CREDIT SAM FOR PURCHASE: 6901"):
                CreditSam(bytes(4)).read((await sam.run([CreditSam(bytes(4)).apdu()])).last())
        await asyncio.gather(holding, return_exceptions=True)
    assert not rack.pool.out


async def test_cancelled_in_the_middle_of_an_exchange(daemon: PrivatePcscd, rack: Rack) -> None:
    async with rack.pool.lease() as other:
        slot = 1 - rack.names.index(other.slot)
        await rack.links[slot].remove()
        await asyncio.sleep(POLL_S)
        slow = await insert_slow(rack.ports[slot], rack.chips[slot], 0.1)
        rack.links[slot] = slow
        await until_reset(rack.channels[slot])

        async def hold() -> None:
            async with rack.pool.lease() as sam:
                await sam.run([CHALLENGE] * 20)

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0.15)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        async with rack.pool.lease(patience_s=5) as sam:
            assert len((await sam.run([GetChallenge(4).apdu()])).last().data) == 4, "its own answer"
    assert not rack.pool.out


async def test_a_mute_sam_leaves_the_pool(rack: Rack) -> None:
    """With the reason said; the other one goes on; put back, it serves again."""
    await rack.links[0].remove()
    await asyncio.sleep(POLL_S)
    rack.links[0] = await insert_slow(rack.ports[0], rack.chips[0], None)
    mute, healthy = rack.names
    await until_reset(rack.channels[0])
    seen = set()
    for _ in range(4):
        try:
            async with rack.pool.lease(lease_s=0.3) as sam:
                await sam.run([CHALLENGE])
                seen.add(sam.slot)
        except ReaderQuarantined:
            assert sam.slot == mute
    assert seen == {healthy}
    async with asyncio.timeout(5):
        while not rack.pool.out:  # noqa: ASYNC110 - a pool rings no bell
            await asyncio.sleep(0.05)
    assert list(rack.pool.out) == [mute] and "did not answer within" in rack.pool.out[mute]
    await rack.links[0].remove()
    await asyncio.sleep(POLL_S)
    rack.links[0] = await insert_and_wait(rack.ports[0], rack.chips[0], rack.channels[0])
    await rack.pool.put_in(mute, rack.channels[0])
    assert not rack.pool.out
    async with rack.pool.lease() as one, rack.pool.lease() as two:
        assert {one.slot, two.slot} == {mute, healthy}


async def test_without_any_sam(rack: Rack) -> None:
    """Those who wait are told at once why there is none."""
    async with rack.pool.lease() as one, rack.pool.lease():
        waiting = asyncio.create_task(_lease(rack.pool))
        await asyncio.sleep(0.05)
        for link in rack.links:
            await link.remove()
        assert (await one.run([CHALLENGE])).torn
    with pytest.raises(NoSam, match="no SAM in use"):
        await waiting
    assert set(rack.pool.out) == set(rack.names)
    assert all("no card answers" in reason for reason in rack.pool.out.values())
    with pytest.raises(NoSam, match="put a SAM back"):
        await _lease(rack.pool)
    with pytest.raises(ReaderError):
        await rack.pool.put_in(rack.names[0], rack.channels[0])


async def _lease(pool: SamPool) -> str:
    async with pool.lease() as sam:
        return sam.slot


async def test_an_empty_pool() -> None:
    with pytest.raises(NoSam, match="no slot was put in"):
        await _lease(SamPool())
