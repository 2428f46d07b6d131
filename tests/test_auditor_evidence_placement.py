"""Auditor E: where loads and unsealed debits lie when clocks and values disagree, worked out by hand."""

from datetime import timedelta
from pathlib import Path

import pytest

from simulators.evidence.placement import Interval, Loading, place_loads
from tests.evidence_lives import NOON, loaded, ordered, read, tapped
from tests.evidence_side import BUS, CARD, DAY1, DAY2, Scene, quiet, ridden

pytestmark = quiet
MINUTE = timedelta(minutes=1)
LOADED = f"""
    {DAY1} purse cash:301 load@1 5000 0
    {DAY1} purse float:1 load@1 0 5000
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


def test_a_load_before_a_gate_whose_clock_is_behind(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.upload([scene.record(counter=0, balance_before_fen=5000, at=f"{DAY1} 06:57:00")])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=4800, at=later)], at=later)
    scene.close(DAY2)
    books = f"""{LOADED} {ridden(DAY1, 200)} {ridden(DAY2, 200)}
        accepted 3 5400
    """
    assert scene.publish(books).differences == []


def test_a_load_after_a_gate_whose_clock_is_ahead(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00", found_fen=-200)])
    scene.upload([scene.record(counter=0, balance_before_fen=0, at=f"{DAY1} 07:03:00")])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=4800, at=later)], at=later)
    scene.close(DAY2)
    books = f"""{LOADED} {ridden(DAY1, 200)} {ridden(DAY2, 200)}
        accepted 3 5400
    """
    assert scene.publish(books).differences == []


def test_two_loads_close_together_around_a_gate_whose_clock_is_ahead(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 4000, f"{DAY1} 07:00:00")])
    scene.upload([scene.load(CARD, 1000, f"{DAY1} 07:02:00", counter=1, found_fen=3800)])
    between = scene.record(counter=0, balance_before_fen=4000, at=f"{DAY1} 07:10:00")
    scene.upload([between, scene.record(counter=1, balance_before_fen=4800, at=f"{DAY1} 08:00:00")])
    scene.close(DAY1)
    assert scene.publish(f"{LOADED} {ridden(DAY1, 400)}\naccepted 4 5400").differences == []


def test_a_load_inside_a_gap(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00", found_fen=-500)])
    first = scene.record(counter=0, balance_before_fen=0, at=f"{DAY1} 06:00:00")
    scene.upload([first, scene.record(counter=3, balance_before_fen=4300, at=f"{DAY1} 08:00:00")])
    scene.close(DAY1)
    books = f"""{LOADED} {ridden(DAY1, 400)}
        {DAY1} purse float:1 gap@1 500 0
        {DAY1} purse unsettled:1 gap@1 0 500
        accepted 3 5400
    """
    assert scene.publish(books, f"card-gap {CARD}/1/0/1-2 500 {DAY1} - clearing").differences == []


@pytest.mark.parametrize(
    ("at", "first_gap_fen", "second_gap_fen"),
    [("06:30:00", 600, 0), ("07:30:00", 300, 300), ("07:00:00", 600, 0)],
    ids=["nearer-the-first", "nearer-the-second", "equally-near"],
)
def test_a_load_that_two_gaps_could_hold_lies_where_its_clock_says(
    scene: Scene, at: str, first_gap_fen: int, second_gap_fen: int
) -> None:
    scene.upload([scene.load(CARD, 300, f"{DAY1} {at}", found_fen=-700)])
    taps = [(0, 0, 200, "06:00:00"), (2, -500, 100, "07:00:00"), (5, -600, 0, "08:00:00")]
    scene.upload(
        [
            scene.record(fen=fen, counter=counter, balance_before_fen=value, at=f"{DAY1} {clock}", full_fare_fen=200)
            for counter, value, fen, clock in taps
        ]
    )
    scene.close(DAY1)
    books = f"""{ridden(DAY1, 300)}
        {DAY1} purse cash:301 load@1 300 0
        {DAY1} purse float:1 load@1 0 300
        {DAY1} purse float:1 gap@1 600 0
        {DAY1} purse unsettled:1 gap@1 0 600
        accepted 4 600
    """
    cases = f"""
        card-gap {CARD}/1/0/1-1 {first_gap_fen} {DAY1} - clearing
        card-gap {CARD}/1/0/3-4 {second_gap_fen} {DAY1} - clearing
        fare {BUS}/1/2 100 {DAY1} - operator
        fare {BUS}/1/3 200 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_an_unsealed_debit_takes_the_nearest_missing_counter_whatever_its_clock(scene: Scene) -> None:
    clocks = ("07:00:00", "08:10:00", "08:05:00", "12:00:00")
    scene.upload([scene.record(at=f"{DAY1} {at}", sealed=at != "08:10:00") for at in clocks])
    scene.close(DAY1)
    books = f"{ridden(DAY1, 800)}\naccepted 4 800"
    assert scene.publish(books, f"bad-seal {BUS}/1/2 200 {DAY1} - operator").differences == []


