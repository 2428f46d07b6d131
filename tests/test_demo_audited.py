"""What a demo left, falsified here and there: which auditor sees it, and by what line."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators import auditor_evidence, auditor_truth, cli
from tests.demo_side import Town, demo

Lines = list[dict[str, Any]]
TOWN = Town(cards=60, debits=300, seed=7)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The output of a demo that proved itself."""
    with demo(tmp_path_factory.mktemp("left"), TOWN) as played:
        status, output, errors = played.ended()
        assert status == 0, output + errors
        yield played.out


@pytest.fixture
def forged(left: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "out"))


def _relines(path: Path, change: Callable[[Lines], Lines | None]) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    changed = change(lines)
    text = "".join(json.dumps(line) + "\n" for line in (lines if changed is None else changed))
    path.write_text(text, encoding="utf-8")


def _redigested(out: Path) -> None:
    """As a careful forger would: the report's digest is that of the forged truth."""
    path = out / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["truth_digest"] = hashlib.new("sm3", (out / "truth.jsonl").read_bytes()).hexdigest()
    path.write_text(json.dumps(report), encoding="utf-8")


def _truth_says(out: Path) -> list[str]:
    return auditor_truth.audit(out).differences


def _find(lines: Lines, **wanted: object) -> dict[str, Any]:
    return next(line for line in lines if wanted.items() <= line.items())


def test_the_truth_holds_the_parties_and_policies_of_the_registry(left: Path) -> None:
    truth = [json.loads(line) for line in (left / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    registry = json.loads((left / "registry.json").read_text(encoding="utf-8"))
    for kind, listed in (("party", "parties"), ("policy", "policies")):
        told = [
            {name: value for name, value in line.items() if name != "type"} for line in truth if line["type"] == kind
        ]
        assert told == registry[listed] != []


def test_a_registry_that_is_not_the_citys_is_seen(forged: Path) -> None:
    path = forged / "registry.json"
    registry = json.loads(path.read_text(encoding="utf-8"))
    registry["parties"][0]["name"] = "another"
    _find(registry["policies"], name="fee", scope="*")["value"]["bps"] += 1
    path.write_text(json.dumps(registry), encoding="utf-8")
    party, policy = _truth_says(forged)
    assert party.startswith("party 101: the city says") and "another" in party
    assert policy.startswith("policy fee *") and policy.endswith("'value': {'bps': 31}}")


def test_a_truth_without_its_faults_is_none(forged: Path) -> None:
    _relines(forged / "truth.jsonl", lambda lines: [line for line in lines if line["type"] != "fault"])
    _redigested(forged)
    said = _truth_says(forged)
    assert "truth: events are marked with the fault bad-tac, of which there is no line" in said
    assert "report faults batch-repeated: the city says nothing, clearing says 1" in said


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("bad-tac", {"state": "accepted"}, "truth: event {event} is bad-tac in state quarantined, its fault"),
        ("bad-tac", {"case": "torn"}, "fault bad-tac (line {nth}) case: the city says torn, clearing says nothing"),
        ("denylist-after-applied", {"moves": []}, "truth: the fault denylist-after-applied posts 0 fen of debits"),
    ],
)
def test_a_fault_is_tied_to_its_event_its_case_and_its_moves(
    forged: Path, name: str, change: dict[str, object], line: str
) -> None:
    wanted = ""

    def bend(lines: Lines) -> None:
        nonlocal wanted
        faults = [each for each in lines if each["type"] == "fault"]
        fault = _find(faults, name=name)
        wanted = line.format(nth=faults.index(fault) + 1, **fault)
        fault.update(change)

    _relines(forged / "truth.jsonl", bend)
    _redigested(forged)
    assert any(said.startswith(wanted) for said in _truth_says(forged))


def test_moves_of_a_fault_that_are_not_in_the_books_are_seen(forged: Path) -> None:
    def more(lines: Lines) -> None:
        for move in _find(lines, type="fault", name="bad-tac")["moves"]:
            move["debit_fen"] *= 1_000_000
            move["credit_fen"] *= 1_000_000

    _relines(forged / "truth.jsonl", more)
    _redigested(forged)
    moved = [line for line in _truth_says(forged) if line.startswith("moves of faults 2026-03-02 purse")]
    assert {line.split()[5].partition(":")[0] for line in moved} == {"float", "unsettled"}


