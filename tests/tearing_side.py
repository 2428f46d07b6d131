"""A small city for tearing: a service, a counter and a gate of the product, cards that lose their power where told."""

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import asyncpg

from cardcore.bcd import encode_moment
from cardcore.card_files import MetroRecord
from cardcore.card_map import KeyType, key_id
from cardcore.commands.psam import Crypt, InitDescrypt
from cardcore.metro import EntryFinding
from cardcore.order import CardOrder, PsamOrder
from cardcore.profile import load_profile
from cardcore.purse import Committed, Outcome, Unknown
from cardcore.record import SEALED_BYTES, Kind, Sector, Suite, TapRecord
from cardcore.script import psam_steps, steps
from clearing.close.command import close
from clearing.registry import parse_registry, take
from clearing.service import ServiceSettings, running
from clearing.store.connect import connect_pool
from keys.store import EmbeddedStore
from readers.counter.desk import Desk
from readers.counter.loading import Claims, LoadCounter
from readers.counter.queue import CounterQueue
from readers.pcsc.ask import ask
from readers.pcsc.debit import Debit, Purchase, debit
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.metro import Gate, enter, leave
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.purse import Till
from simulators.card_os import SoftwareCard
from simulators.psam import SoftwarePsam
from tests.counter_side import ISSUER, NOW, PIN, SUITE_NAMES, make_store
from tests.intake_side import BANK, BUS, BUS_PSAM, COUNTER, NOON, ZONE, StoppedClock, binary, registry_document

FIRST_FEN, LOAD_FEN, RIDE_FEN, EXIT_FEN = 10_000, 5_000, 200, 300
ALLOWANCE_FEN = 800
RECORD_USAGE, RECORD_ID = 0x26, 0x01
TILL = Till(COUNTER, b"\0\0" + COUNTER.to_bytes(4, "big"), str(BANK))
TERMINAL_NUMBER = bytes.fromhex(BUS_PSAM)


class Deed(Enum):
    """The product's flows that move money or write with it, and what each does to a purse, fen."""

    LOAD = LOAD_FEN
    RIDE = -RIDE_FEN
    ENTRY = 0
    EXIT = -EXIT_FEN


class Recovery(Enum):
    """When the card is asked how it ended: at once, later at the same terminal, by a ride elsewhere, or never."""

    AT_ONCE = "at once"
    LATER = "later"
    ELSEWHERE = "elsewhere"
    NEVER = "never"


@dataclass
class Hand:
    """Who holds a card: loses its power after so many single writes, or with the n-th answer, and may walk off."""

    card: SoftwareCard
    returns: bool = True
    lost_answer: int | None = None
    answers: int = 0
    away: bool = False

    def power_on(self) -> bytes:
        return b"" if self.away else self.card.power_on()

    def transmit(self, apdu: bytes) -> bytes:
        if self.away:
            return b""
        answer = self.card.transmit(apdu)
        self.answers += 1
        if self.answers - 1 == self.lost_answer:
            self.card.power_off()
            answer = b""
        self.away = not answer and not self.returns
        return answer

    def put_back(self) -> None:
        self.away, self.lost_answer = False, None
        self.card.memory.cut_after(None)


@dataclass
class Tap:
    """A tap as its terminal keeps it: what it opened, and the record without sequence and cryptogram."""

    done: Debit
    purchase: Purchase
    record: TapRecord