def test_an_unsealed_debit_does_not_take_the_first_gap_it_finds() -> None:
    taps = [(0, 5000, 100, 0), (2, 4700, 100, 10), (4, 4300, 100, 20)]
    facts = [loaded(0, 0, 5000, NOON), *(tapped(n, value, fen, NOON + at * MINUTE) for n, value, fen, at in taps)]
    unsealed = tapped(3, 0, 300, NOON + 15 * MINUTE, sealed=False)
    (gap,) = read([*facts, unsealed], []).findings
    assert (gap.kind, gap.first, gap.fen) == ("card-gap", 1, 200)


def test_unsealed_debits_lie_where_there_is_room_for_them_whatever_their_clocks() -> None:
    entries = [(0, 5000, 0), (2, 4900, 4), (4, 4400, 8)]
    facts = [loaded(0, 0, 5000, NOON), *(tapped(n, value, 0, NOON + at * MINUTE) for n, value, at in entries)]
    hundred = tapped(1, 5000, 100, NOON + 6 * MINUTE, sealed=False)
    five_hundred = tapped(3, 4900, 500, NOON + 3 * MINUTE, sealed=False)
    assert read([*facts, hundred, five_hundred], []).findings == []


def test_an_unsealed_debit_takes_the_room_that_those_before_it_left() -> None:
    taps = [(0, 0, 0), (3, -300, 10), (5, -400, 20)]
    facts = [tapped(n, value, 0, NOON + at * MINUTE) for n, value, at in taps]
    unsealed = [tapped(0, 0, fen, NOON + at * MINUTE, sealed=False) for fen, at in [(250, 1), (100, 2), (50, 3)]]
    assert read([*facts, *unsealed], []).findings == []


def test_an_unsealed_debit_takes_a_counter_that_is_missing_and_not_yet_taken() -> None:
    facts = [tapped(n, value, 0, NOON + n * 10 * MINUTE) for n, value in [(0, 0), (1, -300), (3, -500)]]
    unsealed = [tapped(0, 0, 100, NOON + at * MINUTE, sealed=False) for at in (1, 2)]
    found = [(each.kind, each.first, each.fen) for each in read([*facts, *unsealed], []).findings]
    assert found == [("unexplained-debit", 1, 300), ("unexplained-debit", 2, 100)]


def test_a_committed_load_makes_room_and_one_in_doubt_does_not() -> None:
    facts = [tapped(0, 0, 0, NOON), tapped(2, -200, 0, NOON + 10 * MINUTE)]
    unsealed = tapped(1, 300, 500, NOON + 5 * MINUTE, sealed=False)
    order = ordered(0, 0, 300, NOON + MINUTE)
    waiting = read([*facts, unsealed], [order])
    assert waiting.settled == []
    assert [(each.kind, each.first, each.fen) for each in waiting.findings] == [("gap-or-load", 1, 300)]
    proven = read([*facts, unsealed, loaded(1, -200, 50, NOON + 20 * MINUTE)], [order])
    assert (proven.findings, proven.settled) == ([], [(order, True)])


def test_an_unsealed_debit_decides_no_load() -> None:
    """Before the last tap only a load would leave room for the greatest; but it may as well lie behind that tap."""
    facts = [tapped(0, 0, 0, NOON), tapped(2, -200, 0, NOON + 10 * MINUTE)]
    order = ordered(0, -200, 300, NOON + 5 * MINUTE)
    for fen in (100, 200, 500):
        reading = read([*facts, tapped(1, 0, fen, NOON + MINUTE, sealed=False)], [order])
        assert reading.settled == []


def test_an_unsealed_debit_moves_no_load() -> None:
    """It alone would explain its interval to the fen, yet the load stays, for its clock says so."""
    facts = [tapped(0, 0, 0, NOON), tapped(2, -50, 0, NOON + 10 * MINUTE), tapped(4, -150, 0, NOON + 20 * MINUTE)]
    load = loaded(0, -100, 100, NOON + MINUTE)
    unsealed = tapped(1, 0, 50, NOON + 5 * MINUTE, sealed=False)
    found = [(each.kind, each.first, each.fen) for each in read([*facts, load, unsealed], []).findings]
    assert found == [("unexplained-debit", 1, 100), ("card-gap", 3, 100)]


