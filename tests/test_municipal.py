"""Tap files of a source without cryptograms: nothing raises, nothing is lost, nothing counts twice."""

import random
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.errors import RefusedError
from clearing.ledger.export import read_books
from clearing.municipal.importer import ImportReport, import_taps
from clearing.municipal.rows import COLUMNS, Layout, card_id
from clearing.store.connect import connect_pool
from clearing.store.launcher import Server
from clearing.verify import verify
from tests.clearing_side import D1, D2, ClearingSide, clearing_side
from tests.municipal_side import CLOCK, HEADER, new_city

BUS_RIDE = "2026-03-02 08:00:00,2026-03-02 00:00:00,AAABBBCCC,200,巴士,东风巴士,京A12345,12(总站),0,160,227000021"
FREE_RIDE = "2026-03-02 09:00:00,2026-03-02 00:00:00,AAABBBCCD,200,巴士,东风巴士,京A12345,12(总站),0,0,227000021"
ENTRY = "2026-03-02 08:10:00,2026-03-02 00:00:00,AAABBBCCE,0,地铁入站,地铁一号线,IGT-101,东门,0,0,263032105"
EXIT = "2026-03-02 08:40:00,2026-03-02 00:00:00,AAABBBCCE,400,地铁出站,地铁一号线,OGT-101,西门,0,380,263032101"
EXIT_ONLY = "2026-03-02 08:50:00,2026-03-02 00:00:00,AAABBBCCF,500,地铁出站,地铁一号线,OGT-101,西门,0,475,263032101"
NEXT_DAY = "2026-03-02 22:14:50,2026-03-03 00:00:00,AAABBBCCG,300,地铁出站,地铁一号线,OGT-105,东门,0,285,263032105"
NOWHERE = "2026-03-02 08:20:00,2026-03-02 00:00:00,AAABBBCCH,0,地铁入站,地铁一号线,-,-,0,0,263032105"
NO_CARD = "2026-03-02 08:20:00,2026-03-02 00:00:00,,200,巴士,东风巴士,京A12345,12(总站),0,160,227000021"
GOOD = [BUS_RIDE, FREE_RIDE, ENTRY, EXIT, EXIT_ONLY, NEXT_DAY]
SPOILT = {
    "missing-field": NO_CARD,
    "missing-place": NOWHERE,
    "bad-type": BUS_RIDE.replace("巴士,东风", "轮渡,东风"),
    "bad-time": BUS_RIDE.replace("2026-03-02 08:00:00", "2026-02-30 08:00:00"),
    "bad-close-date": BUS_RIDE.replace("2026-03-02 00:00:00", "tomorrow"),
    "bad-time ": BUS_RIDE.replace("2026-03-02 08:00:00", "0001-01-01 08:00:00"),
    "bad-close-date ": BUS_RIDE.replace("2026-03-02 00:00:00", "9999-12-31 00:00:00"),
    "bad-amount": BUS_RIDE.replace(",0,160,", ",0,-160,"),
    "columns": BUS_RIDE + ",more",
    "charged-entry": ENTRY.replace(",0,0,", ",0,5,").replace("E,0,", "E,5,"),
}


def write(path: Path, *lines: str, header: str = HEADER, encoding: str = "utf-8", end: str = "\n") -> Path:
    path.write_bytes(end.join((header, *lines, "")).encode(encoding))
    return path


async def take(side: ClearingSide, path: Path) -> ImportReport:
    return await import_taps(side.pool, path, CLOCK, register_companies=True)


async def digests(side: ClearingSide) -> tuple[str, str]:
    async with side.pool.acquire() as connection:
        books = await read_books(connection)
    return books.books_digest, books.substance_digest


