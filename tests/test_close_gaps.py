"""What lies between two known records, told by hand: an interval from counter 4, which left 800 fen, to the next.

Honest lives of whole purses are in test_placement.py.
"""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from clearing.close.gaps import Evidence, Weighed, weigh
from clearing.close.placement import Bare, Known, Load, Purse
from tests.clearing_side import D1, at

CARD = bytes.fromhex("03100000000000000001")
PURSE = f"{CARD.hex()}/1/0"
EARLY, LATE = at("03-02 08:00"), at("03-02 20:00")
NOON = at("03-02 12:00")
FEN = st.integers(0, 5000)


def interval(
    before_fen: int = 800,
    loads: tuple[Load, ...] = (),
    bare: tuple[int, ...] = (),
    upper: int = 5,
    forked: tuple[int, ...] = (),
    late: datetime | None = LATE,
) -> Weighed:
    """Records 0 to 4 are known and agree; 4 leaves 800 fen at 08:00, `upper` finds `before_fen` at 20:00."""
    life = [Known(n, 800 if n else 0, 800 if n else 0, EARLY - timedelta(hours=4 - n), bytes(16), D1) for n in range(5)]
    first = Load("first", 0, 0, 800, EARLY - timedelta(hours=4) + timedelta(minutes=1))
    known = (*life, Known(upper, before_fen, before_fen, late, bytes(16), D1))
    return weigh(Purse(CARD, 1, 0, known, (first, *loads), tuple(Bare(NOON, fen) for fen in bare), forked))


def doubt(name: str, amount_fen: int, counter: int = 1, found_fen: int = 800, minutes: int = 0) -> Load:
    return Load(name, counter, found_fen, amount_fen, NOON + timedelta(minutes=minutes), doubt=True)


def evidence(weighed: Weighed) -> Evidence:
    """What the last interval says; all before it agree."""
    *calm, (_, last) = weighed.steps
    assert all(each == Evidence() for _, each in calm)
    return last


