"""`onecard counter psam`: blanks become PSAMs by the plan that the command makes, whatever happens on the way."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from io import StringIO
from pathlib import Path
from secrets import token_bytes

import pytest
from rich.console import Console

from cardcore.authority import PersonalisationAuthority
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Sector, Suite
from keys import acts
from keys.ceremony import Ceremony, test_ceremony
from keys.purposes import KeyId, KeyPurpose, required_roots
from keys.rotation import Move, Sunset
from keys.store import EmbeddedStore
from readers.cli import app_for
from readers.counter.clerk import Clerk
from readers.counter.psams import PsamPlan
from readers.pcsc.channel import CardTorn
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import WrongChip
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench
from simulators.nvm import TearPoint
from simulators.pcscd import PrivatePcscd
from simulators.psam import SoftwarePsam
from simulators.vpcd import insert
from tests.counter_side import NOW, make_store
from tests.custody_side import Moment, approved, hold, move, staffed
from tests.pcscd import POLL_S, start
from tests.test_keys_loads import COMPONENTS
from tests.test_pcsc_cli import Front

NUMBERS = [f"7910010000{number:02}" for number in range(1, 4)]
FILE = "readers.sqlite"
# A factory that sells to production offices has a key of its own.
FACTORY = bytes(range(100, 116))
FACTORYS_PART = bytes(a ^ b for a, b in zip(FACTORY, range(16), strict=True))


def blank(seed: int = 1, suite: str = "sm4") -> SoftwarePsam:
    return SoftwarePsam.blank(suite, rng=random.Random(seed))


def plan(*numbers: str, gate: bool = False, suite: Suite = Suite.SM4) -> PsamPlan:
    return PsamPlan(tuple(map(bytes.fromhex, numbers)), Sector.TRANSIT, suite, gate, NOW)


@dataclass
class Cutting:
    """The personaliser; the chip loses its power before the answer to the key that comes `at`-th."""

    real: PersonalisationAuthority
    psam: SoftwarePsam
    at: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    async def write_key(self, *given: object) -> bytes:
        self.at -= 1
        if not self.at:
            self.psam.tear_next(TearPoint.BEFORE_ANSWER)
        return await self.real.write_key(*given)  # type: ignore[arg-type]  # passed on as it came


async def make(
    wanted: PsamPlan, authority: PersonalisationAuthority, psam: SoftwarePsam, journal: Journal, at: int = 0
) -> str | None:
    """The `at`-th of the plan by the command's own steps, in process; the reason when it was scrapped."""
    order = wanted.orders(journal, authority.key_versions())[at]
    bench = Bench(authority, journal, "wang", lambda: NOW)
    scrapped = await bench.personalise(wanted.job(order, DirectChannel(psam), "one"))
    return scrapped.reason if scrapped else None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / FILE)) as journal:
        yield journal


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("suite", Suite)
async def test_what_is_made(store: EmbeddedStore, journal: Journal, suite: Suite, gate: bool) -> None:
    psam = blank(suite="sm4" if suite is Suite.SM4 else "3des")
    assert await make(plan(NUMBERS[0], gate=gate, suite=suite), store.personaliser(), psam, journal) is None
    assert psam.terminal_number == bytes.fromhex(NUMBERS[0])
    assert sum(usage == 0x42 for usage, _ in psam.mf.keys.value) == 2, "the purchase root of both suites"
    assert any(usage == 0x46 for usage, _ in psam.mf.keys.value) is gate, "the entry root is a gate's alone"


@pytest.mark.parametrize("cut", range(1, 8))
async def test_resumes_through_a_rotation(tmp_path: Path, journal: Journal, cut: int) -> None:
    """Torn at each key in turn, taken up by another process after the custodians promoted what was rolling out."""
    with staffed(tmp_path / "keys", Moment()) as store:
        test_ceremony(store, COMPONENTS)
        ids = [replace(KeyId.parse(name), version=2) for name in ("sm4/PURCHASE/transit", "sm4/TAC/1", "sm4/LOAD/1")]
        hold(store, [id.name for id in ids], tmp_path / "transcript")
        move(store, Move.ROLL_OUT, *ids)
        psam, wanted = blank(), plan(NUMBERS[0], gate=True)
        with pytest.raises(CardTorn):
            await make(wanted, Cutting(store.personaliser(), psam, cut), psam, journal)  # type: ignore[arg-type]  # by __getattr__
        move(store, Move.PROMOTE, *ids)
        assert await make(wanted, store.personaliser(), psam, journal) is None
    versions = sorted(key.version for (usage, _), key in psam.mf.keys.value.items() if usage == 0x42)
    assert versions == [1, 1, 2] and journal.stock()[Progress.ISSUED] == 1


