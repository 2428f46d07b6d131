"""Why a record is worth what it is worth, and which records stand behind a posting (rule 21), in plain words."""

import re
from collections.abc import Iterable, Sequence

from cardcore.errors import FormatError, RefusedError
from cardcore.record import Kind, Sector
from clearing.grounds import MOST_SHOWN, grounds, load_lines, told_postings
from clearing.store import explain as rows
from clearing.store.types import Connection, Pool, StoredRow
from keys.proof import merkle_root

KINDS = {
    Kind.DEBIT: "debit",
    Kind.ENTRY: "entry",
    Kind.EXIT: "exit",
    Kind.LOAD: "load",
    Kind.ACT: "act",
    Kind.TORN: "torn tap",
}
CODES = {
    "": "everything in order",
    "unknown-card": "the card is not registered",
    "psam-inactive": "its PSAM was not active then",
    "clock": "its time lay ahead of the service's clock",
    "replaced-card": "the card had been replaced",
    "denylisted": "the card was denylisted",
    "rogue-load": "no load of this counter and amount was authorised",
    "terminal-suspended": "the terminal is suspended for bad proofs",
    "malformed": "its bytes are not a record",
    "unknown-psam": "no PSAM of the registry has its terminal number",
    "unknown-issuer": "its issuer is unknown",
    "foreign": "the card is another issuer's, whose verdict is awaited",
    "no-key": "no key is known for its cryptogram",
    "bad-proof": "its cryptogram is wrong",
    "conflict": "a record of the same proof but other bytes is known",
    "torn": "the terminal says that the card left too early",
}


async def explain(pool: Pool, reference: str) -> str:
    """The story of a record (`terminal/epoch/sequence`, or `card/proof key` in hex) or of a posting (its number).

    Raises FormatError on another reference, RefusedError('unknown-reference') when nothing has it.
    """
    async with pool.acquire() as connection, connection.transaction():
        if re.fullmatch(r"\d{1,18}", reference):
            lines = await _posting(connection, int(reference))
        elif numbers := re.fullmatch(r"(\d{1,10})/(\d{1,5})/(\d{1,10})", reference):
            lines = await _numbered(connection, *map(int, numbers.groups()))
        elif parts := re.fullmatch(r"([0-9a-f]{20})/([0-9a-f]{32}|[0-9a-f]{64})", reference.lower()):
            lines = await _named(connection, *map(bytes.fromhex, parts.groups()))
        else:
            lines = await load_lines(connection, reference)
            if not lines:
                raise FormatError(
                    f"{reference!r} names nothing. Give terminal/epoch/sequence, card/proof key in hex, "
                    "a load's id or card/purse/counter, or the number of a posting."
                )
    if not lines:
        raise RefusedError("unknown-reference", f"Nothing is stored under {reference}.")
    return "\n".join(lines)


async def _numbered(connection: Connection, terminal: int, epoch: int, sequence: int) -> list[str]:
    lines = []
    for fact in await rows.facts_at(connection, terminal, epoch, sequence):
        lines += await _fact(connection, fact)
    for exhibit in await rows.exhibits_at(connection, terminal, epoch, sequence):
        lines += await _exhibit(connection, exhibit)
    return lines


async def _named(connection: Connection, card: bytes, key: bytes) -> list[str]:
    lines = []
    for fact in await rows.fact_of(connection, card, key):
        lines += await _fact(connection, fact)
    for row in await rows.imported(connection, card, key):
        lines += await _imported(connection, row)
    return lines


async def _fact(connection: Connection, fact: StoredRow) -> list[str]:
    reference = f"{fact['card'].hex()}/{fact['proof_key'].hex()}"
    lines = [*_head(fact, f"proven record {reference}"), f"  {fact['state']}: {CODES.get(fact['code'], fact['code'])}"]
    lines.append(
        f"  {'sealed' if fact['sealed'] else 'without a good seal'}; {Sector(fact['sector']).label}, "
        f"operator {fact['operator']}"
    )
    lines.append(f"  happened on {fact['origin_date']}, posted on {fact['post_date']}")
    if fact["adopted_on"]:
        lines.append(f"  a sealed copy lent it its claims on {fact['adopted_on']}")
    if fact["disputed_on"]:
        lines.append(f"  disputed since {fact['disputed_on']}: another proven record has its counter")
    postings = [
        *await rows.postings_of_leaf(connection, fact["proof_key"], fact["batch_id"], None),
        *await rows.postings_of_subject(connection, reference),
    ]
    return lines + _postings(postings) + await _cases(connection, fact)


