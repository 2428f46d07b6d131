"""The city's faults around loads, clocks and lost cards: what happens, and what must and must not follow."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

import pytest

from simulators.city import Plan, plan, truth_lines
from simulators.city.facts import Sent, Tap, business_date
from simulators.city.records import Kind
from tests.city_side import DATES, of, small

ONE, TWO = (day.isoformat() for day in DATES)
SEEDS = range(20, 26)


@cache
def truth(seed: int) -> tuple[Plan, list[dict[str, Any]]]:
    planned = small(seed)
    return planned, truth_lines(planned)


def faulty(planned: Plan, name: str) -> list[Sent]:
    return [f.sent for f in planned.faults if f.name == name and f.sent is not None]


def life(planned: Plan, serial: str, purse: int) -> list[Tap]:
    """What happened to a purse, in the order of its life; acts are none of it."""
    return [t for t in planned.taps if t.card.serial == serial and t.purse == purse and t.kind is not Kind.ACT]


def cases_of(lines: list[dict[str, Any]], serial: str) -> list[dict[str, Any]]:
    return [c for c in of(lines, "case") if c["subject"].startswith(serial)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_skewed_clock_tells_another_order_and_nothing_follows(seed: int) -> None:
    planned, lines = truth(seed)
    late, early = faulty(planned, "skewed-clock")
    for sent, nearest in ((late, -1), (early, 1)):
        walk = life(planned, sent.tap.card.serial, sent.tap.purse)
        load = walk[walk.index(sent.tap) + nearest]
        assert load.kind is Kind.LOAD
        assert load.sents[0].state == sent.final == "accepted"
        true, told = load.at - sent.tap.at, load.at - sent.at
        assert (true > timedelta(0)) != (told > timedelta(0))
        # The desk's clock may be two minutes off its plan; a record more than 300 s ahead would be suspended.
        assert min(abs(true), abs(told)) >= timedelta(minutes=2)
        assert sent.tap.ahead < timedelta(seconds=300)
        assert sent.origin == sent.arrival
    assert (late.origin.isoformat(), early.origin.isoformat()) == (ONE, TWO)
    assert not cases_of(lines, late.tap.card.serial)
    assert not {late.subject, early.subject} & {c["subject"] for c in of(lines, "case")}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_load_is_proved_by_the_next_one_alone(seed: int) -> None:
    planned, lines = truth(seed)
    lost = next(t for t in planned.taps if t.fault == "load-in-doubt-next-load")
    walk = life(planned, lost.card.serial, 1)
    following = walk[walk.index(lost) + 1 :]
    assert (following[0].kind, following[0].counter, following[0].cut) == (Kind.LOAD, lost.counter + 1, None)
    assert following[0].balance_before_fen == lost.balance_before_fen + lost.amount_fen
    assert business_date(following[1].at) == DATES[1], "no tap may help the close of the first date"
    (case,) = cases_of(lines, lost.card.serial)
    assert case["kind"] == "load-in-doubt" and case["subject"] == f"{lost.card.serial}/1/{lost.counter}"
    assert (case["opened"], case["resolved"], case["resolution"]) == (ONE, ONE, "committed")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gap_or_a_load_is_left_to_evidence(seed: int) -> None:
    planned, lines = truth(seed)
    lost = next(t for t in planned.taps if t.fault == "gap-or-load")
    walk = life(planned, lost.card.serial, 1)
    entry, leave = walk[walk.index(lost) - 1], walk[walk.index(lost) + 1]
    assert entry.sents[0].arrival is None and leave.sents[0].state == "accepted"
    # Both explain what the exit shows: that the load was lost, and that it was credited and the missing record took it.
    assert entry.balance_before_fen == lost.balance_before_fen == leave.balance_before_fen
    cases = {c["kind"]: c for c in cases_of(lines, lost.card.serial)}
    assert cases.keys() == {"gap-or-load", "load-in-doubt", "missing-entry"}
    orphan = cases.pop("missing-entry")
    assert (orphan["subject"], orphan["amount_fen"]) == (f"{lost.card.serial}/1/0/{leave.counter}", 0)
    assert (orphan["opened"], orphan["resolved"]) == (ONE, None)
    assert cases["gap-or-load"]["subject"] == f"{lost.card.serial}/1/0/{entry.counter}-{entry.counter}"
    for case in cases.values():
        assert (case["amount_fen"], case["opened"], case["resolved"]) == (lost.amount_fen, ONE, None)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_load_found_tells_it_from_a_smaller_gap(seed: int) -> None:
    planned, lines = truth(seed)
    load = next(t for t in planned.taps if t.fault == "load-in-doubt-in-gap")
    walk = life(planned, load.card.serial, load.purse)
    lost = walk[walk.index(load) - 1]
    assert lost.sents[0].arrival is None and lost.amount_fen > load.amount_fen
    second = {c["kind"]: c for c in cases_of(lines, load.card.serial) if c["opened"] == TWO}
    gap, doubt = second["card-gap"], second["load-in-doubt"]
    assert len(second) == 2
    assert (gap["subject"].split("/")[3], gap["amount_fen"]) == (f"{lost.counter}-{lost.counter}", lost.amount_fen)
    assert (doubt["resolved"], doubt["resolution"]) == (TWO, "committed")


def test_a_late_record_resolves_a_gap_or_load() -> None:
    """In a city of some size every second one is told by its record on the second date."""
    planned = plan(4, 150, 20000, DATES)
    lines: list[dict[str, Any]] = truth_lines(planned)
    lost = [t for t in planned.taps if t.fault == "gap-or-load"]
    ends: dict[str, set[tuple[object, ...]]] = {}
    for tap in lost:
        for case in cases_of(lines, tap.card.serial):
            ends.setdefault(case["kind"], set()).add((case["opened"], case["resolved"], case["resolution"]))
    assert len(lost) == 2
    assert ends["gap-or-load"] == {(ONE, None, None), (ONE, TWO, "evidence")}
    assert ends["load-in-doubt"] == {(ONE, None, None), (ONE, TWO, "reversed")}
    assert ends["missing-entry"] == {(ONE, None, None), (ONE, TWO, "filled")}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_card_is_replaced_after_its_offline_window(seed: int) -> None:
    planned, lines = truth(seed)
    (step,) = planned.replacements
    (late,) = faulty(planned, "replaced-card-late-tap")
    report = next(r for r in planned.reports if r.card == step.card)
    window = next(p for p in planned.registry["policies"] if p["name"] == "replacement")["value"]  # type: ignore[attr-defined]
    assert step.instant - report.instant >= timedelta(hours=window["offline_window_h"])
    told = [s for s in planned.sents if s.tap.card.serial == step.card]
    assert all(s.at < report.instant and s.arrival == DATES[0] for s in told if s is not late)
    assert report.instant < late.at < step.instant, "a record both of a reported and of a replaced card"
    assert (late.state, late.code) == ("suspended", "replaced-card")
    old = next(c for c in planned.cards if c.serial == step.card)
    assert step.values == old.value | {1: old.value[1] + late.tap.amount_fen}
    assert not cases_of(lines, step.card)
    moves = {
        (m["account"], m["rule"]): (m["debit_fen"], m["credit_fen"]) for m in of(lines, "move") if m["date"] == TWO
    }
    for purse, fen in step.values.items():
        assert moves[f"float:{purse}", "replace@1"] == (fen, 0)
    assert moves["transfer", "replace@1"] == (0, step.amount_fen)
    assert moves["transfer", "load@1"] == (step.amount_fen, 0)
    assert not any(account.startswith("cash:transfer") for account, _ in moves)
