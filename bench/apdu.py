"""How fast a card is reached: APDU round trips through pyscard and pcscd, and cards personalised an hour on a reader.

The card is software behind a virtual reader, in a process of its own as a card would be; the limit is the 0.5 ms that
a tap can spare for a round trip. Personalisation runs in process at full speed, and with cards that take 15 ms an APDU,
as hardware does: there the limit is 1,500 cards an hour and reader, and four readers together must come near to four
times one. `python -m bench.apdu` prints, `run()` returns the figures.
"""

import asyncio
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

from cardcore.apdu import CommandApdu
from cardcore.commands import GetChallenge
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.record import Suite
from cardcore.script import steps
from keys.ceremony import test_ceremony
from keys.purposes import required_roots
from keys.store import EmbeddedStore, open_store
from readers.pcsc.batch import Batch
from readers.pcsc.channel import DEADLINE_S, Channel, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench
from readers.pcsc.seek import until_card
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import SoftwareCard
from simulators.pcscd import SOCKET_VARIABLE, PrivatePcscd
from simulators.vpcd import insert

LIMIT_MS = 0.5
APDUS = 2_000
CARD_MS = 15.0
PROFILE = "shared-purse"
CARDS = 20
SLOW_CARDS = 2
READERS = 4
CARDS_AN_HOUR = 1_500
NOW = datetime(2026, 3, 1, 9, 0)


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Round trips and personalisations, medians of `rounds`, as rates; floors are ratios to the limits."""
    trip_s, hop_s = asyncio.run(_round_trips(rounds))
    fast, apdus = asyncio.run(_cards_an_hour(rounds, CARDS))
    alone, slow = (asyncio.run(_batch_an_hour(readers, min(rounds, 3))) for readers in (1, READERS))
    limit = 1000 / LIMIT_MS
    card_limit = 3600 / (apdus * CARD_MS / 1000)
    limit_name, card_name = f"limit of {LIMIT_MS} ms", f"{apdus} APDUs of {CARD_MS:g} ms"
    hour, every = f"{CARDS_AN_HOUR:,} an hour", f"{READERS} times one reader"
    return [
        _entry(
            f"APDU round trip, pyscard and pcscd, {1000 * trip_s:.3f} ms", "APDU/s", 1 / trip_s, limit_name, limit, 1
        ),
        _entry(f"APDU with a hop of its own, {1000 * hop_s:.3f} ms", "APDU/s", 1 / hop_s, limit_name, limit, 1),
        _entry("personalisation, in process", "cards/h a reader", fast, card_name, card_limit, 1),
        _entry(f"personalisation, {CARD_MS:g} ms an APDU", "cards/h a reader", alone, hour, CARDS_AN_HOUR, 1),
        _entry(f"the same on {READERS} readers at once", "cards/h", slow, every, READERS * alone, 0.9),
    ]


def main() -> None:
    """Print the figures."""
    for entry in run():
        [(name, limit)] = entry["peers"].items()
        print(f"{entry['bench']}: {entry['ours']:,.0f} {entry['unit']}; {name}: {limit:,.0f}")


def _entry(bench: str, unit: str, ours: float, name: str, limit: float, floor: float) -> dict[str, Any]:
    return {
        "bench": bench,
        "unit": unit,
        "ours": ours,
        "peers": {name: limit},
        "limit": limit,
        "ratios": {name: ours / limit},
        "floors": {name: floor},
    }


async def _round_trips(rounds: int) -> tuple[float, float]:
    """Seconds an APDU: in one script, and with a script of its own."""
    with PrivatePcscd() as daemon:
        os.environ[SOCKET_VARIABLE] = str(daemon.socket)
        card = multiprocessing.get_context("spawn").Process(target=_card, args=(daemon.ports[0],), daemon=True)
        card.start()
        channel = ReaderChannel(daemon.readers[0])
        await until_card(channel, 10)
        command = GetChallenge(8).apdu()
        trips, hops = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            replies = await channel.run([command] * APDUS)
            trips.append((time.perf_counter() - started) / APDUS)
            assert len(replies.answers) == APDUS and replies.last().ok
            for _ in range(APDUS // 10):
                started = time.perf_counter()
                await channel.run([command])
                hops.append(time.perf_counter() - started)
        await channel.aclose()
        card.terminate()
        card.join()
    return statistics.median(trips), statistics.median(hops)


def _card(port: int) -> None:
    async def lie() -> None:
        await (await insert("127.0.0.1", port, SoftwareCard.blank("sm4", rng=random.Random(1)))).gone

    asyncio.run(lie())


class _Counted(DirectChannel):
    """A card that counts its APDUs."""

    apdus = 0

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        replies = await super().run(commands, deadline_s)
        self.apdus += len(replies.answers)
        return replies


class _Slow(DirectChannel):
    """A card that takes `CARD_MS` for an APDU, in a thread as behind a reader: a sleep of the loop ends a millisecond
    late."""

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        began = time.perf_counter()
        replies = await super().run(commands, deadline_s)
        spent_s = time.perf_counter() - began
        await asyncio.to_thread(time.sleep, max(0.0, CARD_MS / 1000 * len(replies.answers) - spent_s))
        return replies


class _Hand:
    """Feeds a reader of a batch with blanks, without a moment between them."""

    def __init__(self, reader: str, blanks: Sequence[SoftwareCard]) -> None:
        self.reader = reader
        self._blanks = [_Slow(card) for card in blanks]
        self.channel = self._blanks[0]

    async def insertion(self, after: int) -> int:
        if not self._blanks:
            await asyncio.Event().wait()
        self.channel = self._blanks.pop(0)
        return after + 1


async def _cards_an_hour(rounds: int, cards: int) -> tuple[float, int]:
    """Cards an hour on one reader, one after the other, and APDUs a card."""
    rates = []
    with tempfile.TemporaryDirectory() as folder, _keys(Path(folder)) as store:
        for turn in range(rounds):
            with closing(Journal(Path(folder) / f"{turn}.sqlite")) as journal:
                bench = Bench(store.personaliser(), journal, "bench", lambda: NOW)
                started = time.perf_counter()
                for number in range(cards):
                    channel = _Counted(SoftwareCard.blank("sm4", rng=random.Random(number)))
                    assert await bench.personalise(_job(_order(number), channel, "in-process")) is None
                rates.append(cards * 3600 / (time.perf_counter() - started))
    return statistics.median(rates), channel.apdus


async def _batch_an_hour(readers: int, rounds: int) -> float:
    """Cards an hour of a batch on so many readers at once, with cards of `CARD_MS`."""
    rates = []
    with tempfile.TemporaryDirectory() as folder, _keys(Path(folder)) as store:
        for turn in range(rounds):
            with closing(Journal(Path(folder) / f"{turn}.sqlite")) as journal:
                bench = Bench(store.personaliser(), journal, "bench", lambda: NOW)
                count = readers * SLOW_CARDS
                blanks = [SoftwareCard.blank("sm4", rng=random.Random(number)) for number in range(count)]
                hands = [_Hand(f"reader {at}", blanks[at::readers]) for at in range(readers)]
                orders = [_order(number) for number in range(count)]
                batch = Batch(bench, journal, orders, _job, lambda _: None)
                started = time.perf_counter()
                assert (await batch.run(hands)).good == count
                rates.append(count * 3600 / (time.perf_counter() - started))
    return statistics.median(rates)


@contextmanager
def _keys(folder: Path) -> Iterator[EmbeddedStore]:
    with open_store(folder / "keys") as store:
        draw = random.Random(7)
        test_ceremony(store, {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()})
        yield store


def _job(order: CardOrder, channel: Channel, reader: str) -> Job:
    return Job(order.identity, PROFILE, steps(load_profile(PROFILE), order), channel, reader)


def _order(number: int) -> CardOrder:
    return CardOrder(
        issuer=bytes.fromhex("02317910"),
        card=bytes.fromhex(f"03107910{number:012d}"),
        suite=Suite.SM4,
        concession=1,
        starts=date(2026, 3, 1),
        expires=date(2036, 3, 1),
    )


if __name__ == "__main__":
    main()
