"""Reading what is not ours: a bank card, a T-Union card of another city, a memory card, a mute one, an empty reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cardcore.apdu import CommandApdu
from cardcore.card_files import CityData, CommonData
from cardcore.card_map import CONTACTLESS_DIRECTORY, MF_NAME, SOCIAL, TRANSIT
from cardcore.errors import ReaderError
from cardcore.tlv import build
from readers.counter.clerk import Clerk, Status
from readers.counter.show import show_card
from readers.pcsc.channel import DEADLINE_S, CardTorn, Channel, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.look import look
from readers.pcsc.strangers import memory_card, names

Answer = Callable[[bytes], bytes]
NOT_FOUND = b"\x6a\x82"
HARMLESS = {0xA4, 0xB0, 0xB2, 0x5C}


@dataclass
class Stranger:
    """A card that answers by a function; it keeps what it was asked."""

    answer: Answer
    atr: bytes = bytes.fromhex("3B6800000073C84012009000")
    asked: list[bytes] = field(default_factory=list)

    def power_on(self) -> bytes:
        return self.atr

    def transmit(self, apdu: bytes) -> bytes:
        self.asked.append(apdu)
        return self.answer(apdu)


def _names_of(apdu: bytes) -> bytes:
    return CommandApdu.decode(apdu).data if apdu[1] == 0xA4 else b""


async def seen(card: Stranger) -> tuple[Status, str]:
    """What `onecard counter read` says of it."""
    text = StringIO()
    console = Console(file=text, width=300)
    view = await look(DirectChannel(card))
    assert not view.ours
    show_card(console, view)
    assert Clerk(console) is not None
    assert {apdu[1] for apdu in card.asked} <= HARMLESS, "nothing but what reads was sent"
    return Status.DONE, text.getvalue()


def bank_card(apdu: bytes) -> bytes:
    aid, label = bytes.fromhex("A000000333010101"), b"UnionPay Debit"
    entry = build(0x61, build(0x4F, aid) + build(0x50, label))
    match _names_of(apdu):
        case b"":
            return b"\x6d\x00"
        case name if name in (CONTACTLESS_DIRECTORY, MF_NAME):
            return build(0x6F, build(0x84, name) + build(0xA5, build(0xBF0C, entry))) + b"\x90\x00"
        case name if name == aid:
            return build(0x6F, build(0x84, aid) + build(0xA5, build(0x50, label))) + b"\x90\x00"
    return NOT_FOUND


async def test_bank_card() -> None:
    status, text = await seen(card := Stranger(bank_card))
    assert status is Status.DONE
    for told in ("不是本系统的卡", "银联借记卡", "bank debit card", "UnionPay Debit"):
        assert told in text
    assert not any(apdu[1] in (0xB0, 0xB2) for apdu in card.asked), "the card's number was not asked for"


@pytest.mark.parametrize(
    ("aid", "told"),
    [
        ("A0000000031010", "Visa"),
        ("A00000000386980701", "住建部"),
        ("D2760000850101", "NFC"),
        ("A0000000041010", "万事达"),
        (SOCIAL.aid.hex(), "社会保障卡"),
    ],
)
async def test_known_by_an_application(aid: str, told: str) -> None:
    card = Stranger(lambda apdu: b"\x90\x00" if _names_of(apdu) == bytes.fromhex(aid) else NOT_FOUND)
    _, text = await seen(card)
    assert told in text


COMMON = CommonData(
    issuer_id=bytes.fromhex("01041100FFFFFFFF"), card=bytes.fromhex("03101100000012345678"),
    starts=date(2024, 1, 1), expires=date(2034, 1, 1),
).encode()  # fmt: skip
SHOWN = build(0x9F0C, COMMON)


def _fci(name: bytes, shown: bytes = b"") -> bytes:
    return build(0x6F, build(0x84, name) + (build(0xA5, shown) if shown else b""))


def t_union(fci: bytes = _fci(TRANSIT.aid), common: bytes = COMMON, also: bytes = b"") -> Answer:
    """A T-Union card of another city: its FCI and EF 0015, and the name of another application on it."""
    city = CityData(province="1100", city="1100", concession=1).encode()

    def answer(apdu: bytes) -> bytes:
        if apdu[1] == 0xA4:
            selected = {TRANSIT.aid: fci, also: _fci(also)}.get(_names_of(apdu) or b"-")
            return selected + b"\x90\x00" if selected else NOT_FOUND
        if apdu[1] == 0xB0:
            return {0x95: common, 0x97: city}.get(apdu[2], b"")[: apdu[-1]] + b"\x90\x00"
        return bytes.fromhex("00001388") + b"\x90\x00" if apdu[1] == 0x5C else b"\x6a\x83"

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        t_union(),
        t_union(_fci(TRANSIT.aid, SHOWN), also=SOCIAL.aid),
        t_union(_fci(TRANSIT.aid, build(0x9F0C, COMMON + bytes(4)))),
        t_union(bytes.fromhex("6F80") + build(0x84, TRANSIT.aid) + bytes(2)),
    ],
    ids=["plain", "with social security", "34 bytes shown", "indefinite length"],
)
async def test_other_city(answer: Answer) -> None:
    _, text = await seen(Stranger(answer))
    for told in ("外地交通联合卡", "another city", "01041100", "50.00 元", "0310************5678"):
        assert told in text
    assert "03101100000012345678" not in text


@pytest.mark.parametrize("blank", [bytes(23), b"\xff" * 23, b"\x01"])
async def test_a_log_ends_where_nothing_was_written(blank: bytes) -> None:
    """Issuer, dates, a phone's longer name, the top bit of the balance and the ride are as T-Union cards have them."""
    ride = bytes.fromhex("0007 000000 000000C8 09 751700003B82 20220811 081530")
    rest = t_union(_fci(TRANSIT.aid + bytes.fromhex("10009156000014A1"), build(0x9F08, b"\x02") + SHOWN))

    def answer(apdu: bytes) -> bytes:
        if apdu[1] == 0xB2:
            return (ride if apdu[2] == 1 else blank) + b"\x90\x00"
        return bytes.fromhex("80001388") + b"\x90\x00" if apdu[1] == 0x5C else rest(apdu)

    _, text = await seen(Stranger(answer))
    for told in ("外地交通联合卡", "50.00 元", "2022-08-11 08:15:30", "2.00", "751700003b82"):
        assert told in text
    assert "0000-00-00" not in text and "ffff" not in text


