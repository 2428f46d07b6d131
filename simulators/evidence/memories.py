"""The cards' memories against the books: rule 22, as docs/demo.md spells it ("What the cards hold")."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from simulators.evidence.closing import Closer, smallest
from simulators.evidence.comparison import Comparison
from simulators.evidence.gaps import known_counters, loads_in_doubt
from simulators.evidence.happenings import json_lines
from simulators.evidence.intake import Authorised
from simulators.evidence.placement import Interval
from simulators.evidence.taprecord import Kind

CardPurse = tuple[bytes, int]
CARRIED = "replace@1"
_OWED = {"payable", "suspense", "fee"}


class Memory(NamedTuple):
    """A purse in the card at the end: its value, and the offline counter that its next debit would have."""

    fen: int
    offline: int


@dataclass(slots=True)
class Worth:
    """What a purse should hold: `fen`, after `debits` debits that are known or missing with their fen known.

    `doubts` says what nobody can decide: of each group one amount may be on the card besides, none is 0.
    """

    fen: int = 0
    debits: int = 0
    doubts: list[set[int]] = field(default_factory=list)

    def allows(self, memory: Memory) -> bool:
        """Whether a card may hold that: to the fen, or less where it has made debits that nobody has uploaded."""
        possible = {self.fen + sum(each) for each in product(*self.doubts)}
        return memory.fen in possible or (memory.offline > self.debits and memory.fen <= max(possible))


def compare_memories(directory: Path, closer: Closer, comparison: Comparison) -> None:
    """cards.json; it may not be written yet. Raises ValueError, KeyError or OSError when it is of another shape."""
    path = directory / "cards.json"
    if not path.exists():
        return
    held = {
        (bytes.fromhex(card), int(number)): Memory(int(purse["balance_fen"]), int(purse["offline"]))
        for card, memory in json.loads(path.read_text("utf-8")).items()
        for number, purse in memory["purses"].items()
    }
    _compare_last_records(held, closer, comparison)
    ours = {key: memory for key, memory in held.items() if key[0] in closer.intake.registry.cards}
    booked, outstanding = _booked(closer), Counter[int]()
    for key in sorted(ours.keys() | booked.keys()):
        name, worth, memory = _name(key), booked.get(key, Worth()), ours.get(key, Memory(0, 0))
        right = memory.fen if worth.allows(memory) else worth.fen
        comparison.equal(f"{name} by the books", memory.fen, right)
        comparison.equal(f"{name} offline counter", memory.offline, max(memory.offline, worth.debits))
        outstanding[key[1]] += worth.fen - right
    if (directory / "books.jsonl").exists():
        _compare_city(json_lines(directory / "books.jsonl"), ours, outstanding, comparison)


def _name(key: CardPurse) -> str:
    return f"memory of card {key[0].hex()} purse {key[1]}"


def _compare_last_records(held: Mapping[CardPurse, Memory], closer: Closer, comparison: Comparison) -> None:
    """What each purse held after its last known record, and what was loaded since; all that is known of a card which is
    not ours are its own records."""
    last = {(card, purse): _behind(interval) for (card, purse, _), interval in closer.reading.behind.items()}
    strangers = [fact.claims for fact in closer.intake.facts if fact.sealed and fact.state == "pending_issuer"]
    for claims in sorted(strangers, key=lambda each: each.counter):
        last[claims.card, claims.purse] = Worth(claims.after_fen, claims.counter + 1)
    for key, worth in sorted((key, worth) for key, worth in last.items() if worth is not None and key in held):
        memory = held[key]
        right = memory.fen if worth.allows(memory) else worth.fen
        comparison.equal(f"{_name(key)} by its last record", memory.fen, right)


def _behind(interval: Interval) -> Worth | None:
    """The purse by what lies behind its last known record; None where a fork disputes it."""
    doubts = [{0, load.fen} for load in interval.loads if load.credited is None]
    debits = interval.first + len(interval.debits)
    return None if interval.forked else Worth(interval.difference_fen, debits, doubts)


def _booked(closer: Closer) -> dict[CardPurse, Worth]:
    """Each purse's part of the float, but what a replacement has carried away: the old card still holds that."""
    found: dict[CardPurse, Worth] = defaultdict(Worth)
    of_proof: dict[str, bytes] = {}
    for fact in closer.intake.facts:
        key, fen = (fact.tap.card, fact.tap.purse), fact.tap.amount_fen
        if fact.proven and fact.offline:
            found[key].fen -= fen
            found[key].debits += not fact.sealed
        elif fact.state == "accepted" and fact.tap.kind == Kind.LOAD:
            found[key].fen += fen
        if fact.state == "disputed":
            of_proof[fact.tap.proof_key.hex()] = fact.tap.card
    for leg, fen in closer.posted.items():
        account, _, number = leg.account.name.partition(":")
        if account == "float" and leg.rule != CARRIED:
            card = of_proof.get(leg.subject) or bytes.fromhex(leg.subject.partition("/")[0])
            found[card, int(number)].fen -= fen
    for card, purse, counters in _counters(closer):
        found[card, purse].debits += counters
    for key, doubt in _doubts(closer):
        found[key].doubts.append(doubt)
    return found


