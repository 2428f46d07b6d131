"""SQL of the proofs: each recomputes from facts, or holds two tellings of the same thing against each other.

A text of `CHECKS` yields one row per thing examined: `bad` and `label`. Sources: rules of money, docs/ledger.md.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

import asyncpg

from clearing.store import ask
from clearing.store.claims import OFFLINE, reference
from clearing.store.tie import BOOKED, due_legs

CHECKS = {
    "L1 journals sum to zero": """
        SELECT sum(amount_fen) <> 0 AS bad, 'journal ' || journal_id || ' in ' || ledger AS label
        FROM posting GROUP BY journal_id, ledger""",
    "L2 trial balance": """
        SELECT sum(amount_fen) <> 0 AS bad, business_date || ' in ' || ledger AS label FROM posting GROUP BY
            business_date, ledger
        UNION ALL SELECT sum(closing_fen) <> 0, 'balances of ' || date || ' in ' || ledger FROM balance GROUP BY date,
            ledger""",
    "L3 balances are the sums of postings": """
        SELECT (b.debit_fen, b.credit_fen, b.closing_fen) IS DISTINCT FROM (p.debit_fen, p.credit_fen, p.closing_fen) AS
            bad,
               ledger || ' ' || account || ' on ' || date AS label
        FROM balance b FULL JOIN (
            SELECT ledger, account, date, debit_fen, credit_fen,
                   sum(debit_fen - credit_fen) OVER (PARTITION BY ledger, account ORDER BY date)::bigint AS closing_fen
            FROM (SELECT a.ledger, a.account, c.date, coalesce(sum(amount_fen) FILTER (WHERE amount_fen > 0), 0)::bigint
                AS debit_fen,
                         coalesce(-sum(amount_fen) FILTER (WHERE amount_fen < 0), 0)::bigint AS credit_fen
                  FROM account a CROSS JOIN closing c
                  LEFT JOIN posting p ON (p.ledger, p.account, p.business_date) = (a.ledger, a.account, c.date)
                  GROUP BY a.ledger, a.account, c.date) AS daily) AS p USING (ledger, account, date)
        WHERE b.date IS NOT NULL OR p.debit_fen <> 0 OR p.credit_fen <> 0""",
    "L4 only allowed flows": """
        SELECT a.account IS NULL OR f.rule IS NULL AS bad, 'posting ' || posting_id AS label
        FROM posting p LEFT JOIN account a USING (ledger, account, class) LEFT JOIN flow f USING (rule, ledger,
            class)""",
    "L7 accounts stay on their side": """
        SELECT sum(amount_fen) * CASE WHEN split_part(account, ':', 1) IN ('fraud', 'subsidy', 'cash',
            'pending_receivable', 'source')
                                      THEN -1 ELSE 1 END > 0 AS bad, ledger || ' ' || account AS label
        FROM posting WHERE split_part(account, ':', 1) IN ('unsettled', 'fraud', 'suspense', 'payable', 'fee',
            'subsidy',
            'subsidy_payable', 'cash', 'pending_receivable', 'pending_payable', 'source')
        GROUP BY ledger, account""",
    "L8 every journal has its cause": """
        SELECT p.journal_id IS NULL OR CASE j.cause
                   WHEN 'close' THEN NOT EXISTS (SELECT FROM closing c WHERE c.date::text = j.reference)
                   WHEN 'import' THEN NOT EXISTS (SELECT FROM import_file f WHERE encode(f.digest, 'hex') = j.reference)
                   ELSE NOT EXISTS (SELECT FROM batch b WHERE b.terminal = split_part(j.reference, '/', 1)::bigint
                                    AND b.n = split_part(j.reference, '/', 2)::bigint) END AS bad,
               'journal ' || journal_id AS label
        FROM journal j LEFT JOIN (SELECT DISTINCT journal_id FROM posting) AS p USING (journal_id)""",
    "R1 batches add up": """
        SELECT count <> (answer ->> 'accepted')::int + (answer ->> 'duplicate')::int + (answer ->> 'suspended')::int
               + (answer ->> 'pending')::int + (answer ->> 'memo')::int + (answer ->> 'conflict')::int
               + jsonb_array_length(answer -> 'quarantined') AS bad, 'batch ' || terminal || '/' || n AS label FROM
                   batch""",
    "R2 a record has one state": """
        SELECT f.card IS NOT NULL AS bad, 'exhibit ' || encode(x.digest, 'hex') AS label
        FROM exhibit x LEFT JOIN fact f ON f.card = x.card AND f.record = x.record AND x.taken_up_at IS NULL
        UNION ALL
        SELECT f.card IS NULL, 'event of ' || encode(e.card, 'hex') || '/' || encode(e.proof_key, 'hex')
        FROM record_event e LEFT JOIN fact f USING (card, proof_key)
        UNION ALL
        SELECT f.batch_id IS NOT NULL AND b.batch_id IS NULL, 'fact ' || encode(f.card, 'hex') || '/' ||
            encode(f.proof_key, 'hex')
        FROM fact f LEFT JOIN batch b USING (batch_id)""",
    "R3 one record per number": """
        SELECT NOT EXISTS (SELECT FROM case_file c WHERE c.kind = 'sequence-conflict' AND c.subject = f.terminal || '/'
            || f.epoch) AS bad,
               f.terminal || '/' || f.epoch || '/' || f.sequence AS label
        FROM known f WHERE f.batch_id <= (SELECT coalesce(max(last_batch), 0) FROM closing)
          AND NOT EXISTS (SELECT FROM unseen u WHERE u.card = f.card)
        GROUP BY f.terminal, f.epoch, f.sequence HAVING count(*) > 1
        UNION ALL SELECT false, 'facts' FROM fact""",
    "C1 nets sum to zero": """
        SELECT sum(net_fen) <> 0 AS bad, date || ' ' || class AS label FROM net_position GROUP BY date, class""",
    "C5 every record is posted once": """
        SELECT (d.count, d.fen) IS DISTINCT FROM (b.count, b.fen) AS bad,
               ledger || ' ' || account || ' ' || rule || ' on ' || post_date || ' of ' || origin_date
               || ': records say ' || coalesce(d.fen, 0) || ' fen, books ' || coalesce(b.fen, 0) AS label
        FROM (SELECT ledger, account, rule, post_date, origin_date, count(*) AS count, sum(amount_fen) AS fen FROM
            due_leg
              GROUP BY 1, 2, 3, 4, 5) AS d
        FULL JOIN (SELECT ledger, account, rule, business_date AS post_date, origin_date, sum(count) AS count,
            sum(amount_fen) AS fen
                   FROM booked GROUP BY 1, 2, 3, 4, 5) AS b USING (ledger, account, rule, post_date, origin_date)""",
    "C5 closes post what they carry": """
        SELECT c.fen IS DISTINCT FROM p.fen AS bad, ledger || ' ' || account || ' ' || rule || ' on ' || date || ' of '
            || origin_date AS label
        FROM (SELECT ledger, account, rule, version, posted_on AS date, origin_date, sum(amount_fen) AS fen, amount_fen
            > 0 AS debit
              FROM carried GROUP BY 1, 2, 3, 4, 5, 6, amount_fen > 0) AS c
        FULL JOIN (SELECT ledger, account, rule, version, business_date AS date, origin_date, sum(amount_fen) AS fen,
                          amount_fen > 0 AS debit
                   FROM posting JOIN journal USING (journal_id) WHERE cause = 'close' AND rule <> 'fee'
                   GROUP BY 1, 2, 3, 4, 5, 6, amount_fen > 0) AS p USING (ledger, account, rule, version, date,
                       origin_date, debit)""",
    "F1 float is what the cards hold": f"""
        SELECT sum(fen) <> 0 AS bad, 'purse ' || purse || ': ' || sum(fen) || ' fen without a card' AS label FROM (
            SELECT purse, CASE WHEN kind = 4 THEN -amount_fen ELSE amount_fen END AS fen FROM fact
            WHERE kind IN {OFFLINE} OR (kind = 4 AND state = 'accepted')
            UNION ALL
            SELECT purse, -amount_fen FROM load_order o WHERE EXISTS (
                SELECT FROM case_file c WHERE c.kind = 'load-in-doubt' AND c.resolution = 'committed'
                AND c.subject = encode(o.card, 'hex') || '/' || o.purse || '/' || o.counter)
                AND o.settled_on IS NOT NULL AND (
                    o.load_id IN (SELECT load_id FROM unproven WHERE state = 'committed')
                    OR o.load_id IN (SELECT subject FROM carried WHERE rule = 'load' GROUP BY subject, account
                                     HAVING sum(amount_fen) <> 0))
            UNION ALL
            SELECT split_part(subject, '/', 2)::smallint, amount_fen FROM case_file WHERE kind = 'card-gap' AND resolved
                IS NULL
            UNION ALL
            -- What the closes moved for forks; that it is right is a check of its own (AGAIN).
            SELECT split_part(account, ':', 2)::smallint, amount_fen FROM carried
            WHERE rule = 'fork' AND account LIKE 'float:%'
            UNION ALL
            SELECT purse, value_fen FROM replacement_value WHERE EXISTS (
                SELECT FROM carried k WHERE k.rule = 'replace' AND k.subject = encode(old, 'hex') || '/' || purse)
            UNION ALL
            SELECT split_part(account, ':', 2)::smallint, -amount_fen FROM posting WHERE ledger = 'purse' AND account
                LIKE 'float:%'
        ) AS tie GROUP BY purse""",
    "F5 open gaps are unsettled value": """
        SELECT sum(fen) <> 0 AS bad, 'purse ' || purse AS label FROM (
            SELECT split_part(subject, '/', 2) AS purse, amount_fen AS fen FROM case_file WHERE kind = 'card-gap' AND
                resolved IS NULL
            UNION ALL
            SELECT split_part(account, ':', 2), amount_fen FROM posting WHERE account LIKE 'unsettled:%') AS tie GROUP
                BY purse""",
    "rule 13 dates close in order": """
        SELECT o.date IS DISTINCT FROM c.date + 1 AS bad, 'the open date after ' || c.date AS label
        FROM (SELECT max(date) AS date FROM closing) AS c LEFT JOIN open_day o ON true WHERE c.date IS NOT NULL
        UNION ALL SELECT lag(date) OVER (ORDER BY date) <> date - 1, 'the date before ' || date FROM closing
        UNION ALL SELECT false, 'the open date' FROM open_day""",
    # A record came while that date was open which the first close to see its batch closed. What is taken up again posts
    # on the date that is open then.
    "rule 13 nothing posts before the open date": f"""
        WITH came AS (
            SELECT b.batch_id, coalesce((SELECT min(date) FROM closing WHERE last_batch >= b.batch_id), o.date) AS open
            FROM batch b, open_day o)
        SELECT f.post_date < greatest(f.origin_date, came.open) OR f.post_date > greatest(f.origin_date, came.open)
               AND NOT EXISTS (SELECT FROM exhibit x WHERE x.card = f.card AND x.taken_up_at IS NOT NULL
                               AND x.record = f.record) AS bad,
               'proven record ' || {reference("f")} AS label
        FROM fact f JOIN came USING (batch_id)
        UNION ALL
        SELECT x.post_date < greatest(x.origin_date, came.open), 'exhibit ' || encode(x.digest, 'hex')
        FROM exhibit x JOIN came USING (batch_id)""",
    "rule 19 who was denylisted stands on the list": f"""
        SELECT NOT EXISTS (SELECT FROM denylist d WHERE d.card = f.card AND d.effective_at <= f.instant) AS bad,
               'proven record ' || {reference("f")} AS label
        FROM fact f WHERE f.code = 'denylisted'
        UNION ALL
        SELECT effective_at < reported_at, 'version ' || version || ' of the denylist' FROM denylist""",
    "rule 4 disputed cards are frozen": """
        SELECT NOT EXISTS (SELECT FROM denylist d WHERE encode(d.card, 'hex') = split_part(c.subject, '/', 1)) AS bad,
               c.kind || ' ' || c.subject AS label FROM case_file c WHERE c.kind IN ('fork', 'unexplained-credit')
        UNION ALL
        SELECT NOT EXISTS (SELECT FROM denylist d WHERE d.card = k.card), 'rogue-load of ' || encode(k.card, 'hex')
        FROM known k WHERE k.code = 'rogue-load' AND NOT EXISTS (SELECT FROM unseen u WHERE u.card = k.card)""",
}
# Cards of which something is known that no close has seen: the next close will judge them.
UNSEEN = """
    CREATE TEMP TABLE unseen ON COMMIT DROP AS
    WITH last AS (SELECT coalesce(max(last_batch), 0) AS batch, coalesce(max(date), '-infinity') AS date,
                         coalesce(max(closed_at), '-infinity') AS at FROM closing)
    SELECT card FROM fact, last WHERE batch_id > batch
    UNION SELECT card FROM exhibit, last WHERE taken_up_at >= at
    UNION SELECT card FROM exhibit, last WHERE state = 'conflict' AND sealed AND batch_id > batch
    UNION SELECT card FROM record_event, last WHERE kind = 'adopted' AND on_date > last.date
    UNION SELECT card FROM load_order, last WHERE authorised_at >= at
    UNION SELECT old FROM replacement, last WHERE made_at >= at"""
# Their subjects, as the targets of a close begin.
UNJUDGED = """
    CREATE TEMP TABLE unjudged ON COMMIT DROP AS
    SELECT encode(card, 'hex') AS subject FROM unseen UNION SELECT load_id FROM load_order JOIN unseen USING (card)"""
# The targets of the close, computed again, against what the closes carried.
AGAIN = {
    rule: f"""
        SELECT sum(fen) <> 0 AS bad, '{rule} of ' || subject || ' to ' || account || ': ' || sum(fen) ||
            ' fen too little' AS label
        FROM (SELECT subject, ledger, account, origin_date, version, amount_fen AS fen FROM target WHERE rule = '{rule}'
              UNION ALL
              SELECT subject, ledger, account, origin_date, version, -amount_fen FROM carried WHERE rule = '{rule}') AS
                  tie
        WHERE NOT EXISTS (SELECT FROM unjudged u WHERE u.subject = split_part(tie.subject, '/', 1))
        GROUP BY subject, ledger, account, origin_date, version"""
    for rule in ("subsidy", "gap", "fork", "load", "replace")
}
SHADOW = f"""
    WITH kept AS (
        SELECT k.card, k.purse, sum(CASE WHEN k.kind = 4 AND k.state = 'accepted' THEN k.amount_fen
            WHEN k.kind IN {OFFLINE} THEN -k.amount_fen ELSE 0 END)::bigint AS value_fen
        FROM known k GROUP BY k.card, k.purse
    ), evidence AS (
        SELECT card, purse, sum(amount_fen)::bigint AS fen FROM unproven WHERE state = 'committed' GROUP BY card, purse
    ), gap AS (
        SELECT split_part(subject, '/', 1) AS card, split_part(subject, '/', 2)::smallint AS purse,
            sum(amount_fen)::bigint AS fen
        FROM case_file WHERE kind = 'card-gap' AND resolved IS NULL GROUP BY 1, 2
    ), last AS (
        SELECT DISTINCT ON (card, purse) card, purse, upper_at, k.balance_before_fen - k.amount_fen AS after_fen
        FROM step s JOIN known k USING (card, proof_key, purse) ORDER BY card, purse, upper DESC
    ), since AS (
        SELECT l.card, l.purse, sum(CASE v.what WHEN 'load' THEN v.amount_fen WHEN 'bare' THEN -v.amount_fen ELSE 0
            END)::bigint AS fen
        FROM last l JOIN value v ON v.card = l.card AND v.purse = l.purse AND v.instant > l.upper_at
        WHERE NOT EXISTS (SELECT FROM tail t WHERE t.card = l.card AND t.purse = l.purse)
        GROUP BY l.card, l.purse
        UNION ALL SELECT card, purse, fen FROM tail
    )
    SELECT l.after_fen + coalesce(s.fen, 0) <> k.value_fen + coalesce(e.fen, 0) - coalesce(g.fen, 0) AS bad,
           encode(l.card, 'hex') || '/' || l.purse || ': the card says ' || l.after_fen + coalesce(s.fen, 0) ||
               ' fen, its records '
           || k.value_fen + coalesce(e.fen, 0) - coalesce(g.fen, 0) AS label
    FROM last l JOIN kept k USING (card, purse) LEFT JOIN evidence e USING (card, purse) LEFT JOIN since s USING (card,
        purse)
    LEFT JOIN gap g ON g.card = encode(l.card, 'hex') AND g.purse = l.purse
    WHERE NOT EXISTS (SELECT FROM unseen u WHERE u.card = l.card)
      AND NOT EXISTS (SELECT FROM case_file c WHERE c.kind IN ('fork', 'gap-or-load', 'unexplained-credit',
          'unexplained-debit')
                      AND split_part(c.subject, '/', 1) = encode(l.card, 'hex'))
      AND NOT EXISTS (SELECT FROM unproven u WHERE u.card = l.card AND u.purse = l.purse AND u.state = 'authorised'
                      AND u.authorised_at <= l.upper_at)
      AND NOT EXISTS (SELECT FROM known o WHERE o.card = l.card AND o.generation > 0)"""


async def lay_out(connection: asyncpg.Connection) -> None:
    """What should be booked, what is, and which cards no close has seen; the closer's tables must lie there."""
    for statement in (due_legs(), BOOKED, UNSEEN, UNJUDGED):
        await connection.execute(statement)
    await connection.execute("ANALYZE due_leg, booked, unseen, unjudged")


