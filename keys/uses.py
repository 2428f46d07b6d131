"""The uses of keys that the audit has only counted so far: a window that is written down before it grows too large.

Making one chip takes some fifty uses, and a turn of the disk for each would cost more than the keys do.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

# What a kill may take with it, and no more: the next answer waits until these are written down.
MOST_USES = 1_000
LONGEST = timedelta(seconds=5)


class Uses:
    """Counted uses by chip; whoever asks it holds the lock of the file."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str, str]] = Counter()
        self._since: datetime | None = None
        self._total = 0

    def __bool__(self) -> bool:
        return self._total > 0

    def add(self, act: str, subject: str, use: str, now: datetime) -> None:
        """Count one use."""
        self._since = self._since or now
        self._counted[act, subject, use] += 1
        self._total += 1

    def overdue(self, now: datetime) -> bool:
        """Whether they have to be written down before the next; a clock that was set back is no excuse."""
        return self._total >= MOST_USES or bool(self._since and not timedelta() <= now - self._since < LONGEST)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Rows of audit: an act on each chip, and its uses with their number."""
        by_subject: dict[tuple[str, str], list[str]] = {}
        for (act, subject, use), times in self._counted.items():
            by_subject.setdefault((act, subject), []).append(f"{use} ×{times}")
        for (act, subject), uses in by_subject.items():
            yield act, subject, ", ".join(uses)

    def clear(self) -> None:
        """They are on the disk now."""
        self._counted.clear()
        self._since, self._total = None, 0
