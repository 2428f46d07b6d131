"""A demo that is played to its end even where the service answers otherwise than the city planned.

The city of `onecard demo` stops at the first such answer. Here it writes the disagreement down and plays on, so that
the auditors can say what it came to. `python -m tests.patient_city OUT STATE SEED CARDS DEBITS` leaves OUT/found.json.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cardcore.errors import OnecardError
from onecard.demo import command
from simulators import auditor_evidence, auditor_truth
from simulators.city import player, uploads
from simulators.city.facts import Delivery, DeskStep
from simulators.city.validators import CityBroken

FOUND = "found.json"
_differences = uploads._differences


def main(out: Path, state: Path, seed: int, cards: int, debits: int) -> None:
    """Play and audit. found.json: `stopped` (why the city could not go on, else null), and lists of what was said by
    the `city` of answers, by auditors `T` and `E`, and of the `invariants` that did not hold."""
    said: list[str] = []

    def differences(delivery: Delivery, answer: uploads.Answer) -> Iterator[str]:
        where = f"batch {delivery.batch.device.terminal}/{delivery.n}"
        said.extend(f"{where}: {trouble}" for trouble in _differences(delivery, answer))
        return iter(())

    def agree(step: DeskStep, what: str, planned: int, answered: int) -> None:
        if planned != answered:
            said.append(f"{step.kind} of card {step.card}: {what} is {answered}, {planned} in the plan")

    uploads._differences = differences
    player._agree = agree
    found: dict[str, object] = {"stopped": None, "city": said, "T": [], "E": [], "invariants": []}
    try:
        command(cards=cards, debits=debits, seed=seed, out=out, state=state)
    except (CityBroken, OnecardError) as trouble:
        found["stopped"] = f"{type(trouble).__name__}: {trouble}"
    else:
        checks = json.loads((out / "report.json").read_text(encoding="utf-8"))["invariants"]
        found["invariants"] = [name for name, check in checks.items() if not check["ok"]]
        found["T"] = auditor_truth.audit(out).differences
        found["E"] = auditor_evidence.audit(out).differences
    (out / FOUND).write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
