"""The typed commands against the software card: a city card made by its script, and what a counter and a gate do.

The keys are held here by another library (psec, gmssl); card and command side meet in APDUs alone.
"""

import asyncio
import hashlib
import random
from collections.abc import Iterator
from datetime import date, datetime
from typing import TypeVar

import pytest
from cardcore_issuer import Issuer
from terminal_side import SUITES, TRANSPORT, xor

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import CardIdentity, KeyStep, OverdraftRequest, PsamIdentity, Under
from cardcore.card_files import Holder, LogRecord, MetroRecord, MetroState, MinistryData, TransferRecord
from cardcore.card_map import CITY_CARD, KeyType
from cardcore.commands import (
    ApplicationBlock,
    ApplicationUnblock,
    ChangePin,
    Command,
    CreditLoad,
    DebitPurchase,
    DebitUnload,
    GetBalance,
    GetChallenge,
    GetTransactionProof,
    InitComposite,
    InitLoad,
    InitUnload,
    InitUpdate,
    LoadInitialisation,
    ProtectedRead,
    ProtectedWrite,
    PurchaseInitialisation,
    ReadBinary,
    ReadObject,
    ReadRecord,
    ReloadPin,
    Select,
    TransactionType,
    UnblockPin,
    UpdateBinary,
    UpdateComposite,
    UpdateInitialisation,
    UpdateOverdraft,
    VerifyPin,
    composite,
)
from cardcore.commands.pin import unblock_head
from cardcore.commands.security import WrongPinError
from cardcore.cryptogram import (
    folds_tac_key,
    host_mac2_input,
    load_mac1_input,
    overdraft_mac1_input,
    overdraft_mac2_input,
    overdraft_tac_input,
    purchase_mac2_input,
    session_input,
    unload_mac3_input,
)
from cardcore.errors import CardError
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.purse import Committed, Evidence, judge, resolve
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.secure_messaging import enciphered_field, initial_vector, mac_input
from cardcore.selection import Availability, read_common, read_selection
from simulators.card_os import SoftwareCard

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

T = TypeVar("T")
NAMES = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}
CITY = load_profile("construction-ministry")
TERMINAL = bytes.fromhex("710001000001")
DATE, TIME = bytes.fromhex("20260302"), bytes.fromhex("081530")


class HandAuthority:
    """One key per purpose and application, and every MAC as docs/card.md has it."""

    def __init__(self, suite: Suite) -> None:
        self.id, self.suite = suite, SUITES[NAMES[suite]]

    def key(self, kind: int, application: int) -> bytes:
        return hashlib.sha256(bytes((kind, application, self.id))).digest()[:16]

    def guard(self, under: Under, application: int) -> bytes:
        return TRANSPORT if under is Under.TRANSPORT else self.key(KeyType.CONTROL, application)

    def protect(self, key: bytes, plain: CommandApdu, challenge: bytes, *, encipher: bool = False) -> bytes:
        body = self.suite.encrypt(key, enciphered_field(plain.data, self.id)) if encipher else plain.data
        covered = mac_input(plain, body)
        return covered + self.suite.mac(key, covered, initial_vector(challenge, self.id))[:4]

    async def authenticate(self, _: object, application: int, under: Under, challenge: bytes) -> bytes:
        return self.suite.encrypt(self.guard(under, application), initial_vector(challenge, self.id))

    async def write_key(self, _: CardIdentity | PsamIdentity, step: KeyStep, challenge: bytes) -> bytes:
        material = b"" if step.type == KeyType.PIN else self.key(step.type, step.application)
        plain = CommandApdu(0x84, 0xD4, step.p1, step.id, step.prefix + material + step.suffix)
        return self.protect(self.guard(step.under, step.guard), plain, challenge, encipher=True)

    async def secure(self, _: object, application: int, command: bytes, challenge: bytes) -> bytes:
        return self.protect(self.key(KeyType.MAINTENANCE, application), CommandApdu.decode(command), challenge)

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        raise AssertionError("a city card has no allowance from the factory")


