"""What a posting stands on that names no records of its own: a fee, a replaced card's value, a load by evidence."""

from collections.abc import Iterable, Sequence
from datetime import date

from cardcore.record import Kind
from clearing.close.fees import RULE, Fee, fees
from clearing.ledger import accounts
from clearing.rating.reading import read_policies
from clearing.settlement.reading import read_movements
from clearing.store import explain as rows
from clearing.store.types import Connection, StoredRow

MOST_SHOWN = 20


async def grounds(connection: Connection, posting: StoredRow, carried: Sequence[StoredRow]) -> list[str]:
    """Lines about the grounds of a posting without leaves; `carried` are the subjects that its close carried."""
    if posting["rule"] == RULE:
        return await _fee(connection, posting)
    lines = [f"  stands on {len(carried)} {'replaced cards' if posting['rule'] == 'replace' else 'loads'}, "
             f"together {sum(row['fen'] for row in carried):+} fen"]  # fmt: skip
    for row in carried[:MOST_SHOWN]:
        if posting["rule"] == "replace":
            found = [_replacement(one) for one in await rows.replacement(connection, row["name"])]
        else:
            found = [_load(one) for one in await rows.loads(connection, row["name"])]
        lines += [f"  {row['fen']:+} fen: {text}" for text in found or [row["name"]]]
    return lines + _more(len(carried))


async def load_lines(connection: Connection, reference: str) -> list[str]:
    """All tries of a load by its id, or by `card/purse/counter`: what became of each, its record and its postings."""
    lines = []
    for load in await rows.loads(connection, reference):
        lines.append(_load(load))
        lines += [
            f"  its record {name} is {state}: explain {name}"
            for name, state in await rows.records_of_load(connection, load, Kind.LOAD)
        ]
        lines += told_postings(await rows.postings_of_subject(connection, load["load_id"]), "no posting of a close")
    return lines


def told_postings(postings: Iterable[StoredRow], none: str) -> list[str]:
    """A line for each posting that something stands behind, or one that says `none`."""
    return [
        f"  posting {row['posting_id']} (journal {row['journal_id']}, {row['cause']} {row['reference']}): "
        f"{row['ledger']} {row['account']} {row['part_fen']:+} of {row['amount_fen']:+} fen, "
        f"{row['rule']}@{row['version']}, {row['business_date']}"
        for row in postings
    ] or [f"  {none}"]


async def _fee(connection: Connection, posting: StoredRow) -> list[str]:
    day, ledger = posting["business_date"], posting["ledger"]
    operator = int(posting["account"].partition(":")[2])
    earned = fees(day, await read_movements(connection, day), await read_policies(connection))
    lines = _share_told([fee for fee in earned if fee.operator == operator], ledger, day)
    base = await rows.base_of_fee(connection, ledger, accounts.payable(operator), day)
    lines.append(f"  {sum(row['count'] for row in base)} records behind {len(base)} postings:")
    lines += [f"  posting {row['posting_id']}: {-row['amount_fen']:+} fen, {row['count']} records, {row['rule']}"
              for row in base[:MOST_SHOWN]]  # fmt: skip
    return lines + _more(len(base))


def _share_told(borne: Sequence[Fee], sector: str, day: date) -> list[str]:
    """A sector's share of the one fee that an operator pays on the sum of its sectors (rule 16)."""
    fee_fen, remainder = sum(fee.fee_fen for fee in borne), sum(fee.remainder for fee in borne)
    whole = ", ".join(f"{fee.sector} {fee.base_fen}" for fee in borne)
    return [
        line
        for fee in borne
        if fee.sector == sector
        for line in (
            f"  stands on {fee.base_fen} fen posted to {accounts.payable(fee.operator)} of {sector} on {day}, credits "
            "− debits",
            f"  the operator's fee: {sum(one.base_fen for one in borne)} fen in all its sectors ({whole}) at {fee.bps} "
            f"bps of the fee policy's version {fee.version}: {fee_fen} fen, remainder {remainder}/10000",
            f"  the share of {sector}, in proportion to what is above zero and by largest remainder: {fee.fee_fen} "
            f"of {fee_fen} fen",
        )
    ]


def _load(load: StoredRow) -> str:
    settled = f" on {load['settled_on']}" if load["settled_on"] else ""
    since = f"{load['authorised_at']:%Y-%m-%d %H:%M:%S} UTC" if load["authorised_at"] else "not authorised"
    return (
        f"load {load['load_id']} of {load['amount_fen']} fen from {accounts.channel(load['channel'])}, "
        f"{load['card'].hex()}/{load['purse']}/{load['counter']}, authorised {since}: {load['state']}{settled}"
        f"{_WHY.get(load['state'], '')}"
    )


# Why an order is in the state that it is in (docs/ledger.md, "Gaps").
_WHY = {
    "confirmed": " by the card's own record",
    "committed": " by evidence: the card's counters and balances cannot be had without it",
    "reversed": " by evidence: the card's counters and balances cannot be had with it",
    "authorised": ", and nothing decides yet whether it happened",
}


def _replacement(row: StoredRow) -> str:
    return (
        f"purse {row['purse']} of card {row['old'].hex()} held {row['value_fen']} fen when card {row['new'].hex()} "
        f"replaced it at {row['made_at']:%Y-%m-%d %H:%M:%S} UTC"
    )


def _more(count: int) -> list[str]:
    return [f"  … and {count - MOST_SHOWN} more"] if count > MOST_SHOWN else []
