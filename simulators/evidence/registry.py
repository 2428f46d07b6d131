"""The registry file of docs/registry.md, as an auditor looks things up in it."""

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from simulators.evidence.taprecord import local_date, local_time

_ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_SLACK = timedelta(days=1)


def instant_of(text: str) -> datetime:
    """An ISO 8601 instant with offset, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


class Terminal(NamedTuple):
    number: int
    operator: int
    sector: str
    kind: str


class Psam(NamedTuple):
    sector: str
    operator: int
    start: datetime
    end: datetime
    state: str

    def covers(self, instant: datetime, slack: timedelta = timedelta()) -> bool:
        # Slack is taken from the instant's side of the comparison, because an open end cannot be moved further.
        return self.start - instant <= slack and (instant < self.end or instant - self.end < slack)


class Card(NamedTuple):
    issuer: bytes
    concession: int


class Policy(NamedTuple):
    start: date
    version: int
    value: dict[str, int | str]

    def number(self, name: str) -> int:
        return int(self.value[name])


@dataclass(frozen=True, slots=True)
class Registry:
    """Parties, terminals, cards and dated policies; `own` tells of each known issuer whether its cards are ours."""

    own: dict[bytes, bool]
    terminals: dict[int, Terminal]
    psams: dict[bytes, list[Psam]]
    cards: dict[bytes, Card]
    policies: dict[tuple[str, str], list[Policy]]

    def policy(self, name: str, scope: str, day: date) -> Policy | None:
        """The version in force on a business date, for this scope or for every scope (`*`)."""
        for key in ((name, scope), (name, "*")):
            for policy in reversed(self.policies.get(key, ())):
                if policy.start <= day:
                    return policy
        return None

    def psam(self, number: bytes, instant: datetime) -> Psam | None:
        """The row of a PSAM at an instant, else the row that is at most a day away."""
        rows = self.psams.get(number, ())
        for slack in (timedelta(), _SLACK):
            for row in rows:
                if row.covers(instant, slack):
                    return row
        return None


def read_registry(path: Path) -> Registry:
    """Raises OSError, KeyError or ValueError for a file that is not a registry."""
    document = json.loads(path.read_text("utf-8"))
    psams: dict[bytes, list[Psam]] = defaultdict(list)
    for row in document["psams"]:
        start, end = (
            instant_of(row[name]) if row.get(name) else always
            for name, always in zip(("from", "to"), _ALWAYS, strict=True)
        )
        psam = Psam(row["sector"], int(row["operator"]), start, end, row["state"])
        psams[bytes.fromhex(row["number"])].append(psam)
    policies: dict[tuple[str, str], list[Policy]] = defaultdict(list)
    for row in sorted(document["policies"], key=lambda row: (row["from"], row["version"])):
        policy = Policy(date.fromisoformat(row["from"]), int(row["version"]), row["value"])
        policies[row["name"], str(row["scope"])].append(policy)
    return Registry(
        own={bytes.fromhex(row["code"]): bool(row["own"]) for row in document["issuers"]},
        terminals={
            int(row["id"]): Terminal(int(row["id"]), int(row["operator"]), row["sector"], row["class"])
            for row in document["terminals"]
        },
        psams=dict(psams),
        cards={
            bytes.fromhex(row["card"]): Card(bytes.fromhex(row["issuer"]), int(row["class"]))
            for row in document["cards"]
        },
        policies=dict(policies),
    )


def _since_midnight(cut_off: Policy) -> timedelta:
    at = time.fromisoformat(str(cut_off.value["at"]))
    return timedelta(hours=at.hour, minutes=at.minute, seconds=at.second)


class BusinessTime:
    """Local time and business dates by the cut-off policy."""

    def __init__(self, registry: Registry) -> None:
        rows = registry.policies.get(("cut-off", "*"))
        if not rows:
            raise ValueError("registry.json has no policy cut-off with scope *: no business date can be told; add it")
        self._cut_offs = [(row.start, ZoneInfo(str(row.value["timezone"])), _since_midnight(row)) for row in rows]
        self.instant = lru_cache(maxsize=1 << 17)(self._instant)
        self.business_date = lru_cache(maxsize=1 << 17)(self._business_date)

    def _cut_off(self, day: date) -> tuple[ZoneInfo, timedelta]:
        _, zone, after_midnight = next((row for row in reversed(self._cut_offs) if row[0] <= day), self._cut_offs[0])
        return zone, after_midnight

    def _instant(self, bcd_date: bytes, bcd_time: bytes) -> datetime | None:
        """UTC of a terminal's local date and time; None when they are no point in time."""
        day, clock = local_date(bcd_date), local_time(bcd_time)
        if day is None or clock is None:
            return None
        zone, _ = self._cut_off(day)
        return datetime.combine(day, clock, zone).astimezone(UTC)

    def _business_date(self, instant: datetime) -> date:
        """The local date of (instant − cut-off)."""
        zone, after_midnight = self._cut_off(instant.date())
        return (instant - after_midnight).astimezone(zone).date()
