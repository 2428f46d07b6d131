"""Utility accounts (EF 0019 of the utility application) and medical visits (EF 0019 of the medical one)."""

from dataclasses import dataclass
from datetime import date
from enum import IntEnum

from cardcore.bcd import decode_digits, encode_day, encode_digits
from cardcore.card_files.fields import Reader, exact, packed_text, unsigned
from cardcore.errors import FormatError


class Utility(IntEnum):
    """What is supplied."""

    WATER = 1
    POWER = 2
    GAS = 3
    HEAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityAccount:
    """One bound account, a record of 32 bytes; `supplier` has 4 bytes, `account` 12 characters at most.

    `period` is the last billed month as YYYYMM. A record of zeros is a free place (`None` from `decode_account`).
    """

    kind: Utility
    supplier: bytes
    account: str
    quota_fen: int = 0
    period: str = "000000"
    flags: int = 0

    def encode(self) -> bytes:
        bound = unsigned(self.kind, 1) + self.supplier + packed_text(self.account, 12)
        billed = unsigned(self.quota_fen, 4) + encode_digits(self.period) + unsigned(self.flags, 1)
        return exact(32, "a utility account", bound, billed, bytes(7))

    @classmethod
    def decode(cls, raw: bytes) -> "UtilityAccount":
        reader = Reader(raw, 32, "a utility account")
        try:
            kind = Utility(reader.number(1))
        except ValueError as error:
            raise FormatError(f"{raw[0]:02X} is no kind of utility account: 01 to 04") from error
        return cls(
            kind=kind,
            supplier=reader.take(4),
            account=reader.text(12),
            quota_fen=reader.number(4),
            period=decode_digits(reader.take(3)),
            flags=reader.number(1),
        )


def decode_account(raw: bytes) -> UtilityAccount | None:
    """A record of EF 0019, None for a free place; raises FormatError."""
    return UtilityAccount.decode(raw) if any(raw) or len(raw) != 32 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MedicalVisit:
    """One visit, a record of 32 bytes, the newest first: institution (9 bytes), day, kind, bill and insurance share.

    `mark` is the first 4 bytes of the card's cryptogram of the act, which finds the visit in the ledger.
    """

    institution: bytes
    day: date
    kind: int
    bill_fen: int
    insurance_fen: int
    mark: bytes

    def encode(self) -> bytes:
        money = unsigned(self.bill_fen, 4) + unsigned(self.insurance_fen, 4)
        head = self.institution + encode_day(self.day) + unsigned(self.kind, 1)
        return exact(32, "a medical visit", head, money, self.mark, bytes(6))

    @classmethod
    def decode(cls, raw: bytes) -> "MedicalVisit":
        reader = Reader(raw, 32, "a medical visit")
        return cls(
            institution=reader.take(9),
            day=reader.day(),
            kind=reader.number(1),
            bill_fen=reader.number(4),
            insurance_fen=reader.number(4),
            mark=reader.take(4),
        )
