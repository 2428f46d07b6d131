"""All targets by name."""

from collections.abc import Mapping

from tests.fuzz import blocks, cards, terminals
from tests.fuzz.target import Target

TARGETS: Mapping[str, Target] = {
    target.name: target for target in (*cards.TARGETS, *terminals.TARGETS, *blocks.TARGETS)
}
