"""The registry file and its rows (docs/registry.md). Unknown members are errors; taking a document twice changes
nothing."""

import re
from datetime import date, time
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)

from cardcore.errors import FormatError
from cardcore.record import Sector, Suite


def hex_bytes(length: int) -> BeforeValidator:
    def parse(text: object) -> object:
        if isinstance(text, bytes):
            return text
        if not isinstance(text, str) or len(text) != 2 * length or text != text.lower():
            raise ValueError(f"takes {2 * length} lower-case hex digits")
        return bytes.fromhex(text)

    return BeforeValidator(parse)


def _sector(name: object) -> object:
    if isinstance(name, str) and name.upper() in Sector.__members__ and name == name.lower():
        return Sector[name.upper()]
    raise ValueError(f"takes one of {', '.join(sector.label for sector in Sector)}")


def _suite(name: object) -> object:
    if name in _SUITES:
        return _SUITES[str(name)]
    raise ValueError(f"takes one of {', '.join(_SUITES)}")


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name!r} is not a time zone") from error
    return name


def _digits(serial: bytes) -> bytes:
    if not serial.hex().isdecimal():
        raise ValueError("takes 20 decimal digits")
    return serial


PartyId = Annotated[int, Field(ge=1, le=65535)]
# Companies of an imported source are parties too, numbered from 2^40 on (docs/registry.md); no record names them.
AnyPartyId = Annotated[int, Field(ge=1, lt=2**41)]
IssuerCode = Annotated[bytes, hex_bytes(4)]
CardSerial = Annotated[bytes, hex_bytes(10), AfterValidator(_digits)]
SectorName = Annotated[Sector, BeforeValidator(_sector)]
Fen = Annotated[int, Field(ge=0, le=2**31 - 1)]
_SUITES = {"3des": Suite.TRIPLE_DES, "sm4": Suite.SM4}
# U+0000 as JSON writes it; after another backslash the same letters are a text of their own.
_ZERO = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
PURSE_SECTORS = (Sector.TRANSIT, Sector.SMALLPAY, Sector.UTILITY)


Model = TypeVar("Model", bound=BaseModel)


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class IssuerRow(Row):
    code: IssuerCode
    name: str
    own: bool


class PartyRow(Row):
    id: PartyId
    kind: Literal["operator", "bank", "counter", "treasury", "fund"]
    name: str


class TerminalRow(Row):
    id: Annotated[int, Field(ge=1, le=2**32 - 1)]
    operator: PartyId
    sector: SectorName
    class_: Literal["bus", "metro", "pos", "utility", "counter", "hospital", "agency"] = Field(alias="class")
    epoch: Annotated[int, Field(ge=1, le=65535)]


class PsamRow(Row):
    """A PSAM holds one purchase key, so its sector is one that a purse pays (rule 7)."""

    number: Annotated[bytes, hex_bytes(6)]
    sector: SectorName
    operator: PartyId
    valid_from: Annotated[AwareDatetime, Field(alias="from", strict=False)]
    valid_to: Annotated[AwareDatetime | None, Field(alias="to", strict=False)]
    state: Literal["active", "suspended", "lost"]

    @model_validator(mode="after")
    def _sensible(self) -> "PsamRow":
        if self.sector not in PURSE_SECTORS:
            raise ValueError(f"a PSAM of sector {self.sector.label}: that sector has no purchase key")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("`to` is not after `from`")
        return self


class CardRow(Row):
    card: CardSerial
    issuer: IssuerCode
    profile: str
    suite: Annotated[Suite, BeforeValidator(_suite)]
    class_: Annotated[int, Field(alias="class", ge=1, le=255)]
    generation: Annotated[int, Field(ge=0, le=255)]


class PolicyValue(Row):
    """What a policy says; each subclass is one row of the table in docs/registry.md."""

    policy: ClassVar[str]


class CutOffValue(PolicyValue):
    policy = "cut-off"
    timezone: Annotated[str, AfterValidator(_zone)]
    at: Annotated[time, Field(strict=False)]


class FlatFare(PolicyValue):
    policy = "fare-flat"
    fen: Fen


class MetroFare(PolicyValue):
    policy = "fare-metro"
    base_fen: Fen
    step_fen: Fen
    max_fen: Fen