def test_an_answer_that_lets_a_bad_proof_pass_is_seen(forged: Path) -> None:
    def accept(lines: Lines) -> None:
        told = next(line["body"] for line in lines if line.get("status") == 200 and line["body"]["quarantined"])
        told["quarantined"].pop()
        told["accepted"] += 1

    _relines(forged / "uploads" / "index.jsonl", accept)
    said = _truth_says(forged)
    assert any(line.startswith("answer ") and "'quarantined': 1}" in line for line in said)
    assert any(" state: the city says quarantined, clearing says among" in line for line in said)


def _remembered(out: Path, change: Callable[[str, str, dict[str, int]], object]) -> list[str]:
    """What auditor E says to falsified memories, which a careful forger falsifies in the truth as well."""
    path = out / "cards.json"
    cards = json.loads(path.read_text(encoding="utf-8"))
    for card, memory in cards.items():
        for number, purse in memory["purses"].items():
            change(card, number, purse)
    path.write_text(json.dumps(cards), encoding="utf-8")

    def follow(lines: Lines) -> None:
        for line in lines:
            if line["type"] == "balance":
                line["balance_fen"] = cards[line["card"]]["purses"][str(line["purse"])]["balance_fen"]

    _relines(out / "truth.jsonl", follow)
    _redigested(out)
    assert _truth_says(out) == []
    return auditor_evidence.audit(out).differences


def test_a_fen_more_on_any_card_is_seen(forged: Path) -> None:
    """Auditor E names every purse but those of foreign cards that have no record, and the float and the cash."""
    registry = json.loads((forged / "registry.json").read_text(encoding="utf-8"))
    ours, purses = {row["card"] for row in registry["cards"]}, set()

    def richer(card: str, number: str, purse: dict[str, int]) -> None:
        if card in ours or purse["offline"]:
            purse["balance_fen"] += 1
            purses.add(f"memory of card {card} purse {number}")

    said = _remembered(forged, richer)
    assert purses == {line.partition(" by ")[0] for line in said if line.startswith("memory")}
    assert len({name.split()[3] for name in purses} - ours) == 2
    assert {line.split()[0] for line in said if line.startswith("float")} == {"float:1", "float:3", "float:4"}
    assert any(line.startswith("cash and fraud beside cards, gaps and dues: published") for line in said)


@pytest.mark.parametrize(
    ("debits", "fen", "seen"),
    [
        (1, -100, ()),
        (0, -100, ("by the books", "by its last record", "float:1", "cash")),
        (1, 1, ("by the books", "by its last record", "float:1", "cash")),
        (-1, 0, ("offline counter",)),
    ],
)
def test_only_a_debit_that_nobody_uploaded_explains_a_poorer_card(
    forged: Path, debits: int, fen: int, seen: tuple[str, ...]
) -> None:
    ordinary = _ordinary_card(forged)

    def change(card: str, number: str, purse: dict[str, int]) -> None:
        if (card, number) == (ordinary, "1"):
            purse["balance_fen"] += fen
            purse["offline"] += debits

    said = _remembered(forged, change)
    assert len(said) == len(seen)
    assert all(any(words in line for line in said) for words in seen)


