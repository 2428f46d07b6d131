"""A TOML table that is read field by field, and refuses what nobody read."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeVar

from cardcore.errors import ProfileError

ChosenT = TypeVar("ChosenT")
SwitchT = TypeVar("SwitchT", bound=StrEnum)


class Table:
    """One table; `where` is its file and path. Leaving its `with` block raises ProfileError for unread fields."""

    def __init__(self, fields: Mapping[str, object], where: str) -> None:
        self._fields = fields
        self._where = where
        self._read: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (left := sorted(set(self._fields) - self._read)):
            raise self.fault(f"field {left[0]!r} is unknown, or unused here; remove it or correct its name")

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def fault(self, what: str) -> ProfileError:
        """An error about this table."""
        return ProfileError(f"{self._where}: {what}")

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str) or not value:
            raise self.fault(f"field {name!r} takes a text, not {value!r}")
        return value

    def number(self, name: str, most: int = 0xFF) -> int:
        """A whole number from 0 to `most`."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.fault(f"field {name!r} takes a number from 0 to {most}, not {value!r}")
        return value

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise self.fault(f"field {name!r} takes true or false, not {value!r}")
        return value

    def octets(self, name: str) -> bytes:
        """Bytes written in hex."""
        text = self.text(name)
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise self.fault(f"field {name!r} takes bytes in hex, not {text!r}") from error

    def choice(self, name: str, choices: Mapping[str, ChosenT]) -> ChosenT:
        """One of the named choices."""
        return self._chosen(name, self._take(name), choices)

    def switch(self, choices: type[SwitchT], used: bool, name: str) -> SwitchT:
        """One of an enum's values, its first where the field is absent; where nothing uses it, it must be absent."""
        if not used or name not in self:
            return next(iter(choices))
        return self.choice(name, {item.value: item for item in choices})

    def choices(self, name: str, choices: Mapping[str, ChosenT]) -> tuple[ChosenT, ...]:
        """A list of named choices."""
        return tuple(self._chosen(name, item, choices) for item in self._list(name))

    def table(self, name: str) -> "Table":
        value = self._take(name)
        if not isinstance(value, dict):
            raise self.fault(f"field {name!r} takes a table, not {value!r}")
        return Table(value, f"{self._where}: {name}")

    def tables(self, name: str) -> Iterator["Table"]:
        """The tables of a list, each named by its place in it, counted from 1."""
        for place, item in enumerate(self._list(name), 1):
            if not isinstance(item, dict):
                raise self.fault(f"field {name!r} takes tables, not {item!r}")
            yield Table(item, f"{self._where}: {name}[{place}]")

    def _chosen(self, name: str, value: object, choices: Mapping[str, ChosenT]) -> ChosenT:
        if not isinstance(value, str) or value not in choices:
            raise self.fault(f"field {name!r} takes one of {', '.join(choices)}, not {value!r}")
        return choices[value]

    def _list(self, name: str) -> list[object]:
        value = self._take(name)
        if not isinstance(value, list):
            raise self.fault(f"field {name!r} takes a list, not {value!r}")
        return value

    def _take(self, name: str) -> object:
        if name not in self._fields:
            raise self.fault(f"field {name!r} is missing")
        self._read.add(name)
        return self._fields[name]
