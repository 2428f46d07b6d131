"""Digests of proofs, all SM3 (GB/T 32905) and without a key: proof keys, act digests, Merkle roots."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes

from cardcore.cryptogram import act_input, split_text
from cardcore.errors import FormatError
from cardcore.record import BY_NAME, Kind, Sector, TapRecord
from keys.columns import Octets, Records, octets, part
from keys.engine.bulk import load_messages

PROOF_KEY_BYTES = 16
_PURCHASE = slice(BY_NAME["amount_fen"].offset, BY_NAME["time"].offset + BY_NAME["time"].width)


def _openssl_sm3() -> Callable[[bytes], bytes]:
    """SM3 by `hashlib`; a state that is copied costs half of one that is looked up by name."""
    empty = hashlib.new("sm3")

    def digest(message: bytes) -> bytes:
        state = empty.copy()
        state.update(message)
        return state.digest()

    return digest


def _packaged_sm3() -> Callable[[bytes], bytes]:
    """SM3 by `cryptography`, for a Python whose own OpenSSL was built without it."""
    empty = hashes.Hash(hashes.SM3())

    def digest(message: bytes) -> bytes:
        state = empty.copy()
        state.update(message)
        return state.finalize()

    return digest


sm3: Callable[[bytes], bytes] = _openssl_sm3() if "sm3" in hashlib.algorithms_available else _packaged_sm3()


def proof_keys(records: Records) -> Octets:
    """Proof key (n, 16) of each record: its identity for ever once it is proven (rule 3; docs/record.md)."""
    rows = octets(records)
    kind = part(rows, "kind")[:, 0]
    keys = np.empty((len(rows), PROOF_KEY_BYTES), np.uint8)
    is_load, is_act = kind == Kind.LOAD, kind == Kind.ACT
    for chosen, inputs in (
        (np.flatnonzero(~is_load & ~is_act), lambda picked: picked[:, _PURCHASE]),
        (np.flatnonzero(is_load), load_messages),
        (
            np.flatnonzero(is_act),
            lambda picked: np.concatenate((part(picked, "purse"), part(picked, "act_id")), axis=1),
        ),
    ):
        if len(chosen):
            picked = rows[chosen]
            prefix = (part(picked, "suite"), part(picked, "key_version"), part(picked, "card"))
            keys[chosen] = _digests(np.concatenate((*prefix, inputs(picked)), axis=1))
    return keys


def _digests(messages: Octets) -> Octets:
    """First 16 bytes of the SM3 of each row."""
    width = messages.shape[1]
    packed = messages.tobytes()
    digest = sm3
    joined = b"".join([digest(packed[at : at + width])[:PROOF_KEY_BYTES] for at in range(0, len(packed), width)])
    return np.frombuffer(joined, np.uint8).reshape(-1, PROOF_KEY_BYTES)


def split_digest(split: Mapping[str, int]) -> bytes:
    """SM3 (32 bytes) of an act's payer split in fen."""
    return sm3(split_text(split))


def act_digest(record: TapRecord, sector: Sector, challenge: bytes, split: Mapping[str, int]) -> bytes:
    """The 16 bytes that a card authenticates for an online act (rule 6)."""
    return sm3(act_input(record, sector, challenge, split_digest(split)))[:16]


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """SM3 Merkle root (32 bytes) of a set of leaves, whatever order they come in.

    Leaves are sorted bytewise; a leaf is SM3(00 ‖ leaf), a node SM3(01 ‖ left ‖ right); a last node without a partner
    moves up as it is (the tree of RFC 6962). The root of nothing is SM3 of nothing.
    """
    levels = _levels(leaves)
    return levels[-1][0] if levels else sm3(b"")


@dataclass(frozen=True, slots=True)
class Sibling:
    """One step of an inclusion proof: the neighbour's digest and the side that it stands on."""

    digest: bytes
    on_left: bool


def inclusion_proof(leaves: Sequence[bytes], leaf: bytes) -> list[Sibling]:
    """Siblings from the leaf to the root; raises FormatError when the leaf is not among the leaves."""
    place = bisect_left(ordered := sorted(leaves), leaf)
    if place == len(ordered) or ordered[place] != leaf:
        raise FormatError(f"leaf {leaf.hex()} is not in this tree of {len(ordered)} leaves: there is nothing to prove")
    proof = []
    for level in _levels(leaves)[:-1]:
        partner = place ^ 1
        if partner < len(level):
            proof.append(Sibling(level[partner], partner < place))
        place //= 2
    return proof


def includes(root: bytes, leaf: bytes, proof: Sequence[Sibling]) -> bool:
    """Whether the proof leads from the leaf to the root."""
    digest = sm3(b"\0" + leaf)
    for sibling in proof:
        digest = sm3(b"\1" + sibling.digest + digest if sibling.on_left else b"\1" + digest + sibling.digest)
    return digest == root


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Digests of each level, leaves first; empty for no leaves."""
    if not leaves:
        return []
    level = [sm3(b"\0" + leaf) for leaf in sorted(leaves)]
    levels = [level]
    while len(level) > 1:
        pairs = [sm3(b"\1" + level[at] + level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
        levels.append(level)
    return levels