class Counter:
    """One city card, selected, and the keys of its application."""

    def __init__(self, suite: Suite) -> None:
        self.keys = HandAuthority(suite)
        self.suite, self.index = suite, CITY.for_suite(suite).key_index(6, KeyType.LOAD)
        self.order = CardOrder(
            issuer=bytes.fromhex("02717100"),
            card=bytes.fromhex("00007100010200012345"),
            suite=suite,
            concession=2,
            starts=date(2026, 3, 1),
            expires=date(2036, 2, 29),
            city="7100",
            holder=Holder("王小明", "610102199001011234"),
        )
        self.card = SoftwareCard.blank(NAMES[suite], rng=random.Random(7))
        self.card.power_on()
        asyncio.run(Issuer(self.card, self.keys, self.order.identity).run(steps(CITY, self.order)))
        self.select()

    def select(self) -> None:
        self.card.power_on()
        self.ask(Select(CITY_CARD.aid))

    def send(self, command: Command[object]) -> ResponseApdu:
        return ResponseApdu.decode(self.card.transmit(command.apdu().encode()))

    def ask(self, command: Command[T]) -> T:
        return command.read(self.send(command))

    def line(self, plain: Command[object], *, encipher: bool = False, key: KeyType = KeyType.MAINTENANCE) -> bytes:
        challenge = self.challenge = self.ask(GetChallenge())
        return self.keys.protect(self.keys.key(key, 6), plain.apdu(), challenge, encipher=encipher)

    def session(
        self,
        kind: KeyType,
        opened: LoadInitialisation | UpdateInitialisation | PurchaseInitialisation,
        transaction: int | None = None,
    ) -> bytes:
        seed = session_input(self.suite, opened.random, opened.counter, transaction)
        return self.keys.suite.encrypt(self.keys.key(kind, 6), seed)

    def mac(self, key: bytes, covered: bytes) -> bytes:
        return self.keys.suite.mac(key, covered)[:4]

    def tac(self, kind: TransactionType, covered: bytes) -> bytes:
        key = self.keys.key(KeyType.TAC, 6)
        return self.mac(xor(key[:8], key[8:]) if folds_tac_key(self.suite, kind) else key, covered)

    def load(self, amount_fen: int) -> Committed:
        self.ask(VerifyPin("123456"))
        opened = self.ask(InitLoad(self.index, amount_fen, TERMINAL))
        session = self.session(KeyType.LOAD, opened)
        assert opened.mac1 == self.mac(session, load_mac1_input(opened.raw_balance_fen, amount_fen, 2, TERMINAL))
        mac2 = self.mac(session, host_mac2_input(amount_fen, 2, TERMINAL, DATE, TIME))
        known = Evidence.of(TransactionType.LOAD, opened, amount_fen, TERMINAL, DATE, TIME, mac2)
        done = judge(known, CreditLoad.name, self.send(CreditLoad(DATE, TIME, mac2)))
        assert isinstance(done, Committed)
        return done


@pytest.fixture(params=Suite, ids=lambda suite: NAMES[suite])
def counter(request: pytest.FixtureRequest) -> Iterator[Counter]:
    yield Counter(request.param)


def test_a_city_card_is_made_and_read(counter: Counter) -> None:
    command = Select(CITY_CARD.aid)
    found = read_selection(command, counter.send(command), CITY.switches.blocked_select)
    common = read_common(6, found.control.common or b"")
    assert isinstance(common, MinistryData) and found.availability is Availability.OPEN
    assert (common.issuer, common.card, common.sub_type) == (counter.order.issuer, counter.order.card, 2)
    counter.ask(VerifyPin("123456"))
    assert Holder.decode(counter.ask(ReadBinary(0x16, 55))) == counter.order.holder


def test_unload_and_allowance_prove_themselves(counter: Counter) -> None:
    counter.load(10_000)
    opened = counter.ask(InitUnload(counter.index, 3_000, TERMINAL))
    session = counter.session(KeyType.UNLOAD, opened)
    assert opened.mac1 == counter.mac(session, load_mac1_input(10_000, 3_000, 3, TERMINAL))
    mac2 = counter.mac(session, host_mac2_input(3_000, 3, TERMINAL, DATE, TIME))
    known = Evidence.of(TransactionType.UNLOAD, opened, 3_000, TERMINAL, DATE, TIME)
    done = judge(known, DebitUnload.name, counter.send(DebitUnload(DATE, TIME, mac2)))
    assert isinstance(done, Committed) and done.tac is None
    assert done.mac == counter.mac(session, unload_mac3_input(7_000, opened.counter, 3_000, TERMINAL, DATE, TIME))
    assert counter.ask(GetBalance()) == 7_000
    counter.select()
    assert resolve(known, counter.ask(GetTransactionProof(TransactionType.UNLOAD, opened.counter))) == done
    assert resolve(known, LogRecord.decode(counter.ask(ReadRecord(0x18, 1, 23)))) == Committed(known)

    counter.ask(VerifyPin("123456"))
    update = counter.ask(InitUpdate(counter.index, TERMINAL))
    session = counter.session(KeyType.OVERDRAFT, update)
    assert update.mac1 == counter.mac(session, overdraft_mac1_input(7_000, 0, TERMINAL))
    mac2 = counter.mac(session, overdraft_mac2_input(800, TERMINAL, DATE, TIME))
    allowed = Evidence.of_allowance(update, 800, TERMINAL, DATE, TIME, mac2)
    end = judge(allowed, UpdateOverdraft.name, counter.send(UpdateOverdraft(800, DATE, TIME, mac2)))
    assert isinstance(end, Committed)
    covered = overdraft_tac_input(7_800, update.counter, 800, TERMINAL, DATE, TIME)
    assert end.tac == counter.tac(TransactionType.OVERDRAFT, covered)
    assert counter.ask(GetBalance()) == allowed.raw_balance_after_fen == 7_800
    counter.select()
    proven = resolve(allowed, counter.ask(GetTransactionProof(TransactionType.OVERDRAFT, update.counter)))
    assert proven == Committed(allowed, tac=end.tac, mac=mac2)


