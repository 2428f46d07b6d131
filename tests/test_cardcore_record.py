"""The TapRecord: its table in docs/record.md, its 128 bytes, its JSON, and the inputs of its cryptograms."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore import cryptogram
from cardcore.errors import FormatError
from cardcore.record import BY_NAME, FIELDS, RECORD_BYTES, SEALED_BYTES, Field, Kind, Sector, TapRecord


def values(field: Field) -> st.SearchStrategy[int | bytes]:
    if field.unit == "b":
        return st.binary(min_size=field.width, max_size=field.width)
    bits = 8 * field.width
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if field.unit == "i" else st.integers(0, 2**bits - 1)


records = st.fixed_dictionaries({field.name: values(field) for field in FIELDS}).map(lambda named: TapRecord(**named))


def test_the_documented_table_is_the_field_table() -> None:
    text = Path("docs/record.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert [(name, int(offset), int(length)) for offset, length, name, _ in rows] == [
        (field.name, field.offset, field.width) for field in FIELDS
    ]
    assert {name for _, _, name, meaning in rows if "signed" in meaning} == {
        field.name for field in FIELDS if field.unit == "i"
    }
    assert BY_NAME["seal"].offset == SEALED_BYTES


@given(records)
def test_records_survive_bytes_and_json(record: TapRecord) -> None:
    raw = record.encode()
    assert len(raw) == RECORD_BYTES
    assert TapRecord.decode(raw) == record
    document = record.to_json()
    assert "reserved" not in document
    spelled = TapRecord.from_json(document).encode()
    reserved = BY_NAME["reserved"]
    assert spelled[: reserved.offset] == raw[: reserved.offset]
    assert spelled[reserved.offset + reserved.width :] == raw[reserved.offset + reserved.width :]


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES))
def test_every_bit_pattern_is_a_record(raw: bytes) -> None:
    record = TapRecord.decode(raw)
    assert record.encode() == raw
    assert len(cryptogram.purchase_tac_input(record)) == 22
    assert len(cryptogram.load_tac_input(record)) == 24
    assert len(cryptogram.proof_input(record)) > 12


def flat() -> TapRecord:
    return TapRecord(
        kind=Kind.DEBIT,
        issuer=bytes.fromhex("02317910"),
        card=bytes.fromhex("03101234567890123456"),
        terminal_number=bytes.fromhex("000000000001"),
        date=bytes.fromhex("20120229"),
        time=bytes.fromhex("135100"),
        terminal=110001,
        sequence=1,
        amount_fen=0x1000,
        transaction_type=0x06,
        terminal_transaction=1,
        counter=7,
        balance_before_fen=-100,
        overdraft_fen=800,
    )


def test_cryptogram_inputs_are_the_published_ones() -> None:
    """The purchase of the public 3DES example; a load covers the raw new balance."""
    record = flat()
    tail = "2012022913 5100"
    assert cryptogram.purchase_tac_input(record) == bytes.fromhex(f"00001000 06 000000000001 00000001 {tail}")
    assert cryptogram.load_tac_input(record) == bytes.fromhex(f"000012BC 0007 00001000 06 000000000001 {tail}")
    number = bytes.fromhex("001122334455")
    assert cryptogram.load_mac1_input(0, 0x1000, 1, number).hex() == "000000000000100001001122334455"
    when = bytes.fromhex("20111221"), bytes.fromhex("214822")
    assert cryptogram.host_mac2_input(0x1000, 1, number, *when).hex() == "000010000100112233445520111221214822"
    assert cryptogram.purchase_mac2_input(0x1000).hex() == "00001000"
    assert cryptogram.overdraft_mac1_input(0, 0, number).hex() == "0000000000000007001122334455"
    assert cryptogram.overdraft_mac2_input(800, number, *when).hex() == "0003200700112233445520111221214822"


def test_acts_cover_card_split_and_challenge() -> None:
    split = cryptogram.split_text({"fund": 700, "account": 300})
    assert split == b"account=300;fund=700"
    covered = cryptogram.act_input(flat(), Sector.MEDICAL, bytes(8), bytes(32))
    assert len(covered) == 4 + 1 + 8 + 8 + 4 + 1 + 6 + 4 + 3 + 10 + 32
    assert covered.startswith(b"OCA1\x05")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount_fen": -1}, "amount_fen"),
        ({"amount_fen": 2**32}, "amount_fen"),
        ({"amount_fen": True}, "amount_fen"),
        ({"amount_fen": "200"}, "amount_fen"),
        ({"card": "00"}, "card"),
        ({"card": "zz" * 10}, "card"),
        ({"card": 7}, "card"),
        ({"fare": 1}, "fare"),
        ({"reserved": "00" * 15}, "reserved"),
    ],
)
def test_json_faults_name_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(FormatError, match=field):
        TapRecord.from_json(flat().to_json() | change)


def test_a_missing_field_is_named() -> None:
    document = flat().to_json()
    del document["terminal"]
    with pytest.raises(FormatError, match="terminal"):
        TapRecord.from_json(document)


@pytest.mark.parametrize("size", [0, 127, 129])
def test_other_lengths_are_no_records(size: int) -> None:
    with pytest.raises(FormatError, match="128"):
        TapRecord.decode(bytes(size))
