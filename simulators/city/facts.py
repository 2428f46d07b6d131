"""What a plan is made of: cards, devices, taps, records as sent, batches, desk steps, faults. Nothing here decides
anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum

from simulators.city.records import BATCH_BINARY, CHINA, Kind

OWN, FOREIGN = "02317910", "02317950"
CUT_OFF = timedelta(hours=2)
ALLOWANCE_FEN = 800
"""The overdraft allowance of every transit purse, in policy and profile."""


def business_date(at: datetime) -> date:
    """The origin date of an instant (docs/ledger.md, Time)."""
    return (at.astimezone(CHINA) - CUT_OFF).date()


@dataclass(slots=True, eq=False)
class PlannedCard:
    """A card; `value`, `offline` and `online` are its purses' states (fen, counters) as the bookkeeping walks on."""

    serial: str
    issuer: str
    profile: str
    suite: str
    card_class: int
    ended: bool = False
    fault: str | None = None
    live_from: datetime | None = None
    quiet_from: datetime | None = None
    blank: bool = False
    value: dict[int, int] = field(default_factory=dict)
    offline: dict[int, int] = field(default_factory=dict)
    online: dict[int, int] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        return self.issuer == OWN

    @property
    def entitled_class(self) -> int:
        """The class of the registry: ordinary once the concession that the card still names has ended."""
        return 1 if self.ended else self.card_class

    @property
    def purses(self) -> tuple[int, ...]:
        return (1,) if self.profile == "shared-purse" else (1, 3, 4)

    def purse_for(self, sector: str) -> int:
        """The application number of the purse that pays in a sector."""
        return {"transit": 1, "smallpay": 3, "utility": 4}[sector] if self.profile != "shared-purse" else 1


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A box at a place: its registry row, and its PSAM's number (12 hex digits; `0000` ‖ terminal id without a
    PSAM)."""

    terminal: int
    operator: int
    sector: str
    terminal_class: str
    psam: str
    line: int = 0
    station: int = 0
    media: str = BATCH_BINARY
    twin: bool = False

    @property
    def online(self) -> bool:
        return self.terminal_class in ("counter", "agency", "hospital")


class Manner(Enum):
    """What happens to a debit between card and validator."""

    PLAIN = "plain"
    ON_CLONE = "on a clone"
    PSAM_GAP = "an INIT SAM FOR PURCHASE without debit before it"
    RECOVERED = "torn after the commit, proved by GET TRANSACTION PROOF"
    TORN_COMMITTED = "torn after the commit, the card is gone"
    TORN_VOID = "torn before the commit, the card is gone"


@dataclass(slots=True, eq=False)
class Tap:
    """What a card does at a device; a load or an act as well. `counter`, `next_offline`, `balance_before_fen` and
    `terminal_transaction` are filled in by the bookkeeping. `at` is the true instant; `ahead` is how much the device's
    clock is wrong, negative where it is behind. `next_offline` is the offline counter that the card answers next: the
    true place of a load among the debits."""

    kind: Kind
    card: PlannedCard
    device: Device
    purse: int
    at: datetime
    amount_fen: int
    full_fare_fen: int
    manner: Manner = Manner.PLAIN
    entry: Tap | None = None
    twin: Tap | None = None
    ahead: timedelta = timedelta(0)
    list_of: DeskStep | None = None
    channel: str = ""
    transaction_type: int = 0
    split: Mapping[str, int] = field(default_factory=dict)
    cut: str | None = None
    initial: bool = False
    leaves_fen: int | None = None
    fault: str | None = None
    counter: int = -1
    next_offline: int = 0
    balance_before_fen: int = 0
    terminal_transaction: int = 0
    sents: list[Sent] = field(default_factory=list)

    @property
    def stamped(self) -> datetime:
        """The instant that the record names."""
        return self.at + self.ahead

    @property
    def key_index(self) -> int:
        """The key id given to INITIALIZE, or to INTERNAL AUTHENTICATE for an act (docs/card.md)."""
        base = {Kind.LOAD: 1, Kind.ACT: 2}.get(self.kind) or {"transit": 1, "smallpay": 2, "utility": 3}[
            self.device.sector
        ]
        return base + (0x10 if self.card.suite == "sm4" else 0)


class Seal(Enum):
    """How the seal of a record as sent came about."""

    GOOD = "good"
    NONE = "zeros"
    OLD = "over other bytes"


@dataclass(frozen=True, slots=True)
class Route:
    """How a record travels: `after` a number of closes (None: never), in a phase of that day's uploads, `alone` in
    batches of its own."""

    after: int | None = 0
    phase: int = 0
    alone: str = ""


@dataclass(slots=True, eq=False)
class Sent:
    """One record as one terminal sends it. Several of one tap are replays and forgeries of it."""

    tap: Tap
    device: Device
    stored_at: datetime
    route: Route = Route()
    seal: Seal = Seal.GOOD
    altered: str | None = None
    replayed: str | None = None
    bad_tac: bool = False
    forged: bool = False
    fault: str | None = None
    id: int = 0
    sequence: int = 0
    arrival: date | None = None
    state: str | None = None
    code: str = ""
    final: str | None = None

    @property
    def kind(self) -> Kind:
        return Kind.TORN if self.tap.manner in (Manner.TORN_COMMITTED, Manner.TORN_VOID) else self.tap.kind

    @property
    def witness(self) -> Device:
        """The device whose terminal number the record names: the PSAM's, whoever sends it."""
        return self.device if self.forged else self.tap.device

    @property
    def at(self) -> datetime:
        """The instant that the record names."""
        return self.stored_at if self.forged else self.tap.stamped

    @property
    def origin(self) -> date:
        return business_date(self.at)

    @property
    def subject(self) -> str:
        return f"{self.device.terminal}/1/{self.sequence}"

    @property
    def proven(self) -> bool:
        return self.state in ("accepted", "suspended")