def decided(weighed: Weighed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return weighed.committed, weighed.reversed


def test_neighbours_that_agree_say_nothing() -> None:
    assert evidence(interval()) == Evidence()
    assert evidence(interval(1300, (Load("load", 1, 800, 500, NOON),))) == Evidence()


def test_what_is_missing_or_cannot_be_explained() -> None:
    assert evidence(interval(600, upper=7)) == Evidence("card-gap", f"{PURSE}/5-6", 200, 200)
    assert evidence(interval(800, upper=7)) == Evidence("card-gap", f"{PURSE}/5-6", 0, 0)
    assert evidence(interval(900, upper=7)) == Evidence("unexplained-credit", f"{PURSE}/7", 100)
    assert evidence(interval(900)) == Evidence("unexplained-credit", f"{PURSE}/5", 100)
    assert evidence(interval(700)) == Evidence("unexplained-debit", f"{PURSE}/5", 100)


def test_unsealed_debits_take_up_missing_counters() -> None:
    assert evidence(interval(700, bare=(100,), upper=6)) == Evidence()
    assert evidence(interval(600, bare=(100,), upper=7)) == Evidence("card-gap", f"{PURSE}/5-6", 100, 100)
    # No counter is missing before the last record: an unsealed debit then came after it, whatever its clock says.
    assert evidence(interval(800, bare=(100,))) == Evidence()
    assert interval(800, bare=(100,)).tail_fen == -100


def test_unsealed_debits_of_wrong_clocks_lie_where_there_is_room_for_them() -> None:
    """Metro entries at 12:00, 12:04 and 12:08; between them 100 fen, dated 12:06, then 500 fen, dated 12:03."""

    def minute(number: int) -> datetime:
        return NOON + timedelta(minutes=number)

    values = ((0, 0, 5000), (2, 4, 4900), (4, 8, 4400))
    known = tuple(Known(n, fen, fen, minute(at_), bytes(16), D1) for n, at_, fen in values)
    start = Load("start", 0, 0, 5000, NOON - timedelta(hours=1))
    weighed = weigh(Purse(CARD, 1, 0, known, (start,), (Bare(minute(3), 500), Bare(minute(6), 100)), ()))
    assert [each for _, each in weighed.steps] == [Evidence()] * 3


def test_a_fork_in_between_is_judged_elsewhere() -> None:
    weighed = interval(5000, (doubt("u", 500),), upper=7, forked=(5,))
    assert all(each == Evidence() for _, each in weighed.steps)
    assert len(weighed.steps) == 5
    assert decided(weighed) == ((), ())


def test_a_doubt_is_decided_by_the_value_that_follows() -> None:
    assert decided(interval(800, (doubt("u", 500),))) == (
        (),
        (),
    )  # the record that follows took nothing: it may be later
    assert decided(interval(1300, (doubt("u", 500),))) == (("u",), ())
    unexplained = interval(1200, (doubt("u", 500),))
    assert evidence(unexplained) == Evidence("unexplained-credit", f"{PURSE}/5", 400)


def test_a_doubt_beside_missing_records() -> None:
    assert decided(interval(1100, (doubt("u", 500),), upper=7)) == (("u",), ())
    assert evidence(interval(1100, (doubt("u", 500),), upper=7)) == Evidence("card-gap", f"{PURSE}/5-6", 200, 200)
    # It found 800 fen, more than the last record left: it lies in the gap, and may have been credited and spent.
    open_ = interval(700, (doubt("u", 500),), upper=7)
    assert decided(open_) == ((), ())
    assert evidence(open_) == Evidence("gap-or-load", f"{PURSE}/5-6", 500)


def test_loads_under_one_online_counter_are_alternatives() -> None:
    tries = (doubt("a", 100), doubt("b", 200, minutes=1))
    assert decided(interval(1000, tries)) == (("b",), ("a",))
    assert decided(interval(900, tries)) == (("a",), ("b",))
    assert evidence(interval(1100, tries)).kind == "unexplained-credit"
    # The most that can have happened: 200 under one counter and 300 under the other.
    three = (*tries, doubt("c", 300, 2, 800, minutes=2))
    assert evidence(interval(700, three, upper=7)) == Evidence("gap-or-load", f"{PURSE}/5-6", 500)


def test_of_equal_loads_under_one_online_counter_only_the_last_can_have_happened() -> None:
    assert decided(interval(1100, (doubt("bank", 300), doubt("cash", 300, minutes=1)))) == (("cash",), ("bank",))
    undecided = interval(700, (doubt("bank", 300), doubt("cash", 300, minutes=1)), upper=7)
    assert decided(undecided) == ((), ())


def test_a_record_of_a_wrong_clock_lends_no_clock() -> None:
    """Two gaps could hold the load: a clock chooses, but not one that was suspended for being wrong."""
    load = Load("load", 1, 300, 100, NOON)

    def gaps(middle: datetime | None) -> list[int]:
        first = Known(1, 500, 500, EARLY, bytes(16), D1)
        known = (first, Known(3, 300, 300, middle, bytes(16), D1), Known(5, 200, 200, LATE, bytes(16), D1))
        start = Load("start", 0, 0, 500, EARLY - timedelta(hours=1))
        weighed = weigh(Purse(CARD, 1, 0, known, (start, load), (), ()))
        return [each.gap_fen for _, each in weighed.steps]

    assert gaps(NOON - timedelta(hours=1)) == [0, 200, 200]
    assert gaps(NOON + timedelta(days=1)) == [0, 300, 100]
    assert gaps(None) == [0, 300, 100]


def test_many_loads_in_doubt_are_told_in_time() -> None:
    doubts, found_fen = [], 800
    for at_ in range(16):
        credited = at_ in (0, 13, 15)
        doubts.append(doubt(f"{at_:02}", 1 << at_, at_ + 1, found_fen, minutes=at_))
        found_fen += (1 << at_) * credited
    weighed = interval(found_fen, tuple(doubts))
    assert set(weighed.committed) == {"00", "13", "15"}


@given(FEN, FEN, FEN, st.integers(1, 9), st.lists(FEN.filter(bool), max_size=3), st.lists(FEN.filter(bool), max_size=3))
def test_value_is_conserved_by_every_judgement(
    before_fen: int, loads_fen: int, found_fen: int, distance: int, bare: list[int], in_doubt: list[int]
) -> None:
    loads = [doubt(str(n), fen, 1 + n // 2, found_fen, minutes=n) for n, fen in enumerate(in_doubt)]
    proven = (Load("proven", 9, found_fen, loads_fen, NOON + timedelta(hours=1)),) if loads_fen else ()
    weighed = interval(before_fen, (*loads, *proven), tuple(bare), upper=4 + distance)
    committed_fen = sum(load.amount_fen for load in loads if load.load_id in weighed.committed)
    step, last = weighed.steps[-1]
    inside = step.interval
    assert last.gap_fen >= 0
    # What was there, came and went is what is there, unless a case says by how much it is not.
    came_fen = sum(load.amount_fen for load in inside.loads if not load.doubt)
    rest_fen = inside.after_fen + came_fen - inside.bare_fen - last.gap_fen - before_fen
    if last.kind == "card-gap":
        assert rest_fen == 0
    elif last.kind and last.kind.startswith("unexplained"):
        assert last.amount_fen == abs(rest_fen) > 0
    elif last.kind is None:
        assert rest_fen == 0 or any(load.doubt for load in inside.loads)
    # Nothing is dropped: every load and unsealed debit lies somewhere, or was found void.
    placed_fen = sum(sum(load.amount_fen for load in s.interval.loads if not load.doubt) - s.interval.bare_fen
                     for s, _ in weighed.steps)  # fmt: skip
    assert placed_fen + weighed.tail_fen == 800 + loads_fen + committed_fen - sum(bare)
