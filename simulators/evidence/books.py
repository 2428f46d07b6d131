"""Books, nets and statements in dictionaries: gross sums by (date, ledger, account, rule), substance by origin."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from simulators.evidence.ciphers import sm3

UNIT = "CNY"
PAYABLE_CLASSES = {
    "payable": "stored value",
    "subsidy_payable": "treasury subsidy",
    "fund_payable": "insurance fund",
    "account_payable": "personal medical account",
}
COUNTER_PARTIES = {
    "stored value": "issuer",
    "treasury subsidy": "treasury",
    "insurance fund": "fund",
    "personal medical account": "account",
}


class Account(NamedTuple):
    ledger: str
    name: str


class BookLine(NamedTuple):
    day: date
    ledger: str
    account: str
    rule: str


@dataclass(slots=True)
class StatementLine:
    """What an operator is told of one sector and class on one date; `late` is (count, fen) by origin date."""

    count: int = 0
    gross_fen: int = 0
    reversed_fen: int = 0
    fee_fen: int = 0
    late: dict[date, tuple[int, int]] = field(default_factory=dict)

    @property
    def net_fen(self) -> int:
        return self.gross_fen - self.reversed_fen - self.fee_fen


class Books:
    """Positive amounts are debits, negative ones credits, all in fen."""

    def __init__(self) -> None:
        self.lines: dict[BookLine, list[int]] = defaultdict(lambda: [0, 0])
        self.substance: dict[tuple[Account, date], int] = defaultdict(int)
        self.statements: dict[tuple[date, str, str, str], StatementLine] = defaultdict(StatementLine)

    def post(self, day: date, account: Account, rule: str, fen: int, origin: date) -> None:
        """One leg of a record's posting, or of the change of one; `origin` is the origin date of the record."""
        self._sum(day, account, rule, fen)
        self.substance[account, origin] += fen
        kind, _, party = account.name.partition(":")
        if settlement_class := PAYABLE_CLASSES.get(kind):
            line = self.statements[day, party, account.ledger, settlement_class]
            if fen > 0:
                line.reversed_fen += fen
                return
            line.count += 1
            line.gross_fen -= fen
            if origin < day:
                count, late_fen = line.late.get(origin, (0, 0))
                line.late[origin] = count + 1, late_fen - fen

    def charge(self, day: date, sector: str, operator: str, rule: str, fee_fen: int) -> None:
        """A clearing fee: it belongs to a date of posting, so it is no substance."""
        self._sum(day, Account(sector, f"payable:{operator}"), rule, fee_fen)
        self._sum(day, Account(sector, f"fee:{operator}"), rule, -fee_fen)
        self.statements[day, operator, sector, PAYABLE_CLASSES["payable"]].fee_fen += fee_fen

    def _sum(self, day: date, account: Account, rule: str, fen: int) -> None:
        self.lines[BookLine(day, *account, rule)][fen < 0] += abs(fen)

    def payable_fen(self, day: date) -> dict[tuple[str, str], int]:
        """Credits − debits of a date to `payable`, by (sector, operator)."""
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for line, (debit, credit) in self.lines.items():
            kind, _, operator = line.account.partition(":")
            if line.day == day and kind == "payable":
                sums[line.ledger, operator] += credit - debit
        return dict(sums)

    def nets(self, day: date) -> dict[tuple[str, str], int]:
        """Net fen by (class, party) of a date's postings; zero in each class when summed."""
        nets: dict[tuple[str, str], int] = defaultdict(int)
        for line, (debit, credit) in self.lines.items():
            kind, _, party = line.account.partition(":")
            if line.day != day or (kind not in PAYABLE_CLASSES and kind != "fee"):
                continue
            settlement_class = PAYABLE_CLASSES.get(kind, PAYABLE_CLASSES["payable"])
            nets[settlement_class, "clearing" if kind == "fee" else party] += credit - debit
            nets[settlement_class, COUNTER_PARTIES[settlement_class]] -= credit - debit
        return dict(nets)

    def digest(self, states: Mapping[str, tuple[int, int]]) -> str:
        """books_digest over these books and the (count, fen) of each record state."""
        booked = [
            f"{line.day}|{line.ledger}|{line.account}|{UNIT}|{line.rule}|{debit}|{credit}"
            for line, (debit, credit) in self.lines.items()
        ]
        return _digest(booked + [f"{state}|{count}|{fen}" for state, (count, fen) in states.items()])

    def substance_digest(self) -> str:
        return _digest(
            f"{account.ledger}|{account.name}|{origin}|{net}"
            for (account, origin), net in self.substance.items()
            if net
        )


def _digest(lines: Iterable[str]) -> str:
    return sm3(b"".join(sorted(line.encode() + b"\n" for line in lines))).hex()
