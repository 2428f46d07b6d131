"""What the city writes down: the registry, the truth before the first upload, the operators' totals, the cards'
memories at the end."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from simulators.city.closing import Closer
from simulators.city.facts import Plan, Sent, Tap, business_date
from simulators.city.money import nets
from simulators.city.player import Player
from simulators.city.records import CHINA

Line = dict[str, object]


def truth_lines(plan: Plan) -> list[Line]:
    """The lines of truth.jsonl (docs/demo.md), from the plan alone."""
    doubts = [t for t in plan.taps if t.cut]
    closer = Closer(plan)
    closer.run()
    numbers = {id(t): len(plan.sents) + nth for nth, t in enumerate(doubts, 1)}
    events = [_event(s.id, s.tap, s) for s in plan.sents] + [_event(numbers[id(t)], t, None) for t in doubts]
    lines: list[Line] = [{"type": "seed", "seed": plan.seed, "dates": [d.isoformat() for d in plan.dates]}, *events]
    waiting = {t.fault: iter([x for x in doubts if x.fault == t.fault]) for t in doubts}
    for fault in plan.faults:
        event = fault.sent.id if fault.sent else None
        if fault.name in waiting:
            event = numbers[id(next(waiting[fault.name]))]
        lines.append({
            "type": "fault", "name": fault.name, "event": event, "state": fault.sent.final if fault.sent else None,
            "case": fault.case,
        })  # fmt: skip
    for _, case in sorted(closer.cases.items()):
        lines.append({
            "type": "case", "kind": case.kind, "subject": case.subject, "amount_fen": case.amount_fen,
            "opened": case.opened.isoformat(), "resolved": case.resolved.isoformat() if case.resolved else None,
            "resolution": case.resolution, "owner": case.owner,
        })  # fmt: skip
    for line, (debit, credit) in sorted(closer.books.lines.items()):
        lines.append({
            "type": "move", "date": line.date.isoformat(), "ledger": line.ledger, "account": line.account,
            "rule": line.rule,
            "debit_fen": debit, "credit_fen": credit,
        })  # fmt: skip
    states: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for sent in plan.sents:
        if sent.final is not None:
            states[sent.final][0] += 1
            states[sent.final][1] += sent.tap.amount_fen
    lines += [{"type": "state", "state": s, "count": count, "fen": fen} for s, (count, fen) in sorted(states.items())]
    lines += [
        {"type": "net", "date": day.isoformat(), "class": net_class, "party": party, "net_fen": fen}
        for (day, net_class, party), fen in sorted(nets(closer.books).items())
    ]
    lines += [
        {"type": "balance", "card": card.serial, "purse": purse, "balance_fen": card.value[purse]}
        for card in plan.cards
        for purse in card.purses
    ]
    return lines


def _event(number: int, tap: Tap, sent: Sent | None) -> Line:
    witness = sent.witness if sent else tap.device
    at = sent.at if sent else tap.at
    arrives = max(sent.origin, sent.arrival) if sent and sent.arrival else None
    return {
        "type": "event", "id": number, "kind": (sent.kind if sent else tap.kind).name.lower(), "card": tap.card.serial,
        "purse": tap.purse, "counter": tap.counter if tap.kind.name != "ACT" else 0, "amount_fen": tap.amount_fen,
        "sector": witness.sector, "operator": witness.operator,
        "terminal": (sent.device if sent else tap.device).terminal,
        "epoch": 1, "sequence": sent.sequence if sent else None, "at": at.astimezone(CHINA).isoformat(),
        "origin_date": (sent.origin if sent else business_date(tap.at)).isoformat(),
        "arrives": arrives.isoformat() if arrives else None,
        "fault": sent.fault if sent else tap.fault, "state": sent.final if sent else None,
    }  # fmt: skip


def declared_lines(plan: Plan) -> list[Line]:
    """The operators' totals, as `onecard clearing declare` takes them."""
    return [
        {"operator": d.operator, "sector": d.sector, "date": d.date.isoformat(), "count": d.count, "fen": d.fen}
        for d in plan.declared
    ]


def dump(lines: Iterable[Mapping[str, object]]) -> bytes:
    """JSON lines in UTF-8, the same bytes for the same lines."""
    return b"".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines)


def write_papers(plan: Plan, directory: Path) -> bytes:
    """Writes registry.json, truth.jsonl and declared.jsonl; returns the bytes of truth.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    truth = dump(truth_lines(plan))
    (directory / "registry.json").write_text(json.dumps(plan.registry, ensure_ascii=False, indent=1), encoding="utf-8")
    (directory / "truth.jsonl").write_bytes(truth)
    (directory / "declared.jsonl").write_bytes(dump(declared_lines(plan)))
    return truth


def write_cards(player: Player, directory: Path) -> None:
    """Writes cards.json: the cards' memories after the last day."""
    text = json.dumps(player.memories(), ensure_ascii=False, indent=1)
    (directory / "cards.json").write_text(text, encoding="utf-8")