async def _exhibit(connection: Connection, exhibit: StoredRow) -> list[str]:
    digest = exhibit["digest"].hex()
    why = CODES.get(exhibit["code"], exhibit["code"])
    lines = [*_head(exhibit, f"exhibit {exhibit['card'].hex()}/{digest}"), f"  {exhibit['state']}: {why}"]
    if exhibit["taken_up_at"]:
        lines.append(f"  taken up at {exhibit['taken_up_at']:%Y-%m-%d %H:%M:%S} UTC: see the proven record")
    lines += _postings(await rows.postings_of_leaf(connection, exhibit["digest"], exhibit["batch_id"], None))
    return lines + await _cases(connection, exhibit)


async def _imported(connection: Connection, row: StoredRow) -> list[str]:
    why = row["code"] or "counted"
    lines = [f"row {row['line']} of {row['name']} ({row['scheme']})", f"  {row['row']}", f"  {row['state']}: {why}"]
    return lines + _postings(await rows.postings_of_leaf(connection, row["row_key"], None, row["journal_id"]))


def _head(record: StoredRow, name: str) -> list[str]:
    kind = KINDS.get(record["kind"], f"kind {record['kind']}")
    moment = f"{record['instant']:%Y-%m-%d %H:%M:%S} UTC" if record["instant"] else "no readable time"
    return [
        name,
        f"  {kind} of {record['amount_fen']} fen at {moment}, counter {record['counter']}",
        f"  terminal {record['terminal']}, epoch {record['epoch']}, sequence {record['sequence']}, "
        f"in batch {record['batch_n']}",
    ]


def _postings(postings: Sequence[StoredRow]) -> list[str]:
    return told_postings(postings, "moves no money")


async def _cases(connection: Connection, record: StoredRow) -> list[str]:
    subject = f"{record['terminal']}/{record['epoch']}/{record['sequence']}"
    return list(_told(await rows.cases_about(connection, [subject], record["card"].hex())))


def _told(cases: Iterable[StoredRow]) -> Iterable[str]:
    for case in cases:
        end = f"resolved {case['resolved']} ({case['resolution']})" if case["resolved"] else "open"
        yield (
            f"  case {case['kind']} {case['subject']}: {case['amount_fen']} fen, opened {case['opened']}, {end}, "
            f"owner {case['owner']}"
        )


async def _posting(connection: Connection, posting_id: int) -> list[str]:
    posting = await rows.posting(connection, posting_id)
    if posting is None:
        return []
    side = "debit" if posting["amount_fen"] > 0 else "credit"
    lines = [
        f"posting {posting_id}: {side} of {abs(posting['amount_fen'])} fen on {posting['account']} "
        f"in the ledger {posting['ledger']}",
        f"  {posting['rule']}@{posting['version']}, class {posting['class']}, on {posting['business_date']} "
        f"of {posting['origin_date']}",
        f"  journal {posting['journal_id']}, {posting['cause']} {posting['reference']}",
    ]
    records = await rows.leaves_of(connection, posting)
    leaves = [row["leaf"] for row in records if row["leaf"] is not None]
    if not leaves and not posting["count"]:
        return lines + await grounds(connection, posting, records)
    lines.append(
        f"  {posting['count']} records: found {len(leaves)}, together {sum(row['fen'] for row in records):+} fen"
    )
    if posting["merkle_root"]:
        holds = merkle_root(leaves) == posting["merkle_root"]
        lines.append(
            f"  Merkle root {posting['merkle_root'].hex()}: "
            f"{'recomputed, the same' if holds else 'DIFFERS from the records'}"
        )
    lines += [f"  {row['name']} {row['fen']:+} fen" for row in records[:MOST_SHOWN]]
    if len(records) > MOST_SHOWN:
        lines.append(f"  … and {len(records) - MOST_SHOWN} more")
    return lines
