"""The operating system of the software card: PIN, secure messaging, locks, keys, files, and copies of a card."""

import pickle
import random
from dataclasses import replace
from functools import cache

import pytest
from card_side import balance, record, tapped
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal_side import (
    AIDS,
    PIN,
    SUITES,
    TERMINAL,
    TRANSPORT,
    Till,
    TripleDes,
    header,
    must,
    protected,
    send,
    write_key,
)

from simulators.card_os import PurseState, SoftwareCard
from simulators.file_system import Tries
from simulators.nvm import TearPoint

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")


@pytest.fixture(params=SUITES)
def till(request: pytest.FixtureRequest) -> Till:
    return tapped(request.param)


# PIN


def test_pin_counts_down_and_is_unblocked(till: Till) -> None:
    card, suite, keys = till.card, till.suite, till.keys
    wrong = bytes.fromhex("123457")
    assert [send(card, "00200000", wrong)[1] for _ in range(2)] == [0x63C2, 0x63C1]
    till.enter_pin()
    assert [send(card, "00200000", wrong)[1] for _ in range(4)] == [0x63C2, 0x63C1, 0x63C0, 0x6983]
    till.tap()
    assert send(card, "00200000", PIN)[1] == 0x6983
    assert protected(suite, card, keys.unblock, "84240000", bytes.fromhex("654321"), encipher=True) == 0x9000
    must(card, "00200000", bytes.fromhex("654321"))
    must(card, "805E0100", bytes.fromhex("654321FF1234"))
    assert send(card, "805E0100", bytes.fromhex("654321FF1234"))[1] == 0x63C2
    assert send(card, "805E0000", PIN + bytes(4))[1] == 0x9302
    assert send(card, "805E0000", PIN + bytes(4))[1] == 0x9302
    must(card, "805E0000", PIN + suite.mac(suite.tac_key(keys.reload), PIN)[:4])
    must(card, "00200000", PIN + b"\xff", None)
    assert send(card, "00200001", PIN)[1] == 0x9403


def test_a_try_is_spent_before_the_pin_is_compared(till: Till) -> None:
    """Even a right PIN spends it until it is given back: who cuts the power at a sign of either has spent it too."""
    card = till.card
    for left in (2, 1, 0):
        till.tap()
        card.cut_after(4)  # the whole of one commit: the try, before anything else is written
        assert card.transmit(bytes.fromhex("0020000003") + PIN) == b""
        till.tap()
        assert send(card, "00200000", bytes(1))[1] == 0x6700, "this is no try"
        assert card.df.pins.value[0].tries == Tries(3, left)
    assert send(card, "00200000", PIN)[1] == 0x6983


def test_wrong_reloads_run_out_unless_a_right_one_comes(till: Till) -> None:
    card, suite = till.card, till.suite
    right = PIN + suite.mac(suite.tac_key(till.keys.reload), PIN)[:4]
    for _ in range(2):
        assert [send(card, "805E0000", PIN + bytes(4))[1] for _ in range(2)] == [0x9302, 0x9302]
        must(card, "805E0000", right)
    assert [send(card, "805E0000", PIN + bytes(4))[1] for _ in range(4)] == [0x9302, 0x9302, 0x9302, 0x6983]
    assert send(card, "805E0000", right)[1] == 0x6983


# Secure messaging


