"""What lies between two known records, judged for itself: hand-made steps and properties."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from clearing.close.gaps import Doubt, Evidence, Step, judge
from tests.clearing_side import D1

CARD = bytes.fromhex("03100000000000000001")
PURSE = f"{CARD.hex()}/1/0"
STEP = Step(CARD, 1, 0, 4, 5, bytes(16), D1, 800, 800, 0, 0, 0, ())
FEN = st.integers(0, 5000)


def test_neighbours_that_agree_say_nothing() -> None:
    assert judge(STEP) == Evidence()
    assert judge(replace(STEP, loads_fen=500, before_fen=1300)) == Evidence()


def test_order_of_the_rules() -> None:
    doubt = (Doubt("u", 500),)
    assert judge(replace(STEP, doubts=doubt)) == Evidence(reversed=("u",))
    assert judge(replace(STEP, doubts=doubt, before_fen=1300)) == Evidence(committed=("u",))
    assert judge(replace(STEP, doubts=doubt, upper=7, before_fen=1100)) == Evidence("gap-or-load", f"{PURSE}/5-6", 500)
    assert judge(replace(STEP, doubts=doubt, before_fen=1200)) == Evidence("unexplained-credit", f"{PURSE}/5", 400)
    assert judge(replace(STEP, upper=7, before_fen=600)) == Evidence("card-gap", f"{PURSE}/5-6", 200, 200)
    assert judge(replace(STEP, upper=7, before_fen=900)) == Evidence("unexplained-credit", f"{PURSE}/7", 100)
    assert judge(replace(STEP, before_fen=700)) == Evidence("unexplained-debit", f"{PURSE}/5", 100)
    assert judge(replace(STEP, unsealed=1, unsealed_fen=100, before_fen=700)) == Evidence()


def test_several_loads_in_doubt_are_told_apart_by_their_amounts() -> None:
    doubts = (Doubt("a", 100), Doubt("b", 200), Doubt("c", 400))
    evidence = judge(replace(STEP, doubts=doubts, before_fen=1300))
    assert (evidence.committed, evidence.reversed) == (("a", "c"), ("b",))
    assert judge(replace(STEP, doubts=doubts, before_fen=850)).kind == "unexplained-credit"


@given(FEN, FEN, FEN, FEN, st.integers(1, 9), st.integers(0, 9), st.lists(FEN.filter(bool), max_size=3))
def test_value_is_conserved_by_every_judgement(
    after_fen: int,
    before_fen: int,
    loads_fen: int,
    unsealed_fen: int,
    distance: int,
    unsealed: int,
    in_doubt: list[int],
) -> None:
    doubts = tuple(Doubt(str(at), fen) for at, fen in enumerate(in_doubt))
    step = replace(
        STEP, upper=4 + distance, after_fen=after_fen, before_fen=before_fen, loads_fen=loads_fen, unsealed=unsealed,
        unsealed_fen=unsealed_fen, doubts=doubts,
    )  # fmt: skip
    evidence = judge(step)
    committed_fen = sum(doubt.amount_fen for doubt in doubts if doubt.load_id in evidence.committed)
    assert evidence.gap_fen >= 0
    # What was there, came and went is what is there, unless a case says by how much it is not.
    rest_fen = after_fen + loads_fen - unsealed_fen + committed_fen - evidence.gap_fen - before_fen
    if evidence.kind in (None, "card-gap"):
        assert rest_fen == 0
    elif evidence.kind != "gap-or-load":
        assert evidence.amount_fen == abs(rest_fen) > 0
    if evidence.committed or evidence.reversed:
        assert {*evidence.committed, *evidence.reversed} == {doubt.load_id for doubt in doubts}
