"""What stands in the files of the card: one frozen class per content, with `encode` and `decode` (docs/card.md).

Every `decode` raises FormatError for another length or content, and only that.
"""

from binascii import crc_hqx
from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum, StrEnum

from cardcore.bcd import decode_digits, decode_moment, encode_day, encode_digits, encode_moment
from cardcore.errors import FormatError
from cardcore.tlv import Tlv, build_all

_MIDNIGHT = bytes(3)


class Reader:
    """Takes fields off the front of a content whose length was checked."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes, size: int, what: str) -> None:
        if len(raw) != size:
            raise FormatError(f"{what} has {size} bytes, not {len(raw)}")
        self._raw = raw
        self._at = 0

    def take(self, width: int) -> bytes:
        part = self._raw[self._at : self._at + width]
        self._at += width
        return part

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def day(self) -> date:
        return decode_moment(self.take(4), _MIDNIGHT).date()

    def moment(self) -> datetime | None:
        """A moment of 7 BCD bytes, None when they are zeros: nothing happened yet."""
        packed = self.take(7)
        return decode_moment(packed[:4], packed[4:]) if any(packed) else None


def _exact(size: int, what: str, *parts: bytes) -> bytes:
    raw = b"".join(parts)
    if len(raw) != size:
        raise FormatError(f"{what} has {size} bytes, but its fields have {len(raw)}")
    return raw


def _u(value: int, width: int) -> bytes:
    try:
        return value.to_bytes(width, "big")
    except OverflowError as error:
        raise FormatError(f"{value} does not fit {width} bytes") from error


def _moment(moment: datetime | None) -> bytes:
    return b"".join(encode_moment(moment)) if moment else bytes(7)


class Concession(IntEnum):
    """Card class of EF 0017 (T-Union)."""

    ORDINARY = 1
    STUDENT = 2
    SENIOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonData:
    """EF 0015, 30 bytes: who issued the card, its serial, and from when to when (inclusive) it is good."""

    issuer_id: bytes
    card: bytes
    starts: date
    expires: date
    application_type: int = 0x02
    version: int = 0x01
    issuer_data: bytes = bytes(2)

    @property
    def issuer(self) -> bytes:
        """First 4 bytes of the issuer id: the issuer of records and key derivation."""
        return self.issuer_id[:4]

    def encode(self) -> bytes:
        kind = _u(self.application_type, 1) + _u(self.version, 1)
        days = encode_day(self.starts) + encode_day(self.expires)
        return _exact(30, "EF 0015", self.issuer_id, kind, self.card, days, self.issuer_data)

    @classmethod
    def decode(cls, raw: bytes) -> "CommonData":
        reader = Reader(raw, 30, "EF 0015")
        return cls(
            issuer_id=reader.take(8),
            application_type=reader.number(1),
            version=reader.number(1),
            card=reader.take(10),
            starts=reader.day(),
            expires=reader.day(),
            issuer_data=reader.take(2),
        )


@dataclass(frozen=True, slots=True)
class MedicalIdentity:
    """EF 0015 of the medical application, 32 bytes: the common data, blood group and allergies flag."""

    common: CommonData
    blood_group: int = 0
    allergies: int = 0

    def encode(self) -> bytes:
        return self.common.encode() + _u(self.blood_group, 1) + _u(self.allergies, 1)

    @classmethod
    def decode(cls, raw: bytes) -> "MedicalIdentity":
        reader = Reader(raw, 32, "the medical EF 0015")
        return cls(CommonData.decode(reader.take(30)), reader.number(1), reader.number(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CityData:
    """EF 0017, 60 bytes: province, city (4 digits each, region codes) and the class of the card."""

    province: str
    city: str
    concession: int
    country: bytes = bytes(4)
    interconnection: bytes = bytes(2)
    rest: bytes = bytes(49)

    def encode(self) -> bytes:
        region = encode_digits(self.province) + encode_digits(self.city)
        return _exact(60, "EF 0017", self.country, region, self.interconnection, _u(self.concession, 1), self.rest)

    @classmethod
    def decode(cls, raw: bytes) -> "CityData":
        reader = Reader(raw, 60, "EF 0017")
        return cls(
            country=reader.take(4),
            province=decode_digits(reader.take(2)),
            city=decode_digits(reader.take(2)),
            interconnection=reader.take(2),
            concession=reader.number(1),
            rest=reader.take(49),
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the card: name (30 bytes of GBK at most), number and kind of the identity document. Off by default."""

    name: str
    id_number: str
    id_type: int = 0x00

    def encode(self) -> bytes:
        """EF 0016, 55 bytes: card type, staff flag, name (20), identity number (32), its kind."""
        return bytes(2) + _text(self.name, 20) + _text(self.id_number, 32) + _u(self.id_type, 1)

    @classmethod
    def decode(cls, raw: bytes) -> "Holder":
        reader = Reader(raw, 55, "EF 0016")
        reader.take(2)
        return cls(_read_text(reader.take(20)), _read_text(reader.take(32)), reader.number(1))


