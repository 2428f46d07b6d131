"""Allowance and PIN unblock as flows: the switches decide, and every cut of the allowance ends as the card says."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.card_map import KeyType, key_id
from cardcore.commands import VerifyPin
from cardcore.commands.security import WrongPinError
from cardcore.errors import CardError
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Suite
from cardcore.switches import OverdraftTacKey, PinUnblockPlace, Switches
from keys.store import EmbeddedStore
from readers.pcsc import purse
from readers.pcsc.ask import ask, identify
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.recovery import find_allowance
from readers.pcsc.upkeep import Allowance, set_allowance, unblock_pin
from simulators.card_behaviour import Behaviour
from simulators.card_os import SoftwareCard
from simulators.file_system import PurseFile
from simulators.nvm import TearPoint
from tests.counter_side import PIN, authoriser, make_store
from tests.test_flow_switches import DATE, SUITES, TERMINAL_NUMBER, TILL, TIME, charged


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


async def allow(store: EmbeddedStore, card: SoftwareCard, suite: Suite, said: Switches) -> Allowance:
    desk, channel = store.personaliser(), DirectChannel(card)
    return await set_allowance(
        channel, desk, store.upkeep(), 1, suite, 1_500, TERMINAL_NUMBER, (DATE, TIME), switches=said
    )


@pytest.mark.parametrize("real", OverdraftTacKey)
@pytest.mark.parametrize("said", OverdraftTacKey)
async def test_overdraft_tac_key(
    store: EmbeddedStore, tmp_path: Path, real: OverdraftTacKey, said: OverdraftTacKey
) -> None:
    suite = Suite.TRIPLE_DES
    card = await charged(store, tmp_path, suite, Behaviour(overdraft_tac_key=real.value), overdraft_tac_key=real.value)
    done = await allow(store, card, suite, Switches(overdraft_tac_key=said))
    assert isinstance(done.outcome, Committed) and done.confirmed is (said is real)
    assert card.purses()[1].balance_fen == 10_000, "an allowance is nobody's money"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("point", TearPoint)
async def test_a_torn_allowance(store: EmbeddedStore, tmp_path: Path, suite: Suite, point: TearPoint) -> None:
    card = await charged(store, tmp_path, suite)
    card.tear_next(point)
    done = await allow(store, card, suite, Switches())
    never = point is TearPoint.BEFORE_MARKER
    assert isinstance(done.outcome, Refused if never else Committed)
    assert done.confirmed is (None if never else True), "by the TAC of its proof"
    again = await allow(store, card, suite, Switches())
    assert again.request.old_limit_fen == (done.request.old_limit_fen if never else 1_500)
    assert isinstance(again.outcome, Committed) and again.confirmed


async def test_an_open_allowance_whose_counter_was_the_last(store: EmbeddedStore, tmp_path: Path) -> None:
    """A load took it: the card opens nothing any more that could tell its counter, and the log still knows."""
    suite = Suite.SM4
    card = await charged(store, tmp_path, suite)
    files = next(df for df in card.mf.applications() if df.fid == 0x3F01).files.value
    cell = next(file for file in files.values() if isinstance(file, PurseFile)).purse
    cell.value = cell.value._replace(online=0xFFFE)
    card.tear_next(TearPoint.BEFORE_MARKER)

    class Gone(DirectChannel):
        async def reset(self) -> bytes:
            raise CardError("no card answers in the reader")

    terminal = TERMINAL_NUMBER, (DATE, TIME)
    done = await set_allowance(Gone(card), store.personaliser(), store.upkeep(), 1, suite, 1_500, *terminal)
    assert isinstance(done.outcome, Unknown)
    card.power_on()
    loaded = await purse.load(DirectChannel(card), authoriser(store), TILL, 1, suite, 300, PIN)
    assert isinstance(loaded.outcome, Committed)
    index, whose = key_id(KeyType.OVERDRAFT, suite), done.request.identity.card
    found = await find_allowance(DirectChannel(card), done.outcome.evidence, 1, index, whose)
    assert isinstance(found, Refused) and "went to another transaction" in found.reason


class Noted(DirectChannel):
    """Keeps the headers that are sent."""

    def __init__(self, card: SoftwareCard) -> None:
        super().__init__(card)
        self.heads: list[str] = []

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        self.heads += [command.encode()[:4].hex() for command in commands]
        return await super().run(commands, deadline_s)


@pytest.mark.parametrize("said", PinUnblockPlace)
async def test_pin_unblock_place(store: EmbeddedStore, tmp_path: Path, said: PinUnblockPlace) -> None:
    """The PIN 00 of our cards is unblocked; a PIN of another id is named where the profile says, and is not there."""
    card = await charged(
        store, tmp_path, Suite.SM4, Behaviour(pin_unblock_place=said.value), pin_unblock_place=said.value
    )
    channel, switches = Noted(card), Switches(pin_unblock_place=said)
    await identify(channel, 1, Suite.SM4)
    for _ in range(3):
        with pytest.raises(WrongPinError):
            await ask(channel, VerifyPin("000000"))
    with pytest.raises(CardError):
        await ask(channel, VerifyPin(PIN))
    await unblock_pin(channel, store.upkeep(), 1, Suite.SM4, "654321", switches=switches)
    await ask(channel, VerifyPin("654321"))
    with pytest.raises(CardError, match="9403"):
        await unblock_pin(channel, store.upkeep(), 1, Suite.SM4, "654321", switches=switches, pin_id=2)
    assert channel.heads[-1] == {"p2": "84240002", "p1": "84240200"}[said.value]
