"""Imported rides are received: an operator of a source that declares its day rightly has no `operator-total` case."""

import json
from pathlib import Path

import pytest

from cardcore.errors import FormatError
from clearing.close.command import close
from clearing.municipal.companies import party_of
from clearing.municipal.rows import SCHEME
from clearing.registry.document import parse_declared
from clearing.registry.take import declare
from clearing.store.launcher import Server
from clearing.verify import verify
from tests.clearing_side import BUS_CO, D1, D2, at, card, clearing_side
from tests.municipal_side import CLOCK, City, bus, metro, new_city

BUSES, METRO = party_of(SCHEME, "东风巴士"), party_of(SCHEME, "地铁一号线")
# Two days by the source's own closing, one of which is not ours; the entry is a record of 0 fen.
ROWS = [
    bus("CARD1"),
    bus("CARD2", charged="0"),
    metro("CARD1", "地铁入站", charged="0"),
    metro("CARD1"),
    bus("CARD3", closed="2026-03-03 00:00:00", charged="150"),
    bus("CARD4", charged="no"),
]


async def declared(city: City, *totals: tuple[int, str, str, int, int]) -> None:
    names = ("operator", "sector", "date", "count", "fen")
    text = "\n".join(json.dumps(dict(zip(names, total, strict=True))) for total in totals)
    async with city.pool.acquire() as connection:
        await declare(connection, parse_declared(text))


async def cases(city: City) -> dict[str, tuple[int, int, int, str | None]]:
    """Per subject of an operator-total case: fen, declared and received counts, resolution."""
    found = await city.pool.fetch("SELECT * FROM case_file WHERE kind = 'operator-total'")
    details = {row["subject"]: json.loads(row["detail"]) for row in found}
    return {
        row["subject"]: (
            row["amount_fen"],
            details[row["subject"]]["declared"],
            details[row["subject"]]["received"],
            row["resolution"],
        )
        for row in found
    }


async def test_what_was_imported_was_received(postgres: Server, migrated: str, tmp_path: Path) -> None:
    async with new_city(postgres, migrated, tmp_path) as city:
        await city.pool.execute("INSERT INTO open_day VALUES (true, $1)", D1)
        await city.take(*ROWS)
        await declared(
            city,
            (BUSES, "transit", str(D1), 2, 160),
            (METRO, "transit", str(D1), 2, 380),
            (BUSES, "transit", str(D2), 1, 151),
            (METRO, "smallpay", str(D1), 1, 380),
        )
        await close(city.pool, D1, CLOCK)
        assert await cases(city) == {f"{METRO}/smallpay/{D1}": (-380, 1, 0, None)}
        await close(city.pool, D2, CLOCK)
        assert (await cases(city))[f"{BUSES}/transit/{D2}"] == (-1, 1, 1, None)
        assert all(check.ok for check in await verify(city.pool))


async def test_a_ride_that_was_declared_and_comes_late(postgres: Server, migrated: str, tmp_path: Path) -> None:
    async with new_city(postgres, migrated, tmp_path) as city:
        await city.pool.execute("INSERT INTO open_day VALUES (true, $1)", D1)
        await city.take(ROWS[0])
        await declared(city, (BUSES, "transit", str(D1), 2, 160))
        await close(city.pool, D1, CLOCK)
        assert await cases(city) == {f"{BUSES}/transit/{D1}": (0, 2, 1, None)}
        await city.take(ROWS[1])
        await close(city.pool, D2, CLOCK)
        assert await cases(city) == {f"{BUSES}/transit/{D1}": (0, 2, 1, "equal")}


async def test_records_and_imported_rides_of_one_operator_add_up(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        city = City(side.pool, tmp_path)
        await side.pool.execute("UPDATE party SET name = '东风巴士' WHERE id = $1", BUS_CO)
        await side.load(card(1), 0, 1000, 0, at("03-02 07:00"))
        await side.tap(card(1), 0, 200, 1000, at("03-02 08:00"))
        await city.take(*ROWS[:2])
        await declared(city, (BUS_CO, "transit", str(D1), 3, 360))
        await side.close()
        assert await cases(city) == {}


async def test_a_stranger_declares_nothing(postgres: Server, migrated: str, tmp_path: Path) -> None:
    async with new_city(postgres, migrated, tmp_path) as city:
        with pytest.raises(FormatError, match=f"Operator {BUSES} is not in the registry"):
            await declared(city, (BUSES, "transit", str(D1), 2, 160))
