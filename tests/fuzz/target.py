"""What a target is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A function that takes any bytes and raises nothing; inputs have up to `longest` bytes.

    `seeds` are inputs that good documents give, `words` what a mutation puts in.
    """

    name: str
    read: Callable[[bytes], None]
    longest: int
    seeds: tuple[bytes, ...] = ()
    words: tuple[bytes, ...] = ()
