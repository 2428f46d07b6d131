"""SAM slots as a pool: PSAMs that many flows share, one lease at a time on each slot.

Leases are given in the order in which they were asked for, and end at their deadline. A slot goes back into the pool in
a known state only: its SAM's directory is selected anew, and after anything but a clean end it is powered anew. A SAM
that does not come to that state is taken out of the pool, and the reason is kept.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cardcore.apdu import CommandApdu
from cardcore.card_map import MF_FID
from cardcore.commands import Select
from cardcore.errors import CardError, OnecardError, ReaderError
from readers.pcsc.channel import DEADLINE_S, Channel, ReaderQuarantined, Replies

LEASE_S = 5.0
PATIENCE_S = 10.0
_RESET_S = 5.0


class NoSam(ReaderError):
    """No SAM can be had: all are out of the pool, or none was free in time."""


class LeaseEnded(ReaderError):
    """The lease is over, by its deadline or its end; nothing was sent. What it had opened in the SAM is gone."""


@dataclass(slots=True)
class _Slot:
    name: str
    channel: Channel


class Lease:
    """The right to one SAM until `ends` (of the pool's clock); a channel of its own."""

    def __init__(self, slot: _Slot, ends: float, clock: Callable[[], float]) -> None:
        self.slot = slot.name
        self.clean = True
        self._channel = slot.channel
        self._ends = ends
        self._clock = clock
        self._over = False
        self.fault: ReaderError | None = None

    async def reset(self) -> bytes:
        """Power the SAM anew. Raises LeaseEnded, or ReaderError, which takes it out of the pool."""
        self._left_s()
        try:
            return await self._channel.reset()
        except ReaderError as error:
            self.fault = error
            raise

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        """One exchange, cut at the end of the lease. Raises LeaseEnded before anything is sent, or ReaderError."""
        left_s = self._left_s()
        self.clean = False
        try:
            replies = await self._channel.run(commands, min(deadline_s, left_s))
        except ReaderError as error:
            self.fault = error
            raise
        self.clean = not replies.torn
        return replies

    def end(self) -> None:
        """Nothing can be sent by it any more."""
        self._over = True

    def _left_s(self) -> float:
        left_s = self._ends - self._clock()
        if self._over or left_s <= 0:
            self.clean = False
            raise LeaseEnded(f"the lease of {self.slot} is over: nothing was sent; begin the purchase anew")
        return left_s


class SamPool:
    """Leases of SAM slots, by the channels that lead to them; `out` says which are out of use, and why.

    `async with pool.lease() as sam:` gives a channel. Enter every slot by `put_in`, which sees that a SAM answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._free: deque[_Slot] = deque()
        self._waiting: deque[asyncio.Future[_Slot]] = deque()
        self._out: dict[str, str] = {}
        self._returning: set[asyncio.Task[None]] = set()

    @property
    def out(self) -> Mapping[str, str]:
        """Slots that are out of the pool, with the reason of each."""
        return dict(self._out)

    async def put_in(self, name: str, channel: Channel) -> None:
        """Take a slot in, for the first time or again; raises ReaderError or CardError when no SAM answers there."""
        if name in self._slots and name not in self._out:
            raise NoSam(f"{name} is in the pool already")
        slot = _Slot(name, channel)
        await _known_state(slot, clean=False)
        self._slots[name] = slot
        self._out.pop(name, None)
        self._give(slot)

    @asynccontextmanager
    async def lease(self, lease_s: float = LEASE_S, patience_s: float = PATIENCE_S) -> AsyncIterator[Lease]:
        """A SAM for at most `lease_s`, waited for at most `patience_s`, first come, first served. Raises NoSam.

        At the deadline the slot goes to the next one, whatever the holder does: its lease is a dead one then. A
        cancelled holder gives the slot back like any other; a cancelled waiter leaves the queue.
        """
        slot = await self._next(patience_s)
        lease = Lease(slot, self._clock() + lease_s, self._clock)
        returned = False

        def give_back() -> None:
            nonlocal returned
            if not returned:
                returned = True
                lease.end()
                task = asyncio.create_task(self._return(slot, lease))
                self._returning.add(task)
                task.add_done_callback(self._returning.discard)

        timer = asyncio.get_running_loop().call_later(lease_s, give_back)
        try:
            yield lease
        except BaseException:
            lease.clean = False
            raise
        finally:
            timer.cancel()
            give_back()

    async def aclose(self) -> None:
        """Let slots come back, and end those who wait. The channels stay their owner's."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NoSam("the pool of SAMs is closed"))
        self._waiting.clear()
        if self._returning:
            await asyncio.wait(self._returning)

    async def _next(self, patience_s: float) -> _Slot:
        self._see_that_some_are_left()
        if self._free:
            return self._free.popleft()
        waiter: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        given = None
        try:
            async with asyncio.timeout(patience_s):
                given = await waiter
        except TimeoutError:
            raise NoSam(f"no SAM was free for {patience_s:g} s; try again, or add a slot") from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            # Given in the moment in which nobody waited any more.
            if given is None and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result())
        return given

    def _see_that_some_are_left(self) -> None:
        if len(self._out) == len(self._slots):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._out.items()) or "no slot was put in"
            raise NoSam(f"there is no SAM in use ({reasons}); put a SAM back and take its slot in again")

    def _give(self, slot: _Slot) -> None:
        """To the one who has waited longest, else into the pool."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._free.append(slot)

    async def _return(self, slot: _Slot, lease: Lease) -> None:
        fault: OnecardError
        try:
            await asyncio.wait_for(_known_state(slot, lease.clean), _RESET_S)
        except (CardError, ReaderError) as error:
            # What the holder saw tells more than what came of it.
            fault = lease.fault or error
        except TimeoutError:
            fault = lease.fault or ReaderQuarantined(f"{slot.name} did not come back from its last command")
        else:
            self._give(slot)
            return
        self._out[slot.name] = str(fault)
        if len(self._out) == len(self._slots):
            try:
                self._see_that_some_are_left()
            except NoSam as none:
                while self._waiting:
                    waiter = self._waiting.popleft()
                    if not waiter.done():
                        waiter.set_exception(none)


async def _known_state(slot: _Slot, clean: bool) -> None:
    """Nothing is opened in the SAM, and its directory is selected; powered anew unless that is enough."""
    selected = Select(MF_FID.to_bytes(2, "big"))
    if clean:
        replies = await slot.channel.run([selected.apdu()], _RESET_S)
        if not replies.torn and replies.last().ok:
            return
    await slot.channel.reset()
    selected.read((await slot.channel.run([selected.apdu()], _RESET_S)).last())
