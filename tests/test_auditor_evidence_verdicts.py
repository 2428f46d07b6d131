"""Auditor E: the verdict of single records and the cases that stand on them, worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.evidence_side import BUS, CARD, COUNTER, DAY1, DAY2, FOREIGN, LOST_PSAM, OTHER, POS, STUDENT, Scene, quiet

pytestmark = quiet


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


def test_a_bad_tac_moves_nothing_and_is_a_case(scene: Scene) -> None:
    answer = {"accepted": 0, "duplicate": 0, "quarantined": [{"seq": 1, "code": "bad-proof"}]}
    scene.upload([scene.record(genuine=0)], answer=answer)
    scene.close(DAY1)
    found = scene.publish("quarantined 1 200", f"bad-proof {BUS}/1/1 200 {DAY1} - operator")
    assert found.differences == []


def test_an_answer_that_told_another_verdict_is_told(scene: Scene) -> None:
    scene.upload([scene.record(genuine=0)], answer={"accepted": 1, "quarantined": []})
    found = scene.publish("quarantined 1 200")
    assert found.differences == [
        f"answer to {BUS}/1 (order 1) accepted: published 1, recomputed 0",
        f"answer to {BUS}/1 (order 1) quarantined: published [], recomputed [(1, 'bad-proof')]",
    ]


def test_the_22nd_record_of_a_terminal_with_21_bad_proofs_gets_no_verdict(scene: Scene) -> None:
    scene.upload([scene.record(genuine=0, counter=0, at=f"{DAY1} 09:00:{second:02d}") for second in range(21)])
    scene.upload([scene.record(counter=0)])
    scene.upload([scene.record(counter=0, at=f"{DAY2} 08:00:00")], at=f"{DAY2} 08:00:05")
    scene.close(DAY1)
    cases = [f"bad-proof {BUS}/1/{sequence} 200 {DAY1} - operator" for sequence in range(1, 22)]
    cases.append(f"terminal-suspended {BUS}/1/22 200 {DAY1} - operator")
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        quarantined 22 4400
        accepted 1 200
    """
    assert scene.publish(books, "\n".join(cases)).differences == []


