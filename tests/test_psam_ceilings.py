"""Ceilings of a PSAM, wrong MAC2s, and the MAC of a metro entry that every gate's PSAM can check."""

import pickle
import random

import pytest
from psam_side import (
    AMOUNT,
    CARD,
    CITY,
    CONTROL,
    RECORD_ROOT,
    ROOT,
    equip,
    prove_control,
    purchase,
    set_ceilings,
)
from terminal_side import SERIAL, SUITES, TERMINAL, TRANSPORT, Sm4, header, must, protected, send, write_key

from simulators.psam import SoftwarePsam

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

BOTH = pytest.mark.parametrize("name", SUITES)
RANDOM, COUNTER = b"\x11\x22\x33\x44", b"\0\x07"


def asked(name: str, amount_fen: int = 350) -> bytes:
    amount = amount_fen.to_bytes(4, "big")
    return purchase(RANDOM, COUNTER, 6, SUITES[name].algorithm, CARD + CITY, amount)


def mac2(name: str, number: bytes) -> bytes:
    suite = SUITES[name]
    key = suite.derive(suite.derive(ROOT, CITY), CARD)
    return suite.mac(suite.session(key, RANDOM + COUNTER + number[2:4]), AMOUNT)[:4]


@BOTH
def test_a_count_of_purchases(name: str) -> None:
    psam = equip(name)
    prove_control(name, psam)
    assert set_ceilings(name, psam, 3, 0) == 0x9000
    for number in (1, 2, 3):
        assert must(psam, "80700000", asked(name), 8)[:4] == number.to_bytes(4, "big")
    psam = pickle.loads(pickle.dumps(psam))  # noqa: S301
    for _ in ("now", "after a reset"):
        assert send(psam, "80700000", asked(name), 8)[1] == 0x6985
        psam.power_on()
    assert psam.next_transaction == 4, "a refusal takes no number"
    assert set_ceilings(name, psam, 1, 0) == 0x6982, "a reset forgets the authentication"
    prove_control(name, psam)
    assert set_ceilings(name, psam, 1, 0) == 0x9000
    must(psam, "80700000", asked(name), 8)
    assert send(psam, "80700000", asked(name), 8)[1] == 0x6985


@BOTH
def test_an_amount_of_purchases(name: str) -> None:
    psam = equip(name)
    prove_control(name, psam)
    assert set_ceilings(name, psam, 0, 1_000) == 0x9000
    must(psam, "80700000", asked(name, 999), 8)
    assert send(psam, "80700000", asked(name, 2), 8)[1] == 0x6985
    must(psam, "80700000", asked(name, 1), 8)
    must(psam, "80700000", asked(name, 0), 8)
    assert send(psam, "80700000", asked(name, 1), 8)[1] == 0x6985
    assert set_ceilings(name, psam, 0, 0) == 0x9000, "none"
    for _ in range(3):
        must(psam, "80700000", asked(name, 0xFFFFFFFF), 8)


@BOTH
def test_who_may_set_them(name: str) -> None:
    psam, suite = equip(name), SUITES[name]
    body = bytes(8)
    assert send(psam, "80E80000", body)[1] == 0x6982
    assert set_ceilings(name, psam, 9, 9) == 0x6982
    prove_control(name, psam)
    assert send(psam, "80E80000", body)[1] == 0x6987
    assert protected(suite, psam, CONTROL, "84E80000", body) == 0x6988, "not under 39.00"
    assert protected(suite, psam, psam_line(psam), "84E80000", body[:7]) == 0x6700
    assert protected(suite, psam, psam_line(psam), "84E80001", body) == 0x6A86
    assert set_ceilings(name, psam, 9, 9) == 0x9000
    write_key(suite, psam, CONTROL, "84D40102", header(0x39, 0xF0, 0xF0, 1, 0x33) + TRANSPORT)
    must(psam, "00A40000", bytes.fromhex("3F00"))
    assert set_ceilings(name, psam, 9, 9) == 0x6982, "selecting forgets it too"
    challenge = must(psam, "00840000", le=8).ljust(suite.block, b"\0")
    must(psam, "00820002", suite.encrypt(TRANSPORT, challenge))
    assert set_ceilings(name, psam, 9, 9) == 0x6982, "39.02 is not the owner's"
    blank = SoftwarePsam.blank(name, rng=random.Random(1))
    blank.power_on()
    prove_control(name, blank, TRANSPORT)
    assert set_ceilings(name, blank, 9, 9) == 0x6A88, "a blank has no 36.00"


def psam_line(psam: SoftwarePsam) -> bytes:
    return psam.mf.keys.value[0x36, 0].secret.value


@BOTH
def test_wrong_mac2s_in_a_row_lock_purchases(name: str) -> None:
    psam = equip(name)

    def guess(right: bool = False) -> int:
        told = must(psam, "80700000", asked(name), 8)
        return send(psam, "80720000", mac2(name, told) if right else bytes(4))[1]

    assert [guess(), guess(), guess(right=True)] == [0x9302, 0x63CD, 0x9000]
    assert [guess() for _ in range(15)] == [0x9302, *range(0x63CD, 0x63BF, -1)]
    psam.power_on()
    assert send(psam, "80700000", asked(name), 8)[1] == 0x6983
    prove_control(name, psam)
    assert set_ceilings(name, psam, 0, 0) == 0x9000
    assert guess(right=True) == 0x9000


@BOTH
def test_a_metro_entry_is_proved_to_another_gate(name: str) -> None:
    """Every gate's PSAM has the entry root: one gate's MAC of a record of a card is what another gate calculates."""
    root, sm4 = bytes(range(16)), Sm4()
    text = b"OCM1" + SERIAL + b"\x01" + bytes.fromhex("212E0001") + bytes(range(34))
    assert len(text) == 0x35
    gates = [equip(name), equip(name)]
    for gate in gates:
        write_key(SUITES[name], gate, CONTROL, "84D40101", header(0x46, 0xF0, 0xF0, 1, 0x04) + root)
    proofs = []
    for gate in gates:
        must(gate, "801A4601", CARD + CITY)
        proofs.append(must(gate, "80FA0500", text, 8))
    assert proofs == [sm4.mac(sm4.derive(sm4.derive(root, CITY), CARD), text)[:8]] * 2
    must(gates[0], "801A4601", bytes(8) + CITY)
    assert must(gates[0], "80FA0500", text, 8) != proofs[0], "the proof is of this card"
    assert send(gates[0], "801A4601", CARD)[1] == 0x6700
    must(gates[0], "801A2601", bytes(2) + TERMINAL)
    body = bytes(range(120))
    assert must(gates[0], "80FA0500", body, 8) == sm4.mac(sm4.derive(RECORD_ROOT, bytes(2) + TERMINAL), body)[:8]
