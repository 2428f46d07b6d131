"""What the service must say when a record arrives: the verdict table of docs/ledger.md, and the answers of
docs/wire.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from random import Random

from simulators.city.facts import Batch, Delivery, DeskStep, Expected, Fault, Seal, Sent, business_date
from simulators.city.records import BATCH_BINARY, Kind

RENUMBERED = 5000
"""Added to the number of a batch that must be sent again under another one."""
COUNTED = {
    "accepted": "accepted",
    "suspended": "suspended",
    "pending_issuer": "pending",
    "memo": "memo",
    "conflict": "conflict",
}


class Verdicts:
    """Judges records in the order of arrival, by the facts of the plan alone."""

    def __init__(self, reports: Iterable[DeskStep], replacements: Iterable[DeskStep], dates: Sequence[date]) -> None:
        self._reported = {r.card: r.instant for r in reports}
        self._replaced = {r.card: business_date(r.instant) for r in replacements}
        self._dates = dates

    def judge(self, sent: Sent) -> None:
        """Fills in arrival, state and code; a record that never arrives has none."""
        nth = self._dates.index(business_date(sent.stored_at))
        if sent.route.after is None:
            return
        sent.arrival = self._dates[nth + sent.route.after]
        sent.state, sent.code = self._verdict(sent, sent.arrival)
        sent.final = sent.state

    def _verdict(self, sent: Sent, arrival: date) -> tuple[str, str]:
        card = sent.tap.card
        if sent.kind is Kind.TORN:
            return "memo", "torn"
        if not card.own:
            return "pending_issuer", "foreign"
        if sent.bad_tac:
            return "quarantined", "bad-proof"
        if sent.replayed:
            return "conflict", "conflict"
        # A date's records are uploaded when it ends, so only a clock that is far ahead is ahead of the service's.
        if sent.origin > arrival:
            return "suspended", "clock"
        if card.serial in self._replaced and self._replaced[card.serial] <= arrival:
            return "suspended", "replaced-card"
        if card.serial in self._reported and self._reported[card.serial] <= sent.at:
            return "suspended", "denylisted"
        return "accepted", ""


def expected(batch: Batch) -> Expected:
    """The answer to a batch that arrives for the first time."""
    counts = dict.fromkeys(("accepted", "duplicate", "suspended", "pending", "memo", "conflict"), 0)
    for sent in batch.sents:
        if sent.state in COUNTED:
            counts[COUNTED[sent.state]] += 1
    bad = tuple((s.sequence, s.code) for s in batch.sents if s.state == "quarantined")
    return Expected(200, counts=counts, quarantined=bad)


def duplicates(batch: Batch) -> Expected:
    """The answer to known records under another number."""
    counts = dict.fromkeys(("accepted", "duplicate", "suspended", "pending", "memo", "conflict"), 0)
    counts["duplicate"] = len(batch.sents)
    return Expected(200, counts=counts)


def deliver(
    rng: Random, batches: Sequence[Batch], dates: Sequence[date], scale: int
) -> tuple[Mapping[date, list[Delivery]], list[Fault]]:
    """The requests of each date, shuffled within their phases, with batches repeated, renumbered and cut short on
    purpose."""
    days: dict[date, list[Delivery]] = {day: [] for day in dates}
    plain: list[Batch] = []
    for batch in batches:
        arrival = batch.sents[0].arrival
        if arrival is None:
            continue
        answer, phase = expected(batch), batch.route.phase
        if batch.device.twin:
            # The other box has used this number for other bytes: the twin renumbers.
            days[arrival].append(Delivery(batch, batch.n, Expected(409, "batch-conflict"), phase))
            days[arrival].append(Delivery(batch, batch.n + 2 * RENUMBERED, answer, phase + 1))
            continue
        days[arrival].append(Delivery(batch, batch.n, answer, phase))
        if batch.device.media == BATCH_BINARY and not batch.route.alone and batch.sents[0].kind is not Kind.ACT:
            plain.append(batch)
    faults = []
    chosen = rng.sample(plain, 3 * scale)
    again: list[tuple[str, Callable[[Batch], Delivery]]] = [
        ("batch-repeated", lambda b: Delivery(b, b.n, expected(b), b.route.phase + 1)),
        ("batch-renumbered", lambda b: Delivery(b, b.n + RENUMBERED, duplicates(b), b.route.phase + 1)),
        ("batch-truncated", lambda b: Delivery(b, b.n, Expected(400, "bad-frame"), b.route.phase - 1, cut_short=True)),
    ]
    for nth, batch in enumerate(chosen):
        name, make = again[nth % 3]
        arrival = batch.sents[0].arrival
        assert arrival is not None
        days[arrival].append(make(batch))
        faults.append(Fault(name))
    for requests in days.values():
        rng.shuffle(requests)
        requests.sort(key=lambda d: d.phase)
    return days, faults


def sealed(sent: Sent) -> bool:
    """Whether the seal of a record verifies over its bytes as sent."""
    return sent.seal is Seal.GOOD
