"""What lies between two known records of a card: a gap, a load that got through or did not, or something nobody can
explain.

Pure logic of rules 12 and 17 (docs/ledger.md, "Gaps"); amounts in fen.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date

from clearing.close.placement import Fixed, Interval, Known, Load, Purse, contradictions, holds, lay_out, place, spread


@dataclass(frozen=True, slots=True)
class Step:
    """An interval of a purse that ends at a known record, with what lies in it."""

    card: bytes
    purse: int
    generation: int
    interval: Interval

    @property
    def upper(self) -> int:
        return self._end.counter

    @property
    def proof_key(self) -> bytes:
        """Of the upper record, which lends it to a gap."""
        return self._end.proof_key

    @property
    def origin_date(self) -> date:
        return self._end.origin_date

    @property
    def between(self) -> int:
        """Counters between the two records."""
        assert self.interval.between is not None, "the open interval is no step"
        return self.interval.between

    @property
    def missing(self) -> int:
        """k: counters between that no record explains."""
        return self.between - len(self.interval.bare)

    @property
    def lost_fen(self) -> int:
        """D: what left the card unseen, if no load in doubt got through."""
        return self.interval.after_fen + self.interval.loads_fen - self.interval.bare_fen - self._end.before_fen

    @property
    def reference(self) -> str:
        return f"{self.card.hex()}/{self.proof_key.hex()}"

    @property
    def _end(self) -> Known:
        assert self.interval.upper is not None, "the open interval is no step"
        return self.interval.upper


@dataclass(frozen=True, slots=True)
class Evidence:
    """The judgement on a step: a case (`kind` None: none) of `amount_fen`, and a gap to be booked."""

    kind: str | None = None
    subject: str = ""
    amount_fen: int = 0
    gap_fen: int = 0


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the evidence of a purse comes to: its judged steps, the ids of loads now known to be true or void, and the
    fen that came to it behind its last known record.
    """

    purse: Purse

    steps: tuple[tuple[Step, Evidence], ...]
    committed: tuple[str, ...]
    reversed: tuple[str, ...]
    tail_fen: int


def weigh(purse: Purse) -> Weighed:
    """Decide what the records and loads of a purse prove together (docs/ledger.md, "Gaps")."""
    asked, echoes = _last_tries(purse.loads)
    intervals = lay_out(purse)
    committed, void = _decide(intervals, asked)
    decided = committed | void
    void |= {load.load_id for load, last in echoes if last.load_id in decided}
    settled = [replace(load, doubt=load.doubt and load.load_id not in committed) for load in asked
               if load.load_id not in void]  # fmt: skip
    *closed, tail = spread(place(intervals, settled), purse.bare)
    steps = [Step(purse.card, purse.number, purse.generation, one) for one in closed if not one.forked]
    tail_fen = tail.loads_fen - tail.bare_fen
    judged = tuple((step, judge(step)) for step in steps)
    return Weighed(purse, judged, tuple(sorted(committed)), tuple(sorted(void)), tail_fen)


def judge(step: Step) -> Evidence:
    """What an interval comes to once its loads are settled, in the order of docs/ledger.md."""
    purse = f"{step.card.hex()}/{step.purse}/{step.generation}"
    counters = f"{purse}/{step.upper - step.between}-{step.upper - 1}"
    doubts = [load for load in step.interval.loads if load.doubt]
    if doubts and holds(step.interval, step.interval.loads):
        return Evidence("gap-or-load", counters, _most_fen(doubts)) if step.missing else Evidence()
    if step.missing > 0 and step.lost_fen >= 0:
        return Evidence("card-gap", counters, step.lost_fen, step.lost_fen)
    if step.lost_fen:
        kind = "unexplained-credit" if step.lost_fen < 0 else "unexplained-debit"
        return Evidence(kind, f"{purse}/{step.upper}", abs(step.lost_fen))
    return Evidence()


def _last_tries(loads: Iterable[Load]) -> tuple[list[Load], list[tuple[Load, Load]]]:
    """The loads without those in doubt that an equal try under the same counter followed, and those with the last one:
    the card forgets an initialised load when the next one is."""
    last = {(load.counter, load.amount_fen): load for load in loads if load.doubt}
    asked, echoes = [], []
    for load in loads:
        final = last.get((load.counter, load.amount_fen), load)
        if load.doubt and load is not final:
            echoes.append((load, final))
        else:
            asked.append(load)
    return asked, echoes


def _decide(intervals: list[Interval], loads: list[Load]) -> tuple[set[str], set[str]]:
    """Loads in doubt without which, and those with which, values would contradict each other more than they must."""
    doubts = [load for load in loads if load.doubt]
    committed: set[str] = set()
    void: set[str] = set()
    if not doubts:
        return committed, void
    fewest = contradictions(intervals, loads)
    for load in doubts:
        rivals = frozenset(other.load_id for other in doubts if other.counter == load.counter and other is not load)
        if contradictions(intervals, loads, Fixed(void=frozenset({load.load_id}))) > fewest:
            committed.add(load.load_id)
        elif contradictions(intervals, loads, Fixed(frozenset({load.load_id}), rivals)) > fewest:
            void.add(load.load_id)
    return committed, void


def _most_fen(doubts: Iterable[Load]) -> int:
    """What the loads can sum up to: those under one online counter are alternatives."""
    most: dict[int, int] = {}
    for load in doubts:
        most[load.counter] = max(most.get(load.counter, 0), load.amount_fen)
    return sum(most.values())