async def examine(connection: asyncpg.Connection, check: str, *arguments: object) -> asyncpg.Record:
    """checked, wrong, and up to three labels of what is wrong."""
    found: asyncpg.Record = await connection.fetchrow(
        f"""
        SELECT count(*) AS checked, count(*) FILTER (WHERE bad) AS wrong,
               coalesce((array_agg(label ORDER BY label) FILTER (WHERE bad))[1:3], '{{}}') AS examples FROM ({check}) AS
                   thing""",
        *arguments,
    )
    return found


async def intake_leaves(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """posting_id, merkle_root and leaves of each posting of intake and import whose records can be told.

    Two retakes of one batch post to one reference; their records cannot be told apart, only their sums (C5).
    """
    return await ask.rows(
        connection,
        """
        WITH expected AS (
            SELECT origin, retaken, rule, ledger, account, post_date, origin_date, array_agg(leaf ORDER BY leaf) AS
                leaves
            FROM due_leg GROUP BY 1, 2, 3, 4, 5, 6, 7
        ), alone AS (
            SELECT *, count(*) OVER (PARTITION BY origin, cause, rule, ledger, account, business_date, origin_date) AS
                twins FROM booked)
        SELECT a.posting_id, a.merkle_root, coalesce(e.leaves, '{}') AS leaves
        FROM alone a LEFT JOIN expected e ON (e.origin, e.retaken, e.rule, e.ledger, e.account, e.post_date,
            e.origin_date)
            = (a.origin, a.cause = 'retake', a.rule, a.ledger, a.account, a.business_date, a.origin_date)
        WHERE a.cause <> 'retake' OR a.twins = 1""",
    )


async def close_leaves(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """posting_id, merkle_root and leaves of each posting of a close that has records behind it."""
    return await ask.rows(
        connection,
        """
        WITH expected AS (
            SELECT rule, version, ledger, account, posted_on, origin_date, amount_fen > 0 AS debit,
                   coalesce(array_agg(proof_key ORDER BY proof_key) FILTER (WHERE proof_key IS NOT NULL), '{}') AS
                       leaves
            FROM carried GROUP BY rule, version, ledger, account, posted_on, origin_date, amount_fen > 0)
        SELECT p.posting_id, p.merkle_root, coalesce(e.leaves, '{}') AS leaves
        FROM posting p JOIN journal j USING (journal_id)
        LEFT JOIN expected e ON (e.rule, e.version, e.ledger, e.account, e.posted_on, e.origin_date, e.debit)
            = (p.rule, p.version, p.ledger, p.account, p.business_date, p.origin_date, p.amount_fen > 0)
        WHERE j.cause = 'close'""",
    )
