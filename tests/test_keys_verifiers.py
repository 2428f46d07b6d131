"""Bulk verdicts: every record of every suite, and every single byte of a record turned."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.errors import KeyUseError
from cardcore.record import BY_NAME, FIELDS, RECORD_BYTES, Kind, Sector, Suite, TapRecord
from keys.columns import RECORD_DTYPE, Records, from_bytes, octets
from keys.engine.root import RootKey
from keys.engine.suites import suite_of
from keys.proof import act_digest, split_digest
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.verifiers import ActVerifier, OpenedAct, SealVerifier, TacVerifier, Verdict
from tests import test_keys_reference as reference

ROOTS = {
    (suite, purse): bytes(31 * purse + 7 * suite + octet for octet in range(16))
    for suite in Suite
    for purse in (1, 3, 4)
}
RECORD_ROOT = bytes(range(100, 116))
ACT_ROOT = bytes(range(60, 76))
PROVEN = ("issuer", "amount_fen", "transaction_type", "terminal_number", "date", "time")
SELECTING = ("suite", "key_version", "purse")


def tac_verifier(state: KeyState = KeyState.ACTIVE) -> TacVerifier:
    return TacVerifier(
        RootKey(KeyId(suite, KeyPurpose.TAC, str(purse)), octets_, state) for (suite, purse), octets_ in ROOTS.items()
    )


def array(*records: TapRecord) -> Records:
    return from_bytes(b"".join(record.encode() for record in records))


def proven(suite: Suite, record: TapRecord) -> TapRecord:
    return reference.proven(suite, ROOTS[suite, record.purse], record)


def load(**changes: object) -> TapRecord:
    opened = reference.debit(kind=Kind.LOAD, transaction_type=2, terminal_transaction=0, amount_fen=10_000, counter=3)
    return replace(opened, **changes)  # type: ignore[arg-type]  # tests change any field


records_drawn = st.builds(
    lambda number, issuer, kind, purse, suite, amount, balance, overdraft: proven(
        suite,
        replace(
            reference.debit() if kind != Kind.LOAD else load(),
            kind=kind, purse=purse, card=reference.CARD[:6] + number.to_bytes(4, "big"), issuer=issuer,
            amount_fen=amount,
            balance_before_fen=balance, overdraft_fen=overdraft,
        ),
    ),
    st.integers(0, 5), st.sampled_from([reference.ISSUER, bytes.fromhex("02317950")]),
    st.sampled_from([Kind.DEBIT, Kind.ENTRY, Kind.EXIT, Kind.LOAD]), st.sampled_from([1, 3, 4]), st.sampled_from(Suite),
    st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip


@given(st.lists(st.tuples(records_drawn, st.booleans()), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_mixed_batch_gets_each_record_its_own_verdict(batch: list[tuple[TapRecord, bool]]) -> None:
    spoilt = [
        record if good else replace(record, cryptogram=bytes((record.cryptogram[0] ^ 1,)) + record.cryptogram[1:])
        for record, good in batch
    ]
    wanted = [Verdict.OK if good else Verdict.BAD for _, good in batch]
    assert tac_verifier().verify(array(*spoilt)).tolist() == wanted


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("is_load", [False, True])
def test_each_byte_of_a_record_is_proven_or_claimed(suite: Suite, is_load: bool) -> None:
    record = proven(suite, load() if is_load else reference.debit())
    own = ("counter", "balance_before_fen", "overdraft_fen") if is_load else ("terminal_transaction",)
    turned = octets(np.repeat(array(record), RECORD_BYTES)).copy()
    turned[np.arange(RECORD_BYTES), np.arange(RECORD_BYTES)] ^= 0x40
    verdicts = tac_verifier().verify(turned.view(RECORD_DTYPE).ravel())
    for field in FIELDS:
        for place in range(field.offset, field.offset + field.width):
            verdict = verdicts[place]
            if field.name in SELECTING:
                assert verdict != Verdict.OK, field.name
            elif field.name in (*PROVEN, *own, "cryptogram") or field.name == "kind":
                assert verdict == Verdict.BAD, field.name
            elif field.name == "card":
                # The factor is the serial's last 8 bytes: the first two are not under the TAC.
                assert verdict == (Verdict.OK if place < field.offset + 2 else Verdict.BAD)
            else:
                assert verdict == Verdict.OK, field.name


@given(st.integers(0, 119), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_altered_byte_breaks_the_seal(place: int, change: int) -> None:
    raw = proven(Suite.SM4, reference.debit()).encode()
    sealed = raw[:120] + reference.seal(RECORD_ROOT, raw)
    altered = bytearray(sealed)
    altered[place] ^= change
    assert seal_verifier().verify(from_bytes(sealed + bytes(altered))).tolist() == [True, False]


def seal_verifier() -> SealVerifier:
    return SealVerifier([RootKey(KeyId(Suite.SM4, KeyPurpose.RECORD), RECORD_ROOT)])


def test_seals_of_many_psams_and_none() -> None:
    raws = [
        reference.debit(terminal_number=bytes((0x79, 0x10, 0, 0, 0, place % 5)), sequence=place + 1).encode()
        for place in range(40)
    ]
    sealed = [
        raw[:120] + (reference.seal(RECORD_ROOT, raw) if place % 3 else bytes(8)) for place, raw in enumerate(raws)
    ]
    assert seal_verifier().verify(from_bytes(b"".join(sealed))).tolist() == [place % 3 != 0 for place in range(40)]
    assert seal_verifier().verify(from_bytes(b"")).tolist() == []


def test_one_psam_cannot_seal_for_another() -> None:
    raw = reference.debit().encode()
    other = replace(reference.debit(), terminal_number=bytes.fromhex("791001000002")).encode()
    assert not seal_verifier().verify(from_bytes(other[:120] + reference.seal(RECORD_ROOT, raw)))[0]


def test_no_key_is_said_as_such() -> None:
    good = proven(Suite.SM4, reference.debit())
    batch = array(replace(good, key_version=2), replace(good, suite=7), replace(good, purse=2), good)
    assert tac_verifier().verify(batch).tolist() == [Verdict.NO_KEY, Verdict.NO_KEY, Verdict.NO_KEY, Verdict.OK]


def test_suites_never_stand_in_for_each_other() -> None:
    """K6: with the very same root bytes in both suites, no cryptogram of one passes as the other's."""
    root = bytes(range(16))
    verifier = TacVerifier(RootKey(KeyId(suite, KeyPurpose.TAC, "1"), root) for suite in Suite)
    rides = [reference.debit(terminal_transaction=number) for number in range(100)]
    for suite, other in ((Suite.SM4, Suite.TRIPLE_DES), (Suite.TRIPLE_DES, Suite.SM4)):
        forged = [replace(reference.proven(suite, root, ride), suite=other) for ride in rides]
        assert verifier.verify(array(*forged)).tolist() == [Verdict.BAD] * len(rides)


