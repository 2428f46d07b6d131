"""The registry as intake sees it: one immutable snapshot with look-ups for whole arrays, reloaded part by part when it
changed."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from cardcore.record import Sector
from clearing.registry.dates import Calendar, CutOff, Instants, Mask, instant_us
from clearing.registry.document import AnyValue, CutOffValue, parse_value
from clearing.store import registry as rows
from clearing.store.types import Connection, StoredRow

FOREVER = np.iinfo(np.int64).max
_DAY_US = 86_400_000_000
Value = TypeVar("Value", bound=AnyValue)
Serials = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class Party:
    id: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Terminal:
    id: int
    operator: int
    sector: Sector
    class_: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    scope: str
    valid_from: date
    version: int
    value: AnyValue


@dataclass(frozen=True, slots=True)
class Stations:
    """Where each record of an array was made: of the PSAM, or of the terminal; `known` and `active` by docs/ledger.md,
    rows 4 and 12."""

    known: Mask
    active: Mask
    sector: NDArray[np.int16]
    operator: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Psams:
    """PSAM rows sorted by number and valid_from; times in µs since 2000."""

    number: NDArray[np.int64]
    valid_from: NDArray[np.int64]
    valid_to: NDArray[np.int64]
    active: Mask
    sector: NDArray[np.int16]
    operator: NDArray[np.int32]

    def locate(self, numbers: NDArray[np.int64], instants: Instants) -> Stations:
        """The row in force at each instant; failing that one within a day of it, which is known but not active."""
        found = np.full(len(numbers), -1, np.int64)
        strict = np.zeros(len(numbers), np.bool_)
        start = np.searchsorted(self.number, numbers, side="left")
        stop = np.searchsorted(self.number, numbers, side="right")
        for step in range(int((stop - start).max(initial=0))):
            here = start + step < stop
            row = np.where(here, start + step, 0)
            inside = here & (self.valid_from[row] <= instants) & (instants < self.valid_to[row])
            near = here & (self.valid_from[row] - _DAY_US <= instants) & (instants - _DAY_US < self.valid_to[row])
            found = np.where(inside & ~strict | near & (found < 0), row, found)
            strict |= inside
        known = found >= 0
        row = np.where(known, found, 0)
        if not len(self.number):
            return Stations(known, known, np.zeros(len(numbers), np.int16), np.zeros(len(numbers), np.int32))
        return Stations(known, strict & self.active[row], self.sector[row], self.operator[row])


@dataclass(frozen=True, slots=True)
class Since:
    """Serials with the instant (µs since 2000) from which something holds for them."""

    serials: Serials = field(default_factory=lambda: np.zeros(0, "S10"))
    instants: Instants = field(default_factory=lambda: np.zeros(0, np.int64))

    def reached(self, serials: Serials, instants: Instants) -> Mask:
        """Whether it holds for each serial at its instant."""
        row, known = _find(self.serials, serials)
        return known & (self.instants[row] <= instants) if len(self.instants) else known


@dataclass(frozen=True, slots=True)
class Registry:
    """All of the registry at one moment. `own` maps an issuer's code to whether its cards are verified here."""

    own: Mapping[bytes, bool]
    parties: Mapping[int, Party]
    terminals: Mapping[int, Terminal]
    psams: Psams
    policies: Mapping[tuple[str, str], tuple[Policy, ...]]
    calendar: Calendar | None
    cards: Serials = field(default_factory=lambda: np.zeros(0, "S10"))
    denied: Since = Since()
    replaced: Since = Since()

    def policy(self, name: str, scope: str, day: date) -> Policy | None:
        """The policy of the scope in force on a business date, else that of scope `*`, else None."""
        for candidate in (scope, "*"):
            for policy in reversed(self.policies.get((name, candidate), ())):
                if policy.valid_from <= day:
                    return policy
        return None

    def value(self, kind: type[Value], scope: str, day: date) -> Value | None:
        """The typed value of the policy that `kind` describes."""
        policy = self.policy(kind.policy, scope, day)
        return cast(Value, policy.value) if policy else None

    def registered(self, serials: Serials) -> Mask:
        """Which serials are cards of the registry."""
        return _find(self.cards, serials)[1]

    def business_date(self, instant: datetime) -> date:
        """Raises ValueError when the registry has no cut-off policy."""
        if self.calendar is None:
            raise ValueError("the registry has no cut-off policy")
        return self.calendar.business_date(instant)


