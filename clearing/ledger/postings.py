"""What intake posts: legs per kind of record, summed per (batch, account, post date, origin date, rule) with count and
Merkle root.

Dates are days since 2000-01-01, amounts fen; positive is a debit. Source: docs/ledger.md, "Postings at intake".
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cardcore.record import Sector
from clearing.ledger import accounts
from keys.proof import merkle_root

VERSION = 1
STORED_VALUE = "stored value"
PAYER_CLASS = {"fund": "insurance fund", "account": "personal medical account"}


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of an entry; `sign` is +1 for a debit, −1 for a credit."""

    ledger: str
    account: str
    class_: str
    sign: int


@dataclass(frozen=True, slots=True)
class Strand:
    """Records of one batch that post alike: the legs, the dates, how many they are, their sum, and their leaves."""

    batch: int
    rule: str
    legs: tuple[Leg, ...]
    business_date: int
    origin_date: int
    amount_fen: int
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Posting:
    """One row of the general ledger."""

    ledger: str
    account: str
    class_: str
    rule: str
    version: int
    business_date: int
    origin_date: int
    count: int
    amount_fen: int
    merkle_root: bytes


@lru_cache(4096)
def debit_legs(purse: int, sector: int, operator: int, *, suspended: bool) -> tuple[Leg, ...]:
    """An offline debit: off the card's float, owed to the sector, owed there to the operator or kept in suspense (rule
    10)."""
    ledger = Sector(sector).label
    return (
        Leg("purse", f"float:{purse}", STORED_VALUE, +1),
        Leg("purse", f"due:{ledger}", STORED_VALUE, -1),
        Leg(ledger, "due:purse", STORED_VALUE, +1),
        Leg(ledger, f"{'suspense' if suspended else 'payable'}:{operator}", STORED_VALUE, -1),
    )


@lru_cache(4096)
def foreign_legs(sector: int, issuer: bytes, operator: int) -> tuple[Leg, ...]:
    """A foreign card's debit: a pending pair until its issuer has spoken (rule 9)."""
    ledger = Sector(sector).label
    return (
        Leg(ledger, f"pending_receivable:{issuer.hex()}", STORED_VALUE, +1),
        Leg(ledger, f"pending_payable:{operator}", STORED_VALUE, -1),
    )


@lru_cache(4096)
def load_legs(purse: int, channel: str) -> tuple[Leg, ...]:
    """A load: receivable from its channel, or the value of a replaced card, onto the card's float (rules 17, 18)."""
    source = accounts.channel(channel)
    return Leg("purse", source, accounts.class_of(source), +1), Leg("purse", f"float:{purse}", STORED_VALUE, -1)


@lru_cache(4096)
def act_legs(sector: int, payer: str, operator: int) -> tuple[Leg, ...]:
    """One payer's part of an online act: a memo of the decision, not our money (rule 11)."""
    ledger, class_ = Sector(sector).label, PAYER_CLASS[payer]
    return Leg(ledger, payer, class_, +1), Leg(ledger, f"{payer}_payable:{operator}", class_, -1)


def summed(strands: Iterable[Strand]) -> dict[int, list[Posting]]:
    """The postings of each batch. Every batch sums to zero in every ledger, because the legs of every strand do."""
    gathered: defaultdict[tuple[int, Leg, str, int, int], list[Strand]] = defaultdict(list)
    for strand in strands:
        for leg in strand.legs:
            gathered[strand.batch, leg, strand.rule, strand.business_date, strand.origin_date].append(strand)
    roots: dict[tuple[int, ...], bytes] = {}
    postings: defaultdict[int, list[Posting]] = defaultdict(list)
    for (batch, leg, rule, business_date, origin_date), behind in gathered.items():
        behind_ids = tuple(map(id, behind))
        if behind_ids not in roots:
            roots[behind_ids] = merkle_root([leaf for strand in behind for leaf in strand.leaves])
        postings[batch].append(
            Posting(
                ledger=leg.ledger,
                account=leg.account,
                class_=leg.class_,
                rule=rule,
                version=VERSION,
                business_date=business_date,
                origin_date=origin_date,
                count=sum(len(strand.leaves) for strand in behind),
                amount_fen=leg.sign * sum(strand.amount_fen for strand in behind),
                merkle_root=roots[behind_ids],
            )
        )
    return postings
