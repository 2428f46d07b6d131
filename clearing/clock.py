"""The one clock of the service. Business meaning is never read from anywhere else."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cardcore.errors import SetupError


class Clock(Protocol):
    """Tells the instant of now, aware, in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class FileClock:
    """An instant written in a file (ISO 8601 with offset), read again whenever the file changed: the clock of a
    demonstration.

    Raises SetupError when the file is missing at the first reading or does not hold an instant; while a writer
    replaces the file, the last instant read stands.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._now = datetime.min.replace(tzinfo=UTC)
        self.now()

    def now(self) -> datetime:
        try:
            stat = self._path.stat()
            mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            text = self._path.read_text(encoding="ascii").strip() if mark != self._mark else ""
        except OSError as error:
            if self._mark is None:
                raise SetupError(
                    f"The clock file {self._path} cannot be read: {error.strerror}. Nothing runs without a clock. "
                    "Write an instant such as 2026-03-02T08:00:00+08:00 into it."
                ) from error
            return self._now
        if text:
            self._now, self._mark = self._parse(text), mark
        elif self._mark is None:
            raise SetupError(
                f"The clock file {self._path} is empty. Write an instant such as 2026-03-02T08:00:00+08:00."
            )
        return self._now

    def _parse(self, text: str) -> datetime:
        try:
            instant = datetime.fromisoformat(text)
        except ValueError as error:
            raise SetupError(f"The clock file {self._path} holds {text!r}, which is no ISO 8601 instant.") from error
        if instant.tzinfo is None:
            raise SetupError(f"The clock file {self._path} holds {text!r} without an offset. Add one, such as +08:00.")
        return instant.astimezone(UTC)
