"""What a lost or dead card is worth when it is replaced (rule 18; docs/wire.md, "The desk")."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from simulators.evidence.intake import Intake
from simulators.evidence.taprecord import Kind


class Moved(NamedTuple):
    """Value of one purse on its way from a replaced card, on the business date of its replacement."""

    order: int
    origin: date
    purse: int
    fen: int


def values_fen(intake: Intake, carried: Mapping[tuple[str, str, str], int], card: bytes) -> dict[int, int]:
    """Accepted and committed loads − proven debits − open gaps of a card, fen by purse; only what is above 0.

    `carried` is what the closes so far hold posted, by (rule, account, subject): of it the open gaps count, and the
    loads that evidence committed, unless their own record came since.
    """
    values: dict[int, int] = defaultdict(int)
    for fact in intake.facts:
        tap = fact.tap
        if tap.card != card:
            continue
        if fact.proven and fact.offline:
            values[tap.purse] -= tap.amount_fen
        elif fact.state == "accepted" and tap.kind == Kind.LOAD:
            values[tap.purse] += tap.amount_fen
    for (rule, account, subject), fen in carried.items():
        kind, _, purse = account.partition(":")
        if kind != "float" or not subject.startswith(f"{card.hex()}/"):
            continue
        if rule == "gap@1" or (rule == "load@1" and not _came(intake, card, subject)):
            values[int(purse)] -= fen
    return {purse: fen for purse, fen in values.items() if fen > 0}


def _came(intake: Intake, card: bytes, subject: str) -> bool:
    _, purse, counter = subject.split("/")
    return (card, int(purse), int(counter)) in intake.loaded
