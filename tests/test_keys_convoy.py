"""Who asks at the same time is served together, each with an answer of its own."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from keys.convoy import Convoy


def test_those_who_wait_share_a_turn_and_each_gets_its_own_answer() -> None:
    turns: list[int] = []
    begun = threading.Event()

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        turns.append(len(asked))
        begun.set()
        time.sleep(0.05)
        return [ValueError(str(one)) if one % 10 == 0 else one * 2 for one in asked]

    convoy = Convoy(serve)
    with ThreadPoolExecutor(40) as threads:
        first = threads.submit(convoy.ask, 1)
        begun.wait()
        asked = {one: threads.submit(convoy.ask, one) for one in range(2, 40)}
        assert first.result() == 2
        for one, future in asked.items():
            if one % 10 == 0:
                with pytest.raises(ValueError, match=str(one)):
                    future.result()
            else:
                assert future.result() == one * 2
    assert turns[0] == 1
    assert sum(turns) == 39
    assert len(turns) <= 4


def test_a_turn_that_fails_fails_for_all_of_it_and_not_for_the_next() -> None:
    broken = True

    def serve(asked: Sequence[str]) -> list[str | Exception]:
        if broken:
            raise OSError("the disk is full")
        return [word.upper() for word in asked]

    convoy = Convoy(serve)
    with pytest.raises(OSError, match="full"):
        convoy.ask("a")
    broken = False
    assert convoy.ask("b") == "B"
