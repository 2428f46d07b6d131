"""The list of mutants does not rot: each still finds its place in today's product, and makes another program of it."""

import ast

import pytest

from tests.mutant_rows import MUTANTS, PRODUCT, ROOT, Mutant

NAMES = [mutant.name for mutant in MUTANTS]


def test_mutants_are_enough_and_named_once() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 14
    assert {mutant.file.partition("/")[0] for mutant in MUTANTS} <= set(PRODUCT)


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_mutant_finds_its_place(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.original) == 1
    assert ast.dump(ast.parse(text.replace(mutant.original, mutant.mutated))) != ast.dump(ast.parse(text))
