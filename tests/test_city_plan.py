"""The city's plan: it balances, it keeps its shape, its faults are there, and the same seed tells the same truth."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.city import Plan, plan, truth_lines
from simulators.city.facts import Sent, Tap
from simulators.city.faults import CLAIMS
from simulators.city.gates import crc16
from simulators.city.papers import dump
from simulators.city.plan import FEWEST_DEBITS
from simulators.city.records import Kind
from tests.city_side import DATES, of, small

NAMED_FAULTS = {
    "batch-repeated", "batch-renumbered", "batch-truncated", "batch-late", "batch-lost", "bad-tac", "unsealed",
    "replay:sequence", "replay:counter", "replay:terminal", "clone", "fork-with-bad-twin", "load-in-gap",
    "load-doubt-committed", "load-doubt-lost", "psam-gap", "terminal-twins", "clock-ahead", "missing-exit",
    "overdraft-ride",
    "foreign", "denylist-before-applied", "denylist-after-applied", "replaced-card-late-tap",
    "operator-total-off-by-one", "concession-ended", "skewed-clock", "load-in-doubt-next-load", "gap-or-load",
    "load-in-doubt-in-gap",
    "torn-recovered", "torn-committed", "torn-void",
} | {f"altered-claim:{name}" for name in CLAIMS}  # fmt: skip


def test_the_same_seed_tells_the_same_truth() -> None:
    first, again = small(7), small(7)
    assert dump(truth_lines(first)) == dump(truth_lines(again)) == dump(truth_lines(first))
    assert dump(truth_lines(small(8))) != dump(truth_lines(first))


def test_every_fault_is_injected_and_has_its_case() -> None:
    planned = small(11)
    lines = truth_lines(planned)
    assert {f.name for f in planned.faults} == NAMED_FAULTS
    kinds = {line["kind"] for line in of(lines, "case")}
    for fault in of(lines, "fault"):
        assert fault["case"] is None or fault["case"] in kinds, fault


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_plan_conserves_every_fen(seed: int) -> None:
    planned = small(seed)
    lines: list[dict[str, Any]] = truth_lines(planned)
    net: Counter[str] = Counter()
    per_journal: Counter[tuple[str, str, str]] = Counter()
    for move in of(lines, "move"):
        fen = move["debit_fen"] - move["credit_fen"]
        net[f"{move['ledger']} {move['account'].split(':')[0]}"] += fen
        per_journal[move["date"], move["ledger"], move["rule"]] += fen
    assert not any(per_journal.values())
    _faults_move_a_part_of_all(lines)
    own = {c.serial for c in planned.cards if c.own}
    memories = sum(line["balance_fen"] for line in of(lines, "balance") if line["card"] in own)
    # Rule 22: every fault of the plan shows itself by the last close, so nothing is left that only the cards know. What
    # a lost card holds has moved to its successor, and is worth nothing where it lies.
    moved = sum(fen for step in planned.replacements for fen in step.values.values())
    assert moved > 0 == net["purse transfer"]
    memories -= moved
    assert memories == -net["purse float"]
    owed = {"payable", "suspense", "fee"}
    sectors = -sum(fen for name, fen in net.items() if name.split()[1] in owed and not name.startswith("purse"))
    assert net["purse cash"] + net["purse fraud"] == memories - net["purse unsettled"] + sectors
    per_class: Counter[tuple[str, str]] = Counter()
    for line in of(lines, "net"):
        per_class[line["date"], line["class"]] += line["net_fen"]
    assert not any(per_class.values())


def _faults_move_a_part_of_all(lines: list[dict[str, Any]]) -> None:
    """No posting belongs to two faults, so all together stay within the moves."""
    rest: Counter[tuple[str, ...]] = Counter()
    for sign, moves in ((1, of(lines, "move")), *((-1, fault["moves"]) for fault in of(lines, "fault"))):
        for move in moves:
            line = (move["date"], move["ledger"], move["account"], move["rule"])
            for side in ("debit_fen", "credit_fen"):
                rest[*line, side] += sign * move[side]
    assert min(rest.values()) >= 0
    still = {"batch-repeated", "batch-renumbered", "batch-truncated", "operator-total-off-by-one", "load-doubt-lost"}
    still |= {"replay:sequence", "replay:counter", "replay:terminal", "torn-void", "fork-with-bad-twin", "gap-or-load"}
    for fault in of(lines, "fault"):
        assert not (fault["moves"] and fault["name"] in still), fault
        if fault["name"] in ("bad-tac", "load-in-gap", "torn-committed", "load-in-doubt-in-gap", "clone"):
            assert fault["moves"], fault


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_plan_keeps_its_shape(seed: int) -> None:
    planned = small(seed)
    events = of(truth_lines(planned), "event")
    offline = [
        e
        for e in events
        if e["kind"] in ("debit", "entry", "exit") and e["sequence"] and not (e["fault"] or "").startswith("replay")
    ]
    per_day = Counter(e["origin_date"] for e in offline)
    assert per_day["2026-03-02"] >= 503 and per_day["2026-03-03"] >= 151
    assert {e["sector"] for e in events} == {"transit", "smallpay", "utility", "social", "medical"}
    bad = Counter((e["terminal"], e["at"][:10]) for e in events if e["state"] == "quarantined")
    assert max(bad.values()) <= 20
    by_card: dict[str, list[Tap]] = {}
    for tap in planned.taps:
        if tap.kind is not Kind.ACT and not tap.initial:
            by_card.setdefault(tap.card.serial, []).append(tap)
    for taps in by_card.values():
        gaps = [(b.at - a.at).total_seconds() for a, b in itertools.pairwise(taps)]
        assert not gaps or min(gaps) >= 120
    _each_terminal_counts_without_holes(planned.sents)
    _metro_trips_are_closed(planned)


def _each_terminal_counts_without_holes(sents: list[Sent]) -> None:
    stores: dict[str, list[int]] = {}
    for sent in sents:
        stores.setdefault(f"{sent.device.terminal} {sent.device.twin}", []).append(sent.sequence)
    for sequences in stores.values():
        assert sorted(sequences) == list(range(1, len(sequences) + 1))


def _metro_trips_are_closed(planned: Plan) -> None:
    open_entries: dict[str, Tap] = {}
    for tap in planned.taps:
        if tap.kind is Kind.ENTRY:
            assert tap.card.serial not in open_entries or open_entries[tap.card.serial].card.fault == "missing-exit"
            open_entries[tap.card.serial] = tap
        elif tap.kind is Kind.EXIT:
            assert open_entries.pop(tap.card.serial) is tap.entry
    assert not open_entries


def test_the_purses_of_the_plan_follow_from_its_events() -> None:
    """Replaying the truth's own event lines gives the truth's balances."""
    planned = small(3)
    lines: list[dict[str, Any]] = truth_lines(planned)
    value: Counter[tuple[str, int]] = Counter()
    faults = {f["event"]: f["name"] for f in of(lines, "fault")}
    for event in of(lines, "event"):
        copied = (
            event["fault"] == "clone" or event["state"] == "conflict" or faults.get(event["id"]) == "fork-with-bad-twin"
        )
        if event["kind"] == "act" or copied or event["fault"] in ("torn-void", "load-doubt-lost", "gap-or-load"):
            continue
        sign = 1 if event["kind"] == "load" else -1
        value[event["card"], event["purse"]] += sign * event["amount_fen"]
    assert {(b["card"], b["purse"]): b["balance_fen"] for b in of(lines, "balance")} == {
        (c.serial, p): value[c.serial, p] for c in planned.cards for p in c.purses
    }


@pytest.mark.parametrize(("cards", "debits"), [(20, 503), (37, 40000)])
def test_a_city_that_cannot_be_planned_says_why(cards: int, debits: int) -> None:
    with pytest.raises(ValueError, match="cards"):
        plan(1, cards, debits, DATES)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_smallest_city_has_every_fault(seed: int) -> None:
    planned = plan(seed, 37, FEWEST_DEBITS, DATES)
    assert {f.name for f in planned.faults} == NAMED_FAULTS


def test_where_nobody_pays_a_bill_another_operator_errs() -> None:
    planned = plan(14, 37, FEWEST_DEBITS, DATES)
    assert not any(d.sector == "utility" and d.date == DATES[1] for d in planned.declared)
    totals = [line for line in of(truth_lines(planned), "case") if line["kind"] == "operator-total"]
    (wrong,) = (line["subject"] for line in totals if line["amount_fen"] == -1)
    assert wrong in {f"{d.operator}/{d.sector}/{DATES[1]}" for d in planned.declared}


def test_the_metro_record_is_checked_by_the_published_crc() -> None:
    assert crc16(b"123456789") == b"\x29\xb1"  # the check value of CRC-16/CCITT-FALSE