def _ordinary_card(out: Path) -> str:
    """A card of ours which no fault has marked, and which has paid."""
    truth = [json.loads(line) for line in (out / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    events = [line for line in truth if line["type"] == "event"]
    named = {line["event"] for line in truth if line["type"] == "fault"}
    marked = {event["card"] for event in events if event["fault"] or event["id"] in named}
    paid = (event["card"] for event in events if event["kind"] == "debit" and event["purse"] == 1)
    return str(next(card for card in paid if card not in marked))


@pytest.mark.parametrize("name", ["debits", "cards", "seed"])
def test_truth_knows_the_counts_of_the_report(forged: Path, name: str) -> None:
    (line,) = _with_report(forged, lambda report: report.update({name: report[name] + 1}))
    assert line.startswith(f"report {name}: the city says")


def _with_report(out: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """What auditor T says to a falsified report."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    change(report)
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return _truth_says(out)


@pytest.mark.parametrize(
    ("above", "name", "auditors"),
    [
        (("faults",), "bad-tac", "T"),
        (("cases",), "found", "T"),
        (("cases",), "missing", "T"),
        (("sectors", "transit"), "debits", "T"),
        (("sectors", "transit"), "charged_fen", "TE"),
        (("sectors", "transit"), "subsidy_fen", "TE"),
        (("sectors", "smallpay"), "fees_fen", "TE"),
        (("sectors", "smallpay", "net", "201"), "stored value", "TE"),
    ],
)
def test_the_figures_of_the_report_are_checked(forged: Path, above: tuple[str, ...], name: str, auditors: str) -> None:
    def bend(report: dict[str, Any]) -> None:
        for each in above:
            report = report[each]
        report[name] += 1

    assert [line.partition(":")[0] for line in _with_report(forged, bend)] == [" ".join(("report", *above, name))]
    said = auditor_evidence.audit(forged).differences
    assert len(said) == ("E" in auditors)


def test_the_digests_of_the_report_are_checked(forged: Path) -> None:
    def bend(report: dict[str, Any]) -> None:
        for name in ("books_digest", "substance_digest", "truth_digest"):
            report[name] = report[name][::-1]

    assert [line.partition(":")[0] for line in _with_report(forged, bend)] == ["report truth_digest"]
    said = auditor_evidence.audit(forged).differences
    assert [line.partition(":")[0] for line in said] == ["report books_digest", "report substance_digest"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("books.jsonl", r'("debit_fen": ?)', r"\g<1>1"),
        ("books.jsonl", r'("account": ?"payable:)', r"\g<1>9"),
        ("books.jsonl", r'("state": ?"conflict)', r"\g<1>2"),
        ("cases.jsonl", r'("kind": ?)"fork"', r'\g<1>"gap-or-load"'),
        ("cases.jsonl", r'("resolution": ?)"committed"', r'\g<1>"reversed"'),
        ("cases.jsonl", r'("opened": ?)"2026-03-02"', r'\g<1>"2026-03-03"'),
        ("cases.jsonl", r'("owner": ?)"issuer"', r'\g<1>"operator"'),
        ("statements/2026-03-02/net.json", r'("net_fen": ?)', r"\g<1>1"),
        ("cards.json", r'("balance_fen": ?)', r"\g<1>1"),
        ("truth.jsonl", r'("type": ?"state", ?"state": ?"memo", ?"count": ?)', r"\g<1>1"),
    ],
)
def test_auditor_t_finds_every_kind_of_difference(forged: Path, file: str, old: str, new: str) -> None:
    path = forged / file
    text, found = re.subn(old, new, path.read_text(encoding="utf-8"), count=1)
    assert found == 1
    path.write_text(text, encoding="utf-8")
    _redigested(forged)
    assert _truth_says(forged)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: out.rename(out.with_name("gone")), "is no directory"),
        (lambda out: (out / "cards.json").unlink(), "cards.json is missing"),
        (lambda out: (out / "truth.jsonl").write_text("no JSON"), "something else than JSON"),
        (lambda out: (out / "books.jsonl").write_bytes(b"\xff"), "something else than JSON"),
        (lambda out: (out / "cases.jsonl").write_text('{"kind":"fork"}'), "lacks the member 'subject'"),
        (lambda out: (out / "cases.jsonl").unlink() or (out / "cases.jsonl").mkdir(), "cases.jsonl cannot be read"),
    ],
    ids=["gone", "missing", "torn", "binary", "other version", "a directory"],
)
def test_what_cannot_be_audited_is_said_in_words(
    forged: Path, spoil: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(forged)
    assert cli.audit(forged) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "Error" not in said and "Errno" not in said
