"""The moves that docs/ledger.md asks for, fen by fen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple, TypeAlias

from simulators.city.arrivals import sealed
from simulators.city.facts import DeskStep, Sent, Tap
from simulators.city.parties import FEE_BPS
from simulators.city.records import Kind


class Line(NamedTuple):
    """One account's postings of a date under one rule."""

    date: date
    ledger: str
    account: str
    rule: str


Cause: TypeAlias = Sent | Tap | str
"""Why something is posted: a record, a load in doubt, or the subject of a fork or gap."""


class Books:
    """Gross sums, debit and credit, per line; `caused` holds the same postings one by one, by what they are due to."""

    def __init__(self) -> None:
        self.lines: dict[Line, list[int]] = defaultdict(lambda: [0, 0])
        self.caused: dict[Cause, list[tuple[Line, Line, int]]] = defaultdict(list)
        self._subsidised: dict[Sent, int] = {}
        self._forked: set[int] = set()
        self._gaps: dict[str, tuple[int, int]] = {}

    def post(
        self, day: date, rule: str, ledger: str, debit: str, credit: str, fen: int, cause: Cause | None = None
    ) -> None:
        """`fen` from one account to another; a negative amount goes the other way."""
        if fen < 0:
            debit, credit, fen = credit, debit, -fen
        if fen:
            debited, credited = Line(day, ledger, debit, rule), Line(day, ledger, credit, rule)
            self.lines[debited][0] += fen
            self.lines[credited][1] += fen
            if cause is not None:
                self.caused[cause].append((debited, credited, fen))

    def moves(self, causes: Iterable[Cause]) -> dict[Line, list[int]]:
        """Gross sums of what these causes have posted: their share of `lines`."""
        share: dict[Line, list[int]] = defaultdict(lambda: [0, 0])
        for cause in causes:
            for debited, credited, fen in self.caused.get(cause, ()):
                share[debited][0] += fen
                share[credited][1] += fen
        return share

    def intake(self, sent: Sent, day: date) -> None:
        """What a record posts when it arrives; `day` is its post date."""
        tap, fen = sent.tap, sent.tap.amount_fen
        if sent.kind is Kind.LOAD:
            if sent.state == "accepted":
                self.load(day, tap, sent)
        elif sent.kind is Kind.ACT:
            if sent.state == "accepted":
                for payer, part in tap.split.items():
                    payable = f"{payer}_payable:{tap.device.operator}"
                    self.post(day, "act@1", tap.device.sector, payer, payable, part, sent)
        elif sent.state == "pending_issuer":
            device, issuer = tap.device, tap.card.issuer
            receivable, payable = f"pending_receivable:{issuer}", f"pending_payable:{device.operator}"
            self.post(day, "debit@1", device.sector, receivable, payable, fen, sent)
        elif sent.proven:
            device = tap.device
            side = "payable" if sent.state == "accepted" else "suspense"
            self.post(day, "debit@1", "purse", f"float:{tap.purse}", f"due:{device.sector}", fen, sent)
            self.post(day, "debit@1", device.sector, "due:purse", f"{side}:{device.operator}", fen, sent)

    def load(self, day: date, tap: Tap, cause: Cause) -> None:
        """An accepted load, or one in doubt that the card's evidence has committed."""
        source = "transfer" if tap.channel == "transfer" else f"cash:{tap.channel}"
        self.post(day, "load@1", "purse", source, f"float:{tap.purse}", tap.amount_fen, cause)

    def replacement(self, day: date, step: DeskStep) -> None:
        """The old card's value leaves its purses, on its way to the new card."""
        for purse, fen in step.values.items():
            self.post(day, "replace@1", "purse", f"float:{purse}", "transfer", fen)

    def subsidies(self, day: date, known: Sequence[Sent]) -> None:
        """The difference between full and charged fare, of what is accepted and sealed now."""
        for sent in known:
            tap = sent.tap
            due = tap.full_fare_fen - tap.amount_fen if subsidised(sent) and not tap.card.ended else 0
            if due != self._subsidised.get(sent, 0):
                change = due - self._subsidised.get(sent, 0)
                payable = f"subsidy_payable:{tap.device.operator}"
                self.post(day, "subsidy@1", "transit", "subsidy", payable, change, sent)
                self._subsidised[sent] = due

    def forks(self, day: date, forks: Mapping[str, list[Sent]]) -> None:
        """Every payable of a fork to suspense; all floats but the smallest member's back, as a fraud receivable."""
        for subject, members in forks.items():
            members.sort(key=lambda s: (s.at, s.witness.psam, s.tap.terminal_transaction))
            for nth, sent in enumerate(members):
                if id(sent) in self._forked:
                    continue
                self._forked.add(id(sent))
                device, fen = sent.tap.device, sent.tap.amount_fen
                if sent.state == "accepted":
                    payable, suspense = f"payable:{device.operator}", f"suspense:{device.operator}"
                    self.post(day, "fork@1", device.sector, payable, suspense, fen, subject)
                if nth:
                    self.post(day, "fork@1", "purse", "fraud", f"float:{sent.tap.purse}", fen, subject)

    def gaps(self, day: date, gaps: Mapping[str, tuple[int, int]]) -> None:
        """Opens the gaps that are new and releases those that a late record has filled: subject → (purse, fen)."""
        for subject in sorted(gaps.keys() | self._gaps.keys()):
            purse, fen = gaps.get(subject) or (self._gaps[subject][0], 0)
            change = fen - self._gaps.get(subject, (0, 0))[1]
            self.post(day, "gap@1", "purse", f"float:{purse}", f"unsettled:{purse}", change, subject)
        self._gaps = dict(gaps)


def subsidised(sent: Sent) -> bool:
    """Whether the record is a ride whose claims count: transit, accepted and sealed."""
    ride = sent.tap.device.sector == "transit" and sent.kind in (Kind.DEBIT, Kind.EXIT)
    return ride and sent.final == "accepted" and sealed(sent)


def fees(books: Books, day: date) -> None:
    """One fee per sector and operator on what the date posted to its payable, half a fen up."""
    bases: dict[tuple[str, str], int] = defaultdict(int)
    for line, (debit, credit) in books.lines.items():
        if line.date == day and line.account.startswith("payable:"):
            bases[line.ledger, line.account.removeprefix("payable:")] += credit - debit
    for (ledger, operator), base in bases.items():
        if base > 0:
            fen = (base * FEE_BPS.get(operator, FEE_BPS["*"]) * 2 + 10000) // 20000
            books.post(day, "fee@1", ledger, f"payable:{operator}", f"fee:{operator}", fen)


CLASSES = {
    "payable": "stored value",
    "subsidy_payable": "treasury subsidy",
    "fund_payable": "insurance fund",
    "account_payable": "personal medical account",
}
COUNTERS = {
    "stored value": "issuer",
    "treasury subsidy": "treasury",
    "insurance fund": "fund",
    "personal medical account": "account",
}


def nets(books: Books) -> dict[tuple[date, str, str], int]:
    """(date, class, party) → fen that the party gets; every class of a date sums to zero."""
    found: dict[tuple[date, str, str], int] = defaultdict(int)
    for line, (debit, credit) in books.lines.items():
        account, _, party = line.account.partition(":")
        if account == "fee":
            net_class, party = "stored value", "clearing"
        elif account in CLASSES:
            net_class = CLASSES[account]
        else:
            continue
        found[line.date, net_class, party] += credit - debit
        found[line.date, net_class, COUNTERS[net_class]] -= credit - debit
    return {key: fen for key, fen in found.items() if fen}