def _counters(closer: Closer) -> Iterator[tuple[bytes, int, int]]:
    """Counters whose fen are in the books: of known records, and missing ones in a gap that is booked."""
    for (card, purse, _), counters in known_counters(closer.intake.facts).items():
        yield card, purse, len(counters)
    for finding in closer.reading.findings:
        if finding.kind == "card-gap":
            card, purse, _ = finding.purse
            yield card, purse, finding.spare


def _doubts(closer: Closer) -> Iterator[tuple[CardPurse, set[int]]]:
    """Loads that nothing decides, at most one under an online counter; forks, of which the genuine card paid one."""
    settled = {id(each): committed for each, committed in closer.reading.settled}
    tries: dict[tuple[CardPurse, int], list[Authorised]] = defaultdict(list)
    for each in loads_in_doubt(closer.intake):
        tries[(each.load.card, each.load.purse), each.load.counter].append(each)
    for (key, _), alike in tries.items():
        if not any(settled.get(id(each)) for each in alike):
            yield key, {0, *(each.load.amount_fen for each in alike if id(each) not in settled)}
    for (card, purse, _), counters in known_counters(closer.intake.facts).items():
        for members in counters.values():
            if len(members) > 1:
                kept_fen = smallest(members).tap.amount_fen
                yield (card, purse), {kept_fen - each.tap.amount_fen for each in members}


def _compare_city(
    rows: Iterable[Mapping[str, Any]],
    ours: Mapping[CardPurse, Memory],
    outstanding: Mapping[int, int],
    comparison: Comparison,
) -> None:
    """The float by purse, and what came in as cash, beside what all cards hold."""
    credit, carried = Counter[str](), Counter[str]()
    for row in rows:
        if "ledger" in row:
            account, _, _ = row["account"].partition(":")
            fen = row["credit_fen"] - row["debit_fen"]
            name = row["account"] if account == "float" else account
            (carried if account == "float" and row["rule"] == CARRIED else credit)[name] += fen
    cards_fen = Counter[str]()
    for (_, purse), memory in ours.items():
        cards_fen[f"float:{purse}"] += memory.fen
    for purse, fen in outstanding.items():
        cards_fen[f"float:{purse}"] += fen
    for name in sorted(cards_fen.keys() | {name for name in credit if name.startswith("float:")}):
        comparison.equal(f"{name} beside what the cards hold", credit[name], cards_fen[name])
    owed_fen = sum(credit[name] for name in _OWED) + credit["unsettled"] + credit["transfer"]
    held_fen = cards_fen.total() + carried.total()
    comparison.equal(
        "cash and fraud beside cards, gaps and dues", -credit["cash"] - credit["fraud"], held_fen + owed_fen
    )
