"""Movements of a date as settlement reads them from the store."""

from datetime import date

from clearing.settlement.netting import Movement
from clearing.store import books
from clearing.store.types import Connection


async def read_movements(connection: Connection, day: date) -> list[Movement]:
    """What a date posted in the sectors' ledgers."""
    return [
        Movement(
            row["ledger"], row["account"], row["class"], row["rule"], row["origin_date"],
            row["debit_fen"], row["credit_fen"], row["credit_count"],
        )
        for row in await books.movements(connection, day)
    ]  # fmt: skip
