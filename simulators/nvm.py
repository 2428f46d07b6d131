"""The memory of a chip that survives the loss of power, and the points at which power can be lost.

A commit writes a journal, sets one marker, copies the journal to its places and clears the marker. Power lost before
the marker leaves everything as it was; after it, the next power-on copies again, which does no harm, because a journal
holds values, not differences.
"""

from enum import Enum, auto
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cell(Generic[T]):
    """One place of the memory. What it holds is never changed in place, only replaced by a commit."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def becomes(self, value: T) -> "Write":
        """The intention to replace the value, for `Memory.commit`."""
        return self, value


Write = tuple[Cell[Any], Any]  # cells of any kind go into one journal; `becomes` checks each against its own type


class TearPoint(Enum):
    """Where in a commit the power goes."""

    BEFORE_MARKER = auto()  # the journal is written, nothing has happened
    AFTER_MARKER = auto()  # decided, nothing copied yet
    WHILE_COPYING = auto()  # decided, half of the places copied
    BEFORE_ANSWER = auto()  # done, nobody told


class CardTorn(ConnectionError):
    """The power went in the middle of a command; inside the simulators only, outside it is an empty answer."""


class Memory:
    """The journal of one chip and its marker."""

    __slots__ = ("_journal", "_marker", "_tear")

    def __init__(self) -> None:
        self._journal: tuple[Write, ...] = ()
        self._marker = False
        self._tear: TearPoint | None = None

    def tear_next(self, point: TearPoint | None) -> None:
        """Lose the power at `point` of the next commit, however many commands later; None takes that back."""
        self._tear = point

    def commit(self, *writes: Write) -> None:
        """All `writes` or none. Raises CardTorn where `tear_next` said so."""
        self._journal = writes
        if self._tear is not None:
            self._commit_torn(writes)
        self._marker = True
        self.recover()

    def recover(self) -> None:
        """What power-on does first: finish what was decided, forget what was not."""
        if self._marker:
            for cell, value in self._journal:
                cell.value = value
            self._marker = False
        self._journal = ()

    def _commit_torn(self, writes: tuple[Write, ...]) -> None:
        point, self._tear = self._tear, None
        self._marker = point is not TearPoint.BEFORE_MARKER
        if point is TearPoint.WHILE_COPYING:
            for cell, value in writes[: (len(writes) + 1) // 2]:
                cell.value = value
        if point is TearPoint.BEFORE_ANSWER:
            self.recover()
        raise CardTorn(f"power lost: {point}")
