"""State machines in which hypothesis chooses every act: `python -m tests.machines --steps 100000`, steps of each.

card     a card, a loader and a PSAM of test code against a model of the whole memory
flows    the product's flows at a counter and two gates, against what the card's memory says
"""

import argparse
import sys
import time
import warnings
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.card_machine import CardMachine
from tests.flow_machine import FlowMachine

STEPS = 50
CHUNK = 5_000  # Hypothesis remembers what it did in one run
MACHINES: dict[str, Any] = {"card": CardMachine, "flows": FlowMachine}


def run(machine: type[RuleBasedStateMachine], steps: int) -> float:
    """About so many steps; seconds. Raises the first disagreement, with the shortest way to it."""
    chosen = settings(
        max_examples=max(1, steps // STEPS),
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=set(Phase) - {Phase.explain},
        suppress_health_check=list(HealthCheck),
    )
    start = time.perf_counter()
    run_state_machine_as_test(machine, settings=chosen)
    return time.perf_counter() - start


def _campaign(name: str, wanted: int) -> None:
    happened: Counter[str] = MACHINES[name].happened
    seconds = 0.0
    while happened["steps"] < wanted:
        seconds += run(MACHINES[name], min(CHUNK, max(STEPS, wanted - happened["steps"])))
    steps = happened["steps"]
    sys.stdout.write(f"{name}: {steps} steps in {seconds:.0f} s, {steps / seconds:.0f} a second, no disagreement\n")
    for what, count in sorted(happened.items()):
        sys.stdout.write(f"{count:>9} {what}\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument("machine", nargs="?", choices=sorted(MACHINES), help="the only one to play")
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in [arguments.machine] if arguments.machine else MACHINES:
        _campaign(name, arguments.steps)


if __name__ == "__main__":
    main()
