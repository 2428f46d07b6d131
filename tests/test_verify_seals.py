"""What only its own row states is sealed by the first close that sees it; the open date follows from closed ones."""
# ruff: noqa: S608 - statements made of constants of this file

from datetime import datetime
from pathlib import Path

from clearing.close.command import close
from tests.clearing_side import D1, SHOP, ClearingSide, StoppedClock, at, card, clearing_side
from tests.intake_side import debit, house
from tests.test_verify import busy_day, caught, failing

SEALS = "rule 14 seals are of what each close saw"
ORDER, OPEN = "rule 13 dates close in order", "rule 13 nothing posts before the open date"
CASES = "R6 what does not match is a case"
LISTED = "rule 19 who was denylisted stands on the list"
SECOND = "interval '1 second'"

DAMAGES = {
    "a case that resolved itself": ("DELETE FROM case_file WHERE kind = 'card-gap' AND resolved IS NOT NULL", {SEALS}),
    "when a resolved case was opened": ("UPDATE case_file SET opened = opened + 1 WHERE kind = 'bad-seal'",
    {SEALS, CASES}),
    "when a standing case was opened": ("UPDATE case_file SET opened = opened + 9 WHERE kind = 'fork'", {SEALS}),
    "since when a card was listed": (f"UPDATE denylist SET effective_at = effective_at + {SECOND}", {SEALS}),
    "when a card was reported": (f"UPDATE denylist SET reported_at = reported_at - {SECOND}", {SEALS}),
    "when the list was published": (f"UPDATE denylist SET published_at = published_at + {SECOND}", {SEALS}),
    "listed before it was reported": (f"UPDATE denylist SET effective_at = effective_at - {SECOND}", {SEALS, LISTED}),
    "when a batch came": (f"UPDATE batch SET received_at = received_at - {SECOND} WHERE batch_id = 1", {SEALS}),
    "when a date was closed": (f"UPDATE closing SET closed_at = closed_at - {SECOND} WHERE date = '2026-03-02'",
    {SEALS}),
    "a seal": ("DELETE FROM seal WHERE date = '2026-03-03' AND part = 'denylist'", {SEALS}),
    "all seals of a date": ("DELETE FROM seal WHERE date = '2026-03-03'", {SEALS}),
    "the open date, sooner": ("UPDATE open_day SET date = date - 1", {ORDER}),
    "the open date, later": ("UPDATE open_day SET date = date + 1", {ORDER, OPEN}),
    "no open date": ("DELETE FROM open_day", {ORDER}),
    "the post date of an entry": ("UPDATE fact SET post_date = post_date + 1 WHERE kind = 2", {OPEN}),
    "an earlier one": ("UPDATE fact SET post_date = post_date - 1 WHERE kind = 2", {OPEN}),
}  # fmt: skip


async def test_what_only_its_row_states_is_told_by_its_line(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        assert await failing(side) == set()
        told = {name: await caught(side, statement) for name, (statement, _) in DAMAGES.items()}
        assert told == {name: expected for name, (_, expected) in DAMAGES.items()}


async def test_a_batch_that_only_repeated_is_missed(database: str, tmp_path: Path) -> None:
    async with house(database, tmp_path) as opened:
        await opened.upload(1, [debit(1)])
        await opened.upload(2, [debit(1)])
        side = ClearingSide(opened.pool)
        gone = "DELETE FROM batch WHERE n = 2"
        assert await caught(side, gone) == set(), "no close has seen it, so nothing can tell"
        closed_at: datetime = await opened.pool.fetchval("SELECT date + interval '1 day 4 hours' FROM open_day")
        await close(opened.pool, None, StoppedClock(closed_at.astimezone()))
        assert await failing(side) == set()
        assert await caught(side, gone) == {SEALS}


async def test_the_open_date_before_the_first_close_is_that_of_the_records(database: str) -> None:
    async with clearing_side(database) as side:
        await side.tap(card(5), 0, 30, 30, at("03-02 09:00"), terminal=SHOP)
        assert await failing(side) == set()
        assert await caught(side, "UPDATE open_day SET date = date + 1") == {OPEN}


async def test_a_denylisted_record_needs_an_entry_of_its_time(database: str) -> None:
    async with clearing_side(database) as side:
        listed = "INSERT INTO denylist VALUES ($1, 5, 'lost', $2, $2, $2)"
        await side.pool.execute(listed, card(5), at("03-02 08:00"))
        await side.tap(card(5), 0, 30, 30, at("03-02 09:00"), terminal=SHOP, state="suspended", code="denylisted")
        assert await failing(side) == set()
        assert await caught(side, "UPDATE denylist SET effective_at = effective_at + interval '2 hours'") == {LISTED}


async def test_a_date_that_closed_before_there_were_seals_is_sealed_by_the_next_close(database: str) -> None:
    async with clearing_side(database) as side:
        await side.tap(card(5), 0, 30, 30, at("03-02 09:00"), terminal=SHOP)
        await side.close()
        await side.pool.execute("ALTER TABLE closing DISABLE TRIGGER USER; ALTER TABLE seal DISABLE TRIGGER USER")
        await side.pool.execute("DELETE FROM seal; UPDATE closing SET last_listed = NULL")
        await side.pool.execute("ALTER TABLE closing ENABLE TRIGGER USER; ALTER TABLE seal ENABLE TRIGGER USER")
        moved = f"UPDATE batch SET received_at = received_at - {SECOND}"
        assert await failing(side) == set()
        assert await caught(side, moved) == set()
        await side.close()
        assert await failing(side) == set()
        assert await caught(side, moved) == {SEALS}
        assert await side.pool.fetchval("SELECT min(date) FROM seal") > D1
