"""Auditor E: proven loads and loads in doubt, worked out by hand."""

from pathlib import Path

import pytest

from tests.evidence_side import BUS, CARD, COUNTER, DAY1, DAY2, HOSPITAL, OTHER, SM4_CARD, Scene, quiet, ridden

pytestmark = quiet


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


def test_a_proven_load(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00"), scene.load(SM4_CARD, 700, f"{DAY1} 07:01:00")])
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:301 load@1 5700 0
        {DAY1} purse float:1 load@1 0 5700
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        accepted 3 5900
    """
    assert scene.publish(books).differences == []


def test_a_desk_that_answered_with_a_wrong_mac2_is_told(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00", wrong_mac2=True)
    (told,) = scene.publish("").differences
    assert told.startswith("desk order 1: MAC2 of the load is 00000000, recomputed ")


def test_a_load_in_doubt_is_decided_by_the_next_tap(scene: Scene) -> None:
    unfinished = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(OTHER, 3000, f"{DAY1} 07:10:00")
    late = scene.load(SM4_CARD, 700, f"{DAY1} 07:20:00")
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.upload([scene.record(OTHER, counter=0, balance_before_fen=0)])
    scene.close(DAY1)
    scene.upload([unfinished, late], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse cash:301 load@1 5000 0
        {DAY1} purse float:1 load@1 0 5000
        {DAY2} purse cash:301 load@1 5700 5000
        {DAY2} purse float:1 load@1 5000 5700
        accepted 4 6100
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/0 3000 {DAY1} {DAY1} issuer reversed
        load-in-doubt {SM4_CARD}/1/0 700 {DAY1} {DAY2} issuer committed
        sequence-gap {COUNTER}/1/2-2 0 {DAY2} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_a_doubt_beside_a_missing_counter_is_decided_by_more_value_than_the_load_found(scene: Scene) -> None:
    load = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.record(counter=1, balance_before_fen=4700)])
    scene.close(DAY1)
    scene.upload([load], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {ridden(DAY1, 200)}
        {DAY1} purse cash:301 load@1 5000 0
        {DAY1} purse float:1 load@1 0 5000
        {DAY1} purse float:1 gap@1 300 0
        {DAY1} purse unsettled:1 gap@1 0 300
        {DAY2} purse cash:301 load@1 5000 5000
        {DAY2} purse float:1 load@1 5000 5000
        accepted 2 5200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY1} issuer committed
        card-gap {CARD}/1/0/0-0 300 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_load_that_may_have_been_spent_unseen_books_nothing_until_evidence(scene: Scene) -> None:
    load = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.record(counter=1, balance_before_fen=-300)])
    scene.close(DAY1)
    scene.upload([load], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {ridden(DAY1, 200)}
        {DAY2} purse cash:301 load@1 5000 0
        {DAY2} purse float:1 load@1 0 5000
        {DAY2} purse float:1 gap@1 5300 0
        {DAY2} purse unsettled:1 gap@1 0 5300
        accepted 2 5200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY2} issuer committed
        gap-or-load {CARD}/1/0/0-0 5000 {DAY1} {DAY2} clearing
        card-gap {CARD}/1/0/0-0 5300 {DAY2} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_higher_online_counter_commits_a_load_of_a_card_that_never_rode(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.load(CARD, 700, f"{DAY1} 07:10:00", counter=1, found_fen=5000)])
    scene.load(OTHER, 300, f"{DAY1} 08:00:00")
    scene.load(OTHER, 400, f"{DAY1} 08:10:00", counter=1, found_fen=300)
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:301 load@1 6000 0
        {DAY1} purse float:1 load@1 0 6000
        accepted 1 700
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/0 300 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/1 400 {DAY1} - issuer
        sequence-gap {COUNTER}/1/1-1 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_of_tries_of_one_amount_only_the_last_is_asked(scene: Scene) -> None:
    scene.load(CARD, 200, f"{DAY1} 07:00:00", found_fen=9000)
    scene.load(CARD, 200, f"{DAY1} 07:05:00")
    scene.upload([scene.record(counter=0, balance_before_fen=200)])
    scene.load(OTHER, 200, f"{DAY1} 07:00:00")
    scene.load(OTHER, 200, f"{DAY1} 07:05:00")
    scene.upload([scene.record(OTHER, counter=1, balance_before_fen=-50)])
    scene.close(DAY1)
    books = f"""
        {ridden(DAY1, 400)}
        {DAY1} purse cash:301 load@1 200 0
        {DAY1} purse float:1 load@1 0 200
        accepted 2 400
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 200 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/0 200 {DAY1} - issuer
        gap-or-load {OTHER}/1/0/0-0 200 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_higher_online_counter_commits_the_last_of_tries_of_one_amount(scene: Scene) -> None:
    scene.load(CARD, 200, f"{DAY1} 07:00:00", channel=302)
    scene.load(CARD, 200, f"{DAY1} 07:05:00")
    scene.upload([scene.load(CARD, 700, f"{DAY1} 07:10:00", counter=1, found_fen=-100)])
    scene.load(OTHER, 200, f"{DAY1} 07:00:00")
    scene.load(OTHER, 300, f"{DAY1} 07:05:00")
    scene.upload([scene.load(OTHER, 700, f"{DAY1} 07:10:00", counter=1, found_fen=-100)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:301 load@1 1600 0
        {DAY1} purse float:1 load@1 0 1600
        accepted 2 1400
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 200 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/0 300 {DAY1} - issuer
        sequence-gap {COUNTER}/1/1-2 0 {DAY1} - operator
        sequence-gap {COUNTER}/1/4-5 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_with_the_last_try_those_that_the_card_forgot_for_it_are_reversed(scene: Scene) -> None:
    scene.load(CARD, 200, f"{DAY1} 07:00:00")
    scene.load(CARD, 200, f"{DAY1} 07:05:00")
    scene.upload([scene.record(counter=0, balance_before_fen=0)])
    scene.close(DAY1)
    cases = f"load-in-doubt {CARD}/1/0 200 {DAY1} {DAY1} issuer reversed"
    assert scene.publish(f"{ridden(DAY1, 200)}\naccepted 1 200", cases).differences == []


def test_a_card_that_has_not_paid_since_may_still_have_been_loaded_after_its_last_tap(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.record(fen=0, counter=0, balance_before_fen=0, full_fare_fen=200, concession=3)])
    scene.close(DAY1)
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} - issuer
        concession {BUS}/1/1 200 {DAY1} - operator
    """
    assert scene.publish("accepted 1 0", cases).differences == []


def test_each_load_in_doubt_is_decided_for_itself(scene: Scene) -> None:
    """The second load must have been credited to leave 50; of the first, either try or none may have been."""
    scene.load(CARD, 200, f"{DAY1} 07:00:00")
    scene.load(CARD, 500, f"{DAY1} 07:05:00")
    scene.load(CARD, 100, f"{DAY1} 07:30:00", counter=1, found_fen=-50)
    scene.upload([scene.record(counter=1, balance_before_fen=50)])
    scene.close(DAY1)
    books = f"""
        {ridden(DAY1, 200)}
        {DAY1} purse cash:301 load@1 100 0
        {DAY1} purse float:1 load@1 0 100
        accepted 1 200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 500 {DAY1} - issuer
        load-in-doubt {CARD}/1/1 100 {DAY1} {DAY1} issuer committed
        gap-or-load {CARD}/1/0/0-0 500 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_load_retried_with_another_amount_is_one_case_and_committed_once(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(CARD, 3000, f"{DAY1} 07:05:00")
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=0, balance_before_fen=5000, at=later)], at=later)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        {DAY2} purse cash:301 load@1 5000 0
        {DAY2} purse float:1 load@1 0 5000
        accepted 1 200
    """
    cases = f"load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY2} issuer committed"
    assert scene.publish(books, cases).differences == []


def test_a_record_of_a_retried_load_finishes_the_order_of_its_own_terminal(scene: Scene) -> None:
    bank = scene.load(CARD, 5000, f"{DAY1} 07:00:00", terminal=HOSPITAL, channel=302)
    scene.load(CARD, 5000, f"{DAY1} 07:05:00")
    scene.load(OTHER, 700, f"{DAY1} 07:05:00", channel=302)
    cash = scene.load(OTHER, 700, f"{DAY1} 07:10:00")
    scene.upload([bank])
    scene.upload([cash])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:302 load@1 5000 0
        {DAY1} purse cash:301 load@1 700 0
        {DAY1} purse float:1 load@1 0 5700
        accepted 2 5700
    """
    assert scene.publish(books, f"sequence-gap {COUNTER}/1/1-2 0 {DAY1} - operator").differences == []


def test_a_load_under_a_higher_counter_tells_apart_what_two_sets_would_explain(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(CARD, 5000, f"{DAY1} 07:05:00", counter=1)
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.close(DAY1)
    books = f"""
        {ridden(DAY1, 200)}
        {DAY1} purse cash:301 load@1 5000 0
        {DAY1} purse float:1 load@1 0 5000
        accepted 1 200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY1} issuer committed
        load-in-doubt {CARD}/1/1 5000 {DAY1} - issuer
    """
    assert scene.publish(books, cases).differences == []


def test_a_rogue_load_is_no_value_and_freezes_the_card(scene: Scene) -> None:
    scene.upload([scene.load_record(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=0, balance_before_fen=5000, at=later)], at=later)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        suspended 2 5200
    """
    cases = f"""
        rogue-load {COUNTER}/1/1 5000 {DAY1} - clearing
        denylist {BUS}/1/1 200 {DAY2} - issuer issuer
        unexplained-credit {CARD}/1/0/0 5000 {DAY2} - issuer
    """
    assert scene.publish(books, cases).differences == []
