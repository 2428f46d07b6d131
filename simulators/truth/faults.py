"""Every injected fault beside what became of it: its record's answer, its case, its share of the books."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from simulators.truth import Facts, Pair, Row
from simulators.truth.answers import Answers

_DEBITS = {"debit", "entry", "exit"}
_POSTED = {"accepted", "suspended", "disputed", "pending_issuer"}
_BOOK_LINE = ("date", "ledger", "account", "rule")


def contradictions(events: Mapping[int, Row], faults: Sequence[Row]) -> Iterator[str]:
    """The truth must agree with itself: a line for every mark on an event, the same state in both, and the moves that
    the state asks for."""
    listed = {str(fault["name"]) for fault in faults}
    for name in sorted({str(event["fault"]) for event in events.values() if event["fault"]} - listed):
        yield f"truth: events are marked with the fault {name}, of which there is no line"
    for fault in faults:
        event = events.get(fault["event"])
        if fault["event"] is not None and event is None:
            yield f"truth: the fault {fault['name']} names event {fault['event']}, which is not there"
        elif event and (event["fault"], event["state"]) != (fault["name"], fault["state"]):
            said = f"{event['fault']} in state {event['state']}"
            yield f"truth: event {event['id']} is {said}, its fault {fault['name']} in state {fault['state']}"
        debits_fen = sum(move["debit_fen"] for move in fault["moves"] if move["rule"].startswith("debit@"))
        owed_fen = event["amount_fen"] if event and event["kind"] in _DEBITS and event["state"] in _POSTED else 0
        if debits_fen < owed_fen:
            yield f"truth: the fault {fault['name']} posts {debits_fen} fen of debits, its event {owed_fen}"
        for ledger in sorted({move["ledger"] for move in fault["moves"]}):
            sums = [move["debit_fen"] - move["credit_fen"] for move in fault["moves"] if move["ledger"] == ledger]
            if sum(sums):
                yield f"truth: the moves of the fault {fault['name']} are {sum(sums)} fen apart in ledger {ledger}"


def fault_facts(events: Mapping[int, Row], faults: Iterable[Row], answers: Answers, cases: Iterable[Row]) -> Pair:
    """The state of the fault's record by the answers, and its case by cases.jsonl."""
    planned: Facts = {}
    found: Facts = {}
    subjects: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        subjects[str(case["kind"])].append(str(case["subject"]))
    for nth, fault in enumerate(faults, 1):
        name, event = f"{fault['name']} (line {nth})", events.get(fault["event"])
        if event is not None and event["sequence"] is not None:
            planned[f"{name} state"] = fault["state"]
            found[f"{name} state"] = _state_told(event, fault["state"], answers)
        if fault["case"] is not None:
            planned[f"{name} case"] = fault["case"]
            theirs = [each for each in subjects[fault["case"]] if event is None or _concerns(each, event)]
            found[f"{name} case"] = fault["case"] if theirs else None
    return planned, found


def _state_told(event: Row, state: str | None, answers: Answers) -> object:
    """`state` if an answer bears it out, else what the answers say."""
    told = answers.to(event["terminal"], event["sequence"])
    if not told:
        return None
    if state is not None and any(answer.says(event["sequence"], state) for answer in told):
        return state
    quarantined = any(event["sequence"] in answer.quarantined for answer in told)
    return "quarantined" if quarantined else f"among {dict(told[0].counts)}"


def _concerns(subject: str, event: Row) -> bool:
    """Whether a case's subject (docs/ledger.md) is of this event: by its card, its record, its terminal or a range."""
    if subject.startswith((f"{event['card']}/", f"{event['card']}@")):
        return True
    terminal = f"{event['terminal']}/{event['epoch']}"
    if subject == terminal:
        return True
    where, _, sequences = subject.rpartition("/")
    first, _, last = sequences.partition("-")
    return where == terminal and int(first) <= event["sequence"] <= int(last or first)


def share_facts(faults: Iterable[Row], books: Iterable[Row]) -> Pair:
    """What the faults have moved, line by line, beside so much of it as is in the books."""
    moved: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for fault in faults:
        for move in fault["moves"]:
            sums = moved[_name(move)]
            sums[0] += move["debit_fen"]
            sums[1] += move["credit_fen"]
    booked = {_name(row): (row["debit_fen"], row["credit_fen"]) for row in books if "ledger" in row}
    planned: Facts = {}
    found: Facts = {}
    for name, (debit, credit) in moved.items():
        there = booked.get(name, (0, 0))
        planned[name], found[name] = (debit, credit), (min(debit, there[0]), min(credit, there[1]))
    return planned, found


def _name(row: Row) -> str:
    return " ".join(str(row[name]) for name in _BOOK_LINE)
