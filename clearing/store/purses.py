"""SQL of the closer about purses: which do not explain themselves, and all that is known of those.

The tables `step`, `value` and `unproven` are made of `known` (clearing/store/close.py) and live as long as the closer's
transaction. Most purses explain themselves by clocks alone; only the others are laid out, record by record.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import Sequence
from datetime import date

import asyncpg

from cardcore.record import Kind
from clearing.store import ask
from clearing.store.claims import OFFLINE

STEP = """
    CREATE TEMP TABLE step ON COMMIT DROP AS
    SELECT k.card, k.purse, k.generation, k.counter AS upper, k.proof_key, k.instant AS upper_at, k.overdraft_fen,
           k.balance_before_fen AS before_fen, k.balance_before_fen - k.amount_fen AS left_fen, k.origin_date,
           k.code = 'clock' AS clock_wrong, lag(k.counter, 1, -1) OVER purse AS lower,
           lag(k.balance_before_fen - k.amount_fen, 1, 0) OVER purse AS after_fen,
           lag(k.instant, 1, '-infinity') OVER purse AS lower_at,
           first_value(k.overdraft_fen) OVER purse AS allowance_fen
    FROM known k JOIN card c USING (card) JOIN issuer i ON i.code = c.issuer AND i.own
    WHERE k.counted AND NOT k.forked
    WINDOW purse AS (PARTITION BY k.card, k.purse, k.generation ORDER BY k.counter)"""

# Authorised loads that no record proves. One online counter stands for one load: the try that a record proved leaves no
# doubt about the others; and the card only counts on when a load was credited, so the last of tries of one
# amount below another load was.
UNPROVEN = """
    CREATE TEMP TABLE unproven ON COMMIT DROP AS
    WITH tried AS (
        SELECT o.*, bool_or(state = 'confirmed') OVER same AS proven,
               min(amount_fen) OVER same = max(amount_fen) OVER same AS alike,
               row_number() OVER (same ORDER BY authorised_at DESC, load_id DESC) = 1 AS latest,
               max(counter) OVER (PARTITION BY card, purse, generation) > counter AS followed
        FROM load_order o WHERE authorised_at IS NOT NULL AND state <> 'reserved'
        WINDOW same AS (PARTITION BY card, purse, generation, counter))
    SELECT load_id, card, purse, generation, counter, amount_fen, raw_fen, channel, authorised_at, settled_on,
           CASE WHEN state = 'authorised' AND alike AND followed THEN CASE WHEN latest THEN 'committed' ELSE 'reversed'
               END ELSE state END AS state
    FROM tried WHERE NOT proven"""

# What changed the value of a purse between two known records; `raw_fen` is what a load found. An unsealed debit is
# of no known generation.
VALUE = f"""
    CREATE TEMP TABLE value ON COMMIT DROP AS
    SELECT card, purse, generation, instant, amount_fen, 'load' AS what, '' AS load_id, counter,
           balance_before_fen + overdraft_fen AS raw_fen, ''::bytea AS terminal_number,
           0::bigint AS terminal_transaction
    FROM known WHERE kind = {Kind.LOAD.value} AND state = 'accepted'
    UNION ALL
    SELECT card, purse, NULL, instant, amount_fen, 'bare', '', 0, NULL, terminal_number, terminal_transaction
    FROM known WHERE kind IN {OFFLINE} AND NOT sealed
    UNION ALL
    SELECT card, purse, generation, authorised_at, amount_fen, CASE state WHEN 'committed' THEN 'load' ELSE 'doubt' END,
           load_id, counter, raw_fen, '', 0
    FROM unproven WHERE state IN ('authorised', 'committed')"""

# A purse explains itself when no counter is missing and the loads make its values follow, balance by balance, where
# their clocks put them: then no other placement can be better. Clocks that went back put a load in two places at once.
PUZZLE = """
    CREATE TEMP TABLE puzzle ON COMMIT DROP AS
    WITH place AS (
        SELECT card, purse, generation, upper, lower_at, upper_at, after_fen, allowance_fen FROM step
        UNION ALL
        (SELECT DISTINCT ON (card, purse, generation) card, purse, generation, NULL, upper_at, 'infinity', left_fen,
            allowance_fen FROM step ORDER BY card, purse, generation, upper DESC)
    ), lying AS (
        SELECT p.card, p.purse, p.generation, p.upper, v.what, v.amount_fen, v.raw_fen - p.allowance_fen
            - coalesce(lag(v.raw_fen - p.allowance_fen + v.amount_fen) OVER inside, p.after_fen) AS off_fen
        FROM place p JOIN value v ON v.card = p.card AND v.purse = p.purse
            AND coalesce(v.generation, p.generation) = p.generation
            AND v.instant > p.lower_at AND v.instant <= p.upper_at
        WINDOW inside AS (PARTITION BY p.card, p.purse, p.generation, p.upper ORDER BY v.counter, v.instant)
    ), between AS (
        SELECT card, purse, generation, upper, sum(amount_fen) AS loads_fen,
               bool_or(what <> 'load' OR off_fen > 0 OR off_fen < 0 AND upper IS NOT NULL) AS unclear
        FROM lying GROUP BY 1, 2, 3, 4
    )
    SELECT s.card, s.purse, s.generation FROM step s LEFT JOIN between b USING (card, purse, generation, upper)
    WHERE s.upper - s.lower <> 1 OR s.clock_wrong OR s.upper_at < s.lower_at
        OR s.after_fen + coalesce(b.loads_fen, 0) <> s.before_fen
    UNION
    SELECT card, purse, generation FROM between WHERE unclear"""

KNOWN_OF = """
    SELECT s.card, s.purse, s.generation, s.upper AS counter, s.before_fen::bigint, s.left_fen::bigint, s.proof_key,
           CASE WHEN NOT s.clock_wrong THEN s.upper_at END AS instant, s.origin_date, s.allowance_fen::bigint
    FROM step s JOIN puzzle USING (card, purse, generation) ORDER BY s.card, s.purse, s.generation, s.upper"""
VALUE_OF = """
    SELECT p.card, p.purse, p.generation, v.what, v.instant, v.amount_fen, v.load_id, v.counter, v.raw_fen::bigint
    FROM puzzle p JOIN value v ON v.card = p.card AND v.purse = p.purse
        AND coalesce(v.generation, p.generation) = p.generation
    ORDER BY p.card, p.purse, p.generation, v.counter, v.instant, v.load_id, v.terminal_number,
        v.terminal_transaction"""
FORKED_OF = """
    SELECT DISTINCT k.card, k.purse, k.generation, k.counter FROM known k JOIN puzzle USING (card, purse, generation)
    WHERE k.forked ORDER BY 1, 2, 3, 4"""


async def gather_purses(connection: asyncpg.Connection) -> None:
    """Lay out the steps between known records, what moved value besides them, and which purses are a puzzle."""
    for statement in (UNPROVEN, STEP, VALUE):
        await connection.execute(statement)
    await connection.execute("ANALYZE step, value")
    await connection.execute(PUZZLE)
    await connection.execute("CREATE TEMP TABLE tail (card bytea, purse smallint, generation smallint, fen bigint) "
                             "ON COMMIT DROP")  # fmt: skip


async def puzzles(connection: asyncpg.Connection) -> tuple[list[asyncpg.Record], ...]:
    """Of the purses that do not explain themselves: known records, what else moved value, counters of forks;
    each in the order of card, purse, generation, then as docs/ledger.md orders them.
    """
    known = await ask.rows(connection, KNOWN_OF)
    return known, await ask.rows(connection, VALUE_OF), await ask.rows(connection, FORKED_OF)


async def put_tails(connection: asyncpg.Connection, rows: Sequence[tuple[bytes, int, int, int]]) -> None:
    """What came to those purses behind their last known records: card, purse, generation, fen."""
    await connection.copy_records_to_table("tail", records=rows)


async def settle_loads(connection: asyncpg.Connection, state: str, load_ids: Sequence[str], day: date) -> None:
    """Loads that evidence decided, in the closer's own view and in the order book."""
    await connection.execute("UPDATE unproven SET state = $1 WHERE load_id = ANY($2)", state, load_ids)
    await connection.execute(
        """
        WITH settled AS (
            UPDATE load_order o SET state = u.state, settled_on = $2::date FROM unproven u
            WHERE u.load_id = o.load_id AND u.state = $1 AND o.state = 'authorised' RETURNING o.load_id)
        UPDATE unproven SET settled_on = $2 FROM settled WHERE settled.load_id = unproven.load_id""",
        state,
        day,
    )


async def unproven_loads(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Authorised loads that no record proves, with the state that evidence gave them."""
    return await ask.rows(connection, "SELECT * FROM unproven ORDER BY load_id")
