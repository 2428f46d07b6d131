"""Ten rules that make misuse of keys impossible, one test each, each seen to fail. K1 (no key bytes in or out of any
public callable) is read from all signatures in test_keys_guard.py; here is its counterpart at run time."""

import asyncio
import gc
import hmac
import inspect
import json
import logging
import pickle
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.authority import CardIdentity, KeyStep, Under
from cardcore.errors import FormatError, KeyUseError, OnecardError, RefusedError
from cardcore.record import Suite
from keys import acts
from keys.ceremony import Ceremony, test_ceremony
from keys.columns import Records, from_bytes, octets, part
from keys.engine.root import RootKey
from keys.guarded import Guarded
from keys.purposes import KeyId, KeyPurpose
from keys.rotation import Move
from keys.store import FILE_NAME, EmbeddedStore
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier, Verdict
from tests import test_keys_reference as reference
from tests.custody_side import Moment, approved, hold, staffed
from tests.test_keys_loads import COMPONENTS, QUOTAS, Noon, asked, root, spent

CARD = CardIdentity(reference.ISSUER, reference.CARD, Suite.SM4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with staffed(tmp_path / "keys", Moment()) as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def debits(suite: Suite, version: int = 1, count: int = 20) -> Records:
    """Debits with right TACs, by the reference's own arithmetic."""
    value = root("sm4/TAC/1" if suite is Suite.SM4 else "3des/TAC/1")
    made = [reference.debit(suite=suite, key_version=version, counter=place, purse=1) for place in range(count)]
    return from_bytes(bytearray(b"".join(reference.proven(suite, value, one).encode() for one in made)))


def test_k1_no_key_leaves_by_any_public_door(store: EmbeddedStore) -> None:
    """Everything that a program can ask of a store and its handles, without arguments, holds no root key."""
    shown = []
    for thing in (store, *handles(store), store.book, store.book.register, store.book.state):
        for name, member in inspect.getmembers(thing):
            if name.startswith("_") or name in ("close", "lift_anchor"):
                continue
            try:
                value = member() if inspect.ismethod(member) else member
            except (TypeError, OnecardError):
                continue
            shown.append(f"{value!r}{value}")
    text = "".join(shown)
    assert len(text) > 10_000
    for name in COMPONENTS:
        assert root(name).hex() not in text and repr(root(name))[2:-1] not in text


def handles(store: EmbeddedStore) -> list[Guarded]:
    return [
        store.tac_verifier(), store.seal_verifier(), store.act_verifier(), store.personaliser(),
        store.load_authoriser(Noon(), QUOTAS),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(chosen=st.binary(min_size=0, max_size=40), ins=st.integers(0, 255), id=st.integers(0, 255))
def test_k2_no_handle_enciphers_or_macs_chosen_text(chosen: bytes, ins: int, id: int) -> None:
    """Whatever is pushed into the personaliser: a WRITE KEY or a write to a file comes out, or a refusal."""
    bench = BENCH.personaliser()
    step = KeyStep(1, 0x34, id, Suite.SM4, Under.CONTROL, chosen[:5], chosen[5:])
    command = bytes((0x00, ins, 0, 0, len(chosen))) + chosen
    for made in (bench.write_key(CARD, step, bytes(4)), bench.secure(CARD, 1, command, bytes(4))):
        try:
            answer = asyncio.run(made)
        except (FormatError, KeyUseError):
            continue
        assert answer[0] & 0x04 and answer[1] in (0xD4, 0xD6, 0xDC, 0xE2)
        if answer[1] == 0xD4:
            assert len(step.prefix) == 5 and step.prefix[0] == 0x34 and not step.suffix
    for handle in handles(BENCH):
        assert not {"mac", "encrypt", "sign", "decrypt", "reveal", "derive"} & set(dir(handle))


@pytest.fixture(scope="module", autouse=True)
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global BENCH
    BENCH = staffed(tmp_path_factory.mktemp("bench") / "keys", Moment())
    test_ceremony(BENCH, COMPONENTS)
    yield
    BENCH.close()


BENCH: EmbeddedStore


def test_k3_no_key_in_words_logs_files_or_leavings(store: EmbeddedStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for handle in handles(store):
        logging.getLogger("k3").info("%s %r %s", handle, handle, f"{handle:>200}")
        for attempt in (pickle.dumps, bytes, json.dumps):
            with pytest.raises((KeyUseError, TypeError)):
                attempt(handle)  # type: ignore[operator]  # one of three that take anything
    asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked()))
    store.tac_verifier().verify(debits(Suite.SM4))
    words = caplog.text + json.dumps(store.audit())
    files = b"".join(file.read_bytes() for file in store.book.state.path.parent.parent.rglob("*") if file.is_file())
    for name in COMPONENTS:
        assert root(name).hex() not in words.lower() and root(name).hex().encode() not in files.lower()
        assert root(name) not in files


def test_k4_a_handle_of_another_purpose_or_version_cannot_be_made_or_used(store: EmbeddedStore) -> None:
    owners = {TacVerifier: KeyPurpose.TAC, SealVerifier: KeyPurpose.RECORD, ActVerifier: KeyPurpose.ACT}
    scopes = {purpose: id.scope for purpose in KeyPurpose for id in [_any(purpose)]}
    for verifier, own in owners.items():
        for purpose in KeyPurpose:
            key = RootKey(KeyId(Suite.SM4, purpose, scopes[purpose]), bytes(range(16)))
            if purpose is own:
                assert verifier([key])
            else:
                with pytest.raises(KeyUseError, match="no usable key"):
                    verifier([key])
        assert not [name for name in dir(verifier) if name.startswith(("authorise", "write", "secure", "make"))]
    assert (store.tac_verifier().verify(debits(Suite.SM4, version=2)) == Verdict.NO_KEY).all()


def _any(purpose: KeyPurpose) -> KeyId:
    from keys.purposes import SCOPES

    return KeyId(Suite.SM4, purpose, SCOPES[purpose][0])


def test_k5_a_failure_tells_nothing_of_the_right_answer(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = debits(Suite.SM4)
    right = [part(octets(records), "cryptogram")[place, :4].tobytes() for place in range(3)]
    records["cryptogram"] = np.void(b"\1\2\3\4" + bytes(4))
    verdicts = store.tac_verifier().verify(records)
    assert set(verdicts.tolist()) <= {int(Verdict.BAD)} and verdicts.dtype == np.uint8
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("keys.loads.hmac.compare_digest", watched)
    wrong = replace(asked(), mac1=bytes(4))
    with pytest.raises(RefusedError) as refusal:
        asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(wrong))
    (expected, given_), *_ = [pair for pair in compared if pair[1] == wrong.mac1]
    assert given_ == wrong.mac1
    told = f"{refusal.value}{store.audit()}"
    assert expected.hex() not in told and asked().mac1.hex() not in told and not any(one.hex() in told for one in right)


@pytest.mark.parametrize("suite", Suite)
def test_k6_no_suite_stands_in_for_the_other(suite: Suite, store: EmbeddedStore) -> None:
    verifier = store.tac_verifier()
    records = debits(suite)
    assert (verifier.verify(records) == Verdict.OK).all()
    other = records.copy()
    other["suite"] = next(one for one in Suite if one is not suite)
    assert not (verifier.verify(other) == Verdict.OK).any()
    # Not even the same bytes under both names, which no ceremony makes.
    same = [RootKey(KeyId(one, KeyPurpose.TAC, "1"), root("sm4/TAC/1")) for one in Suite]
    assert not (TacVerifier(same).verify(other) == Verdict.OK).any()
    assert (TacVerifier([key for key in same if key.id.suite is not suite]).verify(records) == Verdict.NO_KEY).all()


def test_k7_every_use_is_in_the_audit_or_does_not_happen(store: EmbeddedStore) -> None:
    verifier, loads, bench = store.tac_verifier(), store.load_authoriser(Noon(), QUOTAS), store.personaliser()
    seals, online = store.seal_verifier(), store.act_verifier()
    records = debits(Suite.SM4)
    records["cryptogram"][0] = np.void(bytes(8))
    before = len(store.audit())
    verifier.verify(records)
    seals.verify(records)
    online.verify(records, [None] * len(records))
    rows = store.audit()[before:]
    assert [(row[2], row[3]) for row in rows] == [("verify", "TAC"), ("verify", "RECORD"), ("verify", "ACT")]
    assert "20 records: 19 OK, 1 BAD, 0 NO_KEY" in rows[0][4] and "sm4/TAC/1 v1" in rows[0][4]
    assert verifier.verify(records[:0]).shape == (0,) and len(store.audit()) == before + 3
    # Nobody else may write while this one does: the audit cannot be written, whatever the reason.
    store.book.state._db.execute("PRAGMA busy_timeout = 20")
    blocker = sqlite3.connect(store.book.state.path.parent / FILE_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    uses = {
        "tac": lambda: verifier.verify(records),
        "seal": lambda: seals.verify(records),
        "act": lambda: online.verify(records, [None] * len(records)),
        "load": lambda: asyncio.run(loads.authorise_load(asked())),
        "chip": lambda: asyncio.run(bench.authenticate(CARD, 0, Under.TRANSPORT, bytes(4))),
    }
    for name, use in uses.items():
        with pytest.raises(KeyUseError, match="cannot write down"):
            use()
        assert name
    blocker.execute("ROLLBACK")
    blocker.close()
    assert spent(store).loads == 0
    for use in uses.values():
        use()


def test_k8_no_act_on_keys_without_two_persons(store: EmbeddedStore, tmp_path: Path) -> None:
    """Every act, by one person, by one person twice, and by two who said yes to something else."""
    from datetime import date

    from keys.rotation import Demand, Sunset

    (made,) = hold(store, ["sm4/TAC/1"], tmp_path / "t.txt")
    end, demand = Sunset(Suite.TRIPLE_DES, date(2027, 1, 1), date(2028, 1, 1)), Demand("terminal 1", date(2027, 1, 1))
    sitting = Ceremony(store, ["sm4/TAC/3"], 2)
    for person, digits in (("Chen Yi", "1" * 32), ("Sun Li", "2" * 31 + "3")):
        sitting.seat(person)
        sitting.give(sitting.ids[0], digits[::-1])
    doings = {
        acts.movement(Move.ROLL_OUT, [made]): lambda a: acts.carry_out(store, Move.ROLL_OUT, [made], a),
        acts.movement(Move.DESTROY, [made]): lambda a: acts.carry_out(store, Move.DESTROY, [made], a),
        acts.movement(Move.COMPROMISE, [made]): lambda a: acts.carry_out(store, Move.COMPROMISE, [made], a),
        acts.sunset_act(end): lambda a: acts.set_sunset(store, end, a),
        acts.demand_act(demand): lambda a: acts.demand_sm4(store, demand, a),
        acts.issuing_act(["0" * 12]): lambda a: acts.issue_psams(store, ["0" * 12], a),
        acts.enrolment("Nobody"): lambda a: acts.enrol(store, "Nobody", "words long enough", a),
        sitting.act: lambda a: sitting.finish(a, tmp_path / "u.txt"),
    }
    before = [store.book.state.rows(table) for table in ("block", "life", "rule", "custodian", "approval")]
    for act, do in doings.items():
        for names, words in (([], act), (["Li Na"], act), (["Li Na", "Li Na"], act), (["Li Na", "Wang Wei"], "tea")):
            with pytest.raises(RefusedError) as refusal:
                do(approved(store, words, names))
            assert refusal.value.code == "two-persons"
    assert before == [store.book.state.rows(table) for table in ("block", "life", "rule", "custodian", "approval")]


def test_k9_the_quota_is_spent_on_the_disk_before_mac2_exists(store: EmbeddedStore) -> None:
    """Another connection sees the load written down at the moment when MAC2 is asked of the key. (The kill between
    the two is in test_keys_loads.py.)"""
    from keys.engine.suites import SessionKey

    path, seen, real = store.book.state.path, [], SessionKey.mac4

    def mac4(key: SessionKey, message: bytes) -> bytes:
        other = sqlite3.connect(path)
        seen.append(other.execute("SELECT count(*) FROM load").fetchone()[0])
        other.close()
        return real(key, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SessionKey, "mac4", mac4)
        asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked()))
    assert seen == [0, 1]
    gc.collect()


def test_k10_three_bytes_of_check_value_and_no_more(store: EmbeddedStore) -> None:
    for fact in store.inventory():
        assert len(fact.kcv) == 3
    for suite in Suite:
        name = "sm4/TAC/1" if suite is Suite.SM4 else "3des/TAC/1"
        block, size = reference.BLOCK[suite]
        whole = block(root(name), bytes(size)).hex()
        told = f"{store.inventory()}{store.tac_verifier()!r}{store.audit()}{store.book.register.lives()}".lower()
        assert whole[:6] in told and whole[:8] not in told


def test_a_guarded_thing_without_a_label_cannot_be_made() -> None:
    class Nameless(Guarded):
        pass

    with pytest.raises(TypeError, match="label"):
        Nameless()  # type: ignore[abstract]  # what the test is about
