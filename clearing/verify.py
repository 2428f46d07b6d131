"""The books prove themselves: every invariant recomputed from the facts, none taken from an aggregate (rules 10-22)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from clearing import kept, seals
from clearing.close.command import examine, find, judged_steps, put_targets
from clearing.close.fees import fee_legs, fees
from clearing.ledger.history import digests_at_closes
from clearing.rating.policies import Policies
from clearing.rating.reading import calendar_of, read_policies
from clearing.reconcile.kinds import RESOLVED_BY_ITSELF
from clearing.settlement.netting import net
from clearing.settlement.reading import read_movements
from clearing.store import books as book_rows
from clearing.store import kept as kept_rows
from clearing.store import purses as purse_rows
from clearing.store import verify as rows
from clearing.store.guards import GUARDED, guards
from clearing.store.standing import compare
from clearing.store.types import Connection, Pool, StoredRow
from keys.proof import merkle_root


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: how many things were examined, and in words what is wrong with some of them."""

    name: str
    ok: bool
    checked: int
    detail: str = ""


AGAIN = {
    "subsidy": "C4 subsidy is full fare less charge",
    "gap": "R6 gaps follow from the cards' own counters",
    "fork": "rule 4 forks are suspended and borne by the issuer",
    "load": "rule 17 loads are posted by proof or evidence",
    "replace": "rule 18 a replaced card's value is on its way once",
}

UPLOADS = {
    "R4 every upload is kept once, and nothing else": kept_rows.UPLOADS,
    "R4 answers are what became of the records": kept_rows.ANSWERS,
    "R5 columns are what the bytes say": kept_rows.COLUMNS,
}


async def verify(pool: Pool) -> list[Check]:
    """Every check, in one reading transaction that leaves nothing behind. Raises RefusedError('no-cut-off') on an empty
    registry.

    What came in after the last close is held against intake's postings, but not against the close's: that is still to
    come.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        try:
            return await _verify(connection)
        finally:
            await transaction.rollback()


async def _verify(connection: Connection) -> list[Check]:
    policies = await read_policies(connection)
    judged = judged_steps(await examine(connection, policies))
    days = await book_rows.closed_dates(connection)
    loads = await purse_rows.unproven_loads(connection)
    calendar = calendar_of(policies)
    await put_targets(connection, judged, loads, calendar, max(days, default=date.min))
    await rows.lay_out(connection)
    checks = [_check(name, await rows.examine(connection, text)) for name, text in rows.CHECKS.items()]
    checks.append(_check("L5 history is guarded", await rows.examine(connection, GUARDED, guards())))
    checks += [_check(AGAIN[rule], await rows.examine(connection, text)) for rule, text in rows.AGAIN.items()]
    checks.append(_check("F3 loads − spends = value on the card", await rows.examine(connection, rows.SHADOW)))
    checks.append(_told("R4 bodies are what was acknowledged", *await kept.unlike_their_header(connection)))
    checks += [_check(name, await rows.examine(connection, text)) for name, text in UPLOADS.items()]
    of_bytes = await kept.unlike_their_bytes(connection, calendar)
    of_text = await kept.unlike_their_text(connection, calendar)
    checks.append(_told("R5 moments and identities follow", of_bytes[0] + of_text[0], of_bytes[1] + of_text[1]))
    if days:
        await find(connection, judged, loads, calendar, max(days))
        checks.append(await _cases(connection))
    checks.append(await _nets(connection))
    checks.append(await _digests(connection))
    checks.append(await _seals(connection))
    checks.append(await _fees(connection, policies))
    checks.append(_roots("rule 21 Merkle roots of intake", await rows.intake_leaves(connection)))
    checks.append(_roots("rule 21 Merkle roots of closes", await rows.close_leaves(connection)))
    return sorted(checks, key=lambda check: check.name)


def _check(name: str, found: StoredRow) -> Check:
    examples: Sequence[str] = found["examples"]
    detail = f"{found['wrong']} wrong: {'; '.join(examples)}" if found["wrong"] else ""
    return Check(name, not found["wrong"], found["checked"], detail)


def _told(name: str, checked: int, wrong: Sequence[str]) -> Check:
    return Check(name, not wrong, checked, f"{len(wrong)} wrong: {'; '.join(wrong[:3])}" if wrong else "")


async def _cases(connection: Connection) -> Check:
    compared = await compare(connection, RESOLVED_BY_ITSELF)
    wrong = [f"{row['name']} {row['wrong']}" for row in compared if row["wrong"]]
    return _told("R6 what does not match is a case", len(compared), wrong)


async def _nets(connection: Connection) -> Check:
    checked, wrong = 0, []
    for day in await book_rows.closed_dates(connection):
        stored = {
            (row["class"], row["party"]): row["net_fen"] for row in await book_rows.net_positions(connection, day)
        }
        again = {(one.class_, one.party): one.net_fen for one in net(await read_movements(connection, day))}
        checked += len(stored)
        wrong += [
            f"{day} {' '.join(key)}"
            for key in sorted(stored.keys() | again.keys())
            if stored.get(key) != again.get(key)
        ]
    return _told("C2 nets are what was posted", checked, wrong)


async def _digests(connection: Connection) -> Check:
    checked, wrong = 0, []
    async for closing, again in digests_at_closes(connection):
        checked += 1
        if again != (closing["books_digest"], closing["substance_digest"]):
            wrong.append(f"the books that {closing['date']} closed with")
    return _told("rule 14 digests are of the books", checked, wrong)


async def _seals(connection: Connection) -> Check:
    stored, again = await seals.stored(connection), await seals.made(connection)
    wrong = [
        f"{part} as {day} left them"
        for day, part in sorted(stored.keys() | again.keys())
        if stored.get((day, part)) != again.get((day, part))
    ]
    return _told("rule 14 seals are of what each close saw", len(stored), wrong)


async def _fees(connection: Connection, policies: Policies) -> Check:
    due: Counter[tuple[date, str, str, int]] = Counter()
    for day in await book_rows.closed_dates(connection):
        for ledger, account, version, fen in fee_legs(fees(day, await read_movements(connection, day), policies)):
            due[day, ledger, account, version] += fen
    posted = {
        (row["date"], row["ledger"], row["account"], row["version"]): row["fen"]
        for row in await book_rows.fees(connection)
    }
    wrong = [
        f"{key[0]} {key[1]} {key[2]}: {due[key]} fen due, {posted.get(key, 0)} posted"
        for key in sorted(due.keys() | posted.keys())
        if due[key] != posted.get(key, 0)
    ]
    return _told("rule 16 fees follow from what was posted", len(due), wrong)


def _roots(name: str, postings: Iterable[StoredRow]) -> Check:
    # The legs of one entry share their records, and so their root.
    roots: dict[tuple[bytes, ...], bytes] = {}
    checked, wrong = 0, []
    for posting in postings:
        checked += 1
        leaves = tuple(posting["leaves"])
        if leaves not in roots:
            roots[leaves] = merkle_root(leaves)
        if posting["merkle_root"] != (roots[leaves] if leaves else None):
            wrong.append(f"posting {posting['posting_id']} of {len(leaves)} records")
    return _told(name, checked, wrong)
