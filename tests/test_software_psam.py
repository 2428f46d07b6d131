"""The software PSAM against a software card, with keys derived and cryptograms checked by independent libraries."""

import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from psam_side import AMOUNT, CARD, CITY, RECORD_ROOT, ROOT, equip, purchase
from terminal_side import (
    SUITES,
    TERMINAL,
    TRANSPORT,
    WHEN,
    Keys,
    Sm4,
    Till,
    blank_psam,
    issue,
    must,
    protected,
    send,
)

from simulators.nvm import TearPoint

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")


@pytest.mark.parametrize("name", SUITES)
def test_debit_between_card_and_psam(name: str) -> None:
    suite, psam = SUITES[name], equip(name)
    assert psam.terminal_number == must(psam, "00B09600", le=6) == TERMINAL
    card_key = suite.derive(suite.derive(ROOT, CITY), CARD)
    till = Till.of(name, issue(name, keys=Keys(purchase=card_key)))
    till.tap()
    till.load(1_000)
    for number in (1, 2):
        opened = must(till.card, "80500102", bytes([till.key_id]) + AMOUNT + TERMINAL, 0x0F)
        answer = must(psam, "80700000", purchase(opened[11:15], opened[4:6], 0x06, opened[10]), 8)
        assert answer[:4] == number.to_bytes(4, "big")
        told = must(till.card, "80540100", answer[:4] + WHEN + answer[4:], 8)
        tac_input = AMOUNT + b"\x06" + TERMINAL + answer[:4] + WHEN
        assert told[:4] == suite.mac(suite.tac_key(Keys().tac), tac_input)[:4]
        must(psam, "80720000", told[4:])
        assert send(psam, "80720000", told[4:])[1] == 0x6901
    assert till.card.purses()[1].balance_fen == 300
    assert psam.next_transaction == 3


@pytest.mark.parametrize("name", SUITES)
def test_mac1_and_mac2_by_hand(name: str) -> None:
    suite, psam = SUITES[name], equip(name)
    answer = must(psam, "80700000", purchase(b"\x11\x22\x33\x44", b"\0\x07", 0x09, suite.algorithm), 8)
    key = suite.derive(suite.derive(ROOT, CITY), CARD)
    session = suite.session(key, b"\x11\x22\x33\x44\0\x07" + answer[2:4])
    assert answer[4:] == suite.mac(session, AMOUNT + b"\x09" + TERMINAL + WHEN)[:4]
    assert send(psam, "80720000", bytes(4))[1] == 0x9302
    assert send(psam, "80720000", suite.mac(session, AMOUNT)[:4])[1] == 0x6901, "one guess"


@pytest.mark.parametrize("name", SUITES)
def test_seal(name: str) -> None:
    psam, body, sm4 = equip(name), bytes(range(120)), Sm4()
    assert send(psam, "80FA0500", body, 8)[1] == 0x6901
    must(psam, "801A2601", bytes(2) + TERMINAL)
    key = sm4.derive(RECORD_ROOT, bytes(2) + TERMINAL)
    for _ in range(2):
        assert must(psam, "80FA0500", body, 8) == sm4.mac(key, body)[:8]
    assert send(psam, "80FA0000", body, 8)[1] == 0x6A86, "a record key does not encipher"
    assert send(psam, "801A4201", bytes(16))[1] in (0x6985, 0x9403), "a purchase root seals nothing"
    psam.power_on()
    assert send(psam, "80FA0500", body, 8)[1] == 0x6901


@pytest.mark.parametrize("name", SUITES)
def test_refusals(name: str) -> None:
    psam, algorithm = equip(name), SUITES[name].algorithm
    before = psam.next_transaction
    for data, status in (
        (purchase(bytes(4), bytes(2), 6, 4 - algorithm), 0x9403),
        (purchase(bytes(4), bytes(2), 6, algorithm, CARD), 0x9403),  # one level: no such key
        (purchase(bytes(4), bytes(2), 6, algorithm, b""), 0x6700),
        (purchase(bytes(4), bytes(2), 6, algorithm, bytes(15)), 0x6700),
    ):
        assert send(psam, "80700000", data, 8)[1] == status
    assert psam.next_transaction == before
    must(psam, "80700000", purchase(bytes(4), bytes(2), 6, algorithm), 8)
    send(psam, "80700000", purchase(bytes(4), bytes(2), 6, 4 - algorithm), 8)
    assert send(psam, "80720000", bytes(4))[1] == 0x6901, "a refused one closes the one before"
    number = psam.next_transaction
    assert send(psam, "80701234", purchase(bytes(4), bytes(2), 6, algorithm), 8)[1] == 0x6A86
    assert psam.next_transaction == number
    must(psam, "80700000", purchase(bytes(4), bytes(2), 6, algorithm), 8)
    assert send(psam, "80725678", bytes(4))[1] == 0x6A86
    assert send(psam, "80720000", bytes(4))[1] == 0x9302, "no MAC2 was looked at before"
    assert protected(SUITES[name], psam, TRANSPORT, "84D40109", bytes(21), encipher=True) == 0x6988
    assert send(blank_psam(name), "80700000", purchase(bytes(4), bytes(2), 6, algorithm), 8)[1] == 0x6985


@pytest.mark.parametrize("point", TearPoint)
def test_a_number_is_never_told_twice(point: TearPoint) -> None:
    psam = equip("sm4")
    ask = purchase(bytes(4), bytes(2), 6, 4)
    psam.tear_next(point)
    assert psam.transmit(bytes.fromhex("8070000024") + ask + b"\x08") == b""
    stored = 1 if point is TearPoint.BEFORE_MARKER else 2
    psam = pickle.loads(pickle.dumps(psam))  # noqa: S301
    psam.power_on()
    assert psam.next_transaction == stored
    assert int.from_bytes(must(psam, "80700000", ask, 8)[:4], "big") == stored


def test_threads_share_a_slot() -> None:
    psam = equip("sm4")
    ask = bytes.fromhex("8070000024") + purchase(bytes(4), bytes(2), 6, 4) + b"\x08"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(psam.transmit, [ask] * 400))
    numbers = Counter(int.from_bytes(answer[:4], "big") for answer in answers)
    assert numbers == Counter(range(1, 401))


def test_derived_keys_stay_bounded() -> None:
    psam = equip("sm4")
    for card in range(2_200):
        must(psam, "80700000", purchase(bytes(4), bytes(2), 6, 4, card.to_bytes(8, "big") + CITY), 8)
    first = purchase(bytes(4), bytes(2), 6, 4, bytes(8) + CITY)
    sm4 = Sm4()
    answer = must(psam, "80700000", first, 8)
    session = sm4.session(sm4.derive(sm4.derive(ROOT, CITY), bytes(8)), bytes(6) + answer[2:4])
    assert answer[4:] == sm4.mac(session, AMOUNT + b"\x06" + TERMINAL + WHEN)[:4], "a forgotten key is derived again"
    assert len(psam._derived) <= 2_048
