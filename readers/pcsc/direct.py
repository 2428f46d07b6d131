"""The in-process channel: a card that is an object of this process."""

import time
from collections.abc import Sequence
from typing import Protocol

from cardcore.apdu import CommandApdu, ResponseApdu
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.trace import Exchange, Trace


class InProcessCard(Protocol):
    """A card as bytes in, bytes out; a torn command answers no bytes, as a torn card behind a reader does."""

    def power_on(self) -> bytes: ...

    def transmit(self, apdu: bytes) -> bytes: ...


class DirectChannel:
    """Channel to a card object; it answers at once, so a script is never cut by a deadline."""

    def __init__(self, card: InProcessCard, trace: Trace | None = None) -> None:
        self._card = card
        self._trace = trace

    async def reset(self) -> bytes:
        return self._card.power_on()

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        answers: list[ResponseApdu] = []
        for command in commands:
            began = time.perf_counter_ns()
            raw = self._card.transmit(command.encode())
            if self._trace is not None:
                self._trace.note("in-process", Exchange(command, raw, (time.perf_counter_ns() - began) // 1000))
            if len(raw) < 2:
                return Replies(tuple(answers), torn=True)
            answers.append(ResponseApdu.decode(raw))
            if not answers[-1].ok:
                break
        return Replies(tuple(answers))
