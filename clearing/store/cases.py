"""SQL of the cases: what a close finds, and how findings open, change and resolve cases (docs/ledger.md, "Cases").

Each statement adds to the temporary table `finding`; they read `known`, `ride` and `tariff`, which
`clearing.store.close` laid out.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import Iterable, Mapping
from datetime import date

import asyncpg

from cardcore.record import Kind, Sector
from clearing.store import ask
from clearing.store.claims import OFFLINE, claim, purse_subject, record_subject, sector_label
from clearing.store.close import FORK_SUBJECT

# A counter ends at FFFF, where the card refuses; whoever holds it needs another one before that.
RENEWAL = 0xFC00
FINDING = """
    CREATE TEMP TABLE finding (kind text, subject text, amount_fen bigint, owner text, detail jsonb, resolution text)
    ON COMMIT DROP"""
_INSERT = "INSERT INTO finding (kind, subject, amount_fen, owner, detail, resolution) "
# The kinds of records that an operator declares the number and the fen of.
_DECLARED = f"({', '.join(str(kind.value) for kind in Kind if kind is not Kind.LOAD)})"
_OPERATOR = "jsonb_strip_nulls(jsonb_build_object('operator', {}.operator))"

# By the kind of case that each finds.
FINDINGS: Mapping[str, str] = {
    "quarantine": f"""
        SELECT x.code, {record_subject("x")}, x.amount_fen, 'operator', {_OPERATOR.format("x")}, NULL FROM exhibit x
        WHERE x.state = 'quarantined' AND x.taken_up_at IS NULL
          AND x.code IN ('bad-proof', 'unknown-psam', 'unknown-issuer', 'no-key', 'unknown-card', 'malformed',
                         'terminal-suspended')""",
    "conflict": f"""
        SELECT 'conflict', encode(x.card, 'hex') || '@' || encode({claim("date", "x.record")} ||
            {claim("time", "x.record")}, 'hex'),
               x.amount_fen, 'operator', {_OPERATOR.format("x")}, NULL
        FROM exhibit x WHERE x.state = 'conflict'""",
    "bad-seal": f"""
        SELECT 'bad-seal', {record_subject("k")}, k.amount_fen, 'operator', {_OPERATOR.format("k")}, NULL FROM known k
        WHERE k.kind IN {OFFLINE} AND NOT k.sealed""",
    "suspension": f"""
        SELECT k.code, {record_subject("k")}, k.amount_fen, 'clearing', {_OPERATOR.format("k")}, NULL FROM known k
        WHERE k.state = 'suspended' AND k.code IN ('clock', 'psam-inactive', 'rogue-load', 'replaced-card')""",
    "denylist": f"""
        SELECT 'denylist', {record_subject("k")}, k.amount_fen, bearer.name,
               jsonb_build_object('bearer', bearer.name, 'operator', k.operator), NULL
        FROM known k LEFT JOIN terminal t ON t.id = k.terminal
        LEFT JOIN LATERAL (
            SELECT make_interval(hours => (value ->> 'hours')::integer) AS period FROM policy
            WHERE name = 'grace' AND scope IN (CASE WHEN k.sealed THEN t.class END, '*') AND valid_from <= k.origin_date
            ORDER BY scope = '*', valid_from DESC LIMIT 1) AS grace ON true,
        LATERAL (
            SELECT CASE WHEN bool_or(k.sealed AND k.list_version >= e.version OR k.instant >= e.published_at +
                grace.period)
                        THEN 'acquirer' ELSE 'issuer' END AS name
            FROM denylist e WHERE e.card = k.card AND e.effective_at <= k.instant) AS bearer
        WHERE k.state = 'suspended' AND k.code = 'denylisted'""",
    "fork": f"""
        SELECT 'fork', {FORK_SUBJECT}, sum(k.amount_fen), 'issuer', jsonb_build_object('members', count(*)), NULL
        FROM known k WHERE k.forked GROUP BY k.card, k.purse, k.generation, k.counter""",
    "renewal": f"""
        SELECT DISTINCT 'renewal', {purse_subject("k")}, 0, 'issuer', '{{}}'::jsonb, NULL
        FROM known k JOIN card USING (card)
        WHERE k.counter >= {RENEWAL} AND (k.counted AND NOT k.forked
            OR k.kind = {Kind.LOAD.value} AND k.state = 'accepted')""",
    "sequence-gap": """
        SELECT 'sequence-gap', r.terminal || '/' || r.epoch || '/' || lower(hole) || '-' || upper(hole) - 1, 0,
            'operator',
               jsonb_strip_nulls(jsonb_build_object('operator', t.operator)), NULL
        FROM terminal_range r LEFT JOIN terminal t ON t.id = r.terminal,
             unnest(int8multirange(int8range(1, upper(r.seen))) - r.seen) AS hole""",
    "sequence-conflict": f"""
        SELECT DISTINCT 'sequence-conflict', terminal || '/' || epoch, 0, 'operator', {_OPERATOR.format("twice")}, NULL
        FROM (SELECT terminal, epoch, min(operator) AS operator FROM known GROUP BY terminal, epoch, sequence HAVING
            count(*) > 1
             ) AS twice""",
    "batch-conflict": """
        SELECT DISTINCT 'batch-conflict', b.terminal || '/' || b.n, 0, 'operator',
               jsonb_strip_nulls(jsonb_build_object('operator', t.operator)), NULL
        FROM batch_conflict b LEFT JOIN terminal t ON t.id = b.terminal""",
    "torn": f"""
        SELECT 'torn', {record_subject("x")}, x.amount_fen, 'clearing',
               jsonb_build_object('outcome', CASE WHEN same THEN 'void' WHEN later THEN 'committed' ELSE 'undecided'
                   END),
               CASE WHEN same THEN 'void' END
        FROM exhibit x, LATERAL (
            SELECT coalesce(bool_or(k.counter = x.counter), false) AS same, coalesce(bool_or(k.counter > x.counter),
                false) AS later
            FROM known k WHERE k.counted AND (k.card, k.purse, k.generation) = (x.card, x.purse, x.generation)) AS
                evidence
        WHERE x.state = 'memo' AND x.code = 'torn'""",
    "missing-exit": f"""
        SELECT 'missing-exit', {purse_subject("k")} || '/' || k.counter, 0, 'operator', {_OPERATOR.format("k")}, NULL
        FROM known k LEFT JOIN LATERAL (
            SELECT kind, flags FROM known n
            WHERE (n.card, n.purse, n.generation) = (k.card, k.purse, k.generation) AND n.counter > k.counter
              AND n.counted AND NOT n.forked AND n.kind IN ({Kind.ENTRY.value}, {Kind.EXIT.value})
            ORDER BY n.counter LIMIT 1) AS next ON true
        WHERE k.kind = {Kind.ENTRY.value} AND k.sealed AND k.origin_date <= (SELECT date FROM judged_day)
          AND (next.kind = {Kind.EXIT.value} AND next.flags & 4 = 0) IS NOT TRUE""",
    "missing-entry": f"""
        SELECT 'missing-entry', {purse_subject("k")} || '/' || k.counter, 0, 'operator', {_OPERATOR.format("k")}, NULL
        FROM known k LEFT JOIN LATERAL (
            SELECT kind, station, extract(epoch FROM instant)::bigint AS at FROM known p
            WHERE (p.card, p.purse, p.generation) = (k.card, k.purse, k.generation) AND p.counter < k.counter
              AND p.counted AND NOT p.forked AND p.kind IN ({Kind.ENTRY.value}, {Kind.EXIT.value})
            ORDER BY p.counter DESC LIMIT 1) AS before ON true
        WHERE k.kind = {Kind.EXIT.value} AND k.sealed AND k.flags & 4 = 0
          AND k.origin_date <= (SELECT date FROM judged_day)
          AND (before.kind = {Kind.ENTRY.value} AND before.station = k.entry_station
               AND k.entry_at IN (0, before.at)) IS NOT TRUE""",
    "operator-total": f"""
        SELECT 'operator-total', t.operator || '/' || {sector_label("t.sector")} || '/' || t.date, coalesce(r.fen, 0) -
            t.fen,
               'operator', jsonb_build_object('operator', t.operator, 'declared', t.count, 'received', coalesce(r.count,
                   0)), NULL
        FROM declared_total t LEFT JOIN (
            SELECT operator, sector, date, count(*) AS count, sum(fen)::bigint AS fen FROM (
                SELECT operator, sector, origin_date AS date, amount_fen AS fen FROM known WHERE kind IN {_DECLARED}
                UNION ALL
                SELECT operator, sector, origin_date, amount_fen FROM exhibit
                WHERE state = 'pending_issuer' AND taken_up_at IS NULL AND kind IN {_DECLARED}
                UNION ALL
                SELECT operator, {Sector.TRANSIT.value}, close_date, charged_fen FROM import_row
                WHERE state = 'accepted') AS record
            GROUP BY 1, 2, 3) AS r USING (operator, sector, date)
        WHERE t.date <= (SELECT date FROM judged_day) AND (coalesce(r.fen, 0), coalesce(r.count, 0)) <> (t.fen,
            t.count)""",
    "fare": """
        SELECT 'fare', r.subject, abs(r.amount_fen - coalesce(t.due_fen, 0)), 'operator',
               jsonb_strip_nulls(jsonb_build_object('operator', r.operator, 'full_fen', t.full_fen, 'due_fen',
                   t.due_fen)), NULL
        FROM ride r JOIN tariff t USING (kind, line, station, entry_station, without_entry, concession, origin_date)
        WHERE r.full_fare_fen IS DISTINCT FROM t.full_fen OR r.amount_fen IS DISTINCT FROM t.due_fen""",
    "concession": """
        SELECT 'concession', r.subject, r.full_fare_fen - r.amount_fen, 'operator',
               jsonb_build_object('operator', r.operator, 'claimed', r.concession, 'registered', r.class), NULL
        FROM ride r WHERE r.concession <> r.class""",
    "business-date": """
        SELECT 'business-date', operator || '/' || close_date || '/' || origin_date, 0, 'operator',
               jsonb_build_object('operator', operator, 'count', count(*)), NULL
        FROM import_row WHERE state = 'accepted' AND close_date <> origin_date GROUP BY operator, close_date,
            origin_date""",
}
# Two records of one subject share a case: it stays open while either needs it, and shows the larger amount.
FOLD = """
    INSERT INTO case_file AS c (kind, subject, amount_fen, opened, resolved, resolution, owner, detail)
    SELECT DISTINCT ON (kind, subject) kind, subject, amount_fen, $1::date, CASE WHEN resolution IS NOT NULL THEN
        $1::date END, resolution, owner,
           detail
    FROM finding ORDER BY kind, subject, resolution IS NOT NULL, amount_fen DESC, detail::text
    ON CONFLICT (kind, subject) DO UPDATE
    SET amount_fen = excluded.amount_fen, owner = excluded.owner, detail = excluded.detail,
        resolved = excluded.resolved, resolution = excluded.resolution
    WHERE c.resolved IS NULL OR (c.kind = ANY($2::text[]) AND excluded.resolution IS DISTINCT FROM c.resolution)"""
RESOLVE = """
    UPDATE case_file c SET resolved = $1::date, resolution = w.word FROM unnest($2::text[], $3::text[]) AS w (kind,
        word)
    WHERE c.kind = w.kind AND c.resolved IS NULL
      AND NOT EXISTS (SELECT FROM finding f WHERE f.kind = c.kind AND f.subject = c.subject)"""


async def find(connection: asyncpg.Connection, day: date, found: Iterable[tuple[object, ...]]) -> None:
    """Lay out all findings of the close of a date: those of SQL, and those that were judged (kind, subject,
    amount_fen, owner, detail, resolution).
    """
    await connection.execute(FINDING)
    await connection.execute("CREATE TEMP TABLE judged_day (date date) ON COMMIT DROP")
    await connection.execute("INSERT INTO judged_day VALUES ($1)", day)
    for statement in FINDINGS.values():
        await connection.execute(_INSERT + statement)
    await connection.executemany(_INSERT + "VALUES ($1, $2, $3, $4, $5::jsonb, $6)", list(found))
    await connection.execute("CREATE INDEX ON finding (kind, subject)")


async def fold(connection: asyncpg.Connection, day: date, words: Mapping[str, str]) -> None:
    """Open, change and resolve cases; `words` are the kinds that resolve by themselves, and how that is called."""
    await connection.execute(FOLD, day, list(words))
    await connection.execute(RESOLVE, day, list(words), list(words.values()))


async def cards_of(connection: asyncpg.Connection, day: date, *kinds: str) -> list[asyncpg.Record]:
    """kind and card of the cases of some kinds that a close opened; for kinds that are codes of records, the cards of
    all such records, since two of them may share a case.
    """
    return await ask.rows(
        connection,
        """
        SELECT code AS kind, card FROM known WHERE code = ANY($2::text[])
        UNION
        SELECT kind, decode(split_part(subject, '/', 1), 'hex') FROM case_file c
        WHERE opened = $1 AND kind = ANY($2::text[]) AND NOT EXISTS (SELECT FROM known k WHERE k.code = c.kind)""",
        day,
        kinds,
    )


async def tally(connection: asyncpg.Connection, day: date) -> asyncpg.Record:
    """How many cases a close opened and resolved, and how many stand open: opened, resolved, standing."""
    found: asyncpg.Record = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE opened = $1) AS opened, count(*) FILTER (WHERE resolved = $1) AS resolved,
               count(*) FILTER (WHERE resolved IS NULL) AS standing FROM case_file""",
        day,
    )
    return found
