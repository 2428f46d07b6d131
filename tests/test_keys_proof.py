"""Proof keys against the contract's own inputs, and the Merkle tree against a tree written out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.cryptogram import proof_input
from cardcore.errors import FormatError
from cardcore.record import FIELDS, Kind, Suite, TapRecord
from keys.columns import from_bytes
from keys.proof import act_digest, includes, inclusion_proof, merkle_root, proof_keys, sm3, split_digest
from tests import test_keys_reference as reference

leaves_drawn = st.lists(st.binary(min_size=1, max_size=20), max_size=40, unique=True)


@given(st.lists(st.binary(min_size=128, max_size=128), max_size=20))
def test_any_bytes_have_the_proof_key_of_their_record(raws: list[bytes]) -> None:
    keys = proof_keys(from_bytes(b"".join(raws)))
    assert [row.tobytes() for row in keys] == [sm3(proof_input(TapRecord.decode(raw)))[:16] for raw in raws]


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_own_input(kind: Kind) -> None:
    record = reference.debit(kind=kind, act_id=b"12345678", suite=Suite.SM4)
    assert proof_keys(from_bytes(record.encode()))[0].tobytes() == sm3(proof_input(record))[:16]


def test_claims_are_not_part_of_the_identity() -> None:
    record = reference.debit()
    changed = replace(record, sequence=8, counter=42, balance_before_fen=1, station=5, epoch=2, seal=bytes(range(8)))
    pair = proof_keys(from_bytes(record.encode() + changed.encode()))
    assert np.array_equal(pair[0], pair[1])
    other = proof_keys(from_bytes(replace(record, amount_fen=201).encode()))
    assert not np.array_equal(pair[0], other[0])
    assert {field.name for field in FIELDS} >= {"sequence", "counter"}


def test_act_digest_is_the_rule() -> None:
    """Rule 6 written out."""
    record = reference.debit(kind=Kind.ACT, transaction_type=0xA2, act_id=b"ABCDEFGH", amount_fen=1000)
    split = {"fund": 700, "account": 300}
    covered = (
        b"OCA1\x05ABCDEFGH" + bytes(range(8)) + (1000).to_bytes(4, "big") + b"\xa2" + record.terminal_number
        + record.date + record.time + record.card + sm3(b"account=300;fund=700")
    )  # fmt: skip
    assert split_digest(split) == sm3(b"account=300;fund=700")
    assert act_digest(record, 5, bytes(range(8)), split) == sm3(covered)[:16]  # type: ignore[arg-type]  # the number itself


def test_tree_of_three_by_hand() -> None:
    a, b, c = (sm3(b"\0" + leaf) for leaf in (b"a", b"b", b"c"))
    assert merkle_root([b"c", b"a", b"b"]) == sm3(b"\1" + sm3(b"\1" + a + b) + c)
    assert merkle_root([b"a"]) == a
    assert merkle_root([]) == sm3(b"")


@given(leaves_drawn.filter(bool), st.randoms())
def test_every_leaf_proves_its_inclusion_and_nothing_else(leaves: list[bytes], random: object) -> None:
    root = merkle_root(leaves)
    assert merkle_root(leaves[::-1]) == root
    for leaf in leaves:
        proof = inclusion_proof(leaves, leaf)
        assert includes(root, leaf, proof)
        assert not includes(root, leaf + b"x", proof)
    with pytest.raises(FormatError, match="not in this tree"):
        inclusion_proof(leaves, b"never a leaf of this tree")


@given(leaves_drawn.filter(lambda leaves: len(leaves) > 1))
def test_a_node_is_no_leaf(leaves: list[bytes]) -> None:
    """The prefixes keep an inner node from being passed off as a leaf."""
    ordered = sorted(leaves)
    inner = sm3(b"\0" + ordered[0]) + sm3(b"\0" + ordered[1])
    assert merkle_root([inner, *ordered[2:]]) != merkle_root(leaves)
