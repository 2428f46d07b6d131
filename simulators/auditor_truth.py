"""Auditor T: what the city knew beforehand against what clearing published (docs/demo.md).

    audit = audit(Path("out"))
    for difference in audit.differences: ...

It reads files only: truth.jsonl against books.jsonl, cases.jsonl, statements/<date>/net.json and cards.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Row: TypeAlias = Mapping[str, object]
Facts: TypeAlias = dict[str, object]

SPELT_RESOLUTIONS = {"load-in-doubt", "torn"}
"""Kinds whose resolution docs/ledger.md spells; of the others only whether and when they are resolved is compared."""


@dataclass(frozen=True, slots=True)
class Audit:
    """`differences`: one line each; `checked`: facts compared, those that agree included."""

    differences: list[str]
    checked: int


def audit(directory: Path) -> Audit:
    """Compares every case, move, state, net and balance, both ways. Raises OSError when a file is missing, ValueError
    when one is no JSON."""
    truth = _lines(directory / "truth.jsonl")
    by_type: dict[str, list[Row]] = {}
    for line in truth:
        by_type.setdefault(str(line["type"]), []).append(line)
    books, cases = _lines(directory / "books.jsonl"), _lines(directory / "cases.jsonl")
    dates = sorted({str(line["date"]) for line in by_type.get("net", [])} | _dates(by_type))
    pairs = (
        ("move", _moves(by_type.get("move", [])), _moves(b for b in books if "ledger" in b)),
        ("state", _states(by_type.get("state", [])), _states(b for b in books if "state" in b)),
        ("case", _cases(by_type.get("case", [])), _cases(cases)),
        ("net", _nets(by_type.get("net", [])), _nets(_published_nets(directory, dates))),
        ("balance", _balances(by_type.get("balance", [])), _memories(directory / "cards.json")),
    )
    differences, checked = list(_own_sums(by_type)), 1
    for name, planned, found in pairs:
        for key in sorted(planned.keys() | found.keys()):
            checked += 1
            if planned.get(key) != found.get(key):
                differences.append(
                    f"{name} {key}: the city says {_shown(planned.get(key))}, clearing says {_shown(found.get(key))}"
                )
    return Audit(differences, checked)


def _lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def _dates(by_type: Mapping[str, list[Row]]) -> set[str]:
    seeds = by_type.get("seed", [])
    return {str(day) for seed in seeds for day in _list(seed["dates"])}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


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
