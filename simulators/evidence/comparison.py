"""What was published, line by line against what was recomputed."""

import json
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

from simulators.evidence.books import PAYABLE_CLASSES, Books, StatementLine
from simulators.evidence.casebook import Case, CaseBook
from simulators.evidence.happenings import Replacement, Upload, json_lines

_NAMED_RESOLUTIONS = frozenset({"void", "committed", "reversed"})


@dataclass(slots=True)
class Comparison:
    """Collects differences; `checked` counts the figures that were compared, equal or not."""

    differences: list[str] = field(default_factory=list)
    checked: int = 0

    def equal(self, what: str, published: object, recomputed: object) -> None:
        self.checked += 1
        if published != recomputed:
            self.differences.append(f"{what}: published {published}, recomputed {recomputed}")

    def mappings(self, what: str, published: Mapping[str, object], recomputed: Mapping[str, object]) -> None:
        """Compare under each name of either side; a name that one side lacks is a difference."""
        for name in sorted(published.keys() | recomputed.keys()):
            self.equal(f"{what} {name}", published.get(name, "nothing"), recomputed.get(name, "nothing"))


def _lines(path: Path, comparison: Comparison) -> list[dict[str, Any]]:
    if path.exists():
        return json_lines(path)
    comparison.differences.append(f"{path.name}: not there, nothing of it could be compared; run the demo to its end")
    return []


def compare_books(directory: Path, books: Books, states: Mapping[str, tuple[int, int]], comparison: Comparison) -> None:
    """books.jsonl: gross sums and record states."""
    published: dict[str, object] = {}
    for row in _lines(directory / "books.jsonl", comparison):
        if "state" in row:
            name, figures = f"state {row['state']}", f"count {row['count']} fen {row['fen']}"
        else:
            name = f"{row['date']} {row['ledger']} {row['account']} {row['unit']} {row['rule']}"
            figures = f"debit {row['debit_fen']} credit {row['credit_fen']}"
        if name in published:
            comparison.differences.append(f"books {name}: published twice")
        published[name] = figures
    recomputed: dict[str, object] = {
        f"{line.day} {line.ledger} {line.account} CNY {line.rule}": f"debit {debit} credit {credit}"
        for line, (debit, credit) in books.lines.items()
    }
    recomputed |= {f"state {state}": f"count {count} fen {fen}" for state, (count, fen) in states.items()}
    comparison.mappings("books", published, recomputed)


def _case_figures(kind: str, row: Mapping[str, Any]) -> dict[str, object]:
    """What the contract fixes of a case: the names of most resolutions and the form of a detail are free."""
    resolution = row["resolution"] if row["resolution"] in _NAMED_RESOLUTIONS else None
    return {
        "amount_fen": row["amount_fen"],
        "opened": str(row["opened"]),
        "resolved": str(row["resolved"]),
        "owner": row["owner"],
        **({"resolution": resolution} if kind in ("torn", "load-in-doubt") else {}),
    }


def compare_cases(directory: Path, cases: CaseBook, comparison: Comparison) -> None:
    """cases.jsonl: every case and what the contract fixes of it."""
    published = {(row["kind"], row["subject"]): row for row in _lines(directory / "cases.jsonl", comparison)}
    for key in sorted(published.keys() | cases.keys()):
        kind, subject = key
        row, case = published.get(key), cases.get(key)
        if row is None or case is None:
            comparison.equal(f"case {kind} {subject}", _summary(row), _summary(case))
            continue
        said = _case_figures(kind, row)
        for name, right in _case_figures(kind, _row(case)).items():
            comparison.equal(f"case {kind} {subject} {name}", said[name], right)
        if kind in ("denylist", "torn") and case.detail:
            says_so = case.detail in str(row["detail"])
            comparison.equal(f"case {kind} {subject} detail says {case.detail}", says_so, True)


def _row(case: Case) -> dict[str, object]:
    names = ("amount_fen", "opened", "resolved", "resolution", "owner")
    return {name: getattr(case, name) for name in names}


def _summary(case: Case | Mapping[str, Any] | None) -> str:
    if case is None:
        return "nothing"
    row = _row(case) if isinstance(case, Case) else case
    return f"{row['amount_fen']} fen opened {row['opened']} resolved {row['resolved']}"


def _statement_figures(line: StatementLine) -> str:
    late = "".join(f" late {origin} {count}/{fen}" for origin, (count, fen) in sorted(line.late.items()))
    return f"count {line.count} gross {line.gross_fen} fee {line.fee_fen} net {line.net_fen}{late}"


_SILENT = _statement_figures(StatementLine())


