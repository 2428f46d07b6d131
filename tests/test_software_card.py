"""The software card from outside: published examples, independent cryptography, torn commands, and conserved money."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from card_side import COMPOSITE, METRO_IN, METRO_OUT, TRIP, balance, record, tapped
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal_side import (
    SERIAL,
    SUITES,
    TERMINAL,
    WHEN,
    FixedRandom,
    Till,
    header,
    issue,
    must,
    send,
    write_key,
)

from simulators.card_os import PurseState, application_number
from simulators.file_system import PurseFile
from simulators.nvm import TearPoint

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")


@pytest.fixture(params=SUITES)
def till(request: pytest.FixtureRequest) -> Till:
    return tapped(request.param)


# Published examples


def test_published_load() -> None:
    card = issue("3des", rng=FixedRandom("11223344"), versions=(1, 2))
    till = Till.of("3des", card)
    till.tap()
    till.enter_pin()
    answer = must(card, "80500001", bytes.fromhex("0100001000001122334455"), 0x10)
    assert answer.hex().upper() == "0000000000000200112233442988AE5A"
    must(card, "80520000", bytes.fromhex("201112212148223A845BF0"), 4)
    assert must(card, "805C0001", le=4) == bytes.fromhex("00001000"), "the example loads the deposit purse"
    assert balance(card) == 0


def test_published_purchase() -> None:
    card = issue("3des", rng=FixedRandom("11223344"))
    till = Till.of("3des", card)
    till.tap()
    till.load(0x1000)
    answer = must(card, "80500102", bytes.fromhex("0100001000001122334455"), 0x0F)
    assert answer.hex().upper() == "000010000000000000010011223344"
    answer = must(card, "80540100", bytes.fromhex("0000000120120229135100F15CAB75"), 8)
    assert answer[4:].hex().upper() == "56988A13"
    assert card.purses()[1] == PurseState(balance_fen=0, offline=1, online=1)


# The purse, both suites; Till checks every MAC and TAC with psec and gmssl


def test_a_life_of_a_purse(till: Till) -> None:
    card = till.card
    assert till.debit(250)
    assert till.allow(800)
    assert till.debit(10_000 - 250 + 800), "the allowance may be spent"
    assert card.purses()[1] == PurseState(balance_fen=-800, offline=2, online=2)
    assert send(card, "80500102", bytes([till.key_id]) + bytes.fromhex("00000001") + TERMINAL)[1] == 0x9401
    assert till.load(1_000)
    with pytest.raises(ValueError, match="9401"):
        till.unload(201)
    assert till.unload(200), "the allowance is not paid out"
    assert must(card, "805C0002", le=4) == (800).to_bytes(4, "big")
    assert card.purses() == {1: PurseState(0, 2, 4), 3: PurseState(0, 0, 0)}
    assert card.serial == SERIAL


def test_purses_are_apart(till: Till) -> None:
    till.tap(3)
    with pytest.raises(ValueError, match="9401"):
        till.debit(1)
    till.load(5)
    till.debit(5)
    assert [purse.balance_fen for purse in till.card.purses().values()] == [10_000, 0]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("A0000006320101051000915600001401", 1),
        ("F053584F43010103", 3),
        ("F053584F43010104", 4),
        ("A00000000386980701", 6),
        ("A00000000386980702", None),
        ("7378312E73682EC9E7BBE1B1A3D5CF", None),
    ],
)
def test_application_numbers(name: str, number: int | None) -> None:
    assert application_number(bytes.fromhex(name)) == number


def test_load_needs_the_pin(till: Till) -> None:
    free = header(0x3F, 0xF0, 0xF0, 0x01, till.suite.algorithm) + till.keys.load
    for _ in ("the right of the key asks for it", "the command asks for it"):
        till.tap()
        with pytest.raises(ValueError, match="6982"):
            till.start(0x00, 1)
        assert send(till.card, "00200000", bytes(3))[1] == 0x63C2
        with pytest.raises(ValueError, match="6982"):
            till.start(0x00, 1)
        till.enter_pin()
        till.start(0x00, 1)
        write_key(till.suite, till.card, till.keys.control, f"84D43F{till.key_id:02X}", free)


def test_unknown_key_is_9403(till: Till) -> None:
    for wrong in (0x02, 0x01 if till.key_id == 0x11 else 0x11):
        assert send(till.card, "80500102", bytes([wrong]) + bytes(4) + TERMINAL)[1] == 0x9403


def test_counter_never_wraps(till: Till) -> None:
    file = till.card.df.files.value[0x0002]
    assert isinstance(file, PurseFile)
    file.purse.value = file.purse.value._replace(offline=0xFFFE)  # 65,534 debits would take seconds
    assert till.debit(1)
    assert till.card.purses()[1].offline == 0xFFFF
    with pytest.raises(ValueError, match="9402"):
        till.debit(1)


def test_a_transaction_is_finished_at_once_or_never(till: Till) -> None:
    card, end = till.card, WHEN + bytes(4)
    debit = bytes(4) + end
    assert send(card, "80540100", debit)[1] == 0x6901
    assert send(card, "80520000", end)[1] == 0x6901
    assert send(card, "80DC21D0", METRO_IN)[1] == 0x6901

    for disturbance in ("00840000", "805C0002", "00FF0000"):
        told = till.debit(1, before_end=partial(send, card, disturbance, le=4))
        assert told == b"\x69\x01"
    till.start(0x01, 1)
    assert send(card, "80540100", debit)[1] == 0x9302
    assert send(card, "80540100", debit)[1] == 0x6901, "one guess for each INITIALIZE"
    till.start(0x01, 1)
    assert send(card, "80520000", end)[1] == 0x6901, "a purchase is not finished as a load"
    assert card.purses()[1] == PurseState(10_000, 0, 1)


def test_log_is_newest_first(till: Till) -> None:
    for fen in range(1, 12):
        till.debit(fen)
    for number in range(1, 11):
        amount = 12 - number
        expected = (amount - 1).to_bytes(2, "big") + bytes(3) + amount.to_bytes(4, "big") + b"\x06" + TERMINAL + WHEN
        assert record(till.card, 0x18, number) == expected
    assert record(till.card, 0x18, 11) is None
    assert must(till.card, "00B200C0", le=0) == record(till.card, 0x18, 1), "00 is the newest"
    counter = till.card.purses()[1].online.to_bytes(2, "big")
    till.allow(800)
    change = counter + (800).to_bytes(3, "big") + bytes(4) + b"\x07" + TERMINAL + WHEN
    assert record(till.card, 0x18, 1) == change, "a change of the allowance is logged with the new one"


def test_proof_is_of_the_last_change(till: Till) -> None:
    assert till.proof(0x02, 0)
    told = till.debit(100)
    assert till.proof(0x06, 0) == told[4:8] + told[:4]
    assert till.proof(0x06, 1) is None
    assert till.proof(0x09, 0) is None
    till.unload(50)
    proof = till.proof(0x03, 1)
    assert proof is not None
    assert proof[4:] == bytes(4)


def test_a_proof_is_never_of_the_other_purse(till: Till) -> None:
    till.enter_pin()
    deposit = replace(till, purse=1)
    deposit.load(10_000)
    for act, kind in ((Till.allow, 0x07), (Till.unload, 0x03)):
        counter = till.card.purses()[1].online
        act(till, 100)
        assert till.proof(kind, counter)
        till.enter_pin()
        till.card.tear_next(TearPoint.BEFORE_MARKER)
        assert act(deposit, 200) == b""
        till.tap()
        assert till.proof(kind, counter) is None
        deposit.enter_pin()
        assert act(deposit, 200)
        assert till.proof(kind, counter)


# Composite purchases


def test_composite_is_one_act(till: Till) -> None:
    card = till.card
    assert till.debit(0, *COMPOSITE)
    assert (record(card, 0x1A, 1), record(card, 0x1E, 1)) == (METRO_IN, TRIP)
    assert must(card, "00B221D0", le=0) == METRO_IN, "by its identifier"
    assert till.debit(300, ("80DC21D0", METRO_OUT)) and record(card, 0x1A, 1) == METRO_OUT
    assert record(card, 0x1A, 2) is None
    assert till.debit(1, ("80DC00F0", TRIP[::-1]), ("80DC00F0", TRIP))
    assert [record(card, 0x1E, number) for number in (1, 2, 3)] == [TRIP, TRIP[::-1], TRIP]


def test_composite_without_a_record_is_refused(till: Till) -> None:
    """A gate pays with its record or not at all; MAC1 is right here."""
    before = balance(till.card)
    opened = till.start(0x03, 100)
    seed = opened[11:15] + opened[4:6] + b"\0\1"
    session = till.suite.session(till.keys.purchase, seed)
    mac1 = till.mac(session, (100).to_bytes(4, "big") + b"\x09" + TERMINAL + WHEN)
    assert send(till.card, "80540100", bytes((0, 0, 0, 1)) + WHEN + mac1, 8)[1] == 0x6985
    assert balance(till.card) == before


def test_composite_unfinished_is_nothing(till: Till) -> None:
    card = till.card
    till.start(0x03, 100)
    for head, octets in COMPOSITE:
        must(card, head, octets)
    assert record(card, 0x1A, 1) is None
    assert send(card, "80540100", bytes(4) + WHEN + bytes(4))[1] == 0x6901, "reading has closed it"
    assert balance(card) == 10_000


def test_composite_keeps_out_of_other_files(till: Till) -> None:
    locked = bytes.fromhex("222E01") + bytes(45)
    till.debit(0, ("80DC22D0", locked))
    for head, octets, status in (
        ("80DC00C0", bytes(23), 0x6982),  # the log
        ("80DC00B0", bytes(55), 0x6981),  # a protected binary
        ("80DC22D0", bytes.fromhex("222E00") + bytes(45), 0x6985),  # a locked record
        ("80DC21D0", locked, 0x6A80),  # another identifier than it says
    ):
        till.start(0x03, 0)
        assert send(till.card, head, octets)[1] == status
        assert send(till.card, "80540100", bytes(4) + WHEN + bytes(4))[1] == 0x6901


# Torn commands


def _load(till: Till) -> bytes:
    return till.load(700)


def _purchase(till: Till) -> bytes:
    return till.debit(700)


def _composite(till: Till) -> bytes:
    return till.debit(700, *COMPOSITE)


def _unload(till: Till) -> bytes:
    return till.unload(700)


@pytest.mark.parametrize("point", TearPoint)
@pytest.mark.parametrize(
    ("act", "kind", "change_fen", "counter"),
    [(_load, 0x02, 700, 1), (_purchase, 0x06, -700, 0), (_composite, 0x09, -700, 0), (_unload, 0x03, -700, 1)],
)
def test_torn(
    till: Till, act: Callable[[Till], bytes], kind: int, change_fen: int, counter: int, point: TearPoint
) -> None:
    card = till.card
    card.tear_next(point)
    assert act(till) == b""
    assert card.transmit(bytes.fromhex("805C000204")) == b"", "a torn card has no power"
    till.tap()
    committed = point is not TearPoint.BEFORE_MARKER
    assert (till.proof(kind, counter) is not None) is committed
    assert balance(card) == 10_000 + committed * change_fen
    newest = record(card, 0x18, 1)
    assert newest is not None and (newest[9] == kind and newest[5:9] == (700).to_bytes(4, "big")) is committed
    if act is _composite:
        assert (record(card, 0x1A, 1) is not None, record(card, 0x1E, 1) is not None) == (committed, committed)
    assert send(card, "80540100", bytes(4) + WHEN + bytes(4))[1] == 0x6901
    assert till.load(1) and till.debit(1), "the card lives on"
    assert balance(card) == 10_000 + committed * change_fen


def test_power_loss_forgets_the_pin(till: Till) -> None:
    till.enter_pin()
    till.card.power_off()
    assert till.card.transmit(b"\x00\x84\x00\x00\x04") == b""
    till.tap()
    with pytest.raises(ValueError, match="6982"):
        till.start(0x00, 1)


# Conservation

HEADS = st.sampled_from(["8050", "8054", "8052", "80DC", "8058", "805E", "00D6", "00DC", "84D4", "80E0", "00A4"])
NOISE = st.tuples(HEADS, st.binary(min_size=2, max_size=2), st.binary(max_size=24)).map(
    lambda parts: bytes.fromhex(parts[0]) + parts[1] + bytes([len(parts[2])]) + parts[2]
)
OPERATIONS = st.one_of(
    st.tuples(st.just("load"), st.integers(0, 5_000), st.none() | st.sampled_from(TearPoint)),
    st.tuples(st.just("debit"), st.integers(0, 5_000), st.none() | st.sampled_from(TearPoint)),
    st.tuples(st.just("unload"), st.integers(0, 5_000), st.none() | st.sampled_from(TearPoint)),
    st.tuples(st.just("cheat"), st.integers(0, 5_000), st.none()),
    st.tuples(st.just("noise"), NOISE, st.none()),
)


@settings(max_examples=100, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_money_moves_only_by_committed_commands(
    operations: list[tuple[str, int | bytes, TearPoint | None]],
) -> None:
    till = Till.of("3des", issue("3des"))
    card, expected_fen, counters = till.card, 0, [0, 0]
    for name, value, point in operations:
        till.tap()
        if isinstance(value, bytes):
            card.transmit(value)
        elif name == "cheat":
            _cheat(till, value)
        else:
            card.tear_next(point)
            try:
                told = {"load": till.load, "debit": till.debit, "unload": till.unload}[name](value)
            except ValueError as refused:
                assert str(refused) == "9401" and name != "load" and value > expected_fen
                card.tear_next(None)
                told = None
            if told or (told == b"" and point is not TearPoint.BEFORE_MARKER):
                expected_fen += value if name == "load" else -value
                counters[name == "debit"] += 1
        card.power_on()
        purse = card.purses()[1]
        assert (purse.balance_fen, purse.online, purse.offline) == (expected_fen, *counters)


def _cheat(till: Till, amount_fen: int) -> None:
    """Loads and debits with MACs out of the air."""
    till.enter_pin()
    amount = amount_fen.to_bytes(4, "big")
    must(till.card, "80500002", bytes([till.key_id]) + amount + TERMINAL)
    assert send(till.card, "80520000", WHEN + bytes(4))[1] == 0x9302
    if send(till.card, "80500102", bytes([till.key_id]) + amount + TERMINAL)[1] == 0x9000:
        assert send(till.card, "80540100", bytes(4) + WHEN + bytes(4))[1] == 0x9302
