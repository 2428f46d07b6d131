"""The service as a whole: pool, intake, desk and HTTP, started in order and stopped without losing an answer."""

import asyncio
import errno
import ipaddress
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from cardcore.errors import KeyUseError, SetupError
from clearing.clock import Clock
from clearing.desk import Desk, desk_routes
from clearing.desk.ceilings import Arming
from clearing.intake.frame import MOST_BYTES
from clearing.intake.intake import Intake
from clearing.intake.proving import Verifiers
from clearing.registry.snapshot import RegistryFeed
from clearing.service.ceilings import CeilingsRoute
from clearing.service.edge import guards, problems
from clearing.service.terminals import Terminals
from clearing.settings import DAY_FEN, OPERATOR_FEN, TERMINAL_FEN
from clearing.store import migrate
from clearing.store.connect import connect_pool
from clearing.store.intake import open_first_day
from keys.loads import LOCAL, Quotas
from keys.psams import PsamKeeper
from keys.spending import Quota
from keys.store import KeyStore

KEEPALIVE_S = 75.0
DRAIN_S = 20.0
POOL = 24
_log = structlog.get_logger("clearing.service")


def daily_quotas(fen: int, operator_fen: int, terminal_fen: int) -> Quotas:
    """What may be loaded in a day, fen: in all, through one operator, at one terminal."""
    return Quotas(
        total=Quota(loads=1_000_000, fen=fen),
        terminal=Quota(loads=5_000, fen=terminal_fen),
        operator=Quota(loads=500_000, fen=operator_fen),
    )


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where the money and the keys are, where to listen, and whose time it is. Port 0 takes any free one."""

    dsn: str
    store: KeyStore
    clock: Clock
    host: str = "127.0.0.1"
    port: int = 8478
    quotas: Quotas = field(default_factory=lambda: daily_quotas(DAY_FEN, OPERATOR_FEN, TERMINAL_FEN))


@dataclass(frozen=True, slots=True)
class Running:
    """A service that listens at `url`."""

    url: str


async def serve(settings: ServiceSettings) -> None:
    """Run until cancelled; then no request is taken any more, and those that were taken are answered.

    Raises SetupError and its kin (clearing/store/errors.py) when the service cannot start; nothing was changed then.
    """
    async with running(settings) as service:
        _log.info("listening", url=service.url)
        await asyncio.Event().wait()


@asynccontextmanager
async def running(settings: ServiceSettings) -> AsyncIterator[Running]:
    """The service for the length of a `with`; on the way out it drains as `serve` does."""
    _check_loopback(settings.host)
    pool = await connect_pool(settings.dsn, size=POOL)
    # Loads wait for the disk in threads, and the more of them wait the more share a turn of it.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(POOL, "waiting"))
    try:
        await migrate.check(pool)
        feed = RegistryFeed()
        async with pool.acquire() as connection:
            registry = await feed.current(connection)
            if registry.calendar:
                await open_first_day(connection, registry.business_date(settings.clock.now()))
        intake = Intake(pool, Verifiers.of(settings.store), settings.clock, feed)
        zone = registry.calendar.zone_at(settings.clock.now()) if registry.calendar else LOCAL
        loads = settings.store.load_authoriser(settings.clock, settings.quotas, zone)
        desk = Desk(pool, loads, settings.clock, feed)
        app = web.Application(middlewares=[problems, guards], client_max_size=MOST_BYTES)
        app.add_routes(Terminals(pool, intake, feed, settings.clock).routes())
        app.add_routes(desk_routes(desk, settings.clock))
        arming = Arming(pool, _psam_keeper(settings.store), settings.clock, feed)
        app.add_routes(CeilingsRoute(arming).routes())
        await intake.start()
        try:
            async with _listening(app, settings) as service:
                yield service
        finally:
            await intake.stop()
    finally:
        await pool.close()


def _psam_keeper(store: KeyStore) -> PsamKeeper | None:
    """None where the keys of PSAMs are kept elsewhere: that house answers them then, and the rest of this one works."""
    try:
        return store.psam_keeper()
    except KeyUseError:
        return None


@asynccontextmanager
async def _listening(app: web.Application, settings: ServiceSettings) -> AsyncIterator[Running]:
    runner = web.AppRunner(
        app, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=DRAIN_S, auto_decompress=False, access_log=None
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
            raise SetupError(
                f"Port {settings.port} of {settings.host} {why}. Nothing was started. Stop the other program, or "
                "name another port with --port."
            ) from error
        host, port = runner.addresses[0][:2]
        yield Running(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    finally:
        await runner.cleanup()


def _check_loopback(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SetupError(
            f"The service does not listen on {host}: terminals do not authenticate themselves yet, so only the "
            "loopback is safe. Nothing was started. Use 127.0.0.1."
        )
