"""One reader: one thread, one context, one script at a time; PC/SC serialises what shares a context."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cardcore.apdu import CommandApdu, ResponseApdu
from readers.pcsc import scard
from readers.pcsc.channel import DEADLINE_S, ReaderQuarantined, Replies

P = ParamSpec("P")
T = TypeVar("T")

PROTOCOL_T0 = 1
MOST_PARTS = 256


class ReaderChannel:
    """Channel to the card in one PC/SC reader.

    A script that outlives its deadline wedges the thread, because nothing ends a running transmit; the reader is then
    quarantined, and `reset` opens it anew with a new thread and context.
    """

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self._lock = asyncio.Lock()
        self._open_anew()

    def _open_anew(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"reader {self.reader}")
        self._context: int | None = None
        self._handle: int | None = None
        self._protocol = PROTOCOL_T0
        self._quarantined = False

    async def reset(self) -> bytes:
        """Power the card anew; also the way out of quarantine and of a PC/SC service that died. Raises PcscError."""
        async with self._lock:
            if self._quarantined:
                self._thread.shutdown(wait=False)
                self._open_anew()
            return await self._hop(DEADLINE_S, self._power_on)

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        """Run a script; raises ReaderQuarantined at the deadline. A cancelled caller waits for the script to end."""
        async with self._lock:
            if self._quarantined:
                raise ReaderQuarantined(f"{self.reader} hangs; take the card away, then reset the reader")
            return await self._hop(deadline_s, self._script, tuple(commands))

    async def aclose(self) -> None:
        """Power the card down and end the thread, even if the reader fails; a wedged thread is left behind."""
        async with self._lock:
            if not self._quarantined:
                await self._hop(DEADLINE_S, self._close)
            self._thread.shutdown(wait=False)

    async def _hop(self, deadline_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))
        try:
            return await asyncio.wait_for(asyncio.shield(future), deadline_s)
        except TimeoutError as error:
            self._quarantined = True
            raise ReaderQuarantined(
                f"{self.reader} did not answer within {deadline_s:g} s: the outcome of the last command is unknown; "
                "take the card away, then reset the reader"
            ) from error
        except asyncio.CancelledError:
            await asyncio.wait([future], timeout=deadline_s)
            self._quarantined = not future.done()
            raise

    def _power_on(self) -> bytes:
        try:
            if self._handle is None:
                self._connect()
            else:
                self._protocol = scard.reconnect(self._handle)
        except scard.PcscError:
            self._close()
            self._connect()
        assert self._handle is not None
        return scard.attribute_atr(self._handle)

    def _connect(self) -> None:
        if self._context is None:
            self._context = scard.establish()
        self._handle, self._protocol = scard.connect(self._context, self.reader)

    def _close(self) -> None:
        if self._handle is not None:
            scard.disconnect(self._handle)
        if self._context is not None:
            scard.release(self._context)
        self._handle = self._context = None

    def _script(self, commands: tuple[CommandApdu, ...]) -> Replies:
        if self._handle is None:
            self._connect()
        answers: list[ResponseApdu] = []
        for command in commands:
            raw = self._exchange(command)
            if len(raw) < 2:
                self._close()
                return Replies(tuple(answers), torn=True)
            answers.append(ResponseApdu.decode(raw))
            if not answers[-1].ok:
                break
        return Replies(tuple(answers))

    def _exchange(self, command: CommandApdu) -> bytes:
        """One command; T=0 answers its data by GET RESPONSE (61xx), and names the right Le (6Cxx)."""
        assert self._handle is not None
        raw = command.encode()
        if self._protocol == PROTOCOL_T0 and command.data and command.le is not None:
            raw = raw[:-1]
        answer = scard.transmit(self._handle, self._protocol, raw)
        if len(answer) == 2 and answer[0] == 0x6C:
            answer = scard.transmit(self._handle, self._protocol, raw[:4] + answer[1:])
        collected = b""
        for _ in range(MOST_PARTS):
            if len(answer) < 2 or answer[-2] != 0x61:
                break
            collected += answer[:-2]
            answer = scard.transmit(self._handle, self._protocol, bytes((0x00, 0xC0, 0x00, 0x00, answer[-1])))
        return collected + answer if len(answer) >= 2 else answer
