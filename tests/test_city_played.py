"""The city played: cards and PSAMs of another making agree with the plan, and its records prove what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulators.city import DeskStep, LoadResult, Plan, Player, ReplacementResult, truth_lines, write_cards
from simulators.city.records import CHINA, Kind, amount_of, spelled
from simulators.city.validators import CityBroken
from tests.city_side import DATES, Desk, Issuer, of, played, proven, seal_is_good, small


@pytest.fixture(scope="module")
def city() -> tuple[Plan, Player, Desk]:
    planned = small(5)
    return planned, *played(planned)


def test_the_cards_end_as_planned(city: tuple[Plan, Player, Desk], tmp_path: Path) -> None:
    planned, player, _ = city
    write_cards(player, tmp_path)
    cards = json.loads((tmp_path / "cards.json").read_text())
    for line in of(truth_lines(planned), "balance"):
        assert cards[line["card"]]["purses"][str(line["purse"])]["balance_fen"] == line["balance_fen"]
    for card in planned.cards:
        for purse, counter in card.offline.items():
            assert cards[card.serial]["purses"][str(purse)]["offline"] == counter
            assert cards[card.serial]["purses"][str(purse)]["online"] == card.online[purse]


def test_the_records_prove_what_the_plan_says(city: tuple[Plan, Player, Desk]) -> None:
    planned, player, _ = city
    records = {s.id: player._records[s.id] for s in planned.sents}
    for sent in planned.sents:
        raw = records[sent.id]
        record = spelled(raw)
        said = Kind.TORN if sent.altered == "kind" else sent.kind
        assert (record["kind"], amount_of(raw), record["sequence"]) == (said, sent.tap.amount_fen, sent.sequence)
        assert record["terminal"] == sent.device.terminal
        if sent.kind is Kind.ACT:
            continue
        if sent.kind is not Kind.LOAD:
            stamp = sent.at.astimezone(CHINA).strftime("%Y%m%d%H%M%S")
            assert f"{record['date']}{record['time']}" == stamp, "the clock of its terminal dates a record"
        if sent.kind is Kind.TORN:
            assert record["cryptogram"] == "00" * 8
        else:
            assert proven(record) == (not sent.bad_tac), sent.fault
        if sent.kind is not Kind.LOAD:
            assert seal_is_good(raw) == (sent.seal.value == "good"), sent.fault
        if not sent.forged:
            counter = sent.tap.counter + {"counter": 7}.get(sent.replayed or "", 0) + (sent.altered == "counter")
            assert record["counter"] == counter


def test_a_card_that_was_used_elsewhere_stops_the_play() -> None:
    planned = small(6)
    desk = Desk(planned, Issuer(6))
    player = Player(planned, desk.cards, desk.psams)
    with pytest.raises(CityBroken, match="is not one that is waited for"):
        player.done(DeskStep("load", datetime(2026, 3, 2, tzinfo=UTC), "00"), None)
    steps = player.steps(DATES[0])
    first, *_ = next(steps)
    result = desk.do(first)
    assert isinstance(result, LoadResult)
    with pytest.raises(CityBroken, match="value"):
        player.done(first, replace(result, raw_balance=result.raw_balance + 1))
    assert next(steps) == ()
    with pytest.raises(CityBroken, match="was not reported as done"):
        next(steps)


def test_a_replacement_of_another_value_stops_the_play() -> None:
    """Even where only the purses differ that it comes from."""
    planned = small(6)
    desk = Desk(planned, Issuer(6))
    player = Player(planned, desk.cards, desk.psams)
    for step in (step for day in DATES for steps in player.steps(day) for step in steps):
        result = desk.do(step)
        if not isinstance(result, ReplacementResult):
            player.done(step, result)
            continue
        shifted = replace(result, values={**result.values, 1: result.values[1] - 1, 9: 1})
        with pytest.raises(CityBroken, match="purse 1"):
            player.done(step, shifted)
        with pytest.raises(CityBroken, match="to be moved"):
            player.done(step, replace(result, load_fen=result.load_fen + 1))
        return
    pytest.fail("the plan replaced no card")
