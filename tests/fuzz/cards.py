"""Targets of `cardcore`: TLV, APDUs and answers, secure messaging, records, the contents of files, profiles."""

import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from cardcore import commands, secure_messaging, tlv
from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.card_files import (
    CardId,
    CityData,
    CommonData,
    CompositeRecord,
    DirectoryEntry,
    Holder,
    LogRecord,
    MedicalIdentity,
    MedicalVisit,
    MetroRecord,
    MinistryData,
    SocialCard,
    SocialHolder,
    TransferRecord,
    TripRecord,
    Utility,
    UtilityAccount,
    decode_account,
)
from cardcore.errors import CardError, FormatError, OnecardError, ProfileError
from cardcore.order import CardOrder
from cardcore.profile import load_profile, profile_names, read_profile
from cardcore.record import FIELDS, Kind, Suite, TapRecord
from cardcore.script import steps
from cardcore.status import classify, explain, move
from tests.fuzz.draw import Draw, pieces
from tests.fuzz.target import Target

ISSUER, SERIAL, TERMINAL = (
    bytes.fromhex("02317910"),
    bytes.fromhex("03107910000000000001"),
    bytes.fromhex("0000001ADB01"),
)
DAY, NOON = date(2026, 3, 2), datetime(2026, 3, 2, 12, 0, 5)
RECORD = TapRecord(
    kind=Kind.EXIT, issuer=ISSUER, card=SERIAL, terminal_number=TERMINAL, date=bytes.fromhex("20260302"),
    time=bytes.fromhex("081530"), terminal=110001, sequence=7, amount_fen=200, balance_before_fen=-5,
)  # fmt: skip


def read_tlv(raw: bytes) -> None:
    with suppress(FormatError):
        objects = tlv.parse(raw)
        assert tlv.parse(tlv.build_all(objects)) == objects
        for item in objects[:3]:
            with suppress(FormatError):
                assert tlv.find(raw, item.tag) is not None
                assert len(item.children) <= tlv.MAX_OBJECTS
    with suppress(FormatError):
        tlv.find(raw, 0x6F, 0xA5, 0x9F0C)


def read_apdu(raw: bytes) -> None:
    with suppress(FormatError):
        command = CommandApdu.decode(raw)
        assert command.encode() == raw
    with suppress(FormatError):
        answer = ResponseApdu.decode(raw)
        assert answer.encode() == raw
        assert explain("SELECT", answer.sw) and classify(answer.sw) and move(answer.sw)


# Every command that reads more from its answer than a status word.
_ASKED: tuple[commands.Command[object], ...] = (
    commands.Select(b"\x3f\x00"),
    commands.ReadBinary(0x15, 30),
    commands.ReadRecord(0x18, 1),
    commands.GetChallenge(8),
    commands.GetBalance(),
    commands.GetTransactionProof(6, 1),
    commands.InitLoad(1, 100, TERMINAL),
    commands.InitUnload(1, 100, TERMINAL),
    commands.InitUpdate(1, TERMINAL),
    commands.InitPurchase(1, 100, TERMINAL),
    commands.VerifyPin("123456"),
)


def read_answer(raw: bytes) -> None:
    """The first byte chooses the command that was answered."""
    with suppress(FormatError, CardError):
        _ASKED[raw[0] % len(_ASKED) if raw else 0].read(ResponseApdu.decode(raw[1:]))


def read_secured(raw: bytes) -> None:
    for suite in Suite:
        with suppress(FormatError):
            content = secure_messaging.read_field(raw, suite)
            assert secure_messaging.enciphered_field(content, suite) == raw
    with suppress(FormatError):
        body, mac = secure_messaging.split_answer(raw)
        assert body + mac == raw and len(mac) == secure_messaging.MAC_BYTES
    with suppress(FormatError):
        command = CommandApdu.decode(raw)
        assert secure_messaging.mac_input(command)[5:] == command.data


def read_record(raw: bytes) -> None:
    with suppress(FormatError):
        record = TapRecord.decode(raw)
        assert record.encode() == raw
        if not any(record.reserved):
            assert TapRecord.from_json(record.to_json()) == record


def read_record_json(raw: bytes) -> None:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        with suppress(FormatError):
            record = TapRecord.from_json(document)
            assert TapRecord.decode(record.encode()) == record


