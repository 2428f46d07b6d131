"""The unload authoriser: MAC1 over type 03 decides, the unload is spent before MAC2, MAC3 decides before any money.

What comes out is compared with psec (3DES) and gmssl (SM4), and played against the software card.
"""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from cardcore_issuer import Issuer
from terminal_side import SUITES, iso_pad, xor

from cardcore.apdu import ResponseApdu
from cardcore.authority import CardIdentity, LoadRequest, OverdraftRequest, UnloadGrant, UnloadRequest
from cardcore.card_files import Holder
from cardcore.card_map import ALL_APPLICATIONS, KeyType
from cardcore.commands import (
    Command,
    CreditLoad,
    DebitUnload,
    GetBalance,
    GetTransactionProof,
    InitLoad,
    InitUnload,
    InitUpdate,
    LoadInitialisation,
    Select,
    UpdateOverdraft,
    VerifyPin,
)
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.order import CardOrder
from cardcore.profile import load_profile, profile_names
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.switches import Sm4SessionKey
from keys.ceremony import required_roots, test_ceremony
from keys.loads import Quota, Quotas
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.register import demand_row, life_row, sunset_row
from keys.rotation import Demand, Sunset
from keys.store import EmbeddedStore, open_store
from keys.unloads import UnloadAuthoriser
from simulators.card_behaviour import STANDARD, Behaviour
from simulators.card_os import SoftwareCard

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved", "ignore:Two-key TripleDES")

AnswerT = TypeVar("AnswerT")
NAMES = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}
EVERY_CARD = [(name, suite) for name in profile_names() for suite in Suite]
QUOTAS = Quotas(Quota(5, 100_000), Quota(3, 60_000), Quota(5, 100_000))
PLENTY = Quotas(Quota(9_999, 10**9), Quota(9_999, 10**9), Quota(9_999, 10**9))
TERMINAL = bytes.fromhex("0000000DBBA1")
DATE, TIME = bytes.fromhex("20260302"), bytes.fromhex("160005")
COMPONENTS = {
    name: (hashlib.sha256(name.encode()).digest()[:16], hashlib.sha256(b"2" + name.encode()).digest()[:16])
    for name in required_roots()
}


class Noon:
    """08:00 UTC, 16:00 on a card."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 3, 2, 8, 0, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant


def chip_key(suite: Suite, rest: str, identity: CardIdentity) -> bytes:
    """A card's key by psec or gmssl: province root, city, card."""
    oracle = SUITES[NAMES[suite]]
    root = xor(*COMPONENTS[f"{NAMES[suite]}/{rest}"])
    return oracle.derive(oracle.derive(root, identity.issuer * 2), identity.card[-8:])


def session_key(request: UnloadRequest, purpose: str = "UNLOAD") -> bytes:
    oracle = SUITES[NAMES[request.key_suite]]
    key = chip_key(request.key_suite, f"{purpose}/{request.purse}", request.identity)
    seed = request.random + request.counter.to_bytes(2, "big")
    if request.session_key is Sm4SessionKey.COMPLEMENT and request.key_suite is Suite.SM4:
        seed += b"\x80\0"
        return oracle.encrypt(key, seed + xor(seed, b"\xff" * 8))
    return oracle.encrypt(key, iso_pad(seed, oracle.block))


def mac4(request: UnloadRequest, text: str) -> bytes:
    """By the session key, over bytes that the test lays out by hand."""
    return SUITES[NAMES[request.key_suite]].mac(session_key(request), bytes.fromhex(text))[:4]


