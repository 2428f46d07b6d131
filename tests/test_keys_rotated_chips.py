"""A rotation reaches the chips: what is issued carries the versions in force, and everything that answers or verifies
later works by the version that the chip itself tells."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cardcore.authority import OverdraftProof, OverdraftRequest
from cardcore.card_files import Concession
from cardcore.card_map import KeyType, key_id
from cardcore.commands import InitUpdate, PurchaseInitialisation, Select, UpdateOverdraft
from cardcore.errors import CardError, FormatError, KeyUseError, RefusedError
from cardcore.order import CardOrder, PsamOrder
from cardcore.profile import load_profile
from cardcore.purse import Committed
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.script import psam_steps, steps
from cardcore.step import Stage
from cardcore.versions import FIRST_VERSIONS, KeyVersions
from keys.ceremony import test_ceremony
from keys.columns import from_bytes
from keys.purposes import KeyId
from keys.rotation import Move
from keys.store import EmbeddedStore
from keys.verifiers import Verdict
from readers.counter.issuing import Plan
from readers.counter.loading import Claims, draft
from readers.pcsc import purse
from readers.pcsc.ask import ask
from readers.pcsc.debit import Debit, Purchase, debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench, Job
from simulators.card_os import SoftwareCard
from simulators.psam import SoftwarePsam
from tests.counter_side import ISSUER, NOW, PIN, authoriser, blank, order
from tests.custody_side import Moment, hold, move, staffed
from tests.test_keys_loads import COMPONENTS

SM4, TILL = Suite.SM4, purse.Till(130001, bytes.fromhex("00000001FBD1"), "301")
# The shared purse pays three sectors, so the keys of its records are these five.
PURSE = ["sm4/LOAD/1", "sm4/TAC/1", "sm4/PURCHASE/transit", "sm4/PURCHASE/smallpay", "sm4/PURCHASE/utility"]
OWN = ["sm4/OVERDRAFT/1", "sm4/UNLOAD/1", "sm4/RECORD"]
DAY, TIME = bytes.fromhex("20260301"), bytes.fromhex("090000")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with staffed(tmp_path / "keys", Moment()) as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def second(names: list[str]) -> list[KeyId]:
    return [KeyId.parse(name, 2) for name in names]


def rotated(store: EmbeddedStore, folder: Path, names: list[str], *moves: Move) -> None:
    hold(store, names, folder / f"{len(names)}.txt")
    for step in moves:
        move(store, step, *second(names))


def ordered(store: EmbeddedStore, number: int) -> CardOrder:
    return replace(order(number, SM4), versions=store.personaliser().key_versions())


async def issued(store: EmbeddedStore, folder: Path, number: int) -> SoftwareCard:
    card, made = blank(seed=number), ordered(store, number)
    await personalised(store, folder, Job(made.identity, "shared-purse", script(made), DirectChannel(card)))
    return card


async def equipped(store: EmbeddedStore, folder: Path, number: int) -> SoftwarePsam:
    psam = SoftwarePsam.blank("sm4", rng=random.Random(number))
    made = PsamOrder(
        terminal_number=bytes(5) + bytes((number,)),
        serial=bytes(10),
        sector=Sector.TRANSIT,
        suite=SM4,
        versions=store.personaliser().key_versions(),
    )
    await personalised(store, folder, Job(made.identity, "psam", psam_steps(made), DirectChannel(psam)))
    return psam


async def personalised(store: EmbeddedStore, folder: Path, job: Job) -> None:
    journal = Journal(folder / "journal.sqlite")
    try:
        assert await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(job) is None
    finally:
        journal.close()


def script(made: CardOrder) -> tuple:  # type: ignore[type-arg]
    return steps(load_profile("shared-purse"), made)


async def loaded(store: EmbeddedStore, card: SoftwareCard, number: int) -> int:
    """Load 100 yuan, see the record of it proved, and tell the version that it names."""
    kept: list[TapRecord] = []

    class Keeping:
        async def authorise_load(self, request):  # type: ignore[no-untyped-def]
            grant = await authoriser(store).authorise_load(request)
            kept.append(draft(request, grant, Claims(overdraft_fen=800)))
            return grant

    done = await purse.load(DirectChannel(card), Keeping(), TILL, 1, SM4, 10_000, PIN)
    assert isinstance(done.outcome, Committed)
    assert verdict(store, replace(kept[0], cryptogram=done.outcome.tac.ljust(8, b"\0"))) is Verdict.OK
    return kept[0].key_version


async def ridden(store: EmbeddedStore, card: SoftwareCard, psam: SoftwarePsam) -> int:
    """Debit 2 yuan, see the record of it proved, and tell the version that it names."""
    number = psam.terminal_number
    wanted = Purchase(200, 1, SM4, key_id(KeyType.PURCHASE, SM4, Sector.TRANSIT), number, DAY, TIME)
    done = await debit(DirectChannel(card), DirectChannel(psam), wanted)
    assert isinstance(done.outcome, Committed)
    assert done.genuine
    assert verdict(store, ride(done, number)) is Verdict.OK
    return done.opened.key_version


def ride(done: Debit, number: bytes) -> TapRecord:
    opened: PurchaseInitialisation = done.opened
    return TapRecord(
        kind=Kind.DEBIT,
        suite=SM4,
        key_version=opened.key_version,
        issuer=ISSUER,
        card=done.identity.card,
        counter=opened.counter,
        amount_fen=200,
        transaction_type=6,
        terminal_transaction=done.transaction,
        terminal_number=number,
        date=DAY,
        time=TIME,
        terminal=1,
        sequence=1,
        cryptogram=done.outcome.tac.ljust(8, b"\0"),  # type: ignore[union-attr]
    )


def verdict(store: EmbeddedStore, record: TapRecord) -> Verdict:
    return Verdict(int(store.tac_verifier().verify(from_bytes(record.encode()))[0]))


async def test_a_rotation_from_ceremony_to_destruction(store: EmbeddedStore, tmp_path: Path) -> None:
    """Old and new cards go on side by side as the states of their versions allow."""
    assert store.personaliser().key_versions() == FIRST_VERSIONS
    old = await issued(store, tmp_path, 1)
    old_psam = await equipped(store, tmp_path, 1)
    rotated(store, tmp_path, PURSE, Move.ROLL_OUT)
    early = await issued(store, tmp_path, 2)
    # PSAMs come before the cards that they will meet.
    ready = await equipped(store, tmp_path, 2)
    move(store, Move.PROMOTE, *second(PURSE))
    new, made_after = await issued(store, tmp_path, 3), await equipped(store, tmp_path, 3)
    assert [await loaded(store, card, at) for at, card in enumerate((old, early, new))] == [1, 1, 2]
    for psam in (ready, made_after):
        assert [await ridden(store, card, psam) for card in (old, early, new)] == [1, 1, 2]
    with pytest.raises(CardError, match="9403"):
        await ridden(store, new, old_psam)
    # A new PSAM still needs the old purchase roots, as long as old cards ride.
    move(store, Move.RETIRE, *(KeyId.parse(name, 1) for name in PURSE[:2]))
    last = await equipped(store, tmp_path, 4)
    assert [await ridden(store, card, last) for card in (old, new)] == [1, 2]
    with pytest.raises(RefusedError, match="no active load key"):
        await loaded(store, old, 3)
    assert await loaded(store, await issued(store, tmp_path, 6), 4) == 2
    move(store, Move.RETIRE, *(KeyId.parse(name, 1) for name in PURSE[2:]))
    assert await ridden(store, new, await equipped(store, tmp_path, 7)) == 2
    move(store, Move.DESTROY, *(KeyId.parse(name, 1) for name in PURSE))
    store.reload()
    assert await loaded(store, await issued(store, tmp_path, 8), 5) == 2


async def test_the_keys_of_one_purse_go_together(store: EmbeddedStore, tmp_path: Path) -> None:
    """A record has one version for the key that opened the purse and for its TAC."""
    rotated(store, tmp_path, PURSE[:1], Move.ROLL_OUT, Move.PROMOTE)
    assert await loaded(store, await issued(store, tmp_path, 1), 1) == 1
    move(store, Move.RETIRE, KeyId.parse("sm4/LOAD/1", 1))
    with pytest.raises(KeyUseError, match=r"SM4 3F of 1: v2.*promote the missing"):
        script(ordered(store, 2))
    rotated(store, tmp_path, PURSE[1:], Move.ROLL_OUT, Move.PROMOTE)
    assert await loaded(store, await issued(store, tmp_path, 2), 2) == 2


async def test_an_allowance_by_keys_of_two_versions(store: EmbeddedStore, tmp_path: Path) -> None:
    """Allowances, unloads and seals rotate for themselves: each says by what, or is tried by all that are believed."""
    rotated(store, tmp_path, OWN, Move.ROLL_OUT, Move.PROMOTE)
    card, psam = await issued(store, tmp_path, 1), await equipped(store, tmp_path, 1)
    keys = card.mf.files.value[0x3F01].keys.value
    found = {kind: record.version for (kind, _), record in keys.items() if kind in (0x34, 0x3C, 0x3D, 0x3E, 0x3F)}
    assert found == {0x34: 1, 0x3C: 2, 0x3D: 2, 0x3E: 1, 0x3F: 1}
    assert {record.version for (kind, _), record in psam.df.keys.value.items() if kind == 0x26} == {2}
    channel = DirectChannel(card)
    made = ordered(store, 1)
    await ask(channel, Select(bytes.fromhex("A000000632010105")))
    opened = await ask(channel, InitUpdate(key_id(KeyType.OVERDRAFT, SM4), TILL.terminal_number))
    request = OverdraftRequest(
        made.identity, TILL.terminal_number, 1, SM4, 500, opened.overdraft_fen, opened.raw_balance_fen,
        opened.counter, opened.random, opened.mac1, DAY, TIME, key_version=opened.key_version,
    )  # fmt: skip
    with pytest.raises(RefusedError, match="allowance is unchanged"):
        await store.personaliser().set_overdraft(replace(request, key_version=1))
    mac2 = await store.personaliser().set_overdraft(request)
    proof = OverdraftProof(request, await ask(channel, UpdateOverdraft(500, DAY, TIME, mac2)))
    await store.upkeep().confirm_overdraft(proof)
    with pytest.raises(RefusedError, match="TAC"):
        await store.upkeep().confirm_overdraft(replace(proof, tac=bytes(4)))
    rotated(store, tmp_path, PURSE, Move.ROLL_OUT, Move.PROMOTE)
    await store.upkeep().confirm_overdraft(proof)


async def test_what_was_begun_with_a_version_ends_with_it(store: EmbeddedStore, tmp_path: Path) -> None:
    """A plan that goes on after a promotion makes the same script for a card that lies half made."""
    plan = Plan(f"{3107910:08}{1:012}", 2, ISSUER, load_profile("shared-purse"), SM4, Concession.ORDINARY, NOW)
    rotated(store, tmp_path, PURSE, Move.ROLL_OUT, Move.PROMOTE)
    journal = Journal(tmp_path / "plan.sqlite")
    begun, _ = plan.orders(journal, store.personaliser().key_versions())
    card = blank()

    class Dying(Bench):
        async def _stage(self, job, steps, probing):  # type: ignore[no-untyped-def]
            if steps[0].stage is Stage.KEYS:
                raise asyncio.CancelledError
            return await super()._stage(job, steps, probing)

    with pytest.raises(asyncio.CancelledError):
        await Dying(store.personaliser(), journal, "wang", lambda: NOW).personalise(
            plan.job(begun, DirectChannel(card), "one")
        )
    hold(store, PURSE, tmp_path / "third.txt")
    third = [KeyId.parse(name, 3) for name in PURSE]
    for step in (Move.ROLL_OUT, Move.PROMOTE):
        move(store, step, *third)
    again, fresh = plan.orders(journal, store.personaliser().key_versions())
    assert again.versions.active == begun.versions.active
    assert {version for _, version in fresh.versions.active} == {1, 2, 3}
    bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
    assert await bench.personalise(plan.job(again, DirectChannel(card), "one")) is None
    entry = journal.find(f"card {begun.card.hex()}")
    journal.close()
    assert entry is not None and entry.progress is Progress.ISSUED
    assert await loaded(store, card, 1) == 2


def test_versions_as_text() -> None:
    held = KeyVersions(frozenset({((4, 0x3F, 1), 1), ((4, 0x3F, 1), 2)}), frozenset({((4, 0x3E, 1), 3)}))
    assert held.text == "043f0101 043f0102"
    assert KeyVersions.read(held.text) == replace(held, rolling_out=frozenset())
    assert KeyVersions.read("") == FIRST_VERSIONS
    for wrong in ("043f01", "xyz", "043f010101"):
        with pytest.raises(FormatError, match="another hand"):
            KeyVersions.read(wrong)


def test_a_psam_holds_eight_versions_and_no_more() -> None:
    key = (SM4, 0x3E, int(Sector.TRANSIT))
    made = PsamOrder(
        terminal_number=bytes(6), serial=bytes(10), sector=Sector.TRANSIT, suite=SM4,
        versions=KeyVersions(frozenset((key, number) for number in range(1, 9))),
    )  # fmt: skip
    ids = [step.id for step in psam_steps(made) if step.id.startswith("keys.0.42")]
    assert ids[1:] == [f"keys.0.42-{0x11 + 0x20 * place:02X}" for place in range(8)]
    nine = KeyVersions(frozenset((key, number) for number in range(1, 10)))
    with pytest.raises(FormatError, match="holds 8 versions"):
        psam_steps(replace(made, versions=nine))
