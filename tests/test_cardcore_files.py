"""The contents of files: round trips, a real card's EF 0015, check sums, totality."""

import random
import re
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.bcd import decode_digits, decode_moment, encode_digits, encode_moment
from cardcore.card_files import (
    CardId,
    CityData,
    CommonData,
    CompositeRecord,
    Concession,
    DirectoryEntry,
    Holder,
    Leg,
    LogCounter,
    LogRecord,
    MedicalIdentity,
    MedicalVisit,
    MetroRecord,
    MetroState,
    MinistryData,
    SocialCard,
    SocialHolder,
    TransferRecord,
    TripRecord,
    Utility,
    UtilityAccount,
    crc16,
    decode_account,
    directory_entry,
    social_card,
)
from cardcore.card_map import (
    APPLICATIONS,
    KeyType,
    act_application,
    card_factor,
    city_factor,
    key_id,
    psam_purchase_id,
    purchase_sector,
)
from cardcore.errors import FormatError
from cardcore.record import Sector, Suite
from cardcore.tlv import build, build_all, find

days = st.dates(date(1, 1, 1), date(9999, 12, 31))
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda moment: moment.replace(microsecond=0))


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=count, max_size=count)


def unsigned(width: int) -> st.SearchStrategy[int]:
    return st.integers(0, 256**width - 1)


commons = st.builds(
    CommonData,
    issuer_id=octets(8),
    card=octets(10),
    starts=days,
    expires=days,
    application_type=unsigned(1),
    version=unsigned(1),
    issuer_data=octets(2),
)
CONTENTS = {
    CommonData: (commons, 30),
    MedicalIdentity: (st.builds(MedicalIdentity, commons, unsigned(1), unsigned(1)), 32),
    CityData: (
        st.builds(
            CityData,
            province=digits(4),
            city=digits(4),
            concession=unsigned(1),
            country=octets(4),
            interconnection=octets(2),
            rest=octets(49),
        ),
        60,
    ),
    Holder: (
        st.builds(Holder, st.text("王小明李AB", max_size=10), digits(18), unsigned(1), unsigned(1), unsigned(1)),
        55,
    ),
    CardId: (
        st.builds(
            CardId,
            issuer=octets(2),
            city=digits(4),
            serial=octets(8),
            issued=days,
            industry=octets(2),
            main_type=unsigned(1),
            sub_type=unsigned(1),
            device=octets(6),
            version=octets(2),
        ),
        30,
    ),
    LogRecord: (
        st.builds(LogRecord, unsigned(2), unsigned(3), unsigned(4), unsigned(1), octets(6), octets(4), octets(3)),
        23,
    ),
    MetroRecord: (
        st.builds(
            MetroRecord,
            st.sampled_from(MetroState),
            unsigned(2),
            unsigned(2),
            st.none() | moments,
            octets(6),
            unsigned(2),
            unsigned(2),
            st.none() | moments,
            unsigned(4),
            unsigned(2),
            octets(8),
        ),
        48,
    ),
    TransferRecord: (
        st.builds(
            TransferRecord,
            leg=st.sampled_from(Leg),
            at=st.none() | moments,
            operator=unsigned(3),
            fare_fen=unsigned(4),
            basis_fen=unsigned(4),
            chained=unsigned(1),
            rides_today=unsigned(2),
            counted_on=st.none() | days,
            counter=unsigned(2),
            mac=octets(8),
        ),
        48,
    ),
    MinistryData: (
        st.builds(
            MinistryData,
            institution=octets(2),
            city=digits(4),
            serial=octets(8),
            starts=days,
            expires=days,
            enabled=st.booleans(),
            industry=octets(2),
            version=unsigned(1),
            interconnection=octets(2),
            main_type=unsigned(1),
            sub_type=unsigned(1),
            business=octets(4),
        ),
        34,
    ),
    UtilityAccount: (
        st.builds(
            UtilityAccount,
            kind=st.sampled_from(Utility),
            supplier=octets(4),
            account=st.text("0123456789水A", max_size=6),
            quota_fen=unsigned(4),
            period=digits(6),
            flags=unsigned(1),
        ),
        32,
    ),
    MedicalVisit: (
        st.builds(
            MedicalVisit,
            institution=octets(9),
            day=days,
            kind=unsigned(1),
            bill_fen=unsigned(4),
            insurance_fen=unsigned(4),
            mark=octets(4),
        ),
        32,
    ),
    TripRecord: (
        st.builds(
            TripRecord,
            kind=unsigned(1),
            terminal=octets(8),
            sub_kind=unsigned(1),
            place=octets(7),
            amount_fen=unsigned(4),
            balance_fen=unsigned(4),
            at=st.none() | moments,
            city=digits(4),
            acquirer=octets(8),
        ),
        48,
    ),
}