async def test_rides_are_posted_and_reported_per_operator(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        report = await take(side, write(tmp_path / "taps.csv", *GOOD, BUS_RIDE, NOWHERE))
        assert (report.lines, report.accepted, report.rides, report.duplicates) == (8, 6, 5, 1)
        assert report.quarantined == Counter({"missing-place": 1})
        figures = {
            row.name: (row.rides, row.full_fare_fen, row.charged_fen, row.discount_fen) for row in report.operators
        }
        assert figures == {"东风巴士": (2, 400, 160, 240), "地铁一号线": (3, 1200, 1140, 60)}
        bus, metro = (row.operator for row in sorted(report.operators, key=lambda row: row.name))
        assert await side.moves(D1, "import") == {
            ("transit", "source:municipal-taps", "import@1"): 1015,
            ("transit", f"payable:{bus}", "import@1"): -160,
            ("transit", f"payable:{metro}", "import@1"): -855,
        }
        assert await side.moves(D2, "import") == {
            ("transit", "source:municipal-taps", "import@1"): 285,
            ("transit", f"payable:{metro}", "import@1"): -285,
        }
        await side.close()
        case = await side.pool.fetchrow("SELECT *, detail ->> 'count' AS count FROM case_file")
        assert (case["kind"], case["subject"], case["count"]) == (
            "business-date",
            f"{metro}/2026-03-03/2026-03-02",
            "1",
        )
        assert [check for check in await verify(side.pool) if not check.ok] == []
        net = await side.pool.fetch("SELECT party, net_fen FROM net_position WHERE date = $1", D1)
        assert {row["party"]: row["net_fen"] for row in net} == {
            "source:municipal-taps": -1015, str(bus): 160, str(metro): 855,
        }  # fmt: skip


async def test_late_rows_post_to_the_open_date(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        await side.close()
        await take(side, write(tmp_path / "taps.csv", BUS_RIDE))
        row = await side.pool.fetchrow("SELECT business_date, origin_date FROM posting LIMIT 1")
        assert tuple(row) == (D2, D1)


async def test_twice_permuted_recoded_and_split_give_the_same_books(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        await take(side, write(tmp_path / "taps.csv", *GOOD, *SPOILT.values()))
        before = await digests(side)
        order = list(range(len(COLUMNS)))
        random.Random(7).shuffle(order)

        def permuted(line: str) -> str:
            cells = line.split(",")
            return ",".join(f'" {cells[at]}\u3000"' for at in order)

        plain = [line for line in (*GOOD, *SPOILT.values()) if line.count(",") == 10]
        again = write(tmp_path / "again.csv", *map(permuted, plain), header="\ufeff" + permuted(HEADER), end="\r\n")
        chinese = write(tmp_path / "gb.csv", *reversed(plain), encoding="gb18030")
        for path in (again, chinese, tmp_path / "taps.csv"):
            report = await take(side, path)
            assert (report.accepted, sum(report.quarantined.values())) == (0, 0)
            assert report.duplicates == report.lines
        assert await digests(side) == before


async def test_unknown_company_is_kept_and_taken_up_when_known(database: str, tmp_path: Path) -> None:
    path = write(tmp_path / "taps.csv", BUS_RIDE)
    async with clearing_side(database) as side:
        with pytest.raises(RefusedError, match="nobody vouches"):
            await import_taps(side.pool, path, CLOCK)
        await side.pool.execute(
            """INSERT INTO policy VALUES ('source', 'municipal-taps', '2026-01-01', 1, '',
                '{"cryptogram":false,"operators":{}}')"""
        )
        report = await import_taps(side.pool, path, CLOCK)
        assert (report.quarantined, report.unknown) == (Counter({"unknown-company": 1}), Counter({"东风巴士": 1}))
        report = await take(side, path)
        assert (report.accepted, report.duplicates, report.registered) == (1, 0, ("东风巴士",))
        states = await side.pool.fetch("SELECT state, count(*) FROM import_row GROUP BY state")
        assert [tuple(row) for row in states] == [("accepted", 1)]


async def test_whatever_order_the_rows_come_in(postgres: Server, migrated: str, tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    rows = [*GOOD, BUS_RIDE, *SPOILT.values()]
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        cut = seed * 3
        async with new_city(postgres, migrated, tmp_path) as city:
            await city.take(*rows[:cut])
            await city.take(*rows[cut:])
            seen.add(await city.digests())
    assert len(seen) == 1


@pytest.mark.parametrize("code", SPOILT)
def test_each_flaw_is_named(code: str) -> None:
    assert Layout(HEADER).read(2, SPOILT[code]).code == code.strip()


@given(st.lists(st.text(max_size=30), max_size=14), st.lists(st.sampled_from([*COLUMNS, "other", ""]), max_size=14))
def test_no_content_raises_and_identity_is_stable(cells: list[str], names: list[str]) -> None:
    line, header = ",".join(cells), ",".join(names)
    tap = Layout(header).read(1, line)
    again = Layout(header).read(9, f"  {line}\u3000")
    assert (tap.key, tap.card, tap.code) == (again.key, again.card, again.code)
    assert len(tap.card) == 10
    assert tap.card[0] == 0xF1


@given(st.permutations(list(range(len(COLUMNS)))), st.sampled_from(GOOD))
def test_column_order_does_not_matter(order: list[int], line: str) -> None:
    cells = line.split(",")
    tap = Layout(",".join(COLUMNS[at] for at in order)).read(1, ",".join(cells[at] for at in order))
    assert (tap.key, tap.code) == (Layout(HEADER).read(1, line).key, "")


def test_values_are_read_as_meant() -> None:
    tap = Layout(HEADER).read(1, BUS_RIDE.replace("200", "２００.0").replace(",160,", ", 160,"))
    assert (tap.full_fare_fen, tap.charged_fen, tap.ride) == (200, 160, True)
    assert tap.moment == datetime(2026, 3, 2, 8)
    assert tap.close_date == date(2026, 3, 2)
    # SM3 by the book: scheme, a zero byte, the masked text.
    assert tap.card == card_id("AAABBBCCC")
    assert tap.card != card_id("AAABBBCCD")
    missing_column = Layout(HEADER.replace(",equ_no", "")).read(1, BUS_RIDE.rpartition(",")[0])
    assert missing_column.code == ""


async def test_a_file_runs_into_an_empty_database(database: str, tmp_path: Path) -> None:
    """What an import may register by itself: companies, the source, and a cut-off where there is none."""
    file = write(tmp_path / "taps.csv", BUS_RIDE)
    pool = await connect_pool(database, size=2)
    try:
        with pytest.raises(RefusedError, match="cut-off"):
            await import_taps(pool, file, CLOCK)
        report = await import_taps(pool, file, CLOCK, register_companies=True)
        assert (report.accepted, report.rides, report.registered) == (1, 1, ("东风巴士",))
        assert all(check.ok for check in await verify(pool))
    finally:
        await pool.close()
