"""Bulk proofs: unique cards first, one OpenSSL call for all their keys, then MACs over lanes, then one comparison
(decision D11).

Nothing here returns a cryptogram that was computed: only whether the records' own are right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cardcore.record import BY_NAME, OFFLINE_KINDS, SEALED_BYTES, Kind
from keys.columns import Octets, number, octets_of, part, taken
from keys.engine import sm4_lanes
from keys.engine.root import RootKey
from keys.engine.suites import Lanes, sm4_macs, suite_of

OK: Final = 1
BAD: Final = 2
NO_KEY: Final = 3

Verdicts = NDArray[np.uint8]
# Suite, key version and application of a record: what chooses its root.
Selector = tuple[int, int, int]

# The 22 bytes under a purchase TAC lie side by side in the record (docs/record.md).
_PURCHASE = slice(BY_NAME["amount_fen"].offset, BY_NAME["time"].offset + BY_NAME["time"].width)
_HAS_TAC = np.isin(np.arange(256), sorted(OFFLINE_KINDS | {Kind.LOAD}))
# What a selector is made of: bytes among the first eight of a record, which are read as one number.
_CODE_SHIFTS = tuple(56 - 8 * BY_NAME[name].offset for name in ("suite", "key_version", "purse"))
_CODE = np.uint64(sum(0xFF << shift for shift in _CODE_SHIFTS))
_CARD_FACTOR = slice(BY_NAME["card"].offset + 2, BY_NAME["card"].offset + 10)


def tac_verdicts(rows: Octets, roots: Mapping[Selector, RootKey]) -> Verdicts:
    """OK, BAD or NO_KEY for the TAC of each record (n, 128). A record of a kind that has no TAC is BAD."""
    verdicts = np.full(len(rows), NO_KEY, np.uint8)
    kind = part(rows, "kind")[:, 0]
    verdicts[~_HAS_TAC[kind]] = BAD
    for selector, chosen in _by_selector(rows, verdicts == NO_KEY):
        root = roots.get(selector)
        if root is None:
            continue
        for is_load in (False, True):
            picked = chosen[(kind[chosen] == Kind.LOAD) == is_load]
            if not len(picked):
                continue
            cards = _card_keys(rows, picked, root)
            messages = load_messages(taken(rows, cards.order)) if is_load else taken(rows[:, _PURCHASE], cards.order)
            macs = suite_of(root.id.suite).tac_macs(cards.keys, cards.lane_key, messages)
            # A TAC is 4 bytes, and the field's other 4 are zeros: all 8 are compared.
            good = number(macs) << np.uint64(32) == number(taken(part(rows, "cryptogram"), cards.order))
            verdicts[cards.order] = np.where(good, OK, BAD)
    return verdicts


def act_verdicts(
    rows: Octets, digests: Octets, known: NDArray[np.bool_], roots: Mapping[Selector, RootKey]
) -> Verdicts:
    """OK, BAD or NO_KEY for each act over its digest (n, 16); BAD where no opened act is known or the record is of
    another kind."""
    verdicts = np.full(len(rows), NO_KEY, np.uint8)
    verdicts[~known | (part(rows, "kind")[:, 0] != Kind.ACT)] = BAD
    for selector, chosen in _by_selector(rows, verdicts == NO_KEY):
        root = roots.get(selector)
        if root is None:
            continue
        cards = _card_keys(rows, chosen, root)
        macs = suite_of(root.id.suite).act_macs(cards.keys, cards.lane_key, digests[cards.order])
        good = number(macs) == number(taken(part(rows, "cryptogram"), cards.order))
        verdicts[cards.order] = np.where(good, OK, BAD)
    return verdicts


def seals_hold(rows: Octets, root: RootKey) -> NDArray[np.bool_]:
    """Whether each record's seal is right under its PSAM's record key (docs/record.md); a seal of zeros is none."""
    sealed = np.zeros(len(rows), np.bool_)
    claimed = number(part(rows, "seal"))
    chosen = np.flatnonzero(claimed)
    if not len(chosen):
        return sealed
    terminals = number(part(rows, "terminal_number"))[chosen]
    order, lane_key, first = _sorted_runs(terminals)
    factors = octets_of(terminals[order[first]])
    # The second derivation happens inside each PSAM, under a key of its own: lanes again, of one block.
    issued = sm4_lanes.schedule(root.psams(factors))
    inner = sm4_lanes.cbc_mac(issued, np.concatenate((factors, ~factors), axis=1))
    lanes = chosen[order]
    sealed[lanes] = number(sm4_macs(inner, lane_key, taken(rows[:, :SEALED_BYTES], lanes), 8)) == claimed[lanes]
    return sealed


def load_messages(rows: Octets) -> Octets:
    """The 24 bytes under the TAC of a load: raw new balance (modulo 2**32) ‖ counter ‖ amount … terminal number ‖
    date ‖ time."""
    fen = [
        part(rows, name).copy().view(">u4").ravel() for name in ("balance_before_fen", "overdraft_fen", "amount_fen")
    ]
    raw_balance = sum(column.astype(np.uint32) for column in fen)
    return np.concatenate(
        (
            np.asarray(raw_balance, np.uint32).astype(">u4").view(np.uint8).reshape(-1, 4),
            *(
                part(rows, name)
                for name in ("counter", "amount_fen", "transaction_type", "terminal_number", "date", "time")
            ),
        ),
        axis=1,
    )


@dataclass(frozen=True, slots=True)
class _CardKeys:
    """Records brought into the order of their cards: where each stood, the place of its card's key, and the keys."""

    order: Lanes
    lane_key: Lanes
    keys: Octets


def _card_keys(rows: Octets, chosen: Lanes, root: RootKey) -> _CardKeys:
    """Two levels of the tree: an issuer's key is derived once, the keys of all its cards in one call."""
    factors, issuers = (number(columns)[chosen] for columns in (rows[:, _CARD_FACTOR], part(rows, "issuer")))
    places, lane_key, first = _sorted_runs(factors, issuers)
    owners = places[first]
    cards, issuers = octets_of(factors[owners]), issuers[owners]
    keys = np.empty((len(owners), 16), np.uint8)
    for issuer in np.unique(issuers):
        own = np.flatnonzero(issuers == issuer)
        keys[own] = root.cards(int(issuer).to_bytes(4, "big"), cards[own])
    return _CardKeys(chosen[places], lane_key, keys)


def _sorted_runs(values: NDArray[np.uint64], *also: NDArray[np.uint64]) -> tuple[Lanes, Lanes, Lanes]:
    """Order that brings equal values together, the run that each ordered value belongs to, and where each run starts.

    A run also ends where a value of `also` changes; equal pairs that do not meet merely make two runs.
    """
    order = np.argsort(values)
    starts = np.zeros(len(values), np.bool_)
    starts[0] = True
    for column in (values, *also):
        ordered = column[order]
        starts[1:] |= ordered[1:] != ordered[:-1]
    return order, np.cumsum(starts) - 1, np.flatnonzero(starts)


def _by_selector(rows: Octets, wanted: NDArray[np.bool_]) -> Sequence[tuple[Selector, Lanes]]:
    """The wanted records grouped by (suite, key version, application)."""
    code = number(rows[:, :8]) & _CODE
    groups, left = [], wanted.copy()
    while left.any():
        value = int(code[left.argmax()])
        suite, key_version, purse = (value >> shift & 0xFF for shift in _CODE_SHIFTS)
        chosen = left & (code == value)
        groups.append(((suite, key_version, purse), np.flatnonzero(chosen)))
        left ^= chosen
    return groups
