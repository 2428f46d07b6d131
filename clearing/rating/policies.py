"""Dated policies: the version of a name and scope that is in force on a business date (docs/registry.md)."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of a policy, valid from a business date until the next one of its name and scope."""

    name: str
    scope: str
    valid_from: date
    version: int
    value: Mapping[str, object]

    def number(self, member: str) -> int:
        """An integer member of the value; raises KeyError or TypeError on a value that the registry would have
        refused.
        """
        found = self.value[member]
        if not isinstance(found, int):
            raise TypeError(f"{member} of policy {self.name} {self.scope} is {found!r}, not an integer")
        return found


class Policies:
    """All versions, looked up by date."""

    def __init__(self, rows: Iterable[Policy]) -> None:
        versions: dict[tuple[str, str], list[Policy]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row.valid_from):
            versions[row.name, row.scope].append(row)
        self._versions = {key: ([row.valid_from for row in found], found) for key, found in versions.items()}

    def find(self, name: str, on: date, *scopes: str) -> Policy | None:
        """The version in force on a date, of the first scope that has one."""
        for scope in scopes:
            starts, versions = self._versions.get((name, scope), ([], []))
            if at := bisect_right(starts, on):
                return versions[at - 1]
        return None

    def all(self, name: str) -> list[Policy]:
        """Every version of every scope of a name, by date."""
        return [row for (own, _), (_, rows) in self._versions.items() if own == name for row in rows]
