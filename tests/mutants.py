"""Mutants of the product, each played in a small city, and who catches it: `python -m tests.mutants [NAME …]`.

The tree is copied once, and every mutant gets a copy of that copy: the tree may be edited meanwhile. Two run at a time.
Ends with status 1 when a mutant is caught by no auditor and does not halt the product as its row says, or when the
product as it is already disagrees with an auditor.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutant_rows import MUTANTS, PRODUCT, ROOT, Mutant
from tests.patient_city import FOUND

PACKAGES = (*PRODUCT, "simulators", "onecard")
TOOLS = ("tests/mutant_rows.py", "tests/patient_city.py")
SIDE_BY_SIDE = 2
# Seed, cards and debits of a city that holds the situation which each mutant gets wrong, down to a half fen of a fee.
CITY = (1, 120, 800)
PATIENCE_S, GRACE_S = 400.0, 60.0
WIDTH = 180
HEAD = f"{'mutant':32}{'T':>6}{'E':>6}{'city':>6}{'inv':>5}  what it breaks, then the first line that each says"


@dataclass(frozen=True, slots=True)
class Catch:
    """What was said: differences of auditors T and E, answers that the city had planned otherwise, invariants that do
    not hold. `stopped`: why the city could not be played to its end, so that nobody audited it; `fell`: the last words
    of a product that fell over, which shows a crash and no judgement."""

    truth: Sequence[str]
    evidence: Sequence[str]
    city: Sequence[str]
    invariants: Sequence[str]
    stopped: str | None
    fell: str | None = None

    @property
    def caught(self) -> bool:
        """By an auditor; a card that refuses to go on is no judgement on the books."""
        return bool(self.truth or self.evidence)

    def lines(self) -> list[tuple[str, str]]:
        """Who said something, and the first line of it."""
        ends = [("stop", end) for end in (self.stopped, self.fell) if end]
        speakers = (("T", self.truth), ("E", self.evidence), ("city", self.city))
        failed = [("inv", "; ".join(self.invariants))] if self.invariants else []
        return [*ends, *((who, said[0]) for who, said in speakers if said), *failed]


def main(names: Sequence[str]) -> int:
    """Play the mutants of these names, all of them if there are none, after the product as it is."""
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        _say(f"no mutant is named {', '.join(sorted(unknown))}")
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    escaped, halted = [], 0
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as scratch:
        place = Path(scratch)
        _copy_tree(place / "tree")
        _say(HEAD)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            plain = pool.submit(_play, place, None)
            playing = [(mutant, pool.submit(_play, place, mutant)) for mutant in chosen]
            if _tell("(no mutant)", "nothing", plain.result()).lines():
                _say("The product as it is does not agree with its auditors, so nothing can be said of mutants.")
                pool.shutdown(cancel_futures=True)
                return 1
            for mutant, played in playing:
                catch = _tell(mutant.name, mutant.breaks, played.result())
                if not catch.caught and mutant.halts and mutant.halts in (catch.stopped or ""):
                    halted += 1
                elif not catch.caught:
                    escaped.append(mutant.name)
    _say(
        f"{len(chosen) - len(escaped) - halted} of {len(chosen)} mutants are caught by an auditor, {halted} halt the "
        f"product before there are books. Not caught: {', '.join(escaped) or 'none'}."
    )
    return 1 if escaped else 0


def _copy_tree(tree: Path) -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES, *TOOLS]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)


def _play(place: Path, mutant: Mutant | None) -> Catch:
    """Play the city with the mutated copy, in the virtual environment that we run in."""
    home = place / (mutant.name if mutant else "plain")
    shutil.copytree(place / "tree", home / "tree")
    if mutant:
        mutant.apply(home / "tree")
    _check_imports(home / "tree")
    arguments = [str(home / "out"), str(home / "state"), *map(str, CITY)]
    with (home / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.patient_city", *arguments],
            cwd=home / "tree", env=_environment(home / "tree"), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)  # the demo then ends its service and its database
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        child.kill()
    if not (home / "out" / FOUND).exists():
        words = (home / "log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(words) if line.strip()), "nothing")
        return Catch((), (), (), (), None, f"status {child.returncode} before the audit; its last words: {last}")
    found = json.loads((home / "out" / FOUND).read_text(encoding="utf-8"))
    shutil.rmtree(home, ignore_errors=True)
    return Catch(found["T"], found["E"], found["city"], found["invariants"], found["stopped"])


def _environment(tree: Path) -> dict[str, str]:
    """The copy stands before the installed packages, for the child and for all of its children."""
    return os.environ | {"PYTHONPATH": str(tree)}


def _check_imports(tree: Path) -> None:
    """Whoever starts with that environment imports the copy; anything else would show the product unmutated."""
    code = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}): print(package.__file__)"
    for how in ((sys.executable, "-c", code), (sys.executable, "-P", "-c", code)):
        asked = subprocess.run(how, cwd=tree, env=_environment(tree), capture_output=True, text=True, check=True)
        for line in asked.stdout.splitlines():
            assert Path(line).is_relative_to(tree), f"{line} was imported instead of the copy in {tree}"


def _tell(name: str, breaks: str, catch: Catch) -> Catch:
    counts = (len(catch.truth), len(catch.evidence), len(catch.city))
    figures = "".join(f"{'-' if catch.stopped and not count else count:>6}" for count in counts)
    _say(f"{name:32}{figures}{len(catch.invariants):>5}  {breaks}")
    for who, line in catch.lines():
        _say(f"    {who:5}{line if len(line) <= WIDTH else line[:WIDTH] + ' …'}")
    return catch


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