def _settlement_class(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").lower()


def compare_statements(directory: Path, books: Books, days: list[date], comparison: Comparison) -> None:
    """statements/<date>: nets and operators' lines of the closed dates; a line of zeros and no line say the same."""
    for day in days:
        folder = directory / "statements" / str(day)
        nets = {f"{each} {party}": fen for (each, party), fen in books.nets(day).items() if fen}
        said_nets: dict[str, int] = {}
        said: dict[str, str] = {}
        if not (folder / "net.json").exists():
            comparison.differences.append(f"statements/{day}/net.json: not there, though the date was closed")
        for path in sorted(folder.glob("*.json")):
            document = json.loads(path.read_text("utf-8"))
            if path.stem == "net":
                rows = ((f"{_settlement_class(row['class'])} {row['party']}", row["net_fen"]) for row in document)
                said_nets = {name: fen for name, fen in rows if fen}
            else:
                said |= _published_statement(document)
        right = {
            f"{operator} {sector} {each}": _statement_figures(line)
            for (posted, operator, sector, each), line in books.statements.items()
            if posted == day
        }
        for name in sorted(said_nets.keys() | nets.keys()):
            comparison.equal(f"net {day} {name}", said_nets.get(name, 0), nets.get(name, 0))
        for name in sorted(said.keys() | right.keys()):
            comparison.equal(f"statement {day} {name}", said.get(name, _SILENT), right.get(name, _SILENT))


def _published_statement(document: Mapping[str, Any]) -> dict[str, str]:
    said = {}
    for row in document["lines"]:
        late = "".join(
            f" late {each['origin_date']} {each['count']}/{each['fen']}"
            for each in sorted(row["late"], key=lambda each: str(each["origin_date"]))
        )
        name = f"{document['operator']} {row['sector']} {_settlement_class(row['class'])}"
        figures = f"count {row['count']} gross {row['gross_fen']} fee {row['fee_fen']} net {row['net_fen']}{late}"
        said[name] = figures
    return said


def compare_answer(
    upload: Upload, counted: Counter[str], quarantined: list[tuple[int, str]], comparison: Comparison
) -> None:
    """The verdicts that a terminal was told against the recomputed ones; an answer without figures is passed over."""
    names = {"accepted": "accepted", "duplicate": "duplicate", "suspended": "suspended", "pending": "pending_issuer"}
    names |= {"memo": "memo", "conflict": "conflict"}
    where = f"answer to {upload.terminal}/{upload.n} (order {upload.order})"
    for said_as, state in names.items():
        if said_as in upload.answer:
            comparison.equal(f"{where} {said_as}", upload.answer[said_as], counted[state])
    said = upload.answer.get("quarantined")
    if isinstance(said, list):
        told = sorted((row["seq"], row["code"]) for row in said)
        comparison.equal(f"{where} quarantined", told, sorted(quarantined))


def compare_replacement(replacement: Replacement, values_fen: Mapping[int, int], comparison: Comparison) -> None:
    """What the desk said that a replaced card is worth, against what had arrived by then."""
    where = f"desk order {replacement.order}:"
    said, right = (sorted(values.items()) for values in (replacement.values_fen, values_fen))
    comparison.equal(f"{where} values of the replaced card", said, right)
    comparison.equal(f"{where} load_fen of the replacement", replacement.load_fen, sum(values_fen.values()))


def compare_acknowledged(upload: Upload, received: Set[int], comparison: Comparison) -> None:
    """A terminal may erase what was acknowledged, so nothing below it may be missing: `received` are all sequences of
    its epoch that ever came, since uploads side by side may be answered in another order than they were stored."""
    said = upload.answer.get("ack_seq")
    if isinstance(said, int):
        came = next(sequence for sequence in count(1) if sequence not in received) - 1
        where = f"answer to {upload.terminal}/{upload.n} (order {upload.order})"
        comparison.equal(f"{where} ack_seq, of what came", said, min(said, came))


def compare_report(directory: Path, books: Books, books_digest: str, days: list[date], comparison: Comparison) -> None:
    """report.json: the digests, and what each sector was charged, its subsidy, fees and nets; it may not be written
    yet."""
    path = directory / "report.json"
    if not path.exists():
        return
    report = json.loads(path.read_text("utf-8"))
    for name, right in (("books_digest", books_digest), ("substance_digest", books.substance_digest())):
        if name in report:
            comparison.equal(f"report {name}", report[name], right)
    for sector, said in report.get("sectors", {}).items():
        fees = sum(line.fee_fen for (_, _, each, _), line in books.statements.items() if each == sector)
        subsidy = sum(
            debit - credit
            for line, (debit, credit) in books.lines.items()
            if line.ledger == sector and line.account == "subsidy"
        )
        charged = sum(
            debit
            for line, (debit, _) in books.lines.items()
            if line.ledger == sector and line.rule.startswith(("debit@", "act@"))
        )
        for name, right_fen in (("fees_fen", fees), ("subsidy_fen", subsidy), ("charged_fen", charged)):
            if name in said:
                comparison.equal(f"report {sector} {name}", said[name], right_fen)
        _compare_sector_nets(sector, said.get("net"), books, days, comparison)


def _compare_sector_nets(sector: str, said: Any, books: Books, days: list[date], comparison: Comparison) -> None:
    if said is None:
        return
    told = {
        f"{operator} {_settlement_class(each)}": fen
        for operator, classes in said.items()
        for each, fen in classes.items()
    }
    right: Counter[str] = Counter()
    for (day, operator, each_sector, settlement_class), line in books.statements.items():
        if each_sector == sector and day in days and settlement_class in PAYABLE_CLASSES.values():
            right[f"{operator} {settlement_class}"] += line.net_fen
    for name in sorted(told.keys() | right.keys()):
        comparison.equal(f"report {sector} net {name}", told.get(name, 0), right[name])
