"""How fast a card is reached: APDU round trips through pyscard and pcscd, and cards personalised an hour on a reader.

The card is software behind a virtual reader, in a process of its own as a card would be; the limit is the 0.5 ms that
a tap can spare for a round trip. Personalisation runs in process, once at full speed and once with a card that takes
15 ms an APDU, as hardware does. `python -m bench.apdu` prints, `run()` returns the figures.
"""

import asyncio
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
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
from keys.store import open_store
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from readers.pcsc.seek import until_card
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import SoftwareCard
from simulators.pcscd import SOCKET_VARIABLE, PrivatePcscd
from simulators.vpcd import insert

LIMIT_MS = 0.5
APDUS = 2_000
CARD_MS = 15.0
CARDS = 20
SLOW_CARDS = 2
NOW = datetime(2026, 3, 1, 9, 0)


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Round trips and personalisations, medians of `rounds`, as rates; floors are ratios to the limits."""
    trip_s, hop_s = asyncio.run(_round_trips(rounds))
    fast, apdus = asyncio.run(_cards_an_hour(rounds, CARDS, 0.0))
    slow, _ = asyncio.run(_cards_an_hour(1, SLOW_CARDS, CARD_MS / 1000))
    limit = 1000 / LIMIT_MS
    card_limit = 3600 / (apdus * CARD_MS / 1000)
    limit_name, card_name = f"limit of {LIMIT_MS} ms", f"{apdus} APDUs of {CARD_MS:g} ms"
    return [
        _entry(
            f"APDU round trip, pyscard and pcscd, {1000 * trip_s:.3f} ms", "APDU/s", 1 / trip_s, limit_name, limit, 1
        ),
        _entry(f"APDU with a hop of its own, {1000 * hop_s:.3f} ms", "APDU/s", 1 / hop_s, limit_name, limit, 1),
        _entry("personalisation, in process", "cards/h a reader", fast, card_name, card_limit, 1),
        _entry(f"personalisation, {CARD_MS:g} ms an APDU", "cards/h a reader", slow, card_name, card_limit, 0.9),
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


class _Slow(DirectChannel):
    """A card that takes `card_s` for an APDU; it counts them."""

    def __init__(self, card: SoftwareCard, card_s: float) -> None:
        super().__init__(card)
        self._card_s = card_s
        self.apdus = 0

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        replies = await super().run(commands, deadline_s)
        self.apdus += len(replies.answers)
        if self._card_s:
            await asyncio.sleep(self._card_s * len(replies.answers))
        return replies


async def _cards_an_hour(rounds: int, cards: int, card_s: float) -> tuple[float, int]:
    """Cards an hour on one reader, one after the other, and APDUs a card."""
    profile = load_profile("shared-purse")
    rates = []
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "keys") as store:
        draw = random.Random(7)
        test_ceremony(store, {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()})
        for turn in range(rounds):
            journal = Journal(Path(folder) / f"{turn}.sqlite")
            bench = Bench(store.personaliser(), journal, "bench", lambda: NOW)
            started = time.perf_counter()
            for number in range(cards):
                order = _order(number)
                channel = _Slow(SoftwareCard.blank("sm4", rng=random.Random(number)), card_s)
                job = Job(order.identity, profile.name, steps(profile, order), channel)
                assert await bench.personalise(job) is None
            rates.append(cards * 3600 / (time.perf_counter() - started))
            journal.close()
    return statistics.median(rates), channel.apdus


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
