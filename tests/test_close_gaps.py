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
    doubt = (Doubt("u", 500, 1),)
    assert judge(replace(STEP, doubts=doubt)) == Evidence(reversed=("u",))
    assert judge(replace(STEP, doubts=doubt, before_fen=1300)) == Evidence(committed=("u",))
    assert judge(replace(STEP, doubts=doubt, upper=7, before_fen=1100)) == Evidence("gap-or-load", f"{PURSE}/5-6", 500)
    assert judge(replace(STEP, doubts=doubt, before_fen=1200)) == Evidence("unexplained-credit", f"{PURSE}/5", 400)
    assert judge(replace(STEP, upper=7, before_fen=600)) == Evidence("card-gap", f"{PURSE}/5-6", 200, 200)
    assert judge(replace(STEP, upper=7, before_fen=900)) == Evidence("unexplained-credit", f"{PURSE}/7", 100)
    assert judge(replace(STEP, before_fen=700)) == Evidence("unexplained-debit", f"{PURSE}/5", 100)
    assert judge(replace(STEP, unsealed=1, unsealed_fen=100, before_fen=700)) == Evidence()


def test_several_loads_in_doubt_are_told_apart_by_their_amounts() -> None:
    doubts = (Doubt("a", 100, 1), Doubt("b", 200, 2), Doubt("c", 400, 3))
    evidence = judge(replace(STEP, doubts=doubts, before_fen=1300))
    assert (evidence.committed, evidence.reversed) == (("a", "c"), ("b",))
    assert judge(replace(STEP, doubts=doubts, before_fen=850)).kind == "unexplained-credit"


def test_what_two_sets_of_loads_explain_is_not_decided_and_not_unexplained() -> None:
    doubts = (Doubt("a", 100, 1), Doubt("b", 200, 2), Doubt("c", 300, 3))
    assert judge(replace(STEP, doubts=doubts, before_fen=1100)) == Evidence()
    assert judge(replace(STEP, doubts=doubts[1:], before_fen=1100)) == Evidence(committed=("c",), reversed=("b",))


def test_loads_under_one_online_counter_are_alternatives() -> None:
    doubts = (Doubt("a", 100, 1), Doubt("b", 200, 1), Doubt("c", 300, 2))
    assert judge(replace(STEP, doubts=doubts, before_fen=1100)) == Evidence(committed=("c",), reversed=("a", "b"))
    assert judge(replace(STEP, doubts=doubts[:2], before_fen=1100)).kind == "unexplained-credit"
    # The most that can have happened: 200 under one counter and 300 under the other.
    assert judge(replace(STEP, doubts=doubts, upper=7)) == Evidence("gap-or-load", f"{PURSE}/5-6", 500)


def test_a_card_with_many_loads_in_doubt_is_told_too() -> None:
    doubts = tuple(Doubt(f"{at:02}", 1 << at, at) for at in range(16))
    evidence = judge(replace(STEP, doubts=doubts, before_fen=800 + 0b1010_0000_0000_0001))
    assert evidence.committed == ("00", "13", "15")
    assert len(evidence.reversed) == 13
    equal = tuple(Doubt(f"{at:02}", 100, at) for at in range(40))
    assert judge(replace(STEP, doubts=equal, before_fen=2800)) == Evidence()
    assert judge(replace(STEP, doubts=equal, before_fen=4800)).committed == tuple(doubt.load_id for doubt in equal)


def test_of_equal_loads_under_one_online_counter_only_the_last_can_have_happened() -> None:
    doubts = (Doubt("bank", 300, 1), Doubt("cash", 300, 1))
    assert judge(replace(STEP, doubts=doubts, before_fen=1100)) == Evidence(committed=("cash",), reversed=("bank",))


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
    doubts = tuple(Doubt(str(at), fen, at // 2) for at, fen in enumerate(in_doubt))
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
        # Nothing was decided: then more than one set of loads would explain what is there.
        assert rest_fen == 0 or (rest_fen < 0 and len(doubts) > 1 and not (evidence.committed or evidence.reversed))
    elif evidence.kind != "gap-or-load":
        assert evidence.amount_fen == abs(rest_fen) > 0
    if evidence.committed or evidence.reversed:
        assert {*evidence.committed, *evidence.reversed} == {doubt.load_id for doubt in doubts}
