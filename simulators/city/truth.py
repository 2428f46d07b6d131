"""What the city knows before the first upload: what happens, and what must follow from it (docs/demo.md)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from simulators.city.closing import Closer
from simulators.city.facts import Fault, Plan, Sent, Tap, business_date
from simulators.city.money import Line as Account
from simulators.city.money import nets
from simulators.city.records import CHINA

Line = dict[str, object]


def truth_lines(plan: Plan) -> list[Line]:
    """The lines of truth.jsonl (docs/demo.md), from the plan alone."""
    closer = Closer(plan)
    closer.run()
    doubts = [t for t in plan.taps if t.cut]
    numbers = {t: len(plan.sents) + nth for nth, t in enumerate(doubts, 1)}
    return [
        {"type": "seed", "seed": plan.seed, "dates": [d.isoformat() for d in plan.dates]},
        *({"type": "party", **row} for row in _rows(plan, "parties")),
        *({"type": "policy", **row} for row in _rows(plan, "policies")),
        *(_event(s.id, s.tap, s) for s in plan.sents),
        *(_event(number, t, None) for t, number in numbers.items()),
        *_faults(plan, closer, numbers),
        *_consequences(closer),
        *_states(plan.sents),
        *_balances(plan),
    ]


def _rows(plan: Plan, name: str) -> Sequence[Mapping[str, object]]:
    rows = plan.registry[name]
    assert isinstance(rows, list), "the registry is a document of lists (docs/registry.md)"
    return rows


def _event(number: int, tap: Tap, sent: Sent | None) -> Line:
    witness = sent.witness if sent else tap.device
    at = sent.at if sent else tap.at
    arrives = max(sent.origin, sent.arrival) if sent and sent.arrival else None
    return {
        "type": "event", "id": number, "kind": (sent.kind if sent else tap.kind).name.lower(), "card": tap.card.serial,
        "purse": tap.purse, "counter": tap.counter if tap.kind.name != "ACT" else 0, "amount_fen": tap.amount_fen,
        "sector": witness.sector, "operator": witness.operator,
        "terminal": (sent.device if sent else tap.device).terminal,
        "epoch": 1, "sequence": sent.sequence if sent else None, "at": at.astimezone(CHINA).isoformat(),
        "origin_date": (sent.origin if sent else business_date(tap.at)).isoformat(),
        "arrives": arrives.isoformat() if arrives else None,
        "fault": sent.fault if sent else tap.fault, "state": sent.final if sent else None,
    }  # fmt: skip


def _faults(plan: Plan, closer: Closer, numbers: Mapping[Tap, int]) -> Iterator[Line]:
    """One line per injected fault, with its share of the moves: the postings of its records and of the forks and gaps
    that they are in."""
    named = {fault.sent for fault in plan.faults}
    times = Counter(fault.name for fault in plan.faults)
    others: dict[str, list[Sent]] = defaultdict(list)
    for sent in plan.sents:
        if sent.fault and sent not in named:
            others[sent.fault].append(sent)
    for fault in plan.faults:
        # A whole batch or terminal is one fault; of a fault that befell several cards, a line has its own card's.
        more = [s for s in others[fault.name] if times[fault.name] == 1 or s.tap.card is _card(fault)]
        things = [thing for thing in (fault.sent, fault.load, *more) if thing]
        event = fault.sent.id if fault.sent else numbers[fault.load] if fault.load else None
        moves = closer.books.moves(set().union(*map(closer.causes, things)))
        yield {
            "type": "fault", "name": fault.name, "event": event, "state": fault.sent.final if fault.sent else None,
            "case": fault.case, "moves": [_move(line, *fen) for line, fen in sorted(moves.items())],
        }  # fmt: skip


def _card(fault: Fault) -> object:
    return fault.load.card if fault.load else fault.sent.tap.card if fault.sent else None


def _move(line: Account, debit_fen: int, credit_fen: int) -> Line:
    return {
        "date": line.date.isoformat(), "ledger": line.ledger, "account": line.account, "rule": line.rule,
        "debit_fen": debit_fen, "credit_fen": credit_fen,
    }  # fmt: skip


def _consequences(closer: Closer) -> Iterator[Line]:
    """Cases, summed moves, nets."""
    for _, case in sorted(closer.cases.items()):
        yield {
            "type": "case", "kind": case.kind, "subject": case.subject, "amount_fen": case.amount_fen,
            "opened": case.opened.isoformat(), "resolved": case.resolved.isoformat() if case.resolved else None,
            "resolution": case.resolution, "owner": case.owner,
        }  # fmt: skip
    for line, fen in sorted(closer.books.lines.items()):
        yield {"type": "move", **_move(line, *fen)}
    for (day, net_class, party), net_fen in sorted(nets(closer.books).items()):
        yield {"type": "net", "date": day.isoformat(), "class": net_class, "party": party, "net_fen": net_fen}


def _states(sents: Sequence[Sent]) -> list[Line]:
    states: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for sent in sents:
        if sent.final is not None:
            states[sent.final][0] += 1
            states[sent.final][1] += sent.tap.amount_fen
    return [{"type": "state", "state": s, "count": count, "fen": fen} for s, (count, fen) in sorted(states.items())]


def _balances(plan: Plan) -> Iterator[Line]:
    for card in plan.cards:
        for purse in card.purses:
            yield {"type": "balance", "card": card.serial, "purse": purse, "balance_fen": card.value[purse]}
