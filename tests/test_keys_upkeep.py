"""Upkeep of issued chips: what a counter asks of keys 36, 37, 38 and TAC, and the MACs of metro gates.

What comes out is compared with psec (3DES) and gmssl (SM4), and played against the software card and PSAM.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from cardcore_issuer import Issuer
from terminal_side import SUITES, must, xor

from cardcore.apdu import CommandApdu
from cardcore.authority import (
    BlockAct,
    BlockRequest,
    CardIdentity,
    KeyStep,
    OverdraftProof,
    OverdraftRequest,
    PinReloadRequest,
    PinUnblockRequest,
    ProtectedAnswer,
    ProtectRequest,
    PsamIdentity,
    Under,
)
from cardcore.card_files import Leg, MetroRecord, MetroState, TransferRecord
from cardcore.card_map import ALL_APPLICATIONS, KeyType
from cardcore.commands import (
    ApplicationBlock,
    ApplicationUnblock,
    CardBlock,
    DebitPurchase,
    ExternalAuthenticate,
    GetChallenge,
    InitPurchase,
    InitUpdate,
    ProtectedRead,
    ProtectedWrite,
    ReadBinary,
    ReloadPin,
    Select,
    UnblockPin,
    UpdateBinary,
    UpdateOverdraft,
    VerifyPin,
)
from cardcore.commands.pin import unblock_head
from cardcore.errors import CardError, FormatError, KeyUseError, RefusedError
from cardcore.order import PsamOrder
from cardcore.profile import ApplicationSpec
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.script import psam_steps
from cardcore.switches import OverdraftTacKey, PinUnblockPlace
from keys.ceremony import test_ceremony
from keys.columns import from_bytes
from keys.entries import EntryGuard
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.register import life_row, psam_row, sunset_row
from keys.rotation import Sunset
from keys.store import EmbeddedStore, open_store
from keys.upkeep import CardUpkeep
from keys.verifiers import Verdict
from simulators.card_behaviour import Behaviour
from simulators.psam import SoftwarePsam
from tests.test_keys_unloads import COMPONENTS, EVERY_CARD, NAMES, TERMINAL, Bench, Noon, chip_key

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved", "ignore:Two-key TripleDES")

CARD = CardIdentity(bytes.fromhex("02317910"), bytes.fromhex("03105170010170907984"), Suite.SM4)
CHALLENGE = bytes.fromhex("C0FFEE01")
DATE, TIME = bytes.fromhex("20260302"), bytes.fromhex("081530")
WRITE = bytes.fromhex("00D6951C027766")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path / "keys", clock=Noon()) as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path_factory.mktemp("bank") / "keys") as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def upkeep_of(store: EmbeddedStore, psams: frozenset[str] | None = None) -> CardUpkeep:
    return CardUpkeep(store._in_use(), store.book, psams)


@pytest.fixture
def upkeep(store: EmbeddedStore) -> CardUpkeep:
    return upkeep_of(store)


def put(store: EmbeddedStore, name: str, state: KeyState) -> None:
    life = store.book.register.lives()[KeyId.parse(name)]
    store.book.state.change([life_row(replace(life, state=state))], [])


# By hand


@pytest.mark.parametrize("challenge", [CHALLENGE, CHALLENGE * 2])
@pytest.mark.parametrize("suite", Suite)
async def test_protected_commands_byte_by_byte(suite: Suite, challenge: bytes, upkeep: CardUpkeep) -> None:
    identity, oracle = replace(CARD, suite=suite), SUITES[NAMES[suite]]
    key = chip_key(suite, "MAINTENANCE/1", identity)
    short = bytes.fromhex("027766") + b"\x80" + bytes(oracle.block - 4)
    full = bytes(range(oracle.block - 1))
    expected = {
        (WRITE, False): bytes.fromhex("04D6951C06 7766"),
        (WRITE, True): bytes.fromhex("04D6951C") + bytes((oracle.block + 4,)) + oracle.encrypt(key, short),
        (bytes.fromhex("00DC01C4") + bytes((len(full),)) + full, True): (
            bytes.fromhex("04DC01C4")
            + bytes((oracle.block + 4,))
            + oracle.encrypt(key, bytes((len(full),)) + full)  # a field that fills its block has no padding
        ),
        (bytes.fromhex("00E200C00155"), False): bytes.fromhex("04E200C0 05 55"),
        (bytes.fromhex("00B0961A"), True): bytes.fromhex("04B0961A04"),
        (bytes.fromhex("00B201C417"), False): bytes.fromhex("04B201C404"),
    }
    for (command, enciphered), covered in expected.items():
        made = await upkeep.protect(ProtectRequest(identity, 1, command, challenge, enciphered))
        assert made == covered + oracle.mac(key, covered, challenge)[:4]


@pytest.mark.parametrize("suite", Suite)
async def test_locks_and_pins_byte_by_byte(suite: Suite, upkeep: CardUpkeep) -> None:
    identity, oracle = replace(CARD, suite=suite), SUITES[NAMES[suite]]
    for act in BlockAct:
        application = 0 if act is BlockAct.CARD_BLOCK else 1
        key = chip_key(suite, f"MAINTENANCE/{application}", identity)
        mac = oracle.mac(key, bytes.fromhex(act.value + "04"), CHALLENGE)[:4]
        assert await upkeep.block(BlockRequest(identity, application, act, CHALLENGE)) == mac
    for pin in (bytes.fromhex("1234"), bytes.fromhex("123456"), bytes.fromhex("123456789012")):
        key = oracle.tac_key(chip_key(suite, "PIN_RELOAD/4", identity))
        assert await upkeep.reload_pin(PinReloadRequest(identity, 4, pin)) == oracle.mac(key, pin)[:4]
        for head in ("84240001", "84240100"):
            command = bytes.fromhex(head) + bytes((len(pin),)) + pin
            key = chip_key(suite, "PIN_UNBLOCK/4", identity)
            made = await upkeep.unblock_pin(PinUnblockRequest(identity, 4, command, CHALLENGE))
            field = bytes((len(pin),)) + pin
            field += b"\x80" * (len(field) % oracle.block > 0)
            field = oracle.encrypt(key, field.ljust(oracle.block, b"\0"))
            covered = bytes.fromhex(head) + bytes((len(field) + 4,)) + field
            assert made == covered + oracle.mac(key, covered, CHALLENGE)[:4]


@pytest.mark.parametrize("suite", Suite)
async def test_answers_are_believed_by_their_mac(suite: Suite, upkeep: CardUpkeep, store: EmbeddedStore) -> None:
    identity, oracle = replace(CARD, suite=suite), SUITES[NAMES[suite]]
    key = chip_key(suite, "MAINTENANCE/1", identity)
    content = bytes(range(20))
    field = bytes((20,)) + content + b"\x80"
    field = oracle.encrypt(key, field.ljust(32 if suite is Suite.SM4 else 24, b"\0"))
    plain = ProtectedAnswer(identity, 1, content, oracle.mac(key, content, CHALLENGE)[:4], CHALLENGE)
    hidden = ProtectedAnswer(identity, 1, field, oracle.mac(key, field, CHALLENGE)[:4], CHALLENGE, enciphered=True)
    for answer in (plain, hidden):
        assert await upkeep.reveal(answer) == content
        for bent in (
            {"body": b"\xff" + answer.body[1:]},
            {"mac": bytes(4)},
            {"challenge": bytes(4)},
            {"application": 2},
            {"identity": replace(identity, card=bytes(10))},
        ):
            with pytest.raises(RefusedError) as refusal:
                await upkeep.reveal(replace(answer, **bent))  # type: ignore[arg-type]  # tests change any field
            assert refusal.value.code == "bad-mac" and answer.mac.hex() not in str(refusal.value)
            assert store.audit()[-1][2] == "upkeep refused"
    for malformed in (
        replace(plain, enciphered=True),  # not whole blocks, whatever its MAC
        replace(plain, mac=plain.mac[:3]),
        replace(plain, body=b""),
        replace(plain, challenge=b""),
    ):
        with pytest.raises(FormatError):
            await upkeep.reveal(malformed)


@pytest.mark.parametrize("kind", OverdraftTacKey)
@pytest.mark.parametrize("suite", Suite)
async def test_the_tac_of_an_allowance(suite: Suite, kind: OverdraftTacKey, store: EmbeddedStore) -> None:
    upkeep, oracle = upkeep_of(store), SUITES[NAMES[suite]]
    # The suite of the purse's keys decides, not that of the card.
    asked = OverdraftRequest(CARD, TERMINAL, 3, suite, 800, 500, 2_500, 7, CHALLENGE, bytes(4), DATE, TIME)
    covered = bytes.fromhex("00000AF0 0007 000320 07") + TERMINAL + DATE + TIME
    key = chip_key(suite, "TAC/3", CARD)
    folded, whole = oracle.mac(oracle.tac_key(key), covered)[:4], oracle.mac(key, covered)[:4]
    right = folded if kind is OverdraftTacKey.FOLDED else whole
    await upkeep.confirm_overdraft(OverdraftProof(asked, right, kind))
    assert store.audit()[-1][2] == "upkeep" and "500 to 800 fen" in store.audit()[-1][4]
    wrong = [
        ({}, bytes(4)),
        ({"limit_fen": 801}, right),
        ({"old_limit_fen": 499}, right),
        ({"raw_balance_fen": 2_501}, right),
        ({"counter": 8}, right),
        ({"purse": 1}, right),
        ({"time": DATE[:3]}, right),
    ]
    if suite is Suite.TRIPLE_DES:
        wrong.append(({}, whole if kind is OverdraftTacKey.FOLDED else folded))
    for changes, tac in wrong:
        with pytest.raises(RefusedError) as refusal:
            await upkeep.confirm_overdraft(OverdraftProof(replace(asked, **changes), tac, kind))  # type: ignore[arg-type]
        assert refusal.value.code == "bad-tac" and right.hex() not in str(refusal.value)
        assert store.audit()[-1][2] == "upkeep refused"
    for bad in ({"limit_fen": 2**24}, {"counter": -1}, {"old_limit_fen": 9_999}, {"date": b""}):
        with pytest.raises(FormatError):
            await upkeep.confirm_overdraft(OverdraftProof(replace(asked, **bad), right, kind))  # type: ignore[arg-type]


# What it refuses


@pytest.mark.parametrize(
    "command",
    ["80DC21D00155", "841E0000", "84160000", "84D401000155", "008802120155", "00840000", "84240000021234", "80500002"],
)
async def test_only_file_commands_are_protected(command: str, upkeep: CardUpkeep) -> None:
    with pytest.raises(KeyUseError, match="only reads and writes of files"):
        await upkeep.protect(ProtectRequest(CARD, 1, bytes.fromhex(command), CHALLENGE))


async def test_what_no_chip_takes_is_refused(upkeep: CardUpkeep, store: EmbeddedStore) -> None:
    before = len(store.audit())
    for command in (b"", WRITE[:4], WRITE[:6], bytes.fromhex("00B095000155"), WRITE[:4] + b"\xec" + bytes(236)):
        with pytest.raises(FormatError):
            await upkeep.protect(ProtectRequest(CARD, 1, command, CHALLENGE))
    for challenge in (b"", bytes(5), bytes(16)):
        with pytest.raises(FormatError, match="challenge"):
            await upkeep.protect(ProtectRequest(CARD, 1, WRITE, challenge))
        with pytest.raises(FormatError, match="challenge"):
            await upkeep.block(BlockRequest(CARD, 1, BlockAct.APPLICATION_BLOCK, challenge))
    for identity in (replace(CARD, issuer=b"1"), replace(CARD, card=bytes(8)), PsamIdentity(b"1", Suite.SM4)):
        with pytest.raises(FormatError):
            await upkeep.protect(ProtectRequest(identity, 0, WRITE, CHALLENGE))
    for application, act in ((0, BlockAct.APPLICATION_BLOCK), (1, BlockAct.CARD_BLOCK)):
        with pytest.raises(FormatError, match="MF"):
            await upkeep.block(BlockRequest(CARD, application, act, CHALLENGE))
    for application in (7, -1):
        with pytest.raises(FormatError, match="scopes"):
            await upkeep.protect(ProtectRequest(CARD, application, WRITE, CHALLENGE))
    for pin in (b"\x12", bytes(7), b"\x12\x3a", b""):
        with pytest.raises(FormatError) as refusal:
            await upkeep.reload_pin(PinReloadRequest(CARD, 1, pin))
        assert str(refusal.value).startswith("a PIN has 4 to 12 decimal digits")
        with pytest.raises(FormatError):
            await upkeep.unblock_pin(
                PinUnblockRequest(CARD, 1, b"\x84\x24\0\0" + bytes((len(pin),)) * bool(pin) + pin, CHALLENGE)
            )
    for head in ("04240000", "84D40000", "84240101", "841E0000"):
        with pytest.raises(FormatError, match="PIN UNBLOCK is"):
            await upkeep.unblock_pin(PinUnblockRequest(CARD, 1, bytes.fromhex(head + "03123456"), CHALLENGE))
    assert len(store.audit()) == before, "nothing was used"


async def every_act(upkeep: CardUpkeep) -> list[str]:
    """Each method once: what it raised, or nothing."""
    asked = OverdraftRequest(CARD, TERMINAL, 1, CARD.suite, 8, 5, 25, 7, CHALLENGE, bytes(4), DATE, TIME)
    told = []
    for act in (
        upkeep.protect(ProtectRequest(CARD, 1, WRITE, CHALLENGE)),
        upkeep.reveal(ProtectedAnswer(CARD, 1, b"1", bytes(4), CHALLENGE)),
        upkeep.block(BlockRequest(CARD, 1, BlockAct.APPLICATION_BLOCK, CHALLENGE)),
        upkeep.reload_pin(PinReloadRequest(CARD, 1, bytes.fromhex("975318"))),
        upkeep.unblock_pin(PinUnblockRequest(CARD, 1, bytes.fromhex("8424000003975318"), CHALLENGE)),
        upkeep.confirm_overdraft(OverdraftProof(asked, bytes(4))),
    ):
        try:
            await act
            told.append("")
        except (KeyUseError, RefusedError) as error:
            told.append(type(error).__name__)
    return told


async def test_every_use_is_in_the_audit_or_does_not_happen(upkeep: CardUpkeep, store: EmbeddedStore) -> None:
    before = len(store.audit())
    assert await every_act(upkeep) == ["", "RefusedError", "", "", "", "RefusedError"]
    rows = [row[2:5] for row in store.audit()[before:]]
    assert [(act, detail.split("; key ")[1]) for act, _, detail in rows] == [
        ("upkeep", "sm4/MAINTENANCE/1 v1"),
        ("upkeep refused", "sm4/MAINTENANCE/1 v1"),
        ("upkeep", "sm4/MAINTENANCE/1 v1"),
        ("upkeep", "sm4/PIN_RELOAD/1 v1"),
        ("upkeep", "sm4/PIN_UNBLOCK/1 v1"),
        ("upkeep refused", "sm4/TAC/1 v1"),
    ]
    assert {subject for _, subject, _ in rows} == {f"card {CARD.card.hex()}"}
    assert "975318" not in str(store.audit()) and "7766" not in str(rows), "neither a PIN nor a content"
    guard = EntryGuard(store._in_use(), store.book)
    store.close()
    assert await every_act(upkeep) == ["KeyUseError"] * 6
    for entry in (guard.guard(CARD, 1, MetroRecord()), guard.holds(CARD, 1, MetroRecord())):
        with pytest.raises(KeyUseError):
            await entry


async def test_a_retired_key_keeps_its_cards_in_order_and_a_suspended_one_nothing(store: EmbeddedStore) -> None:
    upkeep = upkeep_of(store)
    names = [f"sm4/{purpose}/1" for purpose in ("MAINTENANCE", "PIN_RELOAD", "PIN_UNBLOCK", "TAC")]
    for name in names:
        put(store, name, KeyState.VERIFY_ONLY)
    assert "KeyUseError" not in await every_act(upkeep)
    for name in names:
        put(store, name, KeyState.SUSPENDED)
    assert await every_act(upkeep) == ["KeyUseError"] * 6


async def test_an_old_card_can_be_blocked_after_its_sunset_and_proves_nothing(store: EmbeddedStore) -> None:
    upkeep, old = upkeep_of(store), replace(CARD, suite=Suite.TRIPLE_DES)
    store.book.state.change([sunset_row(Sunset(Suite.TRIPLE_DES, date(2026, 1, 1), date(2026, 3, 1)))], [])
    assert await upkeep.block(BlockRequest(old, 0, BlockAct.CARD_BLOCK, CHALLENGE))
    asked = OverdraftRequest(old, TERMINAL, 1, old.suite, 8, 5, 25, 7, CHALLENGE, bytes(4), DATE, TIME)
    with pytest.raises(RefusedError) as refusal:
        await upkeep.confirm_overdraft(OverdraftProof(asked, bytes(4)))
    assert refusal.value.code == "sunset"


def test_handles_hold_keys_of_their_purposes_only(store: EmbeddedStore, upkeep: CardUpkeep) -> None:
    own = {KeyPurpose.MAINTENANCE, KeyPurpose.PIN_UNBLOCK, KeyPurpose.PIN_RELOAD, KeyPurpose.TAC}
    assert {id.purpose for id in upkeep._roots} == own
    guard = EntryGuard(store._in_use(), store.book)
    assert [str(id) for id in guard._roots] == ["sm4/ENTRY v1"]
    with pytest.raises(KeyUseError, match="no usable key"):
        CardUpkeep([root for root in store._roots.values() if root.id.purpose not in own], store.book)
    with pytest.raises(KeyUseError, match="no usable key"):
        EntryGuard([root for root in store._roots.values() if root.id.purpose is not KeyPurpose.ENTRY], store.book)
    with pytest.raises(FormatError, match="SM4"):
        KeyId(Suite.TRIPLE_DES, KeyPurpose.ENTRY)


# Against the software card


class Counter(Bench):
    """An issued card and the upkeep handle of its store."""

    @property
    def upkeep(self) -> CardUpkeep:
        return upkeep_of(self.store)

    @property
    def challenge(self) -> bytes:
        self.last = self.ask(GetChallenge(8))
        return self.last

    def protected(self, application: int, plain: CommandApdu, *, enciphered: bool = False) -> bytes:
        # What `protect` takes has no Le.
        raw = replace(plain, le=None).encode()
        request = ProtectRequest(self.identity, application, raw, self.challenge, enciphered)
        return asyncio.run(self.upkeep.protect(request))

    def write(self, application: int, plain: UpdateBinary, *, enciphered: bool = False) -> None:
        self.ask(ProtectedWrite(plain, self.protected(application, plain.apdu(), enciphered=enciphered)))

    def read(self, application: int, plain: ReadBinary, *, enciphered: bool = False) -> bytes:
        command = self.protected(application, plain.apdu(), enciphered=enciphered)
        told = self.ask(ProtectedRead(plain, command))
        answer = ProtectedAnswer(self.identity, application, told.body, told.mac, self.last, enciphered)
        return asyncio.run(self.upkeep.reveal(answer))

    def lock(self, application: int, act: BlockAct) -> bytes:
        return asyncio.run(self.upkeep.block(BlockRequest(self.identity, application, act, self.challenge)))

    def binaries(self, item: ApplicationSpec) -> list[int]:
        return [file.sfi for file in item.files if file.protected and not file.count and file.read_right == 0xF0]


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_files_are_mended_and_read_under_protection(name: str, suite: Suite, bank: EmbeddedStore) -> None:
    counter, seen = Counter(name, suite, bank), 0
    for item in counter.profile.applications:
        counter.card.power_on()
        counter.ask(Select(ALL_APPLICATIONS[item.number].aid))
        for sfi in counter.binaries(item):
            before = counter.ask(ReadBinary(sfi, 30))
            counter.write(item.number, UpdateBinary(sfi, b"\x77\x66", offset=28))
            assert counter.read(item.number, ReadBinary(sfi, 30)) == before[:28] + b"\x77\x66"
            seen += 1
    assert seen >= 2
    purse = counter.purses[0]
    counter.select(purse)
    issuer = counter.store.personaliser()
    proof = asyncio.run(issuer.authenticate(counter.identity, purse, Under.CONTROL, counter.ask(GetChallenge())))
    counter.ask(ExternalAuthenticate(proof))
    must(counter.card, "80E00007", bytes.fromhex("E80028F0F0FFFF"))
    for size in (7, 15, 30):
        counter.write(purse, UpdateBinary(7, bytes(range(size))), enciphered=True)
        assert counter.read(purse, ReadBinary(7, size), enciphered=True) == bytes(range(size))
    with pytest.raises(CardError, match="6988"):
        counter.ask(ProtectedWrite(UpdateBinary(7, b"1"), counter.protected(0, UpdateBinary(7, b"1").apdu())))


@pytest.mark.parametrize("place", PinUnblockPlace)
@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_a_forgotten_and_a_blocked_pin(name: str, suite: Suite, place: PinUnblockPlace, bank: EmbeddedStore) -> None:
    counter = Counter(name, suite, bank, Behaviour(pin_unblock_place=place.value))
    for purse in counter.purses:
        counter.select(purse)
        reload = PinReloadRequest(counter.identity, purse, bytes.fromhex("2468"))
        counter.ask(ReloadPin("2468", asyncio.run(counter.upkeep.reload_pin(reload))))
        counter.ask(VerifyPin("2468"))
        for _ in range(3):
            with pytest.raises(CardError):
                counter.ask(VerifyPin("000000"))
        with pytest.raises(CardError, match="6983"):
            counter.ask(VerifyPin("2468"))
        plain = unblock_head(place, "135791").encode()
        request = PinUnblockRequest(counter.identity, purse, plain, counter.challenge)
        counter.ask(UnblockPin(asyncio.run(counter.upkeep.unblock_pin(request))))
        counter.ask(VerifyPin("135791"))


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_applications_and_cards_are_blocked(name: str, suite: Suite, bank: EmbeddedStore) -> None:
    counter = Counter(name, suite, bank)
    for purse in counter.purses:
        counter.select(purse)
        counter.ask(ApplicationBlock(mac=counter.lock(purse, BlockAct.APPLICATION_BLOCK)))
        with pytest.raises(CardError, match="6283"):
            counter.select(purse)
        counter.ask(ApplicationUnblock(counter.lock(purse, BlockAct.APPLICATION_UNBLOCK)))
        counter.select(purse)
        counter.ask(ApplicationBlock(permanent=True, mac=counter.lock(purse, BlockAct.APPLICATION_BLOCK_FOR_EVER)))
        with pytest.raises(CardError, match="9303"):
            counter.ask(ApplicationUnblock(counter.lock(purse, BlockAct.APPLICATION_UNBLOCK)))
    counter.card.power_on()
    counter.ask(CardBlock(counter.lock(0, BlockAct.CARD_BLOCK)))
    counter.card.power_on()
    with pytest.raises(CardError, match="6A81"):
        counter.challenge  # noqa: B018 - a blocked card answers nothing any more


@pytest.mark.parametrize("kind", OverdraftTacKey)
@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_an_allowance_proves_itself(name: str, suite: Suite, kind: OverdraftTacKey, bank: EmbeddedStore) -> None:
    counter = Counter(name, suite, bank, Behaviour(overdraft_tac_key=kind.value))
    for purse in counter.purses:
        for limit in (1_200, 300):
            counter.select(purse)
            opened = counter.ask(InitUpdate(counter.key_index(purse, KeyType.OVERDRAFT), TERMINAL))
            request = OverdraftRequest(
                counter.identity, TERMINAL, purse, Suite(opened.algorithm), limit, opened.overdraft_fen,
                opened.raw_balance_fen, opened.counter, opened.random, opened.mac1, DATE, TIME,
            )  # fmt: skip
            mac2 = asyncio.run(counter.store.personaliser().set_overdraft(request))
            proof = OverdraftProof(request, counter.ask(UpdateOverdraft(limit, DATE, TIME, mac2)), kind)
            asyncio.run(counter.upkeep.confirm_overdraft(proof))
            with pytest.raises(RefusedError):
                asyncio.run(counter.upkeep.confirm_overdraft(replace(proof, request=replace(request, counter=99))))


@pytest.mark.parametrize("suite", Suite)
def test_a_city_card_pays_by_keys_of_its_own(suite: Suite, bank: EmbeddedStore) -> None:
    """Its purchase and TAC roots have scope 6, whatever the sector."""
    counter, oracle = Counter("construction-ministry", suite, bank), SUITES[NAMES[suite]]
    counter.load(6, 5_000)
    opened = counter.ask(InitPurchase(counter.key_index(6, KeyType.PURCHASE), 200, TERMINAL))
    key = chip_key(suite, "PURCHASE/6", counter.identity)
    session = oracle.session(key, opened.random + opened.counter.to_bytes(2, "big") + b"\0\x09")
    covered = bytes.fromhex("000000C806") + TERMINAL + DATE + TIME
    receipt = counter.ask(DebitPurchase(9, DATE, TIME, oracle.mac(session, covered)[:4]))
    assert receipt.mac2 == oracle.mac(session, bytes.fromhex("000000C8"))[:4]
    record = TapRecord(
        kind=Kind.DEBIT, terminal=110001, sequence=1,
        issuer=counter.identity.issuer, card=counter.identity.card, purse=6, suite=suite, key_version=1,
        amount_fen=200, transaction_type=6, terminal_number=TERMINAL, terminal_transaction=9, date=DATE, time=TIME,
        cryptogram=receipt.tac + bytes(4),
    )  # fmt: skip
    spoilt = replace(record, amount_fen=201)
    verdicts = bank.tac_verifier().verify(from_bytes(record.encode() + spoilt.encode()))
    assert verdicts.tolist() == [Verdict.OK, Verdict.BAD]


# PSAMs and gates

NUMBER = bytes.fromhex("791001000001")


@pytest.mark.parametrize("suite", Suite)
def test_a_psam_is_mended_once_two_persons_opened_it(suite: Suite, store: EmbeddedStore) -> None:
    order = PsamOrder(terminal_number=NUMBER, serial=bytes(10), sector=Sector.TRANSIT, suite=suite)
    psam = SoftwarePsam.blank(NAMES[suite], rng=random.Random(4))
    psam.power_on()
    asyncio.run(Issuer(psam, store.personaliser(), order.identity).run(psam_steps(order)))
    psam.power_on()

    def mend(upkeep: CardUpkeep) -> None:
        challenge = must(psam, "00840000", le=4)
        command = bytes.fromhex("00D6950002 7766")
        request = ProtectRequest(order.identity, 0, command, challenge)
        assert psam.transmit(asyncio.run(upkeep.protect(request))) == b"\x90\0"
        assert must(psam, "00B09500", le=2) == b"\x77\x66"

    mend(upkeep_of(store))
    mend(upkeep_of(store, frozenset({NUMBER.hex()})))
    guarded = upkeep_of(store, frozenset({"0" * 12}))
    with pytest.raises(RefusedError) as refusal:
        mend(guarded)
    assert refusal.value.code == "two-persons"
    for until, opened in ((datetime(2026, 3, 2, 8, 0, 4, tzinfo=UTC), False), (datetime(2026, 3, 3, tzinfo=UTC), True)):
        store.book.state.change([psam_row(NUMBER.hex(), until)], [])
        if opened:
            mend(guarded)
        else:
            with pytest.raises(RefusedError):
                mend(guarded)
    with pytest.raises(FormatError, match="one application"):
        asyncio.run(guarded.protect(ProtectRequest(order.identity, 1, WRITE, CHALLENGE)))


def gate(suite: Suite, store: EmbeddedStore) -> SoftwarePsam:
    """A gate's PSAM with the entry root, written as docs/card.md has it."""
    psam = SoftwarePsam.blank(NAMES[suite], rng=random.Random(4))
    psam.power_on()
    step = KeyStep(0, 0x46, 0x01, Suite.SM4, Under.TRANSPORT, bytes.fromhex("46F0FA0104"))
    challenge = must(psam, "00840000", le=4)
    command = asyncio.run(store.personaliser().write_key(PsamIdentity(NUMBER, suite), step, challenge))
    assert psam.transmit(command) == b"\x90\0"
    return psam


