"""Close a business date: one restartable command, all of it or nothing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from cardcore.errors import RefusedError
from clearing.clock import Clock
from clearing.close.fees import RULE, Fee, fee_legs, fees
from clearing.close.gaps import Evidence, Step, Weighed, weigh
from clearing.close.purses import read_purses
from clearing.ledger import accounts
from clearing.ledger.export import read_books
from clearing.rating.policies import Policies
from clearing.rating.reading import calendar_of, read_policies
from clearing.rating.transit import Ride, rate
from clearing.reconcile.kinds import FREEZING, OWNERS, RESOLVED_BY_ITSELF
from clearing.registry.dates import Calendar
from clearing.seals import seal
from clearing.settlement.netting import net
from clearing.settlement.reading import read_movements
from clearing.store import books as book_rows
from clearing.store import cases as case_rows
from clearing.store import close as rows
from clearing.store import purses as purse_rows
from clearing.store.transaction import transaction
from clearing.store.types import Connection, Pool, StoredRow
from keys.proof import merkle_root

Leg = tuple[str, str, str, str, int, date, int, int, bytes | None]
Target = tuple[str, int, str, bytes | None, str, str, date, int]
Finding = tuple[str, str, int, str, str, str | None]


@dataclass(frozen=True, slots=True)
class Closing:
    """A closed date; `repeated`: it was closed before, nothing was changed. Cases are counted as this close left
    them, postings as it found the date (`posted_before`) and as it made them (`postings`).
    """

    date: date
    closed_at: datetime
    books_digest: str
    substance_digest: str
    repeated: bool = False
    posted_before: int = 0
    postings: int = 0
    fees: tuple[Fee, ...] = ()
    opened: int = 0
    resolved: int = 0
    standing: int = 0


async def close(pool: Pool, day: date | None, clock: Clock) -> Closing:
    """Close the open date (`day` None: whichever it is). Closing a closed date says so and changes nothing.

    Raises RefusedError('no-open-day' | 'not-the-open-day'). One transaction: a failed or cancelled close leaves the
    date open and everything as it was. Intakes wait meanwhile, since the open date is locked.
    """
    async with transaction(pool) as connection:
        open_day = await rows.lock_open_day(connection)
        if day is not None and (closed := await rows.read_closing(connection, day)):
            return Closing(**dict(closed), repeated=True)
        if open_day is None:
            raise RefusedError(
                "no-open-day",
                "No business date is open, so none can be closed. Take a registry file and start the service, or "
                "import taps: that opens the first date.",
            )
        if day is not None and day != open_day:
            raise RefusedError(
                "not-the-open-day",
                f"{day} cannot be closed: the open date is {open_day}, and dates close in order. Nothing was changed. "
                f"Close {open_day} first.",
            )
        return await _close(connection, open_day, clock.now())


async def _close(connection: Connection, day: date, at: datetime) -> Closing:
    policies = await read_policies(connection)
    calendar = calendar_of(policies)
    weighed = await examine(connection, policies)
    posted_before = await rows.count_postings(connection, day)
    await rows.dispute(connection, day)
    for state in ("committed", "reversed"):
        decided = [load_id for purse in weighed for load_id in getattr(purse, state)]
        await purse_rows.settle_loads(connection, state, decided, day)
    loads, judged = await purse_rows.unproven_loads(connection), judged_steps(weighed)
    await find(connection, judged, loads, calendar, day)
    await put_targets(connection, judged, loads, calendar, day)
    await case_rows.fold(connection, day, RESOLVED_BY_ITSELF)
    await _freeze(connection, day, at, policies)
    legs = [_leg(row) for row in await rows.carry(connection, day)]
    if legs:
        await rows.post(connection, day, at, legs)
    earned = fees(day, await read_movements(connection, day), policies)
    owed = [
        (ledger, account, accounts.class_of(account), RULE, version, day, 0, fen, None)
        for ledger, account, version, fen in fee_legs(earned)
    ]
    if owed:
        await rows.post(connection, day, at, owed)
    closing = await _seal(connection, day, at)
    tally = await case_rows.tally(connection, day)
    postings = len(legs) + len(owed)
    return replace(closing, posted_before=posted_before, postings=postings, fees=tuple(earned), **dict(tally))


async def examine(connection: Connection, policies: Policies) -> list[Weighed]:
    """Lay out all that is known, rate its rides, and weigh every purse that does not explain itself."""
    await rows.gather(connection)
    await rows.put_tariff(connection, [_tariff(row, policies) for row in await rows.ride_keys(connection)])
    weighed = [weigh(purse) for purse in await read_purses(connection)]
    await purse_rows.put_tails(
        connection, [(one.purse.card, one.purse.number, one.purse.generation, one.tail_fen) for one in weighed]
    )
    return weighed


def judged_steps(weighed: Iterable[Weighed]) -> list[tuple[Step, Evidence]]:
    """The steps of all purses with what each comes to."""
    return [judged for purse in weighed for judged in purse.steps]


async def put_targets(
    connection: Connection,
    judged: Iterable[tuple[Step, Evidence]],
    loads: Iterable[StoredRow],
    calendar: Calendar,
    day: date,
) -> None:
    """What must have been posted by the close of `day` for gaps, loads, replacements, subsidies and forks."""
    await rows.target_sets(connection)
    replaced = [(row, calendar.business_date(row["made_at"])) for row in await rows.replaced_values(connection)]
    targets = [*_gap_targets(judged), *_load_targets(loads, calendar), *_replacement_targets(replaced, day)]
    await rows.put_targets(connection, targets)


async def find(
    connection: Connection,
    judged: Iterable[tuple[Step, Evidence]],
    loads: Iterable[StoredRow],
    calendar: Calendar,
    day: date,
) -> None:
    """Lay out what the close of `day` finds: the reasons for cases."""
    await case_rows.find(connection, day, [*_gap_findings(judged), *_load_findings(loads, day, calendar)])


async def _seal(connection: Connection, day: date, at: datetime) -> Closing:
    await book_rows.fold_balances(connection, day)
    books = await read_books(connection)
    digests = (books.books_digest, books.substance_digest)
    positions = net(await read_movements(connection, day))
    states = json.dumps([line.document() for line in books.states])
    nets = [(one.class_, one.party, one.net_fen) for one in positions]
    await rows.seal_day(connection, day, at, digests, states, nets)
    await seal(connection, day)
    return Closing(day, at, *digests)


async def _freeze(connection: Connection, day: date, at: datetime, policies: Policies) -> None:
    policy = policies.find("denylist", day, "*")
    published_at = at + timedelta(seconds=policy.number("publish_after_s") if policy else 0)
    found = await case_rows.cards_of(connection, day, *FREEZING)
    for kind in FREEZING:
        cards = [row["card"] for row in found if row["kind"] == kind]
        await rows.freeze(connection, cards, kind, at, published_at)


def _tariff(row: StoredRow, policies: Policies) -> tuple[object, ...]:
    key = tuple(row)
    fare = rate(Ride(*key), policies)
    return (*key, fare.full_fen, fare.due_fen, fare.version)


def _gap_findings(judged: Iterable[tuple[Step, Evidence]]) -> Iterable[Finding]:
    for _, evidence in judged:
        if evidence.kind:
            owner = OWNERS.get(evidence.kind, accounts.ISSUER)
            yield evidence.kind, evidence.subject, evidence.amount_fen, owner, "{}", None


_DECIDED = {"reversed": 0, "authorised": 1, "committed": 2}


def _load_findings(loads: Iterable[StoredRow], day: date, calendar: Calendar) -> Iterable[Finding]:
    # Tries under one online counter are one case: of the one that was committed, else of the last that is undecided.
    told: dict[str, StoredRow] = {}
    for load in sorted(loads, key=lambda load: (_DECIDED[load["state"]], load["authorised_at"])):
        # A load that a close has decided is on record even when it was authorised after that close's cut-off.
        decided = load["settled_on"] is not None and load["settled_on"] <= day
        if decided or calendar.business_date(load["authorised_at"]) <= day:
            told[f"{load['card'].hex()}/{load['purse']}/{load['counter']}"] = load
    for subject, load in told.items():
        resolution = load["state"] if load["state"] != "authorised" else None
        detail = json.dumps({"load_id": load["load_id"], "channel": load["channel"]})
        yield "load-in-doubt", subject, load["amount_fen"], accounts.ISSUER, detail, resolution


def _gap_targets(judged: Iterable[tuple[Step, Evidence]]) -> Iterable[Target]:
    for step, evidence in judged:
        if evidence.gap_fen:
            for account, sign in ((accounts.float_account(step.purse), 1), (accounts.unsettled(step.purse), -1)):
                amount_fen = sign * evidence.gap_fen
                yield "gap", 1, step.reference, step.proof_key, accounts.PURSE, account, step.origin_date, amount_fen


def _load_targets(loads: Iterable[StoredRow], calendar: Calendar) -> Iterable[Target]:
    for load in loads:
        if load["state"] == "committed":
            origin = calendar.business_date(load["authorised_at"])
            for account, sign in ((accounts.channel(load["channel"]), 1), (accounts.float_account(load["purse"]), -1)):
                yield "load", 1, load["load_id"], None, accounts.PURSE, account, origin, sign * load["amount_fen"]


def _replacement_targets(replaced: Iterable[tuple[StoredRow, date]], day: date) -> Iterable[Target]:
    for row, origin in replaced:
        if origin <= day:
            subject = f"{row['old'].hex()}/{row['purse']}"
            for account, sign in ((accounts.float_account(row["purse"]), 1), (accounts.TRANSFER, -1)):
                yield "replace", 1, subject, None, accounts.PURSE, account, origin, sign * row["value_fen"]


def _leg(row: StoredRow) -> Leg:
    keys: Sequence[bytes] = row["proof_keys"]
    return (
        row["ledger"], row["account"], accounts.class_of(row["account"]), row["rule"], row["version"],
        row["origin_date"],
        len(keys), row["fen"], merkle_root(keys) if keys else None,
    )  # fmt: skip
