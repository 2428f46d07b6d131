"""A channel runs card scripts: many commands, one hop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.errors import CardError, ReaderError

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Replies:
    """What a card answered to a script, in order; the script stops at the first answer that is not 9000.

    `torn`: the command after the last answer was sent, and nothing usable came back, so its outcome is unknown (D5).
    """

    answers: tuple[ResponseApdu, ...]
    torn: bool = False

    def last(self) -> ResponseApdu:
        """The last answer; raises CardTorn when the script was torn."""
        if self.torn:
            raise CardTorn("the card stopped answering in the middle of a command: put the same card back")
        return self.answers[-1]


class CardTorn(CardError):
    """The card left, or fell silent, between a command and its answer; whether the command took effect is unknown."""


class ReaderQuarantined(ReaderError):
    """The reader did not answer within its deadline: the last command's outcome is unknown, the reader out of use."""


class Channel(Protocol):
    """The way to one card. Scripts of one channel never overlap; after a torn one all are torn until `reset`."""

    async def reset(self) -> bytes:
        """Power the card anew and give its ATR; what the card held in volatile memory is gone."""
        ...

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        """Send the commands in order. A cancelled call does not stop the card: the script ends, its result is lost."""
        ...
