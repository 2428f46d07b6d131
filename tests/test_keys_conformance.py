"""What every key store does, whatever it is made of: one suite over the embedded store and over a real SoftHSM2.

The token does no SM4. Once its SM4 keys are sealed beside it, and the store does all that the embedded one does; once
it goes without them, says so when it opens, and does the same in 3DES. Whatever comes out is compared with a second
reading of the standards (tests/test_keys_reference.py, by `cryptography` and `gmssl`; psec for the retail MAC).
"""

import asyncio
import atexit
import copy
import json
import os
import pickle
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from psec.mac import generate_retail_mac

from cardcore import cryptogram
from cardcore.authority import (
    BlockAct,
    BlockRequest,
    CardIdentity,
    KeyStep,
    LoadRequest,
    OverdraftRequest,
    PinReloadRequest,
    PinUnblockRequest,
    ProtectedAnswer,
    ProtectRequest,
    Under,
    UnloadRequest,
)
from cardcore.card_files import MetroRecord
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.switches import Sm4SessionKey
from keys import acts
from keys.caller import read_signed
from keys.ceremony import TEST_TRANSPORT_KEY
from keys.columns import Records, from_bytes
from keys.custody import Approval
from keys.engine.root import RootKey
from keys.governed import ActVerifier, SealVerifier, TacVerifier
from keys.guarded import Guarded
from keys.loads import Quota, Quotas
from keys.pkcs11 import Missing, TokenStore, open_token_store
from keys.proof import act_digest, sm3, split_digest
from keys.psams import Ceilings
from keys.purposes import SUITE_LABELS, KeyId, KeyPurpose, KeyState, required_roots
from keys.rotation import Move
from keys.store import EmbeddedStore, KeyFacts, open_store
from keys.verifiers import OpenedAct, Verdict
from simulators.card_behaviour import Behaviour
from tests import test_keys_reference as reference
from tests.softhsm import SoftHsm, softhsm
from tests.test_keys_guard import ACTS
from tests.test_keys_loads import QUOTAS, Noon
from tests.test_keys_loads import asked as any_load
from tests.test_keys_personaliser import CHALLENGE, TERMINAL, card, content, psam, secure_mac

Store = EmbeddedStore
OTHER_ISSUER = bytes.fromhex("02317950")


def root(name: str) -> bytes:
    """The key of a name: unlike any other also where DES does not look at a bit."""
    return sm3(name.encode())[:16]


def card_key(suite: Suite, rest: str) -> bytes:
    return reference.card_key(suite, root(f"{SUITE_LABELS[suite]}/{rest}"))


def psam_key(suite: Suite, rest: str) -> bytes:
    return reference.divide(suite, root(f"{SUITE_LABELS[suite]}/{rest}"), b"\0\0" + TERMINAL)


def session_key(request: LoadRequest) -> bytes:
    block, size = reference.BLOCK[request.key_suite]
    seed = reference.pad(request.random + request.counter.to_bytes(2, "big"), size)
    return block(card_key(request.key_suite, f"LOAD/{request.purse}"), seed)


def asked(suite: Suite, counter: int = 4) -> LoadRequest:
    """A load as a card opens it, with its right MAC1."""
    request = any_load(suite, counter=counter)
    covered = cryptogram.load_mac1_input(request.raw_balance_fen, request.amount_fen, 2, request.terminal_number)
    return replace(request, mac1=reference.mac4(suite, session_key(request), covered))


class Kept(Enum):
    """Where the keys of a store are."""

    EMBEDDED = "embedded"
    TOKEN_AND_SEALED = "token and sealed"
    TOKEN_ONLY = "token only"


@dataclass(frozen=True)
class Place:
    """How a store of a kind is opened, again and again."""

    kept: Kept
    path: Path
    token: SoftHsm | None

    @property
    def suites(self) -> tuple[Suite, ...]:
        return (Suite.TRIPLE_DES,) if self.kept is Kept.TOKEN_ONLY else tuple(Suite)

    def open(self, *, production: bool = False) -> Store:
        if self.token is None:
            return open_store(self.path, production=production)
        missing = Missing.LACK if self.kept is Kept.TOKEN_ONLY else Missing.SEAL
        return open_token_store(self.token.uri, self.path, production=production, missing=missing)

    def roots(self, *, test: bool = True) -> list[RootKey]:
        """The keys of the ceremony that this store can hold, and the transport keys."""
        made = [RootKey(KeyId.parse(name), root(name), test=test) for name in required_roots()]
        made += [RootKey(KeyId(suite, KeyPurpose.TRANSPORT), TEST_TRANSPORT_KEY, test=test) for suite in Suite]
        return [one for one in made if one.id.suite in self.suites]


