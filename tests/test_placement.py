"""Honest lives of a purse, told by wrong clocks and with records lost: nobody is accused, no fen is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from clearing.close.gaps import Weighed, weigh
from clearing.close.placement import Bare, Known, Load, Purse

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = date(2026, 3, 2)


@dataclass
class Life:
    """What truly happened to a card, minute by minute, and what of it is known."""

    value_fen: int = 0
    online: int = 0
    known: list[Known] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    bare: list[Bare] = field(default_factory=list)
    counter: int = 0
    lost_fen: int = 0
    trailing_lost_fen: int = 0
    credited: set[str] = field(default_factory=set)
    void: set[str] = field(default_factory=set)

    def purse(self) -> Purse:
        loads = sorted(self.loads, key=lambda load: (load.counter, load.instant))
        bare = sorted(self.bare, key=lambda debit: debit.instant)
        return Purse(b"card", 1, 0, tuple(self.known), tuple(loads), tuple(bare), ())


EVENT = st.tuples(
    st.sampled_from(["tap", "tap", "tap", "entry", "load", "lost tap", "doubt credited", "doubt void", "bare tap"]),
    st.integers(1, 5),
    st.integers(-600, 600),
)


def live(events: Sequence[tuple[str, int, int]]) -> Life:
    life = Life()
    for minute, (what, size, skew_s) in enumerate(events):
        now = NOON + timedelta(minutes=minute)
        told = now + timedelta(seconds=skew_s)
        if what in ("load", "doubt credited", "doubt void"):
            name = f"load {minute}"
            doubt = what != "load"
            # Only one load is in doubt at a time: a void try and the next load share the online counter.
            life.loads.append(Load(name, life.online, life.value_fen, size * 500, now, doubt))
            if what != "doubt void":
                life.value_fen += size * 500
                life.online += 1
            if doubt:
                (life.credited if what == "doubt credited" else life.void).add(name)
            continue
        amount = 0 if what == "entry" else min(size * 50, life.value_fen)
        if what == "lost tap":
            life.trailing_lost_fen += amount
        elif what == "bare tap":
            life.bare.append(Bare(told, amount))
        else:
            life.known.append(Known(life.counter, life.value_fen, life.value_fen - amount, told, b"", DAY))
            life.lost_fen += life.trailing_lost_fen
            life.trailing_lost_fen = 0
        life.counter += 1
        life.value_fen -= amount
    return life


SKEWED = ["tap", "entry", "load", "lost tap"]


def lives(kinds: Sequence[str], size: int = 12) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """Events that end with a tap, so that something is known of the purse."""
    events = st.lists(EVENT.filter(lambda event: event[0] in kinds), max_size=size)
    return events.map(lambda found: [*found, ("tap", 1, 0)])


def kinds(weighed: Weighed) -> set[str | None]:
    return {evidence.kind for _, evidence in weighed.steps}


def gap_fen(weighed: Weighed) -> int:
    return sum(evidence.gap_fen for _, evidence in weighed.steps)


@settings(max_examples=400, deadline=None)
@given(lives(SKEWED, 14))
def test_wrong_clocks_and_lost_records_accuse_nobody(events: list[tuple[str, int, int]]) -> None:
    life = live(events)
    weighed = weigh(life.purse())
    assert kinds(weighed) <= {None, "card-gap"}
    if "lost tap" not in [what for what, _, _ in events]:
        assert kinds(weighed) <= {None}
    # Where records are lost on both sides of a load, a wrong clock may put it into the other gap; the card's sum stays.
    loaded_fen = sum(load.amount_fen for load in life.loads)
    spent_fen = sum(known.before_fen - known.after_fen for known in life.known)
    assert life.known[-1].after_fen + weighed.tail_fen == loaded_fen - spent_fen - gap_fen(weighed)


@settings(max_examples=300, deadline=None)
@given(lives(SKEWED, 14))
def test_right_clocks_find_what_was_lost_to_the_fen(events: list[tuple[str, int, int]]) -> None:
    life = live([(what, size, 0) for what, size, _ in events])
    weighed = weigh(life.purse())
    assert kinds(weighed) <= {None, "card-gap"}
    assert gap_fen(weighed) == life.lost_fen


@settings(max_examples=600, deadline=None)
@given(lives(["tap", "entry", "load", "lost tap", "doubt credited", "doubt void"]))
def test_no_doubt_is_ever_decided_the_wrong_way(events: list[tuple[str, int, int]]) -> None:
    life = live(events)
    weighed = weigh(life.purse())
    assert kinds(weighed) <= {None, "card-gap", "gap-or-load"}
    assert set(weighed.committed) <= life.credited
    assert set(weighed.reversed) <= life.void


@settings(max_examples=300, deadline=None)
@given(lives(["tap", "load", "doubt credited", "doubt void"]))
def test_the_next_paying_tap_decides(events: list[tuple[str, int, int]]) -> None:
    """With nothing lost and something to pay, the right direction follows unaided (rule 17)."""
    life = live([*events, ("load", 5, 0), ("tap", 2, 0)])
    if all(known.before_fen > known.after_fen for known in life.known):
        weighed = weigh(life.purse())
        assert set(weighed.committed) == life.credited
        assert set(weighed.reversed) == life.void


@settings(max_examples=300, deadline=None)
@given(lives(["tap", "load", "bare tap"]))
def test_an_unsealed_debit_at_a_right_clock_leaves_nothing_to_ask(events: list[tuple[str, int, int]]) -> None:
    assert kinds(weigh(live([(what, size, 0) for what, size, _ in events]).purse())) <= {None}


@settings(max_examples=400, deadline=None)
@given(lives(["tap", "entry", "load", "bare tap"]))
def test_unsealed_debits_at_wrong_clocks_freeze_nobody(events: list[tuple[str, int, int]]) -> None:
    """They may change places, which a case about value that went tells; none says that value came from nowhere."""
    assert "unexplained-credit" not in kinds(weigh(live(events).purse()))