def read_record_fields(raw: bytes) -> None:
    """The spelling in JSON with one to three members changed, removed or added."""
    draw = Draw(raw)
    document: dict[str, object] = {**RECORD.to_json()}
    for _ in range(1 + draw.number(1) % 3):
        name = draw.choice([field.name for field in FIELDS])
        match draw.number(1) % 8:
            case 0:
                document.pop(name, None)
            case 1:
                document[draw.text(4)] = draw.value()
            case _:
                document[name] = draw.value()
    with suppress(FormatError):
        record = TapRecord.from_json(document)
        assert TapRecord.decode(record.encode()) == record
        assert record.to_json().items() >= document.items()


class _Content(Protocol):
    def encode(self) -> bytes: ...


_CONTENTS: Mapping[Callable[[bytes], _Content | None], _Content] = {
    CommonData.decode: CommonData(issuer_id=ISSUER * 2, card=SERIAL, starts=DAY, expires=DAY),
    MedicalIdentity.decode: MedicalIdentity(CommonData(issuer_id=ISSUER * 2, card=SERIAL, starts=DAY, expires=DAY)),
    CityData.decode: CityData(province="6100", city="7910", concession=2),
    Holder.decode: Holder("王小明", "610104199001011234"),
    CardId.decode: CardId(issuer=b"\x01\x02", city="7100", serial=SERIAL[2:], issued=DAY),
    MinistryData.decode: MinistryData(
        institution=b"\x01\x02", city="7100", serial=SERIAL[2:], starts=DAY, expires=DAY, business=bytes(4)
    ),
    LogRecord.decode: LogRecord(1, 800, 200, 6, TERMINAL, RECORD.date, RECORD.time),
    TripRecord.decode: TripRecord(
        kind=3,
        terminal=bytes(8),
        sub_kind=1,
        place=bytes(7),
        amount_fen=2,
        balance_fen=9,
        at=NOON,
        city="7910",
        acquirer=bytes(8),
    ),
    CompositeRecord.decode: CompositeRecord(0x23, True, bytes(20)),
    MetroRecord.decode: MetroRecord(entry_at=NOON),
    TransferRecord.decode: TransferRecord(at=NOON, counted_on=DAY),
    DirectoryEntry.decode: DirectoryEntry(bytes.fromhex("A000000632010105"), "TRANSIT", 1),
    decode_account: UtilityAccount(kind=Utility.GAS, supplier=bytes(4), account="12345678", period="202603"),
    MedicalVisit.decode: MedicalVisit(
        institution=bytes(9), day=DAY, kind=1, bill_fen=100, insurance_fen=70, mark=bytes(4)
    ),
}
_READERS = tuple(_CONTENTS)


def read_content(raw: bytes) -> None:
    """The first byte chooses the file."""
    read = _READERS[raw[0] % len(_READERS) if raw else 0]
    with suppress(FormatError):
        content = read(raw[1:])
        if content is not None:
            _writable(content, read)


def _writable(content: _Content, read: Callable[[bytes], object]) -> None:
    """What was read can be written, and is the same when it is read again."""
    try:
        written = content.encode()
    except FormatError as error:
        # Text is read up to the zeros that fill it; zeros inside it are a stranger's, and are never written.
        assert "GBK" in str(error) and "\0" in repr(content).encode().decode("unicode_escape"), error
        return
    assert read(written) == content


def read_social(raw: bytes) -> None:
    records = pieces(raw)
    for kind in (SocialCard, SocialHolder):
        with suppress(FormatError):
            content = kind.of_records(records)
            with suppress(FormatError):
                written = [tlv.build_all((record,)) for record in content.records()]
                assert kind.of_records(written).records() == content.records()