@pytest.mark.parametrize("kind", CONTENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_contents_survive(kind: type, data: st.DataObject) -> None:
    strategy, size = CONTENTS[kind]
    content = data.draw(strategy)
    raw = content.encode()
    assert len(raw) == size
    assert kind.decode(raw) == content


@pytest.mark.parametrize("kind", CONTENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_decoding_is_total(kind: type, data: st.DataObject) -> None:
    size = CONTENTS[kind][1]
    raw = data.draw(octets(size) | st.binary(max_size=70))
    try:
        kind.decode(raw)
    except FormatError:
        return
    assert len(raw) == size


ministries = CONTENTS[MinistryData][0]


@given(ministries)
def test_a_city_card_without_bitmap_is_shorter(content: MinistryData) -> None:
    short = replace(content, business=None)
    assert short.encode() == content.encode()[:30] and MinistryData.decode(short.encode()) == short


def test_a_city_card_is_as_documented() -> None:
    """Chang'an Tong, laid out by hand from docs/card.md: city 7100, running number 0000ABCD."""
    raw = bytes.fromhex(
        "0271 7100 0001 0000 01 02 0003 7100 01 02 0000ABCD 20260301 20360229".replace("2036", "2032")
        + "01 03 80000001"
    )
    card = MinistryData.decode(raw)
    assert (card.institution.hex(), card.city, card.industry.hex(), card.enabled) == ("0271", "7100", "0001", True)
    assert (card.version, card.interconnection.hex(), card.serial.hex()) == (2, "0003", "710001020000abcd")
    assert (card.starts, card.expires) == (date(2026, 3, 1), date(2032, 2, 29))
    assert (card.main_type, card.sub_type, card.business) == (1, 3, b"\x80\0\0\1")
    assert card.issuer == raw[:4] and card.card == bytes(2) + card.serial and card_factor(card.card) == card.serial
    assert card.encode() == raw
    assert card.good_on(date(2032, 2, 29)) and not card.good_on(date(2032, 3, 1)), "the last day counts"
    assert not replace(card, enabled=False).good_on(date(2026, 3, 1))
    with pytest.raises(FormatError, match="enabled flag"):
        MinistryData.decode(raw[:8] + b"\x02" + raw[9:])


social_cards = st.builds(
    SocialCard,
    card_id=octets(16),
    starts=days,
    expires=days,
    number=st.text("A0123456789", max_size=9),
    version=st.sampled_from(["2.00", "3.00"]),
    card_class=st.none() | unsigned(1),
    initialised_by=st.none() | octets(12),
)
social_holders = st.builds(
    SocialHolder,
    citizen_number=digits(18),
    name=st.text("王小明李AB", max_size=15),
    sex=st.none() | unsigned(1),
    nationality=st.none() | unsigned(1),
    birth_place=st.none() | octets(3),
    born=st.none() | days,
)


@given(social_cards | social_holders, st.randoms())
def test_social_records_survive_in_any_order(content: SocialCard | SocialHolder, draw: random.Random) -> None:
    records = [build(item.tag, item.value) for item in content.records()]
    draw.shuffle(records)
    assert type(content).of_records(records) == content


@given(st.lists(st.binary(max_size=24) | st.builds(build, st.integers(1, 14), st.binary(max_size=31)), max_size=9))
def test_social_records_are_total(records: list[bytes]) -> None:
    for kind in (SocialCard, SocialHolder):
        try:
            kind.of_records(records)
        except FormatError:
            continue
        assert len({record[0] for record in records}) == len(records)


def test_social_records_name_what_is_missing_or_double() -> None:
    records = [
        build(item.tag, item.value) for item in social_card("610100", bytes(10), date(2026, 3, 1), date(2036, 1, 1))
    ]
    assert SocialCard.of_records(records).area == "610100"
    with pytest.raises(FormatError, match="lacks object 07"):
        SocialCard.of_records(records[:-1])
    with pytest.raises(FormatError, match="07, or has it twice"):
        SocialCard.of_records([*records, records[-1]])


@given(octets(5), st.text("ABC 12", max_size=16), unsigned(1))
def test_directory_entries_survive(aid: bytes, label: str, priority: int) -> None:
    entry = DirectoryEntry(aid, label, priority)
    assert DirectoryEntry.decode(entry.encode()) == entry
    assert DirectoryEntry.decode(build(0x70, entry.encode())) == entry, "as some city cards wrap it"


@given(st.binary(max_size=40) | st.builds(lambda raw: b"\x61" + bytes([len(raw)]) + raw, st.binary(max_size=30)))
def test_directory_and_composite_records_are_total(raw: bytes) -> None:
    for kind in (DirectoryEntry, CompositeRecord):
        try:
            found = kind.decode(raw)
        except FormatError:
            continue
        assert isinstance(found, DirectoryEntry) or found.encode() == raw


def test_a_composite_record_tells_its_lock() -> None:
    """The head that toll cards write: id AA, 25h bytes follow, unlocked."""
    raw = bytes.fromhex("AA2500") + bytes(36)
    record = CompositeRecord.decode(raw)
    assert (record.id, record.locked, len(record.payload)) == (0xAA, False, 36) and record.encode() == raw
    assert CompositeRecord.decode(MetroRecord().encode()).id == 0x21


def test_a_free_place_is_no_account() -> None:
    assert decode_account(bytes(32)) is None
    account = UtilityAccount(kind=Utility.GAS, supplier=b"\0\0\0\7", account="10203040", period="202603")
    assert decode_account(account.encode()) == account
    for raw in (b"", bytes(31), b"\x05" + bytes(31)):
        with pytest.raises(FormatError):
            decode_account(raw)


def test_common_data_of_a_real_card() -> None:
    """A T-Union card as public readers dump it: the printed number follows the leading 0 of the serial."""
    raw = bytes.fromhex("01011000FFFFFFFF 02 01 03105170010170907984 20190101 20401231 0000")
    common = CommonData.decode(raw)
    assert common.issuer.hex() == "01011000"
    assert common.card.hex()[1:] == "3105170010170907984"
    assert (common.starts, common.expires) == (date(2019, 1, 1), date(2040, 12, 31))
    assert common.encode() == raw


def test_metro_record_is_as_documented() -> None:
    """Offsets of docs/card.md, read from the text."""
    record = MetroRecord(
        MetroState.EXITED,
        0x0102,
        0x0304,
        datetime(2026, 3, 2, 8, 15, 30),
        bytes.fromhex("791001000001"),
        0x0506,
        0x0708,
        datetime(2026, 3, 2, 8, 45),
        250,
        0x1122,
        bytes.fromhex("a1a2a3a4a5a6a7a8"),
    ).encode()
    expected = {
        "0": "21", "1": "2e", "2": "00", "3": "02", "4-5": "0102", "6-7": "0304", "8-14": "20260302081530",
        "15-20": "791001000001", "21-22": "0506", "23-24": "0708", "25-31": "20260302084500", "32-35": "000000fa",
        "36-37": "1122", "38-45": "a1a2a3a4a5a6a7a8", "46-47": crc16(record[:46]).hex(),
    }  # fmt: skip
    text = Path("docs/card.md").read_text(encoding="utf-8")
    documented = set(
        re.findall(r"(?:·|:|\n) ?(\d+(?:-\d+)?) ", text[text.index("The metro record") :].split("\n\n")[0])
    )
    assert documented == set(expected)
    for place, value in expected.items():
        first, _, last = place.partition("-")
        assert record[int(first) : int(last or first) + 1].hex() == value


def test_metro_record_notices_damage() -> None:
    raw = bytearray(MetroRecord().encode())
    raw[33] ^= 1
    with pytest.raises(FormatError, match="check sum"):
        MetroRecord.decode(bytes(raw))


def test_crc_has_the_published_check_value() -> None:
    assert crc16(b"123456789").hex() == "29b1"


def test_log_counter_follows_the_profile() -> None:
    record = LogRecord(1, 0, 100, 2, bytes(6), bytes(4), bytes(3))
    assert record.counter_before(LogCounter.BEFORE) == 1
    assert record.counter_before(LogCounter.AFTER) == 0


def test_directory_and_social_records() -> None:
    entry = directory_entry(APPLICATIONS[1].aid, "TRANSIT", 1)
    assert find(entry, 0x61, 0x4F) == APPLICATIONS[1].aid
    assert find(entry, 0x61, 0x50) == b"TRANSIT"
    records = social_card("610100", bytes.fromhex("03101234567890123456"), date(2026, 3, 1), date(2036, 2, 29))
    assert find(build_all(records), 0x01) == bytes.fromhex("610100D1560000051234567890123456")
    assert [len(item.value) for item in records] == [16, 4, 4, 4, 9]


def test_key_ids_are_those_of_the_contract() -> None:
    """The table of docs/card.md, "Keys"."""
    assert [key_id(KeyType.PURCHASE, Suite.TRIPLE_DES, s) for s in (1, 3, 4) for s in [Sector(s)]] == [1, 2, 3]
    assert [key_id(KeyType.PURCHASE, Suite.SM4, s) for s in (Sector.TRANSIT, Sector.UTILITY)] == [0x11, 0x13]
    for kind in (KeyType.LOAD, KeyType.UNLOAD, KeyType.OVERDRAFT, KeyType.TAC):
        assert (key_id(kind, Suite.TRIPLE_DES), key_id(kind, Suite.SM4)) == (0x01, 0x11)
    assert (key_id(KeyType.ACT, Suite.TRIPLE_DES), key_id(KeyType.ACT, Suite.SM4)) == (0x02, 0x12)
    assert {key_id(kind, suite) for kind in (KeyType.CONTROL, KeyType.PIN) for suite in Suite} == {0}
    assert {purchase_sector(index) for index in (0x02, 0x12)} == {Sector.SMALLPAY}
    assert (psam_purchase_id(Sector.UTILITY, Suite.TRIPLE_DES), psam_purchase_id(Sector.UTILITY, Suite.SM4)) == (
        4,
        0x14,
    )
    for wrong in (lambda: key_id(KeyType.PURCHASE, Suite.SM4, Sector.MEDICAL), lambda: purchase_sector(0x21)):
        with pytest.raises(FormatError, match="transit, smallpay, utility"):
            wrong()
    assert act_application(Sector.MEDICAL).number == 5
    with pytest.raises(FormatError):
        act_application(Sector.TRANSIT)
    assert Concession(3) is Concession.SENIOR


def test_derivation_factors() -> None:
    assert city_factor(bytes.fromhex("02317910")).hex() == "0231791002317910"
    assert card_factor(bytes.fromhex("03101234567890123456")).hex() == "1234567890123456"


@given(st.binary(max_size=12))
def test_bcd_is_total(raw: bytes) -> None:
    try:
        text = decode_digits(raw)
    except FormatError:
        return
    assert encode_digits(text) == raw


@given(moments)
def test_moments_survive(moment: datetime) -> None:
    assert decode_moment(*encode_moment(moment)) == moment


@pytest.mark.parametrize("text", ["1", "1a", "１２", "-1", " 1"])
def test_digits_are_decimal_and_even(text: str) -> None:
    with pytest.raises(FormatError):
        encode_digits(text)
