"""Metro entry and exit on the card: what an entry is guarded by, and what an exit may price (docs/card.md; threat T6).

A phone between card and gate can answer any entry it likes. So a gate with an entry key writes a MAC into the record,
and an exit prices only what that MAC proves:

    covered = composite_mac_input(card, purse, record.encode())    # of `cardcore.cryptogram`; the PSAM makes the MAC
    record = replace(record, counter=opened.counter, mac=mac)      # at the entry, mac over the record with its counter
    finding = judge_entry(record, mac_now, opened.counter, alone=False, now=now, longest=timedelta(hours=4))
"""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from cardcore.card_files.composite import NO_MAC, MetroRecord, MetroState, TransferRecord

# Usage byte of the entry key in a PSAM: two levels of derivation (city, card), kind 6, a MAC of 8 bytes.
ENTRY_USAGE = 0x46
ENTRY_KEY_ID = 0x01


class EntryFinding(Enum):
    """What an exit makes of the entry that a card shows; only GENUINE is priced by its station."""

    GENUINE = "genuine"
    # Written by a gate without the key: the operator's policy says whether it is priced or taken as no entry.
    UNGUARDED = "unguarded"
    FORGED = "forged"
    # Genuine bytes of another journey: the card has moved on, or the journey took too long.
    STALE = "stale"
    NONE = "none"


def judge_entry(
    record: MetroRecord, mac: bytes, counter: int, *, alone: bool, now: datetime, longest: timedelta
) -> EntryFinding:
    """What an entry is worth at the exit. `now` and the record's times are local wall-clock times of the card.

    `mac` is the PSAM's own over the record as read; `counter` the offline counter that INITIALIZE has just answered.
    `alone` says that the purse pays nothing but transit, so that no debit can stand between entry and exit.
    """
    if record.state is not MetroState.IN or record.entry_at is None:
        return EntryFinding.NONE
    if record.mac == NO_MAC:
        return EntryFinding.UNGUARDED
    if len(mac) != len(NO_MAC) or not hmac.compare_digest(record.mac, mac):
        return EntryFinding.FORGED
    follows = counter == record.counter + 1 if alone else counter > record.counter
    in_time = timedelta(0) <= now - record.entry_at <= longest
    return EntryFinding.GENUINE if follows and in_time else EntryFinding.STALE


@dataclass(frozen=True, slots=True)
class TransferRule:
    """A transfer discount: within `within` (0: none) of the last leg, of `operators`, for `legs` legs of a journey.

    The fare becomes `percent` of itself, less `value_fen`, never below 0, rounded half up to the fen.
    """

    within: timedelta
    operators: frozenset[int]
    legs: int
    percent: int = 100
    value_fen: int = 0

    def applies(self, last: TransferRecord, now: datetime) -> bool:
        """Whether a leg that begins `now` continues the journey that the card shows."""
        if last.at is None or not self.within:
            return False
        soon = timedelta(0) <= now - last.at <= self.within
        return soon and last.operator in self.operators and last.chained < self.legs

    def fare_fen(self, full_fen: int) -> int:
        """The discounted fare."""
        return max(0, (full_fen * self.percent + 50) // 100 - self.value_fen)
