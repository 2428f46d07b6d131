"""The ceilings of a PSAM, set by the service over HTTP for a software PSAM that the product has made (docs/wire.md)."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cardcore.errors import FormatError
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.script import PsamOrder, psam_steps
from clearing.registry.document import parse_registry
from clearing.registry.take import take
from keys.ceremony import TEST_TRANSPORT_KEY
from keys.engine.root import RootKey
from keys.purposes import KeyId, KeyPurpose
from simulators.psam import SoftwarePsam
from tests.cardcore_issuer import Issuer
from tests.intake_side import (
    BUS,
    BUS_PSAM,
    LOST_PSAM,
    OLD_PSAM,
    SHOP,
    SHOP_PSAM,
    House,
    debit,
    house,
    registry_document,
    spoiled,
)

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

CEILINGS = {"count": 4, "amount_fen": 1_000, "gaps": 1, "per_day": 3}


def policies(**value: int) -> list[dict[str, Any]]:
    policy = {"name": "ceilings", "scope": "bus", "from": "2026-01-01", "version": 1, "basis": "test"}
    return [*registry_document()["policies"], policy | {"value": CEILINGS | value}]


@pytest.fixture
async def open_house(database: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(database, tmp_path, policies=policies()) as opened:
        yield opened


@dataclass
class Box:
    """A bus validator of our own: its PSAM, its records, and its way to the service."""

    house: House
    psam: SoftwarePsam
    suite: Suite
    number: str = BUS_PSAM
    terminal: int = BUS
    records: list[TapRecord] = field(default_factory=list)
    told: int = 0

    def ask(self, apdu: str) -> tuple[bytes, int]:
        answer = self.psam.transmit(bytes.fromhex(apdu))
        return answer[:-2], int.from_bytes(answer[-2:], "big")

    def open(self, fen: int = 200) -> int:
        """INIT SAM FOR PURCHASE; its status word."""
        asked = "112233440007" + f"{fen:08x}" + "0620260302100000" + "0100" + "00" * 16
        answer, status = self.ask(f"8070000024{asked}08")
        if status == 0x9000:
            self.told = int.from_bytes(answer[:4], "big")
        return status

    def tap(self, fen: int = 200, **fields: Any) -> int:
        """A debit with its record, kept for the evening."""
        status = self.open(fen)
        if status == 0x9000:
            sequence = len(self.records) + 1
            self.records.append(debit(sequence, terminal_transaction=self.told, amount_fen=fen, **fields))
        return status

    async def upload(self, n: int, first: int = 1, last: int | None = None) -> None:
        await self.house.upload(n, self.records[first - 1 : last])

    async def post(self, step: str, challenge: bytes | str, **said: Any) -> tuple[int, dict[str, Any]]:
        sequence = len(self.records)
        body: dict[str, Any] = {"step": step, "epoch": 1, "sequence": sequence, "transaction": self.told}
        body |= {"suite": int(self.suite), "challenge": challenge if isinstance(challenge, str) else challenge.hex()}
        return await self.house.post(f"/v1/t/{self.terminal}/psams/{self.number}/ceilings", **(body | said))

    async def step(self, step: str, **said: Any) -> tuple[int, dict[str, Any], int | None]:
        """One challenge, one answer, and what the PSAM says to it."""
        challenge, _ = self.ask("0084000008")
        status, document = await self.post(step, challenge, **said)
        return status, document, self.ask(document["command"])[1] if status == 200 else None

    async def arm(self, **said: Any) -> tuple[int, str]:
        """Both exchanges; 200, or status and code of what was refused."""
        for step in ("prove", "set"):
            status, document, word = await self.step(step, **said)
            if status != 200:
                return status, document["code"]
            assert word == 0x9000
        return 200, ""

    async def refused(self, step: str = "prove", challenge: str = "00" * 8, **said: Any) -> tuple[int, str, Any]:
        status, document = await self.post(step, challenge, **said)
        return status, document["code"], document.get("missing")


async def make(house_: House, suite: Suite = Suite.SM4, number: str = BUS_PSAM, **more: Any) -> Box:
    house_.store.admit([RootKey(KeyId(each, KeyPurpose.TRANSPORT), TEST_TRANSPORT_KEY, test=True) for each in Suite])
    psam = SoftwarePsam.blank("sm4" if suite is Suite.SM4 else "3des", rng=random.Random(8))
    psam.power_on()
    sector = Sector.SMALLPAY if number == SHOP_PSAM else Sector.TRANSIT
    order = PsamOrder(terminal_number=bytes.fromhex(number), serial=bytes(10), sector=sector, suite=suite)
    await Issuer(psam, house_.store.personaliser(), order.identity).run(psam_steps(order))
    psam.power_on()
    return Box(house_, psam, suite, number, **more)


@pytest.mark.parametrize("suite", Suite)
async def test_a_psam_stops_and_goes_on_after_the_upload(open_house: House, suite: Suite) -> None:
    box = await make(open_house, suite)
    assert await box.arm() == (200, "")
    assert [box.tap() for _ in range(5)] == [0x9000] * 4 + [0x6985]
    await box.upload(1, 1, 1)
    await box.upload(2, 4, 4)
    assert await box.refused() == await box.refused("set") == (409, "records-missing", [[2, 3]])
    assert box.tap() == 0x6985, "a refusal arms nothing"
    await box.upload(3, 2, 3)
    assert await box.arm() == (200, "")
    assert [box.tap(fen) for fen in (900, 101, 100, 1)] == [0x9000, 0x6985, 0x9000, 0x6985], "the amount too"
    rows = await open_house.pool.fetch(
        "SELECT psam, terminal, epoch, sequence, transaction, count, amount_fen, policy_version FROM psam_arming"
    )
    common = (bytes.fromhex(BUS_PSAM), BUS, 1)
    assert [tuple(row) for row in rows] == [(*common, 0, 0, 4, 1000, 1), (*common, 4, 4, 4, 1000, 1)]
    said = [row[4] for row in open_house.store.audit() if row[2:4] == ("keep", f"PSAM {BUS_PSAM}")]
    name = "sm4" if suite is Suite.SM4 else "3des"
    prove, ceilings = f"key {name}/CONTROL/0 v1", f"ceilings 4 purchases, 1000 fen; key {name}/MAINTENANCE/0 v1"
    assert said == [f"prove the control key; {prove}", ceilings] * 2


async def test_an_answer_serves_its_own_challenge_once(open_house: House) -> None:
    box = await make(open_house)
    first, _ = box.ask("0084000008")
    _, proved = await box.post("prove", first)
    assert box.ask(proved["command"])[1] == 0x9000
    challenge, _ = box.ask("0084000008")
    _, armed = await box.post("set", challenge)
    assert box.ask(armed["command"])[1] == 0x9000
    assert [box.open() for _ in range(5)] == [0x9000] * 4 + [0x6985]
    assert box.ask(armed["command"])[1] == 0x6985, "without a challenge"
    box.ask("0084000008")
    assert box.ask(armed["command"])[1] == 0x6988, "over another"
    assert box.open() == 0x6985
    box.psam.power_on()
    assert box.ask(proved["command"])[1] == 0x6985
    box.ask("0084000008")
    assert box.ask(proved["command"])[1] == 0x63C4
    other = await make(open_house, number=LOST_PSAM)
    other.ask("0084000008")
    assert other.ask(proved["command"])[1] == 0x63C4, "nor another PSAM"


async def test_lost_answers_and_taps_between_cost_a_repeat(open_house: House) -> None:
    box = await make(open_house)
    challenge, _ = box.ask("0084000008")
    assert (await box.post("prove", challenge))[0] == 200  # and the answer is lost
    assert (await box.step("prove"))[2] == 0x9000
    challenge, _ = box.ask("0084000008")
    _, late = await box.post("set", challenge)
    assert box.tap() == 0x9000, "a passenger does not wait"
    assert box.ask(late["command"])[1] == 0x6985, "so the challenge is gone, and nothing else"
    await box.upload(1)
    status, document, word = await box.step("set")
    assert (status, document["step"], document["count"], document["amount_fen"], word) == (200, "set", 4, 1000, 0x9000)
    assert [box.tap() for _ in range(5)] == [0x9000] * 4 + [0x6985], "anew from now on"


async def test_the_day_has_so_many_armings(open_house: House) -> None:
    """Each may have reached a PSAM, so a thief whom nobody has missed yet gets no more than these."""
    box = await make(open_house)
    await box.step("prove")
    for _ in range(3):
        assert (await box.step("set"))[0] == 200
    for step in ("prove", "set"):
        status, document = await box.post(step, bytes(8))
        assert (status, document["code"], document["retry"], document["after_s"]) == (409, "over-quota", "after", 3600)
    open_house.clock.instant += timedelta(days=1)
    assert await box.arm() == (200, "")


async def test_several_at_once_are_no_more_than_the_day_has(open_house: House) -> None:
    box = await make(open_house)
    answers = await asyncio.gather(*(box.post("set", bytes(8)) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] * 3 + [409] * 5
    assert await open_house.pool.fetchval("SELECT count(*) FROM psam_arming") == 3


async def test_numbers_that_no_record_tells_of(open_house: House) -> None:
    """The PSAM counts what a terminal does not tell: one number may lie open, as a tap that was given up leaves it."""
    box = await make(open_house)
    assert await box.arm() == (200, "")
    assert [box.tap(), box.open(), box.tap()] == [0x9000] * 3
    await box.upload(1)
    assert await box.arm() == (200, "")
    assert [box.open(), box.tap(), box.open()] == [0x9000] * 3
    await box.upload(2, 3)
    assert await box.refused() == (409, "transactions-missing", [[4, 4], [6, 6]])
    assert await box.refused(transaction=4) == (409, "behind", None), "5 is stored"
    # The records of the two last turn up: torn declarations and records without a proof are stored as well.
    late = [
        debit(4, terminal_transaction=6, kind=Kind.TORN, cryptogram=bytes(8)),
        spoiled(debit(5, terminal_transaction=4)),
    ]
    box.records += late
    await box.upload(3, 4)
    assert await box.arm() == (200, "")


async def test_earlier_epochs_are_asked_for_as_well(open_house: House) -> None:
    box = await make(open_house)
    box.records = [debit(n, terminal_transaction=n) for n in (1, 2, 3)]
    await box.upload(1, 3)
    document = registry_document(policies=policies())
    document["terminals"][0]["epoch"] = 2
    async with open_house.pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(document)))
    assert await box.refused(sequence=0) == (409, "behind", None)
    assert await box.refused(epoch=2, sequence=0) == (409, "records-missing", [[1, 2]])
    assert await box.refused(epoch=2, sequence=1) == (409, "records-missing", [[1, 1]]), "the newest epoch first"
    await box.upload(2, 1, 2)
    assert await box.arm(epoch=2, sequence=0) == (200, "")


async def test_only_what_was_sealed_tells_of_what_is_missing(open_house: House) -> None:
    """A damaged record may name any epoch and sequence; nobody has those below it."""
    box = await make(open_house)
    box.records = [debit(1, terminal_transaction=1), debit(2, terminal_transaction=2)]
    await box.upload(1)
    strays = [debit(5, epoch=0), debit(4_000, terminal_transaction=3)]
    await open_house.upload(2, [spoiled(record) for record in strays])
    assert await box.arm(sequence=2) == (200, "")
    await open_house.upload(3, [debit(9, terminal_transaction=4)])
    assert await box.refused(sequence=2) == (409, "records-missing", [[3, 8]]), "it has made more than it says"


async def test_a_policy_without_ceilings_is_none(open_house: House) -> None:
    for wrong in ({"count": 0}, {"amount_fen": 0}, {"per_day": 0}, {"gaps": -1}, {"count": 2**31}, {"colour": 1}):
        with pytest.raises(FormatError, match="policies"):
            parse_registry(json.dumps(registry_document(policies=policies(**wrong))))


async def test_what_another_box_did_with_it_counts_too(open_house: House) -> None:
    """A PSAM is carried over to another bus: the records of the first must be there as well."""
    first = await make(open_house)
    assert await first.arm() == (200, "")
    assert [first.tap(), first.tap(), first.tap()] == [0x9000] * 3
    document = registry_document(policies=policies())
    document["terminals"].append({"id": 110002, "operator": 101, "sector": "transit", "class": "bus", "epoch": 1})
    async with open_house.pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(document)))
    second = Box(open_house, first.psam, first.suite, terminal=110002, told=first.told)
    assert await second.refused() == (409, "transactions-missing", [[1, 3]])
    await first.upload(1)
    assert await second.arm() == (200, "")


@pytest.mark.parametrize(
    ("number", "terminal"),
    [(LOST_PSAM, BUS), (OLD_PSAM, BUS), ("0000000000ff", BUS), (SHOP_PSAM, BUS), (BUS_PSAM, SHOP)],
    ids=["lost", "expired", "unknown", "of another sector", "in another operator's box"],
)
async def test_whose_psam_is_never_armed(open_house: House, number: str, terminal: int) -> None:
    box = Box(open_house, SoftwarePsam.blank("sm4", rng=random.Random(1)), Suite.SM4, number, terminal)
    for step in ("prove", "set"):
        assert await box.refused(step) == (403, "psam-inactive", None)
    assert await open_house.pool.fetchval("SELECT count(*) FROM psam_arming") == 0
    kept = await open_house.pool.fetch("SELECT kind, terminal, detail FROM security_event")
    assert [tuple(row) for row in kept] == [
        ("psam-inactive", terminal, f"ceilings of PSAM {number} were asked for")
    ] * 2


async def test_t10_a_psam_that_was_stolen_in_between(open_house: House) -> None:
    """Armed today, stolen, reported: it signs up to its ceiling and never again, whatever its thief uploads."""
    box = await make(open_house)
    assert await box.arm() == (200, "")
    assert box.tap() == 0x9000
    await box.upload(1)
    document = registry_document(policies=policies())
    document["psams"][0]["state"] = "lost"
    async with open_house.pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(document)))
    assert [box.tap() for _ in range(4)] == [0x9000] * 3 + [0x6985]
    await box.upload(2, 2)
    assert await box.arm() == (403, "psam-inactive")
    assert box.tap() == 0x6985
    assert await open_house.states() == {("accepted", ""): 1, ("suspended", "psam-inactive"): 3}


async def test_other_refusals(open_house: House) -> None:
    box = await make(open_house)
    assert await box.refused(epoch=2) == (409, "behind", None)
    shop = Box(open_house, box.psam, Suite.SM4, SHOP_PSAM, SHOP)
    assert await shop.refused() == (422, "no-ceilings", None)
    box.terminal = 7
    assert await box.refused() == (403, "unknown-terminal", None)
    box.terminal = BUS
    for wrong in (
        {"step": "unset"}, {"challenge": "00" * 4}, {"challenge": "GG" * 8}, {"suite": 1}, {"sequence": -1},
        {"transaction": 2**32}, {"count": 9}, {"epoch": "1"},
    ):  # fmt: skip
        assert (await box.refused(**wrong))[:2] == (400, "bad-schema"), wrong
    assert await open_house.pool.fetchval("SELECT count(*) FROM psam_arming") == 0


async def test_a_terminal_that_is_suspended_for_bad_proofs(open_house: House) -> None:
    box = await make(open_house)
    box.records = [spoiled(debit(n)) for n in range(1, 23)]
    box.told = 22
    await box.upload(1)
    assert (await box.refused())[:2] == (403, "terminal-suspended")
    open_house.clock.instant += timedelta(days=1)
    assert await box.arm() == (200, "")


async def test_a_house_without_keys_of_psams(database: str, tmp_path: Path) -> None:
    names = [f"{suite}/{purpose}/{n}" for suite in ("3des", "sm4") for purpose in ("CONTROL", "MAINTENANCE")
             for n in range(7)]  # fmt: skip
    async with house(database, tmp_path, without=names, policies=policies()) as opened:
        box = Box(opened, SoftwarePsam.blank("sm4", rng=random.Random(1)), Suite.SM4)
        assert await box.refused() == (422, "no-key", None)
