"""The fee of a day, once per sector and operator on the sum (rule 16)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from clearing.ledger.accounts import operator_of
from clearing.rating.policies import Policies

_TEN_THOUSAND = 10_000


@dataclass(frozen=True, slots=True)
class Fee:
    """`fee_fen` = `base_fen` × `bps` / 10000, half up; `remainder` is base × bps − fee × 10000, in ten-thousandths of a
    fen.
    """

    sector: str
    operator: int
    version: int
    base_fen: int
    bps: int

    @property
    def fee_fen(self) -> int:
        return (self.base_fen * self.bps * 2 + _TEN_THOUSAND) // (2 * _TEN_THOUSAND) if self.base_fen > 0 else 0

    @property
    def remainder(self) -> int:
        return self.base_fen * self.bps - self.fee_fen * _TEN_THOUSAND


def fees(day: date, bases: Iterable[tuple[str, str, int]], policies: Policies) -> list[Fee]:
    """The fees of a date; `bases` are (ledger, `payable:<operator>`, credits − debits in fen)."""
    found = []
    for ledger, account, base_fen in sorted(bases):
        operator = operator_of(account)
        policy = policies.find("fee", day, str(operator), "*")
        if operator is not None and policy is not None:
            found.append(Fee(ledger, operator, policy.version, base_fen, policy.number("bps")))
    return found
