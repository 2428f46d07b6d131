"""The demonstration's clock."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cardcore.errors import SetupError
from clearing.clock import FileClock, SystemClock


def test_a_file_clock_follows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "now"
    path.write_text("2026-03-02T08:00:00+08:00\n")
    clock = FileClock(path)
    assert clock.now() == datetime(2026, 3, 2, tzinfo=UTC)
    fresh = tmp_path / "fresh"
    fresh.write_text("2026-03-03T09:30:00+08:00")
    fresh.replace(path)
    assert clock.now() == datetime(2026, 3, 3, 1, 30, tzinfo=UTC)
    path.unlink()
    assert clock.now() == datetime(2026, 3, 3, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-03-02T08:00:00"])
def test_a_file_that_tells_no_instant_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "now"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"instant|empty|offset"):
        FileClock(path)
    with pytest.raises(SetupError, match="cannot be read"):
        FileClock(tmp_path / "nowhere")


def test_the_machine_clock_is_aware() -> None:
    assert SystemClock().now().utcoffset() is not None