ENTRY = MetroRecord(MetroState.IN, 1, 4, datetime(2026, 3, 2, 8), NUMBER, counter=0x1234)
LEG = TransferRecord(leg=Leg.BUS, at=datetime(2026, 3, 2, 8), operator=101, fare_fen=200, counter=7)


@pytest.mark.parametrize("purse", [1, 3, 4, 6])
@pytest.mark.parametrize("record", [ENTRY, LEG])
@pytest.mark.parametrize("suite", Suite)
def test_entry_macs_are_those_of_a_gate(
    suite: Suite, record: MetroRecord | TransferRecord, purse: int, bank: EmbeddedStore
) -> None:
    guard, psam, identity = EntryGuard(bank._in_use(), bank.book), gate(suite, bank), replace(CARD, suite=suite)
    covered = b"OCM1" + identity.card + bytes((purse,)) + record.encode()[:38]
    must(psam, "801A4601", identity.card[-8:] + identity.issuer * 2)
    by_gate = must(psam, "80FA0500", covered, 8)
    oracle, root = SUITES["sm4"], xor(*COMPONENTS["sm4/ENTRY"])
    key = oracle.derive(oracle.derive(root, identity.issuer * 2), identity.card[-8:])
    made = asyncio.run(guard.guard(identity, purse, record))
    assert made == by_gate == oracle.mac(key, covered)[:8]
    assert ("guard entry", f"card {identity.card.hex()}") in {row[2:4] for row in bank.audit(3)}

    def holds(shown: MetroRecord | TransferRecord, card: CardIdentity = identity, at: int = purse) -> bool:
        return asyncio.run(guard.holds(card, at, shown))

    genuine = replace(record, mac=made)
    assert holds(genuine) and bank.audit()[-1][2] == "check entry"
    other = replace(genuine, entry_station=5) if isinstance(genuine, MetroRecord) else replace(genuine, operator=102)
    for forged in (record, other, replace(genuine, counter=8), replace(genuine, mac=made[:7] + bytes((made[7] ^ 1,)))):
        assert not holds(forged)
    assert not holds(genuine, replace(identity, card=identity.card[:9] + b"\x85"))
    assert not holds(genuine, at=6 if purse == 1 else 1)
    with pytest.raises(FormatError, match="no purse"):
        holds(genuine, at=2)


