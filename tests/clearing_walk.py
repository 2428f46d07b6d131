"""A clearing house to which things happen in any order: what a seed draws, over the real service.

Nothing here knows what the books should be. Whatever came, in whatever order, `verify` must find them right, after
every close and between closes; no answer may be a fault of the service, and what was answered is answered again.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from cardcore.errors import RefusedError
from cardcore.record import Kind, Suite, TapRecord
from clearing.close.command import close
from clearing.intake import Verifiers, retake
from clearing.registry import parse_registry, take
from clearing.verify import verify
from tests.intake_side import (
    BUS,
    BUS_PSAM,
    CARDS,
    COUNTER,
    FOREIGN,
    HOSPITAL,
    LOST_PSAM,
    OLD_PSAM,
    SHOP,
    SHOP_PSAM,
    ZONE,
    House,
    act_record,
    act_request,
    as_json,
    binary,
    debit,
    load_record,
    load_request,
    psam,
    registry_document,
    sealed,
    spoiled,
)

HOLDERS, SPARE_CARDS = CARDS[:6], CARDS[6:12]
NEW_PSAM, NEW_ISSUER = "791001000077", "02317960"
PSAMS = {BUS: BUS_PSAM, SHOP: SHOP_PSAM}
BINARY, JSON = "application/vnd.onecard.batch", "application/json"
GROWTHS: Sequence[dict[str, Any]] = (
    {"psams": [psam(NEW_PSAM, "transit", 101)]},
    {"issuers": [{"code": NEW_ISSUER, "name": "new", "own": False}]},
)
# What a validator may say, each now and then, and what is said of a tap that was another.
ODD_CLAIMS: Sequence[dict[str, Any]] = (
    {"issuer": FOREIGN},
    {"issuer": NEW_ISSUER},
    {"generation": 1},
    {"kind": Kind.ENTRY, "station": 3},
    {"kind": Kind.EXIT, "station": 3, "entry_station": 5},
    {"kind": Kind.TORN},
    {"concession": 2},
    {"psam": LOST_PSAM},
    {"psam": OLD_PSAM},
    {"psam": NEW_PSAM},
)
ALTERED: Sequence[dict[str, Any]] = ({"purse": 2}, {"purse": 9}, {"key_version": 2}, {"full_fare_fen": 999})


@dataclass
class Holder:
    """A card as it stands in the walk: both counters, and the value, fen."""

    offline: int = 0
    online: int = 0
    value_fen: int = 0


@dataclass(frozen=True)
class Sent:
    """A batch with its answer."""

    terminal: int
    n: int
    body: bytes
    media: str
    headers: dict[str, str]
    status: int


@dataclass
class Walk:
    """One house, one seed; `happened` counts what came of it."""

    house: House
    draw: random.Random
    holders: dict[str, Holder] = field(default_factory=lambda: {card: Holder() for card in HOLDERS})
    sequences: Counter[int] = field(default_factory=Counter)
    batches: Counter[int] = field(default_factory=Counter)
    waiting: dict[int, list[TapRecord]] = field(
        default_factory=lambda: {terminal: [] for terminal in (BUS, SHOP, COUNTER, HOSPITAL)}
    )
    made: list[TapRecord] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    async def play(self, steps: int) -> None:
        """So many things, then a close."""
        for _ in range(steps):
            [(_, act)] = self.draw.choices(ACTS, weights=[weight for weight, _ in ACTS])
            await act(self)
        await self.close()

    async def judge(self) -> None:
        """The product's own checks, all of them."""
        wrong = [check for check in await verify(self.house.pool) if not check.ok]
        assert not wrong, wrong
        self.happened["verified"] += 1

    # What terminals do

    async def tap(self) -> None:
        """A debit, as it should be or with something that is not."""
        draw, terminal = self.draw, self.draw.choice([BUS, BUS, SHOP])
        card = draw.choice(HOLDERS)
        holder = self.holders[card]
        counter, before_fen = holder.offline, holder.value_fen
        if draw.random() < 0.06:
            counter += draw.randint(1, 3)
        elif draw.random() < 0.09:
            counter = max(0, counter - draw.randint(1, 3))
        if draw.random() < 0.07:
            before_fen = max(0, before_fen + draw.choice([-300, -50, 50, 400]))
        fen = draw.choice([0, 100, 150, 200, 200, 350])
        claims: dict[str, Any] = {
            "at": self._moment(), "card": card, "psam": PSAMS[terminal], "terminal": terminal, "counter": counter,
            "balance_before_fen": before_fen, "amount_fen": fen, "full_fare_fen": fen + draw.choice([0, 0, 0, 100]),
            "seal": draw.random() > 0.12, "suite": draw.choice([*[Suite.TRIPLE_DES] * 2, Suite.SM4]),
            "operator": draw.choice([101, 101, 101, 77]),
        }  # fmt: skip
        if draw.random() < 0.2:
            claims |= draw.choice(ODD_CLAIMS)
        record = debit(self._next(terminal, gaps=True), **claims)
        if draw.random() < 0.05:
            record = spoiled(record)
        if draw.random() < 0.08:
            record = replace(record, **draw.choice(ALTERED))
        holder.offline = max(holder.offline, counter + 1)
        holder.value_fen = max(0, before_fen - fen)
        self._keep(record)
        self.made.append(record)

    async def copy(self) -> None:
        """A record once more under a new number, by its own terminal or by another, or with another counter."""
        if self.made:
            record, terminal = self.draw.choice(self.made), self.draw.choice([BUS, SHOP])
            sequence = self._next(terminal)
            copied = replace(record, sequence=sequence, terminal=terminal)
            if self.draw.random() < 0.3:
                copied = replace(copied, counter=record.counter + 1)
            self._keep(sealed(copied) if any(record.seal) else copied)

    async def send(self) -> None:
        """Some of what a terminal has kept, in one of the spellings; or it is lost, or damaged."""
        draw, terminal = self.draw, self.draw.choice(list(self.waiting))
        kept = sorted(self.waiting[terminal], key=lambda record: record.sequence)
        records = kept[: draw.randint(1, 12)]
        if not records:
            return
        self.waiting[terminal] = [record for record in kept if record not in records]
        if draw.random() < 0.05:
            self.happened["lost"] += 1
            return
        if draw.random() < 0.06:
            records.append(draw.choice(records))
        if draw.random() < 0.1:
            draw.shuffle(records)
        media = draw.choice([BINARY, BINARY, JSON])
        ends = {"first_seq": min(r.sequence for r in records), "last_seq": max(r.sequence for r in records)}
        body = as_json(records, **ends) if media == JSON else binary(records)
        if draw.random() < 0.04:
            body = body[: -draw.randint(1, 60)]
        headers: dict[str, str] = {}
        if draw.random() < 0.2:
            body, headers = gzip.compress(body, mtime=0), {"Content-Encoding": "gzip"}
        await self._put(terminal, body, media, headers)

    async def send_again(self) -> None:
        """The same batch, the same body under a new number, or another body under a number that is taken."""
        if not self.sent:
            return
        one, chance = self.draw.choice(self.sent), self.draw.random()
        if chance < 0.6:
            status, _ = await self.house.put(one.n, one.body, one.terminal, one.media, **one.headers)
            assert status == one.status
        elif chance < 0.85:
            await self._put(one.terminal, one.body, one.media, one.headers)
        else:
            other = self.draw.choice(self.sent)
            status, _ = await self.house.put(one.n, other.body, one.terminal, other.media, **other.headers)
            assert status < 500

    # What happens at the desk

    async def load(self) -> None:
        """A load that comes to the card or not, and whose record comes or not."""
        draw, card = self.draw, self.draw.choice(HOLDERS)
        holder = self.holders[card]
        request = load_request(
            card,
            amount_fen=draw.choice([100, 1000, 5000]),
            counter=holder.online,
            raw_balance_fen=holder.value_fen + 800,
        )
        grant = await self._ask("loads", **request)
        if grant is None or draw.random() < 0.25:
            return
        holder.online += 1
        holder.value_fen += request["amount_fen"]
        if draw.random() < 0.8:
            self._keep(load_record(request, grant, self._next(COUNTER)))

    async def act(self) -> None:
        """An online act; its record may come twice, with another sum, or not at all."""
        request = act_request(self.draw.choice(HOLDERS))
        grant = await self._ask("acts", **request)
        if grant is None or self.draw.random() < 0.2:
            return
        record = act_record(request, grant, self._next(HOSPITAL))
        if self.draw.random() < 0.1:
            record = replace(record, amount_fen=record.amount_fen + 1)
        self._keep(record)
        if self.draw.random() < 0.1:
            self._keep(replace(record, sequence=self._next(HOSPITAL)))

    async def report(self) -> None:
        """A card is lost."""
        moment = self._now - timedelta(seconds=self.draw.choice([0, 9000]))
        await self._ask("reports", card=self.draw.choice(HOLDERS), reason="lost", reported_at=moment.isoformat())

    async def replacement(self) -> None:
        await self._ask("replacements", old=self.draw.choice(HOLDERS), new=self.draw.choice(SPARE_CARDS))

    # What happens in the back office

    async def declare(self) -> None:
        """An operator says what it has sent of a day."""
        await self.house.pool.execute(
            "INSERT INTO declared_total VALUES (101, 1, $1, $2, $3) ON CONFLICT DO NOTHING",
            (self._now - timedelta(hours=2)).date(), self.draw.randint(0, 30), self.draw.randint(0, 4000),
        )  # fmt: skip

    async def grow(self) -> None:
        """The registry hears of a PSAM or an issuer whose records may be there already."""
        document = json.dumps(registry_document() | self.draw.choice(GROWTHS))
        async with self.house.pool.acquire() as connection:
            try:
                await take(connection, parse_registry(document))
            except RefusedError as refusal:
                self.happened[f"registry {refusal.code}"] += 1

    async def retake(self) -> None:
        done = await retake(self.house.pool, Verifiers.of(self.house.store), self.house.clock)
        self.happened["retaken"] += done.changed

    async def wait(self) -> None:
        self.house.clock.instant += timedelta(hours=self.draw.choice([1, 5, 12]))

    async def close_next(self) -> None:
        """A day goes by and one is closed, which may be one of some that were left open."""
        self.house.clock.instant += timedelta(hours=self.draw.choice([20, 24, 26, 50]))
        await self.close()

    async def close(self) -> None:
        try:
            await close(self.house.pool, None, self.house.clock)
        except RefusedError as refusal:
            self.happened[f"close {refusal.code}"] += 1
            return
        self.happened["closed"] += 1
        await self.judge()

    # How it is said

    @property
    def _now(self) -> datetime:
        return self.house.clock.instant.astimezone(ZONE)

    def _moment(self) -> datetime:
        """When a validator says that it was: a moment ago, some hours ago, or by a wrong clock."""
        moment = self._now - timedelta(seconds=self.draw.choice([5, 60, 3600, 20_000]))
        wrong = self.draw.choice([-60, -26, 2, 25, 30]) if self.draw.random() < 0.08 else 0
        return moment + timedelta(hours=wrong)

    def _next(self, terminal: int, gaps: bool = False) -> int:
        self.sequences[terminal] += 1 + (gaps and self.draw.random() < 0.04)
        return self.sequences[terminal]

    def _keep(self, record: TapRecord) -> None:
        self.waiting[record.terminal].append(record)

    async def _put(self, terminal: int, body: bytes, media: str, headers: dict[str, str]) -> None:
        self.batches[terminal] += 1
        n = self.batches[terminal]
        status, answer = await self.house.put(n, body, terminal, media, **headers)
        assert status < 500, answer
        self.happened[f"batch {status}"] += 1
        self.sent.append(Sent(terminal, n, body, media, headers, status))

    async def _ask(self, door: str, **document: Any) -> dict[str, Any] | None:
        status, answer = await self.house.post(f"/v1/desk/{door}", **document)
        assert status < 500, answer
        self.happened[f"{door} {status}"] += 1
        return answer if status == 201 else None


ACTS: Sequence[tuple[float, Callable[[Walk], Awaitable[None]]]] = (
    (40, Walk.tap),
    (4, Walk.copy),
    (24, Walk.send),
    (5, Walk.send_again),
    (7, Walk.load),
    (4, Walk.act),
    (0.5, Walk.report),
    (0.7, Walk.replacement),
    (1, Walk.grow),
    (2, Walk.declare),
    (4, Walk.retake),
    (4, Walk.wait),
    (4, Walk.close_next),
    (4, Walk.judge),
)
