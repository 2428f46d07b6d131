"""Net positions of a date, per settlement class; they sum to zero because each sector's ledger does."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from clearing.ledger.accounts import party_of


@dataclass(frozen=True, slots=True)
class Movement:
    """Gross fen that a rule posted to an account of a sector on a date, for records of one origin date.

    `credit_count` counts the records behind the credits.
    """

    ledger: str
    account: str
    class_: str
    rule: str
    origin_date: date
    debit_fen: int
    credit_fen: int
    credit_count: int

    @property
    def net_fen(self) -> int:
        """In favour of the account's party: credits − debits."""
        return self.credit_fen - self.debit_fen


@dataclass(frozen=True, slots=True)
class NetPosition:
    """What a party receives (> 0) or pays (< 0) in a class, in fen."""

    class_: str
    party: str
    net_fen: int


def net(movements: Iterable[Movement]) -> list[NetPosition]:
    """Positions of every party whose accounts moved, sorted by (class, party); nothing nets across classes (rule
    11).
    """
    positions: dict[tuple[str, str], int] = defaultdict(int)
    for movement in movements:
        positions[movement.class_, party_of(movement.account)] += movement.net_fen
    return [NetPosition(*key, net_fen) for key, net_fen in sorted(positions.items())]
