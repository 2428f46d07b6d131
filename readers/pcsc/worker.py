"""One reader: one thread, one context, one script at a time; PC/SC serialises what shares a context."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from cardcore.apdu import CommandApdu
from readers.pcsc.channel import DEADLINE_S, ReaderQuarantined, Replies
from readers.pcsc.connection import Connection
from readers.pcsc.lane import Lane
from readers.pcsc.trace import Trace

T = TypeVar("T")

PATIENCE_S = 2.0


class ReaderChannel:
    """Channel to the card in one PC/SC reader.

    Nothing ends a running transmit but the card's leaving or the service's death. A hop that outlives its deadline puts
    the reader into quarantine; `reset` takes it out again once the hop has ended, and needs no other thread for that.
    Every APDU is told to the trace, when there is one.
    """

    def __init__(self, reader: str, trace: Trace | None = None) -> None:
        self.reader = reader
        self._lock = asyncio.Lock()
        self._lane = Lane(f"reader {reader}")
        self._connection = Connection(reader, trace)
        self._hanging: asyncio.Future[object] | None = None
        self._closed = False

    async def reset(self) -> bytes:
        """Power the card anew; also the way out of quarantine and of a PC/SC service that died.

        Raises PcscError, or ReaderQuarantined while the old command still hangs.
        """
        async with self._lock:
            if self._hanging is not None:
                await asyncio.wait([self._hanging], timeout=PATIENCE_S)
                if not self._hanging.done():
                    raise ReaderQuarantined(f"{self.reader} still hangs; take the card away, then reset the reader")
                self._hanging = None
            return await self._hop(DEADLINE_S, self._connection.power_on)

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        """Run a script; raises PcscError, or ReaderQuarantined at the deadline: no command is sent after it.

        A cancelled call returns when its script has ended, or hangs, so that the next one gets its own answers.
        """
        async with self._lock:
            if self._hanging is not None:
                raise ReaderQuarantined(f"{self.reader} is quarantined; take the card away, then reset the reader")
            return await self._hop(deadline_s, partial(self._connection.script, tuple(commands)))

    async def aclose(self) -> None:
        """Power the card down and end the thread, also after a failure; one that hangs does so when its card leaves.

        Safe to call twice.
        """
        async with self._lock:
            if self._closed:
                return
            self._closed = True
            closing = self._lane.submit(self._connection.close)
            self._lane.stop()
            if self._hanging is None:
                await asyncio.wait([asyncio.wrap_future(closing)], timeout=DEADLINE_S)

    async def _hop(self, deadline_s: float, call: Callable[[], T]) -> T:
        future = asyncio.wrap_future(self._lane.submit(call))
        try:
            await asyncio.wait([future], timeout=deadline_s)
        except asyncio.CancelledError:
            try:
                await asyncio.wait([future], timeout=deadline_s)
            finally:
                self._leave(future)
            raise
        if not future.done():
            self._leave(future)
            raise ReaderQuarantined(
                f"{self.reader} did not answer within {deadline_s:g} s: the outcome of the last command is unknown; "
                "take the card away, then reset the reader"
            )
        return future.result()

    def _leave(self, future: asyncio.Future[T]) -> None:
        """Nobody waits for this hop any more; unless it has ended, the reader hangs."""
        # An error that nobody asks for is not lost in a log of asyncio's.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        if not future.done():
            self._connection.abandoned = True
            self._hanging = future  # type: ignore[assignment]  # a future of T is only asked whether it is done
