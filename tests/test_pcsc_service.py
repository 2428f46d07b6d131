"""Readers and their service misbehaving, on a real pcscd: hanging, foreign programs, death and return; the monitor."""

import asyncio
import builtins
import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from smartcard import scard as raw

from cardcore.commands import GetChallenge
from cardcore.errors import ReaderError, SetupError
from readers.pcsc import scard
from readers.pcsc.channel import ReaderQuarantined
from readers.pcsc.monitor import Happening, Monitor, ReaderEvent
from readers.pcsc.seek import NoSuchReader, choose, list_readers, until_card, wait_for_readers
from readers.pcsc.worker import ReaderChannel
from simulators.chip import ATR_T0
from simulators.pcscd import PrivatePcscd
from simulators.vpcd import ATRS, insert
from tests.counter_side import blank
from tests.pcscd import POLL_S, insert_and_wait, insert_slow, start, until_reset

CHALLENGE = GetChallenge(8).apdu()


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivatePcscd]:
    daemon = start(4)
    yield daemon
    daemon.stop()


@pytest.fixture
async def channel(daemon: PrivatePcscd) -> AsyncIterator[ReaderChannel]:
    channel = ReaderChannel(daemon.readers[0])
    yield channel
    await channel.aclose()
    await asyncio.sleep(POLL_S)


