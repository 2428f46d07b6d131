"""A construction-ministry city card at the counter: read like any card of ours, loaded, unloaded, and told from those
of other cities; and words for all that a log can hold."""

from dataclasses import dataclass, field, replace
from datetime import date
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cardcore.apdu import CommandApdu
from cardcore.card_files import CardId, LogRecord, MinistryData, directory_entry
from cardcore.card_map import CITY_CARD, MF_NAME, TRANSIT, Application
from cardcore.commands import Select
from cardcore.commands.purse import TransactionType
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.purse import Committed
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.tlv import build
from keys.store import EmbeddedStore
from readers.counter.show import show_card
from readers.counter.words import APPLICATIONS, TRANSACTIONS
from readers.pcsc import purse
from readers.pcsc.batch import _card_shown as begun_as
from readers.pcsc.channel import CardTorn
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job
from readers.pcsc.journal import Journal
from readers.pcsc.look import CardView, PurseView, look
from readers.pcsc.personalise import Bench
from readers.pcsc.purse import Till
from readers.pcsc.trace import Exchange, line
from readers.pcsc.unload import unload
from simulators.card_os import SoftwareCard
from tests.counter_side import NOW, PIN, authoriser, blank, make_store, order, unloader
from tests.test_personalise import Cutting

TILL = Till(130001, b"\0\0" + (130001).to_bytes(4, "big"), "301")
SUITES = (Suite.TRIPLE_DES, Suite.SM4)
STUDENT = 2
NOT_FOUND = b"\x6a\x82"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


def city_order(suite: Suite) -> CardOrder:
    serial = bytes.fromhex("00007910010200000017")
    return replace(order(1, suite), issuer=bytes.fromhex("02317910"), card=serial, concession=STUDENT)


def job(channel: DirectChannel, suite: Suite = Suite.SM4) -> Job:
    made = city_order(suite)
    return Job(made.identity, "construction-ministry", steps(load_profile("construction-ministry"), made), channel)


async def city_card(store: EmbeddedStore, folder: Path, suite: Suite = Suite.SM4) -> SoftwareCard:
    card = blank(suite)
    journal = Journal(folder / "city.sqlite")
    try:
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        assert await bench.personalise(job(DirectChannel(card), suite)) is None
    finally:
        journal.close()
    return card


def shown(view: CardView) -> str:
    text = StringIO()
    show_card(Console(file=text, width=250), view)
    return text.getvalue()


