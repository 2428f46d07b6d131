"""What a city is played with: cards and PSAMs, whoever made them, and what it means when they do not fit the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from simulators.nvm import TearPoint


class CityBroken(Exception):
    """A card, a PSAM or the service said something else than the plan foresaw. The plan and the parts no longer agree:
    the run is void; the message names the card or batch, what was planned and what came."""


class PurseView(Protocol):
    """A purse's memory: value without the allowance, fen, and its counters."""

    @property
    def balance_fen(self) -> int: ...
    @property
    def offline(self) -> int: ...
    @property
    def online(self) -> int: ...


class Psam(Protocol):
    """A PSAM in a slot; `simulators.psam.SoftwarePsam` is one."""

    def power_on(self) -> bytes: ...
    def transmit(self, apdu: bytes) -> bytes: ...


class Card(Protocol):
    """A card in the city; `simulators.card_os.SoftwareCard` is one."""

    def power_on(self) -> bytes: ...
    def transmit(self, apdu: bytes) -> bytes: ...
    def clone(self) -> Self: ...
    def tear_next(self, point: TearPoint | None) -> None: ...
    def purses(self) -> Mapping[int, PurseView]: ...
