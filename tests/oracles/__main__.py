"""Run the rows: `python -m tests.oracles [ITEM …] [--cases N] [--seed S] [--jobs J]`.

Prints per row its cases, the stranger, and the differences, of which the first is shown; the status is 1 when there is
one.
"""

import argparse
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from cardcore.record import Suite
from keys.purposes import SUITE_LABELS
from tests.oracles import keyed, purse
from tests.oracles.exchanges import exchanges
from tests.oracles.strangers import Compared

CHUNK = 2_000
HEAD = f"{'cryptogram':46}{'suite':7}{'oracle':15}{'cases':>9}{'differences':>13}"
Item = Callable[[Suite, random.Random, int], Iterator[Compared]]
BOTH = tuple(Suite)
ITEMS: Mapping[str, tuple[Item, Sequence[Suite]]] = {
    "derivation": (keyed.derivation, BOTH),
    "sessions": (purse.sessions, BOTH),
    "money": (purse.money, BOTH),
    "tacs": (purse.tacs, BOTH),
    "messages": (keyed.messages, BOTH),
    "key-writes": (keyed.key_writes, BOTH),
    "seals": (keyed.seals, (Suite.SM4,)),
    "blocks": (keyed.blocks, BOTH),
    "exchanges": (exchanges, BOTH),
}


@dataclass(slots=True)
class Row:
    """How often a cryptogram was compared, how often it differed, and the first difference."""

    oracle: str
    cases: int = 0
    differences: int = 0
    first: str = ""


def compare(item: str, suite: Suite, seed: str, cases: int) -> dict[str, Row]:
    """The rows of an item in a suite; the same seed gives the same cases."""
    warnings.simplefilter("ignore")  # the strangers use 3DES, which their library finds old
    rows: dict[str, Row] = {}
    for name, oracle, ours, theirs in ITEMS[item][0](suite, random.Random(f"{seed} {item} {suite}"), cases):
        row = rows.setdefault(name, Row(oracle))
        row.cases += 1
        if ours != theirs:
            row.differences += 1
            row.first = row.first or f"ours {_shown(ours)}, theirs {_shown(theirs)}"
    return rows


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def merged(parts: Sequence[dict[str, Row]]) -> dict[str, Row]:
    """The rows of several parts of an item as one."""
    rows: dict[str, Row] = {}
    for name, part in ((name, part) for found in parts for name, part in found.items()):
        row = rows.setdefault(name, Row(part.oracle))
        row.cases += part.cases
        row.differences += part.differences
        row.first = row.first or part.first
    return rows


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracles", description="cryptograms against strangers")
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"all of them are {', '.join(ITEMS)}")
    parser.add_argument("--cases", type=int, default=1_000, help="cases of each row (1000)")
    parser.add_argument("--seed", default="1", help="seed of the inputs (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a processor)")
    options = parser.parse_args(arguments)
    if unknown := set(options.items) - set(ITEMS):
        parser.error(f"no item is named {', '.join(sorted(unknown))}; there are {', '.join(ITEMS)}")
    if options.cases < 1:
        parser.error("--cases takes a number from 1")
    pairs = [(name, suite) for name in options.items or ITEMS for suite in ITEMS[name][1]]
    sizes = [min(CHUNK, options.cases - start) for start in range(0, options.cases, CHUNK)]
    _say(HEAD)
    differences = compared = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        playing = [
            (suite, [pool.submit(compare, name, suite, f"{options.seed} {n}", size) for n, size in enumerate(sizes)])
            for name, suite in pairs
        ]
        for suite, parts in playing:
            for name, row in merged([part.result() for part in parts]).items():
                _say(f"{name:46}{SUITE_LABELS[suite]:7}{row.oracle:15}{row.cases:>9,}{row.differences:>13,}")
                if row.first:
                    _say(f"    the first: {row.first}")
                differences, compared = differences + row.differences, compared + row.cases
    _say(f"{compared:,} cases, {differences:,} differences.")
    return 1 if differences else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