async def test_entries_are_made_by_the_newest_active_key_and_believed_by_the_older(store: EmbeddedStore) -> None:
    from keys.engine.root import RootKey

    first = await EntryGuard(store._in_use(), store.book).guard(CARD, 1, ENTRY)
    store.admit([RootKey(KeyId(Suite.SM4, KeyPurpose.ENTRY, version=2), bytes(range(16)), test=True)])
    guard = EntryGuard(store._in_use(), store.book)
    second = await guard.guard(CARD, 1, ENTRY)
    assert first != second
    assert [await guard.holds(CARD, 1, replace(ENTRY, mac=mac)) for mac in (first, second)] == [True, True]
    store.book.state.change(
        [life_row(replace(life, state=KeyState.SUSPENDED)) for id, life in store.book.register.lives().items()
         if id.purpose is KeyPurpose.ENTRY and id.version == 2], []
    )  # fmt: skip
    assert await guard.guard(CARD, 1, ENTRY) == first
    assert [await guard.holds(CARD, 1, replace(ENTRY, mac=mac)) for mac in (first, second)] == [True, False]
    put(store, "sm4/ENTRY", KeyState.VERIFY_ONLY)
    with pytest.raises(KeyUseError, match="no active ENTRY key"):
        await guard.guard(CARD, 1, ENTRY)
