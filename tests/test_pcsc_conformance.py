"""What every channel does alike: one suite over the in-process channel, and over pcscd with T=0 and with T=1."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.authority import LoadGrant, LoadRequest, UnloadGrant, UnloadRequest
from cardcore.card_map import APPLICATIONS, MF, Sfi
from cardcore.commands import (
    CreateFile,
    GetBalance,
    GetChallenge,
    ReadBinary,
    ReadRecord,
    Select,
    UpdateBinary,
    VerifyPin,
)
from cardcore.commands.files import AppendRecord
from cardcore.commands.personalise import FileKind
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Suite
from keys.store import EmbeddedStore
from readers.pcsc import purse, recovery
from readers.pcsc.ask import identify
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.look import look
from readers.pcsc.personalise import Bench
from readers.pcsc.unload import settle, unload
from readers.pcsc.worker import ReaderChannel
from simulators.card_line import Protocol
from simulators.card_os import SoftwareCard
from simulators.chip import Chip
from simulators.nvm import TearPoint
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import Link
from tests.counter_side import NOW, PIN, authoriser, blank, issued, job, make_store, order, unloader
from tests.pcscd import POLL_S, insert_and_wait, start

KINDS = ("in process", "T=0", "T=1")
TILL = purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(8)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


# Readers in turn, so that nobody waits for the last card to be seen gone.
_turns = cycle(range(8))


class Spy:
    """Stands before a chip and notes the commands that reach it, GET RESPONSE aside."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.heard: list[bytes] = []

    def power_on(self) -> bytes:
        return self.chip.power_on()

    def power_off(self) -> None:
        self.chip.power_off()

    def transmit(self, apdu: bytes) -> bytes:
        self.heard.append(apdu)
        return self.chip.transmit(apdu)


@dataclass
class Rig:
    """A card and the channel to it; `put_back` brings a card back that was torn."""

    spy: Spy
    channel: Channel
    put_back: Callable[[], Awaitable[None]]


Place = Callable[[SoftwareCard], Awaitable[Rig]]


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Puts a card where the channel under test reaches it."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def in_process(card: SoftwareCard) -> Rig:
        spy = Spy(card)
        channel = DirectChannel(spy)
        await channel.reset()

        async def put_back() -> None: ...

        return Rig(spy, channel, put_back)

    async def in_reader(card: SoftwareCard) -> Rig:
        daemon: PrivatePcscd = request.getfixturevalue("daemon")
        turn = next(_turns)
        spy, channel = Spy(card), ReaderChannel(daemon.readers[turn])
        protocol: Protocol = "T=0" if request.param == "T=0" else "T=1"
        links: list[Link] = []

        async def put_in() -> None:
            links.append(await insert_and_wait(daemon.ports[turn], spy, channel, protocol))

        async def put_back() -> None:
            await asyncio.sleep(POLL_S)
            await put_in()

        async def end() -> None:
            await channel.aclose()
            for link in links:
                await link.remove()

        ends.append(end)
        await put_in()
        return Rig(spy, channel, put_back)

    yield in_process if request.param == "in process" else in_reader
    for end in ends:
        await end()


def _file(fid: int) -> CommandApdu:
    return CreateFile(fid, FileKind.BINARY, 200, 0xF0, 0xF0, protected=False).apdu()


async def test_script_in_order(place: Place) -> None:
    rig = await place(blank())
    rig.spy.heard.clear()
    content = bytes(range(200))
    records = CreateFile(0x0002, FileKind.VARIABLE, 40, 0xF0, 0xF0, protected=False, count=3).apdu()
    script = [
        Select(MF.aid).apdu(),
        _file(0x0001),
        UpdateBinary(1, content).apdu(),
        ReadBinary(1, 200).apdu(),
        records,
        AppendRecord(2, b"\x70\x01\x55").apdu(),
        ReadRecord(2, 1, 256).apdu(),
        GetChallenge(8).apdu(),
    ]
    replies = await rig.channel.run(script)
    assert not replies.torn and [answer.sw for answer in replies.answers] == [0x9000] * len(script)
    assert Select(MF.aid).read(replies.answers[0]).name == MF.aid
    assert replies.answers[3].data == content
    assert replies.answers[6].data == b"\x70\x01\x55"
    assert len(replies.answers[7].data) == 8
    assert [apdu[:4] for apdu in rig.spy.heard if apdu[1] != 0xC0] == [command.encode()[:4] for command in script]


async def test_wrong_length_is_corrected(place: Place) -> None:
    """An Le that does not fit is answered by 6Cxx over T=0 only; over any channel the record comes whole."""
    rig = await place(blank())
    create = CreateFile(0x0002, FileKind.VARIABLE, 40, 0xF0, 0xF0, protected=False, count=3).apdu()
    script = [create, AppendRecord(2, b"\x70\x03\x55\x66\x77").apdu(), ReadRecord(2, 1, 40).apdu()]
    replies = await rig.channel.run(script)
    assert replies.last().ok and replies.last().data == b"\x70\x03\x55\x66\x77"


async def test_stops_at_the_first_refusal(place: Place) -> None:
    rig = await place(blank())
    rig.spy.heard.clear()
    replies = await rig.channel.run([GetChallenge().apdu(), Select(APPLICATIONS[1].aid).apdu(), _file(0x0001)])
    assert not replies.torn and [answer.sw for answer in replies.answers] == [0x9000, 0x6A82]
    assert all(apdu[1] != 0xE0 for apdu in rig.spy.heard), "what came after was not sent"
    assert (await rig.channel.run([_file(0x0001)])).last().ok


