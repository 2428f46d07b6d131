"""Each reading that a chip can be ordered with, against libraries and arithmetic of our own."""

import random
from dataclasses import fields
from typing import Any

import pytest
from card_side import record, tapped
from terminal_side import (
    AIDS,
    PIN,
    SERIAL,
    SUITES,
    TERMINAL,
    TRANSPORT,
    WHEN,
    Sm4,
    Till,
    create,
    header,
    issue,
    must,
    protected,
    send,
    write_key,
    xor,
)

from simulators.card_behaviour import Behaviour
from simulators.psam import SoftwarePsam

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

BOTH = pytest.mark.parametrize("suite", SUITES)
ROOT = bytes.fromhex("00112233445566778899AABBCCDDEEFF")
CITY, CARD = bytes.fromhex("0231791002317910"), SERIAL[-8:]


class ComplementSm4(Sm4):
    """The session key of d ‖ ~d."""

    def session(self, key: bytes, seed: bytes) -> bytes:
        d = (seed + b"\x80\0")[:8]
        return self.encrypt(key, d + xor(d, b"\xff" * 8))


def test_names_and_values() -> None:
    assert {field.name: field.default for field in fields(Behaviour)} == {
        "log_counter": "before",
        "overdraft_tac_key": "folded",
        "blocked_select": "fci-6283",
        "pin_unblock_place": "p2",
        "sm4_session_key": "padded",
        "psam_factor_order": "card-city",
    }
    for field in fields(Behaviour):
        wrong: dict[str, Any] = {field.name: "neither"}
        with pytest.raises(ValueError, match=f"{field.name} is one of .*, not 'neither'"):
            Behaviour(**wrong)


@BOTH
@pytest.mark.parametrize(("reading", "first"), [("before", 0), ("after", 1)])
def test_log_counter(suite: str, reading: Any, first: int) -> None:
    till = tapped(suite, Behaviour(log_counter=reading))
    till.debit(5)
    till.debit(6)
    logged = [record(till.card, 0x18, number) for number in (1, 2, 3)]
    assert [int.from_bytes((line or b"")[:2], "big") for line in logged] == [first + 1, first, first]
    assert till.proof(0x06, 1) and till.proof(0x06, 2) is None, "only the log is told otherwise"


@BOTH
@pytest.mark.parametrize("reading", ["folded", "whole"])
def test_overdraft_tac_key(suite: str, reading: Any) -> None:
    """Both limits at one card; the tail of a TAC is the new raw balance, counter, limit, type, terminal and time."""
    till = tapped(suite, Behaviour(overdraft_tac_key=reading))
    judge = till.suite.tac_key(till.keys.tac) if reading == "folded" else till.keys.tac
    opened = till.start(0x04, None)
    session = till.suite.session(till.keys.allowance, opened[-8:-4] + opened[4:6])
    tail = (800).to_bytes(3, "big") + b"\x07" + TERMINAL + WHEN
    end = tail[:3] + WHEN + till.suite.mac(session, tail)[:4]
    tac = must(till.card, "80580000", end, 4)
    assert tac == till.suite.mac(judge, (10_800).to_bytes(4, "big") + opened[4:6] + tail)[:4]
    assert till.debit(1), "a purchase keeps the folded key"


@BOTH
@pytest.mark.parametrize(("reading", "status"), [("fci-6283", 0x6283), ("6a81", 0x6A81)])
def test_blocked_select(suite: str, reading: Any, status: int) -> None:
    till = tapped(suite, Behaviour(blocked_select=reading))
    card, line = till.card, till.keys.line
    assert protected(till.suite, card, line, "841E0000", b"") == 0x9000
    card.power_on()
    fci, told = send(card, "00A40400", bytes.fromhex(AIDS[1]))
    assert (bool(fci), told) == (status == 0x6283, status)
    assert send(card, "805C0002", le=4)[1] == 0x6A81
    assert protected(till.suite, card, line, "84180000", b"") == 0x9000, "it can be unblocked all the same"
    till.tap()
    assert till.debit(1)


@BOTH
@pytest.mark.parametrize(
    ("reading", "right", "wrong"), [("p2", "84240001", "84240100"), ("p1", "84240100", "84240001")]
)
def test_pin_unblock_place(suite: str, reading: Any, right: str, wrong: str) -> None:
    till = tapped(suite, Behaviour(pin_unblock_place=reading))
    card, keys = till.card, till.keys
    write_key(till.suite, card, keys.control, "84D40101", header(0x3A, 0xF0, 0xEF, 0x02, 0x31) + PIN)
    assert send(card, "00200001", bytes(3))[1] == 0x63C0
    new = bytes.fromhex("654321")
    assert protected(till.suite, card, keys.unblock, wrong, new, encipher=True) == 0x6A86
    assert protected(till.suite, card, keys.unblock, right, new, encipher=True) == 0x9000
    must(card, "00200001", new)
    must(card, "00200000", PIN)


def test_sm4_session_key() -> None:
    till = Till.of("sm4", issue("sm4", behaviour=Behaviour(sm4_session_key="complement")))
    till.tap()
    with pytest.raises(AssertionError):
        till.load(500)  # the till still pads, and does not know the MAC1
    till.suite = ComplementSm4()
    till.tap()
    assert till.load(500) and till.debit(200) and till.allow(10) and till.unload(300)
    assert till.card.purses()[1].balance_fen == 0
    till.card.power_on()
    assert till.card.clone().behaviour.sm4_session_key == "complement"


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize(("reading", "factors"), [("card-city", CARD + CITY), ("city-card", CITY + CARD)])
def test_psam_factor_order(reading: Any, factors: bytes, complement: bool) -> None:
    behaviour = Behaviour(psam_factor_order=reading, sm4_session_key="complement" if complement else "padded")
    suite = ComplementSm4() if complement else Sm4()
    psam = SoftwarePsam.blank("sm4", rng=random.Random(3), behaviour=behaviour)
    psam.power_on()
    create(psam, "0016", "280006F0F0FFFF")
    must(psam, "00D69600", TERMINAL)
    write_key(suite, psam, TRANSPORT, "84D40111", header(0x42, 0xF0, 0xF0, 1, 4) + ROOT)
    amount = (350).to_bytes(4, "big")
    asked = b"\x11\x22\x33\x44\0\x07" + amount + b"\x06" + WHEN + b"\x01\x04"
    told = must(psam, "80700000", asked + factors, 8)
    session = suite.session(suite.derive(suite.derive(ROOT, CITY), CARD), asked[:6] + told[2:4])
    assert told[4:] == suite.mac(session, amount + b"\x06" + TERMINAL + WHEN)[:4]
    must(psam, "80720000", suite.mac(session, amount)[:4])