@contextmanager
def placed(kept: Kept, folder: Path, copied: Path | None = None) -> Iterator[Place]:
    """A place for a store of a kind, empty or with what lies in another folder."""
    if copied:
        for part in copied.glob("keys*"):
            (shutil.copytree if part.is_dir() else shutil.copy2)(part, folder / part.name)
    if kept is Kept.EMBEDDED:
        yield Place(kept, folder / "keys", None)
    else:
        with softhsm(folder / "hsm", copied / "hsm" if copied else None) as token:
            yield Place(kept, folder / "keys", token)


@cache
def filled(kept: Kept) -> Path:
    """A folder with a store of a kind that holds its ceremony, made once: a ceremony waits long for the disk."""
    folder = Path(tempfile.mkdtemp(prefix="onecard-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with placed(kept, folder) as place, place.open() as store:
        store.admit(place.roots())
    return folder


@pytest.fixture(params=Kept, ids=lambda kept: kept.value)
def kept(request: pytest.FixtureRequest) -> Kept:
    return Kept(request.param)


@pytest.fixture
def empty(kept: Kept, tmp_path: Path) -> Iterator[Place]:
    """A place without a store."""
    with placed(kept, tmp_path) as place:
        yield place


@pytest.fixture
def place(kept: Kept, tmp_path: Path) -> Iterator[Place]:
    """The place of a store that holds its keys."""
    copied = filled(kept)
    with placed(kept, tmp_path, copied) as place:
        yield place


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with place.open() as opened:
        yield opened


def test_no_bytes_of_a_key_lie_in_any_file(place: Place, store: Store, tmp_path: Path) -> None:
    store.close()
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    planted = [TEST_TRANSPORT_KEY, *(root(name) for name in required_roots())]
    assert len(files) > 10_000
    assert not [key for key in planted if key in files or key.hex().encode() in files]


def test_a_store_opens_again_with_the_same_keys(place: Place, store: Store) -> None:
    before = store.inventory()
    store.close()
    with place.open() as again:
        assert again.inventory() == before
    for fact in before:
        block, size = reference.BLOCK[fact.id.suite]
        value = TEST_TRANSPORT_KEY if fact.id.purpose is KeyPurpose.TRANSPORT else root(fact.id.name)
        assert fact.kcv == block(value, bytes(size))[:3]
        assert fact.test and fact.state is KeyState.ACTIVE
    assert {fact.id.suite for fact in before} == set(place.suites)


def test_a_ceremony_may_be_repeated_but_not_changed(place: Place, store: Store) -> None:
    before = store.inventory()
    store.admit(place.roots())
    fresh = RootKey(KeyId.parse("3des/TAC/1", version=2), bytes(range(16)), test=True)
    changed = RootKey(KeyId.parse("3des/LOAD/1"), bytes(range(16)), test=True)
    with pytest.raises(KeyUseError, match="another value"):
        store.admit([fresh, changed])
    assert store.inventory() == before
    assert [row[2] for row in store.audit()].count("ceremony") == 1


def test_a_production_store_refuses_test_keys_for_ever(empty: Place) -> None:
    with empty.open(production=True) as store:
        with pytest.raises(KeyUseError, match="production store"):
            store.admit(empty.roots())
        assert store.inventory() == []
        with pytest.raises(KeyUseError, match="two approvals"):
            store.admit(empty.roots(test=False))
        assert store.inventory() == []
    with empty.open() as store, pytest.raises(KeyUseError, match="production store"):
        store.admit([RootKey(KeyId.parse("3des/TAC/1", version=2), bytes(range(16)), test=True)])


def test_a_test_store_never_becomes_a_production_store(place: Place, store: Store) -> None:
    store.close()
    with pytest.raises(KeyUseError, match="founded as a test store"):
        place.open(production=True)


def test_an_empty_store_has_no_handles(empty: Place) -> None:
    with empty.open() as store:
        for getter in (store.tac_verifier, store.act_verifier, store.personaliser):
            with pytest.raises(KeyUseError, match="no usable key"):
                getter()
        with pytest.raises(KeyUseError, match="no usable key"):
            store.load_authoriser(Noon(), QUOTAS)


PASSPHRASE = "correct horse battery"


def two(store: Store, act: str) -> list[Approval]:
    return [acts.approve(store, act, name, PASSPHRASE) for name in ("Wang", "Li")]


def carried(store: Store, move: Move, *ids: KeyId) -> Sequence[KeyFacts]:
    return acts.carry_out(store, move, ids, two(store, acts.movement(move, ids)))


async def test_two_persons_lead_a_version_through_its_life(place: Place, store: Store) -> None:
    for name in ("Wang", "Li"):
        acts.enrol(store, name, PASSPHRASE)
    old, new = KeyId.parse("3des/LOAD/1"), KeyId.parse("3des/LOAD/1", version=2)
    key = RootKey(new, sm3(b"the second")[:16], KeyState.PRE_ACTIVE, test=True)
    with pytest.raises(RefusedError, match="two different custodians"):
        acts.install(store, [key], two(store, acts.installation([key]))[:1], ["Zhao"], "none")
    assert new not in {fact.id for fact in store.inventory()}
    acts.install(store, [key], two(store, acts.installation([key])), ["Zhao"], "none")
    authoriser = store.load_authoriser(Noon(), QUOTAS)
    with pytest.raises(RefusedError, match=r"is wrong|no active load key"):
        await authoriser.authorise_load(replace(asked(Suite.TRIPLE_DES), key_version=2))
    for move in (Move.ROLL_OUT, Move.PROMOTE):
        carried(store, move, new)
    assert [fact.state for fact in carried(store, Move.RETIRE, old)] == [KeyState.VERIFY_ONLY]
    # A handle from before obeys at once.
    with pytest.raises(RefusedError, match="no active load key"):
        await authoriser.authorise_load(asked(Suite.TRIPLE_DES))
    carried(store, Move.DESTROY, old)
    assert old not in {fact.id for fact in store.inventory()}
    store.close()
    with place.open() as again:
        assert {fact.id: fact.state for fact in again.inventory()}[new] is KeyState.ACTIVE
        request = replace(asked(Suite.TRIPLE_DES), key_version=2)
        block, size = reference.BLOCK[Suite.TRIPLE_DES]
        card_load = reference.card_key(Suite.TRIPLE_DES, sm3(b"the second")[:16])
        session = block(card_load, reference.pad(request.random + request.counter.to_bytes(2, "big"), size))
        covered = cryptogram.load_mac1_input(request.raw_balance_fen, request.amount_fen, 2, request.terminal_number)
        request = replace(request, mac1=reference.mac4(Suite.TRIPLE_DES, session, covered))
        grant = await again.load_authoriser(Noon(), QUOTAS).authorise_load(request)
        answer = cryptogram.host_mac2_input(request.amount_fen, 2, request.terminal_number, grant.date, grant.time)
        assert grant.mac2 == reference.mac4(Suite.TRIPLE_DES, session, answer)
        with pytest.raises(KeyUseError, match="was here and is destroyed"):
            again.admit([RootKey(old, root("3des/LOAD/1"), test=True)])
        if isinstance(again, TokenStore):
            assert "onecard 3des/LOAD/1 v1 TEST" not in again._hsm.labels()
            assert "onecard 3des/LOAD/1 v2 TEST" in again._hsm.labels()


def test_an_older_copy_of_the_evidence_is_not_opened(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.path, tmp_path / "older")
    with place.open() as store:
        store.admit([RootKey(KeyId.parse("3des/LOAD/1", version=2), bytes(range(16)), test=True)])
    shutil.rmtree(place.path)
    (tmp_path / "older").rename(place.path)
    with pytest.raises(KeyUseError, match="an older copy was put back"):
        place.open()


def batch(*records: TapRecord) -> Records:
    return from_bytes(b"".join(record.encode() for record in records))


def rides(suite: Suite, count: int) -> list[TapRecord]:
    """Debits and loads of many cards of two issuers in three purses, each with its right TAC."""
    made = []
    for place in range(count):
        ride = reference.debit(
            card=reference.CARD[:6] + (place % 7).to_bytes(4, "big"), purse=(1, 3, 4)[place % 3],
            issuer=OTHER_ISSUER if place % 2 else reference.ISSUER, amount_fen=place + 1, terminal_transaction=place,
        )  # fmt: skip
        if place % 5 == 4:
            ride = replace(ride, kind=Kind.LOAD, transaction_type=2, terminal_transaction=0)
        made.append(reference.proven(suite, root(f"{SUITE_LABELS[suite]}/TAC/{ride.purse}"), ride))
    return made


def test_tacs_of_a_mixed_batch(place: Place, store: Store) -> None:
    records = [record for suite in Suite for record in rides(suite, 60)]
    spoilt = [
        replace(record, amount_fen=record.amount_fen + 1) if at % 4 == 0 else record
        for at, record in enumerate(records)
    ]
    wanted = [
        Verdict.NO_KEY if record.suite not in place.suites else Verdict.BAD if at % 4 == 0 else Verdict.OK
        for at, record in enumerate(records)
    ]
    verifier = store.tac_verifier()
    assert verifier.verify(batch(*spoilt)).tolist() == wanted
    unknown = [replace(rides(Suite.TRIPLE_DES, 1)[0], **change) for change in ({"key_version": 2}, {"purse": 2})]  # type: ignore[arg-type]
    assert verifier.verify(batch(*unknown)).tolist() == [Verdict.NO_KEY] * 2
    assert verifier.verify(batch()).tolist() == []


def test_seals(place: Place, store: Store) -> None:
    if Suite.SM4 not in place.suites:
        with pytest.raises(KeyUseError, match=r"CKM_SM4_ECB.*sm4/RECORD"):
            store.seal_verifier()
        return
    raws = [reference.debit(terminal_number=TERMINAL[:5] + bytes((place % 3,))).encode() for place in range(12)]
    sealed = [raw[:120] + reference.seal(root("sm4/RECORD"), raw) for raw in raws]
    altered = sealed[0][:40] + bytes((sealed[0][40] ^ 1,)) + sealed[0][41:]
    assert store.seal_verifier().verify(from_bytes(b"".join([*sealed, altered]))).tolist() == [True] * 12 + [False]


def test_acts(place: Place, store: Store) -> None:
    split = {"account": 300, "fund": 700}
    opened = OpenedAct(Sector.MEDICAL, bytes(range(8)), split_digest(split))
    for suite in place.suites:
        act = reference.debit(
            kind=Kind.ACT, purse=5, suite=suite, transaction_type=0xA2, act_id=b"act-0001", amount_fen=1000
        )
        digest = act_digest(act, opened.sector, opened.challenge, split)
        act = replace(act, cryptogram=reference.act_mac(suite, card_key(suite, "ACT/5"), digest))
        verdicts = store.act_verifier().verify(batch(act, replace(act, amount_fen=999), act), [opened, opened, None])
        assert verdicts.tolist() == [Verdict.OK, Verdict.BAD, Verdict.BAD]


async def test_loads(place: Place, store: Store) -> None:
    authoriser = store.load_authoriser(Noon(), QUOTAS)
    for counter, suite in enumerate(place.suites):
        request = asked(suite, counter=counter)
        grant = await authoriser.authorise_load(request)
        covered = cryptogram.host_mac2_input(10_000, 2, request.terminal_number, grant.date, grant.time)
        assert grant.mac2 == reference.mac4(suite, session_key(request), covered)
        assert await authoriser.authorise_load(request) == grant
        for change in ({"amount_fen": 10_001}, {"counter": 9}, {"mac1": bytes(4)}, {"purse": 4}, {"key_version": 2}):
            with pytest.raises(RefusedError) as refusal:
                await authoriser.authorise_load(replace(request, **change))  # type: ignore[arg-type]
            assert refusal.value.code == "bad-mac1"
    for lacking in set(Suite) - set(place.suites):
        with pytest.raises(RefusedError, match="no active load key of its suite"):
            await authoriser.authorise_load(asked(lacking))
    assert store._state.spent("2026-03-02", "total") == Quota(len(place.suites), 10_000 * len(place.suites))


@pytest.mark.filterwarnings("ignore:.*TripleDES")
@pytest.mark.parametrize("rule", Sm4SessionKey)
def test_a_card_of_each_session_rule(rule: Sm4SessionKey, place: Place, store: Store) -> None:
    """Issued, given an allowance, loaded and unloaded by the store; the software card proves each session key."""
    from tests.test_keys_unloads import Bench, live  # a killed child imports this file without the bench of cards

    for suite in place.suites:
        live(Bench("construction-ministry", suite, store, Behaviour(sm4_session_key=rule.value)))


async def test_loads_at_once_never_exceed_the_quota(store: Store) -> None:
    authoriser = store.load_authoriser(Noon(), Quotas(Quota(5, 100_000), Quota(5, 100_000), Quota(5, 100_000)))
    requests = [asked(Suite.TRIPLE_DES, counter=counter) for counter in range(12)]
    answers = await asyncio.gather(*map(authoriser.authorise_load, requests), return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 5


async def test_every_row_names_who_asked(store: Store) -> None:
    """K7: the user and process, and what of terminal and operator a load was for; a row of before has no caller."""
    await store.load_authoriser(Noon(), QUOTAS).authorise_load(asked(Suite.TRIPLE_DES))
    rows = store.audit()
    uid = os.geteuid()
    assert {caller for *_, caller in rows} == {f"{pwd.getpwuid(uid).pw_name}, uid {uid}, process {os.getpid()}"}
    assert rows[-1][2] == "load" and "terminal 900001 channel 301" in rows[-1][4]
    assert read_signed("10 records: 9 sealed; by Li Na") == ("10 records: 9 sealed; by Li Na", "")


CARD_STEPS = [
    (0x3E, "PURCHASE/smallpay", 1, 3), (0x3F, "LOAD/1", 1, 0), (0x3D, "UNLOAD/3", 3, 0), (0x3C, "OVERDRAFT/4", 4, 0),
    (0x34, "TAC/1", 1, 0), (0x32, "ACT/5", 5, 0),
]  # fmt: skip


async def test_the_keys_of_a_card(place: Place, store: Store) -> None:
    personaliser = store.personaliser()
    for suite in place.suites:
        for kind, name, application, sector in CARD_STEPS:
            prefix = bytes((kind, 0xF0, 0x02, 1, suite))
            step = KeyStep(application, kind, 0x11, suite, Under.CONTROL, prefix, sector=sector, guard=application)
            command = await personaliser.write_key(card(suite), step, CHALLENGE)
            guard = card_key(suite, f"CONTROL/{application}")
            assert content(suite, guard, command) == prefix + card_key(suite, name)
        own = KeyStep(0, 0x39, 0, suite, Under.TRANSPORT, b"\x39\xf0\xfa\xaa\x55", p1=0x39)
        command = await personaliser.write_key(card(suite), own, CHALLENGE)
        assert content(suite, TEST_TRANSPORT_KEY, command) == own.prefix + card_key(suite, "CONTROL/0")


async def test_the_keys_of_a_psam(place: Place, store: Store) -> None:
    personaliser = store.personaliser()
    for suite in place.suites:
        own = KeyStep(0, 0x39, 0, suite, Under.TRANSPORT, b"\x39\xf0\x02\x01\x33", p1=0x39)
        command = await personaliser.write_key(psam(suite), own, CHALLENGE)
        assert content(suite, TEST_TRANSPORT_KEY, command) == own.prefix + psam_key(suite, "CONTROL/0")
        name = f"{SUITE_LABELS[suite]}/PURCHASE/transit"
        step = KeyStep(0, 0x42, 1, suite, Under.TRANSPORT, bytes((0x42, 0xF0, 2, 1, suite)), sector=1)
        if isinstance(store, TokenStore) and suite is Suite.TRIPLE_DES:
            # A province root that cannot be read cannot be written into a PSAM either; opening has said so.
            assert [limit for limit in store.limits if name in limit.keys and "PSAM" in str(limit)]
            with pytest.raises(KeyUseError, match=r"PURCHASE/transit v1 TEST stays in its token"):
                await personaliser.write_key(psam(suite), step, CHALLENGE)
            with pytest.raises(KeyUseError, match="stays in its token"):
                await personaliser.authenticate(psam(suite), 0, Under.TRANSPORT, CHALLENGE)
        else:
            command = await personaliser.write_key(psam(suite), step, CHALLENGE)
            assert content(suite, TEST_TRANSPORT_KEY, command) == step.prefix + root(name)


async def test_authentication_and_secured_commands(place: Place, store: Store) -> None:
    personaliser = store.personaliser()
    command = b"\x00\xd6\x95\x00\x1e" + bytes(range(30))
    for suite in place.suites:
        block, size = reference.BLOCK[suite]
        padded = CHALLENGE.ljust(size, b"\0")
        blank = await personaliser.authenticate(card(suite), 0, Under.TRANSPORT, CHALLENGE)
        assert blank == block(TEST_TRANSPORT_KEY, padded)
        own = await personaliser.authenticate(psam(suite), 0, Under.CONTROL, CHALLENGE)
        assert own == block(psam_key(suite, "CONTROL/0"), padded)
        secured = await personaliser.secure(card(suite), 1, command, CHALLENGE)
        assert secured[-4:] == secure_mac(suite, card_key(suite, "MAINTENANCE/1"), secured[:-4])
        for bent in (b"\x80\x50\x00\x02\x01\x00", b"\x00\x88\x02\x12\x01\x00"):
            with pytest.raises(KeyUseError, match="only writes to files"):
                await personaliser.secure(card(suite), 1, bent, CHALLENGE)
        with pytest.raises(FormatError, match="challenge"):
            await personaliser.authenticate(card(suite), 0, Under.CONTROL, bytes(8))


async def test_overdraft(place: Place, store: Store) -> None:
    date, time = bytes.fromhex("20260302"), bytes.fromhex("160005")
    for suite in place.suites:
        block, size = reference.BLOCK[suite]
        session = block(card_key(suite, "OVERDRAFT/1"), reference.pad(CHALLENGE + b"\x00\x07", size))
        mac1 = reference.mac4(suite, session, cryptogram.overdraft_mac1_input(500, 100, TERMINAL))
        request = OverdraftRequest(card(suite), TERMINAL, 1, suite, 800, 100, 500, 7, CHALLENGE, mac1, date, time)
        expected = reference.mac4(suite, session, cryptogram.overdraft_mac2_input(800, TERMINAL, date, time))
        assert await store.personaliser().set_overdraft(request) == expected
        with pytest.raises(RefusedError, match="allowance is unchanged"):
            await store.personaliser().set_overdraft(replace(request, old_limit_fen=101))


@pytest.mark.filterwarnings("ignore:.*TripleDES")
async def test_the_ceilings_of_psams(place: Place, store: Store) -> None:
    """Two commands for one challenge of one PSAM; no ceiling is none of what it sets."""
    keeper, challenge = store.psam_keeper(), bytes.fromhex("a1b2c3d4e5f60718")
    for suite in place.suites:
        block, size = reference.BLOCK[suite]
        proved = await keeper.prove(psam(suite), challenge)
        answer = block(psam_key(suite, "CONTROL/0"), challenge.ljust(size, b"\0"))
        assert proved == b"\x00\x82\x00\x00" + bytes((size,)) + answer
        made = await keeper.set_ceilings(psam(suite), Ceilings(2000, 400_000), challenge)
        covered = bytes.fromhex("84E800000C 000007D0 00061A80")
        padded = reference.pad(covered, size)
        if suite is Suite.SM4:
            mac = reference.chain(suite, psam_key(suite, "MAINTENANCE/0"), padded, challenge)[:4]
        else:
            key = psam_key(suite, "MAINTENANCE/0")
            first = bytes(a ^ b for a, b in zip(padded[:8], challenge, strict=True))
            mac = generate_retail_mac(key[:8], key[8:], first + padded[8:], 1, 4)
        assert made == covered + mac
        said = [row[2:5] for row in store.audit(2)]
        name, who = SUITE_LABELS[suite], f"PSAM {TERMINAL.hex()}"
        assert said == [
            ("keep", who, f"prove the control key; key {name}/CONTROL/0 v1"),
            ("keep", who, f"ceilings 2000 purchases, 400000 fen; key {name}/MAINTENANCE/0 v1"),
        ]
        for wrong in (bytes(4), bytes(7), bytes(16)):
            with pytest.raises(FormatError, match="challenge"):
                await keeper.prove(psam(suite), wrong)
    for count, amount_fen in ((0, 5), (5, 0), (2**32, 5), (5, -1)):
        with pytest.raises(FormatError, match="none at all"):
            Ceilings(count, amount_fen)
    suspended = KeyId(Suite.TRIPLE_DES, KeyPurpose.MAINTENANCE, "0")
    for name in ("Wang", "Li"):
        acts.enrol(store, name, PASSPHRASE)
    carried(store, Move.SUSPEND, suspended)
    with pytest.raises(KeyUseError, match="no usable key 3des/MAINTENANCE/0"):
        await keeper.set_ceilings(psam(Suite.TRIPLE_DES), Ceilings(1, 1), challenge)
    store.close()
    with pytest.raises(KeyUseError):
        await keeper.prove(psam(place.suites[0]), challenge)


@pytest.mark.filterwarnings("ignore:.*TripleDES")
async def test_the_upkeep_of_issued_cards(place: Place, store: Store) -> None:
    """Locks, PINs and file commands under the keys 36 to 38 of one card, compared with a second reading."""
    upkeep = store.upkeep()
    for suite in place.suites:
        line = card_key(suite, "MAINTENANCE/1")
        made = await upkeep.protect(ProtectRequest(card(suite), 1, bytes.fromhex("00D69500020102"), CHALLENGE))
        assert made[:-4] == bytes.fromhex("04D69500060102")
        assert made[-4:] == secure_mac(suite, line, made[:-4])
        block = await upkeep.block(BlockRequest(card(suite), 1, BlockAct.APPLICATION_BLOCK, CHALLENGE))
        assert block == secure_mac(suite, line, bytes.fromhex("841E000004"))
        body = b"what the card says"
        answer = ProtectedAnswer(card(suite), 1, body, secure_mac(suite, line, body), CHALLENGE)
        assert await upkeep.reveal(answer) == body
        with pytest.raises(RefusedError, match="nothing of it is believed"):
            await upkeep.reveal(replace(answer, mac=bytes(4)))
        pin = bytes.fromhex("123456")
        reloading = card_key(suite, "PIN_RELOAD/1")
        if suite is Suite.TRIPLE_DES:
            reloading = bytes(a ^ b for a, b in zip(reloading[:8], reloading[8:], strict=True))
        assert await upkeep.reload_pin(PinReloadRequest(card(suite), 1, pin)) == reference.mac4(suite, reloading, pin)
        plain = bytes.fromhex("8424000003") + pin
        unblocked = await upkeep.unblock_pin(PinUnblockRequest(card(suite), 1, plain, CHALLENGE))
        assert content(suite, card_key(suite, "PIN_UNBLOCK/1"), unblocked) == pin
    assert {row[2] for row in store.audit(len(place.suites) * 6)} == {"upkeep", "upkeep refused"}


async def test_unloads(place: Place, store: Store) -> None:
    """MAC2 for what a card has opened to pay out, and its MAC3 believed; compared with a second reading."""
    authoriser = store.unload_authoriser(Noon(), QUOTAS)
    for suite in place.suites:
        load = any_load(suite)
        named = {field.name: getattr(load, field.name) for field in fields(load)}
        request = UnloadRequest(**{**named, "raw_balance_fen": 25_000, "amount_fen": 10_000})
        block, size = reference.BLOCK[suite]
        seed = reference.pad(request.random + request.counter.to_bytes(2, "big"), size)
        session = block(card_key(suite, f"UNLOAD/{request.purse}"), seed)
        number, paid = request.terminal_number, bytes.fromhex("00002710 03")
        mac1 = reference.mac4(suite, session, (25_000).to_bytes(4, "big") + paid + number)
        grant = await authoriser.authorise_unload(replace(request, mac1=mac1))
        assert grant.mac2 == reference.mac4(suite, session, paid + number + grant.date + grant.time)
        left = (15_000).to_bytes(4, "big") + request.counter.to_bytes(2, "big") + paid
        mac3 = reference.mac4(suite, session, left + number + grant.date + grant.time)
        await authoriser.confirm_unload(replace(request, mac1=mac1), grant, mac3)
        with pytest.raises(RefusedError, match="pay nothing"):
            await authoriser.confirm_unload(replace(request, mac1=mac1), grant, bytes(4))
        with pytest.raises(RefusedError):
            await authoriser.authorise_unload(replace(request, mac1=bytes(4), counter=9))


async def test_the_guard_of_metro_gates(place: Place, store: Store) -> None:
    """The MAC of an entry is SM4 whatever the card; a store without SM4 has no such handle."""
    if Suite.SM4 not in place.suites:
        with pytest.raises(KeyUseError, match="no usable key for ENTRY"):
            store.entry_guard()
        return
    guard, record = store.entry_guard(), MetroRecord(counter=4)
    mac = await guard.guard(card(Suite.SM4), 1, record)
    covered = b"OCM1" + reference.CARD + b"\x01" + record.encode()[:38]
    assert len(covered) == 53
    key = card_key(Suite.SM4, "ENTRY")
    assert mac == reference.chain(Suite.SM4, key, reference.pad(covered, 16), bytes(16))[:8]
    assert await guard.holds(card(Suite.SM4), 1, replace(record, mac=mac))
    assert not await guard.holds(card(Suite.SM4), 1, replace(record, mac=mac, counter=5))
    assert [row[2] for row in store.audit(3)] == ["guard entry", "check entry", "check entry"]


def handles(place: Place, store: Store) -> list[Guarded]:
    made = [store.tac_verifier(), store.act_verifier(), store.personaliser(), store.load_authoriser(Noon(), QUOTAS)]
    made += [store.psam_keeper(), store.upkeep(), store.unload_authoriser(Noon(), QUOTAS)]
    return [*made, store.seal_verifier(), store.entry_guard()] if Suite.SM4 in place.suites else made


def test_acts_of_each_handle(place: Place, store: Store) -> None:
    for handle in handles(place, store):
        public = {name for name in dir(handle) if not name.startswith("_")} - {"label", "purpose"}
        assert public == ACTS[type(handle).__name__.replace("TokenPersonaliser", "Personaliser")]


def test_handles_show_names_and_cannot_be_copied(place: Place, store: Store) -> None:
    for thing in [*handles(place, store), *store._roots.values()]:
        assert not [
            key for name in required_roots() if (key := root(name).hex()) in f"{thing!r} {thing} {thing:>3}".lower()
        ]
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy, bytes):
            with pytest.raises(KeyUseError, match="cannot be copied"):
                attempt(thing)  # type: ignore[operator]
        with pytest.raises(TypeError):
            json.dumps(thing)


def test_a_key_serves_its_purpose_only(store: Store) -> None:
    for verifier, purpose in (
        (TacVerifier, KeyPurpose.TAC), (SealVerifier, KeyPurpose.RECORD), (ActVerifier, KeyPurpose.ACT),
    ):  # fmt: skip
        foreign = [held for held in store._roots.values() if held.id.purpose is not purpose]
        assert len(foreign) > 30
        with pytest.raises(KeyUseError, match="no usable key"):
            verifier(foreign, store.book)
    assert {held.id.purpose for held in store.tac_verifier()._roots.values()} == {KeyPurpose.TAC}
    assert {held.id.purpose for held in store.load_authoriser(Noon(), QUOTAS)._roots.values()} == {KeyPurpose.LOAD}


async def test_nothing_is_answered_that_cannot_be_written_down(store: Store) -> None:
    personaliser, authoriser = store.personaliser(), store.load_authoriser(Noon(), QUOTAS)
    identity = CardIdentity(reference.ISSUER, reference.CARD, Suite.TRIPLE_DES)
    await personaliser.authenticate(identity, 1, Under.CONTROL, CHALLENGE)
    assert store.audit()[-1][2:5] == ("personalise", f"card {reference.CARD.hex()}", "taken up")
    store.close()
    with pytest.raises(KeyUseError):
        await personaliser.authenticate(identity, 1, Under.CONTROL, CHALLENGE)
    with pytest.raises(KeyUseError):
        await authoriser.authorise_load(asked(Suite.TRIPLE_DES))


def test_many_cards_keep_their_order(store: Store) -> None:
    random = np.random.default_rng(3)
    few = rides(Suite.TRIPLE_DES, 30)
    picked = random.integers(0, len(few), 5_000)
    verdicts = store.tac_verifier().verify(batch(*(few[at] for at in picked)))
    assert (verdicts == Verdict.OK).all()
