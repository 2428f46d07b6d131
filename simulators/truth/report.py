"""The figures of report.json that the truth can tell (docs/demo.md)."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import hashes

from simulators.truth import Pair, Row

SECTORS = ("transit", "social", "smallpay", "utility", "medical")
_DEBITS = {"debit", "entry", "exit", "act"}
_COUNTED = {"accepted", "suspended", "disputed", "pending_issuer"}
_CLASSES = {
    "payable": "stored value",
    "subsidy_payable": "treasury subsidy",
    "fund_payable": "insurance fund",
    "account_payable": "personal medical account",
}


def report_facts(directory: Path, truth: Mapping[str, Sequence[Row]], cases: Iterable[Row]) -> Pair:
    """Raises OSError or ValueError when report.json or truth.jsonl cannot be read."""
    said = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    expected = {(case["kind"], case["subject"]) for case in truth.get("case", ())}
    found = {(case["kind"], case["subject"]) for case in cases}
    debits = Counter(
        event["sector"] for event in truth.get("event", ()) if event["kind"] in _DEBITS and event["state"] in _COUNTED
    )
    sectors = _sectors(truth.get("move", ()))
    right = {
        "seed": next(line["seed"] for line in truth.get("seed", ())),
        "debits": debits.total(),
        "cards": len({line["card"] for line in truth.get("balance", ())}),
        "truth_digest": _sm3((directory / "truth.jsonl").read_bytes()),
        "faults": Counter(fault["name"] for fault in truth.get("fault", ())),
        "cases": {
            "expected": len(expected), "found": len(found), "missing": len(expected - found),
            "extra": len(found - expected),
        },
        "sectors": {name: {"debits": debits[name], **figures} for name, figures in sectors.items()},
    }  # fmt: skip
    return dict(_flat(right)), dict(_flat({name: said.get(name) for name in right}))


def _sm3(octets: bytes) -> str:
    digest = hashes.Hash(hashes.SM3())
    digest.update(octets)
    return digest.finalize().hex()


def _flat(document: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Every figure under the names that lead to it; an operator that gets nothing may be listed or not."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        elif value != 0 or "net " not in above:
            yield f"{above}{name}", value


def _sectors(moves: Iterable[Row]) -> dict[str, dict[str, object]]:
    """What was charged, subsidies, fees, and the nets of operators by class."""
    fen: Counter[tuple[str, str]] = Counter()
    nets: dict[str, dict[str, Counter[str]]] = {sector: {} for sector in SECTORS}
    for move in moves:
        rule, sector, net_fen = move["rule"].partition("@")[0], move["ledger"], move["debit_fen"] - move["credit_fen"]
        account, _, party = move["account"].partition(":")
        if rule in ("debit", "act"):
            fen[sector, "charged_fen"] += move["debit_fen"]
        elif account == "subsidy":
            fen[sector, "subsidy_fen"] += net_fen
        elif account == "fee":
            fen[sector, "fees_fen"] -= net_fen
        if account in _CLASSES:
            nets[sector].setdefault(party, Counter())[_CLASSES[account]] -= net_fen
    names = ("charged_fen", "subsidy_fen", "fees_fen")
    return {sector: {**{name: fen[sector, name] for name in names}, "net": nets[sector]} for sector in SECTORS}
