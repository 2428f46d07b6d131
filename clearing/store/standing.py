"""SQL of the cases held against what gives reason for them: the findings of the last close, made again.

A case that nothing gives reason for any more had one when it was opened; something of its card or terminal came later
and took it away. What no close has seen yet is judged by the next one.
"""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from collections.abc import Iterable

import asyncpg

from clearing.store import ask
from clearing.store.claims import record_subject, sector_label

# Which close first saw a batch, an instant, or what fell to an open date; 'infinity' if none has.
_SAW_BATCH = "coalesce((SELECT min(date) FROM closing WHERE last_batch >= {}), 'infinity')"
_SAW_INSTANT = "coalesce((SELECT min(date) FROM closing WHERE closed_at > {}), 'infinity')"
_SAW_DATE = "coalesce((SELECT min(date) FROM closing WHERE date >= {}), 'infinity')"
# When something last came of each card.
_CARD = f"""
    CREATE TEMP TABLE card_moved ON COMMIT DROP AS
    SELECT card, max(seen) AS seen FROM (
        SELECT card, {_SAW_BATCH.format("max(batch_id)")} AS seen FROM fact GROUP BY card
        UNION ALL SELECT card, {_SAW_BATCH.format("max(batch_id)")} FROM exhibit GROUP BY card
        UNION ALL SELECT card, {_SAW_INSTANT.format("max(taken_up_at)")} FROM exhibit WHERE taken_up_at IS NOT NULL
                  GROUP BY card
        UNION ALL SELECT card, {_SAW_DATE.format("max(on_date)")} FROM record_event WHERE kind = 'adopted' GROUP BY card
        UNION ALL SELECT card, {_SAW_INSTANT.format("max(authorised_at)")} FROM load_order
                  WHERE authorised_at IS NOT NULL GROUP BY card
        UNION ALL SELECT old, {_SAW_INSTANT.format("made_at")} FROM replacement) AS moved GROUP BY card"""
_TERMINAL = f"""
    CREATE TEMP TABLE terminal_moved ON COMMIT DROP AS
    SELECT terminal, max(seen) AS seen FROM (
        SELECT terminal, {_SAW_BATCH.format("max(batch_id)")} AS seen FROM batch GROUP BY terminal
        UNION ALL SELECT terminal, {_SAW_INSTANT.format("max(received_at)")} FROM batch_conflict GROUP BY terminal
        UNION ALL SELECT terminal, {_SAW_INSTANT.format("max(taken_up_at)")} FROM exhibit WHERE taken_up_at IS NOT NULL
                  GROUP BY terminal
        UNION ALL SELECT terminal, {_SAW_DATE.format("max(post_date)")} FROM exhibit WHERE retaken
                  GROUP BY terminal) AS moved GROUP BY terminal"""
# The card of each number of a record. A retake leaves no date where it only gives another code: those are left out.
_NAMED = f"""
    CREATE TEMP TABLE named ON COMMIT DROP AS
    SELECT subject, max(seen) AS seen FROM (
        SELECT {record_subject("f")} AS subject, m.seen FROM fact f JOIN card_moved m USING (card)
        UNION ALL SELECT {record_subject("k")}, m.seen FROM known k JOIN card_moved m USING (card) WHERE k.sealed
        UNION ALL
        SELECT {record_subject("x")}, CASE WHEN b.answer -> 'quarantined' @> jsonb_build_array(
                   jsonb_build_object('seq', x.sequence)) AND NOT b.answer -> 'quarantined' @> jsonb_build_array(
                   jsonb_build_object('seq', x.sequence, 'code', x.code)) THEN 'infinity' ELSE m.seen END
        FROM exhibit x JOIN card_moved m USING (card) JOIN batch b USING (batch_id)) AS one GROUP BY subject"""
