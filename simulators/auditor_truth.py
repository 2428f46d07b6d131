"""Auditor T: what the city knew beforehand against what clearing published (docs/demo.md).

    audit = audit(Path("out"))
    for difference in audit.differences: ...

It reads files only: truth.jsonl against registry.json, the answers in uploads/index.jsonl, books.jsonl, cases.jsonl,
statements/<date>/net.json, cards.json and report.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from simulators.truth import Facts, Row
from simulators.truth.answers import answer_facts, read_answers
from simulators.truth.faults import contradictions, fault_facts, share_facts
from simulators.truth.report import report_facts

SPELT_RESOLUTIONS = {"load-in-doubt", "torn"}
"""Kinds whose resolution docs/ledger.md spells; of the others only whether and when they are resolved is compared."""


@dataclass(frozen=True, slots=True)
class Audit:
    """`differences`: one line each; `checked`: facts compared, those that agree included."""

    differences: list[str]
    checked: int


def audit(directory: Path) -> Audit:
    """Compares every party, policy, answer, fault, case, move, state, net, balance and figure of the report, both ways.
    Raises OSError when a file is missing, ValueError when one is no JSON, KeyError when a line lacks a member."""
    by_type: dict[str, list[Row]] = {}
    for line in _lines(directory / "truth.jsonl"):
        by_type.setdefault(str(line["type"]), []).append(line)
    books, cases = _lines(directory / "books.jsonl"), _lines(directory / "cases.jsonl")
    answers, faults = read_answers(directory), by_type.get("fault", [])
    events = {int(event["id"]): event for event in by_type.get("event", [])}
    pairs: dict[str, tuple[Facts, Facts]] = {
        **_registered(directory / "registry.json", by_type),
        "answer": answer_facts(events.values(), answers),
        "fault": fault_facts(events, faults, answers, cases),
        "moves of faults": share_facts(faults, books),
        "move": (_moves(by_type.get("move", [])), _moves(b for b in books if "ledger" in b)),
        "state": (_states(by_type.get("state", [])), _states(b for b in books if "state" in b)),
        "case": (_cases(by_type.get("case", [])), _cases(cases)),
        "net": (_nets(by_type.get("net", [])), _nets(_published_nets(directory, _dates(by_type)))),
        "balance": (_balances(by_type.get("balance", [])), _memories(directory / "cards.json")),
        "report": report_facts(directory, by_type, cases),
    }
    differences, checked = [*_own_sums(by_type), *contradictions(events, faults)], 1 + len(faults)
    for name, (planned, found) in pairs.items():
        for key in sorted(planned.keys() | found.keys()):
            checked += 1
            if planned.get(key) != found.get(key):
                differences.append(
                    f"{name} {key}: the city says {_shown(planned.get(key))}, clearing says {_shown(found.get(key))}"
                )
    return Audit(differences, checked)


def _registered(path: Path, by_type: Mapping[str, list[Row]]) -> dict[str, tuple[Facts, Facts]]:
    """Parties and policies as told before the first upload, and as the product was given them."""
    given = json.loads(path.read_text(encoding="utf-8"))
    pairs = {}
    for kind, listed, names in (
        ("party", "parties", ("id",)), ("policy", "policies", ("name", "scope", "from", "version")),
    ):  # fmt: skip
        told = ({name: value for name, value in row.items() if name != "type"} for row in by_type.get(kind, []))
        pairs[kind] = _rows(told, names), _rows(given[listed], names)
    return pairs


def _rows(rows: Iterable[Row], names: Iterable[str]) -> Facts:
    return {" ".join(str(row[name]) for name in names): dict(row) for row in rows}


def _lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def _dates(by_type: Mapping[str, list[Row]]) -> list[str]:
    told = {str(day) for seed in by_type.get("seed", []) for day in seed["dates"]}
    return sorted(told | {str(net["date"]) for net in by_type.get("net", [])})


def _own_sums(by_type: Mapping[str, list[Row]]) -> Iterator[str]:
    """The truth's own events must add up to its states, or the truth is no measure for anybody."""
    sums: dict[str, list[int]] = {}
    for event in by_type.get("event", []):
        if event["state"] is not None:
            total = sums.setdefault(str(event["state"]), [0, 0])
            total[0] += 1
            total[1] += int(str(event["amount_fen"]))
    stated = {str(s["state"]): [s["count"], s["fen"]] for s in by_type.get("state", [])}
    if sums != stated:
        yield f"truth: its events sum to {sums}, its states say {stated}"


def _moves(rows: Iterable[Row]) -> Facts:
    return {f"{r['date']} {r['ledger']} {r['account']} {r['rule']}": (r["debit_fen"], r["credit_fen"]) for r in rows}


def _states(rows: Iterable[Row]) -> Facts:
    return {str(r["state"]): (r["count"], r["fen"]) for r in rows}


def _cases(rows: Iterable[Row]) -> Facts:
    return {
        f"{r['kind']} {r['subject']}": (
            r["amount_fen"], r["opened"], r["resolved"], r["resolution"] if r["kind"] in SPELT_RESOLUTIONS else None,
            r["owner"],
        )
        for r in rows
    }  # fmt: skip


def _nets(rows: Iterable[Row]) -> Facts:
    """A party that nets to nothing may be listed or not."""
    return {f"{r['date']} {r['class']} {r['party']}": r["net_fen"] for r in rows if r["net_fen"] != 0}


def _published_nets(directory: Path, dates: Iterable[str]) -> Iterator[Row]:
    for day in dates:
        path = directory / "statements" / day / "net.json"
        for row in json.loads(path.read_text(encoding="utf-8")):
            yield {**row, "date": day}


def _balances(rows: Iterable[Row]) -> Facts:
    return {f"{r['card']} purse {r['purse']}": r["balance_fen"] for r in rows}


def _memories(path: Path) -> Facts:
    cards = json.loads(path.read_text(encoding="utf-8"))
    return {
        f"{card} purse {number}": purse["balance_fen"]
        for card, c in cards.items()
        for number, purse in c["purses"].items()
    }


def _shown(fact: object) -> str:
    return "nothing" if fact is None else str(fact)