async def test_deadline_quarantine_reset(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    threads = threading.active_count()
    mute = await insert_slow(daemon.ports[0], blank(), None)
    await until_reset(channel)
    started = time.monotonic()
    with pytest.raises(ReaderQuarantined, match="the outcome of the last command is unknown"):
        await channel.run([CHALLENGE], deadline_s=0.2)
    assert time.monotonic() - started < 1
    with pytest.raises(ReaderQuarantined, match="quarantined"):
        await channel.run([CHALLENGE])
    with pytest.raises(ReaderQuarantined, match="take the card away"):
        await channel.reset()
    await mute.remove()
    await asyncio.sleep(POLL_S)
    link = await insert_and_wait(daemon.ports[0], blank(), channel)
    assert (await channel.run([CHALLENGE])).last().ok
    assert threading.active_count() == threads, "it needed no other thread"
    await link.remove()


async def test_nothing_is_sent_after_the_deadline(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    card = blank()
    slow = await insert_slow(daemon.ports[0], card, 0.15)
    await until_reset(channel)
    with pytest.raises(ReaderQuarantined):
        await channel.run([CHALLENGE] * 10, deadline_s=0.4)
    await asyncio.sleep(0.5)
    assert card.turn <= 3, "the script was left at the deadline"
    await channel.reset()
    assert (await channel.run([CHALLENGE])).last().ok, "a slow card is back after a reset"
    await slow.remove()


async def test_a_hanging_reader_does_not_hold_the_others(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    mute = await insert_slow(daemon.ports[0], blank(), None)
    await until_reset(channel)
    other = ReaderChannel(daemon.readers[2])
    link = await insert_and_wait(daemon.ports[2], blank(), other)
    hanging = asyncio.create_task(channel.run([CHALLENGE], deadline_s=2))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    assert all(answer.ok for answer in (await other.run([CHALLENGE] * 20)).answers)
    assert time.monotonic() - started < 0.5
    await mute.remove()
    assert (await hanging).torn
    await other.aclose()
    await link.remove()


async def test_cancel_waits_for_the_card(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    card = blank()
    slow = await insert_slow(daemon.ports[0], card, 0.3)
    await until_reset(channel)
    running = asyncio.create_task(channel.run([GetChallenge(4).apdu()]))
    await asyncio.sleep(0.1)
    running.cancel()
    started = time.monotonic()
    following = asyncio.create_task(channel.run([CHALLENGE]))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 0.1 < time.monotonic() - started < 0.3, "it ended when the card had answered"
    assert len((await following).last().data) == 8, "and the next script got its own answer"
    await slow.remove()


async def test_cancel_of_a_hanging_card(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    mute = await insert_slow(daemon.ports[0], blank(), None)
    await until_reset(channel)
    running = asyncio.create_task(channel.run([CHALLENGE], deadline_s=0.2))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ReaderQuarantined):
        await channel.run([CHALLENGE])
    await mute.remove()


async def restart(daemon: PrivatePcscd) -> None:
    await asyncio.to_thread(daemon.start)
    await asyncio.to_thread(wait_for_readers, daemon.readers)


class Foreign:
    """Another program with a connection of its own. Its calls block, and the card lives in the event loop."""

    def __init__(self, reader: str, mode: int) -> None:
        _, self.context = raw.SCardEstablishContext(raw.SCARD_SCOPE_SYSTEM)
        code, self.handle, _ = raw.SCardConnect(self.context, reader, mode, raw.SCARD_PROTOCOL_T0)
        assert code == 0, raw.SCardGetErrorMessage(code)

    def reset(self) -> None:
        code, _ = raw.SCardReconnect(self.handle, raw.SCARD_SHARE_SHARED, raw.SCARD_PROTOCOL_T0, raw.SCARD_RESET_CARD)
        assert code == 0, raw.SCardGetErrorMessage(code)

    def close(self) -> None:
        raw.SCardDisconnect(self.handle, raw.SCARD_LEAVE_CARD)
        raw.SCardReleaseContext(self.context)


async def test_sharing_violation_is_named(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    link = await insert_and_wait(daemon.ports[0], blank(), channel)
    await channel.aclose()
    other = await asyncio.to_thread(Foreign, daemon.readers[0], raw.SCARD_SHARE_SHARED)
    mine = ReaderChannel(daemon.readers[0])
    for call in (mine.reset, lambda: mine.run([CHALLENGE])):
        with pytest.raises(scard.PcscError, match="another program holds the card") as named:
            await call()
        assert named.value.code == 0x8010000B
    await asyncio.to_thread(other.close)
    await mine.reset()
    assert (await mine.run([CHALLENGE])).last().ok
    await mine.aclose()
    await link.remove()


async def test_foreign_reset_is_named(
    daemon: PrivatePcscd, channel: ReaderChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Our connections are exclusive, so that nobody else can reset the card; where a driver allows it all the same:
    monkeypatch.setattr(scard.load(), "SCARD_SHARE_EXCLUSIVE", raw.SCARD_SHARE_SHARED)
    link = await insert_and_wait(daemon.ports[0], blank(), channel)
    other = await asyncio.to_thread(Foreign, daemon.readers[0], raw.SCARD_SHARE_SHARED)
    assert (await channel.run([CHALLENGE])).last().ok
    await asyncio.to_thread(other.reset)
    for _ in range(2):
        with pytest.raises(scard.PcscError, match="another program reset the card"):
            await channel.run([CHALLENGE])
    await channel.reset()
    assert (await channel.run([CHALLENGE])).last().ok
    await asyncio.to_thread(other.close)
    await link.remove()


async def test_no_card_no_reader(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    for call in (channel.reset, lambda: channel.run([CHALLENGE])):
        with pytest.raises(scard.PcscError, match="put the card"):
            await call()
    absent = ReaderChannel("no such reader")
    with pytest.raises(scard.PcscError, match="no such reader any more"):
        await absent.reset()
    await absent.aclose()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_service_dies_and_returns(daemon: PrivatePcscd, channel: ReaderChannel, how: signal.Signals) -> None:
    card = blank()
    await insert_and_wait(daemon.ports[0], card, channel)
    await asyncio.to_thread(daemon.stop, how)
    assert (await channel.run([CHALLENGE])).torn, "nobody knows what the card heard"
    with pytest.raises(scard.PcscError, match="service is not running; start pcscd"):
        await channel.reset()
    with pytest.raises(scard.PcscError, match="service is not running"):
        await list_readers()
    await restart(daemon)
    link = await insert("127.0.0.1", daemon.ports[0], card)
    await until_card(channel, 3)
    assert (await channel.run([CHALLENGE] * 3)).last().ok
    await link.remove()


async def test_service_dies_while_a_card_hangs(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    mute = await insert_slow(daemon.ports[0], blank(), None)
    await until_reset(channel)
    with pytest.raises(ReaderQuarantined):
        await channel.run([CHALLENGE], deadline_s=0.1)
    await asyncio.to_thread(daemon.stop, signal.SIGKILL)
    await mute.remove()
    await restart(daemon)
    link = await insert_and_wait(daemon.ports[0], blank(), channel)
    assert (await channel.run([CHALLENGE])).last().ok
    await link.remove()


def _sockets() -> int:
    """Connections of this process to the daemon: one for each context."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found


async def test_nothing_grows(daemon: PrivatePcscd, channel: ReaderChannel) -> None:
    link = await insert_and_wait(daemon.ports[0], blank(), channel)
    threads, sockets = threading.active_count(), _sockets()
    for _ in range(300):
        await channel.reset()
        assert (await channel.run([CHALLENGE, CHALLENGE])).last().ok
    assert (threading.active_count(), _sockets()) == (threads, sockets), "300 taps"
    for _ in range(50):
        await channel.aclose()
        channel = ReaderChannel(daemon.readers[0])
        await channel.reset()
    await asyncio.sleep(0.05)
    assert (threading.active_count(), _sockets()) == (threads, sockets), "50 reconnects"
    empty = ReaderChannel(daemon.readers[1])
    for _ in range(50):
        with pytest.raises(scard.PcscError):
            await empty.reset()
    assert _sockets() == sockets, "50 failures to connect"
    await empty.aclose()
    await channel.aclose()
    await link.remove()


# --- who is there ------------------------------------------------------------------------------------------------


async def test_choosing_a_reader(daemon: PrivatePcscd) -> None:
    with pytest.raises(NoSuchReader, match="no card on any reader"):
        await choose(None)
    assert await choose(daemon.readers[3]) == daemon.readers[3]
    assert await choose("ONECARD1 00 01") == daemon.readers[3]
    for vague in ("onecard", "other"):
        with pytest.raises(NoSuchReader, match="--reader"):
            await choose(vague)
    monitor = Monitor()
    first = await insert("127.0.0.1", daemon.ports[1], blank())
    await _until(monitor, Happening.INSERTED, daemon.readers[1])
    assert await choose(None) == daemon.readers[1]
    assert [view.name for view in await list_readers() if view.atr] == [daemon.readers[1]]
    second = await insert("127.0.0.1", daemon.ports[3], blank())
    await _until(monitor, Happening.INSERTED, daemon.readers[3])
    with pytest.raises(NoSuchReader, match="several readers"):
        await choose(None)
    await monitor.aclose()
    await first.remove()
    await second.remove()
    await asyncio.sleep(POLL_S)


async def _until(monitor: Monitor, happening: Happening, reader: str = "") -> ReaderEvent:
    """The next event, which must be this one."""
    event = await asyncio.wait_for(anext(monitor), 5)
    assert (event.happening, event.reader) == (happening, reader)
    return event


async def test_monitor(daemon: PrivatePcscd) -> None:
    await asyncio.sleep(POLL_S)
    monitor, reader, port = Monitor(), daemon.readers[2], daemon.ports[2]
    link = await insert("127.0.0.1", port, blank())
    assert (await _until(monitor, Happening.INSERTED, reader)).atr == ATR_T0
    await link.remove()
    await _until(monitor, Happening.REMOVED, reader)
    link = await insert("127.0.0.1", port, blank(), protocol="T=1")
    assert (await _until(monitor, Happening.INSERTED, reader)).atr == ATRS["T=1"]
    # The virtual driver hides a swap while the daemon still powers the card that was inserted.
    await asyncio.sleep(POLL_S)
    await link.remove()
    link = await insert("127.0.0.1", port, blank())
    await _until(monitor, Happening.REMOVED, reader)
    assert (await _until(monitor, Happening.INSERTED, reader)).atr == ATR_T0, "swapped at once"
    channel = ReaderChannel(reader)
    for _ in range(5):
        await channel.reset()
        await channel.run([CHALLENGE])
    await channel.aclose()

    await asyncio.to_thread(daemon.stop, signal.SIGKILL)
    await _until(monitor, Happening.SERVICE_LOST)
    await link.gone
    await restart(daemon)
    await _until(monitor, Happening.SERVICE_BACK)
    link = await insert("127.0.0.1", port, blank())
    await _until(monitor, Happening.INSERTED, reader)
    started = time.monotonic()
    await monitor.aclose()
    assert time.monotonic() - started < 1
    with pytest.raises(StopAsyncIteration):
        await anext(monitor)
    assert all(thread.name != "reader monitor" for thread in threading.enumerate())
    await link.remove()
    await asyncio.sleep(POLL_S)


PRESENT = 0x20


async def test_monitor_counts_a_swap_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper 16 bits of the state count events: two more, and the card is another one; they wrap."""
    states = iter([(0xFFFF << 16 | PRESENT, b"\x3b\x01"), (0xFFFF << 16 | PRESENT, b"\x3b\x01"),
                   (0x0001 << 16 | PRESENT, b"\x3b\x02")])  # fmt: skip
    idle = threading.Event()

    def status_change(_: int, __: int, known: list[tuple[str, int]]) -> list[tuple[str, int, bytes]]:
        following = next(states, None)
        if following is None:
            idle.wait(0.05)
            raise scard.PcscError(scard.TIMEOUT, "waiting")
        return [(known[0][0], 0, b""), ("reader", *following)]

    monkeypatch.setattr(scard, "establish", lambda: 1)
    monkeypatch.setattr(scard, "release", lambda _: None)
    monkeypatch.setattr(scard, "cancel", lambda _: idle.set())
    monkeypatch.setattr(scard, "list_readers", lambda _: ["reader"])
    monkeypatch.setattr(scard, "status_change", status_change)
    monitor = Monitor()
    seen = [await anext(monitor) for _ in range(3)]
    assert seen == [
        ReaderEvent(Happening.INSERTED, "reader", b"\x3b\x01"),
        ReaderEvent(Happening.REMOVED, "reader"),
        ReaderEvent(Happening.INSERTED, "reader", b"\x3b\x02"),
    ]
    await monitor.aclose()


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("smartcard"):
            raise ImportError("no module named smartcard")
        return real(name, *rest)  # type: ignore[arg-type]  # passed on as it came

    scard.load.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"onecard\[pcsc\]"):
        scard.load()
    monkeypatch.undo()
    scard.load.cache_clear()
    assert isinstance(scard.PcscError(0x8010000B, "connecting"), ReaderError)
