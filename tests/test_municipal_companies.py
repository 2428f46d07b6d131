"""A company's number follows from its name, so files give the same books in whatever order and pieces they come."""

import random
from pathlib import Path

import asyncpg
import pytest

from cardcore.errors import RefusedError
from clearing.municipal import importer
from clearing.municipal.companies import parties_of, party_of
from clearing.municipal.rows import SCHEME
from clearing.store.launcher import Server
from tests.municipal_side import bus, metro, new_city

# Two names whose SM3 begin with the same 5 bytes, found by trying 1.3 million.
TWINS = ("第1091527公交", "第1322875公交")
ROWS = [
    *(bus(f"CARD{number}", company) for number in range(3) for company in ("甲巴士", "乙巴士", "丙巴士", "东风巴士")),
    *(metro(f"CARD{number}", company=f"地铁{line}号线") for number in range(3) for line in range(1, 4)),
    bus("", "甲巴士"),
    bus("CARD1", "乙巴士", full="-5"),
]


async def test_any_order_and_any_split_give_the_same_books(
    postgres: Server, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "CHUNK", 5)
    seen = set()
    for seed in range(6):
        rows = ROWS + ROWS[:4]
        random.Random(seed).shuffle(rows)
        files = seed % 4 + 1
        async with new_city(postgres, migrated, tmp_path) as city:
            for number in range(files):
                await city.take(*rows[number::files])
            seen.add(await city.digests())
    assert len(seen) == 1


async def test_two_files_in_either_order(postgres: Server, migrated: str, tmp_path: Path) -> None:
    seen = set()
    for files in ((0, 1), (1, 0)):
        async with new_city(postgres, migrated, tmp_path) as city:
            for number in files:
                await city.take(bus("CARD1", ("乙巴士", "甲巴士")[number], charged=("160", "150")[number]))
            seen.add(await city.digests())
    assert len(seen) == 1


async def test_six_thousand_companies(postgres: Server, migrated: str, tmp_path: Path) -> None:
    names = [f"第{number}公司" for number in range(6000)]
    async with new_city(postgres, migrated, tmp_path) as city:
        report = await city.take(*(bus("CARD1", name) for name in names))
        assert (report.accepted, report.registered) == (6000, tuple(sorted(names)))
        assert len(report.operators) == 6000
        assert await city.pool.fetchval("SELECT count(DISTINCT id) FROM party") == 6000


def test_the_number_is_the_name() -> None:
    # By the book: 2^40 + the first five bytes of SM3("municipal-taps" ‖ 00 ‖ name).
    assert party_of(SCHEME, TWINS[0]) == 0x01_7E2A070FCE
    assert parties_of(SCHEME, ["乙", "甲"], {})["甲"] == parties_of(SCHEME, ["甲"], {})["甲"]
    assert parties_of(SCHEME, ["甲"], {205: "甲", 101: " 甲\u3000", 7: "乙"}) == {"甲": 101}


async def test_two_names_of_one_number_are_refused_in_either_order(
    postgres: Server, migrated: str, tmp_path: Path
) -> None:
    for first, second in (TWINS, TWINS[::-1]):
        with pytest.raises(RefusedError, match="same number"):
            parties_of(SCHEME, TWINS, {})
        async with new_city(postgres, migrated, tmp_path) as city:
            await city.take(bus("CARD1", first))
            before = await city.digests()
            with pytest.raises(RefusedError, match=f"{first} and {second} have the same number"):
                await city.take(bus("CARD1", second))
            assert await city.digests() == before
            await city.pool.execute("INSERT INTO party VALUES (77, 'operator', $1)", second)
            assert (await city.take(bus("CARD1", second))).accepted == 1


async def test_other_parties_stay_out_of_the_range(database: str) -> None:
    connection = await asyncpg.connect(database)
    for number in (0, 65536, 2**40 - 1, 2**41):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("INSERT INTO party VALUES ($1, 'operator', 'x')", number)
    await connection.execute("INSERT INTO party VALUES ($1, 'operator', 'x'), (65535, 'bank', 'y')", 2**41 - 1)
    await connection.close()
