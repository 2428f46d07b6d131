"""What is kept of an upload is what came: every column, body and exhibit that a hand alters is told, by its line."""
# ruff: noqa: S608 - statements made of constants of this file

from dataclasses import replace
from pathlib import Path

from cardcore.record import BY_NAME
from clearing.store import kept
from tests.clearing_side import METRO, SHOP, ClearingSide, at, card, clearing_side
from tests.intake_side import as_json, debit, house, spoiled
from tests.test_municipal import BUS_RIDE, NOWHERE, take, write
from tests.test_verify import caught, failing

COLUMNS, IDENTITIES = "R5 columns are what the bytes say", "R5 moments and identities follow"
KEPT, BODIES, ANSWERS = (
    "R4 every upload is kept once, and nothing else",
    "R4 bodies are what was acknowledged",
    "R4 answers are what became of the records",
)
CASES = "R6 what does not match is a case"
SEALS = "rule 14 seals are of what each close saw"
# An entry moves no money: no posting, balance or gap would miss it.
ENTRY = "WHERE kind = 2"
OF_ENTRY = "WHERE batch_id = (SELECT batch_id FROM fact WHERE kind = 2)"


def flipped(column: str, at_byte: int) -> str:
    return f"{column} = set_byte({column}, {at_byte}, get_byte({column}, {at_byte}) # 1)"


def field(name: str) -> str:
    return flipped("record", BY_NAME[name].offset)


MUTATIONS = {
    "version in the record": (f"UPDATE fact SET {field('fare_version')} {ENTRY}", {KEPT}),
    "cryptogram in the record": (f"UPDATE fact SET {field('cryptogram')} {ENTRY}", {KEPT}),
    "line of an exhibit": (f"UPDATE exhibit SET {field('line')} WHERE state = 'memo'", {KEPT, IDENTITIES}),
    "terminal number": (f"UPDATE fact SET {flipped('terminal_number', 5)} {ENTRY}", {COLUMNS}),
    "terminal transaction": (f"UPDATE fact SET terminal_transaction = 99 {ENTRY}", {COLUMNS}),
    "amount of a memo": ("UPDATE exhibit SET amount_fen = 1 WHERE state = 'memo'", {COLUMNS, CASES}),
    "terminal of a memo": (f"UPDATE exhibit SET terminal = {SHOP + 1} WHERE state = 'memo'", {COLUMNS, CASES}),
    "instant": (f"UPDATE fact SET instant = instant + interval '1 second' {ENTRY}", {IDENTITIES}),
    "origin date": (f"UPDATE fact SET origin_date = origin_date - 1 {ENTRY}", {IDENTITIES}),
    "proof key": (f"UPDATE fact SET {flipped('proof_key', 0)} {ENTRY}", {IDENTITIES}),
    "moment of an exhibit": ("UPDATE exhibit SET instant = NULL WHERE state = 'memo'", {COLUMNS}),
    "digest of an exhibit": (f"UPDATE exhibit SET {flipped('digest', 0)} WHERE state = 'memo'", {IDENTITIES}),
    "fact": (f"DELETE FROM fact {ENTRY}", {KEPT, ANSWERS, CASES}),
    "memo": ("DELETE FROM exhibit WHERE state = 'memo'", {KEPT, ANSWERS, CASES}),
    "quarantined": ("DELETE FROM exhibit WHERE state = 'quarantined'", {KEPT, ANSWERS, CASES}),
    "state": (f"UPDATE fact SET state = 'suspended' {ENTRY}", {ANSWERS}),
    "body": (f"UPDATE batch SET {flipped('body', 32 + BY_NAME['station'].offset)} {OF_ENTRY}", {BODIES, KEPT}),
    "digest of a body": (f"UPDATE batch SET {flipped('digest', 0)} {OF_ENTRY}", {BODIES, KEPT, SEALS}),
    "header": (f"UPDATE batch SET first_seq = 0 {OF_ENTRY}", {BODIES, KEPT}),
    "another's batch": (f"UPDATE fact SET batch_id = batch_id + 1 {ENTRY}", {KEPT, ANSWERS}),
}  # fmt: skip


