"""The fee of a day: once per operator on the sum, half up, and shared among the sectors that earned it (rule 16)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from clearing.ledger import accounts
from clearing.rating.policies import Policies
from clearing.settlement.netting import Movement

RULE = "fee"
_TEN_THOUSAND = 10_000


@dataclass(frozen=True, slots=True)
class Fee:
    """A sector's share of an operator's fee; `remainder` is base × bps − fee × 10000, in ten-thousandths of a fen."""

    sector: str
    operator: int
    version: int
    base_fen: int
    bps: int
    fee_fen: int

    @property
    def remainder(self) -> int:
        return self.base_fen * self.bps - self.fee_fen * _TEN_THOUSAND


def fees(day: date, movements: Iterable[Movement], policies: Policies) -> list[Fee]:
    """The fees of a date by sector and operator, from all that it posted beside fees to `payable:<operator>`, credits −
    debits."""
    parties: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for movement in movements:
        operator = accounts.operator_of(movement.account)
        if operator is not None and movement.account.startswith("payable:") and movement.rule != RULE:
            parties[operator][movement.ledger] += movement.net_fen
    found = []
    for operator, earned in parties.items():
        policy = policies.find("fee", day, str(operator), "*")
        if policy is not None:
            bps = policy.number("bps")
            shares = _shares(_half_up(sum(earned.values()), bps), earned)
            found += [
                Fee(sector, operator, policy.version, base_fen, bps, shares.get(sector, 0))
                for sector, base_fen in earned.items()
            ]
    return sorted(found, key=lambda fee: (fee.sector, fee.operator))


def fee_legs(earned: Iterable[Fee]) -> Iterator[tuple[str, str, int, int]]:
    """What fees post: ledger, account, version, fen."""
    for fee in earned:
        if fee.fee_fen:
            yield fee.sector, accounts.payable(fee.operator), fee.version, fee.fee_fen
            yield fee.sector, accounts.fee(fee.operator), fee.version, -fee.fee_fen


def _half_up(base_fen: int, bps: int) -> int:
    return (base_fen * bps * 2 + _TEN_THOUSAND) // (2 * _TEN_THOUSAND) if base_fen > 0 else 0


def _shares(fee_fen: int, earned: Mapping[str, int]) -> dict[str, int]:
    """The fee by sector: in proportion to what is above zero, by largest remainder, the sector's name on a tie."""
    weights = {sector: base_fen for sector, base_fen in earned.items() if base_fen > 0}
    whole = sum(weights.values())
    shares = {sector: fee_fen * weight // whole for sector, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda sector: (-(fee_fen * weights[sector] % whole), sector))
    for sector in by_remainder[: fee_fen - sum(shares.values())]:
        shares[sector] += 1
    return shares