class Concession(RootModel[dict[Annotated[str, Field(pattern=r"^[0-9]{1,3}$")], Annotated[int, Field(ge=0, le=100)]]]):
    """Percent of the full fare by card class."""

    policy: ClassVar[str] = "concession"


class Fee(PolicyValue):
    policy = "fee"
    bps: Annotated[int, Field(ge=0, le=10_000)]


class Grace(PolicyValue):
    policy = "grace"
    hours: Annotated[int, Field(ge=0)]


class ClockTolerance(PolicyValue):
    policy = "clock"
    ahead_s: Annotated[int, Field(ge=0)]


class Overdraft(PolicyValue):
    policy = "overdraft"
    fen: Fen


class Licence(PolicyValue):
    policy = "licence"
    sectors: list[str]
    reserve_bank: PartyId


class Limit(PolicyValue):
    policy = "limit"
    max_balance_fen: Fen
    max_load_fen: Fen


class DenylistDelay(PolicyValue):
    policy = "denylist"
    effective_after_s: Annotated[int, Field(ge=0)]
    publish_after_s: Annotated[int, Field(ge=0)]


class Replacement(PolicyValue):
    policy = "replacement"
    offline_window_h: Annotated[int, Field(ge=0)]


class CeilingsValue(PolicyValue):
    """What a PSAM may open from one arming to the next, and what is asked before the next one."""

    policy = "ceilings"
    count: Annotated[int, Field(ge=1, le=2**31 - 1)]
    amount_fen: Annotated[int, Field(ge=1, le=2**31 - 1)]
    gaps: Annotated[int, Field(ge=0)]
    per_day: Annotated[int, Field(ge=1)]


class Source(PolicyValue):
    policy = "source"
    cryptogram: Literal[False]
    operators: dict[str, AnyPartyId]


AnyValue = PolicyValue | Concession
VALUES: dict[str, type[AnyValue]] = {
    value.policy: value
    for value in (
        CutOffValue, FlatFare, MetroFare, Concession, Fee, Grace, ClockTolerance, Overdraft, Licence, Limit,
        DenylistDelay, Replacement, CeilingsValue, Source,
    )
}  # fmt: skip


class PolicyRow(Row):
    name: str
    scope: str
    valid_from: Annotated[date, Field(alias="from", strict=False)]
    version: Annotated[int, Field(ge=1)]
    basis: str
    value: dict[str, Any]

    @model_validator(mode="after")
    def _known(self) -> "PolicyRow":
        if self.name not in VALUES:
            raise ValueError(f"no policy is named {self.name!r}; known are {', '.join(VALUES)}")
        VALUES[self.name].model_validate(self.value)
        return self


class RegistryDocument(Row):
    issuers: list[IssuerRow] = []
    parties: list[PartyRow] = []
    terminals: list[TerminalRow] = []
    psams: list[PsamRow] = []
    policies: list[PolicyRow] = []
    cards: list[CardRow] = []


class DeclaredTotal(Row):
    """What an operator says of its day: records and fen by origin date."""

    operator: AnyPartyId
    sector: SectorName
    date: Annotated[date, Field(strict=False)]
    count: Annotated[int, Field(ge=0)]
    fen: Annotated[int, Field(ge=0)]


def parse_registry(text: str | bytes) -> RegistryDocument:
    """The registry file as rows; raises FormatError that names the first member at fault."""
    return parse_document(RegistryDocument, text, "the registry file")


def parse_declared(text: str) -> list[DeclaredTotal]:
    """Lines of declared totals; raises FormatError that names the line."""
    return [
        parse_document(DeclaredTotal, line, f"line {at}")
        for at, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def parse_value(name: str, value: dict[str, Any]) -> AnyValue:
    """The typed value of a stored policy."""
    return VALUES[name].model_validate(value)


def parse_document(model: type[Model], text: str | bytes, what: str) -> Model:
    """JSON text as a model; raises FormatError that names the first member at fault, and for U+0000, which the database
    keeps in no text."""
    if _ZERO.search(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")):
        raise FormatError(f"{what}: a text holds the character U+0000. Nothing was changed. Leave it out.")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the document"
        raise FormatError(f"{what}: {place}: {first['msg']}. Nothing was changed.") from error
