"""Flows that may be begun anew: what to do when another program reset the card in the middle."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from readers.pcsc.channel import Channel
from readers.pcsc.scard import ForeignReset

T = TypeVar("T")

MOST_RESETS = 3


async def anew(channel: Channel, flow: Callable[[], Awaitable[T]]) -> T:
    """Run a flow that selects for itself whatever it needs, again from its beginning after a foreign reset.

    Raises ForeignReset when the other program does not leave the card alone, and whatever the flow raises.
    """
    for _ in range(MOST_RESETS):
        try:
            return await flow()
        except ForeignReset:
            await channel.reset()
    return await flow()
