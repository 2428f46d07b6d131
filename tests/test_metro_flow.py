"""Metro entry and exit as flows of the readers: what is priced, and that record and money go together at every cut."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.card_files import MetroRecord, MetroState
from cardcore.card_map import KeyType, key_id
from cardcore.commands import UpdateComposite
from cardcore.errors import CardError
from cardcore.metro import EntryFinding
from cardcore.purse import Committed, Refused, Unknown
from cardcore.record import Sector, Suite
from cardcore.switches import PsamFactorOrder, Switches
from keys.store import EmbeddedStore
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.debit import debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.metro import Gate, enter, leave
from readers.pcsc.recovery import find_debit
from simulators.card_behaviour import Behaviour
from simulators.card_os import SoftwareCard
from simulators.nvm import TearPoint
from simulators.psam import SoftwarePsam
from tests.counter_side import make_store
from tests.test_flow_switches import SUITES, TERMINAL_NUMBER, charged, psam, wanted

NINE = datetime(2026, 3, 2, 9, 0)
TEN = NINE + timedelta(hours=1)
FULL_FEN, NEAR_FEN = 700, 300
READ_ENTRY, CACHE, DEBIT = (0x00, 0xB2), (0x80, 0xDC), (0x80, 0x54)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


def gate(suite: Suite, station: int = 1, alone: bool = True, **other: object) -> Gate:
    index = key_id(KeyType.PURCHASE, suite, Sector.TRANSIT)
    made = Gate(1, station, TERMINAL_NUMBER, 1, suite, index, timedelta(hours=4), lambda _: alone)
    return replace(made, **other)  # type: ignore[arg-type]


def priced(finding: EntryFinding, entry: MetroRecord) -> int:
    """The near fare for the one station that this line has before the exit, the full one without an entry."""
    if finding is EntryFinding.GENUINE:
        assert (entry.entry_line, entry.entry_station) == (1, 1)
        return NEAR_FEN
    if finding is not EntryFinding.UNGUARDED:
        assert entry == MetroRecord(), "nothing that is not believed reaches the pricing"
    return FULL_FEN


class Phone(DirectChannel):
    """Shows another metro record than the card's; or the card is cut before the command with this head, or at a point
    of the commit that follows it, and `gone` until it is put back."""

    def __init__(
        self,
        card: SoftwareCard,
        shows: Callable[[bytes], bytes] = bytes,
        cut: tuple[int, int] | None = None,
        point: TearPoint | None = None,
    ) -> None:
        super().__init__(card)
        self.card, self.shows, self.cut, self.point, self.gone = card, shows, cut, point, False
        self.seen: list[tuple[int, int]] = []

    async def reset(self) -> bytes:
        if self.gone:
            raise CardError("no card answers in the reader")
        return await super().reset()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        head = commands[-1].cla, commands[-1].ins
        self.seen.append(head)
        if head == self.cut and self.point is None:
            self.gone = True
            return Replies((), torn=True)
        if head == self.cut:
            self.card.tear_next(self.point)
            self.gone = True
        replies = await super().run(commands, deadline_s)
        if head != READ_ENTRY or commands[-1].p2 != 0xD0 or replies.torn:
            return replies
        shown = replace(replies.answers[-1], data=self.shows(replies.answers[-1].data))
        return Replies((*replies.answers[:-1], shown))


def on_card(card: SoftwareCard) -> MetroRecord | None:
    """The metro record in the memory of a card, by a look of the test's own."""
    card.power_on()
    card.transmit(bytes.fromhex("00A4040008A000000632010105"))
    answer = card.transmit(bytes.fromhex("00B221D000"))
    return MetroRecord.decode(answer[:-2]) if answer[-2:] == b"\x90\x00" else None


Pair = tuple[SoftwareCard, SoftwarePsam]
_made: dict[Suite, bytes] = {}


