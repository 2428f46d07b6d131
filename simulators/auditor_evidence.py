"""Auditor E: books, cases and nets recomputed from the evidence alone, against what clearing published and
what the cards hold.

    audit = audit(Path("out"))
    for difference in audit.differences:
        ...

Sources: docs/demo.md (files), docs/ledger.md (what a tap is worth), docs/record.md and docs/card.md (proof).
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from simulators.evidence.books import Books
from simulators.evidence.closing import Closer, Declared, states
from simulators.evidence.comparison import (
    Comparison,
    compare_acknowledged,
    compare_answer,
    compare_books,
    compare_cases,
    compare_replacement,
    compare_report,
    compare_statements,
)
from simulators.evidence.happenings import (
    Act,
    Close,
    Happening,
    Load,
    Replacement,
    Upload,
    json_lines,
    read_happenings,
)
from simulators.evidence.intake import Intake
from simulators.evidence.memories import compare_memories
from simulators.evidence.proofs import Roots, act_differences, load_differences, prove, read_roots
from simulators.evidence.registry import BusinessTime, Registry, read_registry
from simulators.evidence.taprecord import Tap, from_bytes


class EvidenceError(Exception):
    """The evidence cannot be read, so nothing is proved either way; the message names the file and the trouble."""


@dataclass(frozen=True, slots=True)
class Audit:
    """`differences`: one line each; `checked`: figures compared; the digests as recomputed (docs/ledger.md)."""

    differences: list[str]
    checked: int
    books_digest: str
    substance_digest: str


def audit(directory: Path) -> Audit:
    """Recompute and compare everything in an out directory; opens no database and writes nothing.

    Raises EvidenceError when registry, components, declared totals, desk or uploads are missing or of another shape.
    """
    try:
        registry = read_registry(directory / "registry.json")
        roots = read_roots(directory / "test-components.json")
        declared = _declared(directory / "declared.jsonl")
        happenings = read_happenings(directory)
    except (OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        trouble = f"{type(error).__name__}: {error}"
        raise EvidenceError(f"{directory}: evidence cannot be read ({trouble}); nothing was audited") from error
    return _compare(directory, registry, roots, declared, happenings)


def _compare(
    directory: Path, registry: Registry, roots: Roots, declared: Declared, happenings: list[Happening]
) -> Audit:
    comparison = Comparison()
    loads = [each for each in happenings if isinstance(each, Load)]
    acts = [each for each in happenings if isinstance(each, Act)]
    comparison.differences += load_differences(loads, roots) + act_differences(acts)
    comparison.checked += 2 * len(loads) + len(acts)
    taps = {raw: from_bytes(raw) for each in happenings if isinstance(each, Upload) for raw in each.records}
    closes = [each for each in happenings if isinstance(each, Close)]
    intake = Intake(
        registry=registry,
        time=BusinessTime(registry),
        books=Books(),
        proofs=prove(taps, {act.act_id: act for act in acts}, roots),
        open_date=closes[0].day if closes else date.min,
    )
    closer = Closer(intake, declared)
    _replay(happenings, taps, intake, closer, comparison)
    for each in happenings:
        if isinstance(each, Upload) and each.status == 200:
            compare_acknowledged(each, intake.sequences[each.terminal, each.epoch], comparison)
    days, final_states = [close.day for close in closes], states(intake)
    books_digest = intake.books.digest(final_states)
    compare_books(directory, intake.books, final_states, comparison)
    compare_cases(directory, closer.cases, comparison)
    compare_statements(directory, intake.books, days, comparison)
    compare_memories(directory, closer, comparison)
    compare_report(directory, intake.books, books_digest, days, comparison)
    return Audit(comparison.differences, comparison.checked, books_digest, intake.books.substance_digest())


def _replay(
    happenings: list[Happening], taps: dict[bytes, Tap], intake: Intake, closer: Closer, comparison: Comparison
) -> None:
    answered: set[tuple[int, int]] = set()
    for happening in happenings:
        if isinstance(happening, Close):
            closer.close(happening)
        elif isinstance(happening, Upload):
            counted, quarantined = intake.take_upload(happening, taps)
            # A batch that comes again gets its first answer again, which was compared when it was given.
            if happening.status == 200 and (happening.terminal, happening.n) not in answered:
                answered.add((happening.terminal, happening.n))
                compare_answer(happening, counted, quarantined, comparison)
        elif isinstance(happening, Replacement):
            compare_replacement(happening, closer.replace(happening), comparison)
        else:
            intake.take_desk(happening)


def _declared(path: Path) -> Declared:
    return {
        (str(row["operator"]), row["sector"], date.fromisoformat(row["date"])): (int(row["count"]), int(row["fen"]))
        for row in json_lines(path)
    }
