"""Callers that ask at the same time are served together by one of them: what costs a turn of the disk costs it once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Given = TypeVar("Given")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Asked, Given]):
    asked: Asked
    answer: Given | Exception | None = None


class Convoy(Generic[Asked, Given]):
    """Blocks each caller until its question is answered. `serve` answers several at once, in their order: for each what
    it gets, or the exception that it gets; what `serve` raises, all of them get.
    """

    def __init__(self, serve: Callable[[Sequence[Asked]], Sequence[Given | Exception]]) -> None:
        self._serve = serve
        self._waiting: list[_Waiting[Asked, Given]] = []
        self._door = Lock()
        self._turn = Lock()

    def ask(self, asked: Asked) -> Given:
        """The answer; raises what `serve` gave for this question."""
        mine: _Waiting[Asked, Given] = _Waiting(asked)
        with self._door:
            self._waiting.append(mine)
        with self._turn:
            if mine.answer is None:
                self._serve_all()
        assert mine.answer is not None, "whoever had the turn served all who waited"
        if isinstance(mine.answer, Exception):
            raise mine.answer
        return mine.answer

    def _serve_all(self) -> None:
        with self._door:
            together, self._waiting = self._waiting, []
        try:
            answers = self._serve([one.asked for one in together])
        except Exception as error:
            answers = [error] * len(together)
        for one, answer in zip(together, answers, strict=True):
            one.answer = answer
