"""Which readers hold a card now: one monitor for all of them, asked by whoever waits for a card."""

import asyncio
from types import TracebackType
from typing import Self

from readers.pcsc.monitor import Happening, Monitor


class Presence:
    """Counts the cards that came to each reader since it was entered; an async context manager.

    A card that lies there when it is entered has come, and so has one that is still there when the PC/SC service is
    back. What was counted is never missed, however quickly a card leaves again.
    """

    def __init__(self) -> None:
        self._came: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._monitor = Monitor()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._monitor.aclose()
        await self._following

    async def insertion(self, reader: str, after: int = 0) -> int:
        """Wait for a card that came after the `after`-th one; gives the number of the last. Safe to cancel."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._came.get(reader, 0) > after)
            return self._came[reader]

    async def _follow(self) -> None:
        async for event in self._monitor:
            if event.happening is Happening.INSERTED:
                async with self._changed:
                    self._came[event.reader] = self._came.get(event.reader, 0) + 1
                    self._changed.notify_all()
