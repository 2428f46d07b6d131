"""Import a file of municipal taps: stream it, count each row once, post its rides (docs/ledger.md names the states and
files).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path

from cardcore.errors import RefusedError
from clearing.clock import Clock
from clearing.ledger import accounts
from clearing.municipal.companies import name_of, parties_of
from clearing.municipal.encoding import digest_of, lines_of, text_of
from clearing.municipal.rows import SCHEME, Layout, Tap
from clearing.rating.policies import Policies
from clearing.rating.reading import calendar_of, read_policies
from clearing.registry.dates import Calendar, date_of, instant_of, wall_us
from clearing.store import municipal as rows
from clearing.store.close import hold_open_day
from clearing.store.intake import open_first_day
from clearing.store.transaction import transaction
from clearing.store.types import Connection, Pool, StoredRow
from keys.proof import merkle_root

# The cut-off of a registry that has none, when an import may register what it needs (docs/registry.md).
FIRST_DATE, ZONE, CUT_OFF = date(1990, 1, 1), "Asia/Shanghai", "02:00"
CHUNK = 20_000
TRANSIT = "transit"


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """Rides of an operator that the file names, each once; `fresh` of them no earlier import had accepted. Amounts in
    fen, discount = full fare − charged.
    """

    operator: int
    name: str
    rides: int
    fresh: int
    full_fare_fen: int
    charged_fen: int

    @property
    def discount_fen(self) -> int:
        return self.full_fare_fen - self.charged_fen


@dataclass(slots=True)
class ImportReport:
    """What became of a file's lines: lines = accepted + quarantined + duplicates. `registered` are new companies."""

    file: bytes
    lines: int = 0
    accepted: int = 0
    rides: int = 0
    duplicates: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    registered: tuple[str, ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)
    operators: list[OperatorFigures] = field(default_factory=list)


async def import_taps(pool: Pool, path: Path, clock: Clock, *, register_companies: bool = False) -> ImportReport:
    """Import one file in one transaction, which a failure or cancellation undoes whole; memory does not grow with the
    file.

    Rows that are stored already, from this file or another, count as duplicates, so that importing twice changes
    nothing. A company that the `source` policy does not name is registered when `register_companies`, else its rows are
    kept with the reason `unknown-company`; a `cut-off` policy is made then, too, where the registry has none. Where no
    date is open yet, that of now is opened. Raises RefusedError('no-source' | 'no-cut-off' | 'company-number' |
    'old-keys'); OSError when the file cannot be read.
    """
    digest = digest_of(path)
    async with transaction(pool) as connection:
        if await rows.holds_old_keys(connection):
            raise RefusedError(
                "old-keys",
                "This database holds rows that an earlier version imported and knows by their spelling, so that a ride "
                "could count twice. Nothing was imported. Import all files into a new database.",
            )
        policies = await read_policies(connection)
        if register_companies and not policies.all("cut-off"):
            await rows.put_cut_off(connection, FIRST_DATE, ZONE, CUT_OFF)
            policies = await read_policies(connection)
        calendar = calendar_of(policies)
        await open_first_day(connection, calendar.business_date(clock.now()))
        open_day = await hold_open_day(connection)
        assert open_day is not None, "it was opened just before, if not earlier"
        report = ImportReport(digest)
        await rows.begin(connection, digest, SCHEME, path.name, clock.now())
        first_journal = await rows.next_journal(connection)
        companies = _companies(policies, open_day, register_companies)
        desk = _Desk(connection, calendar, companies, open_day, clock.now())
        taps = _taps(path)
        while chunk := list(islice(taps, CHUNK)):
            if register_companies:
                await desk.register({tap.company for tap in chunk if not tap.code})
            await desk.take(chunk, report)
        await rows.finish(connection, digest, report.lines)
        report.registered = tuple(sorted(desk.registered))
        names = {operator: company for company, operator in desk.companies.items()}
        report.operators = [
            OperatorFigures(
                row["operator"],
                names.get(row["operator"]) or row["name"],
                row["rides"],
                row["fresh"],
                row["full_fen"],
                row["charged_fen"],
            )
            for row in await rows.figures(connection, first_journal)
        ]
        return report


def _taps(path: Path) -> Iterator[Tap]:
    lines = map(text_of, lines_of(path))
    first = next(lines, None)
    if first is not None:
        layout = Layout(first[0])
        if not layout.has_header:
            yield layout.read(1, *first)
        yield from (layout.read(number, *line) for number, line in enumerate(lines, 2))


