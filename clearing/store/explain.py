"""SQL of explanations: from a record to its postings, from a posting to its records."""

from datetime import date

import asyncpg

from clearing.store import ask
from clearing.store.claims import record_subject, reference
from clearing.store.tie import due_legs

_RECORD = """
    SELECT f.*, e.on_date AS disputed_on, a.on_date AS adopted_on, b.n AS batch_n FROM fact f
    LEFT JOIN record_event e ON (e.card, e.proof_key, e.kind) = (f.card, f.proof_key, 'disputed')
    LEFT JOIN record_event a ON (a.card, a.proof_key, a.kind) = (f.card, f.proof_key, 'adopted')
    LEFT JOIN batch b USING (batch_id) WHERE """


async def facts_at(connection: asyncpg.Connection, terminal: int, epoch: int, sequence: int) -> list[asyncpg.Record]:
    """Proven records of one number of a terminal: a fact's columns, disputed_on, adopted_on, batch_n."""
    return await ask.rows(
        connection, _RECORD + "(f.terminal, f.epoch, f.sequence) = ($1, $2, $3)", terminal, epoch, sequence
    )


async def fact_of(connection: asyncpg.Connection, card: bytes, proof_key: bytes) -> list[asyncpg.Record]:
    """The proven record of that identity, as `facts_at`."""
    return await ask.rows(connection, _RECORD + "(f.card, f.proof_key) = ($1, $2)", card, proof_key)


async def exhibits_at(connection: asyncpg.Connection, terminal: int, epoch: int, sequence: int) -> list[asyncpg.Record]:
    """Exhibits of one number of a terminal."""
    return await ask.rows(
        connection,
        "SELECT x.*, b.n AS batch_n FROM exhibit x LEFT JOIN batch b USING (batch_id) "
        "WHERE (x.terminal, x.epoch, x.sequence) = ($1, $2, $3)",
        terminal,
        epoch,
        sequence,
    )


async def imported(connection: asyncpg.Connection, card: bytes, row_key: bytes) -> list[asyncpg.Record]:
    """The row of a source without cryptograms of that identity."""
    return await ask.rows(
        connection,
        "SELECT r.*, f.name FROM import_row r JOIN import_file f ON f.digest = r.file "
        "WHERE (r.card, r.row_key) = ($1, $2)",
        card,
        row_key,
    )


async def postings_of_leaf(
    connection: asyncpg.Connection, leaf: bytes, batch: int | None, journal: int | None
) -> list[asyncpg.Record]:
    """Postings of intake or import that a record (by proof key, digest or row key) stands behind; its own fen is
    `part_fen`.
    """
    await _lay_out(connection, batch, journal)
    return await ask.rows(
        connection,
        """
        SELECT p.posting_id, p.journal_id, j.cause, j.reference, p.ledger, p.account, p.rule, p.version,
            p.business_date, p.amount_fen,
               p.count, d.amount_fen AS part_fen
        FROM due_leg d JOIN journal j ON CASE WHEN d.rule = 'import' THEN j.journal_id = $2
            ELSE j.cause = CASE WHEN d.retaken THEN 'retake' ELSE 'batch' END
                 AND j.reference = (SELECT terminal || '/' || n FROM batch WHERE batch_id = $3) END
        JOIN posting p ON (p.journal_id, p.rule, p.ledger, p.account, p.business_date, p.origin_date)
            = (j.journal_id, d.rule, d.ledger, d.account, d.post_date, d.origin_date)
        WHERE d.leaf = $1 ORDER BY p.posting_id""",
        leaf,
        journal,
        batch,
    )


async def postings_of_subject(connection: asyncpg.Connection, subject: str) -> list[asyncpg.Record]:
    """Postings of closes that a record or load (by what the closes carried) stands behind; its own fen is
    `part_fen`.
    """
    return await ask.rows(
        connection,
        """
        SELECT p.posting_id, p.journal_id, j.cause, j.reference, p.ledger, p.account, p.rule, p.version,
            p.business_date, p.amount_fen,
               p.count, c.amount_fen AS part_fen
        FROM carried c JOIN posting p ON (p.business_date, p.ledger, p.account, p.rule, p.version, p.origin_date)
            = (c.posted_on, c.ledger, c.account, c.rule, c.version, c.origin_date) AND (p.amount_fen > 0) =
                (c.amount_fen > 0)
        JOIN journal j ON j.journal_id = p.journal_id AND j.cause = 'close'
        WHERE c.subject = $1 ORDER BY p.posting_id""",
        subject,
    )


