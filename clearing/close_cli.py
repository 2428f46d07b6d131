"""`onecard clearing close | verify | explain | import | books | cases`: what an accountant does with a day.

Mounted into `onecard clearing` by `clearing.cli`. Every command takes the database from the settings, or from `--state`
or `--dsn`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import cyclopts
from rich.console import Console
from rich.table import Column, Table

from cardcore.errors import SetupError
from clearing.close.command import Closing
from clearing.close.command import close as close_date
from clearing.explain import explain as explain_reference
from clearing.ledger.export import export
from clearing.municipal.importer import ImportReport, import_taps
from clearing.place import READ, WRITE, Readiness, clock_of, open_pool
from clearing.settings import Settings, settings_with
from clearing.store import books as rows
from clearing.store.types import Pool, StoredRow
from clearing.verify import Check
from clearing.verify import verify as verify_books

app = cyclopts.App(name="closing", help="What a day comes to: close, prove, explain.")
_console = Console(highlight=False)
Result = TypeVar("Result")


@app.command
def close(
    *,
    day: Annotated[date | None, cyclopts.Parameter(name="--date")] = None,
    state: Path | None = None,
    dsn: str | None = None,
    clock: Path | None = None,
) -> None:
    """Close the open business date and open the next; closing a closed date again changes nothing.

    A timer names the date, so that its second try closes no other: `--date "$(date -d yesterday +%F)"`.

    Parameters
    ----------
    day
        The date that you mean to close; the open one unless given.
    state
        Directory of the database.
    dsn
        A PostgreSQL >= 16 of your own instead of the embedded one.
    clock
        A file that holds the instant of now, instead of the machine's clock.
    """
    settings = settings_with(state=state, dsn=dsn, clock=clock)
    closing = _ask(settings, WRITE, lambda pool: close_date(pool, day, clock_of(settings)))
    _console.print(_closing_told(closing), soft_wrap=True)
    if closing.fees:
        table = Table("sector", "operator", "base fen", "bps", "fee fen", "remainder /10000", title="Fees")
        for fee in closing.fees:
            table.add_row(*map(str, (fee.sector, fee.operator, fee.base_fen, fee.bps, fee.fee_fen, fee.remainder)))
        _console.print(table)


@app.command
def verify(*, state: Path | None = None, dsn: str | None = None) -> None:
    """Recompute every invariant of the books from the facts; ends with status 1 when one fails."""
    checks = _ask(settings_with(state=state, dsn=dsn), READ, verify_books)
    _console.print(_checks_told(checks))
    if failed := sum(not check.ok for check in checks):
        _console.print(
            f"{failed} of {len(checks)} checks failed. Nothing was changed: show this to the people on call."
        )
        raise SystemExit(1)
    _console.print(f"All {len(checks)} checks hold.")


@app.command
def explain(reference: str, /, *, state: Path | None = None, dsn: str | None = None) -> None:
    """Tell a record's verdict, postings and cases, or a posting's records.

    Parameters
    ----------
    reference
        A record as terminal/epoch/sequence or as card/proof key in hex, a load by its id or as card/purse/counter, or
        the number of a posting.
    """
    _console.print(
        _ask(settings_with(state=state, dsn=dsn), READ, lambda pool: explain_reference(pool, reference)),
        markup=False,
        soft_wrap=True,
    )


@app.command(name="import")
def import_file(
    file: Path,
    *,
    format: Literal["municipal-taps"] = "municipal-taps",
    register_companies: bool = False,
    state: Path | None = None,
    dsn: str | None = None,
    clock: Path | None = None,
) -> None:
    """Take in taps of a source without cryptograms; taking a file twice changes nothing.

    Parameters
    ----------
    file
        A CSV file with a header, in UTF-8 or GB18030.
    format
        The scheme of the source.
    register_companies
        Make an operator of each company that the `source` policy does not name.
    """
    settings = settings_with(state=state, dsn=dsn, clock=clock)
    try:
        report = _ask(
            settings,
            WRITE,
            lambda pool: import_taps(pool, file, clock_of(settings), register_companies=register_companies),
        )
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}. Nothing was imported.") from error
    for part in _import_told(report):
        _console.print(part)


@app.command
def books(*, out: Path, state: Path | None = None, dsn: str | None = None) -> None:
    """Write books.jsonl, cases.jsonl and statements/ for a stranger to check, and print both digests."""
    written = _ask(settings_with(state=state, dsn=dsn), READ, lambda pool: export(pool, out))
    _console.print(f"{len(written.lines)} lines of books written to {out}.", markup=False)
    digests = f"books_digest     {written.books_digest}\nsubstance_digest {written.substance_digest}"
    _console.print(digests, soft_wrap=True)


@app.command
def cases(
    *, kind: str | None = None, everything: bool = False, state: Path | None = None, dsn: str | None = None
) -> None:
    """List open cases: what does not match, since when, and whose it is.

    Parameters
    ----------
    kind
        Only cases of this kind.
    everything
        Resolved ones as well.
    """
    known = _ask(settings_with(state=state, dsn=dsn), READ, lambda pool: _cases(pool, kind))
    found = [case for case in known if everything or not case["resolved"]]
    told = [_case_told(case) for case in found]
    if not _console.is_terminal:
        # Whoever reads a pipe wants whole cells, one case a line.
        for cells in (CASE_COLUMNS, *told):
            _console.file.write("\t".join(cells) + "\n")
        return
    table = Table(*CASE_COLUMNS, title=f"{len(found)} cases")
    for cells in told:
        table.add_row(*cells)
    _console.print(table)


CASE_COLUMNS = ("kind", "subject", "fen", "opened", "resolved", "owner", "detail")


def _case_told(case: StoredRow) -> tuple[str, ...]:
    resolved = f"{case['resolved']} {case['resolution']}" if case["resolved"] else ""
    rest = (case["opened"], resolved, case["owner"], case["detail"])
    return tuple(map(str, (case["kind"], case["subject"], case["amount_fen"], *rest)))


async def _cases(pool: Pool, kind: str | None) -> list[StoredRow]:
    async with pool.acquire() as connection:
        return await rows.cases(connection, kind)


def _closing_told(closing: Closing) -> str:
    if closing.repeated:
        return f"{closing.date} was closed at {closing.closed_at:%Y-%m-%d %H:%M:%S} UTC. Nothing was changed."
    return (
        f"{closing.date} is closed: it had {_counted(closing.posted_before, 'posting')}, and the close made "
        f"{closing.postings} more; {_counted(closing.opened, 'case')} opened, {closing.resolved} resolved, "
        f"{closing.standing} {'stands' if closing.standing == 1 else 'stand'} open.\n"
        f"books_digest     {closing.books_digest}\nsubstance_digest {closing.substance_digest}"
    )


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _checks_told(checks: list[Check]) -> Table:
    table = Table("check", "holds", "examined", "detail")
    for check in checks:
        table.add_row(check.name, "[green]yes[/]" if check.ok else "[bold red]NO[/]", str(check.checked), check.detail)
    return table


def _import_told(report: ImportReport) -> list[str | Table]:
    kept = ", ".join(f"{code} {count}" for code, count in sorted(report.quarantined.items())) or "none"
    told: list[str | Table] = [
        f"{report.lines} lines: {report.accepted} accepted ({report.rides} rides), {report.duplicates} known already, "
        f"kept with a reason: {kept}."
    ]
    if report.registered:
        told.append(f"Registered as operators: {', '.join(report.registered)}.")
    if report.unknown:
        told.append(
            f"Companies that nobody knows: {', '.join(sorted(report.unknown))}. Name them in the `source` policy."
        )
    number = Column("operator", no_wrap=True)
    company = Column("company", overflow="fold")
    table = Table(number, company, "rides", "new", "full fare fen", "charged fen", "discount fen")
    for row in report.operators:
        fields = (row.operator, row.name, row.rides, row.fresh, row.full_fare_fen, row.charged_fen, row.discount_fen)
        table.add_row(*map(str, fields))
    return [*told, table]


def _ask(settings: Settings, readiness: Readiness, act: Callable[[Pool], Awaitable[Result]]) -> Result:
    """Run one act on the database of the settings."""

    async def run() -> Result:
        async with open_pool(settings, readiness) as pool:
            return await act(pool)

    return asyncio.run(run())
