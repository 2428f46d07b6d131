"""SQL of intake: what is looked up before a verdict, and what one group's transaction writes."""
# ruff: noqa: S608 - the texts are made of constants, never of input

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import asyncpg

from clearing.store.copy import copy_in

INTAKE_LOCK = int.from_bytes(b"onecard\x01")  # one writer of facts at a time: the service, or a retake beside it

FACT = (
    "card", "proof_key", "kind", "purse", "generation", "counter", "amount_fen", "terminal_number",
    "terminal_transaction",
    "instant", "origin_date", "post_date", "sector", "operator", "terminal", "epoch", "sequence", "sealed", "state",
    "code",
    "batch_id", "received_at", "record",
)  # fmt: skip
EXHIBIT = (
    "card", "digest", "state", "code", "proof_key", "kind", "purse", "generation", "counter", "amount_fen", "instant",
    "origin_date", "post_date", "sector", "operator", "terminal", "epoch", "sequence", "sealed", "batch_id",
    "received_at",
    "record",
)  # fmt: skip
BATCH = (
    "batch_id", "terminal", "n", "epoch", "first_seq", "last_seq", "count", "digest", "media", "body", "answer",
    "received_at",
)  # fmt: skip
POSTING = (
    "journal_id", "ledger", "account", "class", "rule", "version", "business_date", "origin_date", "count",
    "amount_fen",
    "merkle_root",
)  # fmt: skip


class ProofKnown(Exception):
    """A fact of the group has the proof key of a stored one; the transaction is lost, the group has to look first."""


async def open_first_day(connection: asyncpg.Connection, day: date) -> None:
    """Open the books on `day` unless a day is open already."""
    await connection.execute("INSERT INTO open_day (date) VALUES ($1) ON CONFLICT DO NOTHING", day)


async def enter(connection: asyncpg.Connection) -> date | None:
    """Take the writer's place for this transaction and hold the open day still; the open day, None before the first."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", INTAKE_LOCK)
    day: date | None = await connection.fetchval("SELECT date FROM open_day FOR SHARE")
    return day


async def stored_batches(
    connection: asyncpg.Connection, terminals: Sequence[int], numbers: Sequence[int]
) -> dict[tuple[int, int], tuple[bytes, str]]:
    """Digest and answer (JSON text) of those batches that are stored, by (terminal, n)."""
    rows = await connection.fetch(
        """SELECT terminal, n, digest, answer::text FROM batch
           WHERE (terminal, n) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))""",
        terminals,
        numbers,
    )
    return {(row["terminal"], row["n"]): (row["digest"], row["answer"]) for row in rows}


async def stored_answer(connection: asyncpg.Connection, terminal: int, n: int) -> str | None:
    """The answer (JSON text) that batch n of the terminal got."""
    answer: str | None = await connection.fetchval(
        "SELECT answer::text FROM batch WHERE terminal = $1 AND n = $2", terminal, n
    )
    return answer


async def seen_exhibits(connection: asyncpg.Connection, spans: Iterable[tuple[int, int, int, int]]) -> set[bytes]:
    """Bytes of the exhibits within the spans (terminal, epoch, lowest and highest sequence)."""
    terminals, epochs, lows, highs = zip(*spans, strict=True)
    rows = await connection.fetch(
        """SELECT record FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[]) AS span (t, e, low, high)
           JOIN exhibit ON terminal = t AND epoch = e AND sequence BETWEEN low AND high""",
        terminals,
        epochs,
        lows,
        highs,
    )
    return {row["record"] for row in rows}


async def known_facts(
    connection: asyncpg.Connection, cards: Sequence[bytes], proof_keys: Sequence[bytes]
) -> dict[bytes, tuple[bytes, bool]]:
    """By proof key: the record of the stored fact, and whether it counts as sealed (by itself or by adoption)."""
    rows = await connection.fetch(
        """SELECT proof_key, fact.record, sealed OR EXISTS (
               SELECT FROM record_event AS event
               WHERE event.card = fact.card AND event.proof_key = fact.proof_key AND event.kind = 'adopted')
           FROM unnest($1::bytea[], $2::bytea[]) AS asked (card, proof_key) JOIN fact USING (card, proof_key)""",
        cards,
        proof_keys,
    )
    return {row[0]: (row[1], row[2]) for row in rows}


async def authorised_loads(
    connection: asyncpg.Connection, cards: Sequence[bytes]
) -> dict[tuple[bytes, int, int, int, int], tuple[str, str]]:
    """Loads of the cards that were authorised and not yet confirmed: (card, purse, counter, fen, terminal) → (load id,
    channel). Terminal 0 stands for the latest of all terminals."""
    rows = await connection.fetch(
        """SELECT card, purse, counter, amount_fen, terminal, load_id, channel FROM load_order
           WHERE card = ANY($1) AND state IN ('authorised', 'committed', 'reversed') AND authorised_at IS NOT NULL
           ORDER BY authorised_at""",
        cards,
    )
    return {
        (row["card"], row["purse"], row["counter"], row["amount_fen"], terminal): (row["load_id"], row["channel"])
        for row in rows
        for terminal in (row["terminal"], 0)
    }


async def opened_acts(connection: asyncpg.Connection, act_ids: Sequence[bytes]) -> dict[bytes, asyncpg.Record]:
    """Acts that were opened and not yet used, by act_id; `split` is JSON text."""
    rows = await connection.fetch(
        """SELECT act_id, challenge, card, sector, amount_fen, transaction_type, split::text, terminal, terminal_number,
                  date, time, opened_at
           FROM act WHERE act_id = ANY($1) AND used_at IS NULL""",
        act_ids,
    )
    return {row["act_id"]: row for row in rows}


async def day_tallies(
    connection: asyncpg.Connection, terminals: Sequence[int], days: Sequence[date]
) -> dict[tuple[int, date], tuple[int, int]]:
    """Records judged and bad proofs, by terminal and day of receipt."""
    rows = await connection.fetch(
        """SELECT terminal, day, records, bad FROM terminal_day
           WHERE (terminal, day) IN (SELECT * FROM unnest($1::bigint[], $2::date[]))""",
        terminals,
        days,
    )
    return {(row["terminal"], row["day"]): (row["records"], row["bad"]) for row in rows}


async def write_tallies(connection: asyncpg.Connection, rows: Iterable[tuple[int, date, int, int]]) -> None:
    """Set records and bad proofs of terminals' days."""
    await connection.executemany(
        """INSERT INTO terminal_day (terminal, day, records, bad) VALUES ($1, $2, $3, $4)
           ON CONFLICT (terminal, day) DO UPDATE SET records = excluded.records, bad = excluded.bad""",
        rows,
    )


