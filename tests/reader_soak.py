"""A long day at a reader on a real pcscd: what grows, and what is left behind.

`python -m tests.reader_soak --taps 10000 --reconnects 1000` runs the whole numbers and prints figures; exit status 1
when threads, PC/SC contexts or memory grew. The tests run the same with fewer.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cardcore.apdu import CommandApdu
from cardcore.card_map import MF
from cardcore.commands import GetChallenge, Select
from readers.pcsc.monitor import Monitor
from readers.pcsc.seek import until_card, wait_for_readers
from readers.pcsc.worker import ReaderChannel
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import insert
from tests.counter_side import blank
from tests.pcscd import POLL_S, insert_and_wait, start

TAP: tuple[CommandApdu, ...] = (Select(MF.aid).apdu(), GetChallenge(8).apdu(), GetChallenge(4).apdu())
# Caches of the interpreter and the allocator settle within this many taps.
WARM_UP = 50
POOL = 32
MEMORY_KB = 8_192


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds: threads, sockets (one for each PC/SC context), resident memory."""

    threads: int
    sockets: int
    memory_kb: int

    @classmethod
    def now(cls) -> "Held":
        return cls(threading.active_count(), sum(_sockets()), _resident_kb())


@dataclass(frozen=True, slots=True)
class Figures:
    """Before, after so many taps, after so many reconnects and restarts, and how long the two took, in seconds."""

    before: Held
    tapped: Held
    after: Held
    taps_s: float
    reconnects_s: float

    @property
    def grew(self) -> list[str]:
        """What is more than it was, [] when all is well."""
        found = []
        for name, held in (("taps", self.tapped), ("reconnects", self.after)):
            for what in ("threads", "sockets"):
                if getattr(held, what) > getattr(self.before, what):
                    found.append(f"{what} after {name}: {getattr(self.before, what)} → {getattr(held, what)}")
            if held.memory_kb > self.before.memory_kb + MEMORY_KB:
                found.append(f"memory after {name}: {self.before.memory_kb} → {held.memory_kb} kB")
        return found


async def soak(daemon: PrivatePcscd, taps: int, reconnects: int, restarts: int, reader: int = 0) -> Figures:
    """Taps (power cycle and a script), reconnects (a channel's whole life) and restarts of the daemon on one reader."""
    name, port, card = daemon.readers[reader], daemon.ports[reader], blank()
    channel = ReaderChannel(name)
    link = await insert_and_wait(port, card, channel)
    monitor = Monitor()
    watching = asyncio.create_task(_count(monitor))
    for _ in range(WARM_UP):
        await _tap(channel)
    # Threads of the event loop's own pool come as they are needed, up to a bound: all of them are there from now on.
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(POOL)))
    before, began = Held.now(), time.perf_counter()
    for _ in range(taps):
        await _tap(channel)
    taps_s, tapped, began = time.perf_counter() - began, Held.now(), time.perf_counter()
    for _ in range(reconnects):
        await channel.aclose()
        channel = ReaderChannel(name)
        await _tap(channel)
    for _ in range(restarts):
        await asyncio.to_thread(daemon.stop, signal.SIGKILL)
        await link.gone
        await asyncio.to_thread(daemon.start)
        await asyncio.to_thread(wait_for_readers, daemon.readers)
        link = await insert("127.0.0.1", port, card)
        await until_card(channel, 5)
        await _tap(channel)
    reconnects_s = time.perf_counter() - began
    # The monitor's context after a restart comes back when it has seen it, and ended lanes end.
    after = Held.now()
    for _ in range(40):
        if after.threads <= before.threads and after.sockets == before.sockets:
            break
        await asyncio.sleep(0.05)
        after = Held.now()
    await monitor.aclose()
    await watching
    await channel.aclose()
    await link.remove()
    await asyncio.sleep(POLL_S)
    return Figures(before, tapped, after, taps_s, reconnects_s)


async def _tap(channel: ReaderChannel) -> None:
    await channel.reset()
    replies = await channel.run(TAP)
    assert len(replies.answers) == len(TAP) and replies.last().ok


async def _count(monitor: Monitor) -> int:
    return sum([1 async for _ in monitor])


def _sockets() -> Iterator[bool]:
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield str(descriptor.readlink()).startswith("socket:")


def _resident_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def main() -> int:
    """Run the numbers of the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taps", type=int, default=10_000)
    parser.add_argument("--reconnects", type=int, default=1_000)
    parser.add_argument("--restarts", type=int, default=10)
    asked = parser.parse_args()
    daemon = start(2)
    try:
        figures = asyncio.run(soak(daemon, asked.taps, asked.reconnects, asked.restarts))
    finally:
        daemon.stop()
    say = sys.stdout.write
    say(f"{asked.taps:,} taps in {figures.taps_s:.1f} s, {1000 * figures.taps_s / max(asked.taps, 1):.2f} ms each\n")
    say(f"{asked.reconnects:,} reconnects and {asked.restarts} daemon restarts in {figures.reconnects_s:.1f} s\n")
    for when, held in (("before", figures.before), ("after taps", figures.tapped), ("at the end", figures.after)):
        say(f"{when:12} {held.threads} threads, {held.sockets} sockets, {held.memory_kb:,} kB\n")
    for line in figures.grew:
        say(f"GREW: {line}\n")
    return 1 if figures.grew else 0


if __name__ == "__main__":
    sys.exit(main())
