"""The books prove themselves, and a hand that alters them is caught by a check that has a name."""

from dataclasses import replace

import asyncpg
import pytest

from clearing.ledger.history import digests_at_closes
from clearing.verify import verify
from tests.clearing_side import D1, D2, METRO, SHOP, ClearingSide, at, card, clearing_side, resealed

A, B, E = card(1), card(2), card(4)


async def busy_day(house: ClearingSide) -> None:
    """Loads, subsidised rides, a gap, a fork, an evidence load, a late record, a suspended one; two dates closed, one
    open.
    """
    await house.load(A, 0, 1000, 0, at("03-02 07:00"))
    await house.tap(A, 0, 200, 1000, at("03-02 08:00"))
    await house.tap(A, 2, 100, 650, at("03-02 10:00"), terminal=SHOP)
    await house.load(B, 0, 5000, 0, at("03-02 07:00"))
    await house.tap(B, 0, 100, 5000, at("03-02 08:00"), full_fare_fen=200, concession=2)
    await house.tap(B, 1, 200, 4900, at("03-02 09:00"), terminal=METRO, kind=3, station=9, entry_station=5,
        full_fare_fen=400,
                    concession=2)  # fmt: skip
    await house.load(B, 1, 300, 4700, at("03-02 09:30"), proven=False)
    bare = await house.tap(B, 2, 100, 5000, at("03-02 10:00"), sealed=False, full_fare_fen=200, concession=2)
    await house.tap(E, 0, 0, 0, at("03-02 11:00"), terminal=METRO, kind=2, station=3)
    await house.load(card(6), 0, 1000, 0, at("03-02 07:00"))
    await house.tap(card(6), 0, 200, 1000, at("03-02 12:00"), terminal=SHOP)
    await house.tap(card(6), 2, 200, 750, at("03-02 13:00"), terminal=SHOP)
    await house.close()
    await house.adopt(bare, resealed(bare))
    await house.tap(A, 1, 150, 800, at("03-02 09:00"), terminal=SHOP)
    await house.load(E, 0, 1000, 0, at("03-03 07:00"))
    await house.tap(E, 1, 100, 1000, at("03-03 08:00"))
    await house.tap(E, 1, 300, 1000, at("03-03 08:30"), terminal=SHOP)
    await house.tap(card(5), 0, 30, 0, at("03-03 09:00"), state="suspended", code="clock", terminal=SHOP)
    await house.pool.execute(
        "INSERT INTO replacement (old, new, load_fen, made_at) VALUES ($1, $2, 550, $3)", card(6), card(7),
        at("03-03 12:00"),
    )  # fmt: skip
    await house.pool.execute("INSERT INTO replacement_value VALUES ($1, 1, 550)", card(6))
    await house.close()
    await house.tap(A, 4, 100, 400, at("03-04 09:00"), terminal=SHOP)


async def failing(side: ClearingSide) -> set[str]:
    return {check.name for check in await verify(side.pool) if not check.ok}


