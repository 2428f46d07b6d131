"""The city's papers: the registry, the truth before the first upload, the operators' totals, the cards' memories at the
end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from simulators.city.facts import Plan
from simulators.city.player import Player
from simulators.city.truth import Line, truth_lines


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
