"""The clerk's commands on a real pcscd: read, issue and load, with cards that leave in the middle."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cardcore.authority import LoadGrant, LoadRequest, PersonalisationAuthority, UpkeepAuthority
from cardcore.errors import FormatError
from cardcore.record import Suite, TapRecord
from keys.store import EmbeddedStore
from readers.cli import app_for
from readers.counter.clerk import Clerk
from readers.counter.desk import Desk
from readers.counter.queue import CounterQueue
from readers.counter.words import masked, parse_yuan, yuan
from readers.pcsc.journal import Journal, Progress
from simulators.card_behaviour import Behaviour
from simulators.card_os import PurseState, SoftwareCard
from simulators.nvm import TearPoint
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import Link, insert
from tests.counter_side import NOW, Service, authoriser, blank, issued, make_store, order
from tests.pcscd import POLL_S, start

TERMINAL = 130001
SHARED_PURSE = Path("cardcore/profiles/shared-purse.toml").read_text("utf-8")
READERS = 8


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(READERS)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


_turns = cycle(range(READERS))


@dataclass
class Front:
    """A front door that holds the keys of the TEST store."""

    store: EmbeddedStore
    authority: PersonalisationAuthority | None = None

    def personalisation(
        self, state: Path, alone: bool
    ) -> AbstractAsyncContextManager[tuple[PersonalisationAuthority, UpkeepAuthority]]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[PersonalisationAuthority, UpkeepAuthority]]:
            yield self.authority or self.store.personaliser(), self.store.upkeep()

        return opened()

    def desk(self, url: str) -> AbstractAsyncContextManager[Desk]:
        return Desk(url)

    def now(self) -> datetime:
        return NOW


@dataclass
class Counter:
    """A clerk before one reader: `run` gives exit status and text; `on` is called with what was told so far."""

    front: Front
    reader: str
    port: int
    state: Path
    links: list[Link] = field(default_factory=list)
    said: StringIO = field(default_factory=StringIO)

    async def put(self, card: SoftwareCard) -> None:
        self.links.append(await insert("127.0.0.1", self.port, card))
        await asyncio.sleep(POLL_S)

    async def take(self) -> None:
        await self.links.pop().remove()

    async def run(self, *tokens: str, patience_s: float = 5.0) -> tuple[int, str]:
        self.said.seek(0)
        self.said.truncate()
        clerk = Clerk(Console(file=self.said, width=200), patience_s)
        which = () if tokens == ("readers",) else ("--reader", self.reader)
        status = await app_for(self.front, clerk).run_async([*tokens, *which], result_action="return_value")
        return status, self.said.getvalue()

    async def until_said(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.said.getvalue().count(text) < times:  # noqa: ASYNC110 - a console rings no bell
                await asyncio.sleep(0.01)

    async def issue(self, number: int = 1, **options: str) -> tuple[int, str]:
        tokens = {"suite": "sm4", "class": "student", **options}
        serial = order(number, Suite.SM4).card.hex()
        named = [token for name, value in tokens.items() for token in (f"--{name}", value)]
        return await self.run("issue", "--serial", serial, "--issuer", "02317910", "--state", str(self.state), *named)

    async def load(self, url: str, amount: str = "12.50", *more: str, **options: float) -> tuple[int, str]:
        where = ("--url", url, "--terminal", str(TERMINAL), "--channel", "301", "--state", str(self.state))
        return await self.run("load", f"--amount={amount}", *where, *more, **options)


@pytest.fixture
async def counter(daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Counter]:
    turn = next(_turns)
    counter = Counter(Front(store), daemon.readers[turn], daemon.ports[turn], tmp_path / "state")
    yield counter
    for link in counter.links:
        await link.remove()


@pytest.fixture
async def service(store: EmbeddedStore) -> AsyncIterator[tuple[Service, str]]:
    service = Service(authoriser(store), store)
    runner, url = await service.serve()
    yield service, url
    await runner.cleanup()


async def test_read(counter: Counter, store: EmbeddedStore, tmp_path: Path) -> None:
    status, text = await counter.run("read")
    assert status == 2 and "读卡器或卡片没有准备好" in text and "put the card" in text
    await counter.put(await issued(store, tmp_path))
    status, text = await counter.run("read")
    assert status == 0
    for shown in ("0310************0001", "02317910", "0.00 元", "学生 student", "社保 social security", "2036-03-01"):
        assert shown in text
    assert order(1, Suite.SM4).card.hex() not in text, "bystanders do not see the serial"
    status, text = await counter.run("readers")
    assert f"{counter.reader}: 有卡" in text


async def test_stranger(counter: Counter) -> None:
    await counter.put(blank())
    status, text = await counter.run("read")
    assert status == 0 and "不是本系统的卡" in text and "空白卡" in text and "a blank, or of another scheme" in text


async def test_readers_without_a_service(counter: Counter, daemon: PrivatePcscd) -> None:
    await asyncio.to_thread(daemon.stop)
    try:
        status, text = await counter.run("read")
    finally:
        await asyncio.to_thread(daemon.start)
    assert status == 2 and "读卡器或卡片没有准备好" in text and "start pcscd" in text


@pytest.mark.parametrize(("suite", "profile"), [("sm4", "shared-purse"), ("3des", "purse-per-sector")])
async def test_issue(counter: Counter, suite: str, profile: str) -> None:
    card = blank(Suite.SM4 if suite == "sm4" else Suite.TRIPLE_DES)
    await counter.put(card)
    status, text = await counter.issue(suite=suite, profile=profile)
    assert status == 0
    told = [line for line in text.splitlines() if line.startswith("✓")]
    assert [line.split()[-1] for line in told] == ["identity", "structure", "keys", "data", "issue"]
    assert "请勿移开卡片 do not remove the card" in text and "0310************0001" in text
    assert card.serial == order(1, Suite.SM4).card
    status, text = await counter.issue(suite=suite, profile=profile)
    assert status == 2 and "已发卡" in text and "take the next serial" in text
    status, text = await counter.issue(number=2, suite=suite, profile=profile)
    assert status == 2 and "卡片不对" in text and "no blank" in text


async def test_issue_of_many_on_many_readers(daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path) -> None:
    """Two readers by name, three serials; afterwards there is nothing left to do."""
    readers, said = daemon.readers[:2], StringIO()
    cards = [blank(seed=number) for number in range(3)]
    clerk = Clerk(Console(file=said, width=300), patience_s=1)
    app = app_for(Front(store), clerk)
    serial, state = order(1, Suite.SM4).card.hex(), tmp_path / "state"
    tokens = ["issue", "--serial", serial, "--issuer", "02317910", "--count", "3", "--state", str(state)]
    for reader in readers:
        tokens += ["--reader", reader]
    issuing = asyncio.create_task(app.run_async(tokens, result_action="return_value"))
    links = [await insert("127.0.0.1", daemon.ports[at], cards[at]) for at in range(2)]
    async with asyncio.timeout(10):
        while said.getvalue().count("put the next blank") < 2:  # noqa: ASYNC110 - a console rings no bell
            await asyncio.sleep(0.02)
    await links[0].remove()
    await asyncio.sleep(POLL_S)
    links[0] = await insert("127.0.0.1", daemon.ports[0], cards[2])
    assert await issuing == 0
    text = said.getvalue()
    assert "3 张 in = 完成 good 3 + 作废 scrapped 0 + 剩余 left 0" in text and "剩余 left 2" in text
    assert {card.serial for card in cards} == {order(number, Suite.SM4).card for number in (1, 2, 3)}
    assert not any(card.serial.hex() in text for card in cards), "bystanders do not see the serials"
    journal = Journal(state / "readers.sqlite")
    assert journal.stock()[Progress.ISSUED] == 3
    journal.close()
    for link in links:
        await link.remove()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"profile": "no-such-profile"}, "profile"),
        ({"serial": "12"}, "20 digits"),
        ({"serial": "0310791000000000000x"}, "20 digits"),
        ({"issuer": "0231"}, "issuer"),
        ({"count": "0"}, "1 to 10000"),
        ({"reader": "no such reader"}, "no such reader"),
    ],
    ids=["profile", "short serial", "no serial", "issuer", "count", "reader"],
)
async def test_a_wrong_order_leaves_nothing(
    counter: Counter, capsys: pytest.CaptureFixture[str], wrong: dict[str, str], said: str
) -> None:
    """One line on stderr, nothing on stdout, and no file."""
    given = {"serial": order(1, Suite.SM4).card.hex(), "issuer": "02317910", "reader": counter.reader, **wrong}
    tokens = ["issue", "--state", str(counter.state)]
    for name, value in given.items():
        tokens += [f"--{name}", value]
    assert await app_for(counter.front).run_async(tokens, result_action="return_value") == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1 and "Traceback" not in err
    assert not counter.state.exists()


async def test_trace(counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str]) -> None:
    """Issue, read and load with a trace: every command is there, and nothing of what was in it."""
    _, url = service
    trace = tmp_path / "trace"
    await counter.put(blank())
    assert (await counter.issue(trace=str(trace)))[0] == 0
    where = ("--url", url, "--terminal", str(TERMINAL), "--channel", "301", "--state", str(counter.state))
    assert (await counter.run("load", "--amount", "12.50", *where, "--trace", str(trace)))[0] == 0
    assert (await counter.run("read", "--trace", str(trace)))[0] == 0
    text = trace.read_text()
    for name in ("WRITE KEY (secure)", "VERIFY PIN", "CREDIT FOR LOAD", "SELECT application 1", "GET BALANCE"):
        assert f"{counter.reader}\t" in text and f"\t{name}\t" in text
    assert text.count("# onecard APDU trace") == 3
    for secret in (order(1, Suite.SM4).card.hex(), "123456", "1250"):
        assert secret not in text
    status, said = await counter.run("read", "--trace", str(tmp_path / "absent" / "trace"))
    assert status == 2 and "another file" in said


async def test_issue_wrong_suite_is_scrapped(counter: Counter) -> None:
    await counter.put(blank(Suite.TRIPLE_DES))
    status, text = await counter.issue(suite="sm4")
    assert status == 2 and "请将此卡作废" in text and "6700" in text
    status, text = await counter.issue(suite="3des")
    assert status == 2 and "已作废" in text, "a scrapped serial is not used again"


@dataclass
class Interrupting:
    """The personaliser; calls `interrupt` at its `at`-th key."""

    real: PersonalisationAuthority
    at: int
    interrupt: Callable[[], None]

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    async def write_key(self, *given: object) -> bytes:
        self.at -= 1
        if not self.at:
            self.interrupt()
        return await self.real.write_key(*given)  # type: ignore[arg-type]  # passed on as it came


async def test_issue_resumes_when_the_card_comes_back(counter: Counter, store: EmbeddedStore) -> None:
    card = blank()
    await counter.put(card)

    def leave() -> None:
        card.tear_next(TearPoint.BEFORE_ANSWER)

    counter.front.authority = Interrupting(store.personaliser(), 10, leave)  # type: ignore[assignment]  # by __getattr__
    issuing = asyncio.create_task(counter.issue())
    await counter.until_said("put the same card back")
    assert counter.said.getvalue().count("✓") == 2
    await asyncio.sleep(POLL_S)
    await counter.put(card)
    status, text = await issuing
    assert status == 0 and text.count("✓") == 5 and text.count("请勿移开卡片") == 2
    assert card.purses() == {1: PurseState(0, 0, 1)}


async def test_issue_goes_on_later(counter: Counter, store: EmbeddedStore) -> None:
    card = blank()
    await counter.put(card)
    real = store.personaliser()
    counter.front.authority = Interrupting(real, 20, card.power_off)  # type: ignore[assignment]  # by __getattr__
    status, text = await _impatient(counter)
    assert status == 1 and "repeat the same command" in text
    journal = Journal(counter.state / "readers.sqlite")
    assert journal.stock()[Progress.RUNNING] == 1
    counter.front.authority = None
    await asyncio.sleep(POLL_S)
    await counter.put(card)
    status, text = await counter.issue()
    assert status == 0 and card.serial
    assert journal.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 1, Progress.SCRAPPED: 0}
    journal.close()


async def _impatient(counter: Counter) -> tuple[int, str]:
    serial = order(1, Suite.SM4).card.hex()
    tokens = ("--serial", serial, "--issuer", "02317910", "--state", str(counter.state), "--class", "student")
    return await counter.run("issue", *tokens, patience_s=0.2)


@pytest.mark.parametrize("suite", [Suite.SM4, Suite.TRIPLE_DES])
async def test_load(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str], suite: Suite
) -> None:
    known, url = service
    card = await issued(store, tmp_path, 1, suite)
    await counter.put(card)
    status, text = await counter.load(url)
    assert status == 0 and "充值凭条 receipt" in text and text.count("12.50 元") == 2
    assert card.purses()[1].balance_fen == 1250
    status, text = await counter.load(url, "0.01")
    assert status == 0 and "12.51 元" in text
    records = [TapRecord.decode(raw) for raw in known.records]
    assert [(record.amount_fen, record.sequence, record.operator) for record in records] == [
        (1250, 1, 301),
        (1, 2, 301),
    ]
    assert {(record.balance_before_fen, record.overdraft_fen) for record in records} == {(0, 800), (1250, 800)}
    assert sorted(known.batches) == [(TERMINAL, 1), (TERMINAL, 2)]
    status, text = await counter.run("read")
    assert "12.51 元" in text and "圈存 load" in text


async def test_load_refusals(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str]
) -> None:
    known, url = service
    for wrong in ("12.505", "-1", "1e3", "0", "0.00", "twelve", "１２", "99999999"):
        status, text = await counter.load(url, wrong)
        assert status == 2 and "no amount" in text, wrong
    await counter.put(blank())
    status, text = await counter.load(url)
    assert status == 2 and "nothing was done" in text
    await counter.take()
    await asyncio.sleep(POLL_S)
    card = await issued(make_store(tmp_path / "foreign", seed=8), tmp_path / "foreign", 1)
    await counter.put(card)
    status, text = await counter.load(url)
    assert status == 2 and "bad-mac1" in text and "卡片校验失败" in text
    assert card.purses()[1].balance_fen == 0 and not known.records
    status, text = await counter.load("http://127.0.0.1:9")
    assert status == 2 and "清算中心没有应答" in text


@pytest.mark.parametrize("point", [TearPoint.BEFORE_MARKER, TearPoint.BEFORE_ANSWER])
async def test_load_torn_and_put_back(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str], point: TearPoint
) -> None:
    known, url = service
    card = await issued(store, tmp_path)
    await counter.put(card)
    known.authority = _tearing(store, card, point)
    loading = asyncio.create_task(counter.load(url))
    await counter.until_said("put the same card back")
    await asyncio.sleep(POLL_S)
    await counter.put(card)
    status, text = await loading
    committed = point is TearPoint.BEFORE_ANSWER
    assert status == (0 if committed else 2)
    assert ("充值凭条 receipt" if committed else "未充值") in text
    assert len(known.records) == committed
    assert card.purses()[1].balance_fen == (1250 if committed else 0)


@pytest.mark.parametrize("said", ["before", "after"])
async def test_load_goes_by_the_profile(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str], said: str
) -> None:
    """This chip's log counts `after`: of two loads alike in sum and second, its profile alone tells that the second
    never came."""
    known, url = service
    profile = tmp_path / "other.toml"
    profile.write_text(SHARED_PURSE.replace('log_counter = "before"', f'log_counter = "{said}"'), "utf-8")
    card = await issued(store, tmp_path)
    card.behaviour = Behaviour(log_counter="after")
    await counter.put(card)
    await counter.load(url)
    known.authority = _tearing(store, card, TearPoint.BEFORE_MARKER)
    loading = asyncio.create_task(counter.load(url, "12.50", "--profile", str(profile)))
    await counter.until_said("put the same card back")
    await asyncio.sleep(POLL_S)
    await counter.put(card)
    status, told = await loading
    assert card.purses()[1].balance_fen == 1250
    assert (status == 2 and "未充值" in told) == (said == "after")


async def test_load_left_open_is_settled_before_the_next(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str]
) -> None:
    known, url = service
    card = await issued(store, tmp_path)
    await counter.put(card)
    known.authority = _tearing(store, card, TearPoint.BEFORE_ANSWER)
    status, text = await counter.load(url, patience_s=0.2)
    assert status == 1 and "neither pay back nor charge again" in text
    known.authority = authoriser(store)
    await asyncio.sleep(POLL_S)
    await counter.put(card)
    status, text = await counter.load(url)
    assert status == 1 and "that was an earlier load" in text and "充值凭条" in text
    assert card.purses()[1].balance_fen == 1250, "the holder is not charged twice by a repeated command"
    assert len(known.records) == 1
    status, text = await counter.load(url)
    assert status == 0 and card.purses()[1].balance_fen == 2500


async def test_record_waits_for_the_service(
    counter: Counter, store: EmbeddedStore, tmp_path: Path, service: tuple[Service, str]
) -> None:
    known, url = service
    await counter.put(await issued(store, tmp_path))
    known.down = 1
    status, text = await counter.load(url, "5")
    assert status == 1 and "充值凭条" in text and "the record is kept" in text
    queue = CounterQueue(counter.state / "readers.sqlite")
    assert len(queue.waiting()) == 1
    status, text = await counter.load(url, "6")
    assert status == 0 and not queue.waiting()
    assert [TapRecord.decode(raw).amount_fen for raw in known.records] == [500, 600]
    queue.close()


def _tearing(store: EmbeddedStore, card: SoftwareCard, point: TearPoint) -> "Tearing":
    return Tearing(authoriser(store), card, point)


@dataclass
class Tearing:
    """The authority; the card loses its power at the credit that it grants."""

    real: object
    card: SoftwareCard
    point: TearPoint

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        self.card.tear_next(self.point)
        grant: LoadGrant = await self.real.authorise_load(request)  # type: ignore[attr-defined]
        return grant


@given(st.integers(1, 9_999_999_99))
def test_yuan_there_and_back(fen: int) -> None:
    assert parse_yuan(yuan(fen)) == fen
    assert yuan(-fen) == f"-{yuan(fen)}"


@pytest.mark.parametrize(("text", "fen"), [("12.5", 1250), ("12.50", 1250), ("0.07", 7), ("50", 5000), ("0.1", 10)])
def test_parse_yuan(text: str, fen: int) -> None:
    assert parse_yuan(text) == fen


@pytest.mark.parametrize("text", ["", ".5", "5.", "1.234", "1,5", "+5", "٥", "1e2", " 5", "0", "5\n"])
def test_no_amount(text: str) -> None:
    with pytest.raises(FormatError, match="no amount"):
        parse_yuan(text)


def test_masked() -> None:
    assert masked(bytes.fromhex("03107910000000001234")) == "0310************1234"
