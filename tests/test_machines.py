"""The state machines, short; MACHINE_STEPS makes them longer."""

import os
from collections import Counter
from typing import Any

import pytest

from tests.card_machine import CardMachine
from tests.flow_machine import FlowMachine
from tests.machines import run

STEPS = int(os.environ.get("MACHINE_STEPS", "1500"))


def played(machine: Any, steps: int) -> Counter[str]:
    before = machine.happened.copy()
    run(machine, steps)
    return Counter(machine.happened - before)


@pytest.mark.filterwarnings("ignore:TripleDES has been moved")
def test_card_psam_and_loader_agree_with_the_model() -> None:
    happened = played(CardMachine, STEPS)
    for wanted in ("load", "purchase", "composite", "unload", "allowance", "torn", "PSAM torn", "PIN torn"):
        assert happened[wanted], f"nothing of the kind: {wanted}"


def test_flows_say_what_is_so() -> None:
    happened = played(FlowMachine, STEPS)
    flows = ("load", "unload", "allowance", "ride", "entry", "exit")
    for wanted in (*flows, *(f"{flow}, nothing moved" for flow in flows)):
        assert happened[wanted], f"nothing of the kind: {wanted}"
    for ending in (", Unknown", " settled"):
        assert sum(happened[flow + ending] for flow in flows), f"no flow was{ending}"
