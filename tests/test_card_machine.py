"""The state machine of a card, a loader and a PSAM, short; CARD_MACHINE_STEPS makes it longer."""

import os

import pytest
from card_machine import CardMachine, run


@pytest.mark.filterwarnings("ignore:TripleDES has been moved")
def test_card_psam_and_loader_agree_with_the_model() -> None:
    before = CardMachine.happened.copy()
    run(int(os.environ.get("CARD_MACHINE_STEPS", "1500")))
    happened = CardMachine.happened - before
    for wanted in ("load", "purchase", "composite", "unload", "allowance", "torn", "PSAM torn", "PIN torn"):
        assert happened[wanted], f"nothing of the kind: {wanted}"
