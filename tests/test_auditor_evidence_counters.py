"""Auditor E: forks, gaps, unexplained money, torn debits and missing exits, worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.evidence_side import BUS, CARD, DAY1, DAY2, METRO, OTHER, POS, SM4_CARD, STUDENT, Scene, quiet, ridden, rides

pytestmark = quiet


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


FORK_DAY1 = f"""
    {DAY1} purse float:1 debit@1 500 0
    {DAY1} purse due:transit debit@1 0 200
    {DAY1} purse due:smallpay debit@1 0 300
    {DAY1} transit due:purse debit@1 200 0
    {DAY1} transit payable:102 debit@1 0 200
    {DAY1} smallpay due:purse debit@1 300 0
    {DAY1} smallpay payable:103 debit@1 0 300
    {DAY1} transit payable:102 fork@1 200 0
    {DAY1} transit suspense:102 fork@1 0 200
    {DAY1} smallpay payable:103 fork@1 300 0
    {DAY1} smallpay suspense:103 fork@1 0 300
    {DAY1} purse fraud fork@1 300 0
    {DAY1} purse float:1 fork@1 0 300
"""


def fork(scene: Scene) -> None:
    scene.upload([scene.record(fen=300, counter=0, terminal=POS, at=f"{DAY1} 09:00:00")])
    scene.upload([scene.record(fen=200, counter=0, at=f"{DAY1} 08:00:00")])
    scene.close(DAY1)


def test_a_fork_falls_on_the_float_once_and_freezes_the_card(scene: Scene) -> None:
    fork(scene)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=-200, at=later)], at=f"{DAY2} 08:00:01")
    scene.close(DAY2)
    books = f"""
        {FORK_DAY1}
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        disputed 2 500
        suspended 1 200
    """
    cases = f"""
        fork {CARD}/1/0/0 500 {DAY1} - issuer
        denylist {BUS}/1/2 200 {DAY2} - issuer issuer
    """
    nets = ""
    line = {"class": "stored value", "count": 1, "fee_fen": 0, "net_fen": 0, "late": []}
    statements = {
        f"{DAY1}/102": [line | {"sector": "transit", "gross_fen": 200}],
        f"{DAY1}/103": [line | {"sector": "smallpay", "gross_fen": 300}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_a_late_third_member_of_a_fork_moves_the_float_to_the_smallest(scene: Scene) -> None:
    fork(scene)
    scene.upload([scene.record(fen=100, counter=0, at=f"{DAY1} 07:00:00")], at=f"{DAY2} 10:00:00")
    scene.close(DAY2)
    books = f"""
        {FORK_DAY1}
        {DAY2} purse float:1 debit@1 100 0
        {DAY2} purse due:transit debit@1 0 100
        {DAY2} transit due:purse debit@1 100 0
        {DAY2} transit payable:102 debit@1 0 100
        {DAY2} transit payable:102 fork@1 100 0
        {DAY2} transit suspense:102 fork@1 0 100
        {DAY2} purse fraud fork@1 200 0
        {DAY2} purse float:1 fork@1 0 200
        disputed 3 600
    """
    assert scene.publish(books, f"fork {CARD}/1/0/0 600 {DAY1} - issuer").differences == []


def test_a_fork_takes_back_its_subsidy(scene: Scene) -> None:
    ride: dict[str, Any] = {"concession": 2, "full_fare_fen": 200, "counter": 0}
    scene.upload([scene.record(STUDENT, 100, f"{DAY1} 08:00:00", **ride)])
    scene.close(DAY1)
    scene.upload([scene.record(STUDENT, 100, f"{DAY1} 08:30:00", **ride)], at=f"{DAY2} 10:00:00")
    scene.close(DAY2)
    both = "\n".join(
        f"""
        {day} purse float:1 debit@1 100 0
        {day} purse due:transit debit@1 0 100
        {day} transit due:purse debit@1 100 0
        {day} transit payable:102 debit@1 0 100
        """
        for day in (DAY1, DAY2)
    )
    books = f"""
        {both}
        {DAY1} transit subsidy subsidy@7 100 0
        {DAY1} transit subsidy_payable:102 subsidy@7 0 100
        {DAY2} transit subsidy subsidy@7 0 100
        {DAY2} transit subsidy_payable:102 subsidy@7 100 0
        {DAY2} transit payable:102 fork@1 200 0
        {DAY2} transit suspense:102 fork@1 0 200
        {DAY2} purse fraud fork@1 100 0
        {DAY2} purse float:1 fork@1 0 100
        disputed 2 200
    """
    assert scene.publish(books, f"fork {STUDENT}/1/0/0 200 {DAY2} - issuer").differences == []


def test_a_gap_is_booked_and_released_when_the_late_record_fills_it(scene: Scene) -> None:
    first, lost, last = rides(scene)
    scene.declared.append({"operator": 102, "sector": "transit", "date": DAY1, "count": 3, "fen": 600})
    scene.upload([first, last])
    scene.close(DAY1)
    scene.upload([lost], at=f"{DAY2} 12:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse float:1 gap@1 200 0
        {DAY1} purse unsettled:1 gap@1 0 200
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        {DAY2} purse float:1 gap@1 0 200
        {DAY2} purse unsettled:1 gap@1 200 0
        accepted 3 600
    """
    cases = f"""
        card-gap {CARD}/1/0/1-1 200 {DAY1} {DAY2} clearing
        sequence-gap {BUS}/1/2-2 0 {DAY1} {DAY2} operator
        operator-total 102/transit/{DAY1} -200 {DAY1} {DAY2} operator
    """
    nets = f"""
        {DAY1} stored_value 102 400
        {DAY1} stored_value issuer -400
        {DAY2} stored_value 102 200
        {DAY2} stored_value issuer -200
    """
    line = {"sector": "transit", "class": "stored value", "fee_fen": 0}
    late = [{"origin_date": DAY1, "count": 1, "fen": 200}]
    statements = {
        f"{DAY1}/102": [line | {"count": 2, "gross_fen": 400, "net_fen": 400, "late": []}],
        f"{DAY2}/102": [line | {"count": 1, "gross_fen": 200, "net_fen": 200, "late": late}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_an_unsealed_debit_posts_its_amount_and_explains_its_counter(scene: Scene) -> None:
    first = scene.record(at=f"{DAY1} 07:00:00")
    between = scene.record(at=f"{DAY1} 08:00:00", sealed=0)
    last = scene.record(at=f"{DAY1} 09:00:00")
    scene.upload([first, between, last])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 600 0
        {DAY1} purse due:transit debit@1 0 600
        {DAY1} transit due:purse debit@1 600 0
        {DAY1} transit payable:102 debit@1 0 600
        accepted 3 600
    """
    assert scene.publish(books, f"bad-seal {BUS}/1/2 200 {DAY1} - operator").differences == []


def test_unexplained_money_is_a_case_and_a_credit_freezes(scene: Scene) -> None:
    scene.upload([scene.record(counter=0, balance_before_fen=50)])
    scene.upload([scene.record(OTHER, counter=0, balance_before_fen=-70)])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=-150, at=later)], at=later)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        accepted 2 400
        suspended 1 200
    """
    cases = f"""
        unexplained-credit {CARD}/1/0/0 50 {DAY1} - issuer
        unexplained-debit {OTHER}/1/0/0 70 {DAY1} - issuer
    """
    assert scene.publish(books, cases).differences == []


def test_torn_debits_are_void_committed_or_undecided(scene: Scene) -> None:
    reused = scene.record(kind=6, counter=0, at=f"{DAY1} 07:00:00")
    committed = scene.record(OTHER, kind=6, counter=0, at=f"{DAY1} 07:00:00")
    undecided = scene.record(SM4_CARD, kind=6, counter=0, at=f"{DAY1} 07:00:00")
    scene.upload([reused, committed, undecided])
    scene.upload([scene.record(), scene.record(OTHER, counter=1, balance_before_fen=-200)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse float:1 gap@1 200 0
        {DAY1} purse unsettled:1 gap@1 0 200
        accepted 2 400
        memo 3 600
    """
    cases = f"""
        torn {BUS}/1/1 200 {DAY1} {DAY1} clearing void
        torn {BUS}/1/2 200 {DAY1} - clearing committed
        torn {BUS}/1/3 200 {DAY1} - clearing undecided
        card-gap {OTHER}/1/0/0-0 200 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_missing_exit_is_a_case_until_the_exit_comes(scene: Scene) -> None:
    metro: dict[str, Any] = {"terminal": METRO, "transaction_type": 9, "line": 3}
    scene.upload([scene.record(CARD, 0, f"{DAY1} 08:00:00", kind=2, station=3, **metro)])
    scene.upload([scene.record(OTHER, 0, f"{DAY1} 08:00:00", kind=2, station=3, **metro)])
    scene.close(DAY1)
    exits = [
        scene.record(CARD, 450, f"{DAY1} 08:30:00", kind=3, station=8, entry_station=3, **metro),
        scene.record(OTHER, 900, f"{DAY1} 08:31:00", kind=3, station=8, flags=4, **metro),
    ]
    scene.upload(exits, at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 1350 0
        {DAY2} purse due:transit debit@1 0 1350
        {DAY2} transit due:purse debit@1 1350 0
        {DAY2} transit payable:102 debit@1 0 1350
        accepted 4 1350
    """
    cases = f"""
        missing-exit {CARD}/1/0/0 0 {DAY1} {DAY2} operator
        missing-exit {OTHER}/1/0/0 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_an_exit_without_its_entry_is_a_case_until_the_entry_comes(scene: Scene) -> None:
    """The entry that an exit names must be the last one known: another station or instant, or one that an exit has
    ended already, is none."""
    metro: dict[str, Any] = {"terminal": METRO, "transaction_type": 9, "line": 3}
    leave: dict[str, Any] = metro | {"kind": 3, "station": 8, "entry_station": 3}
    eight = {"entry_at": 1772409600}  # 08:00 of DAY1 in China
    scene.upload([
        scene.record(CARD, 0, f"{DAY1} 08:00:00", kind=2, station=3, **metro),
        scene.record(CARD, 450, f"{DAY1} 08:30:00", **leave, **eight),
        scene.record(CARD, 450, f"{DAY1} 08:40:00", **leave, **eight),
        scene.record(CARD, 0, f"{DAY1} 09:00:00", kind=2, station=3, **metro),
        scene.record(CARD, 450, f"{DAY1} 09:30:00", **leave, **eight),
        scene.record(OTHER, 450, f"{DAY1} 08:31:00", counter=1, balance_before_fen=0, **leave),
    ])  # fmt: skip
    scene.close(DAY1)
    scene.upload([scene.record(OTHER, 0, f"{DAY1} 08:00:00", counter=0, kind=2, station=3, **metro)])
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 1800 0
        {DAY1} purse due:transit debit@1 0 1800
        {DAY1} transit due:purse debit@1 1800 0
        {DAY1} transit payable:102 debit@1 0 1800
        accepted 7 1800
    """
    cases = f"""
        missing-entry {CARD}/1/0/2 0 {DAY1} - operator
        missing-entry {CARD}/1/0/4 0 {DAY1} - operator
        missing-entry {OTHER}/1/0/1 0 {DAY1} {DAY2} operator
        card-gap {OTHER}/1/0/0-0 0 {DAY1} {DAY2} clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_purse_whose_counters_near_their_end_is_to_be_renewed(scene: Scene) -> None:
    scene.upload([scene.record(counter=0xFC00, balance_before_fen=-200), scene.record(OTHER, counter=0xFBFF)])
    scene.upload([scene.load(SM4_CARD, 5000, f"{DAY1} 07:00:00", counter=0xFC00)])
    scene.upload([scene.load(STUDENT, 5000, f"{DAY1} 07:00:00", counter=0xFBFF)])
    scene.close(DAY1)
    books = f"""
        {ridden(DAY1, 400)}
        {DAY1} purse float:1 gap@1 200 0
        {DAY1} purse unsettled:1 gap@1 0 200
        {DAY1} purse cash:301 load@1 10000 0
        {DAY1} purse float:1 load@1 0 10000
        accepted 4 10400
    """
    cases = f"""
        card-gap {CARD}/1/0/0-64511 200 {DAY1} - clearing
        card-gap {OTHER}/1/0/0-64510 0 {DAY1} - clearing
        renewal {CARD}/1/0 0 {DAY1} - issuer
        renewal {SM4_CARD}/1/0 0 {DAY1} - issuer
    """
    assert scene.publish(books, cases).differences == []