def test_large_batches_keep_their_order() -> None:
    """More lanes than a chunk, cards in no order, one record in a hundred wrong."""
    random = np.random.default_rng(5)
    card, number = random.integers(0, 900, 40_000), 40_000
    rows = octets(np.repeat(array(reference.debit(suite=Suite.SM4)), number)).copy()
    rows[:, 20:22] = card.astype(">u2").view(np.uint8).reshape(-1, 2)
    key = {
        value: reference.card_key(Suite.SM4, ROOTS[Suite.SM4, 1], card=rows[np.argmax(card == value), 12:22].tobytes())
        for value in np.unique(card)
    }
    message = rows[0, 24:46].tobytes()
    tacs = {value: suite_of(Suite.SM4)(octets_).act_mac(message)[:4] for value, octets_ in key.items()}
    rows[:, 46:50] = np.frombuffer(b"".join(tacs[value] for value in card), np.uint8).reshape(-1, 4)
    rows[::100, 46] ^= 1
    wanted = np.full(number, Verdict.OK)
    wanted[::100] = Verdict.BAD
    assert (tac_verifier().verify(rows.view(RECORD_DTYPE).ravel()) == wanted).all()


@pytest.mark.parametrize("suite", Suite)
def test_acts_against_what_was_opened(suite: Suite) -> None:
    split = {"account": 300, "fund": 700}
    opened = OpenedAct(Sector.MEDICAL, bytes(range(8)), split_digest(split))
    act = reference.debit(
        kind=Kind.ACT, purse=5, suite=suite, transaction_type=0xA2, act_id=b"act-0001", amount_fen=1000
    )
    digest = act_digest(act, opened.sector, opened.challenge, split)
    act = replace(act, cryptogram=reference.act_mac(suite, reference.card_key(suite, ACT_ROOT), digest))
    verifier = ActVerifier([RootKey(KeyId(suite, KeyPurpose.ACT, "5"), ACT_ROOT)])
    other = replace(opened, split_digest=split_digest({"fund": 1000}))
    altered = [
        replace(act, **change) for change in ({"amount_fen": 999}, {"time": b"\x09\x00\x00"}, {"act_id": b"act-0002"})
    ]
    batch = array(act, act, act, *altered, replace(act, purse=2), replace(act, kind=Kind.DEBIT))
    verdicts = verifier.verify(batch, [opened, other, None, opened, opened, opened, opened, opened])
    ok, bad, no_key = Verdict.OK, Verdict.BAD, Verdict.NO_KEY
    assert verdicts.tolist() == [ok, bad, bad, bad, bad, bad, no_key, bad]
    # The eighth byte of an act's cryptogram counts as much as the first.
    assert (
        verifier.verify(array(replace(act, cryptogram=act.cryptogram[:7] + bytes((act.cryptogram[7] ^ 1,)))), [opened])
        == bad
    )


def test_what_has_no_tac_and_what_may_have_one() -> None:
    """A torn declaration has none of itself; the TAC of a debit under its name is that debit's."""
    debit = proven(Suite.SM4, reference.debit())
    batch = array(*(replace(debit, kind=kind) for kind in (Kind.ACT, 0, 9)), replace(debit, kind=Kind.TORN),
                  replace(debit, kind=Kind.TORN, cryptogram=bytes(8)))  # fmt: skip
    assert tac_verifier().verify(batch).tolist() == [*[Verdict.BAD] * 3, Verdict.OK, Verdict.BAD]


def test_state_of_a_key_decides_its_use() -> None:
    good = array(proven(Suite.SM4, reference.debit()))
    assert tac_verifier(state=KeyState.VERIFY_ONLY).verify(good).tolist() == [Verdict.OK]
    with pytest.raises(KeyUseError, match="no usable key for TAC"):
        tac_verifier(state=KeyState.COMPROMISED)


def test_columns_are_the_field_table() -> None:
    assert RECORD_DTYPE.itemsize == RECORD_BYTES
    record = reference.debit(balance_before_fen=-5)
    row = array(record)[0]
    for field in FIELDS:
        assert RECORD_DTYPE.fields is not None and RECORD_DTYPE.fields[field.name][1] == field.offset
        value = getattr(record, field.name)
        assert (row[field.name].tobytes() if field.unit == "b" else int(row[field.name])) == value
    assert BY_NAME["seal"].offset == 120
