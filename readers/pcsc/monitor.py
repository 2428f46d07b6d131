"""Cards coming and going: one thread with its own context, events into asyncio, the PC/SC service's death survived."""

import asyncio
import threading
from dataclasses import dataclass
from enum import Enum

from readers.pcsc import scard

RELIST_MS = 5_000
BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
QUEUE_LENGTH = 1_024


class Happening(Enum):
    INSERTED = "inserted"
    REMOVED = "removed"
    SERVICE_LOST = "service lost"
    SERVICE_BACK = "service back"


@dataclass(frozen=True, slots=True)
class ReaderEvent:
    """Something happened at `reader` ("" for the service itself); `atr` of an inserted card."""

    happening: Happening
    reader: str = ""
    atr: bytes = b""


class Monitor:
    """Watches all readers. `async for event in monitor` ends after `aclose`.

    The event counter of a reader tells a card that was swapped between two looks: it counts two. When the service is
    lost, so is every card; those that are there when it is back are inserted anew.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[ReaderEvent | None] = asyncio.Queue(QUEUE_LENGTH)
        self._stopping = threading.Event()
        self._context: int | None = None
        self._thread = threading.Thread(target=self._watch, name="reader monitor", daemon=True)
        self._thread.start()

    def __aiter__(self) -> "Monitor":
        return self

    async def __anext__(self) -> ReaderEvent:
        event = await self._events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """End the thread; a status wait is cancelled, so this returns within a moment."""
        self._stopping.set()
        while self._thread.is_alive():
            if self._context is not None:
                scard.cancel(self._context)
            await asyncio.to_thread(self._thread.join, 0.05)
        self._put(None)

    def _put(self, event: ReaderEvent | None) -> None:
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(event)

    def _tell(self, happening: Happening, reader: str = "", atr: bytes = b"") -> None:
        try:
            self._loop.call_soon_threadsafe(self._put, ReaderEvent(happening, reader, atr))
        except RuntimeError:
            # The loop was closed without `aclose`: nobody listens any more.
            self._stopping.set()

    def _watch(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._context = scard.establish()
                if failures:
                    self._tell(Happening.SERVICE_BACK)
                failures = 0
                self._follow(self._context)
            except scard.PcscError:
                if not failures and not self._stopping.is_set():
                    self._tell(Happening.SERVICE_LOST)
                self._stopping.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
                failures += 1
            finally:
                if self._context is not None:
                    scard.release(self._context)
                self._context = None

    def _follow(self, context: int) -> None:
        seen: dict[str, int] = {}
        while not self._stopping.is_set():
            readers = scard.list_readers(context)
            for gone in set(seen) - set(readers):
                if seen.pop(gone) & scard.PRESENT:
                    self._tell(Happening.REMOVED, gone)
            known = [(scard.PNP, len(readers) << 16), *((name, seen.get(name, 0)) for name in readers)]
            try:
                states = scard.status_change(context, RELIST_MS, known)
            except scard.PcscError as error:
                if error.code == scard.TIMEOUT:
                    continue
                raise
            for name, state, atr in states[1:]:
                self._compare(name, seen.get(name, 0), state, atr)
                seen[name] = state & ~scard.CHANGED

    def _compare(self, reader: str, old: int, new: int, atr: bytes) -> None:
        was, is_now = bool(old & scard.PRESENT), bool(new & scard.PRESENT)
        swapped = was and is_now and ((new >> 16) - (old >> 16)) % 0x10000 >= 2
        if was and (not is_now or swapped):
            self._tell(Happening.REMOVED, reader)
        if is_now and (not was or swapped):
            self._tell(Happening.INSERTED, reader, atr)
