"""`onecard clearing`: the commands of the clearing house."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import cyclopts
import structlog
from rich.console import Console

from cardcore.errors import SetupError
from clearing import close_cli
from clearing.intake import Verifiers
from clearing.intake import retake as retake_exhibits
from clearing.place import SERVE, WRITE, clock_of, open_pool
from clearing.registry import declare as declare_totals
from clearing.registry import parse_declared, parse_registry, take
from clearing.service import ServiceSettings, daily_quotas
from clearing.service import serve as run_service
from clearing.service.logging import log_as_json
from clearing.settings import Settings, settings_with
from clearing.store.launcher import launch
from keys.store import open_store
from keys.unlocking import unlock

app = cyclopts.App(name="clearing", help="What taps are worth: take in, prove, post, close.")
app.update(close_cli.app)
_log = structlog.get_logger("clearing.service")
_console = Console(highlight=False)


@app.command
def serve(
    *,
    state: Path | None = None,
    dsn: str | None = None,
    port: int | None = None,
    clock: Path | None = None,
    token: str | None = None,
) -> None:
    """Take batches and desk calls over HTTP until interrupted.

    Parameters
    ----------
    state
        Directory of the database and the keys; made when missing.
    dsn
        A PostgreSQL >= 16 of your own instead of the embedded one.
    port
        Port on the loopback, 8478 unless given.
    clock
        A file that holds the instant of now, instead of the machine's clock.
    token
        URI of the token (PKCS#11) that holds the keys, with the source of its PIN.
    """
    settings = settings_with(state=state, dsn=dsn, port=port, clock=clock, token=token)
    log_as_json()
    asyncio.run(_serve(settings, unlock(settings.keys, settings.token, settings.passphrase_file)))


@app.command
def registry(file: Path, *, state: Path | None = None, dsn: str | None = None, clock: Path | None = None) -> None:
    """Take parties, terminals, PSAMs, policies and cards from a JSON document into the registry."""
    document = parse_registry(_read(file))
    settings = settings_with(state=state, dsn=dsn, clock=clock)

    async def act() -> None:
        async with open_pool(settings, WRITE) as pool, pool.acquire() as connection:
            changed = await take(connection, document, clock_of(settings))
        _console.print("New or changed: " + ", ".join(f"{kind} {count}" for kind, count in changed.items()) + ".")

    asyncio.run(act())


@app.command
def declare(file: Path, *, state: Path | None = None, dsn: str | None = None) -> None:
    """Take operators' totals, one JSON object a line."""
    totals = parse_declared(_read(file))

    async def act() -> None:
        async with open_pool(settings_with(state=state, dsn=dsn), WRITE) as pool, pool.acquire() as connection:
            changed = await declare_totals(connection, totals)
        _console.print(f"{len(totals)} totals read, {changed} new or changed.")

    asyncio.run(act())


@app.command
def retake(
    *, state: Path | None = None, dsn: str | None = None, clock: Path | None = None, token: str | None = None
) -> None:
    """Judge again what lacked a PSAM, an issuer or a key when it came."""
    settings = settings_with(state=state, dsn=dsn, clock=clock, token=token)
    secret = unlock(settings.keys, settings.token, settings.passphrase_file)

    async def act() -> None:
        with open_store(settings.keys, token=settings.token, passphrase=secret, anchor=settings.anchor) as store:
            async with open_pool(settings, WRITE) as pool:
                done = await retake_exhibits(pool, Verifiers.of(store), clock_of(settings))
        _console.print(
            f"{done.looked_at} records looked at: {done.proven} proven, {done.changed} with another verdict."
        )

    asyncio.run(act())


async def _serve(settings: Settings, secret: str | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    dsn = settings.dsn or (await asyncio.to_thread(launch, settings.state)).dsn
    async with open_pool(Settings(state=settings.state, dsn=dsn), SERVE, size=1):
        pass
    with open_store(settings.keys, token=settings.token, passphrase=secret, anchor=settings.anchor) as store:
        for limit in store.limits:
            _log.warning(str(limit))
        quotas = daily_quotas(settings.quota_fen, settings.operator_quota_fen, settings.terminal_quota_fen)
        service = asyncio.create_task(
            run_service(ServiceSettings(dsn, store, clock_of(settings), settings.host, settings.port, quotas))
        )
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((service, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        service.cancel()
        with suppress(asyncio.CancelledError):
            await service


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} cannot be read: {error}. Nothing was changed.") from error