async def posting(connection: asyncpg.Connection, posting_id: int) -> asyncpg.Record | None:
    """A posting with its journal's cause, reference, posted_at, and the batch that the reference names."""
    found: asyncpg.Record | None = await connection.fetchrow(
        """
        SELECT p.*, j.cause, j.reference, j.posted_at, b.batch_id FROM posting p JOIN journal j USING (journal_id)
        LEFT JOIN batch b ON j.cause IN ('batch', 'retake') AND j.reference = b.terminal || '/' || b.n
        WHERE p.posting_id = $1""",
        posting_id,
    )
    return found


async def leaves_of(connection: asyncpg.Connection, found: asyncpg.Record) -> list[asyncpg.Record]:
    """The records behind a posting: leaf, fen, sorted by leaf. A posting of a close may also stand for loads, whose
    leaf is NULL.
    """
    if found["cause"] == "close":
        return await ask.rows(
            connection,
            """
            SELECT subject AS name, proof_key AS leaf, amount_fen AS fen FROM carried
            WHERE (posted_on, ledger, account, rule, version, origin_date) = ($1, $2, $3, $4, $5, $6)
              AND (amount_fen > 0) = ($7::bigint > 0) ORDER BY proof_key, subject""",
            *(
                found[name]
                for name in ("business_date", "ledger", "account", "rule", "version", "origin_date", "amount_fen")
            ),
        )
    await _lay_out(connection, found["batch_id"], found["journal_id"] if found["cause"] == "import" else None)
    return await ask.rows(
        connection,
        f"""
        SELECT coalesce({reference("f")} || ' (' || {record_subject("f")} || ')', encode(d.leaf, 'hex')) AS name,
               d.leaf, d.amount_fen AS fen
        FROM due_leg d LEFT JOIN fact f ON f.proof_key = d.leaf AND f.batch_id = $7
        WHERE (d.rule, d.ledger, d.account, d.post_date, d.origin_date, d.retaken) = ($1, $2, $3, $4, $5, $6) ORDER BY
            d.leaf""",  # noqa: S608
        *(found[name] for name in ("rule", "ledger", "account", "business_date", "origin_date")),
        found["cause"] == "retake",
        found["batch_id"],
    )


async def cases_about(connection: asyncpg.Connection, subjects: list[str], card: str) -> list[asyncpg.Record]:
    """Cases of exactly these subjects, and those of the card."""
    return await ask.rows(
        connection,
        """
        SELECT kind, subject, amount_fen, opened, resolved, resolution, owner FROM case_file
        WHERE subject = ANY($1) OR split_part(replace(subject, '@', '/'), '/', 1) = $2 ORDER BY opened, kind,
            subject""",
        subjects,
        card,
    )


async def _lay_out(connection: asyncpg.Connection, batch: int | None, journal: int | None) -> None:
    await connection.execute("DROP TABLE IF EXISTS due_leg")
    await connection.execute(due_legs(batch or 0, journal or 0))


async def loads(connection: asyncpg.Connection, name: str) -> list[asyncpg.Record]:
    """Orders of a load by its id, or all tries of `card/purse/counter`, the first one first."""
    return await ask.rows(
        connection,
        """
        SELECT * FROM load_order WHERE load_id = $1 OR encode(card, 'hex') || '/' || purse || '/' || counter = $1
        ORDER BY authorised_at, load_id""",
        name,
    )


async def records_of_load(connection: asyncpg.Connection, load: asyncpg.Record, kind: int) -> list[asyncpg.Record]:
    """name and state of the proven records under a load's counter and of its amount."""
    return await ask.rows(
        connection,
        f"SELECT {reference('f')}, f.state FROM fact f WHERE (card, purse, counter, amount_fen, kind) "  # noqa: S608
        "= ($1, $2, $3, $4, $5)",
        *(load[name] for name in ("card", "purse", "counter", "amount_fen")),
        kind,
    )


async def replacement(connection: asyncpg.Connection, subject: str) -> list[asyncpg.Record]:
    """old, new, purse, value_fen, made_at of `card/purse` in hex and decimal."""
    return await ask.rows(
        connection,
        "SELECT old, new, purse, value_fen, made_at FROM replacement JOIN replacement_value USING (old) "
        "WHERE encode(old, 'hex') || '/' || purse = $1",
        subject,
    )


async def base_of_fee(connection: asyncpg.Connection, ledger: str, account: str, day: date) -> list[asyncpg.Record]:
    """posting_id, count, amount_fen, rule of what a date posted to a payable beside fees."""
    return await ask.rows(
        connection,
        "SELECT posting_id, count, amount_fen, rule FROM posting WHERE (ledger, account, business_date) = ($1, $2, $3) "
        "AND rule <> 'fee' ORDER BY posting_id",
        ledger,
        account,
        day,
    )