class RegistryFeed:
    """Gives the current registry; a part is read again only after somebody changed it."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._registry: Registry | None = None

    @property
    def latest(self) -> Registry:
        """The snapshot of the last `current`; an assertion fails before the first."""
        assert self._registry is not None, "no snapshot was taken yet"
        return self._registry

    async def current(self, connection: Connection) -> Registry:
        """The registry as of this call; cancelled, the last snapshot stays."""
        versions = await rows.versions(connection)
        moved = {part for part, version in versions.items() if self._versions.get(part) != version}
        registry = self._registry
        if registry is None or "parties" in moved:
            fresh = _read_parties(await rows.read_parties(connection))
            registry = (
                replace(fresh, cards=registry.cards, denied=registry.denied, replaced=registry.replaced)
                if registry
                else fresh
            )
        if "cards" in moved:
            registry = replace(registry, cards=await rows.read_cards(connection))
        if "denylist" in moved:
            registry = replace(registry, denied=_since(await rows.read_denylist(connection)))
        if "replacements" in moved:
            registry = replace(registry, replaced=_since(await rows.read_replacements(connection)))
        self._registry, self._versions = registry, versions
        return registry


async def read_registry(connection: Connection) -> Registry:
    """A snapshot for one use."""
    return await RegistryFeed().current(connection)


def _find(sorted_serials: Serials, serials: Serials) -> tuple[NDArray[np.int64], Mask]:
    """Row of each serial in a sorted array (0 where there is none), and whether it is there."""
    if not len(sorted_serials):
        return np.zeros(len(serials), np.int64), np.zeros(len(serials), np.bool_)
    row = np.minimum(np.searchsorted(sorted_serials, serials), len(sorted_serials) - 1)
    known = sorted_serials[row] == serials
    return np.where(known, row, 0), known


def _since(columns: list[NDArray[np.generic]]) -> Since:
    return Since(columns[0].astype("S10", copy=False), columns[1].astype(np.int64))


def _read_parties(tables: Mapping[str, list[StoredRow]]) -> Registry:
    policies: defaultdict[tuple[str, str], list[Policy]] = defaultdict(list)
    for row in tables["policy"]:
        value = parse_value(row["name"], json.loads(row["value"]))
        policies[row["name"], row["scope"]].append(
            Policy(row["name"], row["scope"], row["valid_from"], row["version"], value)
        )
    return Registry(
        own={row["code"]: row["own"] for row in tables["issuer"]},
        parties={row["id"]: Party(row["id"], row["kind"], row["name"]) for row in tables["party"]},
        terminals={
            row["id"]: Terminal(row["id"], row["operator"], Sector(row["sector"]), row["class"], row["epoch"])
            for row in tables["terminal"]
        },
        psams=_psams(tables["psam"]),
        policies={scope: tuple(dated) for scope, dated in policies.items()},
        calendar=_calendar(policies.get(("cut-off", "*"), [])),
    )


def _psams(psams: list[StoredRow]) -> Psams:
    return Psams(
        number=np.array([int.from_bytes(row["number"]) for row in psams], np.int64),
        valid_from=np.array([instant_us(row["valid_from"]) for row in psams], np.int64),
        valid_to=np.array([instant_us(row["valid_to"]) if row["valid_to"] else FOREVER for row in psams], np.int64),
        active=np.array([row["state"] == "active" for row in psams], np.bool_),
        sector=np.array([row["sector"] for row in psams], np.int16),
        operator=np.array([row["operator"] for row in psams], np.int32),
    )


def _calendar(policies: list[Policy]) -> Calendar | None:
    cut_offs = [
        CutOff(policy.valid_from, ZoneInfo(policy.value.timezone), policy.value.at)
        for policy in policies
        if isinstance(policy.value, CutOffValue)
    ]
    return Calendar(cut_offs) if cut_offs else None
