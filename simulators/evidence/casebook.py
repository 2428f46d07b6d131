"""Cases by (kind, subject): opened by what a close finds, resolved where docs/ledger.md names a condition."""

from dataclasses import dataclass
from datetime import date

# Kinds that end when their condition no longer holds, with how; None where the contract gives the end no name.
SELF_RESOLVING: dict[str, str | None] = {
    "bad-seal": None,
    "card-gap": None,
    "gap-or-load": None,
    "load-in-doubt": "committed",
    "sequence-gap": None,
    "missing-exit": None,
    "missing-entry": None,
    "operator-total": None,
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a close sees of a case; `resolution` when the evidence settles it at once."""

    amount_fen: int
    owner: str
    detail: str = ""
    resolution: str | None = None


@dataclass(slots=True)
class Case:
    amount_fen: int
    opened: date
    owner: str
    detail: str
    resolved: date | None = None
    resolution: str | None = None


Key = tuple[str, str]


class CaseBook(dict[Key, Case]):
    """All cases that were ever opened."""

    def fold(self, day: date, found: dict[Key, Found]) -> None:
        """Bring the cases up to the close of `day`."""
        for key, seen in found.items():
            case = self.setdefault(key, Case(seen.amount_fen, day, seen.owner, seen.detail))
            case.amount_fen, case.owner, case.detail = seen.amount_fen, seen.owner, seen.detail
            if seen.resolution is None:
                case.resolved = case.resolution = None
            elif case.resolution != seen.resolution:
                case.resolved, case.resolution = day, seen.resolution
        for key, case in self.items():
            if key not in found and key[0] in SELF_RESOLVING and case.resolved is None:
                case.resolved, case.resolution = day, SELF_RESOLVING[key[0]]
