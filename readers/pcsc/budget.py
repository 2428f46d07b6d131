"""One deadline over a whole flow: every step gets what is left of it, and the step at which time ran out is named."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from cardcore.apdu import CommandApdu
from cardcore.errors import ReaderError
from readers.pcsc.channel import DEADLINE_S, Channel, ReaderQuarantined, Replies

T = TypeVar("T")

FLOW_S = 60.0


class OutOfTime(ReaderError):
    """The flow's time ran out at `step`; `sent` tells that its command was on the way, and its outcome is unknown."""

    def __init__(self, step: str, seconds: float, sent: bool = False) -> None:
        self.step = step
        self.sent = sent
        open_end = "; it was sent and not answered: take the card away, then put it back" if sent else ""
        super().__init__(f"time ran out at {step}: the whole takes longer than the {seconds:g} s that it may{open_end}")


class Budget:
    """Seconds for a whole flow, counted from the first use; `ran_out_at` names the step at which they were gone."""

    def __init__(self, seconds: float = FLOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.step = "the start"
        self.ran_out_at = ""
        self._clock = clock
        self._ends: float | None = None

    def left_s(self) -> float:
        """Seconds that are left, above 0; raises OutOfTime."""
        now = self._clock()
        if self._ends is None:
            self._ends = now + self.seconds
        if now >= self._ends:
            raise self.spent()
        return self._ends - now

    def spent(self, sent: bool = False) -> OutOfTime:
        """The error of the present step; the first one is what `ran_out_at` keeps."""
        self.ran_out_at = self.ran_out_at or self.step
        return OutOfTime(self.step, self.seconds, sent)

    @contextmanager
    def at(self, step: str) -> Iterator[None]:
        """Name the step that the block is."""
        before, self.step = self.step, step
        yield
        self.step = before

    async def wait(self, step: str, work: Awaitable[T]) -> T:
        """Await something that is not a card, for as long as there is time; it is cancelled then. Raises OutOfTime."""
        with self.at(step):
            try:
                left_s = self.left_s()
            except OutOfTime:
                if asyncio.iscoroutine(work):
                    work.close()
                raise
            try:
                async with asyncio.timeout(left_s) as limit:
                    return await work
            except TimeoutError:
                if limit.expired():
                    raise self.spent() from None
                raise


class TimedChannel:
    """A channel within a budget."""

    def __init__(self, channel: Channel, budget: Budget) -> None:
        self._channel = channel
        self._budget = budget

    async def reset(self) -> bytes:
        """As the channel's, or OutOfTime: the reset then goes on by itself, and the channel waits for it."""
        left_s = self._budget.left_s()
        resetting = asyncio.ensure_future(self._channel.reset())
        await asyncio.wait([resetting], timeout=left_s)
        if resetting.done():
            return resetting.result()
        resetting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise self._budget.spent()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        """As the channel's; raises OutOfTime also when it was the budget that cut the hop, which is `sent` then."""
        left_s = self._budget.left_s()
        try:
            return await self._channel.run(commands, min(deadline_s, left_s))
        except ReaderQuarantined as quarantined:
            if left_s <= deadline_s:
                raise self._budget.spent(sent=True) from quarantined
            raise
