"""The layout of the construction ministry's city cards (Chang'an Tong, Xi'an): EF 0015, and EF 0005 of the MF."""

from dataclasses import dataclass
from datetime import date

from cardcore.bcd import decode_digits, encode_day, encode_digits
from cardcore.card_files.fields import Reader, exact, unsigned
from cardcore.errors import FormatError

_SHORT, _LONG = 30, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class MinistryData:
    """EF 0015 of a city card, 30 bytes, or 34 with the business bitmap. `city` has 4 digits, Xi'an is 7100.

    The 8-byte serial is city(2), main type(1), sub type(1), running number(4). A card that is not `enabled` has left
    the factory and no counter yet.
    """

    institution: bytes
    city: str
    serial: bytes
    starts: date
    expires: date
    enabled: bool = True
    industry: bytes = bytes(2)
    version: int = 0x01
    interconnection: bytes = bytes(2)
    main_type: int = 1
    sub_type: int = 0
    business: bytes | None = None

    @property
    def issuer(self) -> bytes:
        """Issuer of records and key derivation, 4 bytes: institution and city, the first 4 of the file."""
        return self.institution + encode_digits(self.city)

    @property
    def card(self) -> bytes:
        """The serial as records write it, 10 bytes: two zeros first."""
        return bytes(2) + self.serial

    def good_on(self, day: date) -> bool:
        """Whether a terminal takes the card on this business date."""
        return self.enabled and self.starts <= day <= self.expires

    def encode(self) -> bytes:
        place = self.institution + encode_digits(self.city) + self.industry + bytes(2)
        state = bytes((self.enabled,)) + unsigned(self.version, 1) + self.interconnection
        days = encode_day(self.starts) + encode_day(self.expires)
        types = unsigned(self.main_type, 1) + unsigned(self.sub_type, 1)
        size = _SHORT if self.business is None else _LONG
        return exact(size, "EF 0015 of a city card", place, state, self.serial, days, types, self.business or b"")

    @classmethod
    def decode(cls, raw: bytes) -> "MinistryData":
        size = _LONG if len(raw) == _LONG else _SHORT
        reader = Reader(raw, size, "EF 0015 of a city card")
        institution, city, industry = reader.take(2), decode_digits(reader.take(2)), reader.take(2)
        reader.take(2)
        enabled = reader.number(1)
        if enabled > 1:
            raise FormatError(f"{enabled:02X} is no enabled flag of a city card: it is 00 or 01")
        return cls(
            institution=institution,
            city=city,
            industry=industry,
            enabled=bool(enabled),
            version=reader.number(1),
            interconnection=reader.take(2),
            serial=reader.take(8),
            starts=reader.day(),
            expires=reader.day(),
            main_type=reader.number(1),
            sub_type=reader.number(1),
            business=reader.take(4) if size == _LONG else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardId:
    """EF 0005 of the MF, 30 bytes: the card as an object."""

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
        types = unsigned(self.main_type, 1) + unsigned(self.sub_type, 1)
        place = self.issuer + encode_digits(self.city) + self.industry + bytes(2)
        return exact(30, "EF 0005", place, self.serial, types, encode_day(self.issued), self.device, self.version)

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
