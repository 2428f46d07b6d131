"""Virtual readers of a private pcscd, for the cards of the demo that go the real way of a counter."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from cardcore.errors import SetupError
from readers.pcsc.seek import until_card
from readers.pcsc.worker import ReaderChannel
from simulators.card_os import SoftwareCard
from simulators.pcscd import SOCKET_VARIABLE, PcscdMissing, PrivatePcscd
from simulators.vpcd import insert

READERS = 8
# A reader looks for its card every 400 ms: only then has it seen that a card came, or went.
SEEN_S = 0.6
INSERTED_S = 5.0


class CounterReaders:
    """Some readers, each with one card at a time, for the cards of these `serials`; an async context manager.

    Without serials there is no daemon. Raises SetupError where pcscd is missing."""

    def __init__(self, serials: Iterable[str]) -> None:
        self.serials = frozenset(serials)
        try:
            self._daemon = PrivatePcscd(READERS) if self.serials else None
        except PcscdMissing as error:
            raise SetupError(f"cards cannot go through PC/SC: {error}") from error
        self._free: asyncio.Queue[int] = asyncio.Queue()
        self._resting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._daemon is None:
            return self
        # The PC/SC library reads the variable at its first call in a process, and never again.
        os.environ[SOCKET_VARIABLE] = str(self._daemon.socket)
        await asyncio.to_thread(self._daemon.start)
        for reader in range(len(self._daemon.readers)):
            self._free.put_nowait(reader)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._resting:
            task.cancel()
        if self._daemon is not None:
            await asyncio.to_thread(self._daemon.__exit__, kind, error, trace)

    @asynccontextmanager
    async def holding(self, card: SoftwareCard) -> AsyncIterator[ReaderChannel]:
        """The channel to a card in a free reader; on the way out the card is taken away."""
        assert self._daemon is not None, "the cards of these readers were named when they were made"
        reader = await self._free.get()
        link = await insert("127.0.0.1", self._daemon.ports[reader], card)
        channel = ReaderChannel(self._daemon.readers[reader])
        try:
            await until_card(channel, INSERTED_S)
            yield channel
        finally:
            await channel.aclose()
            await link.remove()
            rest = asyncio.create_task(self._rest(reader))
            self._resting.add(rest)
            rest.add_done_callback(self._resting.discard)

    async def _rest(self, reader: int) -> None:
        await asyncio.sleep(SEEN_S)
        self._free.put_nowait(reader)
