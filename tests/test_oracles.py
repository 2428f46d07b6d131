"""A short run of every row against its stranger, and the rows themselves: a product that is wrong is seen by them."""

from collections.abc import Callable
from typing import Any

import pytest
from psec.tr31 import KeyBlockError

from cardcore import cryptogram, secure_messaging
from cardcore.errors import CardError
from cardcore.record import Suite
from keys import tr31
from keys.engine import bulk, sm4_lanes, suites
from keys.engine.root import RootKey
from keys.engine.suites import Sm4Key, SuiteKey, TripleDesKey
from tests.oracles.__main__ import ITEMS, compare, main

CASES = 300
PAIRS = [(item, suite) for item, (_, suites_) in ITEMS.items() for suite in suites_]
ROWS = {
    "derivation": 4, "sessions": 2, "money": 9, "tacs": 7, "messages": 5, "key-writes": 1, "seals": 4, "blocks": 2,
    "exchanges": 8,
}  # fmt: skip
# A row that only one suite has: the whole TAC key under 3DES, the session key of a complement under SM4.
MORE = {("tacs", Suite.TRIPLE_DES): 1, ("sessions", Suite.SM4): 1}


@pytest.mark.parametrize(("item", "suite"), PAIRS)
def test_the_product_and_the_strangers_agree(item: str, suite: Suite) -> None:
    rows = compare(item, suite, "test", CASES)
    assert len(rows) == ROWS[item] + MORE.get((item, suite), 0)
    assert {name: (row.cases, row.first) for name, row in rows.items()} == dict.fromkeys(rows, (CASES, ""))


Wrong = Callable[[Any], Any]


def _later(right: Any) -> Any:
    """The function with its first two arguments exchanged."""
    return lambda one, two, *rest: right(two, one, *rest)


WRONG: list[tuple[str, Suite, object, str, Wrong, set[str]]] = [
    (
        "derivation", Suite.TRIPLE_DES, RootKey, "psam",
        lambda right: lambda self, number: right(self, number[::-1]), {"key of a PSAM"},
    ),
    (
        "sessions", Suite.SM4, cryptogram, "session_input",
        lambda right: lambda suite, random, counter, *rest, **more: right(suite, random, counter ^ 1, *rest, **more),
        {"session key, with the host", "session key, with a PSAM", "session key, complement"},
    ),
    ("money", Suite.TRIPLE_DES, cryptogram, "load_mac1_input", _later, {"MAC1 of a load", "MAC1 of an unload"}),
    (
        "money", Suite.SM4, cryptogram, "overdraft_mac2_input",
        lambda right: lambda *fields: right(*fields)[:-1], {"MAC2 of an allowance"},
    ),
    (
        "money", Suite.TRIPLE_DES, TripleDesKey, "purchase_session",
        lambda _: lambda self, random, counter, number: self.load_session(random, counter),
        {"MAC1 of a purchase", "MAC2 of a purchase"},
    ),
    (
        "tacs", Suite.SM4, cryptogram, "overdraft_tac_input",
        lambda right: lambda raw, counter, *rest: right(raw, (counter + 1) % 2**16, *rest), {"TAC of an allowance"},
    ),
    (
        "tacs", Suite.TRIPLE_DES, bulk, "load_messages",
        lambda right: lambda rows: right(rows)[:, ::-1], {"TAC of a load, verdict, right"},
    ),
    (
        "messages", Suite.SM4, secure_messaging, "enciphered_field",
        lambda _: lambda content, suite: suites.pad80(bytes((len(content),)) + content, 16),
        {"enciphered field", "MAC of an enciphered command"},
    ),
    (
        "messages", Suite.TRIPLE_DES, SuiteKey, "secure_mac",
        lambda right: lambda self, challenge, message: right(self, challenge[::-1], message),
        {"MAC of a command in clear", "MAC of an enciphered command"},
    ),
    (
        "key-writes", Suite.SM4, Sm4Key, "encipher",
        lambda right: lambda self, content: right(self, content[:-1] + b"\0"), {"WRITE KEY"},
    ),
    (
        "seals", Suite.SM4, sm4_lanes, "cbc_mac",
        lambda right: lambda keys, message: right(keys, message)[:, ::-1], {"verdict on seals, right"},
    ),
    ("blocks", Suite.TRIPLE_DES, tr31, "_derived", lambda right: lambda *which: right(*which)[::-1], set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "suite", "place", "name", "wrong", "seen"), WRONG, ids=[f"{row[0]}-{row[3]}" for row in WRONG]
)
def test_a_wrong_product_is_seen(
    item: str, suite: Suite, place: object, name: str, wrong: Wrong, seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, wrong(getattr(place, name)))
    if not seen:
        # A stranger refuses a block that it cannot read.
        with pytest.raises(KeyBlockError, match="MAC"):
            compare(item, suite, "wrong", 20)
        return
    rows = compare(item, suite, "wrong", 20)
    assert {row for row, found in rows.items() if found.differences} == seen
    assert all("ours" in rows[row].first for row in seen)


@pytest.mark.parametrize("suite", Suite)
def test_the_card_refuses_a_wrong_product(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cryptogram.host_mac2_input
    monkeypatch.setattr(cryptogram, "host_mac2_input", lambda fen, *rest: right(fen + 1, *rest))
    with pytest.raises(CardError, match="9302"):
        compare("exchanges", suite, "wrong", 1)


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["blocks", "sessions", "--cases", "2", "--jobs", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["cryptogram", "suite", "oracle", "cases", "differences"]
    assert said[1].split() == ["TR-31", "block", "of", "ours", "3des", "psec", "2", "0"]
    assert said[-1] == "18 cases, 0 differences."
    monkeypatch.setattr(cryptogram, "session_input", lambda *_, **__: bytes(16))
    assert main(arguments) == 1
    assert "the first: ours " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no-such-item"])
    assert "no item is named no-such-item" in capsys.readouterr().err