async def test_sound_books_pass_every_check(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        checks = await verify(side.pool)
        assert [check for check in checks if not check.ok] == []
        assert not [check.name for check in checks if not check.checked]
        # Verifying writes nothing, so that the next close and the next proof find the same.
        assert await side.pool.fetchval("SELECT count(*) FROM record_event WHERE kind = 'disputed'") == 2
        await side.close()
        assert await failing(side) == set()


MUTATIONS = {
    "a posting deleted": ("DELETE FROM posting WHERE account = 'payable:201' AND rule = 'debit'",
    "L1 journals sum to zero"),
    "a journal deleted": (
        "DELETE FROM posting WHERE journal_id = (SELECT min(journal_id) FROM posting WHERE rule = 'debit')",
        "C5 every record is posted once",
    ),
    "a journal doubled": (
        """INSERT INTO posting (journal_id, ledger, account, class, rule, version, business_date, origin_date, count,
            amount_fen,
                                merkle_root)
           SELECT journal_id, ledger, account, class, rule, version, business_date, origin_date, count, amount_fen,
               merkle_root
           FROM posting WHERE journal_id = (SELECT min(journal_id) FROM posting WHERE rule = 'debit')""",
        "C5 every record is posted once",
    ),
    "a fen shifted between operators": (
        """UPDATE posting SET amount_fen = amount_fen + CASE account WHEN 'payable:101' THEN -1 ELSE 1 END
           WHERE posting_id IN ((SELECT min(posting_id) FROM posting WHERE account = 'payable:101'),
                                (SELECT min(posting_id) FROM posting WHERE account = 'payable:102'))""",
        "C5 every record is posted once",
    ),
    "a fact dropped": ("DELETE FROM fact WHERE card = '\\x03100000000000000001' AND counter = 2",
    "C5 every record is posted once"),
    "a fact's amount changed": ("UPDATE fact SET amount_fen = 99 WHERE counter = 2 AND sealed",
    "F1 float is what the cards hold"),
    "a subsidy raised": (
        "UPDATE posting SET amount_fen = amount_fen * 2 WHERE rule = 'subsidy'", "C5 closes post what they carry",
    ),
    "a subsidy carried and posted that nobody earned": (
        """WITH c AS (UPDATE carried SET amount_fen = amount_fen * 2 WHERE rule = 'subsidy')
           UPDATE posting SET amount_fen = amount_fen * 2 WHERE rule = 'subsidy'""",
        "C4 subsidy is full fare less charge",
    ),
    "a gap forgotten": (
        """WITH c AS (DELETE FROM carried WHERE rule = 'gap') DELETE FROM posting WHERE rule = 'gap'""",
        "R6 gaps follow from the cards' own counters",
    ),
    "a replaced card's value paid twice": (
        "UPDATE replacement_value SET value_fen = value_fen * 2", "rule 18 a replaced card's value is on its way once",
    ),
    "a fork forgotten": ("DELETE FROM carried WHERE rule = 'fork'",
    "rule 4 forks are suspended and borne by the issuer"),
    "a case hidden": ("DELETE FROM case_file WHERE kind = 'card-gap' AND resolved IS NULL",
    "F5 open gaps are unsettled value"),
    "a balance touched": ("UPDATE balance SET closing_fen = closing_fen + 1 WHERE account = 'float:1'",
    "L3 balances are the sums of postings"),
    "a net touched": ("UPDATE net_position SET net_fen = net_fen + 1 WHERE party = '101'",
    "C2 nets are what was posted"),
    "a record exchanged in a posting": (
        "UPDATE posting SET merkle_root = '\\x00' WHERE posting_id = (SELECT min(posting_id) FROM posting)",
        "rule 21 Merkle roots of intake",
    ),
    "a journal without a cause": ("UPDATE journal SET reference = '1/1' WHERE journal_id = 1",
    "L8 every journal has its cause"),
    "a batch miscounted": ("UPDATE batch SET count = 2 WHERE batch_id = 1", "R1 batches add up"),
    "a digest exchanged": ("UPDATE closing SET books_digest = substance_digest WHERE date = '2026-03-02'",
    "rule 14 digests are of the books"),
    "a substance digest exchanged": ("UPDATE closing SET substance_digest = books_digest WHERE date = '2026-03-02'",
    "rule 14 digests are of the books"),
    "a state recounted": (
        "UPDATE closing SET states = jsonb_set(states, '{0,count}', '99') WHERE date = '2026-03-02'",
        "rule 14 digests are of the books",
    ),
    "a fee of a fen more, the balances with it": (
        """WITH leg AS (UPDATE posting SET amount_fen = amount_fen + sign(amount_fen)::bigint WHERE rule = 'fee'
                        RETURNING ledger, account, business_date, sign(amount_fen)::bigint AS fen),
                net AS (UPDATE net_position SET net_fen = net_fen + CASE party WHEN 'clearing' THEN 1 ELSE -1 END
                        WHERE class = 'stored value' AND party IN ('clearing', '101')
                          AND date IN (SELECT business_date FROM leg))
           UPDATE balance SET debit_fen = debit_fen + CASE WHEN leg.business_date = date AND fen > 0 THEN 1 ELSE 0 END,
               credit_fen = credit_fen + CASE WHEN leg.business_date = date AND fen < 0 THEN 1 ELSE 0 END,
               closing_fen = closing_fen + fen
           FROM leg WHERE (balance.ledger, balance.account) = (leg.ledger, leg.account)
             AND date >= leg.business_date""",
        "rule 16 fees follow from what was posted",
    ),
    "a fee forgotten": ("DELETE FROM posting WHERE rule = 'fee'", "rule 16 fees follow from what was posted"),
    "a frozen card released": ("DELETE FROM denylist", "rule 4 disputed cards are frozen"),
}  # fmt: skip


async def test_every_mutation_is_caught_by_a_named_check(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        for name, (statement, expected) in MUTATIONS.items():
            names = await caught(side, statement)
            assert expected in names, f"{name}: {names}"
        assert await failing(side) == set()


CASES = "R6 what does not match is a case"


async def test_cases_are_held_against_their_reasons_both_ways(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        kinds = {kind for kind, _ in await side.cases()}
        assert kinds >= {"bad-seal", "card-gap", "conflict", "clock", "fork", "load-in-doubt", "missing-exit"}
        # One that was resolved by what came later leaves no reason behind.
        for kind in kinds - {"bad-seal"}:
            assert CASES in await caught(side, f"DELETE FROM case_file WHERE kind = '{kind}'"), kind  # noqa: S608
            more = f"UPDATE case_file SET amount_fen = amount_fen + 1 WHERE kind = '{kind}'"  # noqa: S608
            assert CASES in await caught(side, more), kind
        invented = "INSERT INTO case_file VALUES ('{}', '{}', 5, '{}', {}, 'operator', '{{}}')"
        tap = await side.pool.fetchval("SELECT terminal || '/1/' || sequence FROM fact WHERE card = $1 AND kind = 2", E)
        for case in (
            ("fare", "1/1/1", D1, "NULL, NULL"),
            ("fare", tap, D2, "NULL, NULL"),
            ("no-key", tap, D1, "NULL, NULL"),
            ("no-key", "1/1/1", D1, "'2026-03-03', 'taken up'"),
            ("unexplained-credit", f"{E.hex()}/1/0/7", D2, "NULL, NULL"),
            ("sequence-gap", "110001/1/7-7", D2, "NULL, NULL"),
        ):
            assert CASES in await caught(side, invented.format(*case)), case
        by_two_persons = "UPDATE case_file SET resolved = '2026-03-03', resolution = 'agreed' WHERE kind = 'clock'"
        assert await caught(side, by_two_persons) == set()
        assert CASES in await caught(side, by_two_persons.replace("clock", "missing-exit"))


async def test_what_no_close_has_seen_is_not_judged(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        # Each would open, change or resolve cases, at the next close.
        await side.tap(A, 3, 50, 450, at("03-02 11:00"), terminal=SHOP)
        await side.tap(B, 7, 50, 450, at("03-04 11:00"), terminal=SHOP, state="suspended", code="clock")
        bare = await side.tap(card(7), 0, 50, 450, at("03-04 11:00"), sealed=False)
        await side.adopt(bare, resealed(bare))
        await side.exhibit(replace(bare, sequence=99), at("03-04 11:00"), "quarantined", "bad-proof")
        await side.pool.execute("INSERT INTO declared_total VALUES (101, 1, '2026-03-02', 9, 9)")
        assert await failing(side) == set()
        await side.close()
        assert await failing(side) == set()
        assert ("operator-total", "101/transit/2026-03-02") in await side.cases()
        assert CASES in await caught(side, "DELETE FROM case_file WHERE kind = 'operator-total'")


async def test_before_the_first_close_nothing_of_it_is_missed(database: str) -> None:
    """The second load shows that the first got through: the first close will post it, and its case."""
    async with clearing_side(database) as side:
        await side.load(A, 0, 1000, 0, at("03-02 07:00"), proven=False)
        await side.load(A, 1, 500, 1000, at("03-02 09:00"), proven=False)
        assert await failing(side) == set()
        await side.close()
        assert await failing(side) == set()
        assert (await side.cases())["load-in-doubt", f"{A.hex()}/1/0"][3] == "committed"


async def test_a_fork_is_gone_when_a_sealed_copy_says_another_counter(database: str) -> None:
    """The copy was said first, so it counts: the fork was right when it was found, and nothing forks any more."""
    async with clearing_side(database) as side:
        await side.load(A, 0, 1000, 0, at("03-02 07:00"))
        await side.tap(A, 0, 200, 1000, at("03-02 08:00"))
        twin = await side.tap(A, 0, 100, 1000, at("03-02 09:00"), terminal=SHOP, sequence=50)
        await side.close()
        assert (await side.cases())["fork", f"{A.hex()}/1/0/0"][0] == 300
        copy = resealed(replace(twin, counter=1, balance_before_fen=800, sequence=1))
        await side.exhibit(copy, at("03-02 09:00"), "conflict", "conflict")
        assert await failing(side) == set()
        await side.close()
        assert await failing(side) == set()
        assert CASES in await caught(
            side, "UPDATE case_file SET subject = replace(subject, '/1/0/0', '/1/0/7'), opened = '2026-03-04' "
            "WHERE kind = 'fork'"
        )  # fmt: skip


async def test_guards_that_are_off_gone_or_hollow_are_noticed(database: str) -> None:
    async with clearing_side(database) as side:
        assert await failing(side) == set()
        for hand in (
            "ALTER TABLE posting DISABLE TRIGGER history_stands",
            "ALTER TABLE fact ENABLE REPLICA TRIGGER history_stands",
            "DROP TRIGGER closed_dates_stand ON posting",
            "CREATE OR REPLACE FUNCTION history_stands() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "DROP TRIGGER history_stands ON batch; CREATE TRIGGER history_stands BEFORE TRUNCATE ON batch "
            "FOR EACH STATEMENT EXECUTE FUNCTION history_stands()",
        ):
            async with side.pool.acquire() as connection:
                tampering = connection.transaction(isolation="repeatable_read")
                await tampering.start()
                await connection.execute(hand)
                names = {check.name for check in await verify(Single(connection)) if not check.ok}
                await tampering.rollback()
            assert names == {"L5 history is guarded"}, hand


async def test_history_cannot_be_edited(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        for statement in (
            "DELETE FROM posting",
            "UPDATE journal SET reference = 'x'",
            "UPDATE posting SET amount_fen = 1",
            "UPDATE fact SET sealed = true",
            "DELETE FROM carried",
            "UPDATE closing SET books_digest = ''",
            "UPDATE net_position SET net_fen = 0",
            "DELETE FROM record_event",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await side.pool.execute(statement)


class Single:
    """A pool of the one connection whose transaction holds the mutation; what `verify` starts becomes a savepoint of
    it.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def acquire(self) -> "Single":
        return self

    async def __aenter__(self) -> asyncpg.Connection:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        return None


async def caught(side: ClearingSide, statement: str) -> set[str]:
    """The checks that fail after a hand with the rights of the owner has done this; everything is undone again."""
    async with side.pool.acquire() as connection:
        mutation = connection.transaction(isolation="repeatable_read")
        await mutation.start()
        for switch in ("DISABLE", "ENABLE"):
            for row in await connection.fetch("SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger"):
                await connection.execute(f"ALTER TABLE {row['name']} {switch} TRIGGER USER")
            if switch == "DISABLE":
                await connection.execute(statement)
        names = {check.name for check in await verify(Single(connection)) if not check.ok}
        await mutation.rollback()
    return names


async def test_digests_of_many_closes_are_made_from_one_reading(database: str) -> None:
    async with clearing_side(database) as side:
        await busy_day(side)
        # Of a date that opens only after two closes have seen it, and nothing at all on others.
        await side.tap(A, 5, 50, 300, at("03-06 09:00"), terminal=SHOP)
        asked: list[int] = []
        for _ in range(2):
            for _ in range(3):
                await side.close()
            queries: list[str] = []
            async with side.pool.acquire() as connection, connection.transaction():
                with connection.query_logger(lambda query, into=queries: into.append(query.query)):
                    made = [
                        (closing["books_digest"], closing["substance_digest"]) == digests
                        async for closing, digests in digests_at_closes(connection)
                    ]
            assert made == [True] * (side.open_day - D1).days
            asked.append(len(queries))
        assert asked == [2, 2]