def _companies(policies: Policies, on: date, register: bool) -> dict[str, int]:
    policy = policies.find("source", on, SCHEME)
    if policy is None:
        if register:
            return {}
        raise RefusedError(
            "no-source",
            f"No `source` policy with the scope `{SCHEME}` is in force on {on}, so nobody vouches for rows "
            "without cryptograms. "
            "Nothing was imported. Take a registry file with that policy, or let --register-companies make it.",
        )
    named = policy.value.get("operators")
    return {name_of(name): int(party) for name, party in named.items()} if isinstance(named, dict) else {}


class _Desk:
    """Takes chunks of taps into the store, within the importer's transaction."""

    def __init__(self, connection: Connection, calendar: Calendar, companies: dict[str, int], open_day: date,
                 at: datetime) -> None:  # fmt: skip
        self._connection, self._calendar, self._open_day, self._at = connection, calendar, open_day, at
        self.companies = companies
        self.registered: list[str] = []

    async def register(self, names: set[str]) -> None:
        """Parties for companies that the policy does not name, and a version of the policy that does."""
        new = sorted(names - set(self.companies))
        if new:
            known = await rows.operators(self._connection)
            parties = parties_of(SCHEME, new, known)
            await rows.put_operators(
                self._connection, {party: name for name, party in parties.items() if party not in known}
            )
            self.companies |= parties
            self.registered += new
            value = json.dumps({"cryptogram": False, "operators": self.companies}, ensure_ascii=False)
            await rows.put_source_policy(self._connection, SCHEME, self._open_day, value)

    async def take(self, chunk: Sequence[Tap], report: ImportReport) -> None:
        """Store what is new of a chunk, post its rides in a journal of their own, and count."""
        journal = await rows.next_journal(self._connection)
        records = [self._record(tap, *when) for tap, when in zip(chunk, self._instants(chunk), strict=True)]
        fresh = await rows.store_rows(self._connection, report.file, journal, records)
        report.lines += len(chunk)
        report.duplicates += len(chunk) - sum(row["count"] for row in fresh)
        for row in fresh:
            if row["state"] == "accepted":
                report.accepted += row["count"]
                report.rides += row["rides"]
            else:
                report.quarantined[row["code"]] += row["count"]
        report.unknown.update(tap.company for tap in chunk if not tap.code and tap.company not in self.companies)
        postings = list(_legs(await rows.rides_of(self._connection, journal)))
        if postings:
            await rows.post(self._connection, journal, report.file.hex(), self._at, postings)

    def _instants(self, chunk: Sequence[Tap]) -> Iterator[tuple[datetime | None, date | None]]:
        """Instant and our own business date of each tap."""
        known = [at for at, tap in enumerate(chunk) if tap.moment is not None]
        instants, days = self._calendar.resolve(wall_us([chunk[at].moment for at in known]))
        found = {
            at: (instant_of(instant).astimezone(UTC), date_of(day))
            for at, instant, day in zip(known, instants, days, strict=True)
        }
        return (found.get(at, (None, None)) for at in range(len(chunk)))

    def _record(self, tap: Tap, instant: datetime | None, origin: date | None) -> tuple[object, ...]:
        operator = self.companies.get(tap.company)
        code = tap.code or ("" if operator is not None else "unknown-company")
        post_date = None if code or tap.close_date is None else max(tap.close_date, self._open_day)
        return (
            tap.card, tap.key, SCHEME, "quarantined" if code else "accepted", code, operator, tap.ride,
            tap.full_fare_fen,
            tap.charged_fen, instant, tap.close_date, tap.text, tap.line, origin, post_date,
        )  # fmt: skip


def _legs(rides: Sequence[StoredRow]) -> Iterator[tuple[object, ...]]:
    """The entries of a chunk's charged rides: per date a claim on the source, and what is owed to each operator."""
    dates: dict[tuple[date, date], list[StoredRow]] = defaultdict(list)
    for row in rides:
        dates[row["post_date"], row["close_date"]].append(row)
        yield _leg(accounts.payable(row["operator"]), -1, [row])
    for rows_of_date in dates.values():
        yield _leg(accounts.source(SCHEME), 1, rows_of_date)


def _leg(account: str, sign: int, rides: Sequence[StoredRow]) -> tuple[object, ...]:
    return (
        TRANSIT, account, accounts.class_of(account), rides[0]["post_date"], rides[0]["close_date"],
        sum(row["count"] for row in rides), sign * sum(row["charged_fen"] for row in rides),
        merkle_root([key for row in rides for key in row["row_keys"]]),
    )  # fmt: skip
