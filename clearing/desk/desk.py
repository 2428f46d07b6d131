"""The desk: who asks is a counter, a hospital or an agency with a card in its reader."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from cardcore.authority import ActGrant, ActRequest, LoadAuthority, LoadGrant, LoadRequest
from cardcore.bcd import encode_moment
from cardcore.errors import RefusedError
from cardcore.record import Kind, Sector, TapRecord
from clearing.clock import Clock
from clearing.desk.loads import Loads, check_licence
from clearing.desk.lost import check_window
from clearing.desk.purse import PURSES, purse_terms
from clearing.ledger.postings import PAYER_CLASS
from clearing.registry.document import CardRow, DenylistDelay
from clearing.registry.snapshot import Registry, RegistryFeed
from clearing.store import desk as rows
from clearing.store.registry import upsert_cards
from clearing.store.transaction import transaction
from clearing.store.types import Connection, Pool
from keys.proof import act_digest

ACT_LIFE = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Listed:
    """A denylist entry: its version, since when the holder bears nothing, since when terminals can know."""

    version: int
    effective_at: datetime
    published_at: datetime


class Desk:
    """Implements `LoadAuthority` and `ActAuthority`, and takes loss reports and replacements."""

    def __init__(self, pool: Pool, authoriser: LoadAuthority, clock: Clock, feed: RegistryFeed | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._feed = feed or RegistryFeed()
        self._loads = Loads(pool, authoriser, clock, self._feed)

    async def registry(self) -> Registry:
        """The registry as it is now."""
        async with self._pool.acquire() as connection:
            return await self._feed.current(connection)

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """As `Loads.authorise_load`."""
        return await self._loads.authorise_load(request)

    async def open_act(self, request: ActRequest) -> ActGrant:
        """Open an online act for 120 s and one use (rule 6).

        Raises RefusedError `unknown-card`, `frozen-card`, `split`. A cancelled call leaves an act that expires by
        itself.
        """
        _check_split(request)
        now = self._clock.now()
        async with transaction(self._pool) as connection:
            registry = await self._feed.current(connection)
            await _check_card(connection, request.identity.card, request.identity.issuer)
            assert registry.calendar is not None, "a registry with terminals has a cut-off policy"
            date, time = encode_moment(registry.calendar.wall_clock(now))
            act_id, challenge = secrets.token_bytes(8), secrets.token_bytes(8)
            record = TapRecord(
                kind=Kind.ACT,
                issuer=request.identity.issuer,
                card=request.identity.card,
                amount_fen=request.amount_fen,
                transaction_type=request.transaction_type,
                terminal_number=request.terminal_number,
                terminal=request.terminal,
                sequence=0,
                date=date,
                time=time,
                act_id=act_id,
            )
            digest = act_digest(record, Sector(request.sector), challenge, request.split)
            await rows.insert_act(
                connection,
                {
                    "act_id": act_id,
                    "challenge": challenge,
                    "card": request.identity.card,
                    "sector": request.sector,
                    "amount_fen": request.amount_fen,
                    "transaction_type": request.transaction_type,
                    "split": json.dumps(dict(request.split)),
                    "terminal": request.terminal,
                    "terminal_number": request.terminal_number,
                    "date": date,
                    "time": time,
                    "digest": digest,
                    "opened_at": now,
                },
            )
        return ActGrant(act_id, challenge, date, time, digest)

    async def register(self, row: CardRow) -> None:
        """Take a card into the registry before it is made (rule 7). The same row again changes nothing.

        Raises RefusedError `licence`, `unknown-card` (an issuer or a profile that is not ours) and `card-exists` (the
        serial is another card's). Cancelled, the card may have been registered.
        """
        values = row.model_dump(by_alias=True)
        async with transaction(self._pool) as connection:
            registry = await self._feed.current(connection)
            purses = {purse: terms for purse in PURSES if (terms := purse_terms(row.profile, row.suite, purse))}
            if not registry.own.get(row.issuer) or not purses:
                raise RefusedError("unknown-card", "The issuer or the profile is not one of ours. Nothing was done.")
            for purse, terms in purses.items():
                check_licence(registry, purse, terms, registry.business_date(self._clock.now()))
            known = await rows.card_row(connection, row.card)
            if known is None:
                await upsert_cards(connection, [values], self._clock.now())
            elif any(known[name] != value for name, value in values.items() if name != "card"):
                raise RefusedError("card-exists", "Another card has this serial. Nothing was done. Take the next one.")

    async def report(self, card: bytes, reason: str, reported: datetime) -> Listed:
        """Denylist a card; when the entry is effective and published says the `denylist` policy (at once without one).

        Both count from now, when the desk takes the report, and not from when the holder first spoke: a tap that the
        entry concerns cannot have been uploaded before it, so the books do not depend on who came first (rules 14, 19).
        The same report again gives the same entry. Raises RefusedError `unknown-card`, and `over-limit` for a report
        of the future. Cancelled, the card may be listed.
        """
        now = self._clock.now()
        if reported > now:
            raise RefusedError("over-limit", "A report cannot be of the future. Nothing was listed.")
        async with transaction(self._pool) as connection:
            registry = await self._feed.current(connection)
            if await rows.card_row(connection, card) is None:
                raise RefusedError("unknown-card", "The registry has no such card. Nothing was listed.")
            delay = registry.value(DenylistDelay, "*", registry.business_date(now))
            effective = now + timedelta(seconds=delay.effective_after_s if delay else 0)
            published = now + timedelta(seconds=delay.publish_after_s if delay else 0)
            row = await rows.report(connection, card, reason, reported, effective, published)
        return Listed(row["version"], row["effective_at"], row["published_at"])

    async def replace(self, old: bytes, new: bytes) -> dict[int, int]:
        """Put `new` in the place of `old`, which is lost or dead; what `old` holds by the books, fen by purse (rule
        18). Their sum is what the next load of `new` through channel `transfer` may carry.

        The same pair again gives the same answer. Raises RefusedError `unknown-card`; `frozen-card` when either card
        has been replaced or replaces another, or `new` is on the denylist; `not-open` while taps of `old` may still
        come in or its value is in doubt. Cancelled, the replacement may have been made.
        """
        async with transaction(self._pool) as connection:
            for row in await rows.replacements_with(connection, old, new):
                if (row["old"], row["new"]) == (old, new):
                    return await rows.replaced_value(connection, old)
                if row["new"] != old:
                    raise RefusedError(
                        "frozen-card", "One of the cards is part of another replacement. Nothing was done."
                    )
            if old == new or await rows.card_row(connection, old) is None:
                raise RefusedError("unknown-card", "The registry has no such card to replace. Nothing was done.")
            await _check_card(connection, new)
            now = self._clock.now()
            await check_window(connection, await self._feed.current(connection), old, now)
            values = {purse: fen for purse, fen in await rows.shadow_values(connection, old) if fen > 0}
            await rows.insert_replacement(connection, old, new, values, now)
        return values


async def _check_card(connection: Connection, card: bytes, issuer: bytes | None = None) -> None:
    row = await rows.card_row(connection, card)
    if row is None or issuer not in (None, row["issuer"]):
        raise RefusedError("unknown-card", "The registry has no such card. Nothing was done. Register it first.")
    if row["frozen"]:
        raise RefusedError("frozen-card", "The card is reported, frozen or replaced. Nothing was done. Keep the card.")


def _check_split(request: ActRequest) -> None:
    payers = set(request.split)
    whole = all(fen >= 0 for fen in request.split.values()) and sum(request.split.values()) == request.amount_fen
    if not payers <= set(PAYER_CLASS) or not whole:
        raise RefusedError(
            "split",
            f"The split has to give {request.amount_fen} fen to {' and '.join(sorted(PAYER_CLASS))}. "
            "Nothing was opened.",
        )
