"""SQL of the import: rows once only, their rides as postings, figures per operator."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import asyncpg

from clearing.store import ask

ROW = (
    "card", "row_key", "scheme", "state", "code", "operator", "ride", "full_fare_fen", "charged_fen", "instant",
    "close_date",
    "row", "line", "origin_date", "post_date",
)  # fmt: skip


async def begin(connection: asyncpg.Connection, digest: bytes, scheme: str, name: str, at: datetime) -> None:
    """The file, if it is new, and a place for its rows to arrive at, and for what rides it names. One import at a
    time.
    """
    await connection.execute("LOCK TABLE import_file IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute(
        "INSERT INTO import_file (digest, scheme, name, lines, imported_at) VALUES ($1, $2, $3, 0, $4) "
        "ON CONFLICT DO NOTHING",
        digest,
        scheme,
        name,
        at,
    )
    await connection.execute("CREATE TEMP TABLE arriving (LIKE import_row) ON COMMIT DROP")
    await connection.execute("ALTER TABLE arriving ALTER file DROP NOT NULL")
    await connection.execute("CREATE TEMP TABLE named (card bytea, row_key bytea) ON COMMIT DROP")


async def holds_old_keys(connection: asyncpg.Connection) -> bool:
    """Whether rows are stored whose keys are of another version than those of this program."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM import_file WHERE key_version <> 2)")
    return found


async def finish(connection: asyncpg.Connection, digest: bytes, lines: int) -> None:
    """How many lines the file has."""
    await connection.execute("UPDATE import_file SET lines = $2 WHERE digest = $1", digest, lines)


async def next_journal(connection: asyncpg.Connection) -> int:
    """A number for a journal that may yet turn out to have nothing to post."""
    number: int = await connection.fetchval("SELECT nextval(pg_get_serial_sequence('journal', 'journal_id'))")
    return number


async def store_rows(
    connection: asyncpg.Connection, file: bytes, journal: int, records: Sequence[tuple[object, ...]]
) -> list[asyncpg.Record]:
    """Store the rows (columns `ROW`) that are not stored yet; how many by state and code: state, code, count, rides.

    A row that was kept because nobody knew its company is taken up when somebody does.
    """
    await connection.copy_records_to_table("arriving", columns=ROW, records=records)
    fresh = await ask.rows(
        connection,
        """
        WITH fresh AS (
            INSERT INTO import_row (card, row_key, scheme, state, code, operator, ride, full_fare_fen, charged_fen,
                instant,
                                    close_date, row, line, origin_date, post_date, file, journal_id)
            SELECT DISTINCT ON (card, row_key) card, row_key, scheme, state, code, operator, ride, full_fare_fen,
                charged_fen, instant,
                   close_date, row, line, origin_date, post_date, $1::bytea, $2::bigint
            FROM arriving ORDER BY card, row_key, line
            ON CONFLICT (card, row_key) DO UPDATE
            SET state = excluded.state, code = excluded.code, operator = excluded.operator, origin_date =
                excluded.origin_date,
                post_date = excluded.post_date, file = excluded.file, line = excluded.line, journal_id =
                    excluded.journal_id
            WHERE import_row.code = 'unknown-company' AND excluded.state = 'accepted'
            RETURNING state, code, ride)
        SELECT state, code, count(*) AS count, count(*) FILTER (WHERE ride) AS rides FROM fresh GROUP BY state, code""",
        file,
        journal,
    )
    await connection.execute("INSERT INTO named SELECT DISTINCT card, row_key FROM arriving WHERE ride")
    await connection.execute("TRUNCATE arriving")
    return fresh


