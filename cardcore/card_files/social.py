"""Social security: EF05 (the card) and EF06 (the holder) as TLV records (specification of social security cards)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from cardcore.bcd import decode_moment, encode_day, encode_digits
from cardcore.card_files.fields import exact, packed_text, read_text, unsigned
from cardcore.card_files.identity import Holder
from cardcore.errors import FormatError
from cardcore.tlv import Tlv, parse

_RID = bytes.fromhex("D156000005")


@dataclass(frozen=True, slots=True, kw_only=True)
class SocialCard:
    """EF05: card identification (16 bytes), class, version of the specification, dates, card number (9 characters)."""

    card_id: bytes
    starts: date
    expires: date
    number: str
    version: str = "3.00"
    card_class: int | None = None
    initialised_by: bytes | None = None

    @property
    def area(self) -> str:
        """The first 6 digits of the card identification."""
        return self.card_id[:3].hex()

    def records(self) -> tuple[Tlv, ...]:
        """The records of the file in the order of their tags; raises FormatError."""
        kept = [Tlv(0x01, exact(16, "a social card identification", self.card_id))]
        if self.card_class is not None:
            kept.append(Tlv(0x02, unsigned(self.card_class, 1)))
        kept.append(Tlv(0x03, exact(4, "a specification version", packed_text(self.version, 4))))
        if self.initialised_by is not None:
            kept.append(Tlv(0x04, exact(12, "an initialising body", self.initialised_by)))
        days = Tlv(0x05, encode_day(self.starts)), Tlv(0x06, encode_day(self.expires))
        return (*kept, *days, Tlv(0x07, packed_text(self.number, 9)))

    @classmethod
    def of_records(cls, records: Iterable[bytes]) -> "SocialCard":
        """Read the records of the file in any order; raises FormatError when one is missing or of another form."""
        found = _values(records, {0x01: 16, 0x02: 1, 0x03: 4, 0x04: 12, 0x05: 4, 0x06: 4, 0x07: 9}, "EF05")
        _present(found, (0x01, 0x03, 0x05, 0x06, 0x07), "EF05")
        return cls(
            card_id=found[0x01],
            card_class=found[0x02][0] if 0x02 in found else None,
            version=read_text(found[0x03]),
            initialised_by=found.get(0x04),
            starts=decode_moment(found[0x05], bytes(3)).date(),
            expires=decode_moment(found[0x06], bytes(3)).date(),
            number=read_text(found[0x07]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SocialHolder:
    """EF06: citizen number (18) and name (30 bytes of GBK at most), and what a card may add: sex, nationality, birth.

    `birth_place` is the area code, 3 bytes BCD.
    """

    citizen_number: str
    name: str
    sex: int | None = None
    nationality: int | None = None
    birth_place: bytes | None = None
    born: date | None = None

    def records(self) -> tuple[Tlv, ...]:
        """The records of the file in the order of their tags; raises FormatError."""
        kept = [Tlv(0x08, packed_text(self.citizen_number, 18)), Tlv(0x09, packed_text(self.name, 30))]
        if self.sex is not None:
            kept.append(Tlv(0x0A, unsigned(self.sex, 1)))
        if self.nationality is not None:
            kept.append(Tlv(0x0B, unsigned(self.nationality, 1)))
        if self.birth_place is not None:
            kept.append(Tlv(0x0C, exact(3, "a birth place", self.birth_place)))
        if self.born is not None:
            kept.append(Tlv(0x0D, encode_day(self.born)))
        return tuple(kept)

    @classmethod
    def of_records(cls, records: Iterable[bytes]) -> "SocialHolder":
        """Read the records of the file in any order; raises FormatError when one is missing or of another form."""
        found = _values(records, {0x08: 18, 0x09: 30, 0x0A: 1, 0x0B: 1, 0x0C: 3, 0x0D: 4}, "EF06")
        _present(found, (0x08, 0x09), "EF06")
        return cls(
            citizen_number=read_text(found[0x08]),
            name=read_text(found[0x09]),
            sex=found[0x0A][0] if 0x0A in found else None,
            nationality=found[0x0B][0] if 0x0B in found else None,
            birth_place=found.get(0x0C),
            born=decode_moment(found[0x0D], bytes(3)).date() if 0x0D in found else None,
        )


def _values(records: Iterable[bytes], widths: dict[int, int], what: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for record in records:
        objects = parse(record)
        if len(objects) != 1:
            raise FormatError(f"a record of {what} is one data object, not {len(objects)}")
        tag, value = objects[0].tag, objects[0].value
        if tag not in widths or tag in found:
            raise FormatError(f"{what} has no object {tag:02X}, or has it twice")
        found[tag] = exact(widths[tag], f"object {tag:02X} of {what}", value)
    return found


def _present(found: dict[int, bytes], required: Iterable[int], what: str) -> None:
    for tag in required:
        if tag not in found:
            raise FormatError(f"{what} lacks object {tag:02X}")


def social_card(area: str, card: bytes, starts: date, expires: date) -> tuple[Tlv, ...]:
    """The records of EF05 of a card of ours: `area` has 6 digits, `card` is the 10-byte serial."""
    card_id = encode_digits(area) + _RID + card[2:]
    return SocialCard(card_id=card_id, starts=starts, expires=expires, number=card.hex()[-9:]).records()


def social_holder(holder: Holder) -> tuple[Tlv, ...]:
    """The records of EF06 of a card of ours: citizen number and name."""
    return SocialHolder(citizen_number=holder.id_number, name=holder.name).records()