async def next_ids(connection: asyncpg.Connection, table: str, column: str, count: int) -> list[int]:
    """`count` fresh numbers of an identity column."""
    rows = await connection.fetch(
        "SELECT nextval(pg_get_serial_sequence($1, $2)) FROM generate_series(1, $3)", table, column, count
    )
    return [row[0] for row in rows]


async def write_facts(connection: asyncpg.Connection, segments: Sequence[bytes]) -> None:
    """COPY facts (`FACT` columns, made by copy_rows); raises ProofKnown when one of them is stored already."""
    if not segments:
        return
    try:
        await copy_in(connection, "fact", FACT, segments)
    except asyncpg.UniqueViolationError as error:
        raise ProofKnown from error


async def write_exhibits(connection: asyncpg.Connection, segments: Sequence[bytes]) -> None:
    """COPY exhibits (`EXHIBIT` columns, made by copy_rows)."""
    if segments:
        await copy_in(connection, "exhibit", EXHIBIT, segments)


async def write_batches(connection: asyncpg.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Batches with their answers, in the order of `BATCH`."""
    await connection.copy_records_to_table("batch", columns=BATCH, records=rows)


async def write_batch_conflict(
    connection: asyncpg.Connection, terminal: int, n: int, digest: bytes, body: bytes, at: datetime
) -> None:
    """Keep the other body that came under the number of a stored batch."""
    await connection.execute(
        "INSERT INTO batch_conflict (terminal, n, digest, body, received_at) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT DO NOTHING",
        terminal,
        n,
        digest,
        body,
        at,
    )


async def write_security_event(
    connection: asyncpg.Connection, kind: str, terminal: int | None, detail: str, body: bytes | None, at: datetime
) -> None:
    """Keep what an unknown or confused terminal sent."""
    await connection.execute(
        "INSERT INTO security_event (at, kind, terminal, detail, body) VALUES ($1, $2, $3, $4, $5)",
        at,
        kind,
        terminal,
        detail,
        body,
    )


# The first ranges of what was seen of a terminal's epoch: as many as an answer may need.
_FIRST_RANGES = """terminal, epoch,
    ARRAY(SELECT lower(run) FROM unnest(seen) AS run LIMIT 34) AS firsts,
    ARRAY(SELECT upper(run) - 1 FROM unnest(seen) AS run LIMIT 34) AS lasts"""


async def read_ranges(
    connection: asyncpg.Connection, epochs: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """By (terminal, epoch) the first 34 ranges that are seen; an epoch of which nothing was is left out."""
    rows = await connection.fetch(
        f"SELECT {_FIRST_RANGES} FROM terminal_range JOIN unnest($1::bigint[], $2::int[]) AS asked (terminal, epoch) "
        "USING (terminal, epoch)",
        *zip(*epochs, strict=True),
    )
    return _ranges(rows)


async def write_ranges(
    connection: asyncpg.Connection, runs: Iterable[tuple[int, int, int, int]]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Add runs (terminal, epoch, first, last) to what was seen; by (terminal, epoch) the first 34 ranges that are seen
    now."""
    terminals, epochs, firsts, lasts = zip(*runs, strict=True)
    rows = await connection.fetch(
        f"""INSERT INTO terminal_range AS known (terminal, epoch, seen)
           SELECT t, e, range_agg(int8range(first, last, '[]'))
           FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[]) AS run (t, e, first, last) GROUP BY t, e
           ON CONFLICT (terminal, epoch) DO UPDATE SET seen = known.seen + excluded.seen
           RETURNING {_FIRST_RANGES}""",
        terminals,
        epochs,
        firsts,
        lasts,
    )
    return _ranges(rows)


def _ranges(rows: Iterable[asyncpg.Record]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    return {(row["terminal"], row["epoch"]): list(zip(row["firsts"], row["lasts"], strict=True)) for row in rows}


async def write_accounts(connection: asyncpg.Connection, accounts: Iterable[tuple[str, str, str]]) -> None:
    """Open accounts (ledger, account, class) that are not there yet."""
    await connection.executemany(
        "INSERT INTO account (ledger, account, class) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", accounts
    )


async def write_journals(
    connection: asyncpg.Connection,
    cause: str,
    references: Sequence[str],
    at: datetime,
    postings: Sequence[Sequence[tuple[Any, ...]]],
) -> None:
    """One journal per reference with its postings: rows in the order of `POSTING` without the journal's id."""
    ids = await next_ids(connection, "journal", "journal_id", len(references))
    await connection.copy_records_to_table(
        "journal",
        columns=("journal_id", "cause", "reference", "posted_at"),
        records=[(id_, cause, reference, at) for id_, reference in zip(ids, references, strict=True)],
    )
    await connection.copy_records_to_table(
        "posting",
        columns=POSTING,
        records=[(id_, *row) for id_, rows in zip(ids, postings, strict=True) for row in rows],
    )


async def write_adoptions(connection: asyncpg.Connection, rows: Iterable[tuple[bytes, bytes, date, bytes]]) -> None:
    """(card, proof key, date, record): a sealed copy lends its claims to an unsealed fact."""
    await connection.executemany(
        "INSERT INTO record_event (card, proof_key, kind, on_date, record) VALUES ($1, $2, 'adopted', $3, $4) "
        "ON CONFLICT DO NOTHING",
        rows,
    )


async def use_acts(connection: asyncpg.Connection, act_ids: Sequence[bytes], at: datetime) -> None:
    """Mark acts as used."""
    await connection.execute("UPDATE act SET used_at = $2 WHERE act_id = ANY($1)", act_ids, at)


async def confirm_loads(connection: asyncpg.Connection, load_ids: Sequence[str]) -> None:
    """The card's TAC confirms these loads."""
    await connection.execute("UPDATE load_order SET state = 'confirmed' WHERE load_id = ANY($1)", load_ids)


async def retakeable(
    connection: asyncpg.Connection, codes: Sequence[str], count: int, behind: tuple[bytes, bytes]
) -> list[asyncpg.Record]:
    """Up to `count` quarantined exhibits of these codes, not yet taken up, that follow `behind` in (card, digest)."""
    found: list[asyncpg.Record] = await connection.fetch(
        """SELECT card, exhibit.digest, record, code, exhibit.batch_id, exhibit.received_at, batch.terminal, batch.n
           FROM exhibit JOIN batch USING (batch_id)
           WHERE state = 'quarantined' AND code = ANY($1) AND taken_up_at IS NULL AND (card, exhibit.digest) > ($3, $4)
           ORDER BY card, exhibit.digest LIMIT $2""",
        codes,
        count,
        *behind,
    )
    return found


async def mark_taken_up(
    connection: asyncpg.Connection, cards: Sequence[bytes], digests: Sequence[bytes], at: datetime
) -> None:
    """These exhibits became facts."""
    await connection.execute(
        """UPDATE exhibit SET taken_up_at = $3 FROM unnest($1::bytea[], $2::bytea[]) AS taken (c, d)
           WHERE card = c AND digest = d""",
        cards,
        digests,
        at,
    )


async def mark_retaken(connection: asyncpg.Connection, cards: Sequence[bytes], digests: Sequence[bytes]) -> None:
    """These exhibits have the verdict of a retake, whose journal posts what they post."""
    await connection.execute(
        """UPDATE exhibit SET retaken = true FROM unnest($1::bytea[], $2::bytea[]) AS taken (c, d)
           WHERE card = c AND digest = d""",
        cards,
        digests,
    )


async def forget_exhibits(connection: asyncpg.Connection, cards: Sequence[bytes], digests: Sequence[bytes]) -> None:
    """Make room for the same exhibits with another verdict, in the same transaction."""
    await connection.execute(
        "DELETE FROM exhibit USING unnest($1::bytea[], $2::bytea[]) AS taken (c, d) WHERE card = c AND digest = d",
        cards,
        digests,
    )