def asked(suite: Suite = Suite.SM4, **changes: object) -> UnloadRequest:
    """An unload as a card opens it, with the MAC1 that the card would answer."""
    request = UnloadRequest(
        identity=CardIdentity(bytes.fromhex("02317910"), bytes.fromhex("03105170010170907984"), suite),
        terminal=900001, terminal_number=TERMINAL, purse=1, generation=0, key_suite=suite, key_version=1,
        key_index=0x11, amount_fen=10_000, channel="301", raw_balance_fen=25_000, counter=4,
        random=b"\x01\x02\x03\x04", mac1=b"",
    )  # fmt: skip
    request = replace(request, **changes)  # type: ignore[arg-type]  # tests change any field
    if request.mac1:
        return request
    return replace(
        request, mac1=mac4(request, f"{request.raw_balance_fen:08X}{request.amount_fen:08X}03{TERMINAL.hex()}")
    )


def mac3(request: UnloadRequest, grant: UnloadGrant) -> bytes:
    """What the card answers once it has unloaded."""
    left = f"{request.raw_balance_fen - request.amount_fen:08X}{request.counter:04X}"
    tail = TERMINAL.hex() + grant.date.hex() + grant.time.hex()
    return mac4(request, f"{left}{request.amount_fen:08X}03{tail}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path / "keys", clock=Noon()) as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def authoriser_of(store: EmbeddedStore, quotas: Quotas = QUOTAS, clock: Noon | None = None) -> UnloadAuthoriser:
    return UnloadAuthoriser(store._in_use(), store.book, clock or Noon(), quotas)


@pytest.fixture
def authoriser(store: EmbeddedStore) -> UnloadAuthoriser:
    return authoriser_of(store)


def spent(store: EmbeddedStore, scope: str = "unload total") -> Quota:
    return store.book.state.spent("2026-03-02", scope)


@pytest.mark.parametrize("rule", Sm4SessionKey)
@pytest.mark.parametrize("suite", Suite)
async def test_mac2_is_what_the_card_expects(suite: Suite, rule: Sm4SessionKey, authoriser: UnloadAuthoriser) -> None:
    request = asked(suite, session_key=rule)
    grant = await authoriser.authorise_unload(request)
    assert (grant.date.hex(), grant.time.hex()) == ("20260302", "160005")
    assert grant.mac2 == mac4(request, f"0000271003{TERMINAL.hex()}20260302160005")
    await authoriser.confirm_unload(request, grant, mac3(request, grant))


async def test_the_session_rule_is_that_of_the_profile(authoriser: UnloadAuthoriser) -> None:
    for one, other in (
        (Sm4SessionKey.PADDED, Sm4SessionKey.COMPLEMENT),
        (Sm4SessionKey.COMPLEMENT, Sm4SessionKey.PADDED),
    ):
        with pytest.raises(RefusedError) as refusal:
            await authoriser.authorise_unload(replace(asked(session_key=one), session_key=other))
        assert refusal.value.code == "bad-mac1"


@pytest.mark.parametrize(
    "changes",
    [{"amount_fen": 10_001}, {"raw_balance_fen": 25_001}, {"counter": 5}, {"random": bytes(4)}, {"purse": 3},
     {"mac1": bytes(4)}, {"key_suite": Suite.TRIPLE_DES}, {"key_version": 2}, {"purse": 2}, {"purse": 6},
     {"terminal_number": bytes(6)}],
)  # fmt: skip
async def test_a_wrong_mac1_spends_nothing(
    changes: dict[str, object], authoriser: UnloadAuthoriser, store: EmbeddedStore
) -> None:
    wrong = replace(asked(), **changes)  # type: ignore[arg-type]  # tests change any field
    with pytest.raises(RefusedError) as refusal:
        await authoriser.authorise_unload(wrong)
    assert refusal.value.code == "bad-mac1" and asked().mac1.hex() not in str(refusal.value)
    assert spent(store) == Quota(0, 0)
    act, subject, detail = store.audit()[-1][2:5]
    assert (act, subject) == ("unload refused", asked().identity.card.hex()) and detail.startswith("bad-mac1")


async def test_an_opened_load_is_no_unload(authoriser: UnloadAuthoriser) -> None:
    """Neither the type of a load nor the load key opens a purse for unloading."""
    covered = f"{25_000:08X}{10_000:08X}%02d{TERMINAL.hex()}"
    load_key = SUITES["sm4"].mac(session_key(asked(), "LOAD"), bytes.fromhex(covered % 3))[:4]
    for mac1 in (mac4(asked(), covered % 2), load_key):
        with pytest.raises(RefusedError, match="MAC1"):
            await authoriser.authorise_unload(asked(mac1=mac1))


@pytest.mark.parametrize(
    "changes",
    [{"amount_fen": 0}, {"amount_fen": -5}, {"amount_fen": 25_001}, {"counter": 2**16}, {"mac1": b"123"},
     {"random": b""}, {"terminal_number": b"1"}, {"terminal": -1}, {"raw_balance_fen": 2**32},
     {"identity": CardIdentity(b"123", bytes(10), Suite.SM4)}],
)  # fmt: skip
async def test_what_no_card_can_ask_is_refused(changes: dict[str, object], authoriser: UnloadAuthoriser) -> None:
    with pytest.raises(FormatError, match="nothing was unloaded"):
        await authoriser.authorise_unload(replace(asked(), **changes))  # type: ignore[arg-type]  # any field


async def test_asking_again_gets_the_same_grant_once(store: EmbeddedStore, tmp_path: Path) -> None:
    clock = Noon()
    first = await authoriser_of(store, clock=clock).authorise_unload(asked())
    clock.instant = datetime(2026, 3, 3, 1, 0, tzinfo=UTC)
    assert await authoriser_of(store, clock=clock).authorise_unload(asked()) == first
    store.close()
    with open_store(tmp_path / "keys") as again:
        assert await authoriser_of(again, clock=clock).authorise_unload(asked()) == first
        assert spent(again) == Quota(1, 10_000)
        assert again.book.state.spent("2026-03-03", "unload total") == Quota(0, 0)
        assert (await authoriser_of(again).authorise_unload(asked(counter=5))).unload_id != first.unload_id


async def test_another_opening_is_another_unload(store: EmbeddedStore) -> None:
    """Also at the same counter: a card that was opened anew has another random number, and no other grant fits it."""
    authoriser = authoriser_of(store, PLENTY)
    other: list[dict[str, object]] = [
        {}, {"random": bytes(4)}, {"counter": 5}, {"amount_fen": 9}, {"raw_balance_fen": 10_000}, {"purse": 3},
        {"terminal": 900002}, {"key_suite": Suite.TRIPLE_DES},
    ]  # fmt: skip
    grants = [await authoriser.authorise_unload(asked(**changes)) for changes in other]
    assert len({grant.unload_id for grant in grants}) == len(other) == spent(store).loads


async def test_quotas_hold_and_are_not_those_of_loads(store: EmbeddedStore) -> None:
    authoriser = authoriser_of(store)
    for counter in range(3):
        await authoriser.authorise_unload(asked(counter=counter))
    with pytest.raises(RefusedError, match="unload terminal 900001") as refusal:
        await authoriser.authorise_unload(asked(counter=3))
    assert refusal.value.code == "over-quota"
    await authoriser.authorise_unload(asked(counter=4, terminal=900002))
    assert (spent(store), spent(store, "total")) == (Quota(4, 40_000), Quota(0, 0))


async def test_unloads_at_once_never_exceed_the_quota(authoriser: UnloadAuthoriser, store: EmbeddedStore) -> None:
    requests = [asked(counter=counter, terminal=900000 + counter) for counter in range(9)]
    answers = await asyncio.gather(*map(authoriser.authorise_unload, requests), return_exceptions=True)
    assert sum(isinstance(answer, UnloadGrant) for answer in answers) == 5
    assert spent(store) == Quota(5, 50_000)


async def test_no_answer_without_a_written_audit(authoriser: UnloadAuthoriser, store: EmbeddedStore) -> None:
    grant = await authoriser.authorise_unload(asked())
    store.close()
    with pytest.raises(KeyUseError):
        await authoriser.authorise_unload(asked(counter=5))
    with pytest.raises(KeyUseError):
        await authoriser.confirm_unload(asked(), grant, mac3(asked(), grant))


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from keys.engine.suites import SessionKey
from keys.store import open_store
from tests.test_keys_unloads import asked, authoriser_of

made = SessionKey.mac4

def mac4(key, message):
    if len(message) == 18:  # MAC2: the answer that would leave
        os.kill(os.getpid(), signal.SIGKILL)
    return made(key, message)

request = asked()
SessionKey.mac4 = mac4
asyncio.run(authoriser_of(open_store(Path(sys.argv[1]))).authorise_unload(request))
"""


def test_a_kill_between_spending_and_answering_leaves_it_spent(store: EmbeddedStore, tmp_path: Path) -> None:
    store.close()
    environ = os.environ | {"PYTHONPATH": f".{os.pathsep}tests"}
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "keys"], env=environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    with open_store(tmp_path / "keys") as again:
        assert spent(again) == Quota(1, 10_000)
        assert len(asyncio.run(authoriser_of(again).authorise_unload(asked())).mac2) == 4
        assert spent(again) == Quota(1, 10_000)


@pytest.mark.parametrize("suite", Suite)
async def test_only_the_card_confirms(suite: Suite, authoriser: UnloadAuthoriser, store: EmbeddedStore) -> None:
    request = asked(suite)
    grant = await authoriser.authorise_unload(request)
    right = mac3(request, grant)
    later = replace(grant, time=bytes.fromhex("160006"))
    bent = [
        (request, grant, bytes(4)),
        (request, grant, grant.mac2),
        (request, later, mac3(request, later)),  # as if the card had been granted another moment
        (replace(request, amount_fen=9_999), grant, right),
        (replace(request, raw_balance_fen=25_001), grant, right),
        (replace(request, counter=5), grant, right),
        (replace(request, purse=3), grant, right),
        (replace(request, key_version=9), grant, right),
        (request, replace(grant, mac2=bytes(4)), right),
    ]
    for claim in bent:
        with pytest.raises(RefusedError, match="pay nothing") as refusal:
            await authoriser.confirm_unload(*claim)
        assert refusal.value.code == "bad-mac3" and right.hex() not in str(refusal.value)
    assert [row[2] for row in store.audit()][-len(bent) :] == ["unload refused"] * len(bent)
    for _ in range(2):
        await authoriser.confirm_unload(request, grant, right)
        assert store.audit()[-1][2:4] == ("unload confirmed", grant.unload_id)
    for widths in ((replace(grant, date=b"1"), right), (grant, right[:3]), (replace(grant, mac2=b""), right)):
        with pytest.raises(FormatError):
            await authoriser.confirm_unload(request, *widths)


async def test_a_retired_key_unloads_no_more_but_still_believes_its_cards(store: EmbeddedStore) -> None:
    authoriser, id = authoriser_of(store), KeyId(Suite.SM4, KeyPurpose.UNLOAD, "1")
    grant = await authoriser.authorise_unload(asked())

    def put(state: KeyState) -> None:
        store.book.state.change([life_row(replace(store.book.register.lives()[id], state=state))], [])

    put(KeyState.VERIFY_ONLY)
    with pytest.raises(RefusedError, match="no active unload key"):
        await authoriser.authorise_unload(asked(counter=5))
    await authoriser.confirm_unload(asked(), grant, mac3(asked(), grant))
    put(KeyState.SUSPENDED)
    with pytest.raises(RefusedError, match="no usable unload key"):
        await authoriser.confirm_unload(asked(), grant, mac3(asked(), grant))


async def test_value_leaves_old_cards_until_they_are_believed_no_more(store: EmbeddedStore) -> None:
    authoriser, old = authoriser_of(store), asked(Suite.TRIPLE_DES)

    def until(making: str, verifying: str) -> None:
        sunset = Sunset(Suite.TRIPLE_DES, date.fromisoformat(making), date.fromisoformat(verifying))
        store.book.state.change([sunset_row(sunset)], [])

    until("2026-02-01", "2026-03-02")
    await authoriser.authorise_unload(old)
    until("2026-02-01", "2026-03-01")
    with pytest.raises(RefusedError) as refusal:
        await authoriser.authorise_unload(replace(old, counter=5))
    assert refusal.value.code == "sunset"
    until("2026-02-01", "2026-03-02")
    store.book.state.change([demand_row(Demand(f"card {old.identity.card.hex()}", date(2026, 3, 1)))], [])
    with pytest.raises(RefusedError) as refusal:
        await authoriser.authorise_unload(old)
    assert refusal.value.code == "downgrade" and store.audit()[-1][2] == "unload refused"
    await authoriser.authorise_unload(asked(Suite.SM4))


def test_it_holds_unload_keys_only(store: EmbeddedStore, authoriser: UnloadAuthoriser) -> None:
    assert {id.purpose for id in authoriser._roots} == {KeyPurpose.UNLOAD}
    assert {(id.suite, id.scope) for id in authoriser._roots} == {(one, scope) for one in Suite for scope in "1346"}
    foreign = [root for root in store._roots.values() if root.id.purpose is not KeyPurpose.UNLOAD]
    with pytest.raises(KeyUseError, match="no usable key"):
        UnloadAuthoriser(foreign, store.book, Noon(), QUOTAS)


# Against the software card


@dataclass
class Bench:
    """An issued card of a profile, and the store that issued it."""

    name: str
    suite: Suite
    store: EmbeddedStore
    behaviour: Behaviour = STANDARD

    def __post_init__(self) -> None:
        self.profile = load_profile(self.name)
        self.order = order(self.name, self.suite)
        self.identity = self.order.identity
        self.card = SoftwareCard.blank(NAMES[self.suite], rng=random.Random(7), behaviour=self.behaviour)
        self.card.power_on()
        issuer = Issuer(self.card, self.store.personaliser(), self.identity)
        asyncio.run(issuer.run(steps(self.profile, self.order)))
        self.purses = [item.number for item in self.profile.purses]

    def select(self, application: int, *, pin: bool = False) -> None:
        self.card.power_on()
        self.ask(Select(ALL_APPLICATIONS[application].aid))
        if pin:
            self.ask(VerifyPin(self.profile.pin))

    def ask(self, command: Command[AnswerT]) -> AnswerT:
        return command.read(self.send(command))

    def send(self, command: Command[object]) -> ResponseApdu:
        return ResponseApdu.decode(self.card.transmit(command.apdu().encode()))

    def key_index(self, application: int, kind: KeyType) -> int:
        return self.profile.for_suite(self.suite).key_index(application, kind)

    def request(self, purse: int, opened: LoadInitialisation, amount_fen: int) -> dict[str, object]:
        return {
            "identity": self.identity, "terminal": 900001, "terminal_number": TERMINAL, "purse": purse,
            "generation": 0, "key_suite": Suite(opened.algorithm), "key_version": opened.key_version,
            "key_index": self.key_index(purse, KeyType.LOAD), "amount_fen": amount_fen, "channel": "301",
            "raw_balance_fen": opened.raw_balance_fen, "counter": opened.counter, "random": opened.random,
            "mac1": opened.mac1, "session_key": Sm4SessionKey(self.behaviour.sm4_session_key),
        }  # fmt: skip

    def load(self, purse: int, amount_fen: int) -> None:
        self.select(purse, pin=True)
        opened = self.ask(InitLoad(self.key_index(purse, KeyType.LOAD), amount_fen, TERMINAL))
        request = LoadRequest(**self.request(purse, opened, amount_fen))  # type: ignore[arg-type]  # named above
        grant = asyncio.run(self.store.load_authoriser(Noon(), PLENTY).authorise_load(request))
        self.ask(CreditLoad(grant.date, grant.time, grant.mac2))

    def open_unload(self, purse: int, amount_fen: int) -> UnloadRequest:
        self.select(purse, pin=True)
        opened = self.ask(InitUnload(self.key_index(purse, KeyType.UNLOAD), amount_fen, TERMINAL))
        return UnloadRequest(**self.request(purse, opened, amount_fen))  # type: ignore[arg-type]  # named above

    def allow(self, purse: int, limit_fen: int) -> None:
        """Set the allowance of a purse."""
        self.select(purse)
        opened = self.ask(InitUpdate(self.key_index(purse, KeyType.OVERDRAFT), TERMINAL))
        request = OverdraftRequest(
            self.identity, TERMINAL, purse, Suite(opened.algorithm), limit_fen, opened.overdraft_fen,
            opened.raw_balance_fen, opened.counter, opened.random, opened.mac1, DATE, TIME,
            Sm4SessionKey(self.behaviour.sm4_session_key),
        )  # fmt: skip
        mac2 = asyncio.run(self.store.personaliser().set_overdraft(request))
        self.ask(UpdateOverdraft(limit_fen, DATE, TIME, mac2))


def order(name: str, suite: Suite) -> CardOrder:
    city = name == "construction-ministry"
    return CardOrder(
        issuer=bytes.fromhex("02717100" if city else "02317910"),
        card=bytes.fromhex("00007100010200012345" if city else "03101234567890123456"),
        suite=suite, concession=2, starts=date(2026, 3, 1), expires=date(2036, 2, 29),
        city="7100" if city else "7910", holder=Holder("王小明", "610102199001011234"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path_factory.mktemp("bank") / "keys") as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_a_card_is_loaded_and_unloaded(name: str, suite: Suite, bank: EmbeddedStore) -> None:
    bench, authoriser = Bench(name, suite, bank), authoriser_of(bank, PLENTY)
    for purse in bench.purses:
        bench.load(purse, 9_000)
        before = bench.ask(GetBalance())
        request = bench.open_unload(purse, 4_000)
        grant = asyncio.run(authoriser.authorise_unload(request))
        told = bench.ask(DebitUnload(grant.date, grant.time, grant.mac2))
        asyncio.run(authoriser.confirm_unload(request, grant, told))
        assert bench.ask(GetBalance()) == before - 4_000
        # A reader that fell silent asks the card afterwards, and confirms by what it still knows.
        bench.select(purse)
        kept = bench.ask(GetTransactionProof(0x03, request.counter))
        asyncio.run(authoriser.confirm_unload(request, grant, kept.mac))
        second = bench.open_unload(purse, 4_000)
        other = asyncio.run(authoriser.authorise_unload(second))
        with pytest.raises(RefusedError, match="pay nothing"):
            asyncio.run(authoriser.confirm_unload(second, other, told))


@pytest.mark.parametrize("suite", Suite)
def test_a_card_of_the_other_session_rule(suite: Suite, bank: EmbeddedStore) -> None:
    live(Bench("construction-ministry", suite, bank, Behaviour(sm4_session_key="complement")))


def live(bench: Bench) -> None:
    """Allowance, load and unload of a card: every session key that a store makes for it, proved by the card."""
    authoriser = bench.store.unload_authoriser(Noon(), PLENTY)
    bench.allow(6, 1_200)
    bench.load(6, 5_000)
    request = bench.open_unload(6, 4_000)
    grant = asyncio.run(authoriser.authorise_unload(request))
    asyncio.run(authoriser.confirm_unload(request, grant, bench.ask(DebitUnload(grant.date, grant.time, grant.mac2))))
    if bench.suite is Suite.SM4:
        other = next(rule for rule in Sm4SessionKey if rule is not request.session_key)
        with pytest.raises(RefusedError, match="MAC1"):
            asyncio.run(authoriser.authorise_unload(replace(bench.open_unload(6, 1_000), session_key=other)))
