"""Auditor E: books, digests, nets, statements and totals of whole days, worked out by hand, and its pieces."""

import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from simulators.auditor_evidence import EvidenceError, audit
from simulators.evidence import ciphers
from simulators.evidence.casebook import CaseBook, Found
from simulators.evidence.record_cases import missing_ranges
from tests.evidence_macs import sm3
from tests.evidence_side import (
    BUS,
    CARD,
    DAY1,
    DAY2,
    FEE_PSAM,
    HOSPITAL,
    OTHER,
    POS,
    SM4_CARD,
    STUDENT,
    Scene,
    quiet,
    rides,
)

pytestmark = quiet


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


TWO_RIDES_AND_A_PURCHASE = f"""
    {DAY1} purse float:1 debit@1 550 0
    {DAY1} purse due:transit debit@1 0 400
    {DAY1} purse due:smallpay debit@1 0 150
    {DAY1} transit due:purse debit@1 400 0
    {DAY1} transit payable:102 debit@1 0 400
    {DAY1} smallpay due:purse debit@1 150 0
    {DAY1} smallpay payable:103 debit@1 0 150
    accepted 3 550
"""


def two_rides_and_a_purchase(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY1} 08:00:00"), scene.record(OTHER, at=f"{DAY1} 08:01:00")])
    scene.upload([scene.record(SM4_CARD, 150, terminal=POS)], as_json=True)
    scene.close(DAY1)


def test_accepted_debits_of_both_suites_and_both_spellings(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    nets = f"""
        {DAY1} stored_value 102 400
        {DAY1} stored_value 103 150
        {DAY1} stored_value issuer -550
    """
    line = {"class": "stored value", "fee_fen": 0, "late": []}
    statements = {
        f"{DAY1}/102": [line | {"sector": "transit", "count": 2, "gross_fen": 400, "net_fen": 400}],
        f"{DAY1}/103": [line | {"sector": "smallpay", "count": 1, "gross_fen": 150, "net_fen": 150}],
    }
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE, nets=nets, statements=statements)
    assert found.differences == []
    assert found.checked == 8 + 3 + 2


def test_digests_are_those_of_the_lines_in_the_contract(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE)
    books = f"""{DAY1}|purse|due:smallpay|CNY|debit@1|0|150
{DAY1}|purse|due:transit|CNY|debit@1|0|400
{DAY1}|purse|float:1|CNY|debit@1|550|0
{DAY1}|smallpay|due:purse|CNY|debit@1|150|0
{DAY1}|smallpay|payable:103|CNY|debit@1|0|150
{DAY1}|transit|due:purse|CNY|debit@1|400|0
{DAY1}|transit|payable:102|CNY|debit@1|0|400
accepted|3|550
"""
    substance = f"""purse|due:smallpay|{DAY1}|-150
purse|due:transit|{DAY1}|-400
purse|float:1|{DAY1}|550
smallpay|due:purse|{DAY1}|150
smallpay|payable:103|{DAY1}|-150
transit|due:purse|{DAY1}|400
transit|payable:102|{DAY1}|-400
"""
    assert found.books_digest == sm3(books.encode()).hex()
    assert found.substance_digest == sm3(substance.encode()).hex()


@pytest.mark.parametrize(
    ("place", "old", "new", "says"),
    [
        ("books.jsonl", '"debit_fen": 550', '"debit_fen": 551', "float:1 CNY debit@1: published debit 551"),
        ("books.jsonl", '"count": 3', '"count": 4', "books state accepted: published count 4"),
        ("books.jsonl", "payable:103", "payable:102", "smallpay payable:103 CNY debit@1: published nothing"),
        (f"statements/{DAY1}/net.json", "-550", "-549", "stored value issuer: published -549, recomputed -550"),
    ],
)
def test_one_fen_beside_the_truth_is_told(scene: Scene, place: str, old: str, new: str, says: str) -> None:
    two_rides_and_a_purchase(scene)
    nets = f"{DAY1} stored_value 102 400\n {DAY1} stored_value 103 150\n {DAY1} stored_value issuer -550"
    scene.publish(TWO_RIDES_AND_A_PURCHASE, nets=nets)
    path = scene.directory / place
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    told = [each for each in audit(scene.directory).differences if not each.startswith("statement ")]
    assert any(says in each for each in told)


