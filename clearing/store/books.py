"""SQL of the books: gross lines, states of records, substance, balances, what a day posted."""

from datetime import date

import asyncpg

from clearing.store import ask

LINES = """
    SELECT business_date AS date, ledger, account, rule || '@' || version AS rule,
           coalesce(sum(amount_fen) FILTER (WHERE amount_fen > 0), 0)::bigint AS debit_fen,
           coalesce(-sum(amount_fen) FILTER (WHERE amount_fen < 0), 0)::bigint AS credit_fen
    FROM posting GROUP BY business_date, ledger, account, rule, version"""
# An exhibit that was taken up lives on as a fact; a fork made an accepted or suspended record disputed.
STATES = """
    SELECT state, count(*) AS count, coalesce(sum(fen), 0)::bigint AS fen FROM (
        SELECT CASE WHEN e.card IS NULL THEN f.state ELSE 'disputed' END AS state, f.amount_fen AS fen
        FROM fact f LEFT JOIN record_event e ON (e.card, e.proof_key, e.kind) = (f.card, f.proof_key, 'disputed')
        UNION ALL
        SELECT state, amount_fen FROM exhibit WHERE taken_up_at IS NULL
        UNION ALL
        SELECT state, coalesce(charged_fen, 0) FROM import_row) AS record
    GROUP BY state ORDER BY state"""
SUBSTANCE = """
    SELECT ledger, account, origin_date, sum(amount_fen)::bigint AS net_fen FROM posting
    WHERE rule <> 'fee' GROUP BY ledger, account, origin_date HAVING sum(amount_fen) <> 0"""
# What each of some journals, the last that closes knew, has over the one before: its place among them comes first.
ADDED = """
    SELECT width_bucket(journal_id - 1, $1::bigint[]) AS place, business_date AS date, ledger, account,
           rule || '@' || version AS rule, rule <> 'fee' AS has_substance, origin_date,
           coalesce(sum(amount_fen) FILTER (WHERE amount_fen > 0), 0)::bigint AS debit_fen,
           coalesce(-sum(amount_fen) FILTER (WHERE amount_fen < 0), 0)::bigint AS credit_fen
    FROM posting GROUP BY place, business_date, ledger, account, posting.rule, version, origin_date"""
# Gross debits and credits of a date, per rule and origin date; `credit_count` counts the records behind the credits.
MOVEMENTS = """
    SELECT ledger, account, class, rule, origin_date,
           coalesce(sum(amount_fen) FILTER (WHERE amount_fen > 0), 0)::bigint AS debit_fen,
           coalesce(-sum(amount_fen) FILTER (WHERE amount_fen < 0), 0)::bigint AS credit_fen,
           coalesce(sum(count) FILTER (WHERE amount_fen < 0), 0)::bigint AS credit_count
    FROM posting WHERE business_date = $1 AND ledger <> 'purse'
    GROUP BY ledger, account, class, rule, origin_date ORDER BY ledger, account, rule, origin_date"""
FOLD = """
    INSERT INTO balance (ledger, account, date, debit_fen, credit_fen, closing_fen)
    SELECT ledger, account, $1::date, coalesce(p.debit_fen, 0), coalesce(p.credit_fen, 0),
           coalesce(b.closing_fen, 0) + coalesce(p.debit_fen, 0) - coalesce(p.credit_fen, 0)
    FROM account
    LEFT JOIN (SELECT ledger, account, closing_fen FROM balance WHERE date = $1::date - 1) AS b USING (ledger, account)
    LEFT JOIN (SELECT ledger, account, coalesce(sum(amount_fen) FILTER (WHERE amount_fen > 0), 0) AS debit_fen,
                      coalesce(-sum(amount_fen) FILTER (WHERE amount_fen < 0), 0) AS credit_fen
               FROM posting WHERE business_date = $1::date GROUP BY ledger, account) AS p USING (ledger, account)"""


async def lines(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """date, ledger, account, rule (`name@version`), debit_fen, credit_fen."""
    return await ask.rows(connection, LINES)


async def states(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """state, count, fen."""
    return await ask.rows(connection, STATES)


async def substance(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """ledger, account, origin_date, net_fen."""
    return await ask.rows(connection, SUBSTANCE)


async def added(connection: asyncpg.Connection, last_journals: list[int]) -> list[asyncpg.Record]:
    """What was posted between journals, given in their order: place (0 up to the first, their number after the last),
    date, ledger, account, rule (`name@version`), has_substance, origin_date, debit_fen, credit_fen.
    """
    return await ask.rows(connection, ADDED, last_journals) if last_journals else []


async def sealed(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Closed dates that kept what their digests cover: date, both digests, last_journal, states (JSON text)."""
    return await ask.rows(
        connection,
        """
        SELECT date, books_digest, substance_digest, last_journal, states::text AS states FROM closing
        WHERE last_journal IS NOT NULL AND states IS NOT NULL ORDER BY date""",
    )


async def fees(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """What was posted as fees: date, ledger, account, version, fen."""
    return await ask.rows(
        connection,
        """
        SELECT business_date AS date, ledger, account, version, sum(amount_fen)::bigint AS fen FROM posting
        WHERE rule = 'fee' GROUP BY business_date, ledger, account, version""",
    )


async def movements(connection: asyncpg.Connection, day: date) -> list[asyncpg.Record]:
    """What a date posted in the sectors' ledgers."""
    return await ask.rows(connection, MOVEMENTS, day)


async def fold_balances(connection: asyncpg.Connection, day: date) -> None:
    """One balance row per account for a date, on top of the day before."""
    await connection.execute(FOLD, day)


async def closed_dates(connection: asyncpg.Connection) -> list[date]:
    """Closed business dates, oldest first."""
    return [row["date"] for row in await connection.fetch("SELECT date FROM closing ORDER BY date")]


async def net_positions(connection: asyncpg.Connection, day: date) -> list[asyncpg.Record]:
    """class, party, net_fen of a closed date, sorted."""
    return await ask.rows(
        connection,
        'SELECT class, party, net_fen FROM net_position WHERE date = $1 ORDER BY class COLLATE "C", party COLLATE "C"',
        day,
    )


async def cases(connection: asyncpg.Connection, kind: str | None = None) -> list[asyncpg.Record]:
    """Cases sorted by (kind, subject), of one kind or all; `detail` as JSON text."""
    return await ask.rows(
        connection,
        """
        SELECT kind, subject, amount_fen, opened, resolved, resolution, owner, detail::text AS detail FROM case_file
        WHERE $1::text IS NULL OR kind = $1 ORDER BY kind COLLATE "C", subject COLLATE "C\"""",
        kind,
    )


async def debits(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """sector, count of debits, entries, exits and acts, proven or pending."""
    return await ask.rows(
        connection,
        """
        SELECT sector, count(*) FROM (
            SELECT sector FROM fact WHERE kind <> 4
            UNION ALL SELECT sector FROM exhibit WHERE kind <> 4 AND state = 'pending_issuer'
        ) AS debit GROUP BY sector""",
    )
