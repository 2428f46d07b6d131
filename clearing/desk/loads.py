"""Loads: reserved, authorised by the holder of the keys, stored, and only then answered (rule 17)."""

from dataclasses import asdict, replace
from datetime import date, datetime

from cardcore.authority import LoadAuthority, LoadGrant, LoadRequest
from cardcore.errors import OnecardError, RefusedError
from cardcore.record import Suite
from clearing.clock import Clock
from clearing.desk.purse import PurseTerms, purse_terms
from clearing.ledger.accounts import TRANSFER
from clearing.registry.document import Licence, Limit
from clearing.registry.snapshot import Registry, RegistryFeed
from clearing.store import desk as rows
from clearing.store.transaction import connected, transaction
from clearing.store.types import Connection, Pool
from keys.proof import sm3


class Loads:
    """Implements `cardcore.authority.LoadAuthority` around one that holds the load keys."""

    def __init__(self, pool: Pool, authoriser: LoadAuthority, clock: Clock, feed: RegistryFeed) -> None:
        self._pool = pool
        self._authoriser = authoriser
        self._clock = clock
        self._feed = feed

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """MAC2 for a load, stored as authorised before it leaves. The same request again gets the same grant.

        Raises RefusedError with a code of docs/wire.md; nothing is loaded then. A cancelled call may have authorised
        the load; without MAC2 the card does not take it, and the next evidence of the card resolves it.
        """
        load_id = _load_id(request)
        now = self._clock.now()
        async with transaction(self._pool) as connection:
            registry = await self._feed.current(connection)
            terms = await self._check(connection, registry, request, registry.business_date(now), load_id)
            order = _order(load_id, request, now)
            await rows.reserve_load(connection, order)
        try:
            # Whose terminal it is says the registry; what a counter might say of it counts for nothing.
            operator = registry.terminals[request.terminal].operator
            told = replace(request, session_key=terms.session_key, operator=operator)
            grant = await self._authoriser.authorise_load(told)
        except OnecardError:
            async with connected(self._pool) as connection:
                await rows.drop_reservation(connection, load_id)
            raise
        if request.channel == TRANSFER:
            async with transaction(self._pool) as connection:
                await rows.authorise_load(connection, order, now)
                await rows.carry_transfer(connection, request.identity.card, load_id)
        else:
            async with connected(self._pool) as connection:
                await rows.authorise_load(connection, order, now)
        return replace(grant, load_id=load_id)

    async def _check(
        self, connection: Connection, registry: Registry, request: LoadRequest, day: date, load_id: str
    ) -> PurseTerms:
        row = await rows.card_row(connection, request.identity.card)
        if row is None or row["issuer"] != request.identity.issuer or row["generation"] != request.generation:
            raise RefusedError("unknown-card", "The registry has no such card. Nothing was loaded. Register it first.")
        if row["frozen"]:
            raise RefusedError("frozen-card", "The card is reported, frozen or replaced. Nothing was loaded. Keep it.")
        terms = purse_terms(row["profile"], Suite(row["suite"]), request.purse) or PurseTerms(frozenset(), 0)
        check_licence(registry, request.purse, terms, day)
        if request.channel == TRANSFER:
            await _check_transfer(connection, request, load_id)
        _check_limit(registry, request, terms, day)
        return terms


def check_licence(registry: Registry, purse: int, terms: PurseTerms, day: date) -> None:
    """Raises RefusedError `licence` for a purse that pays beyond transport without a licence and reserve (rule 7)."""
    if not terms.beyond_transport:
        return
    licence = registry.value(Licence, str(purse), day)
    if licence is None or not terms.sectors <= set(licence.sectors):
        raise RefusedError(
            "licence",
            f"Purse {purse} pays in {', '.join(sorted(terms.sectors)) or 'sectors that nobody declared'}, "
            "and no licence policy covers that. Nothing was done. Take a `licence` policy with a reserve bank into "
            "the registry.",
        )


def _check_limit(registry: Registry, request: LoadRequest, terms: PurseTerms, day: date) -> None:
    limit = registry.value(Limit, "load", day)
    if limit is None:
        raise RefusedError("over-limit", "No `limit` policy of scope `load` is in force. Nothing was loaded.")
    value_fen = request.raw_balance_fen - terms.overdraft_fen + request.amount_fen
    if request.channel != TRANSFER and request.amount_fen > limit.max_load_fen:
        raise RefusedError("over-limit", f"A load is at most {limit.max_load_fen} fen. Nothing was loaded.")
    if value_fen > limit.max_balance_fen:
        raise RefusedError(
            "over-limit", f"The card would hold {value_fen} fen, more than {limit.max_balance_fen}. Nothing was loaded."
        )


async def _check_transfer(connection: Connection, request: LoadRequest, load_id: str) -> None:
    """The value of a replaced card travels once: by one load, or by another try of it under the same counter of the
    card."""
    transfer = await rows.transfer_of(connection, request.identity.card)
    if transfer is None:
        raise RefusedError("not-open", "The card replaces none. Nothing was loaded. Make the replacement first.")
    again = (transfer["purse"], transfer["counter"]) == (request.purse, request.counter)
    if transfer["load_id"] not in (None, load_id) and not (again and transfer["state"] == "authorised"):
        raise RefusedError("not-open", "The value of the replaced card has been carried over. Nothing was loaded.")
    if request.amount_fen > transfer["load_fen"]:
        raise RefusedError("over-limit", f"The replaced card leaves {transfer['load_fen']} fen. Nothing was loaded.")


def _load_id(request: LoadRequest) -> str:
    """The same for the same request, so that a repeated one is the same load."""
    asked = asdict(request)
    # Not asked by the counter, and no part of the ids of loads that were asked for before there was one.
    del asked["operator"]
    return sm3(repr(sorted(asked.items())).encode())[:16].hex()


def _order(load_id: str, request: LoadRequest, now: datetime) -> dict[str, object]:
    return {
        "load_id": load_id,
        "card": request.identity.card,
        "purse": request.purse,
        "generation": request.generation,
        "counter": request.counter,
        "amount_fen": request.amount_fen,
        "channel": request.channel,
        "terminal": request.terminal,
        "raw_fen": request.raw_balance_fen,
        "reserved_at": now,
    }