async def test_a_production_store_without_permission(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not issue hears it before anything is done: the blank is a blank, the journal is empty."""
    with staffed(tmp_path / "keys", Moment(), production=True) as store:
        sitting = Ceremony(store, [*required_roots(), "sm4/TRANSPORT"], 2)
        for person, part in (("Chen Yi", bytes(range(16))), ("Sun Li", FACTORYS_PART)):
            sitting.seat(person)
            for id in sitting.ids:
                sitting.give(id, (part if id.purpose is KeyPurpose.TRANSPORT else token_bytes(16)).hex())
        sitting.finish(approved(store, sitting.act), tmp_path / "transcript")
        for step in (Move.ROLL_OUT, Move.PROMOTE):
            move(store, step, *sitting.ids)
        monkeypatch.setattr("simulators.chip.TEST_TRANSPORT_KEY", FACTORY)
        psam, wanted = blank(), plan(NUMBERS[0])
        written = psam.memory.written
        with pytest.raises(RefusedError, match=f"issuing of PSAM {NUMBERS[0]}.*issue-psams") as refused:
            await make(wanted, store.personaliser(), psam, journal)
        assert refused.value.code == "two-persons"
        assert sum(journal.stock().values()) == 0 and psam.memory.written == written
        acts.issue_psams(store, NUMBERS[:1], approved(store, acts.issuing_act(NUMBERS[:1])))
        assert await make(wanted, store.personaliser(), psam, journal) is None
    assert journal.stock()[Progress.ISSUED] == 1


async def test_a_missing_key_is_named_first(tmp_path: Path, journal: Journal) -> None:
    with staffed(tmp_path / "keys", Moment()) as store:
        test_ceremony(store, COMPONENTS)
        move(store, Move.SUSPEND, KeyId.parse("sm4/ENTRY"))
        with pytest.raises(KeyUseError, match=r"no version of sm4/ENTRY .*no serial was spent"):
            plan(*NUMBERS, gate=True).orders(journal, store.personaliser().key_versions())
        assert plan(*NUMBERS).orders(journal, store.personaliser().key_versions())


async def test_what_is_no_blank_is_not_scrapped(store: EmbeddedStore, journal: Journal) -> None:
    """An issued PSAM, a half-made one and one of the other suite are not changed, and cost no number."""
    wanted, keys = plan(*NUMBERS), store.personaliser()
    whole, half = blank(1), blank(2)
    assert await make(wanted, keys, whole, journal) is None
    with pytest.raises(WrongChip, match=f"is PSAM {NUMBERS[0]}; nothing was changed, put a blank there"):
        await make(wanted, keys, whole, journal, at=1)
    with pytest.raises(CardTorn):
        await make(wanted, Cutting(keys, half, 3), half, journal, at=1)  # type: ignore[arg-type]  # by __getattr__
    with pytest.raises(WrongChip, match="no blank PSAM of SM4"):
        await make(wanted, keys, half, journal, at=2)
    with pytest.raises(WrongChip, match="no blank PSAM of SM4"):
        await make(wanted, keys, blank(3, "3des"), journal, at=2)
    with pytest.raises(WrongChip, match=f"is PSAM {NUMBERS[0]}; .*put PSAM {NUMBERS[1]} back"):
        await make(wanted, keys, whole, journal, at=1)
    assert journal.stock() == {Progress.ISSUED: 1, Progress.RUNNING: 1, Progress.SCRAPPED: 0}
    assert await make(wanted, keys, half, journal, at=1) is None


@pytest.mark.parametrize("wrong", [(), (NUMBERS[0], NUMBERS[0]), ("7910",)])
def test_a_wrong_plan(wrong: tuple[str, ...]) -> None:
    with pytest.raises(FormatError):
        plan(*wrong)


def test_a_gate_of_another_sector() -> None:
    with pytest.raises(FormatError, match="no metro gate"):
        replace(plan(*NUMBERS, gate=True), sector=Sector.UTILITY)


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(2)
    yield daemon
    daemon.stop()


async def run(front: Front, said: StringIO, state: Path, *tokens: str) -> int:
    app = app_for(front, Clerk(Console(file=said, width=300), patience_s=1))
    status: int = await app.run_async(
        ["psam", *tokens, "--sector", "transit", "--state", str(state)], result_action="return_value"
    )
    return status


async def test_the_command(daemon: PrivatePcscd, store: EmbeddedStore, tmp_path: Path) -> None:
    """Cut in the middle and put back, then told as issued; once more, and for the issued one under another number."""
    front, said, psam = Front(store), StringIO(), blank()
    front.authority = Cutting(store.personaliser(), psam, 3)  # type: ignore[assignment]  # by __getattr__
    link = await insert("127.0.0.1", daemon.ports[0], psam)
    await asyncio.sleep(POLL_S)
    making = asyncio.create_task(run(front, said, tmp_path, NUMBERS[0], "--reader", daemon.readers[0]))
    async with asyncio.timeout(5):
        while "put the same card back" not in said.getvalue():  # noqa: ASYNC110 - a console rings no bell
            await asyncio.sleep(0.01)
    await link.remove()
    await asyncio.sleep(POLL_S)
    link = await insert("127.0.0.1", daemon.ports[0], psam)
    assert await making == 0
    text = said.getvalue()
    told = [line.split()[-1] for line in text.splitlines() if line.startswith("✓")]
    assert told == ["structure", "keys", "data", "issue"]
    assert f"PSAM {NUMBERS[0]}" in text and "发卡完成 issued" in text
    assert psam.terminal_number.hex() == NUMBERS[0]
    assert await run(front, said, tmp_path, NUMBERS[0], "--reader", daemon.readers[0]) == 2
    assert f"PSAM {NUMBERS[0]} 已发卡 is issued" in said.getvalue()
    assert await run(front, said, tmp_path, NUMBERS[1], "--reader", daemon.readers[0]) == 2
    assert "卡片不对" in said.getvalue() and f"is PSAM {NUMBERS[0]}" in said.getvalue()
    await link.remove()


async def test_many_with_a_suite_retired(daemon: PrivatePcscd, tmp_path: Path) -> None:
    """Three numbers on two readers; each is told with what it cannot do. The one that stays on its reader is not taken
    for the next blank, and the same command again has nothing left to do."""
    clock, said, psams = Moment(), StringIO(), [blank(seed) for seed in range(3)]
    with staffed(tmp_path / "keys", clock) as store:
        test_ceremony(store, COMPONENTS)
        end = Sunset(Suite.TRIPLE_DES, date(2026, 6, 30), date(2027, 6, 30))
        acts.set_sunset(store, end, approved(store, acts.sunset_act(end)))
        clock.pass_(days=130)
        readers = [token for reader in daemon.readers[:2] for token in ("--reader", reader)]
        making = asyncio.create_task(run(Front(store), said, tmp_path / "state", *NUMBERS, *readers))
        links = [await insert("127.0.0.1", daemon.ports[at], psams[at]) for at in range(2)]
        async with asyncio.timeout(10):
            while said.getvalue().count("put the next blank") < 2:  # noqa: ASYNC110 - a console rings no bell
                await asyncio.sleep(0.02)
        await links[0].remove()
        await asyncio.sleep(POLL_S)
        links[0] = await insert("127.0.0.1", daemon.ports[0], psams[2])
        assert await making == 0
        text = said.getvalue()
        assert "3 张 in = 完成 good 3 + 作废 scrapped 0 + 剩余 left 0" in text
        for number in NUMBERS:
            assert f"PSAM {number} debits no 3DES card: that suite is retired" in text
        assert {psam.terminal_number.hex() for psam in psams} == set(NUMBERS)
        assert await run(Front(store), said, tmp_path / "state", *NUMBERS, *readers) == 0
        for link in links:
            await link.remove()