def test_a_report_with_another_digest_is_told(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE)
    report = {"books_digest": found.books_digest, "substance_digest": "00" * 32}
    report["sectors"] = {"transit": {"fees_fen": 1, "subsidy_fen": 0, "net": {"102": {"stored value": 400}}}}  # type: ignore[assignment]
    (scene.directory / "report.json").write_text(json.dumps(report))
    told = [each for each in audit(scene.directory).differences if each.startswith("report")]
    assert told == [
        f"report substance_digest: published {'00' * 32}, recomputed {found.substance_digest}",
        "report transit fees_fen: published 1, recomputed 0",
    ]


def test_delay_changes_the_books_but_not_the_substance(tmp_path: Path) -> None:
    late, prompt = Scene(tmp_path / "late"), Scene(tmp_path / "prompt")
    first, lost, last = rides(late)
    late.upload([first, last])
    late.close(DAY1)
    late.upload([lost], at=f"{DAY2} 12:00:00")
    late.close(DAY2)
    prompt.upload(rides(prompt))
    prompt.close(DAY1)
    prompt.close(DAY2)
    delayed, at_once = late.publish(""), prompt.publish("")
    assert delayed.substance_digest == at_once.substance_digest
    assert delayed.books_digest != at_once.books_digest


@pytest.mark.parametrize("seed", range(4))
def test_books_do_not_depend_on_the_order_and_grouping_of_uploads(tmp_path: Path, seed: int) -> None:
    plain, mixed = Scene(tmp_path / "plain"), Scene(tmp_path / "mixed")
    records = [
        *rides(plain)[:2],
        plain.record(fen=200, counter=1, terminal=BUS, at=f"{DAY1} 10:00:00", balance_before_fen=-200),
        plain.record(OTHER, 100, f"{DAY1} 11:00:00", genuine=0, counter=0),
        plain.record(OTHER, 200, f"{DAY1} 12:00:00", counter=2, balance_before_fen=-300),
    ]
    plain.upload(records)
    plain.close(DAY1)
    order = random.Random(seed)
    shuffled = records * 2
    order.shuffle(shuffled)
    for record in shuffled:
        mixed.upload([record])
    mixed.close(DAY1)
    expected, found = plain.publish(""), mixed.publish("")
    assert (found.books_digest, found.substance_digest) == (expected.books_digest, expected.substance_digest)


def test_a_tap_before_the_cut_off_belongs_to_the_day_before(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY2} 01:59:59"), scene.record(at=f"{DAY2} 02:00:00")], at=f"{DAY2} 02:00:00")
    scene.close(DAY1)
    lines = "purse float:1 debit@1 200 0", "purse due:transit debit@1 0 200", "transit due:purse debit@1 200 0"
    books = [f"{day} {line}" for day in (DAY1, DAY2) for line in (*lines, "transit payable:102 debit@1 0 200")]
    assert scene.publish("\n".join([*books, "accepted 2 400"])).differences == []


