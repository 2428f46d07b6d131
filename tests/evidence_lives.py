"""The honest life of a purse, and what of it reaches the auditor: records lost, clocks wrong, loads torn."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from simulators.evidence.books import Books
from simulators.evidence.gaps import Reading, known_counters, read_counters
from simulators.evidence.happenings import Load
from simulators.evidence.intake import Authorised, Fact, Intake
from simulators.evidence.registry import BusinessTime, Card, Policy, Registry
from simulators.evidence.taprecord import SIZE, Kind, from_bytes

NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
CARD = bytes.fromhex("03107910000000000001")
OVERDRAFT_FEN = 800
REGISTRY = Registry(
    own={},
    terminals={},
    psams={},
    cards={CARD: Card(bytes(4), 1)},
    policies={("cut-off", "*"): [Policy(date.min, 1, {"timezone": "Asia/Shanghai", "at": "02:00"})]},
)


def _fact(kind: Kind, counter: int, found_fen: int, fen: int, at: datetime, sealed: bool, code: str) -> Fact:
    tap = from_bytes(bytes(SIZE))._replace(
        kind=kind,
        purse=1,
        card=CARD,
        counter=counter,
        amount_fen=fen,
        balance_before_fen=found_fen,
        overdraft_fen=OVERDRAFT_FEN,
    )
    return Fact(tap, tap, sealed, b"", "suspended" if code else "accepted", code, at)


def tapped(counter: int, before_fen: int, fen: int, at: datetime, sealed: bool = True, code: str = "") -> Fact:
    """A proven debit of `fen` at a terminal whose clock says `at`."""
    return _fact(Kind.DEBIT, counter, before_fen, fen, at, sealed, code)


def loaded(counter: int, found_fen: int, fen: int, at: datetime) -> Fact:
    """The accepted record of a load under an online counter."""
    return _fact(Kind.LOAD, counter, found_fen, fen, at, False, "")


def ordered(counter: int, found_fen: int, fen: int, at: datetime) -> Authorised:
    """An authorised load under an online counter."""
    load = Load(
        order=0,
        at=at,
        card=CARD,
        issuer=bytes(4),
        purse=1,
        generation=0,
        suite=0,
        key_version=1,
        terminal_number=bytes(6),
        amount_fen=fen,
        counter=counter,
        channel="301",
        raw_balance_fen=found_fen + OVERDRAFT_FEN,
        random=bytes(4),
        mac1=bytes(4),
        mac2=bytes(4),
        date=bytes(4),
        time=bytes(3),
    )
    return Authorised(load, at, at.date())


def read(facts: list[Fact], orders: list[Authorised]) -> Reading:
    """What auditor E finds in the counters of the purse."""
    intake = Intake(REGISTRY, BusinessTime(REGISTRY), Books(), {}, date.min)
    intake.facts = facts
    intake.loaded = {(CARD, 1, fact.tap.counter) for fact in facts if fact.tap.kind == Kind.LOAD}
    for order in orders:
        intake.loads[CARD, 1, order.load.counter].append(order)
    return read_counters(intake, known_counters(facts))


class Step(NamedTuple):
    """`fate`: of a tap `kept`, `unsealed` (its seal is lost) or `lost`; of a load `kept`, `lost` (credited, its record
    lost) or `failed`."""

    kind: str
    fen: int
    wait_s: int
    skew_s: int
    fate: str


@dataclass
class Life:
    """A card whose memory is right, in a city whose clocks are not; at the end it rides on the next day and pays.

    Without that, a load that failed could as well be credited after the last tap.
    """

    value_fen: int = 0
    offline: int = 0
    online: int = 0
    now: datetime = NOON
    facts: list[Fact] = field(default_factory=list)
    orders: list[Authorised] = field(default_factory=list)
    credited: list[bool] = field(default_factory=list)
    lost_fen: int = 0

    def live(self, steps: list[Step]) -> "Life":
        for step in steps:
            self.now += timedelta(seconds=step.wait_s)
            if step.kind == "load":
                self._load(step)
            else:
                self._tap(step)
        self.now += timedelta(days=1)
        self.offline, self.value_fen = self.offline + 1, self.value_fen - 1
        self.facts.append(tapped(self.offline - 1, self.value_fen + 1, 1, self.now))
        return self

    def _tap(self, step: Step) -> None:
        fen = min(step.fen, self.value_fen + OVERDRAFT_FEN - 1)
        at = self.now + timedelta(seconds=step.skew_s)
        if step.fate == "lost":
            self.lost_fen += fen
        else:
            self.facts.append(tapped(self.offline, self.value_fen, fen, at, sealed=step.fate == "kept"))
        self.offline += 1
        self.value_fen -= fen

    def _load(self, step: Step) -> None:
        fen = step.fen + 1
        self.orders.append(ordered(self.online, self.value_fen, fen, self.now))
        self.credited.append(step.fate != "failed")
        if step.fate == "failed":
            return
        if step.fate == "kept":
            at = self.now + timedelta(seconds=step.skew_s)
            self.facts.append(loaded(self.online, self.value_fen, fen, at))
        self.online += 1
        self.value_fen += fen

    def read(self) -> Reading:
        return read(self.facts, self.orders)