@pytest.mark.parametrize("point", TearPoint)
async def test_torn_in_the_middle_of_a_command(place: Place, point: TearPoint) -> None:
    card = blank()
    rig = await place(card)
    assert (await rig.channel.run([_file(0x0001)])).last().ok
    card.tear_next(point)
    replies = await rig.channel.run([GetChallenge().apdu(), _file(0x0002), GetChallenge().apdu()])
    assert replies.torn and [answer.sw for answer in replies.answers] == [0x9000]
    with pytest.raises(CardTorn, match="put the same card back"):
        replies.last()
    again = await rig.channel.run([GetChallenge().apdu()])
    assert again.torn and not again.answers, "after a tear nothing is sent before a reset"
    await rig.put_back()
    await rig.channel.reset()
    sw = (await rig.channel.run([ReadBinary(2, 1).apdu()])).last().sw
    assert sw == (0x6A82 if point is TearPoint.BEFORE_MARKER else 0x9000)


async def test_reset_forgets(place: Place, store: EmbeddedStore, tmp_path: Path) -> None:
    rig = await place(await issued(store, tmp_path))
    secret = [Select(APPLICATIONS[1].aid).apdu(), ReadBinary(Sfi.HOLDER, 55).apdu()]
    assert (await rig.channel.run(secret)).last().sw == 0x6982
    assert (await rig.channel.run([VerifyPin(PIN).apdu(), secret[1]])).last().ok
    atr = await rig.channel.reset()
    assert atr[0] == 0x3B
    assert (await rig.channel.run(secret)).last().sw == 0x6982, "the PIN is forgotten"


async def test_scripts_do_not_overlap(place: Place, store: EmbeddedStore, tmp_path: Path) -> None:
    rig = await place(await issued(store, tmp_path))
    whole = [Select(APPLICATIONS[1].aid).apdu(), GetBalance().apdu()]
    other = [Select(APPLICATIONS[2].aid).apdu(), GetBalance().apdu()]
    results = await asyncio.gather(*(rig.channel.run(other if at % 2 else whole) for at in range(20)))
    assert [result.last().sw for result in results] == [0x9000, 0x6A82] * 10


@pytest.mark.parametrize("suite", [Suite.TRIPLE_DES, Suite.SM4])
async def test_issue_and_load(place: Place, store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    """A card is issued, shown and loaded through any channel, and then is the same card."""
    card = blank(suite)
    rig = await place(card)
    journal = Journal(tmp_path / "readers.sqlite")
    assert (
        await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(job(rig.channel, 1, suite)) is None
    )
    view = await look(rig.channel)
    assert view.common == order(1, suite).common and view.applications == (1, 2, 4, 5)
    done = await purse.load(rig.channel, authoriser(store), TILL, 1, suite, 1234, PIN)
    assert isinstance(done.outcome, Committed)
    view = await look(rig.channel)
    [shown] = view.purses
    assert (shown.value_fen, shown.suite, shown.log[0].amount_fen) == (1234, suite, 1234)
    assert card.purses()[1].balance_fen == 1234
    assert look_equal(view, await look(DirectChannel(card)))
    journal.close()


def look_equal(one: object, other: object) -> bool:
    """Equal but for the ATR, which belongs to the protocol."""
    return {name: getattr(one, name) for name in _SHOWN} == {name: getattr(other, name) for name in _SHOWN}


_SHOWN = ("remark", "common", "city", "applications", "blocked", "purses")


@pytest.mark.parametrize(
    ("point", "ending"), [(TearPoint.BEFORE_MARKER, Refused), (TearPoint.BEFORE_ANSWER, Committed)]
)
async def test_torn_load_is_recovered(
    place: Place, store: EmbeddedStore, tmp_path: Path, point: TearPoint, ending: type
) -> None:
    card = await issued(store, tmp_path)
    rig = await place(card)
    identity = await identify(rig.channel, 1, Suite.SM4)

    class Tearing:
        async def authorise_load(self, request: LoadRequest) -> LoadGrant:
            card.tear_next(point)
            return await authoriser(store).authorise_load(request)

    done = await purse.load(rig.channel, Tearing(), TILL, 1, Suite.SM4, 700, PIN)
    outcome = done.outcome
    if isinstance(outcome, Unknown):
        await rig.put_back()
        outcome = await recovery.recover_load(rig.channel, outcome.evidence, 1, done.key_index, PIN, identity.card)
    assert isinstance(outcome, ending)
    assert card.purses()[1].balance_fen == (700 if ending is Committed else 0)


@pytest.mark.parametrize(
    ("point", "ending"),
    [(None, Committed), (TearPoint.BEFORE_MARKER, Refused), (TearPoint.BEFORE_ANSWER, Committed)],
    ids=["untorn", "torn before", "torn after"],
)
async def test_unload(
    place: Place, store: EmbeddedStore, tmp_path: Path, point: TearPoint | None, ending: type
) -> None:
    """Value leaves the card once, and is paid for the MAC3 that the desk has checked, whatever way the card is on."""
    card = await issued(store, tmp_path)
    rig = await place(card)
    assert isinstance(
        (await purse.load(rig.channel, authoriser(store), TILL, 1, Suite.SM4, 700, PIN)).outcome, Committed
    )
    real = unloader(store)

    class Tearing:
        async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
            card.tear_next(point)
            return await real.authorise_unload(request)

        async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
            await real.confirm_unload(request, grant, mac3)

    await rig.channel.reset()
    done = await unload(rig.channel, Tearing(), TILL, 1, Suite.SM4, 500, PIN)
    if isinstance(done.outcome, Unknown):
        assert not done.payable
        await rig.put_back()
        done = await settle(rig.channel, real, done, PIN)
    assert isinstance(done.outcome, ending) and done.payable is (ending is Committed)
    assert card.purses()[1].balance_fen + 500 * done.payable == 700