def test_an_operator_that_declares_one_fen_too_much(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    declared = {"operator": 102, "sector": "transit", "date": DAY1, "count": 2, "fen": 401}
    exact = {"operator": 103, "sector": "smallpay", "date": DAY1, "count": 1, "fen": 150}
    not_closed_yet = {"operator": 103, "sector": "smallpay", "date": DAY2, "count": 9, "fen": 999}
    scene.declared += [declared, exact, not_closed_yet]
    cases = f"operator-total 102/transit/{DAY1} -1 {DAY1} - operator"
    assert scene.publish(TWO_RIDES_AND_A_PURCHASE, cases).differences == []


def test_a_fee_is_rounded_half_up_on_the_sum(scene: Scene) -> None:
    bought: dict[str, Any] = {"terminal": POS, "terminal_number": FEE_PSAM}
    scene.upload([scene.record(CARD, 250, **bought), scene.record(OTHER, 250, **bought)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 500 0
        {DAY1} purse due:smallpay debit@1 0 500
        {DAY1} smallpay due:purse debit@1 500 0
        {DAY1} smallpay payable:101 debit@1 0 500
        {DAY1} smallpay payable:101 fee@3 2 0
        {DAY1} smallpay fee:101 fee@3 0 2
        accepted 2 500
    """
    nets = f"""
        {DAY1} stored_value 101 498
        {DAY1} stored_value clearing 2
        {DAY1} stored_value issuer -500
    """
    line = {"sector": "smallpay", "class": "stored value", "count": 2, "gross_fen": 500, "fee_fen": 2, "net_fen": 498}
    assert scene.publish(books, nets=nets, statements={f"{DAY1}/101": [line | {"late": []}]}).differences == []


def test_subsidy_only_for_a_right_fare_and_a_right_class(scene: Scene) -> None:
    scene.upload(
        [
            scene.record(STUDENT, 100, f"{DAY1} 08:00:00", concession=2, full_fare_fen=200),
            scene.record(STUDENT, 90, f"{DAY1} 09:00:00", concession=2, full_fare_fen=200),
            scene.record(CARD, 0, f"{DAY1} 10:00:00", concession=3, full_fare_fen=200),
        ]
    )
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 190 0
        {DAY1} purse due:transit debit@1 0 190
        {DAY1} transit due:purse debit@1 190 0
        {DAY1} transit payable:102 debit@1 0 190
        {DAY1} transit subsidy subsidy@7 100 0
        {DAY1} transit subsidy_payable:102 subsidy@7 0 100
        accepted 3 190
    """
    cases = f"""
        fare {BUS}/1/2 10 {DAY1} - operator
        concession {BUS}/1/3 200 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_an_act_posts_each_payer_once_and_in_time(scene: Scene) -> None:
    act = scene.act(f"{DAY1} 10:00:00", {"account": 300, "fund": 700})
    scene.upload([act], at=f"{DAY1} 10:02:00")
    slow = scene.act(f"{DAY1} 11:00:00", {"fund": 500})
    scene.upload([slow], at=f"{DAY1} 11:02:01")
    again = act[:68] + bytes.fromhex("00000009") + act[72:]
    scene.upload([again], at=f"{DAY1} 10:02:00")
    scene.close(DAY1)
    books = f"""
        {DAY1} medical account act@1 300 0
        {DAY1} medical account_payable:201 act@1 0 300
        {DAY1} medical fund act@1 700 0
        {DAY1} medical fund_payable:201 act@1 0 700
        accepted 1 1000
        quarantined 2 1500
    """
    cases = f"""
        bad-proof {HOSPITAL}/1/2 500 {DAY1} - operator
        bad-proof {HOSPITAL}/1/9 1000 {DAY1} - operator
        sequence-gap {HOSPITAL}/1/3-8 0 {DAY1} - operator
    """
    nets = f"""
        {DAY1} insurance_fund 201 700
        {DAY1} insurance_fund fund -700
        {DAY1} personal_medical_account 201 300
        {DAY1} personal_medical_account account -300
    """
    assert scene.publish(books, cases, nets).differences == []


def test_a_case_that_resolved_itself_opens_again_when_its_condition_returns() -> None:
    book, key = CaseBook(), ("operator-total", f"102/transit/{DAY1}")
    day1, day2, day3 = (date(2026, 3, day) for day in (2, 3, 4))
    book.fold(day1, {key: Found(-200, "operator")})
    book.fold(day2, {})
    assert (book[key].opened, book[key].resolved, book[key].amount_fen) == (day1, day2, -200)
    book.fold(day3, {key: Found(100, "operator")})
    assert (book[key].opened, book[key].resolved, book[key].amount_fen) == (day1, None, 100)


def test_missing_ranges_run_from_one_to_the_highest() -> None:
    assert missing_ranges({2, 3, 7}) == [(1, 1), (4, 6)]
    assert missing_ranges(set()) == []


def test_published_vectors() -> None:
    """GB/T 32907 and 32905 A.1, and the public load example of the PBOC purse."""
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    assert ciphers.sm4(key)(key).hex() == "681edf34d206965e86b3e94f536e4246"
    assert ciphers.sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    load_key = bytes.fromhex("11223344556677888877665544332211")
    session = ciphers.load_session_key(0, load_key, bytes.fromhex("11223344"), bytes(2))
    assert session.hex().upper() == "9B1D924E05595603"
    inputs = [bytes.fromhex("000000000000100001001122334455")]
    assert ciphers.transaction_macs(0, session, inputs)[0].hex().upper() == "2988AE5A"
    inputs = [bytes.fromhex("000010000100112233445520111221214822")]
    assert ciphers.transaction_macs(0, session, inputs)[0].hex().upper() == "3A845BF0"


def test_an_interpreter_without_sm3_gives_the_same_hash() -> None:
    assert ciphers._library_sm3(b"abc") == ciphers._hashlib_sm3(b"abc")


def test_missing_evidence_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"registry\.json"):
        audit(tmp_path)