@pytest.mark.parametrize("suite", SUITES)
async def test_read_load_and_unload(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    channel = DirectChannel(await city_card(store, tmp_path, suite))
    view = await look(channel)
    assert view.ours and view.applications == (CITY_CARD.number,) and view.city is None
    assert isinstance(view.common, MinistryData) and view.concession == STUDENT
    assert (view.common.card, view.common.issuer.hex()) == (city_order(suite).card, "02317910")
    [seen] = view.purses
    assert (seen.application, seen.suite, seen.value_fen, seen.log) == (6, suite, 0, ())
    await channel.reset()
    done = await purse.load(channel, authoriser(store), TILL, 6, suite, 5000, PIN)
    assert isinstance(done.outcome, Committed) and done.identity == city_order(suite).identity
    await channel.reset()
    assert (await unload(channel, unloader(store), TILL, 6, suite, 1250, PIN)).payable
    text = shown(await look(channel))
    for told in (
        "0000************0017", "02317910", "2026-03-01 – 2036-03-01", "学生 student", "城市卡 city card", "37.50 元",
        "圈存 load", "50.00", "圈提 unload", "12.50", "2026-03-01 09:00:00", TILL.terminal_number.hex(),
    ):  # fmt: skip
        assert told in text, told
    assert "不是本系统的卡" not in text and city_order(suite).card.hex() not in text


async def test_half_made(store: EmbeddedStore, tmp_path: Path) -> None:
    """Before it says whose it is, and after: neither is a stranger's."""
    for cut, common in ((18, None), (25, "02317910")):
        card = blank()
        journal = Journal(tmp_path / f"{cut}.sqlite")
        with pytest.raises(CardTorn):
            await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(job(Cutting(card, cut, False)))
        journal.close()
        view = await look(DirectChannel(card))
        assert (view.common and view.common.issuer.hex()) == common
        assert ("个人化未完成" in shown(view)) is (common is None)
        assert await begun_as(DirectChannel(card)) == (city_order(Suite.SM4).card if common else None)


async def test_blocked(store: EmbeddedStore, tmp_path: Path) -> None:
    """A blocked card still says whose it is, for its replacement."""
    card = await city_card(store, tmp_path)
    channel = DirectChannel(card)
    await channel.reset()
    df = next(card.mf.applications())
    df.lock.value = type(df.lock.value).BLOCKED
    view = await look(channel)
    assert view.blocked == (6,) and view.common is not None and view.common.card == city_order(Suite.SM4).card
    assert "锁定 blocked" in shown(view)


# --- of other cities ---------------------------------------------------------------------------------------------


XIAN = MinistryData(
    institution=bytes.fromhex("0041"), city="7100", serial=bytes.fromhex("7100010300004711"), starts=date(2024, 5, 1),
    expires=date(2034, 4, 30), sub_type=3, enabled=False,
)  # fmt: skip
CARD_ID = CardId(issuer=XIAN.institution, city=XIAN.city, serial=XIAN.serial, issued=XIAN.starts)


@dataclass
class Foreign:
    """A city card of Xi'an, 30 bytes of EF 0015 by READ BINARY: what the MF tells beside it is its own affair."""

    files: dict[tuple[bytes, int], bytes]
    applications: tuple[bytes, ...] = (CITY_CARD.aid,)
    asked: list[bytes] = field(default_factory=list)
    selected: bytes = b""
    shows: bytes = b""

    def power_on(self) -> bytes:
        return bytes.fromhex("3B6800000073C84012009000")

    def transmit(self, apdu: bytes) -> bytes:
        self.asked.append(apdu)
        command = CommandApdu.decode(apdu)
        if command.ins == 0xA4:
            if command.data not in (*self.applications, MF_NAME):
                return NOT_FOUND
            self.selected = command.data
            told = build(0xA5, build(0x9F0C, self.shows)) if self.shows and command.data in self.applications else b""
            return build(0x6F, build(0x84, command.data) + told) + b"\x90\x00"
        if command.ins == 0x5C:
            return bytes.fromhex("00000BB8") + b"\x90\x00"
        sfi = command.p1 & 0x1F if command.ins == 0xB0 else command.p2 >> 3
        if command.ins == 0xB2 and command.p1 != 1:
            return b"\x6a\x83"
        content = self.files.get((self.selected, sfi))
        return NOT_FOUND if content is None else content[: command.le] + b"\x90\x00"


_RECORD = LogRecord(7, 0, 150, TransactionType.COMPOSITE, bytes(6), bytes.fromhex("20260302"), bytes.fromhex("081500"))
_THEIRS = {(CITY_CARD.aid, 0x15): XIAN.encode(), (CITY_CARD.aid, 0x18): _RECORD.encode()}
_ENTRY = directory_entry(CITY_CARD.aid, "CITYCARD", 6)
_HARMLESS = {0xA4, 0xB0, 0xB2, 0x5C}


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {(MF_NAME, 0x05): CARD_ID.encode()},
        {(MF_NAME, 0x01): _ENTRY},
        {(MF_NAME, 0x05): CARD_ID.encode(), (MF_NAME, 0x01): directory_entry(TRANSIT.aid, "TRANSIT", 1)},
        {(MF_NAME, 0x05): replace(CARD_ID, serial=bytes(8)).encode(), (MF_NAME, 0x01): _ENTRY},
    ],
    ids=["nothing", "no directory", "no card id", "another directory", "another serial"],
)
async def test_another_city(beside: dict[tuple[bytes, int], bytes]) -> None:
    card = Foreign(_THEIRS | beside)
    view = await look(DirectChannel(card))
    assert not view.ours and {apdu[1] for apdu in card.asked} <= _HARMLESS, "nothing was opened on it"
    text = shown(view)
    for told in (
        "住建部", "another city", "00417100", "0000************4711", "30.00 元", "未启用 not enabled yet",
        "老年 senior", "复合消费 composite purchase", "1.50",
    ):  # fmt: skip
        assert told in text, told


