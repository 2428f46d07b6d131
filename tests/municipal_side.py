"""A city's tap files made by hand, and clearing houses that know nothing yet to import them into."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import asyncpg

from clearing.ledger.export import read_books
from clearing.municipal.importer import ImportReport, import_taps
from clearing.municipal.rows import COLUMNS
from clearing.store.cluster import DATABASE
from clearing.store.launcher import Server
from tests.clearing_side import StoppedClock, at

HEADER = ",".join(COLUMNS)
CLOCK = StoppedClock(at("03-03 03:00"))


def bus(card: str, company: str = "东风巴士", *, when: str = "2026-03-02 08:00:00", full: str = "200",
        charged: str = "160", closed: str = "2026-03-02 00:00:00") -> str:  # fmt: skip
    """A line of one bus ride."""
    return f"{when},{closed},{card},{full},巴士,{company},京A12345,12(总站),0,{charged},227000021"


def metro(card: str, gate: str = "地铁出站", *, charged: str = "380", company: str = "地铁一号线") -> str:
    """A line of one metro tap, an exit unless said otherwise."""
    return f"2026-03-02 08:40:00,2026-03-02 00:00:00,{card},400,{gate},{company},OGT-101,西门,0,{charged},263032101"


@dataclass
class City:
    """A database of its own, and the files that it was given."""

    pool: asyncpg.Pool
    folder: Path
    taken: list[Path] = field(default_factory=list)

    async def take(self, *lines: str, end: str = "\n", header: str = HEADER, register: bool = True) -> ImportReport:
        """Import a file of these lines under a header."""
        return await self.take_bytes(end.join((header, *lines, "")).encode(), register=register)

    async def take_bytes(self, body: bytes, *, register: bool = True) -> ImportReport:
        path = self.folder / f"{uuid4().hex}.csv"
        path.write_bytes(body)
        self.taken.append(path)
        return await import_taps(self.pool, path, CLOCK, register_companies=register)

    async def digests(self) -> tuple[str, str]:
        """books_digest and substance_digest (rule 14)."""
        async with self.pool.acquire() as connection:
            books = await read_books(connection)
        return books.books_digest, books.substance_digest


@asynccontextmanager
async def new_city(server: Server, template: str, folder: Path) -> AsyncIterator[City]:
    """A migrated database that knows no party, no policy and no row, dropped in the end."""
    name = f"city_{uuid4().hex}"
    administrator = await asyncpg.connect(server.dsn.replace(f"/{DATABASE}?", "/postgres?"))
    try:
        await administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        async with asyncpg.create_pool(
            server.dsn.replace(f"/{DATABASE}?", f"/{name}?"), min_size=1, max_size=2
        ) as pool:
            yield City(pool, folder)
    finally:
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await administrator.close()
