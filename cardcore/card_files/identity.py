"""Whose card it is: EF 0015, 0016, 0017 and the medical identity in the PBOC and T-Union layout (JR/T 0025)."""

from dataclasses import dataclass
from datetime import date
from enum import IntEnum

from cardcore.bcd import decode_digits, encode_day, encode_digits
from cardcore.card_files.fields import Reader, exact, packed_text, unsigned


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

    def good_on(self, day: date) -> bool:
        """Whether a terminal takes the card on this business date."""
        return self.starts <= day <= self.expires

    def encode(self) -> bytes:
        kind = unsigned(self.application_type, 1) + unsigned(self.version, 1)
        days = encode_day(self.starts) + encode_day(self.expires)
        return exact(30, "EF 0015", self.issuer_id, kind, self.card, days, self.issuer_data)

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
        return self.common.encode() + unsigned(self.blood_group, 1) + unsigned(self.allergies, 1)

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
        kind = unsigned(self.concession, 1)
        return exact(60, "EF 0017", self.country, region, self.interconnection, kind, self.rest)

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
    """Who holds the card: name (20 bytes of GBK at most), number and kind of the identity document. Off by default."""

    name: str
    id_number: str
    id_type: int = 0x00
    card_type: int = 0x00
    staff: int = 0x00

    def encode(self) -> bytes:
        """EF 0016, 55 bytes: card type, staff flag, name (20), identity number (32), its kind."""
        kind = unsigned(self.card_type, 1) + unsigned(self.staff, 1)
        person = packed_text(self.name, 20) + packed_text(self.id_number, 32)
        return exact(55, "EF 0016", kind, person, unsigned(self.id_type, 1))

    @classmethod
    def decode(cls, raw: bytes) -> "Holder":
        reader = Reader(raw, 55, "EF 0016")
        card_type, staff = reader.number(1), reader.number(1)
        return cls(reader.text(20), reader.text(32), reader.number(1), card_type, staff)
