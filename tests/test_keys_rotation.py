"""Versions and suites through their life: which moves there are, what each stops at once, and that nothing falls
back."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path

import pytest

from cardcore import cryptogram
from cardcore.authority import CardIdentity, KeyStep, LoadRequest, PsamIdentity, Under
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from keys import acts
from keys.ceremony import test_ceremony
from keys.loads import Quota, Quotas
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.rotation import MOVES, Demand, Life, Move, Sunset, next_version, state_after
from keys.store import FILE_NAME, EmbeddedStore, open_store
from tests import test_keys_reference as reference
from tests.custody_side import Moment, approved, hold, move, staffed
from tests.test_keys_loads import COMPONENTS, asked, spent

TAC = KeyId(Suite.SM4, KeyPurpose.TAC, "1")
LOAD = KeyId(Suite.SM4, KeyPurpose.LOAD, "1")
PLENTY = Quotas(Quota(10**6, 10**12), Quota(10**6, 10**12), Quota(10**6, 10**12))
CARD = CardIdentity(reference.ISSUER, reference.CARD, Suite.SM4)
# The way of a version, written down here once more from docs/keys.md.
WAY = {
    Move.ROLL_OUT: {"pre-active": "rolling-out"},
    Move.PROMOTE: {"rolling-out": "active"},
    Move.RETIRE: {"active": "verify-only", "suspended": "verify-only"},
    Move.SUSPEND: {"active": "suspended"},
    Move.RESUME: {"suspended": "active"},
    Move.COMPROMISE: dict.fromkeys(("pre-active", "rolling-out", "active", "verify-only", "suspended"), "compromised"),
    Move.DESTROY: dict.fromkeys(("pre-active", "verify-only", "compromised"), "destroyed"),
}


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
def store(tmp_path: Path, clock: Moment) -> Iterator[EmbeddedStore]:
    with staffed(tmp_path / "keys", clock) as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def next_of(store: EmbeddedStore, id: KeyId, folder: Path) -> tuple[KeyId, bytes]:
    """The next version of a key, and its value."""
    (made, (one, other)), *_ = hold(store, [id.name], folder / f"{id.version}.txt").items()
    return made, bytes(a ^ b for a, b in zip(bytes.fromhex(one), bytes.fromhex(other), strict=True))


def request(value: bytes, version: int, **changes: object) -> LoadRequest:
    asking = replace(asked(key_version=version, **changes), mac1=b"")
    card = reference.card_key(asking.key_suite, value, CARD.issuer, CARD.card)
    block, size = reference.BLOCK[asking.key_suite]
    session = block(card, reference.pad(asking.random + asking.counter.to_bytes(2, "big"), size))
    covered = cryptogram.load_mac1_input(asking.raw_balance_fen, asking.amount_fen, 2, asking.terminal_number)
    return replace(asking, mac1=reference.mac4(asking.key_suite, session, covered))


@pytest.mark.parametrize(("step", "state"), list(product(Move, KeyState)))
def test_a_version_goes_its_way_and_no_other(step: Move, state: KeyState) -> None:
    other = KeyId(Suite.SM4, KeyPurpose.TAC, "1", 2)
    lives = {id: Life(id, now, "", "", True) for id, now in ((TAC, state), (other, KeyState.ACTIVE))}
    if state in WAY[step]:
        assert state_after(step, TAC, lives) == WAY[step][state]
    else:
        with pytest.raises(KeyUseError, match="nothing was changed"):
            state_after(step, TAC, lives)
    assert set(MOVES) == set(WAY)


def test_the_last_active_version_is_not_retired() -> None:
    old = KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1")
    with pytest.raises(KeyUseError, match="only active version"):
        state_after(Move.RETIRE, TAC, {TAC: Life(TAC, KeyState.ACTIVE, "", "", True)})
    both = {id: Life(id, KeyState.ACTIVE, "", "", True) for id in (TAC, old)}
    # 3DES retires in favour of SM4, never the other way.
    assert state_after(Move.RETIRE, old, both) is KeyState.VERIFY_ONLY
    with pytest.raises(KeyUseError, match="only active version"):
        state_after(Move.RETIRE, TAC, both)


def test_a_version_number_is_never_used_again() -> None:
    lives = [replace(TAC, version=version) for version in (1, 4)]
    assert next_version("sm4/TAC/1", lives) == 5
    assert next_version("sm4/TAC/3", lives) == 1


async def test_a_load_key_from_ceremony_to_destruction(store: EmbeddedStore, clock: Moment, tmp_path: Path) -> None:
    made, value = next_of(store, LOAD, tmp_path)
    assert made.version == 2
    handle = None
    answers: dict[str, bool] = {}
    for step in (None, Move.ROLL_OUT, Move.PROMOTE, Move.SUSPEND, Move.RESUME):
        if step:
            move(store, step, made)
            # A service that was started while the version was rolled out obeys every later move.
            handle = handle or store.load_authoriser(clock, PLENTY)
        asking = request(value, 2, counter=len(answers))
        try:
            await (handle or store.load_authoriser(clock, PLENTY)).authorise_load(asking)
            answers[str(step)] = True
        except RefusedError as refusal:
            assert refusal.code == "bad-mac1"
            answers[str(step)] = False
    assert answers == {"None": False, "roll-out": False, "promote": True, "suspend": False, "resume": True}
    move(store, Move.RETIRE, LOAD)
    with pytest.raises(RefusedError):
        await handle.authorise_load(asked(counter=9))
    clock.pass_(days=30)
    move(store, Move.DESTROY, LOAD)
    lives = store.book.register.lives()
    assert (lives[LOAD].state, lives[LOAD].since[:10]) == (KeyState.DESTROYED, "2026-04-01")
    told = [row for row in store.audit() if row[2] in set(Move)]
    assert [row[2] for row in told] == ["roll-out", "promote", "suspend", "resume", "retire", "destroy"]
    assert all("by Li Na and Wang Wei" in row[4] for row in told)


def test_a_destroyed_key_is_in_no_file_and_never_comes_back(tmp_path: Path, clock: Moment) -> None:
    path = tmp_path / "keys"
    with staffed(path, clock) as store:
        drawn = hold(store, ["sm4/TAC/1"], tmp_path / "1.txt")
        (block,) = [sealed for _, _, sealed in store.book.state.blocks()]
        assert block[-48:] in (path / FILE_NAME).read_bytes() + (path / f"{FILE_NAME}-wal").read_bytes()
        move(store, Move.DESTROY, TAC)
        # At once, not when the service that has the store open lets go of it.
        files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert block[-48:] not in files
    assert not [one for one in drawn[TAC] if one.encode() in files or bytes.fromhex(one) in files]
    with open_store(path, clock=clock) as store:
        assert store.inventory() == []
        with pytest.raises(KeyUseError, match="is destroyed"):
            test_ceremony(store, COMPONENTS)
        made, _ = next_of(store, TAC, tmp_path / "next")
        assert made.version == 2


def test_a_retired_tac_key_verifies_and_a_compromised_one_does_not(store: EmbeddedStore, tmp_path: Path) -> None:
    verifier = store.tac_verifier()
    selector = (Suite.SM4, 1, 1)
    made, _ = next_of(store, TAC, tmp_path)
    for step in (Move.ROLL_OUT, Move.PROMOTE):
        move(store, step, made)
    move(store, Move.RETIRE, TAC)
    assert selector in verifier._roots
    move(store, Move.COMPROMISE, TAC)
    assert selector not in verifier._roots


STEP = KeyStep(1, 0x34, 0, Suite.TRIPLE_DES, Under.CONTROL, bytes.fromhex("34f0f00100"))


def makers(store: EmbeddedStore, clock: Moment) -> dict[str, Callable[[], object]]:
    """What makes something by 3DES: a load, a key in a chip, the opening of a blank."""
    old = replace(CARD, suite=Suite.TRIPLE_DES)
    loads, bench = store.load_authoriser(clock, PLENTY), store.personaliser()
    return {
        "load": lambda: asyncio.run(loads.authorise_load(asked(Suite.TRIPLE_DES))),
        "key": lambda: asyncio.run(bench.write_key(CARD, STEP, bytes(4))),
        "blank": lambda: asyncio.run(bench.authenticate(old, 0, Under.TRANSPORT, bytes(4))),
        "psam": lambda: asyncio.run(
            bench.authenticate(PsamIdentity(bytes(6), Suite.TRIPLE_DES), 0, Under.TRANSPORT, bytes(4))
        ),
    }


def test_the_sunset_of_3des_falls_on_its_days(store: EmbeddedStore, clock: Moment) -> None:
    end = Sunset(Suite.TRIPLE_DES, date(2026, 6, 30), date(2027, 6, 30))
    acts.set_sunset(store, end, approved(store, acts.sunset_act(end)))
    verifier = store.tac_verifier()
    makes = makers(store, clock)
    # 15:59:59 UTC is the last second of a day in China.
    for instant, making, verifying in (
        ("2026-06-30T15:59:59+00:00", True, True),
        ("2026-06-30T16:00:00+00:00", False, True),
        ("2027-06-30T15:59:59+00:00", False, True),
        ("2027-06-30T16:00:00+00:00", False, False),
    ):
        clock.instant = type(clock.instant).fromisoformat(instant)
        for name, make in makes.items():
            if making:
                make()
                continue
            with pytest.raises(RefusedError, match="until 2026-06-30") as refusal:
                make()
            assert refusal.value.code == "sunset", name
        assert {suite for suite, _, _ in verifier._roots} == ({0, 4} if verifying else {4})
        asyncio.run(store.load_authoriser(clock, PLENTY).authorise_load(asked()))


def test_a_sunset_that_would_strand_cards_is_refused() -> None:
    with pytest.raises(RefusedError, match="before loading does"):
        Sunset(Suite.TRIPLE_DES, date(2026, 6, 30), date(2026, 6, 29))


@pytest.mark.parametrize(
    "subject", [f"card {reference.CARD.hex()}", f"issuer {reference.ISSUER.hex()}", "terminal 900001"]
)
async def test_who_works_with_sm4_only_gets_nothing_of_3des(subject: str, store: EmbeddedStore, clock: Moment) -> None:
    demand = Demand(subject, date(2026, 3, 2))
    loads = store.load_authoriser(clock, PLENTY)
    await loads.authorise_load(asked(Suite.TRIPLE_DES, counter=1))
    acts.demand_sm4(store, demand, approved(store, acts.demand_act(demand)))
    before = spent(store)
    with pytest.raises(RefusedError, match="SM4 only") as refusal:
        await loads.authorise_load(asked(Suite.TRIPLE_DES, counter=2))
    assert refusal.value.code == "downgrade"
    assert spent(store) == before
    assert store.audit()[-1][2] == "load refused" and "downgrade" in store.audit()[-1][4]
    await loads.authorise_load(asked(counter=2))
    other = replace(asked(Suite.TRIPLE_DES, counter=3), mac1=bytes(4), terminal=5)
    if subject.startswith("terminal"):
        with pytest.raises(RefusedError, match="MAC1"):
            await loads.authorise_load(other)


@pytest.mark.parametrize(
    "subject", ["", "bank ABC", "terminal 0130001", "card 031000000000000000010", "issuer 02317910 ", "card 0310"]
)
def test_a_demand_names_somebody(subject: str) -> None:
    with pytest.raises(FormatError, match="nothing was set"):
        Demand(subject, date(2026, 3, 2))


@pytest.mark.parametrize("subject", [f"card {reference.CARD.hex()}", f"issuer {reference.ISSUER.hex()}"])
async def test_a_demand_holds_for_keys_written_into_a_card(subject: str, store: EmbeddedStore) -> None:
    demand = Demand(subject, date(2026, 3, 2))
    bench = store.personaliser()
    await bench.write_key(CARD, STEP, bytes(4))
    acts.demand_sm4(store, demand, approved(store, acts.demand_act(demand)))
    with pytest.raises(RefusedError, match="SM4 only"):
        await bench.write_key(CARD, STEP, bytes(4))


def test_a_key_that_is_not_in_force_goes_into_no_chip(store: EmbeddedStore) -> None:
    bench = store.personaliser()
    step = replace(STEP, suite=Suite.SM4, prefix=bytes.fromhex("34f0f00104"))
    asyncio.run(bench.write_key(CARD, step, bytes(4)))
    move(store, Move.SUSPEND, TAC)
    with pytest.raises(KeyUseError, match="goes into no chip"):
        asyncio.run(bench.write_key(CARD, step, bytes(4)))


def test_moves_of_several_keys_happen_together_or_not(store: EmbeddedStore, tmp_path: Path) -> None:
    hold(store, ["sm4/TAC/1", "sm4/LOAD/1"], tmp_path / "t.txt")
    ids = [replace(TAC, version=2), replace(LOAD, version=2)]
    with pytest.raises(KeyUseError, match="no key"):
        move(store, Move.ROLL_OUT, *ids, replace(LOAD, version=7))
    states = {fact.id: fact.state for fact in store.inventory()}
    assert {states[id] for id in ids} == {KeyState.PRE_ACTIVE}
    move(store, Move.ROLL_OUT, *ids)
    states = {fact.id: fact.state for fact in store.inventory()}
    assert {states[id] for id in ids} == {KeyState.ROLLING_OUT}


def test_a_name_of_no_key_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        hold(store, ["sm4/MAC/1"], tmp_path / "t.txt")
