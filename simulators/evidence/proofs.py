"""Every cryptogram and every seal of a pile of records, proved in bulk."""

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hmac import compare_digest
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from simulators.evidence.ciphers import (
    SM4_ID,
    SUITE_NAMES,
    act_mac,
    card_keys,
    load_session_key,
    seals,
    sm3,
    tacs,
    transaction_macs,
    xor,
)
from simulators.evidence.happenings import Act, Load
from simulators.evidence.taprecord import OFFLINE, SEALED_SIZE, SECTOR_NUMBERS, Kind, Tap

KEY_VERSION = 1
LOAD_TYPE = b"\x02"


class Proof(NamedTuple):
    """`has_key`: we hold a root for it; `genuine`: the cryptogram is the card's; `sealed`: the seal is the PSAM's."""

    has_key: bool
    genuine: bool
    sealed: bool
    key: bytes


class Roots:
    """The TEST root keys, put together from their two components."""

    def __init__(self, components: Mapping[str, Iterable[str]]) -> None:
        pairs = {name: [bytes.fromhex(part) for part in parts] for name, parts in components.items()}
        self._keys = {name: xor(first, second) for name, (first, second) in pairs.items()}

    def find(self, suite: int, purpose: str, scope: int | None = None) -> bytes | None:
        """The root of a purpose (and purse application), None when there is no such key."""
        name = f"{SUITE_NAMES.get(suite)}/{purpose}"
        return self._keys.get(name if scope is None else f"{name}/{scope}")


def read_roots(path: Path) -> Roots:
    """Raises OSError or ValueError for a file without pairs of hex components."""
    return Roots(json.loads(path.read_text("utf-8")))


def act_digest(act: Act) -> bytes:
    """The 16 bytes that the card authenticates (rule 6)."""
    split = ";".join(f"{payer}={fen}" for payer, fen in sorted(act.split.items()))
    amounts = struct.pack(">IB", act.amount_fen, act.transaction_type)
    parts = (b"OCA1", bytes([SECTOR_NUMBERS[act.sector]]), act.act_id, act.challenge, amounts, act.terminal_number)
    return sm3(b"".join((*parts, act.date, act.time, act.card, sm3(split.encode("ascii")))))[:16]


def _root_of(tap: Tap, roots: Roots) -> bytes | None:
    if tap.key_version != KEY_VERSION:
        return None
    return roots.find(tap.suite, "ACT" if tap.kind == Kind.ACT else "TAC", tap.purse)


def _expected_cryptograms(
    taps: Mapping[bytes, Tap], acts: Mapping[bytes, Act], roots: Roots
) -> dict[bytes, bytes | None]:
    """By record: what the card would have answered (4 or 8 bytes, none for an act never opened); None without key.

    Grouped by root, so that one cipher call derives the keys of all its cards, then by card, so that all records
    of a card are proved in three or four calls.
    """
    expected: dict[bytes, bytes | None] = {}
    families: dict[tuple[int, bytes, bytes], list[bytes]] = defaultdict(list)
    for raw, tap in taps.items():
        root = _root_of(tap, roots)
        if root is None:
            expected[raw] = None
        else:
            families[tap.suite, root, tap.issuer].append(raw)
    for (suite, root, issuer), members in families.items():
        keys = card_keys(suite, root, issuer, sorted({taps[raw].card for raw in members}))
        of_card: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
        for raw in members:
            of_card[taps[raw].card, taps[raw].kind].append(raw)
        lanes: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
        for (card, kind), raws in of_card.items():
            if kind == Kind.ACT:
                for raw in raws:
                    act = acts.get(taps[raw].act_id)
                    expected[raw] = act_mac(suite, keys[card], act_digest(act)) if act else b""
            else:
                lanes[card, kind == Kind.LOAD] += raws
        for (card, _), raws in lanes.items():
            inputs = [taps[raw].cryptogram_input for raw in raws]
            expected.update(zip(raws, tacs(suite, keys[card], inputs), strict=True))
    return expected


def _sealed(taps: Mapping[bytes, Tap], roots: Roots) -> set[bytes]:
    """The records whose seal verifies under the record key of the PSAM that they name."""
    root = roots.find(SM4_ID, "RECORD")
    if root is None:
        return set()
    of_psam: dict[bytes, list[bytes]] = defaultdict(list)
    for raw, tap in taps.items():
        of_psam[tap.terminal_number].append(raw)
    made = chain.from_iterable(
        zip(raws, seals(root, number, [raw[:SEALED_SIZE] for raw in raws]), strict=True)
        for number, raws in of_psam.items()
    )
    return {raw for raw, seal in made if compare_digest(raw[SEALED_SIZE:], seal)}


def prove(taps: Mapping[bytes, Tap], acts: Mapping[bytes, Act], roots: Roots) -> dict[bytes, Proof]:
    """Proofs of all debits, entries, exits, loads and acts among the records, by their 128 bytes."""
    provable = {raw: tap for raw, tap in taps.items() if tap.kind in OFFLINE or tap.kind in (Kind.LOAD, Kind.ACT)}
    sealed = _sealed(provable, roots)
    found = {}
    for raw, mac in _expected_cryptograms(provable, acts, roots).items():
        tap = provable[raw]
        genuine = compare_digest(tap.cryptogram, mac.ljust(8, b"\0")) if mac else False
        found[raw] = Proof(mac is not None, genuine, raw in sealed, tap.proof_key)
    return found


def load_differences(loads: Iterable[Load], roots: Roots) -> list[str]:
    """Loads that the desk authorised on a wrong MAC1 or answered with a wrong MAC2."""
    found = []
    for load in loads:
        root = roots.find(load.suite, "LOAD", load.purse)
        if root is None:
            found.append(f"desk order {load.order}: a load was authorised without a load key")
            continue
        key = card_keys(load.suite, root, load.issuer, [load.card])[load.card]
        session = load_session_key(load.suite, key, load.random, load.counter.to_bytes(2, "big"))
        amount, balance = load.amount_fen.to_bytes(4, "big"), load.raw_balance_fen.to_bytes(4, "big")
        common = amount + LOAD_TYPE + load.terminal_number
        (mac1,) = transaction_macs(load.suite, session, [balance + common])
        (mac2,) = transaction_macs(load.suite, session, [common + load.date + load.time])
        for name, said, right in (("MAC1", load.mac1, mac1), ("MAC2", load.mac2, mac2)):
            if not compare_digest(said, right):
                found.append(f"desk order {load.order}: {name} of the load is {said.hex()}, recomputed {right.hex()}")
    return found


def act_differences(acts: Iterable[Act]) -> list[str]:
    """Acts that the desk opened with a wrong digest."""
    return [
        f"desk order {act.order}: digest of the act is {act.digest.hex()}, recomputed {act_digest(act).hex()}"
        for act in acts
        if not compare_digest(act.digest, act_digest(act))
    ]