def test_what_finds_no_room_lies_behind_the_last_tap() -> None:
    facts = [tapped(0, 0, 0, NOON), tapped(2, -100, 0, NOON + 10 * MINUTE)]
    unsealed = tapped(3, -100, 101, NOON + 5 * MINUTE, sealed=False)
    (gap,) = read([*facts, unsealed], []).findings
    assert (gap.kind, gap.fen) == ("card-gap", 100)


def test_tries_that_wait_for_evidence_make_no_room() -> None:
    facts = [tapped(0, 0, 0, NOON), tapped(3, 0, 0, NOON + 10 * MINUTE), tapped(5, -600, 0, NOON + 20 * MINUTE)]
    orders = [ordered(0, 0, fen, NOON + at * MINUTE) for fen, at in [(400, 1), (300, 2)]]
    reading = read([*facts, tapped(4, 0, 300, NOON + 5 * MINUTE, sealed=False)], orders)
    assert reading.settled == []
    assert [(each.kind, each.first, each.fen) for each in reading.findings] == [
        ("gap-or-load", 1, 400),
        ("unexplained-debit", 4, 300),
    ]


def test_an_unsealed_debit_that_takes_the_last_counter_beside_a_load_in_doubt_is_no_case() -> None:
    facts = [tapped(0, 0, 0, NOON), tapped(2, -200, 0, NOON + 20 * MINUTE)]
    unsealed = tapped(1, 0, 100, NOON + 10 * MINUTE, sealed=False)
    reading = read([*facts, unsealed], [ordered(0, -100, 300, NOON + 15 * MINUTE)])
    assert (reading.findings, reading.settled) == ([], [])


def test_loads_lie_in_the_order_of_their_counters_not_of_their_clocks() -> None:
    loads = [loaded(0, 0, 100, NOON + 5 * MINUTE), loaded(1, 0, 200, NOON)]
    taps = [tapped(0, 100, 100, NOON + 10 * MINUTE), tapped(1, 200, 0, NOON + 20 * MINUTE)]
    assert read([*loads, *taps], []).findings == []


def test_the_nearest_placement_is_not_that_of_each_load_alone() -> None:
    taps = [tapped(2, -500, 0, NOON + 10 * MINUTE), tapped(5, -500, 0, NOON + 20 * MINUTE)]
    intervals = [Interval(None, taps[0]), Interval(taps[0], taps[1]), Interval(taps[1], None)]
    loads = [Loading(0, NOON + 11 * MINUTE, -500, 0), Loading(1, NOON + 5 * MINUTE, -500, 0)]
    place_loads(intervals, loads)
    assert [list(interval.loads) for interval in intervals] == [loads, [], []]


def test_a_try_is_reversed_when_another_try_must_have_happened() -> None:
    first, second = ordered(0, 0, 100, NOON), ordered(0, -50, 200, NOON + 15 * MINUTE)
    taps = [tapped(1, -50, 0, NOON + 10 * MINUTE), tapped(2, 150, 150, NOON + 20 * MINUTE)]
    reading = read(taps, [first, second])
    assert reading.settled == [(first, False), (second, True)]
    assert [(each.kind, each.fen) for each in reading.findings] == [("card-gap", 50)]


def test_an_end_without_a_clock_has_no_limit() -> None:
    early, late = tapped(0, 0, 0, NOON), tapped(1, 0, 0, NOON + 10 * MINUTE)
    far = tapped(1, 0, 0, NOON + 600 * MINUTE, code="clock")
    assert Interval(early, late).distance(NOON) == Interval(early, late).distance(NOON + 10 * MINUTE) == timedelta()
    assert Interval(early, late).distance(NOON - 2 * MINUTE) == 2 * MINUTE
    assert Interval(early, late).distance(NOON + 13 * MINUTE) == 3 * MINUTE
    assert Interval(late, early).distance(NOON + 5 * MINUTE) == timedelta()
    assert Interval(None, late).distance(NOON - 9000 * MINUTE) == timedelta()
    assert Interval(late, None).distance(NOON + 9000 * MINUTE) == timedelta()
    assert Interval(early, far).distance(NOON + 9000 * MINUTE) == timedelta()
    assert Interval(far, late).distance(NOON - 9000 * MINUTE) == timedelta()
