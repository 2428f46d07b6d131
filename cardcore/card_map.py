"""The map of the card: applications, short file identifiers and key ids of docs/card.md, as data.

What a profile may choose (which files, sizes, rights) is in `cardcore.profile`; the contents of the files are in
`cardcore.card_files`.
"""

from dataclasses import dataclass
from enum import IntEnum

from cardcore.errors import FormatError
from cardcore.record import Sector, Suite

MF_FID = 0x3F00
MF_NAME = b"1PAY.SYS.DDF01"
CONTACTLESS_DIRECTORY = b"2PAY.SYS.DDF01"
KEY_VERSION = 0x01


@dataclass(frozen=True, slots=True)
class Application:
    """One application: its number in records and key scopes, its DF name (AID) and file identifier."""

    number: int
    aid: bytes
    fid: int


MF = Application(0, MF_NAME, MF_FID)
TRANSIT = Application(1, bytes.fromhex("A000000632010105"), 0x3F01)
SOCIAL = Application(2, bytes.fromhex("7378312E73682EC9E7BBE1B1A3D5CF"), 0x3F02)
SMALLPAY = Application(3, bytes.fromhex("F053584F43010103"), 0x3F03)
UTILITY = Application(4, bytes.fromhex("F053584F43010104"), 0x3F04)
MEDICAL = Application(5, bytes.fromhex("F053584F43010105"), 0x3F05)
# A city card of the construction ministry's scheme is a card of its own, with its own roots.
CITY_CARD = Application(6, bytes.fromhex("A00000000386980701"), 0x3F01)
APPLICATIONS = {item.number: item for item in (MF, TRANSIT, SOCIAL, SMALLPAY, UTILITY, MEDICAL)}
# The applications of every profile; `APPLICATIONS` are those of the province's own card.
ALL_APPLICATIONS = {**APPLICATIONS, CITY_CARD.number: CITY_CARD}


class Sfi(IntEnum):
    """Short file identifiers of cards and PSAMs."""

    DIRECTORY = 0x01
    CARD_ID = 0x05
    SOCIAL_CARD = 0x05
    SOCIAL_HOLDER = 0x06
    COMMON = 0x15
    HOLDER = 0x16
    TERMINAL_NUMBER = 0x16
    CITY = 0x17
    LOG = 0x18
    ACCOUNTS = 0x19
    COMPOSITE = 0x1A
    TRIPS = 0x1E


class KeyType(IntEnum):
    """Types of keys in a key file."""

    ACT = 0x32
    TAC = 0x34
    MAINTENANCE = 0x36
    PIN_UNBLOCK = 0x37
    PIN_RELOAD = 0x38
    CONTROL = 0x39
    PIN = 0x3A
    OVERDRAFT = 0x3C
    UNLOAD = 0x3D
    PURCHASE = 0x3E
    LOAD = 0x3F


_SM4_OFFSET = 0x10
_PURCHASE_IDS = {Sector.TRANSIT: 0x01, Sector.SMALLPAY: 0x02, Sector.UTILITY: 0x03}
_ACT_APPLICATIONS = {Sector.SOCIAL: SOCIAL, Sector.MEDICAL: MEDICAL}
_SINGLE_IDS = {
    KeyType.LOAD: 0x01,
    KeyType.UNLOAD: 0x01,
    KeyType.OVERDRAFT: 0x01,
    KeyType.TAC: 0x01,
    KeyType.ACT: 0x02,
}


def key_id(kind: KeyType, suite: Suite, sector: Sector | None = None) -> int:
    """Id of a card's key; `sector` chooses among the purchase keys. Raises FormatError for a sector without a purse."""
    if kind is KeyType.PURCHASE:
        base = _PURCHASE_IDS.get(sector) if sector else None
        if base is None:
            raise FormatError(f"there is no purchase key of sector {sector and sector.label}; a purse pays {_paying()}")
    else:
        base = _SINGLE_IDS.get(kind, 0x00)
    return base + _SM4_OFFSET if base and suite is Suite.SM4 else base


def purchase_sector(index: int) -> Sector:
    """The sector that a purchase-key id belongs to, in either suite; raises FormatError."""
    for sector, base in _PURCHASE_IDS.items():
        if index in (base, base + _SM4_OFFSET):
            return sector
    raise FormatError(f"{index:02X} is no purchase-key id; a purse pays {_paying()}")


def psam_purchase_id(sector: Sector, suite: Suite) -> int:
    """Id of a purchase root in a PSAM: the sector number, 10h added for SM4."""
    return sector + (_SM4_OFFSET if suite is Suite.SM4 else 0)


def act_application(sector: Sector) -> Application:
    """The application that authenticates the online acts of a sector; raises FormatError when it has none."""
    try:
        return _ACT_APPLICATIONS[sector]
    except KeyError as error:
        raise FormatError(f"{sector.label} has no online acts: it is paid from a purse") from error


def city_factor(issuer: bytes) -> bytes:
    """Derivation factor of the city level: the issuer (4 bytes) twice."""
    return issuer + issuer


def card_factor(card: bytes) -> bytes:
    """Derivation factor of the card level: the last 8 bytes of the serial."""
    return card[-8:]


def _paying() -> str:
    return ", ".join(sector.label for sector in _PURCHASE_IDS)
