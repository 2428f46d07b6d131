"""What every object that holds or uses key bytes has in common: it can be named, and not be copied, pickled or
printed."""

from abc import ABC, abstractmethod
from typing import NoReturn, SupportsIndex

from cardcore.errors import KeyUseError


class Guarded(ABC):
    """Shows its label wherever text is asked for; raises KeyUseError wherever a copy is. A label never holds more
    of a key than its id and 3-byte check value."""

    __slots__ = ()

    @property
    @abstractmethod
    def label(self) -> str:
        """Which key this is, for people and logs."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def _stay(self) -> NoReturn:
        raise KeyUseError(f"{self!r} cannot be copied, pickled or serialised: open the store where the key is needed")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self._stay()

    def __getstate__(self) -> NoReturn:
        self._stay()

    def __bytes__(self) -> NoReturn:
        self._stay()
