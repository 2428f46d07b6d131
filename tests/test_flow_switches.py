"""Every switch of a profile decides in the flows of the readers: a chip of the other reading, and a flow told of it."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from cardcore.authority import BlockAct, BlockRequest
from cardcore.card_map import ALL_APPLICATIONS, KeyType, key_id
from cardcore.commands import ApplicationBlock, GetChallenge, Select
from cardcore.errors import CardError
from cardcore.purse import Committed, Refused
from cardcore.record import Sector, Suite
from cardcore.script import PsamOrder, psam_steps, steps
from cardcore.secure_messaging import MAC_BYTES
from cardcore.switches import BlockedSelect, LogCounter, PsamFactorOrder, Sm4SessionKey, Switches
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.ask import ask, common_data
from readers.pcsc.debit import Purchase, debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.look import look
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.recovery import find_debit
from readers.pcsc.unload import unload
from simulators.card_behaviour import STANDARD, Behaviour
from simulators.card_os import SoftwareCard
from simulators.nvm import TearPoint
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, PIN, SUITE_NAMES, authoriser, make_store, order, unloader
from tests.test_profile_switches import altered

TERMINAL_NUMBER = bytes.fromhex("791001000001")
DATE, TIME = bytes.fromhex("20260301"), bytes.fromhex("091500")
TILL = purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")
SUITES = (Suite.TRIPLE_DES, Suite.SM4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


async def personalised(store: EmbeddedStore, folder: Path, job: Job) -> None:
    with closing(Journal(folder / "journal.sqlite")) as journal:
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        assert await bench.personalise(job) is None


async def charged(
    store: EmbeddedStore, folder: Path, suite: Suite, behaviour: Behaviour = STANDARD, **switches: str
) -> SoftwareCard:
    """A card of this behaviour, made by a profile that says so, with 100 yuan."""
    card, made = SoftwareCard.blank(SUITE_NAMES[suite], rng=random.Random(1), behaviour=behaviour), order(1, suite)
    script = steps(altered(**switches), made)
    await personalised(store, folder, Job(made.identity, "altered", script, DirectChannel(card)))
    told = Switches(sm4_session_key=Sm4SessionKey(behaviour.sm4_session_key))
    done = await purse.load(DirectChannel(card), authoriser(store), TILL, 1, suite, 10_000, PIN, switches=told)
    assert isinstance(done.outcome, Committed)
    return card


async def psam(store: EmbeddedStore, folder: Path, suite: Suite, behaviour: Behaviour = STANDARD) -> SoftwarePsam:
    chip = SoftwarePsam.blank(SUITE_NAMES[suite], rng=random.Random(2), behaviour=behaviour)
    made = PsamOrder(terminal_number=TERMINAL_NUMBER, serial=bytes(10), sector=Sector.TRANSIT, suite=suite, gate=True)
    await personalised(store, folder, Job(made.identity, "psam", psam_steps(made), DirectChannel(chip)))
    return chip


def wanted(suite: Suite, fen: int = 200) -> Purchase:
    index = key_id(KeyType.PURCHASE, suite, Sector.TRANSIT)
    return Purchase(fen, 1, suite, index, TERMINAL_NUMBER, DATE, TIME)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("said", PsamFactorOrder)
async def test_psam_factor_order(store: EmbeddedStore, tmp_path: Path, suite: Suite, said: PsamFactorOrder) -> None:
    """A debit comes about with a PSAM of that order, and with no other."""
    card = await charged(store, tmp_path, suite)
    sam = await psam(store, tmp_path, suite, Behaviour(psam_factor_order="city-card"))
    switches = Switches(psam_factor_order=said)
    done = await debit(DirectChannel(card), DirectChannel(sam), wanted(suite), switches=switches)
    agreed = said is PsamFactorOrder.CITY_CARD
    assert isinstance(done.outcome, Committed if agreed else Refused)
    assert card.purses()[1].balance_fen == (9_800 if agreed else 10_000)


@pytest.mark.parametrize("said", LogCounter)
async def test_log_counter(store: EmbeddedStore, tmp_path: Path, said: LogCounter) -> None:
    """Two debits alike in sum, terminal and second are told apart by the counter of the log, whatever it is of."""
    card = await charged(store, tmp_path, Suite.SM4, Behaviour(log_counter=said.value), log_counter=said.value)
    channel, sam = DirectChannel(card), DirectChannel(await psam(store, tmp_path, Suite.SM4))
    switches = Switches(log_counter=said)
    first, _ = [await debit(channel, sam, wanted(Suite.SM4), switches=switches) for _ in range(2)]
    found = await find_debit(
        channel, first.outcome.evidence, 1, wanted(Suite.SM4).key_index, first.identity.card, switches
    )
    assert isinstance(found, Committed), "its proof is gone, the log has it"

    async def never(by: Switches) -> type:
        card.tear_next(TearPoint.BEFORE_MARKER)
        return type((await debit(channel, sam, wanted(Suite.SM4), switches=by)).outcome)

    assert await never(switches) is Refused
    if said is LogCounter.AFTER:
        assert await never(Switches()) is Committed, "by the other reading the last debit would be this one"
    assert card.purses()[1].balance_fen == 9_600


async def blocked(store: EmbeddedStore, card: SoftwareCard, application: int) -> None:
    channel, made = DirectChannel(card), order(1, Suite.SM4)
    await channel.reset()
    await ask(channel, Select(ALL_APPLICATIONS[application].aid))
    challenge = await ask(channel, GetChallenge(4))
    request = BlockRequest(made.identity, application, BlockAct.APPLICATION_BLOCK, challenge)
    mac = await store.upkeep().block(request)
    assert len(mac) == MAC_BYTES
    head = ApplicationBlock().apdu().encode()
    assert card.transmit(head[:4] + b"\x04" + mac) == b"\x90\x00"


@pytest.mark.parametrize("said", BlockedSelect)
async def test_blocked_select(store: EmbeddedStore, tmp_path: Path, said: BlockedSelect) -> None:
    """A blocked purse is shown as that, and a debit says that it is the application, and not the card."""
    card = await charged(store, tmp_path, Suite.SM4, Behaviour(blocked_select=said.value), blocked_select=said.value)
    await blocked(store, card, 1)
    view = await look(DirectChannel(card), said)
    assert 1 in view.applications and view.blocked == (1,)
    sam = await psam(store, tmp_path, Suite.SM4)
    with pytest.raises(CardError, match="the rest of the card is not"):
        await debit(DirectChannel(card), DirectChannel(sam), wanted(Suite.SM4), switches=Switches(blocked_select=said))
    assert sam.next_transaction == 1, "nobody asked the PSAM"
    if said is BlockedSelect.REFUSED_6A81:
        assert view.common is None and "its purse is blocked" in view.remark
        assert (await look(DirectChannel(card))).blocked == ()
        with pytest.raises(CardError, match="the whole card is blocked"):
            await common_data(DirectChannel(card), 1)


@pytest.mark.parametrize("said", Sm4SessionKey)
@pytest.mark.parametrize("kept", Sm4SessionKey)
async def test_sm4_session_key(store: EmbeddedStore, tmp_path: Path, kept: Sm4SessionKey, said: Sm4SessionKey) -> None:
    """Loaded by the reading that the card has; unloaded by the one that the flow is told, which must be the same."""
    behaviour = Behaviour(sm4_session_key=kept.value)
    card = await charged(store, tmp_path, Suite.SM4, behaviour, sm4_session_key=kept.value)
    flow = unload(
        DirectChannel(card), unloader(store), TILL, 1, Suite.SM4, 500, PIN, switches=Switches(sm4_session_key=said)
    )
    if said is kept:
        assert (await flow).payable
        assert card.purses()[1].balance_fen == 9_500
    else:
        with pytest.raises(Exception, match="MAC1"):
            await flow
        assert card.purses()[1].balance_fen == 10_000