async def pair(store: EmbeddedStore, folder: Path, suite: Suite) -> Pair:
    """A card with 100 yuan, and a gate's PSAM."""
    if suite not in _made:
        (folder / "card").mkdir()
        (folder / "psam").mkdir()
        made = await charged(store, folder / "card", suite), await psam(store, folder / "psam", suite)
        for chip in made:
            chip.power_off()
        _made[suite] = pickle.dumps(made)
    copied: Pair = pickle.loads(_made[suite])  # noqa: S301 - the test's own
    for chip in copied:
        chip.power_on()
    return copied


@pytest.mark.parametrize("suite", SUITES)
async def test_entry_and_exit(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    card, sam = await pair(store, tmp_path, suite)
    entered = await enter(DirectChannel(card), DirectChannel(sam), gate(suite), NINE)
    assert isinstance(entered.debit.outcome, Committed) and entered.debit.genuine
    assert entered.record == on_card(card) and entered.record.counter == entered.debit.opened.counter
    assert (entered.record.state, entered.record.entry_at) == (MetroState.IN, NINE) and any(entered.record.mac)
    left = await leave(DirectChannel(card), DirectChannel(sam), gate(suite, 5), TEN, priced)
    assert isinstance(left.debit.outcome, Committed) and left.debit.genuine
    assert left.finding is EntryFinding.GENUINE and left.record == on_card(card)
    assert (left.record.state, left.record.entry_at, left.record.exit_at) == (MetroState.EXITED, NINE, TEN)
    assert (left.record.fare_fen, left.record.counter) == (NEAR_FEN, entered.record.counter + 1)
    assert card.purses()[1].balance_fen == 10_000 - NEAR_FEN
    again = await leave(DirectChannel(card), DirectChannel(sam), gate(suite, 5), TEN, priced)
    assert again.finding is EntryFinding.NONE and again.record.entry_at is None


@pytest.mark.parametrize("suite", SUITES)
async def test_no_false_entry_is_priced_as_genuine(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    """Forged, too old, of an earlier journey, unguarded: each is told, and the exit writes nothing of it on."""
    before, sam = await pair(store, tmp_path, suite)
    first = await enter(DirectChannel(before), DirectChannel(sam), gate(suite), NINE)
    old = first.record
    later = await debit(DirectChannel(before), DirectChannel(sam), wanted(suite))
    assert isinstance(later.outcome, Committed)
    other = replace(old, entry_station=4)
    lies = {
        "forged": (lambda _: other.encode(), TEN, True, EntryFinding.FORGED),
        "too long ago": (bytes, NINE + timedelta(hours=5), False, EntryFinding.STALE),
        "the future": (bytes, NINE - timedelta(minutes=1), False, EntryFinding.STALE),
        "replayed": (bytes, TEN, True, EntryFinding.STALE),
        "unguarded": (lambda _: replace(other, mac=bytes(8)).encode(), TEN, True, EntryFinding.UNGUARDED),
        "garbled": (lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)), TEN, True, EntryFinding.NONE),
        "shared purse": (bytes, TEN, False, EntryFinding.GENUINE),
    }
    for name, (shows, now, alone, finding) in lies.items():
        card, asked = pickle.loads(pickle.dumps(before)), []  # noqa: S301 - the test's own

        def pricing(found: EntryFinding, entry: MetroRecord, asked: list[EntryFinding] = asked) -> int:
            asked.append(found)
            return priced(found, entry)

        left = await leave(Phone(card, shows), DirectChannel(sam), gate(suite, 5, alone), now, pricing)
        assert (name, left.finding, asked[-1]) == (name, finding, finding)
        genuine = finding is EntryFinding.GENUINE
        fare_fen = NEAR_FEN if genuine else FULL_FEN
        assert left.debit.outcome.evidence.amount_fen == left.record.fare_fen == fare_fen
        assert left.record.entry_at == (NINE if genuine else None) and on_card(card) == left.record
        assert card.purses()[1].balance_fen == 10_000 - 200 - fare_fen


