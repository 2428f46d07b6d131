"""The memory of a chip that survives the loss of power, and the points at which power can be lost.

A commit of n places is 2n + 2 single writes: n into a journal, the marker, n copies to their places, the marker again.
Power lost before the marker leaves everything as it was; after it, the next power-on copies again, which does no harm,
because a journal holds values, not differences.
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

    def writes(self, places: int) -> int:
        """How many single writes of a commit of `places` are done at this point."""
        done = {
            TearPoint.BEFORE_MARKER: 0,
            TearPoint.AFTER_MARKER: 1,
            TearPoint.WHILE_COPYING: 1 + (places + 1) // 2,
            TearPoint.BEFORE_ANSWER: places + 2,
        }
        return places + done[self]


class CardTorn(ConnectionError):
    """The power went in the middle of a command; inside the simulators only, outside it is an empty answer."""


class Memory:
    """The journal of one chip and its marker. `written` counts the single writes of its life."""

    __slots__ = ("_journal", "_left", "_marker", "_tear", "written")

    def __init__(self) -> None:
        self.written = 0
        self._journal: tuple[Write, ...] = ()
        self._marker = False
        self._tear: TearPoint | None = None
        self._left: int | None = None

    def tear_next(self, point: TearPoint | None) -> None:
        """Lose the power at `point` of the next commit, however many commands later; None takes that back."""
        self._tear = point

    def cut_after(self, writes: int | None) -> None:
        """Lose the power as soon as so many more single writes are done, 0: before the next; None takes that back."""
        self._left = writes

    def commit(self, *writes: Write) -> None:
        """All `writes` or none. Raises CardTorn where `tear_next` or `cut_after` said so."""
        if self._tear is not None:
            self._left, self._tear = self._tear.writes(len(writes)), None
        if self._left is None:
            self._journal = writes
            self._marker = True
            self.written += len(writes) + 1
        else:
            self._keep_journal(writes)
        self.recover()

    def note(self, write: Write) -> None:
        """A commit that `tear_next` passes over: a try counted before it is judged, and given back after."""
        tear, self._tear = self._tear, None
        try:
            self.commit(write)
        finally:
            self._tear = tear

    def recover(self) -> None:
        """What power-on does first: finish what was decided, forget what was not. May be torn like a commit."""
        if self._marker:
            if self._left is None:
                for cell, value in self._journal:
                    cell.value = value
                self._marker = False
                self.written += len(self._journal) + 1
            else:
                self._copy_journal()
        self._journal = ()

    def _keep_journal(self, writes: tuple[Write, ...]) -> None:
        self._journal = ()
        for write in writes:
            self._spend()
            self._journal += (write,)
        self._spend()
        self._marker = True

    def _copy_journal(self) -> None:
        for cell, value in self._journal:
            self._spend()
            cell.value = value
        self._spend()
        self._marker = False
        if not self._left:
            self._spend()

    def _spend(self) -> None:
        if self._left is not None:
            if not self._left:
                self._left = None
                raise CardTorn("power lost")
            self._left -= 1
        self.written += 1
