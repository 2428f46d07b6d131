"""What lies between two known records of a card: a gap, a load that got through or did not, or something nobody can
explain.

Pure logic of rules 12 and 17 (docs/ledger.md, "Gaps"); amounts in fen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations

# Beyond this the subsets of loads in doubt in one interval are not searched: the case stays open for people.
MOST_DOUBTS = 10


@dataclass(frozen=True, slots=True)
class Doubt:
    """A load that was authorised in the interval and not proven."""

    load_id: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Step:
    """Two consecutive known records of (card, purse, generation), with counters `lower` (−1: the anchor) and `upper`.

    `after_fen` is the value after the lower one, `before_fen` that before the upper one; between them `loads_fen` were
    loaded, and `unsealed` proven debits without a seal took `unsealed_fen`. The upper record lends its proof key and
    origin date.
    """

    card: bytes
    purse: int
    generation: int
    lower: int
    upper: int
    proof_key: bytes
    origin_date: date
    after_fen: int
    before_fen: int
    loads_fen: int
    unsealed: int
    unsealed_fen: int
    doubts: tuple[Doubt, ...]

    @property
    def missing(self) -> int:
        """k: counters between that no record explains; negative when unsealed records explain more than there are."""
        return self.upper - self.lower - 1 - self.unsealed

    @property
    def lost_fen(self) -> int:
        """D: what left the card unseen."""
        return self.after_fen + self.loads_fen - self.unsealed_fen - self.before_fen

    @property
    def reference(self) -> str:
        return f"{self.card.hex()}/{self.proof_key.hex()}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The judgement: a case (`kind` None: none) of `amount_fen`, a gap to be booked, and loads now known to be true or
    void.
    """

    kind: str | None = None
    subject: str = ""
    amount_fen: int = 0
    gap_fen: int = 0
    committed: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()


def judge(step: Step) -> Evidence:
    """Decide what the interval proves, in the order of docs/ledger.md."""
    purse = f"{step.card.hex()}/{step.purse}/{step.generation}"
    counters = f"{purse}/{step.lower + 1}-{step.upper - 1}"
    if step.doubts and step.missing > 0:
        return Evidence("gap-or-load", counters, sum(doubt.amount_fen for doubt in step.doubts))
    if step.doubts and step.missing == 0 and (committed := _explain(step.doubts, -step.lost_fen)) is not None:
        void = tuple(doubt.load_id for doubt in step.doubts if doubt.load_id not in committed)
        return Evidence(committed=committed, reversed=void)
    if step.missing > 0 and step.lost_fen >= 0:
        return Evidence("card-gap", counters, step.lost_fen, gap_fen=step.lost_fen)
    if step.lost_fen:
        kind = "unexplained-credit" if step.lost_fen < 0 else "unexplained-debit"
        return Evidence(kind, f"{purse}/{step.upper}", abs(step.lost_fen))
    return Evidence()


def _explain(doubts: Sequence[Doubt], credit_fen: int) -> tuple[str, ...] | None:
    """The loads that make up a credit, the fewest and earliest first; None when none do."""
    if credit_fen == 0:
        return ()
    if credit_fen < 0 or len(doubts) > MOST_DOUBTS:
        return None
    for count in range(1, len(doubts) + 1):
        for chosen in combinations(doubts, count):
            if sum(doubt.amount_fen for doubt in chosen) == credit_fen:
                return tuple(doubt.load_id for doubt in chosen)
    return None