async def quiet_day(side: ClearingSide) -> None:
    """A journey by metro, a torn debit and a bad proof; the first date closed."""
    await side.load(card(1), 0, 1000, 0, at("03-02 07:00"))
    entry = await side.tap(card(1), 0, 0, 1000, at("03-02 08:00"), terminal=METRO, kind=2, station=3)
    out = await side.tap(card(1), 1, 300, 1000, at("03-02 08:30"), terminal=METRO, kind=3, station=5, entry_station=3)
    await side.exhibit(replace(out, counter=2, sequence=90), at("03-02 08:30"), "memo", "torn")
    await side.exhibit(replace(entry, counter=9, sequence=91), at("03-02 08:00"), "quarantined", "bad-proof")
    await side.close()


async def test_whatever_is_altered_of_what_came_is_told_by_its_line(database: str) -> None:
    async with clearing_side(database) as side:
        await quiet_day(side)
        assert await failing(side) == set()
        told = {name: await caught(side, statement) for name, (statement, _) in MUTATIONS.items()}
        assert told == {name: expected for name, (_, expected) in MUTATIONS.items()}
        assert await failing(side) == set()


async def test_uploads_are_compared_by_joins_that_grow_with_them(database: str) -> None:
    """A subquery per row is fast as long as it fits into memory, and takes hours from some hundred thousand records."""
    async with clearing_side(database) as side, side.pool.acquire() as connection, connection.transaction():
        await kept.begin_uploads(connection)
        plan = "\n".join([row[0] for row in await connection.fetch(f"EXPLAIN {kept.UPLOADS}")])
        assert "SubPlan" not in plan and plan.count("Join") >= 4, plan


async def test_batches_of_either_spelling_and_imports_are_held_against_what_came(database: str, tmp_path: Path) -> None:
    async with house(database, tmp_path) as opened:
        await opened.upload(1, [debit(1), spoiled(debit(2))])
        status, answer = await opened.put(2, as_json([debit(3), debit(1)]), media="application/json")
        assert (status, answer["accepted"], answer["duplicate"]) == (200, 1, 1)
        side = ClearingSide(opened.pool)
        assert await failing(side) == set()
        assert await caught(side, "UPDATE batch SET body = body || ' ' WHERE n = 2") == {BODIES, KEPT}
        assert await caught(side, "DELETE FROM exhibit") == {KEPT, ANSWERS}
        # Gone with all that was made of it: only the terminal's ranges still know that it was acknowledged.
        gone = """
            WITH batch_gone AS (DELETE FROM batch WHERE n = 1 RETURNING batch_id), exhibits AS (DELETE FROM exhibit),
                 facts AS (DELETE FROM fact WHERE batch_id = (SELECT batch_id FROM batch WHERE n = 1)),
                 postings AS (DELETE FROM posting WHERE journal_id = 1)
            DELETE FROM journal WHERE journal_id = 1"""
        assert await caught(side, gone) == {KEPT}


async def test_an_imported_row_is_what_its_text_says(database: str, tmp_path: Path) -> None:
    async with clearing_side(database) as side:
        await take(side, write(tmp_path / "taps.csv", BUS_RIDE, NOWHERE, BUS_RIDE + ",more"))
        assert await failing(side) == set()
        for change in (
            "UPDATE import_row SET row = replace(row, '0', '1') WHERE code <> ''",
            "UPDATE import_row SET full_fare_fen = full_fare_fen + 1",
            "UPDATE import_row SET instant = instant + interval '1 second'",
            "UPDATE import_row SET code = 'bad-time' WHERE code <> ''",
            "UPDATE import_row SET row = '[]' WHERE code <> ''",
            "UPDATE import_row SET origin_date = origin_date + 1 WHERE code = ''",
        ):
            assert await caught(side, change) == {IDENTITIES}, change