async def rides_of(connection: asyncpg.Connection, journal: int) -> list[asyncpg.Record]:
    """Charged rides behind a journal: operator, post_date, close_date, count, charged_fen, row_keys."""
    return await ask.rows(
        connection,
        """
        SELECT operator, post_date, close_date, count(*) AS count, sum(charged_fen)::bigint AS charged_fen,
               array_agg(row_key ORDER BY row_key) AS row_keys
        FROM import_row WHERE journal_id = $1 AND state = 'accepted' AND ride AND charged_fen > 0
        GROUP BY operator, post_date, close_date ORDER BY operator, post_date, close_date""",
        journal,
    )


async def post(
    connection: asyncpg.Connection, journal: int, reference: str, at: datetime, legs: Sequence[tuple[object, ...]]
) -> None:
    """The journal; legs: ledger, account, class, business_date, origin_date, count, amount_fen, merkle_root."""
    await connection.executemany(
        "INSERT INTO account (ledger, account, class) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        sorted({leg[:3] for leg in legs}, key=str),
    )
    await connection.execute(
        "INSERT INTO journal (journal_id, cause, reference, posted_at) OVERRIDING SYSTEM VALUE "
        "VALUES ($1, 'import', $2, $3)",
        journal,
        reference,
        at,
    )
    await connection.execute(
        """
        INSERT INTO posting (journal_id, rule, version, ledger, account, class, business_date, origin_date, count,
            amount_fen,
                             merkle_root)
        SELECT $1::bigint, 'import', 1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::date[], $6::date[],
            $7::integer[],
                                              $8::bigint[], $9::bytea[])""",
        journal,
        *(list(column) for column in zip(*legs, strict=True)),
    )


async def operators(connection: asyncpg.Connection) -> dict[int, str]:
    """Every party of kind operator: its name by its number."""
    return dict(await connection.fetch("SELECT id, name FROM party WHERE kind = 'operator'"))


async def put_operators(connection: asyncpg.Connection, names: Mapping[int, str]) -> None:
    """New parties of kind operator: name by number."""
    await connection.executemany("INSERT INTO party (id, kind, name) VALUES ($1, 'operator', $2)", names.items())


async def put_source_policy(connection: asyncpg.Connection, scheme: str, day: date, value: str) -> None:
    """The source policy (JSON text) from a date on; it only ever grows within a date."""
    await connection.execute(
        """
        INSERT INTO policy (name, scope, valid_from, version, basis, value)
        VALUES ('source', $1, $2, (SELECT coalesce(max(version), 0) + 1 FROM policy WHERE name = 'source' AND scope =
            $1),
                'import --register-companies', $3::jsonb)
        ON CONFLICT (name, scope, valid_from) DO UPDATE SET value = excluded.value""",
        scheme,
        day,
        value,
    )


async def put_cut_off(connection: asyncpg.Connection, day: date, zone: str, at: str) -> None:
    """A cut-off policy of version 0 from a date on; a registry file's own versions come after it."""
    await connection.execute(
        """
        INSERT INTO policy (name, scope, valid_from, version, basis, value)
        VALUES ('cut-off', '*', $1, 0, 'import --register-companies',
                jsonb_build_object('timezone', $2::text, 'at', $3::text))""",
        day,
        zone,
        at,
    )


async def figures(connection: asyncpg.Connection, first_journal: int) -> list[asyncpg.Record]:
    """Accepted rides that the file names, each once, per operator: operator, name, rides, fresh, full_fen, charged_fen.

    Those are fresh that were accepted in this import, whose journals are numbered from the first one on.
    """
    return await ask.rows(
        connection,
        """
        SELECT r.operator, p.name, count(*) AS rides, count(*) FILTER (WHERE r.journal_id >= $1) AS fresh,
               sum(r.full_fare_fen)::bigint AS full_fen, sum(r.charged_fen)::bigint AS charged_fen
        FROM (SELECT DISTINCT card, row_key FROM named) AS ride
        JOIN import_row r USING (card, row_key) LEFT JOIN party p ON p.id = r.operator
        WHERE r.state = 'accepted' GROUP BY r.operator, p.name ORDER BY r.operator""",
        first_journal,
    )
