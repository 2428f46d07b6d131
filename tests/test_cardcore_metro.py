"""The metro MAC (threat T6): what it covers, and that no edit or replay of an entry is priced."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from hypothesis import given
from hypothesis import strategies as st

from cardcore.card_files import Leg, MetroRecord, MetroState, TransferRecord, crc16
from cardcore.card_map import card_factor, city_factor
from cardcore.commands import Crypt, InitDescrypt
from cardcore.commands.psam import ordered_factors
from cardcore.cryptogram import composite_mac_input
from cardcore.errors import FormatError
from cardcore.metro import ENTRY_KEY_ID, ENTRY_USAGE, EntryFinding, TransferRule, judge_entry
from cardcore.switches import PsamFactorOrder

ROOT = bytes.fromhex("0123456789abcdeffedcba9876543210")
ISSUER, CARD, OTHER = (
    bytes.fromhex("02317910"),
    bytes.fromhex("03101234567890123456"),
    bytes.fromhex("03101234567890123457"),
)
AT, LONGEST = datetime(2026, 3, 2, 8, 15, 30), timedelta(hours=4)
NOW = AT + timedelta(minutes=25)


def sm4(key: bytes, octets: bytes) -> bytes:
    cipher = CryptSM4()
    cipher.set_key(key, SM4_ENCRYPT)
    return bytes(cipher.crypt_ecb(octets)[: len(octets)])


def derive(key: bytes, factor: bytes) -> bytes:
    return sm4(key, factor + bytes(octet ^ 0xFF for octet in factor))


def psam_mac(card: bytes, covered: bytes) -> bytes:
    """The contract in another library's SM4: CBC-MAC, IV 0, 80 00…, first 8 bytes, key by city and card."""
    key = derive(derive(ROOT, ISSUER * 2), card[2:])
    covered += b"\x80" + bytes(-(len(covered) + 1) % 16)
    state = bytes(16)
    for at in range(0, len(covered), 16):
        state = sm4(key, bytes(a ^ b for a, b in zip(state, covered[at : at + 16], strict=True)))
    return state[:8]


def entry(card: bytes = CARD, counter: int = 7, purse: int = 1) -> MetroRecord:
    open_record = MetroRecord(MetroState.IN, 1, 4, AT, bytes.fromhex("791001000001"), counter=counter)
    return replace(open_record, mac=psam_mac(card, composite_mac_input(card, purse, open_record.encode())))


def judged(
    raw: bytes, card: bytes = CARD, counter: int = 8, now: datetime = NOW, *, alone: bool = False
) -> EntryFinding:
    record = MetroRecord.decode(raw)
    mac = psam_mac(card, composite_mac_input(card, 1, raw))
    return judge_entry(record, mac, counter, alone=alone, now=now, longest=LONGEST)


def test_the_covered_bytes_are_those_of_the_contract() -> None:
    raw = entry().encode()
    covered = composite_mac_input(CARD, 1, raw)
    assert covered == b"OCM1" + CARD + b"\x01" + raw[:38] and len(covered) == 53
    assert raw[36:38] == b"\0\7" and raw[46:] == crc16(raw[:46])
    assert raw[38:46] == psam_mac(CARD, covered)
    for card, record in ((CARD[1:], raw), (CARD, raw[1:])):
        with pytest.raises(FormatError):
            composite_mac_input(card, 1, record)


def test_what_the_psam_is_asked() -> None:
    factors = ordered_factors(PsamFactorOrder.CARD_CITY, card_factor(CARD), city_factor(ISSUER))
    selected = InitDescrypt(ENTRY_USAGE, ENTRY_KEY_ID, factors).apdu().encode()
    assert selected == bytes.fromhex("801A460110 1234567890123456 0231791002317910")
    asked = Crypt(composite_mac_input(CARD, 1, entry().encode())).apdu().encode()
    assert asked[:5].hex() == "80fa050035" and asked[-1] == 8


