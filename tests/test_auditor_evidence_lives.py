"""Auditor E: an honest card is never accused, whatever is lost on the way and however wrong the clocks are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations, combinations_with_replacement, pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulators.evidence.gaps import Reading
from simulators.evidence.placement import Interval, Loading, place_loads
from simulators.evidence.taprecord import Kind
from tests.evidence_lives import NOON, Life, Step, tapped

MINUTE, DAY_S = timedelta(minutes=1), 86400
UNEXPLAINED = {"unexplained-credit", "unexplained-debit"}
lives = settings(max_examples=300, deadline=None)
right_clocks, wrong_clocks = st.just(0), st.integers(-600, 600) | st.sampled_from([-DAY_S, DAY_S])


def steps(
    tap_fates: Sequence[str], load_fates: Sequence[str], load_skews: st.SearchStrategy[int] = right_clocks
) -> st.SearchStrategy[list[Step]]:
    waits = st.sampled_from([0, 1, 60, 300, 1800])
    amounts = st.sampled_from([0, 0, 100, 200, 500, 5000])
    tap = st.builds(Step, st.just("tap"), amounts, waits, wrong_clocks, st.sampled_from(tap_fates))
    load = st.builds(Step, st.just("load"), amounts, waits, load_skews, st.sampled_from(load_fates))
    return st.lists(tap | tap | load, max_size=14)


def assert_no_load_misjudged(life: Life, reading: Reading) -> None:
    truth = {id(order): credited for order, credited in zip(life.orders, life.credited, strict=True)}
    assert all(truth[id(order)] == committed for order, committed in reading.settled)


@lives
@given(steps(["kept"], ["kept"]))
def test_nothing_lost_is_no_case(happened: list[Step]) -> None:
    reading = Life().live(happened).read()
    assert (reading.findings, reading.settled) == ([], [])


@lives
@given(steps(["kept", "lost"], ["kept"]))
def test_gaps_are_what_was_lost_to_the_fen(happened: list[Step]) -> None:
    life = Life().live(happened)
    findings = life.read().findings
    assert {each.kind for each in findings} <= {"card-gap"}
    assert sum(each.fen for each in findings) == life.lost_fen


@lives
@given(steps(["kept"], ["kept", "lost"]), st.sampled_from([[], [Step("load", 100, 60, 0, "failed")]]))
def test_without_a_lost_tap_every_load_in_doubt_is_decided(happened: list[Step], failed: list[Step]) -> None:
    life = Life().live(happened + failed)
    reading = life.read()
    assert reading.findings == []
    proven = {fact.tap.counter for fact in life.facts if fact.tap.kind == Kind.LOAD}
    truths = zip(life.orders, life.credited, strict=True)
    truth = {id(order): credited for order, credited in truths if order.load.counter not in proven}
    assert {id(order): committed for order, committed in reading.settled} == truth


@lives
@given(steps(["kept", "lost"], ["kept", "lost", "failed"]))
@example(
    [
        Step("load", 100, 0, 0, "failed"),
        Step("load", 0, 0, 0, "failed"),
        Step("load", 100, 0, 0, "lost"),
        Step("tap", 200, 0, 0, "kept"),
    ]
)
def test_whatever_is_lost_an_honest_card_is_never_accused_and_no_load_misjudged(happened: list[Step]) -> None:
    life = Life().live(happened)
    reading = life.read()
    assert not UNEXPLAINED & {each.kind for each in reading.findings}
    assert_no_load_misjudged(life, reading)


@lives
@given(steps(["kept", "lost", "unsealed"], ["kept", "lost", "failed"], wrong_clocks))
@example(
    [
        Step("load", 4999, 0, 0, "kept"),
        Step("tap", 0, 60, 0, "kept"),
        Step("tap", 100, 60, 240, "unsealed"),
        Step("tap", 0, 180, 0, "kept"),
        Step("tap", 500, 60, -120, "unsealed"),
        Step("tap", 0, 180, 0, "kept"),
    ]
)
def test_unsealed_debits_at_wrong_clocks_never_look_like_value_from_nowhere(happened: list[Step]) -> None:
    life = Life().live(happened)
    reading = life.read()
    assert "unexplained-credit" not in {each.kind for each in reading.findings}
    assert_no_load_misjudged(life, reading)


# --- the placement against a search through all of them -------------------------------------------------------------


def explained(interval: Interval, loads: Sequence[Loading]) -> bool:
    """Word by word: some choice of credited loads, walked through from end to end."""
    counters = {load.counter for load in loads}
    for size in range(len(loads) + 1):
        for choice in combinations(loads, size):
            if any(load.credited is not None and load.credited != (load in choice) for load in loads):
                continue
            if any(sum(load.counter == counter for load in choice) > 1 for counter in counters):
                continue
            value, none_missing = interval.after_fen, interval.missing == 0
            right = True
            for load in loads:
                right &= load.found_fen == value if none_missing else load.found_fen <= value
                value = load.found_fen + (load.fen if load in choice else 0)
            if interval.upper:
                before = interval.upper.claims.balance_before_fen
                right &= before == value if none_missing else before <= value
            if right:
                return True
    return False


def best_of_all(intervals: list[Interval], loads: Sequence[Loading]) -> tuple[int, timedelta, tuple[int, ...]]:
    def cost(places: tuple[int, ...]) -> tuple[int, timedelta, tuple[int, ...]]:
        lying = [
            [load for load, where in zip(loads, places, strict=True) if where == at] for at in range(len(intervals))
        ]
        broken = sum(
            not (interval.forked or explained(interval, here)) for interval, here in zip(intervals, lying, strict=True)
        )
        far = sum((intervals[at].distance(load.instant) for load, at in zip(loads, places, strict=True)), timedelta())
        return broken, far, places

    return min(map(cost, combinations_with_replacement(range(len(intervals)), len(loads))))


def as_it_must_be(intervals: list[Interval], loads: list[Loading], load: Loading) -> bool | None:
    """What the fewest broken intervals say of a load in doubt."""
    fewest = best_of_all(intervals, loads)[0]
    void = [replace(each, credited=False) if each is load else each for each in loads]
    alone = [replace(each, credited=each is load) if each.counter == load.counter else each for each in loads]
    if best_of_all(intervals, void)[0] > fewest:
        return True
    return False if best_of_all(intervals, alone)[0] > fewest else None


values = st.integers(-2, 4).map(lambda number: 100 * number)
minutes = st.integers(0, 6)


@st.composite
def purses(draw: st.DrawFn) -> tuple[list[Interval], list[Loading]]:
    counters = sorted(draw(st.sets(st.integers(0, 6), max_size=4)))
    taps = [
        tapped(each, draw(values), draw(st.sampled_from([0, 100])), NOON + draw(minutes) * MINUTE) for each in counters
    ]
    intervals = [Interval(lower, upper) for lower, upper in pairwise([None, *taps, None])]
    for interval in intervals:
        interval.forked = interval.missing != 0 and draw(st.integers(0, 9)) == 0
    loads = []
    for counter in range(draw(st.integers(0, 3))):
        whens = sorted(draw(st.lists(minutes, min_size=1, max_size=2)))
        certain = draw(st.booleans()) and len(whens) == 1
        loads += [
            Loading(counter, NOON + when * MINUTE, draw(values), 100 * fen, True if certain else None)
            for fen, when in enumerate(whens, 1)
        ]
    return intervals, loads


@settings(max_examples=150, deadline=None)
@given(purses())
def test_decisions_and_placement_are_the_best_of_all(purse: tuple[list[Interval], list[Loading]]) -> None:
    intervals, loads = purse
    decided = place_loads(intervals, loads)
    for load, after in zip(loads, decided, strict=True):
        right = as_it_must_be(intervals, loads, load) if load.credited is None else load.credited
        assert after == replace(load, credited=right)
    taken = tuple(at for at, interval in enumerate(intervals) for _ in interval.loads)
    assert taken == best_of_all(intervals, decided)[2]
    assert [load for interval in intervals for load in interval.loads] == list(decided)