async def test_a_card_of_both_schemes() -> None:
    """Many city cards carry T-Union as well: both purses are shown, the card's own data by T-Union."""
    common = order(1, Suite.SM4).common.encode()
    card = Foreign(_THEIRS | {(TRANSIT.aid, 0x15): common}, (TRANSIT.aid, CITY_CARD.aid))
    view = await look(DirectChannel(card))
    assert view.applications == (1, 6) and [seen.application for seen in view.purses] == [1, 6]
    assert not view.ours and view.common == order(1, Suite.SM4).common
    assert {apdu[1] for apdu in card.asked} <= _HARMLESS


@pytest.mark.parametrize("raw", [b"", bytes(29), b"\xff" * 34, bytes(34)], ids=["none", "short", "no dates", "zeros"])
async def test_whatever_stands_in_its_data(raw: bytes) -> None:
    view = await look(DirectChannel(Foreign({(CITY_CARD.aid, 0x15): raw})))
    assert view.common is None and "住建部" in shown(view), "by its application alone"


@pytest.mark.parametrize(
    "changed", [{17: 0xFF, 18: 0xFF, 19: 0xFF, 20: 0xFF}, {8: 0x77}, dict.fromkeys(range(30), 0xFF)]
)
async def test_data_that_we_cannot_read_are_no_unfinished_card_of_ours(changed: dict[int, int]) -> None:
    raw = bytes(changed.get(at, byte) for at, byte in enumerate(XIAN.encode()))
    view = await look(DirectChannel(Foreign({(CITY_CARD.aid, 0x15): raw}, shows=raw)))
    assert not view.ours and "住建部" in shown(view) and "个人化未完成" not in shown(view)


async def test_a_phone_wallet_is_named() -> None:
    wallet = bytes.fromhex("A00000000371008698070100")
    assert "住建部" in shown(await look(DirectChannel(Foreign({}, (wallet,)))))


# --- words -------------------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[bool, bool]:
    """Whether a text has Chinese, and English, in it."""
    return any("一" <= letter <= "鿿" for letter in text), any(letter.isascii() and letter.isalpha() for letter in text)


def test_every_type_and_application_has_words() -> None:
    assert set(TRANSACTIONS) == set(TransactionType)
    assert set(APPLICATIONS) == set(range(1, 7))
    for text in (*TRANSACTIONS.values(), *APPLICATIONS.values()):
        assert _words(text) == (True, True), text
    assert len(set(TRANSACTIONS.values())) == len(TransactionType)


@pytest.mark.parametrize("kind", TransactionType)
def test_a_log_in_words(kind: TransactionType) -> None:
    """A change of the allowance shows the new one, everything else its amount."""
    changed = kind is TransactionType.OVERDRAFT
    record = replace(_RECORD, transaction_type=kind, overdraft_fen=80_00, amount_fen=0 if changed else 12_34)
    view = PurseView(1, Suite.SM4, 0, 0, (record,))
    text = shown(CardView(b"", "", order(1, Suite.SM4).common, applications=(1,), purses=(view,), ours=True))
    assert TRANSACTIONS[kind] in text
    assert ("80.00" in text) is changed and ("12.34" in text) is not changed


def test_a_type_that_nobody_knows() -> None:
    record = replace(_RECORD, transaction_type=0x42)
    view = PurseView(1, Suite.SM4, 0, 0, (record,))
    text = shown(CardView(b"", "", order(1, Suite.SM4).common, applications=(1,), purses=(view,), ours=True))
    assert "42" in text and "1.50" in text


@pytest.mark.parametrize("item", [TRANSIT, CITY_CARD])
def test_selecting_it_is_traced_by_its_number(item: Application) -> None:
    assert line(Exchange(Select(item.aid).apdu(), b"\x90\x00", 1)).startswith(f"SELECT application {item.number}\t")