def test_a_genuine_entry_is_priced() -> None:
    raw = entry().encode()
    assert judged(raw) is judged(raw, alone=True) is EntryFinding.GENUINE
    assert judged(raw, counter=12) is EntryFinding.GENUINE, "a coffee between the gates"
    assert judged(raw, counter=12, alone=True) is EntryFinding.STALE, "nothing else moves this purse"


@given(st.integers(0, 37), st.integers(1, 255))
def test_no_edited_byte_is_priced(at: int, change: int) -> None:
    """The check sum is no protection: whoever edits the record corrects it."""
    raw = bytearray(entry().encode())
    raw[at] ^= change
    raw[46:] = crc16(bytes(raw[:46]))
    # Some edits leave no metro record at all.
    with suppress(FormatError):
        assert judged(bytes(raw), counter=0xFFFF) in (EntryFinding.FORGED, EntryFinding.NONE)


@given(st.binary(min_size=8, max_size=8))
def test_no_other_mac_is_priced(mac: bytes) -> None:
    good = entry()
    found = judged(replace(good, mac=mac).encode())
    assert found is (EntryFinding.UNGUARDED if mac == bytes(8) else EntryFinding.FORGED) or mac == good.mac


def test_another_cards_entry_is_forged() -> None:
    assert judged(entry(OTHER).encode()) is EntryFinding.FORGED
    assert judged(entry(purse=3).encode()) is EntryFinding.FORGED


@pytest.mark.parametrize(
    ("counter", "now"), [(7, NOW), (3, NOW), (8, AT + LONGEST + timedelta(seconds=1)), (8, AT - timedelta(seconds=1))]
)
def test_an_old_or_future_entry_is_stale(counter: int, now: datetime) -> None:
    assert judged(entry().encode(), counter=counter, now=now) is EntryFinding.STALE


def test_zeros_are_unguarded_and_no_entry_is_none() -> None:
    bare = MetroRecord(MetroState.IN, 1, 4, AT, bytes(6))
    assert bare.encode()[36:46] == bytes(10), "as terminals without the key write it"
    assert judged(bare.encode()) is EntryFinding.UNGUARDED
    for state in (MetroState.OUT, MetroState.EXITED):
        assert judged(replace(entry(), state=state).encode()) is EntryFinding.NONE


# Transfer

RULE = TransferRule(timedelta(minutes=60), frozenset({101}), legs=2, percent=80, value_fen=10)
LAST = TransferRecord(leg=Leg.BUS, at=AT, operator=101, fare_fen=200, chained=1)


def test_a_transfer_record_is_as_documented() -> None:
    day = AT.date()
    record = replace(LAST, basis_fen=0x01020304, rides_today=3, counted_on=day, counter=9, mac=b"\xa5" * 8).encode()
    expected = "22 2E 00 01 20260302081530 000065 000000C8 01020304 01 0003 20260302" + "00" * 7 + "0009" + "A5" * 8
    assert record == bytes.fromhex(expected) + crc16(bytes.fromhex(expected))
    with pytest.raises(FormatError, match="check sum"):
        TransferRecord.decode(record[:-1] + bytes([record[-1] ^ 1]))
    with pytest.raises(FormatError, match="check sum"):
        TransferRecord.decode(MetroRecord().encode())


@pytest.mark.parametrize(
    ("last", "minutes", "expected"),
    [
        (LAST, 60, True),
        (LAST, 61, False),
        (LAST, -1, False),
        (replace(LAST, operator=7), 5, False),
        (replace(LAST, chained=2), 5, False),
        (TransferRecord(), 5, False),
    ],
)
def test_who_gets_the_discount(last: TransferRecord, minutes: int, expected: bool) -> None:
    assert RULE.applies(last, AT + timedelta(minutes=minutes)) is expected
    assert not replace(RULE, within=timedelta(0)).applies(last, AT)


@pytest.mark.parametrize(("full_fen", "charged_fen"), [(200, 150), (203, 152), (201, 151), (10, 0), (0, 0)])
def test_discounted_fares_round_half_up(full_fen: int, charged_fen: int) -> None:
    assert RULE.fare_fen(full_fen) == charged_fen
    assert replace(RULE, percent=50, value_fen=0).fare_fen(1) == 1
