"""An import reports the rides that its file names, per operator, and how many of them are new."""

from pathlib import Path

import pytest

from clearing.close_cli import app
from clearing.municipal import importer
from clearing.municipal.companies import party_of
from clearing.municipal.importer import ImportReport
from clearing.municipal.rows import SCHEME
from clearing.store.launcher import Server
from tests.municipal_side import CLOCK, HEADER, bus, metro, new_city

ROWS = [
    bus("CARD1"),
    bus("CARD2", charged="0"),
    metro("CARD1"),
    metro("CARD1", "地铁入站", charged="0"),
    bus("CARD3", charged="no"),
]


def figures(report: ImportReport) -> dict[str, tuple[int, int, int, int, int]]:
    """Per company: rides, new ones, full fare, charged, discount."""
    return {
        row.name: (row.rides, row.fresh, row.full_fare_fen, row.charged_fen, row.discount_fen)
        for row in report.operators
    }


async def test_rows_known_already_are_reported_as_rides_of_this_file(
    postgres: Server, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "CHUNK", 2)
    async with new_city(postgres, migrated, tmp_path) as city:
        first = figures(await city.take(*ROWS, ROWS[0]))
        assert first == {"东风巴士": (2, 2, 400, 160, 240), "地铁一号线": (1, 1, 400, 380, 20)}
        known = {"东风巴士": (2, 0, 400, 160, 240), "地铁一号线": (1, 0, 400, 380, 20)}
        assert figures(await city.take(*ROWS, ROWS[0])) == known, "the same bytes"
        assert figures(await city.take(*ROWS, end="\r\n")) == known, "the same rows in another file"
        assert figures(await city.take(*ROWS, register=False)) == known
        more = await city.take(bus("CARD1", charged="160.0"), bus("CARD9", charged="150"), ROWS[2], ROWS[2])
        assert figures(more) == {"东风巴士": (2, 1, 400, 310, 90), "地铁一号线": (1, 0, 400, 380, 20)}
        assert more.rides == 1


async def test_rides_of_a_company_that_became_known_are_new(postgres: Server, migrated: str, tmp_path: Path) -> None:
    async with new_city(postgres, migrated, tmp_path) as city:
        await city.take(bus("CARD1"))
        other = bus("CARD1", "西风巴士")
        kept = await city.take(other, register=False)
        assert (kept.operators, kept.unknown) == ([], {"西风巴士": 1})
        assert figures(await city.take(other)) == {"西风巴士": (1, 1, 200, 160, 40)}
        assert figures(await city.take(other, ROWS[0])) == {
            "东风巴士": (1, 0, 200, 160, 40),
            "西风巴士": (1, 0, 200, 160, 40),
        }


def test_the_command_shows_what_is_new(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = tmp_path / "clock"
    clock.write_text(CLOCK.instant.isoformat())
    for end, fresh in (("\n", "2"), ("\r\n", "0")):
        file = tmp_path / "taps.csv"
        file.write_bytes(end.join((HEADER, *ROWS[:2])).encode())
        command = ["import", file, "--dsn", database, "--register-companies", "--clock", clock]
        app(list(map(str, command)), result_action="return_value")
        line = next(line for line in capsys.readouterr().out.splitlines() if "│" in line)
        operator, _, *cells = (cell.strip() for cell in line.split("│")[1:7])
        assert (operator, cells) == (str(party_of(SCHEME, "东风巴士")), ["2", fresh, "400", "160"])