def test_protected_update(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    assert send(card, "00D69500", b"\x01")[1] == 0x6987
    assert send(card, "04D69500", b"\x01")[1] == 0x6987
    assert send(card, "04D69500", b"\x01" + bytes(4))[1] == 0x6985, "no challenge"
    assert protected(suite, card, line, "04D6951E", b"\x01") == 0x6B00
    assert protected(suite, card, line, "04D6951D", b"\x01\x02") == 0x6700
    assert protected(suite, card, line, "04D6951D", b"\x77") == 0x9000
    assert must(card, "00B09500", le=0)[-1] == 0x77
    assert must(card, "00A40400", bytes.fromhex(AIDS[1]))[-1] == 0x77, "FCI shows the live file"
    assert protected(suite, card, line, "04D69700", b"\x01") == 0x6900, "not a protected file"


def test_challenge_is_good_for_one_command(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    start = bytes.fromhex("04D6951C") + b"\x06\x12\x34"
    challenge = must(card, "00840000", le=8)
    mac = suite.mac(line, start, challenge)[:4]
    must(card, "00B09500", le=1)
    assert send(card, "04D6951C", start[5:] + mac)[1] == 0x6985
    challenge = must(card, "00840000", le=8)
    mac = suite.mac(line, start, challenge)[:4]
    must(card, "04D6951C", start[5:] + mac)
    assert send(card, "04D6951C", start[5:] + mac)[1] == 0x6985


def test_protected_read_and_enciphered_file(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    name = "张三".encode("gbk")
    till.enter_pin()
    assert protected(suite, card, line, "04D69602", name, encipher=True) == 0x9000
    assert send(card, "00B09600", le=8)[1] == 0x6987
    challenge = must(card, "00840000", le=4)
    proof = suite.mac(line, bytes.fromhex("04B0960004"), challenge)[:4]
    answer = must(card, "04B09600", proof, 7)
    field = bytes([7]) + bytes(2) + name + bytes(1)
    expected = suite.encrypt(line, field + (b"\x80" + bytes(7) if suite.block == 16 else b""))
    assert answer == expected + suite.mac(line, expected, challenge)[:4]
    till.tap()
    assert protected(suite, card, line, "04B09600", b"") == 0x6982, "the right of the file comes first"


def test_three_wrong_macs_lock_the_application(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    bad = bytes(16)
    for _ in range(3):
        assert protected(suite, card, bad, "04D69500", b"\x01") == 0x6988
        assert protected(suite, card, bad, "04D69500", b"\x01") == 0x6988
        assert protected(suite, card, line, "04D69500", b"\x02") == 0x9000, "a right one starts the count anew"
    statuses = [protected(suite, card, bad, "04D69500", b"\x01") for _ in range(3)]
    assert statuses == [0x6988, 0x6988, 0x9303]
    assert send(card, "805C0002", le=4)[1] == 0x9303
    card.power_on()
    assert send(card, "00A40400", bytes.fromhex(AIDS[1]))[1] == 0x6283
    assert protected(suite, card, line, "84180000", b"") == 0x9303
    till.tap(3)
    assert till.load(5), "the other application lives on"


# Locks, keys, files


def test_block_and_unblock(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    assert protected(suite, card, line, "841E0000", b"") == 0x9000
    assert send(card, "805C0002", le=4)[1] == 0x6A81
    fci, status = send(card, "00A40400", bytes.fromhex(AIDS[1]))
    assert (fci[:1], status) == (b"\x6f", 0x6283)
    assert send(card, "805C0002", le=4)[1] == 0x6A81
    assert protected(suite, card, line, "84180000", b"") == 0x9000
    assert must(card, "805C0002", le=4) == (10_000).to_bytes(4, "big")
    assert protected(suite, card, line, "841E0001", b"") == 0x9000
    assert protected(suite, card, line, "84180000", b"") == 0x9303
    till.tap(3)
    assert protected(suite, card, line, "84160000", b"") == 0x6985, "an application's key blocks no card"
    must(card, "00A40000", bytes.fromhex("3F00"))
    write_key(suite, card, till.keys.control, "84D40100", header(0x36, 0xF0, 0xF0, 0xFF, 0x33) + bytes(range(16)))
    assert protected(suite, card, line, "84160000", b"") == 0x6988
    assert protected(suite, card, bytes(range(16)), "84160000", b"") == 0x9000
    card.power_on()
    assert send(card, "00A40400", bytes.fromhex(AIDS[1]))[1] == 0x6A81


def test_three_wrong_unblocks_lock_for_ever(till: Till) -> None:
    card, suite, line = till.card, till.suite, till.keys.line
    assert protected(suite, card, line, "841E0000", b"") == 0x9000
    assert [protected(suite, card, bytes(16), "84180000", b"") for _ in range(3)] == [0x6988, 0x6988, 0x9303]
    assert protected(suite, card, line, "84180000", b"") == 0x9303
    till.tap(3)
    assert till.load(5), "the other application lives on"


def test_the_factory_gate_closes(till: Till) -> None:
    card, suite = till.card, till.suite
    must(card, "00A40000", bytes.fromhex("3F00"))
    directory = bytes.fromhex("28000AF0F0FFFF")
    assert send(card, "80E00005", directory)[1] == 0x6982
    assert send(card, "800E0000", le=0)[1] == 0x6982
    assert protected(suite, card, TRANSPORT, "84D43900", bytes(21), encipher=True) == 0x6988, (
        "the transport key is gone"
    )
    for key, expected in ((TRANSPORT, 0x63C1), (till.keys.control, 0x9000)):
        challenge = must(card, "00840000", le=4)
        proof = suite.encrypt(key, challenge.ljust(suite.block, b"\0"))
        assert send(card, "00820000", proof)[1] == expected
    must(card, "80E00005", directory)
    must(card, "800E0000", le=0)
    assert card.purses() == {}
    assert send(card, "00A40400", bytes.fromhex(AIDS[1]))[1] == 0x6A82
    content = header(0x39, 0xF0, 0xF0, 0x01, 0x33) + TRANSPORT
    write_key(suite, card, till.keys.control, "84D43900", content)


def test_external_authentication_runs_out(till: Till) -> None:
    proof = bytes(till.suite.block)
    statuses = []
    for _ in range(4):
        must(till.card, "00840000", le=8)
        statuses.append(send(till.card, "00820000", proof)[1])
    assert statuses == [0x63C2, 0x63C1, 0x63C0, 0x6983]


def test_write_key_refuses(till: Till) -> None:
    card, suite, control = till.card, till.suite, till.keys.control
    other = header(0x3E, 0xF0, 0xF0, 0x01, suite.algorithm) + bytes(range(16))
    assert send(card, "84D40109", other + bytes(4))[1] == 0x6985, "no challenge"
    assert protected(suite, card, control, f"84D401{till.key_id:02X}", other, encipher=True) == 0x6A86, "exists"
    assert protected(suite, card, control, "84D43E09", other, encipher=True) == 0x6A88, "nothing to change"
    assert protected(suite, card, control, "84D40109", b"\x77" + other[1:], encipher=True) == 0x6A80
    assert protected(suite, card, control, "84D40109", other[:-7], encipher=True) == 0x6A80
    assert protected(suite, card, control, "84D40109", other[:4] + b"\x02" + other[5:], encipher=True) == 0x6A80
    assert protected(suite, card, TRANSPORT, "84D40109", other, encipher=True) == 0x6988
    assert protected(suite, card, control, f"84D43E{till.key_id:02X}", other, encipher=True) == 0x9000
    assert till.debit(1) == b"\x93\x02", "the purchase key has changed"


def test_act_needs_pin_and_answers_8_bytes(till: Till) -> None:
    digest = bytes(range(16))
    number = till.suite.offset + 2
    till.tap()
    assert send(till.card, f"008802{number:02X}", digest, 8)[1] == 0x6982
    till.enter_pin()
    assert must(till.card, f"008802{number:02X}", digest, 8) == till.suite.mac(till.keys.act, digest)[:8]
    assert send(till.card, f"008800{number:02X}", digest, 16)[1] == 0x6A88, "a MAC key does not encipher"


def test_selection(till: Till) -> None:
    card = till.card
    mf = must(card, "00A40400", b"1PAY.SYS.DDF01")
    assert mf == bytes.fromhex("6F15840E") + b"1PAY.SYS.DDF01" + bytes.fromhex("A503880101")
    assert must(card, "00A40400", b"2PAY.SYS.DDF01") == must(card, "00A40000", bytes.fromhex("3F00")) == mf
    fci = must(card, "00A40400", bytes.fromhex(AIDS[1]), 0)
    common = must(card, "00B09500", le=0x1E)
    assert fci == bytes.fromhex("6F2D8408" + AIDS[1] + "A5219F0C1E") + common
    assert must(card, "00A40000", bytes.fromhex("3F01")) == must(card, "00A40400", bytes.fromhex("A000000632")) == fci
    must(card, "00A40000", bytes.fromhex("0017"))
    assert must(card, "00B0003A", le=2) == bytes(2)
    assert send(card, "00B0003A", le=3)[1] == 0x6C02
    assert send(card, "00B0003C", le=1)[1] == 0x6B00
    assert send(card, "00A40000", bytes.fromhex("0055"))[1] == 0x6A82
    assert send(card, "00B20114", le=0)[1] == 0x6981
    assert send(card, "00D69800", b"\0")[1] == 0x6981
    assert send(card, "00E200C0", bytes(23))[1] == 0x6982, "nobody writes the log"
    for head, status in (("00CA0000", 0x6D00), ("90CA0000", 0x6E00)):
        assert send(card, head)[1] == status
    assert card.transmit(b"\x00\xa4\x04") == card.transmit(bytes.fromhex("00A4040008A0")) == b"\x67\x00"


def test_fixed_records(till: Till) -> None:
    card = till.card
    for octet in range(4):
        must(card, "00E200C8", bytes([octet]) * 32)
    assert send(card, "00E200C8", bytes(32))[1] == 0x6A84
    must(card, "00DC02CC", b"\x55" * 32)
    assert [record(card, 0x19, number) for number in (1, 2)] == [bytes(32), b"\x55" * 32]
    assert send(card, "00DC02CC", bytes(31))[1] == 0x6700
    assert send(card, "00DC05CC", bytes(32))[1] == 0x6A83


def test_p1_and_p2_are_looked_at(till: Till) -> None:
    """A command with other parameters is another command: nothing is done, and what was opened is closed."""
    card, before = till.card, balance(till.card)
    for head, length, opening in (
        ("80521234", 11, "80500002"),
        ("8058FFFF", 14, "80500402"),
        ("80540101", 15, "80500102"),
    ):
        till.tap()
        till.enter_pin()
        amount = b"" if opening == "80500402" else (5).to_bytes(4, "big")
        must(card, opening, bytes([till.key_id]) + amount + TERMINAL)
        assert send(card, head, bytes(length))[1] == 0x6A86
        assert send(card, head[:4] + ("0100" if length == 15 else "0000"), bytes(length))[1] == 0x6901
    assert send(card, "800E1234")[1] == send(card, "800E0001")[1] == 0x6A86
    assert send(card, "805C0002", bytes(1), le=4)[1] == 0x6700
    assert balance(card) == before


def test_a_missed_pin_takes_back_what_it_gave(till: Till) -> None:
    """The state that a right one granted falls; one that a key granted is not the PIN's to take."""
    act = f"008802{till.suite.offset + 2:02X}"
    till.enter_pin()
    must(till.card, act, bytes(16), 8)
    assert send(till.card, "00200000", b"\x99\x99\x99")[1] == 0x63C2
    assert send(till.card, act, bytes(16), 8)[1] == 0x6982
    till.enter_pin()
    must(till.card, act, bytes(16), 8)
    challenge = must(till.card, "00840000", le=8)
    proof = till.suite.encrypt(till.keys.control, challenge.ljust(till.suite.block, b"\0"))
    must(till.card, "00820000", proof)
    assert send(till.card, "00200000", b"\x99\x99\x99")[1] == 0x63C2
    must(till.card, act, bytes(16), 8)


def test_bad_parameters(till: Till) -> None:
    for head, le, status in (
        ("00840100", 4, 0x6A86),
        ("00840000", 5, 0x6700),
        ("00B0A000", 1, 0x6A86),
        ("80D40109", None, 0x6987),
    ):
        assert send(till.card, head, le=le)[1] == status


class _Unfolded(TripleDes):
    def tac_key(self, key: bytes) -> bytes:
        return key


def test_8_byte_keys_are_plain_des() -> None:
    till = tapped("3des")
    card, suite, key = till.card, till.suite, bytes.fromhex("0123456789ABCDEF")
    digest = bytes(range(16))
    for kind in (0x30, 0x31, 0x32):
        write_key(suite, card, till.keys.control, "84D40105", header(kind, 0xF0, 0xF0, 1, 0) + key)
    assert must(card, "00880205", digest, 8) == suite.mac(key, digest)
    enciphered = must(card, "00880005", digest, 16)
    assert enciphered == suite.encrypt(key, digest)
    assert must(card, "00880105", enciphered, 16) == digest
    write_key(suite, card, till.keys.control, "84D43600", header(0x36, 0xF0, 0xF0, 0xFF, 0x33) + key)
    assert protected(suite, card, key, "04D6951D", b"\x77") == 0x9000
    write_key(suite, card, till.keys.control, "84D43401", header(0x34, 0xF0, 0xF0, 1, 0) + key)
    till.suite, till.keys = _Unfolded(), replace(till.keys, tac=key)
    assert till.debit(1), "there are no halves to fold into a TAC key"
    wide = header(0x32, 0xF0, 0xF0, 1, 4) + key
    assert protected(suite, card, till.keys.control, "84D40107", wide, encipher=True) == 0x6A80, "SM4 has 16 bytes"


HEADS = st.sampled_from(sorted(set(SoftwareCard.commands) - {b"\x80\x0e"}))
BODIES = st.binary(max_size=40).map(lambda body: bytes([len(body)]) + body)
NOISE = st.one_of(
    st.binary(max_size=12),
    st.tuples(HEADS, st.binary(min_size=2, max_size=2), BODIES, st.binary(max_size=1)).map(b"".join),
)


@settings(max_examples=300, deadline=None)
@given(noise=st.lists(NOISE, max_size=8))
def test_every_command_has_an_answer(noise: list[bytes]) -> None:
    card = tapped_once().clone()
    card.power_on()
    must(card, "00A40400", bytes.fromhex(AIDS[1]))
    for apdu in noise:
        answer = card.transmit(apdu)
        assert len(answer) >= 2 and answer[-2] >> 4 in (6, 9)
    assert balance(card) == 10_000


@cache
def tapped_once() -> SoftwareCard:
    return tapped("3des").card


# Copies


def test_clone_spends_the_same_counter(till: Till) -> None:
    twin = till.card.clone()
    forger = Till.of("sm4" if till.suite.block == 16 else "3des", twin)
    forger.tap()
    assert till.debit(100) and forger.debit(4_000)
    assert till.card.purses()[1] == PurseState(9_900, 1, 1)
    assert twin.purses()[1] == PurseState(6_000, 1, 1)
    assert twin.serial == till.card.serial


def test_pickle_keeps_the_memory(till: Till) -> None:
    till.card.tear_next(TearPoint.AFTER_MARKER)
    till.debit(100)
    copy = Till.of("sm4" if till.suite.block == 16 else "3des", pickle.loads(pickle.dumps(till.card)))  # noqa: S301
    copy.tap()
    assert balance(copy.card) == 9_900, "even a torn commit crosses"
    assert copy.debit(1)


def test_same_seed_same_bytes() -> None:
    def talk(seed: int) -> list[bytes]:
        card = SoftwareCard.blank("sm4", rng=random.Random(seed))
        return [card.power_on()] + [must(card, "00840000", le=8) for _ in range(3)]

    assert talk(5) == talk(5) != talk(6)


@pytest.mark.filterwarnings("error")
def test_no_warning_from_the_ciphers() -> None:
    for suite in SUITES:
        card = SoftwareCard.blank(suite, rng=random.Random(0))
        card.power_on()
        must(card, "00840000", le=4)
        assert send(card, "84D40100", bytes(36))[1] == 0x6988