def read_profile_text(raw: bytes) -> None:
    """TOML as a file holds it."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(raw)
        file.flush()
        with suppress(ProfileError):
            load_profile(file.name)


def _documents() -> list[dict[str, Any]]:
    """The published profiles, each application beside the MF alone: a short document has each of its fields met more
    often."""
    found = []
    for name in profile_names():
        text = (Path(str(files("cardcore.profiles"))) / f"{name}.toml").read_text(encoding="utf-8")
        document = tomllib.loads(text)
        root, *others = document["application"]
        for one in others:
            unused = set() if "purse" in one else {"log_counter", "psam_factor_order", "sm4_session_key"}
            kept = {field: value for field, value in document.items() if field not in unused}
            found.append(kept | {"application": [root, one]})
    return found


_DOCUMENTS = _documents()


def read_profile_fields(raw: bytes) -> None:
    """A published profile with one to four fields changed, removed or added; what is accepted makes a script."""
    draw = Draw(raw)
    document: Any = draw.choice(_DOCUMENTS)
    for _ in range(1 + draw.number(1) % 4):
        document = _changed(document, draw, root=True)
    with suppress(ProfileError):
        profile = read_profile(document, "fuzzed")
        for suite in profile.suites:
            with suppress(OnecardError):
                order = CardOrder(issuer=ISSUER, card=SERIAL, suite=suite, concession=1, starts=DAY, expires=DAY)
                for _step in steps(profile, order):
                    pass


def _changed(value: Any, draw: Draw, *, root: bool = False) -> Any:
    """A copy with one change somewhere below; only what lies on the way to it is copied. The root stays a table."""
    turn = draw.number(1) | 32 * root
    if turn < 32 or not isinstance(value, dict | list) or not value:
        return draw.value()
    if isinstance(value, dict):
        name = draw.choice(sorted(value))
        rest = {key: kept for key, kept in value.items() if key != name}
        if turn < 40:
            return rest
        if turn < 48:
            return value | {draw.text(4): draw.value()}
        return rest | {name: _changed(value[name], draw)}
    place = draw.number(2) % len(value)
    if turn < 48:
        return value[:place] + value[place + 1 :] if turn < 40 else [*value, value[place]]
    return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]


_NAMES = tuple(sorted({name for document in _DOCUMENTS for name in document} | {"kind", "fid", "ids", "sector"}))
_SMALL_PROFILE = b"""name = "x"
title = "y"
suites = ["sm4"]
pin = "123456"
[[application]]
number = 0
fid = 0x3F00
aid = "3150"
files = [{ fid = 1, kind = "variable", count = 8, length = 44, read = 0xF0, write = 0xF0, protected = false }]
keys = [{ type = "control", ids = { sm4 = 0 }, use = 0xF0, change = 0xFA, next_state = 10, tries = 0x55 }]
"""
_SOCIAL = (
    SocialCard(card_id=bytes(16), starts=DAY, expires=DAY, number="123456789").records(),
    SocialHolder(citizen_number="610104199001011234", name="王小明").records(),
)

TARGETS = (
    Target(
        "tlv", read_tlv, 160,
        seeds=(bytes.fromhex("6F15840E315041592E5359532E4444463031A503880101"), tlv.build(0x5F20, bytes(130))),
        words=(b"\x6f", b"\x84", b"\xa5", b"\x9f\x0c", b"\x81", b"\x82", b"\x70", b"\x61"),
    ),
    Target(
        "apdu", read_apdu, 300,
        seeds=(bytes.fromhex("00A40400023F0000"), bytes.fromhex("805C000204"), b"\x90\x00", b"\x00\x84\0\0\x04"),
    ),
    Target(
        "answer", read_answer, 80,
        seeds=tuple(bytes((place,)) + bytes(size) + b"\x90\x00" for place, size in ((3, 8), (4, 4), (6, 16), (9, 15))),
        words=(b"\x90\x00", b"\x63\xc3", b"\x6f", b"\x84", b"\xa5", b"\x9f\x0c"),
    ),
    Target(
        "secured", read_secured, 300,
        seeds=tuple(secure_messaging.enciphered_field(bytes(size), suite) for suite in Suite for size in (7, 15, 30)),
    ),
    Target("record", read_record, 160, seeds=(RECORD.encode(), bytes(128))),
    Target(
        "record-json", read_record_json, 1500,
        seeds=(json.dumps(RECORD.to_json()).encode(),), words=tuple(f'"{field.name}"'.encode() for field in FIELDS),
    ),
    Target("record-fields", read_record_fields, 48, seeds=(bytes(8), bytes(range(40)), bytes(range(200, 240)))),
    Target(
        "files", read_content, 80,
        seeds=tuple(bytes((place,)) + content.encode() for place, content in enumerate(_CONTENTS.values())),
    ),
    Target(
        "social", read_social, 300,
        seeds=tuple(
            b"".join(bytes((len(item.value) + 2,)) + tlv.build_all((item,)) for item in records) for records in _SOCIAL
        ),
    ),
    Target(
        "profile-text", read_profile_text, 1024,
        seeds=(_SMALL_PROFILE,), words=tuple(name.encode() for name in _NAMES),
    ),
    Target(
        "profile", read_profile_fields, 64,
        seeds=(bytes(8), bytes(range(32)), bytes(range(64, 128))),
    ),
)  # fmt: skip