async def test_other_city_with_a_date_that_is_none() -> None:
    odd = COMMON[:24] + b"\xff" * 4 + COMMON[28:]
    _, text = await seen(Stranger(t_union(_fci(TRANSIT.aid, build(0x9F0C, odd)), odd)))
    assert "外地交通联合卡" in text


async def test_memory_card_is_left_alone() -> None:
    atr = bytes.fromhex("3B8F8001804F0CA000000306030001000000006A")
    card = Stranger(lambda _: b"\x90\x00", atr)
    _, text = await seen(card)
    assert "存储卡" in text and "Mifare Classic 1K" in text
    assert not card.asked, "a reader would make something of its own of a command"
    assert memory_card(atr[:12]) == "" and memory_card(b"") == ""


async def test_mute_card() -> None:
    _, text = await seen(Stranger(lambda _: b""))
    assert "不应答任何命令" in text and "answers no command" in text


async def test_a_card_that_left_is_no_stranger() -> None:
    class Leaving(DirectChannel):
        resets = 0

        async def reset(self) -> bytes:
            self.resets += 1
            if self.resets > 1:
                raise ReaderError("no card answers in the reader")
            return await super().reset()

    with pytest.raises(ReaderError, match="no card answers"):
        await look(Leaving(Stranger(lambda _: b"")))


async def test_left_while_it_was_read() -> None:
    class Torn(DirectChannel):
        runs = 0

        async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
            self.runs += 1
            return Replies((), torn=True) if self.runs == 4 else await super().run(commands, deadline_s)

    with pytest.raises(CardTorn):
        await look(Torn(Stranger(lambda _: NOT_FOUND)))


@given(st.binary(max_size=80), st.integers(0, 0xFFFF))
async def test_whatever_it_answers(data: bytes, sw: int) -> None:
    """Any card gets a view: no answer makes an exception."""
    channel: Channel = DirectChannel(Stranger(lambda _: data + sw.to_bytes(2, "big")))
    view = await look(channel)
    text = StringIO()
    show_card(Console(file=text, width=200), view)
    assert text.getvalue().strip()


@given(st.binary(max_size=200))
def test_any_directory(raw: bytes) -> None:
    assert len(names(raw)) <= 8
    entry = build(0x61, build(0x4F, raw[:16] or b"\x01") + build(0x50, b"A\x1b[31mB"))
    assert names(build(0x6F, entry)) == [(raw[:16] or b"\x01", "A\x1b[31mB")]