@dataclass(slots=True, eq=False)
class Batch:
    """A numbered batch of one device, sequences contiguous from its first record's."""

    device: Device
    n: int
    sents: list[Sent]

    @property
    def route(self) -> Route:
        return self.sents[0].route


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answer must say: the status, and for 200 the counts and the quarantined records, else the code."""

    status: int
    code: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    quarantined: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One request: a batch under a number, whole or cut short, and its expected answer."""

    batch: Batch
    n: int
    expected: Expected
    phase: int
    cut_short: bool = False


@dataclass(slots=True, eq=False)
class DeskStep:
    """One act of a clerk, which the front door does through the product. Hex fields are lower case; `amount_fen` fen.

    kind `load`: the card `card`, purse `purse`, channel `channel` (a party id in decimal, or `transfer`); `expects_fen`
    is the value (without the allowance) and `expects_counter` the online counter that the card must answer. `cut` =
    `before-commit` or `after-commit`: authorise, then lose the card's answer before or after its commit; no record is
    made.
    kind `act`: a social or medical act with `transaction_type` and `split` on application `purse`.
    kind `report`: the card is reported lost at `instant`. kind `replacement`: `card` is replaced by `new_card`, which
    must carry `amount_fen`, the sum of `values` (purse → fen); `tap` is what the old card did and nobody has uploaded.
    """

    kind: str
    instant: datetime
    card: str
    purse: int = 0
    terminal: int = 0
    terminal_number: str = ""
    sector: str = ""
    issuer: str = OWN
    generation: int = 0
    suite: str = ""
    key_index: int = 0
    amount_fen: int = 0
    channel: str = ""
    transaction_type: int = 0
    split: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    new_card: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    cut: str | None = None
    expects_fen: int = 0
    expects_counter: int = 0
    tap: Tap | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Copying:
    """The moment at which a thief copies a card."""

    at: datetime
    card: PlannedCard


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished load: what the card answered (`raw_balance` before the load, fen, allowance included) and the desk's
    BCD date and time."""

    tac: bytes
    date: bytes
    time: bytes
    raw_balance: int
    overdraft_fen: int
    counter: int
    suite: int
    key_version: int
    key_index: int


@dataclass(frozen=True, slots=True)
class ActResult:
    """A finished act: the desk's act id (8 bytes) and BCD date and time, the card's cryptogram (8 bytes)."""

    act_id: bytes
    cryptogram: bytes
    date: bytes
    time: bytes
    suite: int
    key_version: int
    key_index: int


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The denylist version that carries the report."""

    list_version: int


@dataclass(frozen=True, slots=True)
class ReplacementResult:
    """The value in fen that the next load of the new card through `transfer` may carry, and the purses of the old card
    that it comes from (purse → fen)."""

    load_fen: int
    values: Mapping[int, int]


DeskResult = LoadResult | ActResult | ReportResult | ReplacementResult | None


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """A fault injected on purpose: its record (if it made one), the kind of case that must follow (if any), and the
    load whose answer was lost, of which there is no record."""

    name: str
    sent: Sent | None = None
    case: str | None = None
    load: Tap | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """An operator's own total of its genuine debits of an origin date."""

    operator: int
    sector: str
    date: date
    count: int
    fen: int


TimelineItem = Tap | DeskStep | Copying


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Two business days, known to the last fen before the first tap."""

    seed: int
    debits: int
    dates: tuple[date, ...]
    registry: Mapping[str, object]
    cards: tuple[PlannedCard, ...]
    devices: tuple[Device, ...]
    timeline: Mapping[date, list[TimelineItem]]
    sents: list[Sent]
    deliveries: Mapping[date, list[Delivery]]
    faults: list[Fault]
    reports: list[DeskStep]
    replacements: list[DeskStep]
    declared: list[Declared]

    @property
    def taps(self) -> list[Tap]:
        """Every tap, load and act, in the order of time."""
        return [item for day in self.dates for item in self.timeline[day] if isinstance(item, Tap)]