@pytest.mark.parametrize("suite", SUITES)
async def test_cut_at_every_command(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    """Before the DEBIT nothing has happened; after it money and record changed together, or neither, and the next tap
    tells which."""
    card, sam = await pair(store, tmp_path, suite)
    entered = await enter(DirectChannel(card), DirectChannel(sam), gate(suite), NINE)
    whole = Phone(pickle.loads(pickle.dumps(card)))  # noqa: S301 - the test's own
    await leave(whole, DirectChannel(sam), gate(suite, 5), TEN, priced)
    assert whole.seen[-2:] == [CACHE, DEBIT] and len(whole.seen) == 5
    for head in sorted(set(whole.seen) - {DEBIT}):
        copy = Phone(pickle.loads(pickle.dumps(card)), cut=head)  # noqa: S301 - the test's own
        with pytest.raises(CardError):
            await leave(copy, DirectChannel(sam), gate(suite, 5), TEN, priced)
        assert (copy.card.purses()[1].balance_fen, on_card(copy.card)) == (10_000, entered.record)
    for point in TearPoint:
        copy = Phone(pickle.loads(pickle.dumps(card)), cut=DEBIT, point=point)  # noqa: S301 - the test's own
        left = await leave(copy, DirectChannel(sam), gate(suite, 5), TEN, priced)
        assert isinstance(left.debit.outcome, Unknown), "the card is gone"
        evidence, place = left.debit.outcome.evidence, (1, gate(suite).key_index)
        found = await find_debit(DirectChannel(copy.card), evidence, *place, left.debit.identity.card)
        done = point is not TearPoint.BEFORE_MARKER
        assert isinstance(found, Committed if done else Refused)
        state = copy.card.purses()[1].balance_fen, on_card(copy.card)
        assert state == ((10_000 - NEAR_FEN, left.record) if done else (10_000, entered.record))
        if isinstance(found, Committed):
            assert found.tac is not None, "by its proof of type 09"


async def test_several_records_in_one_debit(store: EmbeddedStore, tmp_path: Path) -> None:
    """Any composite purchase: what is cached changes with the money, and a refused record leaves both alone."""
    card, sam = await pair(store, tmp_path, Suite.SM4)
    trip, metro = bytes((6,)) + bytes(47), MetroRecord(MetroState.IN, 1, 1, NINE, TERMINAL_NUMBER).encode()
    records = UpdateComposite(0x1A, 0x21, metro), UpdateComposite(0x1E, 0x00, trip)
    paid = replace(wanted(Suite.SM4), composite=True, records=records)
    done = await debit(DirectChannel(card), DirectChannel(sam), paid)
    assert isinstance(done.outcome, Committed) and done.genuine and done.outcome.evidence.transaction_type == 9
    assert on_card(card) == MetroRecord.decode(metro)
    assert card.transmit(bytes.fromhex("00B201F400"))[:-2] == trip
    left = await leave(DirectChannel(card), DirectChannel(sam), gate(Suite.SM4, 5), TEN, priced)
    assert left.finding is EntryFinding.UNGUARDED, "written by a terminal without the entry key"
    with pytest.raises(CardError):
        await debit(
            DirectChannel(card), DirectChannel(sam), replace(paid, records=(UpdateComposite(0x15, 0x21, metro),))
        )
    assert (card.purses()[1].balance_fen, on_card(card)) == (10_000 - 200 - FULL_FEN, left.record)


async def test_the_gate_knows_the_factor_order(store: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    card = await charged(store, tmp_path / "card", Suite.SM4)
    sam = await psam(store, tmp_path, Suite.SM4, Behaviour(psam_factor_order="city-card"))
    city_card = Switches(psam_factor_order=PsamFactorOrder.CITY_CARD)
    entered = await enter(DirectChannel(card), DirectChannel(sam), gate(Suite.SM4, switches=city_card), NINE)
    other = (tmp_path / "other").mkdir() or await psam(store, tmp_path / "other", Suite.SM4)
    assert isinstance(entered.debit.outcome, Committed)
    left = await leave(DirectChannel(card), DirectChannel(other), gate(Suite.SM4, 5), TEN, priced)
    assert left.finding is EntryFinding.GENUINE, "a PSAM of either order derives the same key"