def test_duplicates_count_nothing_and_a_batch_conflict_is_a_case(scene: Scene) -> None:
    ride = scene.record()
    scene.upload([ride])
    scene.upload([ride], n=1)
    scene.upload([ride], n=2, answer={"accepted": 0, "duplicate": 1})
    scene.upload([scene.record(OTHER, sequence=1)], n=2, status=409)
    scene.upload([scene.record(OTHER, sequence=1)], n=3, status=400)
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        accepted 1 200
    """
    assert scene.publish(books, f"batch-conflict {BUS}/2 0 {DAY1} - operator").differences == []


def test_a_sealed_copy_lends_its_claims_to_the_unsealed_one(scene: Scene) -> None:
    ride: dict[str, Any] = {
        "concession": 2,
        "full_fare_fen": 200,
        "sequence": 1,
        "terminal_transaction": 1,
        "counter": 0,
    }
    scene.upload([scene.record(STUDENT, 100, sealed=0, **ride)])
    scene.close(DAY1)
    scene.upload([scene.record(STUDENT, 100, **ride)], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 100 0
        {DAY1} purse due:transit debit@1 0 100
        {DAY1} transit due:purse debit@1 100 0
        {DAY1} transit payable:102 debit@1 0 100
        {DAY2} transit subsidy subsidy@7 100 0
        {DAY2} transit subsidy_payable:102 subsidy@7 0 100
        accepted 1 100
        conflict 1 100
    """
    cases = f"""
        bad-seal {BUS}/1/1 100 {DAY1} {DAY2} operator
        conflict {STUDENT}@20260302080000 100 {DAY2} - operator
    """
    nets = f"""
        {DAY1} stored_value 102 100
        {DAY1} stored_value issuer -100
        {DAY2} treasury_subsidy 102 100
        {DAY2} treasury_subsidy treasury -100
    """
    late = [{"origin_date": DAY1, "count": 1, "fen": 100}]
    line = {"sector": "transit", "count": 1, "gross_fen": 100, "fee_fen": 0, "net_fen": 100}
    statements = {
        f"{DAY1}/102": [line | {"class": "stored value", "late": []}],
        f"{DAY2}/102": [line | {"class": "treasury subsidy", "late": late}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_an_adopted_copy_lends_its_number_too(scene: Scene) -> None:
    scene.upload([scene.record(sealed=0, sequence=1, terminal_transaction=1, counter=0)])
    scene.upload([scene.record(sequence=2, terminal_transaction=1, counter=0, concession=2)])
    scene.upload([scene.record(OTHER, sequence=1)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        accepted 2 400
        conflict 1 200
    """
    cases = f"""
        conflict {CARD}@20260302080000 200 {DAY1} - operator
        fare {BUS}/1/2 100 {DAY1} - operator
        concession {BUS}/1/2 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_a_foreign_card_waits_for_its_issuer(scene: Scene) -> None:
    scene.upload([scene.record(issuer=FOREIGN)])
    scene.close(DAY1)
    books = f"""
        {DAY1} transit pending_receivable:{FOREIGN} debit@1 200 0
        {DAY1} transit pending_payable:102 debit@1 0 200
        pending_issuer 1 200
    """
    assert scene.publish(books, nets="", statements={}).differences == []


def test_who_bears_a_denylisted_debit(scene: Scene) -> None:
    scene.report(CARD, f"{DAY1} 09:00:00", version=5)
    times = ("08:59:59", "09:00:00", "09:40:00")
    early = [scene.record(at=f"{DAY1} {at}", list_version=5 if at == "09:40:00" else 4) for at in times]
    scene.upload(early)
    later = f"{DAY2} 10:00:00"
    scene.upload([scene.record(at=f"{DAY2} 09:59:59"), scene.record(at=later)], at=later)
    scene.close(DAY1)
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 600 0
        {DAY1} purse due:transit debit@1 0 600
        {DAY1} transit due:purse debit@1 600 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 400
        {DAY2} purse float:1 debit@1 400 0
        {DAY2} purse due:transit debit@1 0 400
        {DAY2} transit due:purse debit@1 400 0
        {DAY2} transit suspense:102 debit@1 0 400
        accepted 1 200
        suspended 4 800
    """
    cases = f"""
        denylist {BUS}/1/2 200 {DAY1} - issuer issuer
        denylist {BUS}/1/3 200 {DAY1} - acquirer acquirer
        denylist {BUS}/1/4 200 {DAY1} - issuer issuer
        denylist {BUS}/1/5 200 {DAY1} - acquirer acquirer
    """
    assert scene.publish(books, cases).differences == []


def test_an_unsealed_record_proves_no_terminal_whose_grace_it_could_have(scene: Scene) -> None:
    scene.report(CARD, f"{DAY1} 09:00:00", version=5)
    times = (f"{DAY2} 10:00:00", f"{DAY2} 10:01:00")
    scene.upload([scene.record(at=at, terminal=POS, sealed=at == times[0]) for at in times], at=times[1])
    scene.close(DAY1)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 400 0
        {DAY2} purse due:smallpay debit@1 0 400
        {DAY2} smallpay due:purse debit@1 400 0
        {DAY2} smallpay suspense:103 debit@1 0 400
        suspended 2 400
    """
    cases = f"""
        denylist {POS}/1/1 200 {DAY1} - issuer issuer
        denylist {POS}/1/2 200 {DAY1} - acquirer acquirer
        bad-seal {POS}/1/2 200 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_a_clock_that_runs_ahead_by_more_than_the_policy_allows(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY1} 20:10:00")], at=f"{DAY1} 20:05:00")
    scene.upload([scene.record(at=f"{DAY1} 20:20:01")], at=f"{DAY1} 20:15:00")
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 200
        accepted 1 200
        suspended 1 200
    """
    assert scene.publish(books, f"clock {BUS}/1/2 200 {DAY1} - clearing").differences == []


UNKNOWN_CARD = "03107910000000009999"


@pytest.mark.parametrize(
    ("fields", "state", "code", "owner"),
    [
        ({"version": 2}, "quarantined", "malformed", "operator"),
        ({"time": "240000"}, "quarantined", "malformed", "operator"),
        ({"terminal_number": "799999999999"}, "quarantined", "unknown-psam", "operator"),
        ({"issuer": "02310000"}, "quarantined", "unknown-issuer", "operator"),
        ({"key_version": 2}, "quarantined", "no-key", "operator"),
        ({"suite": 7}, "quarantined", "no-key", "operator"),
        ({"card": UNKNOWN_CARD}, "quarantined", "unknown-card", "operator"),
        ({"terminal_number": LOST_PSAM}, "suspended", "psam-inactive", "clearing"),
    ],
)
def test_the_code_of_what_is_not_accepted(
    scene: Scene, fields: dict[str, Any], state: str, code: str, owner: str
) -> None:
    scene.upload([scene.record(terminal=POS, **fields)])
    scene.close(DAY1)
    books = f"{state} 1 200"
    if state == "suspended":
        books += f"""
            {DAY1} purse float:1 debit@1 200 0
            {DAY1} purse due:smallpay debit@1 0 200
            {DAY1} smallpay due:purse debit@1 200 0
            {DAY1} smallpay suspense:103 debit@1 0 200
        """
    assert scene.publish(books, f"{code} {POS}/1/1 200 {DAY1} - {owner}").differences == []


def test_a_load_that_nobody_authorised_and_a_card_that_was_replaced(scene: Scene) -> None:
    scene.upload([scene.load_record(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.upload([scene.record(OTHER)])
    scene.call("replacements", f"{DAY1} 09:00:00", {"old": OTHER, "new": CARD}, {"load_fen": 0})
    scene.upload([scene.record(OTHER, at=f"{DAY1} 08:30:00")])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 200
        accepted 1 200
        suspended 2 5200
    """
    cases = f"""
        rogue-load {COUNTER}/1/1 5000 {DAY1} - clearing
        replaced-card {BUS}/1/2 200 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_two_proven_records_under_one_sequence(scene: Scene) -> None:
    scene.upload([scene.record(sequence=1), scene.record(OTHER, sequence=1)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        accepted 2 400
    """
    assert scene.publish(books, f"sequence-conflict {BUS}/1 0 {DAY1} - operator").differences == []
