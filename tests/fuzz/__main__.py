"""Fuzz every target, each in a process of its own: `python -m tests.fuzz [NAME …] [--runs N] [--seconds T] [--jobs J]`.

Prints executions, edges and features reached, inputs kept, and executions a second. A target that fails prints its
error and the input, which `python -m tests.fuzz NAME --input HEX` reads again; the status is then 1.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
HEAD = f"{'target':14}{'executions':>12}{'edges':>8}{'features':>10}{'inputs':>8}{'exec/s':>9}"
_REACHED = re.compile(r"#(\d+)\s+[A-Za-z]+\s+cov: (\d+) ft: (\d+) corp: (\d+)/")
_STARTED = re.compile(r"^started ([\d.]+)$", re.MULTILINE)
_NOISE = re.compile(r"^(?:INFO: |WARNING: |started |#\d+\s).*\n", re.MULTILINE)


class AtherisMissing(RuntimeError):
    """There is no atheris; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Run:
    """How far a target came; `failure` is what the process said last when it failed, `found` the input of that."""

    name: str
    executions: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0
    seconds: float = 0.0
    failure: str = ""
    found: bytes | None = None

    def line(self) -> str:
        pace = self.executions / (self.seconds or 1)
        figures = f"{self.executions:>12,}{self.edges:>8,}{self.features:>10,}{self.inputs:>8,}{pace:>9,.0f}"
        return f"{self.name:14}{figures}{'  FAILED' if self.failure else ''}"


def fuzz(target: Target, runs: int, seed: int = 1, seconds: int = 0) -> Run:
    """Run one target `runs` times in a new process, or for so many seconds where they are not 0 and over before.

    The same seed gives the same inputs. Raises AtherisMissing.
    """
    module, name = target.read.__module__, target.name
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        numbers = map(str, (runs, seed, seconds))
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz.one", module, name, *numbers, folder],
            cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        ended = time.monotonic()
        said = child.stdout + child.stderr
        if "No module named 'atheris'" in said:
            raise AtherisMissing(
                "atheris is missing: `make test` installs it from requirements-test.txt (Linux, x86-64)"
            )
        left = [path for path in Path(folder).iterdir() if path.name.startswith(("crash", "timeout", "oom"))]
        found = left[0].read_bytes() if left else None
    failed = child.returncode != 0 or found is not None
    reached = _REACHED.findall(said)
    executions, edges, features, inputs = map(int, reached[-1] if reached else "0000")
    started = _STARTED.search(said)
    took = ended - float(started[1]) if started else 0.0
    failure = _NOISE.sub("", said)[-3000:].strip() if failed or not reached else ""
    return Run(name, executions, edges, features, inputs, took, failure, found)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz what reads bytes from outside")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"targets; all of them are {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=100_000, help="executions of each target (100000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the mutations (1)")
    parser.add_argument("--seconds", type=int, default=0, help="end a target after this time (0: no limit)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets side by side (one a processor)")
    parser.add_argument("--input", metavar="HEX", help="read one input with the one target that is named, and end")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(TARGETS):
        parser.error(f"no target is named {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.input is not None:
        if len(options.names) != 1:
            parser.error("an input is read by one target: name it")
        TARGETS[options.names[0]].read(bytes.fromhex(options.input))
        return 0
    _say(HEAD)
    failed = 0
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        playing = [
            pool.submit(fuzz, TARGETS[name], options.runs, options.seed, options.seconds)
            for name in options.names or TARGETS
        ]
        for play in as_completed(playing):
            try:
                run = play.result()
            except AtherisMissing as error:
                pool.shutdown(cancel_futures=True)
                _say(str(error))
                return 2
            _say(run.line())
            if run.failure:
                failed += 1
                _say(run.failure)
                if run.found is not None:
                    _say(f"again: python -m tests.fuzz {run.name} --input {run.found.hex()}")
    _say(f"{len(playing) - failed} of {len(playing)} targets let out nothing but their documented errors.")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
