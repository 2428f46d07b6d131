"""What is to be made: one card or one PSAM, and what its files will say."""

from dataclasses import dataclass
from datetime import date

from cardcore.authority import CardIdentity, PsamIdentity
from cardcore.bcd import decode_digits, encode_digits
from cardcore.card_files import (
    METRO_ID,
    TRANSFER_ID,
    CardId,
    CityData,
    CommonData,
    Holder,
    MedicalIdentity,
    MetroRecord,
    MinistryData,
    TransferRecord,
    directory_entry,
    social_card,
    social_holder,
)
from cardcore.commands.personalise import FileKind
from cardcore.errors import FormatError, ProfileError
from cardcore.profile import ApplicationSpec, CommonLayout, FileSpec, Profile
from cardcore.record import Sector, Suite
from cardcore.tlv import Tlv, build
from cardcore.versions import FIRST_VERSIONS, KeyVersions

_MEDICAL_IDENTITY_BYTES = 32
_WITH_BITMAP = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOrder:
    """One card: issuer (4 bytes), serial (10 bytes, 20 digits), suite, class, validity (both days included), region.

    `province` and `city` are region codes of 4 digits, `area` the 6 digits of social security. Without a `holder` the
    card names nobody. `versions` are those of its keys. Raises FormatError for values that no card can hold.
    """

    issuer: bytes
    card: bytes
    suite: Suite
    concession: int
    starts: date
    expires: date
    province: str = "7900"
    city: str = "7910"
    area: str = "610100"
    holder: Holder | None = None
    versions: KeyVersions = FIRST_VERSIONS

    def __post_init__(self) -> None:
        if len(self.issuer) != 4 or len(self.card) != 10:
            raise FormatError("an order has an issuer of 4 bytes and a serial of 10 bytes (20 digits)")
        decode_digits(self.card)
        for digits, width in ((self.province, 4), (self.city, 4), (self.area, 6)):
            encode_digits(digits)
            if len(digits) != width:
                raise FormatError(f"{digits} has {len(digits)} digits, not {width}")
        if self.expires < self.starts:
            raise FormatError(f"card {self.card.hex()} would expire on {self.expires}, before it starts, {self.starts}")

    @property
    def identity(self) -> CardIdentity:
        return CardIdentity(self.issuer, self.card, self.suite)

    @property
    def common(self) -> CommonData:
        """EF 0015 of every application of this card."""
        return CommonData(issuer_id=self.issuer + b"\xff" * 4, card=self.card, starts=self.starts, expires=self.expires)

    def _ministry(self, *, with_bitmap: bool) -> MinistryData:
        """EF 0015 of a city card: issuer = institution(2) ‖ city(2), and a serial of 8 bytes behind two zeros."""
        if self.card[:2] != bytes(2) or self.issuer[2:] != encode_digits(self.city):
            raise FormatError(
                f"card {self.card.hex()} of issuer {self.issuer.hex()} is no city card of city {self.city}: its serial "
                "starts with 0000 and its issuer ends in the city; correct the order"
            )
        return MinistryData(
            institution=self.issuer[:2],
            city=self.city,
            serial=self.card[2:],
            starts=self.starts,
            expires=self.expires,
            sub_type=self.concession,
            business=bytes(4) if with_bitmap else None,
        )

    def contents(self, profile: Profile, application: ApplicationSpec, spec: FileSpec) -> tuple[bytes, ...]:
        """What personalisation writes into one file: a binary content, or records in their order; () for nothing.

        Raises ProfileError when the profile gives a binary file another length than its content has, or a record file
        too few or too short records; FormatError when the order is of another scheme than the profile.
        """
        records = self._records(profile, application, spec)
        longest = max(map(len, records), default=0)
        if spec.count and (len(records) > spec.count or longest > spec.length):
            raise ProfileError(
                f"profile {profile.name}: file {spec.fid:04X} of application {application.number} has {spec.count} "
                f"records of {spec.length} bytes, but {len(records)} of up to {longest} bytes are to be written"
            )
        if spec.kind is FileKind.BINARY and any(len(content) != spec.length for content in records):
            raise ProfileError(
                f"profile {profile.name}: file {spec.fid:04X} of application {application.number} has "
                f"{spec.length} bytes, but its content has {len(records[0])}"
            )
        return records

    def _records(self, profile: Profile, application: ApplicationSpec, spec: FileSpec) -> tuple[bytes, ...]:
        match application.number, spec.fid:
            case 0, 0x0001:
                listed = (item for item in profile.applications if item.number)
                return tuple(directory_entry(item.aid, item.label, item.number) for item in listed)
            case 0, 0x0005:
                issuer, serial = self.issuer[:2], self.card[-8:]
                return (CardId(issuer=issuer, city=self.city, serial=serial, issued=self.starts).encode(),)
            case _, 0x0015 if spec.length == _MEDICAL_IDENTITY_BYTES:
                return (MedicalIdentity(self.common).encode(),)
            case _, 0x0015 if application.common_layout is CommonLayout.MINISTRY:
                return (self._ministry(with_bitmap=spec.length == _WITH_BITMAP).encode(),)
            case _, 0x0015:
                return (self.common.encode(),)
            case _, 0x0016 if self.holder:
                return (self.holder.encode(),)
            case _, 0x0017:
                return (CityData(province=self.province, city=self.city, concession=self.concession).encode(),)
            case _, 0x001A if spec.composites:
                fresh = {METRO_ID: MetroRecord().encode(), TRANSFER_ID: TransferRecord().encode()}
                return tuple(fresh[item] for item in spec.composites)
            case _, 0x001A:
                return (MetroRecord().encode(),)
            case _, 0xEF05:
                return _built(social_card(self.area, self.card, self.starts, self.expires))
            case _, 0xEF06 if self.holder:
                return _built(social_holder(self.holder))
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PsamOrder:
    """One PSAM: terminal number (6 bytes), serial (10 bytes), the sector it may debit for, suite of its control key.

    `gate`: it is a metro gate's, and gets the entry root too; whoever has that root can make entries of any card.
    `versions` are those of its keys: it gets every purchase root that cards carry.
    Raises FormatError for other lengths, or a gate of another sector than transit.
    """

    terminal_number: bytes
    serial: bytes
    sector: Sector
    suite: Suite
    gate: bool = False
    versions: KeyVersions = FIRST_VERSIONS

    def __post_init__(self) -> None:
        if len(self.terminal_number) != 6 or len(self.serial) != 10:
            raise FormatError("a PSAM has a terminal number of 6 bytes and a serial of 10 bytes")
        if self.gate and self.sector is not Sector.TRANSIT:
            raise FormatError(f"a PSAM of {self.sector.label} is in no metro gate; nothing was made, correct the order")

    @property
    def identity(self) -> PsamIdentity:
        return PsamIdentity(self.terminal_number, self.suite)

    @property
    def common(self) -> bytes:
        """EF 0015 of a PSAM, 14 bytes: serial, version, type, FCI data."""
        return self.serial + b"\x01\x00" + bytes(2)


def _built(records: tuple[Tlv, ...]) -> tuple[bytes, ...]:
    return tuple(build(item.tag, item.value) for item in records)
