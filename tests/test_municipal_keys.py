"""The key of a row is SM3 over what it says: one ride has one key however it is spelt, two rides have two."""

import json
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.errors import RefusedError
from clearing.municipal.rows import COLUMNS, Layout
from clearing.store.launcher import Server
from clearing.store.migrate import migrate, migrations
from keys.proof import sm3
from tests.municipal_side import HEADER, City, bus, new_city

RIDE = bus("AB(C)1", "东风(巴士)")
# Per cell of `RIDE`, other spellings of it.
SPELLINGS = [
    ["2026-3-2 8:00:00", "2026/3/2 8:00", "2026.03.02T08:00:00.000", "２０２６-03-02 ０8:00:00"],
    ["2026-03-02", "2026/3/2", "2026-03-02 23:59:59"],
    ["ＡＢ（Ｃ）１", " AB(C)1\u3000"],
    ["200.0", "２００", "0200", "200."],
    ["巴 士", "\u00a0巴士"],
    ["东风（巴士）", "东风（巴士)\t"],
    ["京Ａ12345"],
    ["12（总站）", "１２(总站)"],
    ["０"],
    ["160.0", "１６０", "160.00"],
    ["２２７000021"],
]
OTHERS = [
    "2026-03-02 08:00:01", "2026-03-03", "AB(C)2", "201", "地铁出站", "东风", "京B12345", "13(总站)", "1", "159", "-",
]  # fmt: skip


def key(line: str, header: str = HEADER) -> bytes:
    tap = Layout(header).read(2, line)
    assert tap.code == ""
    return tap.key


def test_the_preimage_is_that_of_the_book() -> None:
    preimage = (
        '["2026-03-02 08:00:00","2026-03-02","AB(C)1","200","巴士","东风(巴士)","京A12345","12(总站)","0","160",'
        '"227000021",["weather","rain"]]'
    )
    line = ",".join([" ２００.0", *(cells := RIDE.split(","))[:3], "－", "rain", *cells[4:]])
    names = ["Deal_Value", *COLUMNS[:3], "colour", "ｗeather", *COLUMNS[4:]]
    assert key(line, ",".join(names)) == sm3(preimage.encode())
    assert key(RIDE.replace("08:00:00", "08:00:00.25")) == sm3(
        preimage.replace('00:00"', '00:00.250000"').replace(',["weather","rain"]', "").encode()
    )


@given(st.tuples(*(st.sampled_from([cell, *more]) for cell, more in zip(RIDE.split(","), SPELLINGS, strict=True))))
def test_one_ride_has_one_key_however_it_is_spelt(cells: tuple[str, ...]) -> None:
    assert key(",".join(cells)) == key(RIDE)
    text = Layout(HEADER).read(2, ",".join(cells)).text
    assert key(",".join(json.loads(text))) == key(RIDE)


@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_another_ride_has_another_key(column: int) -> None:
    cells = RIDE.split(",")
    cells[column] = OTHERS[column]
    assert key(",".join(cells)) != key(RIDE)


def test_a_flawed_row_is_known_by_its_cells_as_they_stand() -> None:
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    for line in (bus("", full="200"), bus("", full="２００")):
        assert Layout(HEADER).read(2, line).key == sm3(encode(line.split(",")).encode())


async def test_other_spellings_count_nothing_anew(postgres: Server, migrated: str, tmp_path: Path) -> None:
    async with new_city(postgres, migrated, tmp_path) as city:
        await city.take(RIDE)
        before = await city.digests()
        for column, spellings in enumerate(SPELLINGS):
            cells = RIDE.split(",")
            for cells[column] in spellings:
                report = await city.take(",".join(cells))
                assert (report.accepted, report.duplicates, report.registered) == (0, 1, ())
        assert await city.digests() == before


async def test_rows_under_the_keys_of_an_earlier_version(empty_database: str, tmp_path: Path) -> None:
    """A database that imported before the keys were over values keeps its rows and parties, and takes no more files."""
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=2) as pool:
        await migrate(pool, [migration for migration in migrations() if migration.number <= 6])
        await pool.execute("INSERT INTO party VALUES (60001, 'operator', '东风巴士')")
        await pool.execute("INSERT INTO import_file VALUES ('a', 'municipal-taps', 'taps.csv', 1, now())")
        await pool.execute(
            "INSERT INTO import_row (card, row_key, scheme, state, code, operator, ride, row, file, line) "
            "VALUES ('c', 'k', 'municipal-taps', 'accepted', '', 60001, true, '', 'a', 1)"
        )
        await migrate(pool)
        city = City(pool, tmp_path)
        before = await city.digests()
        with pytest.raises(RefusedError, match="Nothing was imported"):
            await city.take(bus("CARD1"))
        assert await city.digests() == before
        assert await pool.fetchval("SELECT operator FROM import_row") == 60001