@dataclass
class City:
    """One bus that is also the gate, one counter, one service; `records` wait for their upload."""

    pool: asyncpg.Pool
    clock: StoppedClock
    store: EmbeddedStore
    url: str
    desk: Desk
    counter: LoadCounter
    sam: DirectChannel
    bench: Bench
    records: list[TapRecord] = field(default_factory=list)
    cards: dict[bytes, SoftwareCard] = field(default_factory=dict)
    taps: int = 0

    async def card(self, suite: Suite) -> SoftwareCard:
        """A registered, personalised card with 100 yuan."""
        number = len(self.cards) + 1
        order = CardOrder(
            issuer=ISSUER, card=bytes.fromhex(f"0310{number:016d}"), suite=suite, concession=1,
            starts=NOW.date(), expires=NOW.date().replace(year=2036),
        )  # fmt: skip
        await self.desk.register(order, "shared-purse", SUITE_NAMES[suite])
        chip = SoftwareCard.blank(SUITE_NAMES[suite], rng=random.Random(number))
        script = steps(load_profile("shared-purse"), order)
        assert await self.bench.personalise(Job(order.identity, "shared-purse", script, DirectChannel(chip))) is None
        self.cards[order.card] = chip
        ended = await self.load(Hand(chip), suite, FIRST_FEN)
        assert isinstance(ended, Committed)
        return chip

    async def load(self, hand: Hand, suite: Suite, fen: int = LOAD_FEN) -> Outcome:
        channel = DirectChannel(hand)
        await channel.reset()
        ended = await self.counter.load(channel, TILL, Claims(ALLOWANCE_FEN, 1, 1, BANK), 1, suite, fen, PIN)
        return ended.outcome

    async def ride(self, hand: Hand, suite: Suite) -> Tap:
        wanted = self._purchase(suite, RIDE_FEN, self._moment())
        return _tap(await debit(DirectChannel(hand), self.sam, wanted), wanted, Kind.DEBIT, line=7)

    async def enter(self, hand: Hand, suite: Suite) -> Tap:
        now = self._moment()
        passage = await enter(DirectChannel(hand), self.sam, self._gate(suite, 1), now)
        return _tap(passage.debit, self._purchase(suite, 0, now), Kind.ENTRY, line=1, station=1)

    async def leave(self, hand: Hand, suite: Suite) -> Tap:
        def priced(finding: EntryFinding, _: MetroRecord) -> int:
            assert finding is EntryFinding.GENUINE
            return EXIT_FEN

        now = self._moment()
        passage = await leave(DirectChannel(hand), self.sam, self._gate(suite, 3), now, priced)
        came = passage.record.entry_at
        assert came is not None
        entry_at = int(came.replace(tzinfo=ZONE).timestamp())
        wanted = self._purchase(suite, EXIT_FEN, now)
        return _tap(passage.debit, wanted, Kind.EXIT, line=1, station=3, entry_station=1, entry_at=entry_at)

    async def keep(self, tap: Tap, outcome: Outcome) -> None:
        """What the terminal writes down of a tap that ended so: its record, a torn declaration, or nothing."""
        if isinstance(outcome, Committed) and outcome.tac is not None:
            await self._sealed(replace(tap.record, cryptogram=outcome.tac + bytes(4)))
        elif isinstance(outcome, Unknown | Committed):
            await self._sealed(replace(tap.record, kind=Kind.TORN))

    async def upload(self) -> None:
        """All that the counter and the bus have kept; nothing of it may be refused or quarantined."""
        for _, answer in await self.counter.send():
            assert not answer["quarantined"], answer
        for n, first in enumerate(range(0, len(self.records), 500), start=1):
            answer = await self.desk.upload(BUS, n, binary(self.records[first : first + 500]))
            assert not answer["quarantined"] and not answer["missing"], answer

    async def close(self, days: int) -> None:
        for _ in range(days):
            self.clock.instant += timedelta(days=1)
            await close(self.pool, None, self.clock)

    def _moment(self) -> datetime:
        """Of the next tap: two minutes after the one before, so that no two are alike."""
        self.taps += 1
        self.clock.instant = max(self.clock.instant, _utc(self.taps))
        return _utc(self.taps).astimezone(ZONE).replace(tzinfo=None)

    def _purchase(self, suite: Suite, fen: int, now: datetime) -> Purchase:
        index = key_id(KeyType.PURCHASE, suite, Sector.TRANSIT)
        date, time = encode_moment(now)
        composite = fen != RIDE_FEN
        return Purchase(fen, 1, suite, index, TERMINAL_NUMBER, date, time, composite)

    def _gate(self, suite: Suite, station: int) -> Gate:
        index = key_id(KeyType.PURCHASE, suite, Sector.TRANSIT)
        return Gate(1, station, TERMINAL_NUMBER, 1, suite, index, timedelta(hours=4), lambda _: False)

    async def _sealed(self, record: TapRecord) -> None:
        numbered = replace(record, sequence=len(self.records) + 1)
        await ask(self.sam, InitDescrypt(RECORD_USAGE, RECORD_ID, b"\0\0" + TERMINAL_NUMBER))
        seal = await ask(self.sam, Crypt(numbered.encode()[:SEALED_BYTES]))
        self.records.append(replace(numbered, seal=seal))


