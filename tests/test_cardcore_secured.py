"""Secure messaging, cryptogram inputs, and the outcomes of unload and allowance: worked examples and properties."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal_side import TripleDes

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.card_files import LogCounter, LogRecord
from cardcore.commands import (
    ApplicationBlock,
    DebitUnload,
    LoadInitialisation,
    ReadBinary,
    TransactionProof,
    TransactionType,
    UpdateBinary,
    UpdateInitialisation,
    UpdateOverdraft,
)
from cardcore.cryptogram import (
    host_mac2_input,
    load_mac1_input,
    overdraft_mac1_input,
    overdraft_mac2_input,
    overdraft_tac_input,
    session_input,
    unload_mac3_input,
)
from cardcore.errors import FormatError
from cardcore.purse import Committed, CounterSeen, Evidence, Refused, Unknown, judge, resolve
from cardcore.record import Suite
from cardcore.secure_messaging import enciphered_field, initial_vector, mac_input, read_field, split_answer

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

TERMINAL = bytes.fromhex("001122334455")
DATE, TIME = bytes.fromhex("20260302"), bytes.fromhex("081530")
RANDOM, MAC2 = bytes.fromhex("11223344"), bytes.fromhex("3A845BF0")


# Secure messaging


def test_what_a_mac_covers() -> None:
    write = UpdateBinary(0x15, b"\x77", offset=0x1D).apdu()
    assert mac_input(write).hex() == "04d6951d0577"
    assert mac_input(write, bytes(8)).hex() == "04d6951d0c" + "00" * 8, "an enciphered body in place of the content"
    assert mac_input(ReadBinary(0x16, 7).apdu()).hex() == "04b0960004", "no Le"
    assert mac_input(ApplicationBlock().apdu()).hex() == "841e000004"
    with pytest.raises(FormatError, match="235"):
        mac_input(CommandApdu(0, 0xD6, 0, 0, bytes(236)))


def test_initial_vectors() -> None:
    assert initial_vector(RANDOM, Suite.TRIPLE_DES).hex() == "1122334400000000"
    assert initial_vector(RANDOM * 2, Suite.TRIPLE_DES) == RANDOM * 2
    assert initial_vector(RANDOM, Suite.SM4) == RANDOM + bytes(12)
    with pytest.raises(FormatError):
        initial_vector(RANDOM[1:], Suite.SM4)


def test_a_field_that_fills_its_blocks_is_not_padded() -> None:
    """Public libraries add a block here; the manual does not."""
    assert enciphered_field(bytes(7), Suite.TRIPLE_DES) == b"\x07" + bytes(7)
    assert enciphered_field(bytes(3), Suite.TRIPLE_DES).hex() == "0300000080000000"
    assert enciphered_field(bytes(7), Suite.SM4).hex() == "07" + "00" * 7 + "80" + "00" * 7
    with pytest.raises(FormatError):
        enciphered_field(bytes(256), Suite.SM4)


@given(st.binary(max_size=255), st.sampled_from(Suite))
def test_fields_survive(content: bytes, suite: Suite) -> None:
    field = enciphered_field(content, suite)
    assert len(field) % (8 if suite is Suite.TRIPLE_DES else 16) == 0
    assert read_field(field, suite) == content


@given(st.binary(max_size=40), st.sampled_from(Suite))
def test_reading_fields_and_answers_is_total(raw: bytes, suite: Suite) -> None:
    with suppress(FormatError):
        assert enciphered_field(read_field(raw, suite), suite) == raw
    if len(raw) > 4:
        body, mac = split_answer(raw)
        assert body + mac == raw and len(mac) == 4
    else:
        with pytest.raises(FormatError):
            split_answer(raw)


def test_published_load() -> None:
    """A public worked example, by another library: MAC1 and MAC2 under the session key of the input chosen here."""
    suite = TripleDes()
    session = suite.encrypt(
        bytes.fromhex("11223344556677888877665544332211"), session_input(Suite.TRIPLE_DES, RANDOM, 0)
    )
    assert suite.mac(session, load_mac1_input(0, 0x1000, 0x01, TERMINAL))[:4].hex() == "2988ae5a"
    day, time = bytes.fromhex("20111221"), bytes.fromhex("214822")
    assert suite.mac(session, host_mac2_input(0x1000, 0x01, TERMINAL, day, time))[:4] == MAC2


def test_inputs_of_unload_and_allowance() -> None:
    """Laid out by hand from the table of docs/card.md."""
    tail = TERMINAL + DATE + TIME
    assert unload_mac3_input(0x64, 9, 0xC8, TERMINAL, DATE, TIME) == bytes.fromhex("00000064 0009 000000C8 03") + tail
    assert overdraft_mac1_input(0x64, 0, TERMINAL) == bytes.fromhex("00000064 000000 07") + TERMINAL
    assert overdraft_mac2_input(0x320, TERMINAL, DATE, TIME) == bytes.fromhex("000320 07") + tail
    covered = overdraft_tac_input(0x384, 9, 0x320, TERMINAL, DATE, TIME)
    assert covered == bytes.fromhex("00000384 0009 000320 07") + tail and len(covered) == 23


# Outcomes of unload and allowance


def unload(amount_fen: int = 300) -> Evidence:
    opened = LoadInitialisation(5000, 7, 1, 4, RANDOM, bytes(4))
    return Evidence.of(TransactionType.UNLOAD, opened, amount_fen, TERMINAL, DATE, TIME)


def allowance(limit_fen: int = 800, old_fen: int = 500) -> Evidence:
    opened = UpdateInitialisation(5000, 7, old_fen, 1, 4, RANDOM, bytes(4))
    return Evidence.of_allowance(opened, limit_fen, TERMINAL, DATE, TIME, MAC2)


def test_the_balance_after() -> None:
    assert unload().raw_balance_after_fen == 4700
    assert allowance().raw_balance_after_fen == 5300, "the difference of the limits moves the raw balance"
    assert allowance(100).raw_balance_after_fen == 4600


def test_answers_of_unload_and_allowance() -> None:
    proof = b"\4" * 4
    assert judge(unload(), DebitUnload.name, ResponseApdu(proof, 0x9000)) == Committed(unload(), mac=proof)
    assert judge(allowance(), UpdateOverdraft.name, ResponseApdu(proof, 0x9000)) == Committed(allowance(), tac=proof)
    for evidence, command in ((unload(), DebitUnload.name), (allowance(), UpdateOverdraft.name)):
        assert judge(evidence, command, None) == Unknown(evidence)
        assert judge(evidence, command, ResponseApdu(bytes(8), 0x9000)) == Unknown(evidence)
        refused = judge(evidence, command, ResponseApdu(b"", 0x9302))
        assert isinstance(refused, Refused) and "MAC2" in refused.reason


def test_a_proof_is_of_the_allowance_that_was_granted() -> None:
    kept = TransactionProof(MAC2, b"\5" * 4)
    assert resolve(allowance(), kept) == Committed(allowance(), tac=b"\5" * 4, mac=MAC2)
    assert resolve(allowance(), TransactionProof(b"\6" * 4, b"\5" * 4)) == Unknown(allowance())


def test_an_unload_has_no_tac() -> None:
    """The card fills its place with zeros; zeros are no proof that clearing could check."""
    assert resolve(unload(), TransactionProof(b"\4" * 4, bytes(4))) == Committed(unload(), mac=b"\4" * 4)


@pytest.mark.parametrize("convention", LogCounter)
def test_the_log_names_an_allowance_by_its_limit(convention: LogCounter) -> None:
    counter = 7 + (convention is LogCounter.AFTER)
    for amount_fen in (0, 300, 800):
        own = LogRecord(counter, 800, amount_fen, 7, TERMINAL, DATE, TIME)
        assert resolve(allowance(), own, convention) == Committed(allowance()), "cards differ in what its amount says"
    other = LogRecord(counter, 500, 300, 7, TERMINAL, DATE, TIME)
    assert isinstance(resolve(allowance(), other, convention), Refused)
    load = LogRecord(counter, 800, 300, 2, TERMINAL, DATE, TIME)
    assert isinstance(resolve(allowance(), load, convention), Refused), "the online counter went to a load"
    assert isinstance(resolve(unload(), LogRecord(counter, 0, 200, 3, TERMINAL, DATE, TIME), convention), Refused)
    assert resolve(unload(), LogRecord(counter, 0, 300, 3, TERMINAL, DATE, TIME), convention) == Committed(unload())


def test_a_counter_that_stands_refuses_and_a_moved_one_says_nothing() -> None:
    for evidence in (unload(), allowance()):
        assert isinstance(resolve(evidence, CounterSeen(7, 5000)), Refused)
        assert resolve(evidence, CounterSeen(8, evidence.raw_balance_after_fen)) == Unknown(evidence)