def test_a_gate_writes_two_records_with_one_debit(counter: Counter) -> None:
    counter.load(1_000)
    opening = InitComposite(counter.index, 250, TERMINAL)
    opened = counter.ask(opening)
    session = counter.session(KeyType.PURCHASE, opened, 0x0102)
    mac1 = counter.mac(session, host_mac2_input(250, 9, TERMINAL, DATE, TIME))
    metro = MetroRecord(
        MetroState.EXITED, 1, 4, datetime(2026, 3, 2, 8), TERMINAL, 2, 9, datetime(2026, 3, 2, 8, 15), 250
    )
    transfer = TransferRecord(at=datetime(2026, 3, 2, 8, 15), operator=101, fare_fen=250, counter=opened.counter)
    cached = UpdateComposite(0x1A, 0x21, metro.encode()), UpdateComposite(0x1A, 0x22, transfer.encode())
    debit = DebitPurchase(0x0102, DATE, TIME, mac1)
    for command in composite(opening, cached, debit)[1:-1]:
        counter.ask(command)
    receipt = counter.ask(debit)
    assert receipt.mac2 == counter.mac(session, purchase_mac2_input(250))
    assert MetroRecord.decode(counter.ask(ReadObject(0x1A, 0x21))) == metro
    assert TransferRecord.decode(counter.ask(ReadObject(0x1A, 0x22))) == transfer
    assert counter.ask(GetBalance()) == 750


def test_pins(counter: Counter) -> None:
    counter.ask(ChangePin("123456", "654321"))
    counter.ask(VerifyPin("654321"))
    with pytest.raises(WrongPinError, match="2 tries"):
        counter.ask(ChangePin("123456", "111111"))
    reload = counter.keys.key(KeyType.PIN_RELOAD, 6)
    folded = xor(reload[:8], reload[8:]) if counter.suite is Suite.TRIPLE_DES else reload
    counter.ask(ReloadPin("246810", counter.mac(folded, bytes.fromhex("246810"))))
    for left in (2, 1, 0):
        with pytest.raises(WrongPinError) as wrong:
            counter.ask(VerifyPin("000000"))
        assert wrong.value.tries_left == left
    with pytest.raises(CardError, match="6983"):
        counter.ask(VerifyPin("246810"))
    plain = unblock_head(CITY.switches.pin_unblock_place, "135791")
    challenge = counter.ask(GetChallenge())
    key = counter.keys.key(KeyType.PIN_UNBLOCK, 6)
    counter.ask(UnblockPin(counter.keys.protect(key, plain, challenge, encipher=True)))
    counter.ask(VerifyPin("135791"))


def test_protected_write_and_read(counter: Counter) -> None:
    write = UpdateBinary(0x15, b"\x77\x66", offset=0x1E)
    counter.ask(ProtectedWrite(write, counter.line(write)))
    read = ReadBinary(0x15, 4, offset=0x1E)
    answer = counter.ask(ProtectedRead(read, counter.line(read)))
    assert answer.body == b"\x77\x66\0\0"
    iv = initial_vector(counter.challenge, counter.suite)
    assert answer.mac == counter.keys.suite.mac(counter.keys.key(KeyType.MAINTENANCE, 6), answer.body, iv)[:4]


def test_an_application_is_blocked_and_unblocked(counter: Counter) -> None:
    counter.ask(ApplicationBlock(mac=counter.line(ApplicationBlock())[-4:]))
    counter.card.power_on()
    command = Select(CITY_CARD.aid)
    found = read_selection(command, counter.send(command), CITY.switches.blocked_select)
    assert found.availability is Availability.BLOCKED
    assert read_common(6, found.control.common or b"").card == counter.order.card, "a counter still reads whose it is"
    counter.ask(ApplicationUnblock(counter.line(ApplicationUnblock())[-4:]))
    counter.select()
    assert counter.ask(GetBalance()) == 0