def _tap(done: Debit, wanted: Purchase, kind: Kind, **claims: int) -> Tap:
    return Tap(done, wanted, tap_record(done, wanted, kind, BUS, **claims))


def tap_record(done: Debit, wanted: Purchase, kind: Kind, terminal: int, **claims: int) -> TapRecord:
    """The record of a debit of the first purse, as its terminal keeps it; without sequence and cryptogram."""
    opened = done.opened
    return TapRecord(
        kind=kind, suite=done.identity.suite, key_version=opened.key_version, key_index=wanted.key_index, purse=1,
        issuer=done.identity.issuer, card=done.identity.card, counter=opened.counter,
        amount_fen=wanted.amount_fen, full_fare_fen=wanted.amount_fen, concession=1,
        transaction_type=wanted.transaction_type, terminal_number=wanted.terminal_number,
        terminal_transaction=done.transaction, date=wanted.date, time=wanted.time,
        balance_before_fen=opened.raw_balance_fen - opened.overdraft_fen, overdraft_fen=opened.overdraft_fen,
        terminal=terminal, epoch=1, sequence=0, operator=101, **claims,
    )  # fmt: skip


def _utc(taps: int) -> datetime:
    return (NOON - timedelta(hours=9) + timedelta(seconds=20 * taps)).astimezone(UTC)


@asynccontextmanager
async def city(dsn: str, folder: Path) -> AsyncIterator[City]:
    """On a fresh database, with a TEST store of every root and a PSAM of a gate."""
    pool, clock, store = await connect_pool(dsn, size=2), StoppedClock(_utc(0)), make_store(folder)
    with store:
        async with pool.acquire() as connection:
            await take(connection, parse_registry(_registry()))
        journal, queue = Journal(folder / "journal.sqlite"), CounterQueue(folder / "queue.sqlite")
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        async with running(ServiceSettings(dsn, store, clock, port=0)) as service, Desk(service.url) as desk:
            chip = SoftwarePsam.blank("sm4", rng=random.Random(2))
            made = PsamOrder(
                terminal_number=TERMINAL_NUMBER, serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4, gate=True
            )  # fmt: skip
            assert await bench.personalise(Job(made.identity, "psam", psam_steps(made), DirectChannel(chip))) is None
            chip.power_on()
            yield City(
                pool, clock, store, service.url, desk, LoadCounter(desk, queue), DirectChannel(chip), bench
            )  # fmt: skip
        journal.close()
        queue.close()
    await pool.close()


def _registry() -> str:
    document = registry_document(cards=[])
    more: Sequence[dict[str, object]] = [
        {"name": name, "scope": scope, "from": "2026-01-01", "version": 1, "basis": "test", "value": value}
        for name, scope, value in (
            ("fare-flat", "7", {"fen": RIDE_FEN}),
            ("fare-metro", "*", {"base_fen": 200, "step_fen": 50, "max_fen": 900}),
            ("concession", "transit", {"1": 100, "2": 50, "3": 0}),
            ("grace", "*", {"hours": 24}),
        )
    ]
    return json.dumps(document | {"policies": [*document["policies"], *more]})