def _text(text: str, width: int) -> bytes:
    try:
        packed = text.encode("gbk")
    except UnicodeEncodeError as error:
        raise FormatError(f"{text!r} has characters that GBK, the card's alphabet, lacks") from error
    if len(packed) > width or b"\0" in packed:
        raise FormatError(f"{text!r} does not fit {width} bytes of GBK")
    return packed.ljust(width, b"\0")


def _read_text(raw: bytes) -> str:
    try:
        return raw.rstrip(b"\0").decode("gbk")
    except UnicodeDecodeError as error:
        raise FormatError(f"{raw.hex()} is not GBK text") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CardId:
    """EF 0005 of the MF, 30 bytes: the card as an object (construction-ministry layout)."""

    issuer: bytes
    city: str
    serial: bytes
    issued: date
    industry: bytes = bytes(2)
    main_type: int = 1
    sub_type: int = 0
    device: bytes = bytes(6)
    version: bytes = b"\x00\x01"

    def encode(self) -> bytes:
        types = _u(self.main_type, 1) + _u(self.sub_type, 1)
        place = self.issuer + encode_digits(self.city) + self.industry + bytes(2)
        return _exact(30, "EF 0005", place, self.serial, types, encode_day(self.issued), self.device, self.version)

    @classmethod
    def decode(cls, raw: bytes) -> "CardId":
        reader = Reader(raw, 30, "EF 0005")
        issuer, city, industry = reader.take(2), decode_digits(reader.take(2)), reader.take(2)
        reader.take(2)
        return cls(
            issuer=issuer,
            city=city,
            industry=industry,
            serial=reader.take(8),
            main_type=reader.number(1),
            sub_type=reader.number(1),
            issued=reader.day(),
            device=reader.take(6),
            version=reader.take(2),
        )


