"""Auditor T: the city's truth against what a clearing published, and what its command says where nothing is to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulators import auditor_truth, cli
from simulators.city import truth_lines, write_papers
from simulators.city.papers import dump
from tests.city_side import DATES, of, small


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The files of a clearing that did everything right, written from the truth by the shapes of docs/ledger.md."""
    planned = small(2)
    write_papers(planned, tmp_path)
    lines: list[dict[str, Any]] = truth_lines(planned)
    books = [{**m, "unit": "CNY"} for m in of(lines, "move")] + [dict(s) for s in of(lines, "state")]
    for line in books:
        del line["type"]
    (tmp_path / "books.jsonl").write_bytes(dump(books))
    cases = [{k: v for k, v in c.items() if k != "type"} | {"detail": ""} for c in of(lines, "case")]
    (tmp_path / "cases.jsonl").write_bytes(dump(cases))
    for day in DATES:
        folder = tmp_path / "statements" / day.isoformat()
        folder.mkdir(parents=True)
        rows = [
            {"class": x["class"], "party": x["party"], "net_fen": x["net_fen"]}
            for x in of(lines, "net")
            if x["date"] == str(day)
        ]
        (folder / "net.json").write_text(json.dumps(rows))
    cards: dict[str, dict[str, Any]] = {}
    for b in of(lines, "balance"):
        cards.setdefault(b["card"], {"purses": {}})["purses"][str(b["purse"])] = {"balance_fen": b["balance_fen"]}
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    return tmp_path


def test_auditor_t_is_content_with_the_truth(published: Path) -> None:
    audit = auditor_truth.audit(published)
    assert audit.differences == [] and audit.checked > 200


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("books.jsonl", '"debit_fen":', '"debit_fen":1'),
        ("books.jsonl", '"account":"payable:', '"account":"payable:9'),
        ("books.jsonl", '"state":"conflict"', '"state":"accepted2"'),
        ("cases.jsonl", '"kind":"fork"', '"kind":"gap-or-load"'),
        ("cases.jsonl", '"resolution":"committed"', '"resolution":"reversed"'),
        ("cases.jsonl", '"opened":"2026-03-02"', '"opened":"2026-03-03"'),
        ("cases.jsonl", '"owner":"issuer"', '"owner":"operator"'),
        ("statements/2026-03-02/net.json", '"net_fen": ', '"net_fen": 1'),
        ("cards.json", '"balance_fen": ', '"balance_fen": 1'),
        ("truth.jsonl", '"type":"state","state":"memo","count":', '"type":"state","state":"memo","count":1'),
    ],
)
def test_auditor_t_finds_every_kind_of_difference(published: Path, file: str, old: str, new: str) -> None:
    path = published / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert auditor_truth.audit(published).differences


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
    published: Path, spoil: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = published / "out"
    out.mkdir()
    for path in [p for p in published.iterdir() if p != out]:
        path.rename(out / path.name)
    spoil(out)
    assert cli.audit(out) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "Error" not in said and "Errno" not in said
