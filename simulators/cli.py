"""`onecard sim`: plan a city and look at it, audit what a demo left."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

from cyclopts import App

from simulators import auditor_evidence, auditor_truth
from simulators.city import plan as city_plan
from simulators.city import truth_lines

app = App(name="sim", help="Everything that is not us: cities of software cards, and the auditors.")


@app.command
def audit(directory: Path) -> int:
    """Run auditor T (the city's own truth) and auditor E (the evidence) over what a demo left.

    Parameters
    ----------
    directory
        The demo's output directory.
    """
    if not directory.is_dir():
        _say(f"{directory} is no directory, so nothing was audited; name the output directory of a demo")
        return 1
    auditors = (("T", auditor_truth.audit), ("E", auditor_evidence.audit))
    status = 0
    for name, run in auditors:
        try:
            found = run(directory)
        except (OSError, ValueError, KeyError, auditor_evidence.EvidenceError) as error:
            _say(f"auditor {name}: {directory} cannot be audited, nothing is proved either way: {_why(error)}")
            status = 1
            continue
        for difference in found.differences:
            _say(f"{name}: {difference}")
        _say(f"auditor {name}: {len(found.differences)} differences, {found.checked} checked")
        status |= bool(found.differences)
    return status


def _why(error: BaseException) -> str:
    """What keeps an auditor from its work, in words."""
    match error:
        case auditor_evidence.EvidenceError(__cause__=BaseException() as cause):
            return _why(cause)
        case FileNotFoundError():
            return f"{error.filename} is missing; is this the output of a demo that ended?"
        case OSError():
            return f"{error.filename or 'a file'} cannot be read ({error.strerror or error})"
        case UnicodeError() | json.JSONDecodeError():
            return f"a file holds something else than JSON in UTF-8 ({error})"
        case KeyError():
            return f"a line lacks the member {error}; was it written by another version?"
        case _:
            return str(error)


@app.command
def plan(*, seed: int = 7, cards: int = 200, debits: int = 5000, first: str = "2026-03-02") -> int:
    """Show what a plan holds: events, faults and what must follow from them.

    Parameters
    ----------
    seed
        The same seed plans the same city.
    cards
        Cards in the city.
    debits
        Offline debits of the first date, at least, metro entries of 0 fen included; the second has about 30 %.
    first
        The first business date.
    """
    start = date.fromisoformat(first)
    try:
        planned = city_plan(seed, cards, debits, (start, start + timedelta(days=1)))
    except ValueError as error:
        _say(f"no such city: {error}")
        return 1
    lines = truth_lines(planned)
    table = [
        ("cards", Counter(c.profile for c in planned.cards)),
        ("terminals", Counter(d.sector for d in planned.devices)),
        ("events", Counter(str(x["kind"]) for x in lines if x["type"] == "event")),
        ("states", Counter(str(x["state"]) for x in lines if x["type"] == "event")),
        ("faults", Counter(f.name for f in planned.faults)),
        ("cases", Counter(str(x["kind"]) for x in lines if x["type"] == "case")),
        ("batches", Counter(day.isoformat() for day in planned.dates for _ in planned.deliveries[day])),
    ]
    for title, counts in table:
        _say(f"{title} ({sum(counts.values())})")
        for name, count in sorted(counts.items()):
            _say(f"  {name:32} {count:8}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
