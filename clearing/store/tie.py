"""The tie between records and postings: what each record must have posted, leg by leg, beside what is booked."""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from clearing.store.claims import OFFLINE, claim, sector_label


# A record counts as retaken when another journal than its batch's posts it: it became a fact, or its exhibit was judged
# again.
def due_legs(batch: int | None = None, journal: int | None = None) -> str:
    """SQL of the temporary table `due_leg`: the legs of intake and import, each with the leaf of its record and where
    it came in.

    Of everything, of one batch, or of one journal of an import.
    """
    in_batch = "true" if batch is journal is None else f"{{}}.batch_id = {batch or 0}"
    in_journal = "true" if batch is journal is None else f"i.journal_id = {journal or 0}"
    return f"""
    CREATE TEMP TABLE due_leg ON COMMIT DROP AS
    WITH r AS (
        SELECT f.*, {sector_label("f.sector")} AS label, 'batch/' || f.batch_id AS origin, EXISTS (
            SELECT FROM exhibit x WHERE x.card = f.card AND x.taken_up_at IS NOT NULL AND x.record = f.record) AS
                retaken
        FROM fact f WHERE {in_batch.format("f")})
    SELECT 'debit' AS rule, leg.ledger, leg.account, r.post_date, r.origin_date, leg.sign * r.amount_fen AS amount_fen,
           r.proof_key AS leaf, r.origin, r.retaken
    FROM r, LATERAL (VALUES
        ('purse', 'float:' || r.purse, 1), ('purse', 'due:' || r.label, -1), (r.label, 'due:purse', 1),
        (r.label, CASE r.state WHEN 'accepted' THEN 'payable:' ELSE 'suspense:' END || r.operator, -1)
    ) AS leg (ledger, account, sign) WHERE r.kind IN {OFFLINE} AND r.amount_fen > 0
    UNION ALL
    SELECT 'load', 'purse', leg.account, r.post_date, r.origin_date, leg.sign * r.amount_fen, r.proof_key, r.origin,
        r.retaken
    FROM r, LATERAL (
        SELECT channel FROM load_order o
        WHERE (o.card, o.purse, o.counter, o.amount_fen) = (r.card, r.purse, r.counter, r.amount_fen)
          AND o.state = 'confirmed'
        ORDER BY o.authorised_at DESC LIMIT 1) AS o,
        LATERAL (VALUES (CASE o.channel WHEN 'transfer' THEN '' ELSE 'cash:' END || o.channel, 1),
            ('float:' || r.purse, -1)) AS leg (account, sign)
    WHERE r.kind = 4 AND r.state = 'accepted' AND r.amount_fen > 0
    UNION ALL
    SELECT 'act', r.label, leg.account, r.post_date, r.origin_date, leg.sign * part.value::bigint, r.proof_key,
        r.origin, r.retaken
    FROM r JOIN act a ON a.act_id = {claim("act_id", "r.record")}, jsonb_each_text(a.split) AS part,
        LATERAL (VALUES (part.key, 1), (part.key || '_payable:' || r.operator, -1)) AS leg (account, sign)
    WHERE r.kind = 5 AND r.state = 'accepted' AND part.value::bigint > 0
    UNION ALL
    SELECT 'debit', {sector_label("r.sector")}, leg.account, r.post_date, r.origin_date, leg.sign * r.amount_fen,
        r.digest, 'batch/' || r.batch_id, r.retaken
    FROM exhibit r, LATERAL (VALUES
        ('pending_receivable:' || encode({claim("issuer", "r.record")}, 'hex'), 1), ('pending_payable:' || r.operator,
            -1)
    ) AS leg (account, sign) WHERE {in_batch.format("r")} AND r.state = 'pending_issuer' AND r.kind IN {OFFLINE} AND
        r.amount_fen > 0
    UNION ALL
    SELECT 'import', 'transit', leg.account, i.post_date, i.close_date, leg.sign * i.charged_fen, i.row_key,
           'journal/' || i.journal_id, false
    FROM import_row i, LATERAL (VALUES ('source:' || i.scheme, 1), ('payable:' || i.operator, -1)) AS leg (account,
        sign)
    WHERE {in_journal} AND i.state = 'accepted' AND i.ride AND i.charged_fen > 0"""


BOOKED = """
    CREATE TEMP TABLE booked ON COMMIT DROP AS
    SELECT p.*, j.cause, CASE j.cause WHEN 'import' THEN 'journal/' || j.journal_id ELSE 'batch/' || b.batch_id END AS
        origin
    FROM posting p JOIN journal j USING (journal_id)
    LEFT JOIN batch b ON j.cause IN ('batch', 'retake') AND j.reference = b.terminal || '/' || b.n
    WHERE j.cause <> 'close'"""