class LogCounter(StrEnum):
    """Which counter a card writes into its log: sources and cards differ, so the profile says it."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """EF 0018, one record of 23 bytes: the last purse transactions, the newest first."""

    counter: int
    overdraft_fen: int
    amount_fen: int
    transaction_type: int
    terminal_number: bytes
    date: bytes
    time: bytes

    def counter_before(self, convention: LogCounter) -> int:
        """The counter that INITIALIZE answered and the cryptograms cover."""
        return self.counter - (convention is LogCounter.AFTER)

    def encode(self) -> bytes:
        amounts = _u(self.counter, 2) + _u(self.overdraft_fen, 3) + _u(self.amount_fen, 4)
        kind = _u(self.transaction_type, 1)
        return _exact(23, "a log record", amounts, kind, self.terminal_number, self.date, self.time)

    @classmethod
    def decode(cls, raw: bytes) -> "LogRecord":
        reader = Reader(raw, 23, "a log record")
        return cls(
            reader.number(2),
            reader.number(3),
            reader.number(4),
            reader.number(1),
            reader.take(6),
            reader.take(4),
            reader.take(3),
        )


class MetroState(IntEnum):
    """Where the holder is, as the metro record says."""

    OUT = 0
    IN = 1
    EXITED = 2


METRO_ID = 0x21
_METRO_HEAD = bytes((METRO_ID, 46, 0x00))


@dataclass(frozen=True, slots=True)
class MetroRecord:
    """Composite record 21 of EF 001A, 48 bytes: entry and exit of the last metro ride."""

    state: MetroState = MetroState.OUT
    entry_line: int = 0
    entry_station: int = 0
    entry_at: datetime | None = None
    entry_terminal: bytes = bytes(6)
    exit_line: int = 0
    exit_station: int = 0
    exit_at: datetime | None = None
    fare_fen: int = 0

    def encode(self) -> bytes:
        entry = _u(self.entry_line, 2) + _u(self.entry_station, 2) + _moment(self.entry_at) + self.entry_terminal
        leave = _u(self.exit_line, 2) + _u(self.exit_station, 2) + _moment(self.exit_at) + _u(self.fare_fen, 4)
        body = _exact(46, "a metro record", _METRO_HEAD, _u(self.state, 1), entry, leave, bytes(10))
        return body + crc16(body)

    @classmethod
    def decode(cls, raw: bytes) -> "MetroRecord":
        """Read 48 bytes; raises FormatError for another record, an unknown state or a wrong check sum."""
        reader = Reader(raw, 48, "a metro record")
        if reader.take(3) != _METRO_HEAD or crc16(raw[:46]) != raw[46:]:
            raise FormatError(f"{raw.hex()} is no metro record, or its check sum is wrong")
        try:
            state = MetroState(reader.number(1))
        except ValueError as error:
            raise FormatError(f"{raw[3]:02X} is no state of a metro record") from error
        entry = reader.number(2), reader.number(2), reader.moment(), reader.take(6)
        leave = reader.number(2), reader.number(2), reader.moment(), reader.number(4)
        return cls(state, *entry, *leave)


def crc16(content: bytes) -> bytes:
    """CRC-16/CCITT, polynomial 1021, from FFFF, not reflected."""
    return crc_hqx(content, 0xFFFF).to_bytes(2, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class TripRecord:
    """EF 001E, one record of 48 bytes (T-Union): a ride, the newest first."""

    kind: int
    terminal: bytes
    sub_kind: int
    place: bytes
    amount_fen: int
    balance_fen: int
    at: datetime | None
    city: str
    acquirer: bytes

    def encode(self) -> bytes:
        money = _u(self.amount_fen, 4) + _u(self.balance_fen, 4)
        head = _u(self.kind, 1) + self.terminal + _u(self.sub_kind, 1) + self.place
        tail = _moment(self.at) + encode_digits(self.city) + self.acquirer + bytes(6)
        return _exact(48, "a trip record", head, money, tail)

    @classmethod
    def decode(cls, raw: bytes) -> "TripRecord":
        reader = Reader(raw, 48, "a trip record")
        return cls(
            kind=reader.number(1),
            terminal=reader.take(8),
            sub_kind=reader.number(1),
            place=reader.take(7),
            amount_fen=reader.number(4),
            balance_fen=reader.number(4),
            at=reader.moment(),
            city=decode_digits(reader.take(2)),
            acquirer=reader.take(8),
        )


def social_card(area: str, card: bytes, starts: date, expires: date) -> tuple[Tlv, ...]:
    """The records of EF05: card identification (16 bytes, `area` 6 digits first), version, dates, card number."""
    return (
        Tlv(0x01, encode_digits(area) + bytes.fromhex("D156000005") + card[2:]),
        Tlv(0x03, b"3.00"),
        Tlv(0x05, encode_day(starts)),
        Tlv(0x06, encode_day(expires)),
        Tlv(0x07, card.hex()[-9:].encode("ascii")),
    )


def social_holder(holder: Holder) -> tuple[Tlv, ...]:
    """The records of EF06: citizen number (18) and name (30)."""
    return (Tlv(0x08, _text(holder.id_number, 18)), Tlv(0x09, _text(holder.name, 30)))


def directory_entry(aid: bytes, label: str, priority: int) -> bytes:
    """One record of the DIR file: `61 {4F AID, 50 label, 87 priority}`."""
    entry = (Tlv(0x4F, aid), Tlv(0x50, label.encode("ascii")), Tlv(0x87, _u(priority, 1)))
    return build_all((Tlv(0x61, build_all(entry)),))