# Of each case and each reason for one: when something of its card or terminal last came. 'infinity': not yet judged.
_MOVED = """
    CASE WHEN kind IN ('sequence-gap', 'sequence-conflict', 'batch-conflict') THEN (
             SELECT seen FROM terminal_moved WHERE terminal::text = split_part(subject, '/', 1))
         WHEN kind = 'operator-total' THEN (
             SELECT CASE WHEN EXISTS (SELECT FROM terminal_moved WHERE seen = 'infinity')
                           OR t.declared_on > (SELECT max(date) FROM closing) THEN 'infinity'::date ELSE t.date END
             FROM declared_total t WHERE t.operator || '/' || {sector} || '/' || t.date = subject)
         WHEN kind = 'business-date' THEN (SELECT max(s.seen) FROM (SELECT {imported} AS seen FROM import_file) AS s)
         WHEN subject ~ '^[0-9a-f]{{20}}[/@]' THEN (
             SELECT seen FROM card_moved WHERE card = decode(left(subject, 20), 'hex'))
         ELSE (SELECT seen FROM named WHERE named.subject = both_sides.subject) END""".format(
    imported=_SAW_INSTANT.format("imported_at"), sector=sector_label("t.sector")
)
# A sealed copy that came later may say another counter of a tap, and be the one that counts: nothing forks then.
_RENUMBERED = f"""EXISTS (
            SELECT FROM exhibit x WHERE x.card = decode(left(subject, 20), 'hex') AND x.state = 'conflict' AND x.sealed
            AND {_SAW_BATCH.format("x.batch_id")} > opened)"""
_COMPARED = f"""
    WITH due AS (
        SELECT DISTINCT ON (kind, subject) kind, subject, amount_fen, resolution FROM finding
        ORDER BY kind, subject, resolution IS NOT NULL, amount_fen DESC
    ), both_sides AS (
        SELECT kind, subject, d.amount_fen AS due_fen, c.amount_fen, c.opened, c.resolved,
               d.amount_fen IS NOT NULL AS is_due, c.amount_fen IS NOT NULL AS stands,
               kind = ANY($1::text[]) AS by_itself,
               c.resolution IS DISTINCT FROM d.resolution AS otherwise
        FROM due d FULL JOIN case_file c USING (kind, subject)
    ), dated AS (SELECT *, {_MOVED} AS moved FROM both_sides)
    SELECT kind || ' ' || subject AS name, CASE
        WHEN moved = 'infinity' THEN NULL
        WHEN NOT stands THEN 'is no case'
        WHEN NOT is_due AND by_itself AND resolved IS NULL THEN 'has no reason to stand'
        WHEN NOT is_due AND kind = 'fork' AND {_RENUMBERED} THEN NULL
        WHEN NOT is_due AND kind IN ('fork', 'conflict', 'batch-conflict', 'business-date') THEN 'has lost its reason'
        WHEN NOT is_due AND kind = 'operator-total' THEN NULL
        WHEN NOT is_due AND (moved > opened) IS NOT TRUE THEN 'never had a reason'
        WHEN is_due AND by_itself AND otherwise THEN 'is not resolved as it should be'
        WHEN is_due AND amount_fen <> due_fen AND (moved > resolved) IS NOT TRUE
            THEN 'is of ' || due_fen || ' fen, not ' || amount_fen END AS wrong
    FROM dated ORDER BY kind, subject"""


async def compare(connection: asyncpg.Connection, by_itself: Iterable[str]) -> list[asyncpg.Record]:
    """name and, where a case and the reason for it differ, what is wrong: of every case and every finding.

    `by_itself` are the kinds that resolve by themselves; `finding` and `known` must lie there.
    """
    for statement in (_CARD, _TERMINAL, _NAMED):
        await connection.execute(statement)
    await connection.execute("CREATE INDEX ON card_moved (card)")
    await connection.execute("CREATE INDEX ON named (subject)")
    await connection.execute("ANALYZE card_moved, named")
    return await ask.rows(connection, _COMPARED, list(by_itself))
