"""`onecard demo` as its user runs it: two days that prove themselves, and can be proved again from what they left."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.demo_side import Demo, Town, demo, fetch, onecard, refused, until

TOWN = Town(cards=60, debits=500, seed=7)
SECTORS = {"transit", "social", "smallpay", "utility", "medical"}
# Where the books owe an operator what a class of its statement says.
OWED = {
    "stored value": "payable",
    "treasury subsidy": "subsidy_payable",
    "insurance fund": "fund_payable",
    "personal medical account": "account_payable",
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("first"), TOWN) as played:
        status, output, errors = played.ended()
        assert status == 0, errors
        assert "PROVEN" in output
        yield played


def _digest(text: str) -> str:
    return hashlib.new("sm3", text.encode()).hexdigest()


def test_the_report_has_the_figures_of_its_contract(first: Demo) -> None:
    report = first.report
    assert set(report) == {
        "seed", "debits", "cards", "books_digest", "substance_digest", "truth_digest", "auditor_t", "auditor_e",
        "invariants", "faults", "cases", "sectors", "rate_per_s", "seconds",
    }  # fmt: skip
    assert (report["seed"], report["cards"]) == (7, TOWN.cards)
    assert report["debits"] > TOWN.debits
    for auditor in ("auditor_t", "auditor_e"):
        assert set(report[auditor]) == {"differences", "checked"}
        assert report[auditor]["differences"] == 0
        assert report[auditor]["checked"] > 300
    assert len(report["invariants"]) >= 20
    assert all(set(check) == {"ok", "checked"} and check["ok"] for check in report["invariants"].values())
    assert len(report["faults"]) >= 40
    assert all(count > 0 for count in report["faults"].values())
    cases = report["cases"]
    assert set(cases) == {"expected", "found", "missing", "extra"}
    assert cases["expected"] == cases["found"] > 0 == cases["missing"] == cases["extra"]
    assert set(report["sectors"]) == SECTORS
    for sector in report["sectors"].values():
        assert set(sector) == {"debits", "charged_fen", "subsidy_fen", "fees_fen", "net"}
        assert sector["debits"] > 0
        assert sector["net"]
    assert report["rate_per_s"] > 0
    assert report["seconds"] > 0


def test_the_digests_are_those_of_the_files(first: Demo) -> None:
    """By hand from docs/ledger.md, `books_digest`, and docs/demo.md."""
    lines = []
    for text in (first.out / "books.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        names = ("date", "ledger", "account", "unit", "rule", "debit_fen", "credit_fen")
        lines.append("|".join(str(line[name]) for name in (names if "date" in line else ("state", "count", "fen"))))
    digest = _digest("".join(f"{line}\n" for line in sorted(lines, key=str.encode)))
    assert digest == first.report["books_digest"]
    assert _digest((first.out / "truth.jsonl").read_text(encoding="utf-8")) == first.report["truth_digest"]


def test_the_nets_are_those_of_the_statements(first: Demo) -> None:
    """What the report says a party gets, summed over both dates from net.json, which sums to zero per class."""
    nets: dict[tuple[str, str], int] = {}
    for path in first.out.glob("statements/*/net.json"):
        for row in json.loads(path.read_text(encoding="utf-8")):
            key = (row["class"], row["party"])
            nets[key] = nets.get(key, 0) + row["net_fen"]
    for class_ in {class_ for class_, _ in nets}:
        assert sum(fen for (found, _), fen in nets.items() if found == class_) == 0
    told: dict[tuple[str, str], int] = {}
    for sector in first.report["sectors"].values():
        for operator, classes in sector["net"].items():
            for class_, fen in classes.items():
                told[class_, operator] = told.get((class_, operator), 0) + fen
    assert {key: fen for key, fen in told.items() if fen} == {
        key: fen for key, fen in nets.items() if key[1].isdecimal() and fen
    }


def test_hledger_reads_the_statements_in_the_books(first: Demo) -> None:
    """A program of others, which knows double entry and nothing of us: per date, what an operator is owed and gets."""
    journal = _journal(first)
    for statement in sorted(first.out.glob("statements/*/[0-9]*.json")):
        day, operator = statement.parent.name, int(statement.stem)
        lines = json.loads(statement.read_text(encoding="utf-8"))["lines"]
        told = {f"{line['sector']}:{OWED[line['class']]}:{operator}": -line["net_fen"] for line in lines}
        accounts = [f"^[a-z]+:{account}:{operator}$" for account in OWED.values()]
        owed = _hledger(journal, "balance", f"date:{day}", *accounts)
        assert owed == {account: fen for account, fen in told.items() if fen}


def test_hledger_refuses_books_that_are_a_fen_out(first: Demo) -> None:
    journal = _journal(first)
    assert _hledger(journal, "balance", "^nowhere$") == {}
    forged = re.sub(r"(\d+) fen", lambda found: f"{int(found[1]) + 1} fen", journal, count=1)
    with pytest.raises(AssertionError, match="could not balance"):
        _hledger(forged, "balance")


def _journal(played: Demo) -> str:
    """books.jsonl as hledger has it: one transaction per date, ledger and rule."""
    transactions: dict[str, list[str]] = {}
    for text in (played.out / "books.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "date" in line:
            posting = f"  {line['ledger']}:{line['account']}  {line['debit_fen'] - line['credit_fen']} fen"
            transactions.setdefault(f"{line['date']} {line['ledger']} {line['rule']}", []).append(posting)
    return "\n".join("\n".join((head, *postings, "")) for head, postings in sorted(transactions.items()))


def _hledger(journal: str, *arguments: str) -> dict[str, int]:
    """Fen by account, those of zero left out."""
    command = ["hledger", "-f", "-", *arguments, "--flat", "--no-total", "-O", "csv"]
    done = subprocess.run(command, input=journal, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(done.stdout.splitlines()))[1:]
    return {account: int(balance.removesuffix(" fen")) for account, balance in rows}


def test_everything_that_a_stranger_needs_is_there(first: Demo) -> None:
    names = {
        "registry.json", "truth.jsonl", "declared.jsonl", "test-components.json", "desk.jsonl", "cards.json",
        "books.jsonl", "cases.jsonl", "report.json", "statements", "uploads",
    }  # fmt: skip
    assert {path.name for path in first.out.iterdir()} == names
    bodies = {line["file"] for line in first.uploads() if "file" in line}
    assert {path.name for path in (first.out / "uploads").iterdir()} == bodies | {"index.jsonl"}
    cards = json.loads((first.out / "cards.json").read_text(encoding="utf-8"))
    assert len(cards) == TOWN.cards


def test_nothing_runs_afterwards(first: Demo) -> None:
    assert first.service() is None
    assert first.postmaster() is None


def test_the_books_are_verified_again_from_the_state(first: Demo) -> None:
    done = onecard("clearing", "verify", "--state", first.state)
    assert done.returncode == 0, done
    assert f"All {len(first.report['invariants'])} checks hold." in done.stdout


def test_the_auditors_agree_again_and_see_a_single_fen(first: Demo, tmp_path: Path) -> None:
    done = onecard("sim", "audit", first.out)
    assert done.returncode == 0, done
    assert re.findall(r"auditor (.): (\d+) differences", done.stdout) == [("T", "0"), ("E", "0")]
    forged = tmp_path / "forged"
    shutil.copytree(first.out, forged)
    books = (forged / "books.jsonl").read_text(encoding="utf-8")
    fen = re.search(r'"credit_fen": ?(\d{3,})', books)
    assert fen is not None
    more = fen[0].replace(fen[1], str(int(fen[1]) + 1))
    (forged / "books.jsonl").write_text(books.replace(fen[0], more, 1), encoding="utf-8")
    done = onecard("sim", "audit", forged)
    assert done.returncode == 1
    assert all(int(count) > 0 for count in re.findall(r"auditor .: (\d+) differences", done.stdout))


def test_evidence_and_other_things_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    said = refused(onecard("demo", "--out", out, "--state", tmp_path / "state", "--cards", 60, "--debits", 500))
    assert "something else than a demo's output" in said
    assert not (tmp_path / "state").exists()
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


def test_an_earlier_output_is_replaced_and_cards_go_through_pcscd(first: Demo, tmp_path: Path) -> None:
    """The first 20 cards are issued and loaded behind real PC/SC, and the books are the same."""
    again = tmp_path / "out"
    shutil.copytree(first.out, again)
    with demo(tmp_path, TOWN, "--pcsc", 20) as second:
        status, output, errors = second.ended()
        assert status == 0, output + errors
    assert second.out == again
    assert second.report["books_digest"] == first.report["books_digest"]
    assert second.report["truth_digest"] == first.report["truth_digest"]


def test_a_second_demo_on_the_same_state_is_refused(first: Demo, tmp_path: Path) -> None:
    said = refused(onecard("demo", "--out", tmp_path / "out", "--state", first.state, "--cards", 60, "--debits", 500))
    assert "holds books already" in said
    assert (first.state / "clock").read_text(encoding="ascii").startswith("2026-03-04T02:00:00")


def test_another_postgresql_gives_the_same_books(first: Demo, empty_database: str, tmp_path: Path) -> None:
    """The same seed a second time as well: nothing but the seed decides."""
    with demo(tmp_path, TOWN, "--dsn", empty_database) as second:
        status, _, errors = second.ended()
        assert status == 0, errors
        assert not (second.state / "postgres").exists()
        for name in ("books_digest", "substance_digest", "truth_digest", "sectors", "faults", "cases"):
            assert second.report[name] == first.report[name]


def test_another_seed_is_another_city_and_its_service_stays_when_asked(first: Demo, tmp_path: Path) -> None:
    """Settings of another onecard in the environment are none of the demo's."""
    nowhere = {"ONECARD_DSN": "postgresql://nobody@127.0.0.1:1/nothing", "ONECARD_PORT": "1", "ONECARD_HOST": "::1"}
    with demo(tmp_path, replace(TOWN, seed=8), "--serve", **nowhere) as served:
        status, _, errors = served.ended()
        assert status == 0, errors
        for name in ("books_digest", "substance_digest", "truth_digest"):
            assert served.report[name] != first.report[name]
        told = re.search(r"the service \(process (\d+)\) is running at (\S+); its state is in (.*)", errors)
        assert told is not None
        assert (int(told[1]), told[3]) == (served.service(), str(served.state))
        assert fetch(f"{told[2]}/healthz") == {"ready": True}
        taken = served.uploads()[-2]
        assert fetch(f"{told[2]}/v1/t/{taken['terminal']}/batches/{taken['n']}")["n"] == taken["n"]
        os.kill(int(told[1]), signal.SIGTERM)
        until(lambda: served.service() is None, "the service to end", 10)


def test_an_odd_size_is_exact_as_well(tmp_path: Path) -> None:
    with demo(tmp_path, Town(cards=37, debits=1200, seed=99)) as played:
        status, output, errors = played.ended()
        assert status == 0, output + errors
        assert played.report["auditor_t"]["differences"] == played.report["auditor_e"]["differences"] == 0
        assert played.report["debits"] > 1200
