"""What the terminals were told of their records: the first answer to each batch (docs/wire.md)."""

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from simulators.truth import Facts, Pair, Row

_HEAD = struct.Struct(">4sIHHI")
_TOLD_AS = {"pending_issuer": "pending", "disputed": "accepted"}
"""The states that an answer calls otherwise; a fork is found later, so its records were accepted first."""
_TOLD = ("accepted", "suspended", "pending", "memo", "conflict")


def told_as(state: str) -> str:
    """The word of an answer for a record that ends in `state`."""
    return _TOLD_AS.get(state, state)


@dataclass(frozen=True, slots=True)
class Answer:
    """The first answer to one batch: the sequences that it brought, and what became of them."""

    terminal: int
    sequences: range
    counts: Mapping[str, int]
    quarantined: frozenset[int]

    def says(self, sequence: int, state: str) -> bool:
        """Whether the record may have got this state: it is named as quarantined, or counted among others."""
        if state == "quarantined":
            return sequence in self.quarantined
        return sequence not in self.quarantined and self.counts.get(told_as(state), 0) > 0


class Answers(dict[int, list[Answer]]):
    """By terminal. A terminal that two boxes use has two answers for a sequence."""

    def to(self, terminal: int, sequence: int) -> list[Answer]:
        return [answer for answer in self.get(terminal, ()) if sequence in answer.sequences]


def read_answers(directory: Path) -> Answers:
    """Raises OSError, ValueError or KeyError where index or bodies are missing or of another shape."""
    found, seen = Answers(), set()
    for line in _taken(directory / "uploads" / "index.jsonl"):
        body, said = (directory / "uploads" / Path(line["file"]).name).read_bytes(), line["body"]
        # Only the first answer has states: to the same records again, under any number, it says duplicates.
        if body not in seen and said["duplicate"] == 0:
            seen.add(body)
            quarantined = frozenset(int(each["seq"]) for each in said["quarantined"])
            counts = {name: int(said[name]) for name in _TOLD}
            answer = Answer(int(line["terminal"]), _sequences(body, line["media"]), counts, quarantined)
            found.setdefault(answer.terminal, []).append(answer)
    return found


def _taken(index: Path) -> Iterator[Row]:
    lines = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    yield from sorted((line for line in lines if line.get("status") == 200), key=lambda line: int(line["order"]))


def _sequences(body: bytes, media: str) -> range:
    if media.startswith("application/json"):
        first, *others = (int(record["sequence"]) for record in json.loads(body)["records"])
        return range(first, first + 1 + len(others))
    _, _, _, count, first = _HEAD.unpack_from(body)
    return range(first, first + count)


def answer_facts(events: Iterable[Row], answers: Answers) -> Pair:
    """Records by state, batch by batch, but not where two boxes use one terminal and its sequences."""
    states: dict[int, dict[int, str]] = defaultdict(dict)
    twins = set()
    for event in events:
        if event["sequence"] is not None and event["state"] is not None:
            if event["sequence"] in states[event["terminal"]]:
                twins.add(event["terminal"])
            states[event["terminal"]][event["sequence"]] = event["state"]
    planned: Facts = {}
    found: Facts = {}
    for terminal, given in answers.items():
        for answer in given:
            if terminal not in twins:
                name = f"{terminal}/1/{answer.sequences[0]}-{answer.sequences[-1]}"
                sent = [states[terminal].get(sequence, "never sent") for sequence in answer.sequences]
                planned[name] = dict(sorted(Counter(told_as(state) for state in sent).items()))
                told = {**answer.counts, "quarantined": len(answer.quarantined)}
                found[name] = {state: count for state, count in sorted(told.items()) if count}
    return planned, found
