"""Lines of the books and the two digests over them (rule 14, docs/ledger.md)."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date

from keys.proof import sm3

UNIT = "CNY"


@dataclass(frozen=True, slots=True)
class BookLine:
    """Gross sums in fen of one account on one business date under one version of a rule."""

    business_date: date
    ledger: str
    account: str
    unit: str
    rule: str
    debit_fen: int
    credit_fen: int

    @property
    def order(self) -> tuple[date, str, str, str]:
        return self.business_date, self.ledger, self.account, self.rule

    def text(self) -> str:
        account = f"{self.business_date}|{self.ledger}|{self.account}|{self.unit}"
        return f"{account}|{self.rule}|{self.debit_fen}|{self.credit_fen}"

    def document(self) -> dict[str, object]:
        rest = {name: value for name, value in asdict(self).items() if name != "business_date"}
        return {"date": self.business_date.isoformat(), **rest}


@dataclass(frozen=True, slots=True)
class StateLine:
    """How many records end in a state, and their amount in fen."""

    state: str
    count: int
    fen: int

    def text(self) -> str:
        return f"{self.state}|{self.count}|{self.fen}"

    def document(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SubstanceLine:
    """Debits − credits in fen of an account, by the origin date of the records concerned."""

    ledger: str
    account: str
    origin_date: date
    net_fen: int

    def text(self) -> str:
        return f"{self.ledger}|{self.account}|{self.origin_date}|{self.net_fen}"


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that the two digests cover."""

    lines: tuple[BookLine, ...]
    states: tuple[StateLine, ...]
    substance: tuple[SubstanceLine, ...]

    @property
    def books_digest(self) -> str:
        """Invariant under shuffle, split, merge and repetition of uploads within a date."""
        return _digest([*(line.text() for line in self.lines), *(line.text() for line in self.states)])

    @property
    def substance_digest(self) -> str:
        """Invariant under delay too."""
        return _digest([line.text() for line in self.substance if line.net_fen])

    def documents(self) -> Iterable[dict[str, object]]:
        """The objects of books.jsonl, in its order."""
        yield from (line.document() for line in sorted(self.lines, key=lambda line: line.order))
        yield from (line.document() for line in sorted(self.states, key=lambda line: line.state))


def _digest(lines: list[str]) -> str:
    return sm3(b"".join(sorted(line.encode() + b"\n" for line in lines))).hex()
