"""What stands in the files of the card: one frozen class per content, with `encode` and `decode` (docs/card.md).

    identity     EF 0015, 0016, 0017 and the medical identity
    ministry     EF 0015 and EF 0005 in the construction ministry's layout
    log          the purse log (EF 0018) and the trips (EF 001E)
    composite    metro and transfer records (EF 001A)
    social       EF05 and EF06 of social security
    service      utility accounts and medical visits (EF 0019)
    directory    EF 0001

Every `decode` raises FormatError for another length or content, and only that. Reserved bytes are written as zeros and
not looked at.
"""

from cardcore.card_files.composite import (
    METRO_ID,
    TRANSFER_ID,
    CompositeRecord,
    Leg,
    MetroRecord,
    MetroState,
    TransferRecord,
)
from cardcore.card_files.directory import DirectoryEntry, directory_entry
from cardcore.card_files.fields import crc16
from cardcore.card_files.identity import CityData, CommonData, Concession, Holder, MedicalIdentity
from cardcore.card_files.log import LogRecord, TripRecord
from cardcore.card_files.ministry import CardId, MinistryData
from cardcore.card_files.service import MedicalVisit, Utility, UtilityAccount, decode_account
from cardcore.card_files.social import SocialCard, SocialHolder, social_card, social_holder
from cardcore.switches import LogCounter

__all__ = [
    "METRO_ID",
    "TRANSFER_ID",
    "CardId",
    "CityData",
    "CommonData",
    "CompositeRecord",
    "Concession",
    "DirectoryEntry",
    "Holder",
    "Leg",
    "LogCounter",
    "LogRecord",
    "MedicalIdentity",
    "MedicalVisit",
    "MetroRecord",
    "MetroState",
    "MinistryData",
    "SocialCard",
    "SocialHolder",
    "TransferRecord",
    "TripRecord",
    "Utility",
    "UtilityAccount",
    "crc16",
    "decode_account",
    "directory_entry",
    "social_card",
    "social_holder",
]
