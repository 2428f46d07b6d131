"""Auditor E: what a replaced card was worth, and where its value goes, worked out by hand."""

from pathlib import Path

import pytest

from tests.evidence_side import CARD, DAY1, DAY2, OTHER, Scene, quiet, ridden

pytestmark = quiet
LATER = f"{DAY2} 10:00:00"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


def a_card_worth_4800(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])


FIRST_DAY = f"""
    {ridden(DAY1, 200)}
    {DAY1} purse cash:301 load@1 5000 0
    {DAY1} purse float:1 load@1 0 5000
"""


def test_value_of_a_replaced_card_moves_once_and_the_new_card_takes_it(scene: Scene) -> None:
    a_card_worth_4800(scene)
    scene.close(DAY1)
    scene.replace(CARD, OTHER, LATER, {"1": 4800, "3": 0})
    scene.upload([scene.load(OTHER, 4800, f"{DAY2} 10:05:00", channel="transfer")], at=LATER)
    scene.close(DAY2)
    scene.close("2026-03-04")
    books = f"""
        {FIRST_DAY}
        {DAY2} purse float:1 replace@1 4800 0
        {DAY2} purse transfer replace@1 0 4800
        {DAY2} purse transfer load@1 4800 0
        {DAY2} purse float:1 load@1 0 4800
        accepted 3 10000
    """
    assert scene.publish(books).differences == []


def test_a_replacement_is_booked_by_the_close_of_its_own_date(scene: Scene) -> None:
    a_card_worth_4800(scene)
    scene.replace(CARD, OTHER, f"{DAY2} 02:30:00", {"1": 4800})
    scene.close(DAY1)
    books = f"{FIRST_DAY}\naccepted 2 5200"
    assert scene.publish(books).differences == []


def test_a_transfer_that_evidence_commits_takes_from_the_same_account(scene: Scene) -> None:
    scene.load(OTHER, 4800, f"{DAY1} 07:00:00", channel="transfer")
    scene.upload([scene.record(OTHER, counter=0, balance_before_fen=4800)])
    scene.close(DAY1)
    books = f"""
        {ridden(DAY1, 200)}
        {DAY1} purse transfer load@1 4800 0
        {DAY1} purse float:1 load@1 0 4800
        accepted 1 200
    """
    cases = f"load-in-doubt {OTHER}/1/0 4800 {DAY1} {DAY1} issuer committed"
    assert scene.publish(books, cases).differences == []


def test_a_refused_replacement_is_none(scene: Scene) -> None:
    a_card_worth_4800(scene)
    scene.close(DAY1)
    scene.replace(CARD, OTHER, LATER, {}, status=422)
    scene.upload([scene.record(counter=1, balance_before_fen=4800, at=LATER)], at=LATER)
    scene.close(DAY2)
    assert scene.publish(f"{FIRST_DAY} {ridden(DAY2, 200)}\naccepted 3 5400").differences == []


def test_open_gaps_and_what_evidence_committed_count(scene: Scene) -> None:
    """5000 committed, 300 in a gap, 200 ridden, then 700 loaded; the proof of the 5000 comes without counting twice."""
    load = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.record(counter=1, balance_before_fen=4700)])
    scene.close(DAY1)
    scene.replace(CARD, OTHER, f"{DAY2} 09:00:00", {"1": 4500})
    scene.upload([load], at=f"{DAY2} 09:01:00")
    scene.replace(CARD, OTHER, f"{DAY2} 09:02:00", {"1": 4500})
    assert [each for each in scene.publish("").differences if "replace" in each] == []


def test_a_card_that_owes_is_worth_nothing(scene: Scene) -> None:
    scene.upload([scene.record()])
    scene.close(DAY1)
    scene.replace(CARD, OTHER, LATER, {"1": 0})
    scene.close(DAY2)
    assert scene.publish(f"{ridden(DAY1, 200)}\naccepted 1 200").differences == []


def test_an_answer_with_other_values_is_told(scene: Scene) -> None:
    a_card_worth_4800(scene)
    scene.replace(CARD, OTHER, LATER, {"1": 5000})
    told = [each for each in scene.publish("").differences if each.startswith("desk")]
    assert told == [
        "desk order 4: values of the replaced card: published [(1, 5000)], recomputed [(1, 4800)]",
        "desk order 4: load_fen of the replacement: published 5000, recomputed 4800",
    ]
