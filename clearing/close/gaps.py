"""What lies between two known records of a card: a gap, a load that got through or did not, or something nobody can
explain.

Pure logic of rules 12 and 17 (docs/ledger.md, "Gaps"); amounts in fen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Doubt:
    """A load that was authorised in the interval and not proven, under an online counter of the card."""

    load_id: str
    amount_fen: int
    counter: int


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
    doubts: tuple[Doubt, ...]  # in the order of their authorisation

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
        most = {doubt.counter: 0 for doubt in step.doubts}
        for doubt in step.doubts:
            most[doubt.counter] = max(most[doubt.counter], doubt.amount_fen)
        return Evidence("gap-or-load", counters, sum(most.values()))
    if step.doubts and step.missing == 0 and (explanations := _explain(step.doubts, -step.lost_fen)):
        if len(explanations) > 1:
            return Evidence()
        (committed,) = explanations
        void = tuple(doubt.load_id for doubt in step.doubts if doubt.load_id not in committed)
        return Evidence(committed=committed, reversed=void)
    if step.missing > 0 and step.lost_fen >= 0:
        return Evidence("card-gap", counters, step.lost_fen, gap_fen=step.lost_fen)
    if step.lost_fen:
        kind = "unexplained-credit" if step.lost_fen < 0 else "unexplained-debit"
        return Evidence(kind, f"{purse}/{step.upper}", abs(step.lost_fen))
    return Evidence()


def _explain(doubts: Sequence[Doubt], credit_fen: int) -> list[tuple[str, ...]]:
    """Up to two of the sets of loads that make up a credit, at most one load under each online counter.

    The card forgets an initialised load when the next one is, so of equal ones under one counter only the last counts.
    """
    tries: dict[int, dict[int, Doubt]] = {}
    for doubt in doubts:
        tries.setdefault(doubt.counter, {})[doubt.amount_fen] = doubt
    # By what they sum up to. Two sets of a sum are as good as many: neither is the only one.
    sets: dict[int, list[tuple[str, ...]]] = {0: [()]}
    for loads in tries.values():
        wider = {fen: list(found) for fen, found in sets.items()}
        for load in loads.values():
            for fen, found in sets.items():
                if fen + load.amount_fen <= credit_fen:
                    wider.setdefault(fen + load.amount_fen, []).extend((*each, load.load_id) for each in found)
        sets = {fen: found[:2] for fen, found in wider.items()}
    return sets.get(credit_fen, [])
