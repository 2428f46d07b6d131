"""The desk over HTTP (docs/wire.md, "The desk")."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, TypeVar

from aiohttp import web
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from cardcore.authority import ActRequest, CardIdentity, LoadRequest
from cardcore.errors import FormatError
from cardcore.record import Sector, Suite
from clearing.clock import Clock
from clearing.desk.desk import ACT_LIFE, Desk
from clearing.ledger.accounts import TRANSFER
from clearing.problem import Problem, Retry
from clearing.registry.document import CardRow, CardSerial, IssuerCode, SectorName, hex_bytes, parse_document
from clearing.registry.snapshot import Registry

Body = TypeVar("Body", bound=BaseModel)
U8 = Annotated[int, Field(ge=0, le=0xFF)]
Amount = Annotated[int, Field(ge=1, le=2**31 - 1)]
TerminalId = Annotated[int, Field(ge=1, le=2**32 - 1)]
TerminalNumber = Annotated[bytes, hex_bytes(6)]
_ACT_SECTORS = (Sector.SOCIAL, Sector.MEDICAL)


def _act_sector(sector: Sector) -> Sector:
    if sector not in _ACT_SECTORS:
        raise ValueError("takes social or medical: the other sectors have no online acts")
    return sector


def _act_sector_of(name: object) -> object:
    """A sector by label, or by number as in the record."""
    return Sector(name).label if isinstance(name, int) and name in set(Sector) else name


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LoadBody(_Body):
    terminal: TerminalId
    terminal_number: TerminalNumber
    issuer: IssuerCode
    card: CardSerial
    purse: U8
    generation: U8
    suite: Annotated[int, Field(ge=0, le=0xFF)]
    key_version: U8
    key_index: U8
    amount_fen: Amount
    channel: str
    balance_fen: Annotated[int, Field(ge=0, le=2**32 - 1)]
    counter: Annotated[int, Field(ge=0, le=0xFFFF)]
    random: Annotated[bytes, hex_bytes(4)]
    mac1: Annotated[bytes, hex_bytes(4)]

    def request(self) -> LoadRequest:
        """Raises FormatError on a suite that no card answers."""
        try:
            suite = Suite(self.suite)
        except ValueError as error:
            raise FormatError(f"suite {self.suite} is neither 0 (3DES) nor 4 (SM4)") from error
        return LoadRequest(
            identity=CardIdentity(self.issuer, self.card, suite),
            terminal=self.terminal,
            terminal_number=self.terminal_number,
            purse=self.purse,
            generation=self.generation,
            key_suite=suite,
            key_version=self.key_version,
            key_index=self.key_index,
            amount_fen=self.amount_fen,
            channel=self.channel,
            raw_balance_fen=self.balance_fen,
            counter=self.counter,
            random=self.random,
            mac1=self.mac1,
        )


class ActBody(_Body):
    terminal: TerminalId
    terminal_number: TerminalNumber
    sector: Annotated[SectorName, BeforeValidator(_act_sector_of), AfterValidator(_act_sector)]
    issuer: IssuerCode
    card: CardSerial
    amount_fen: Amount
    transaction_type: Annotated[int, Field(ge=0xA1, le=0xA3)]
    split: dict[str, int]


class ReportBody(_Body):
    card: CardSerial
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    reported_at: Annotated[AwareDatetime, Field(strict=False)]


class ReplacementBody(_Body):
    old: CardSerial
    new: CardSerial


@dataclass(frozen=True, slots=True)
class _Routes:
    desk: Desk
    clock: Clock

    async def loads(self, request: web.Request) -> web.Response:
        body = await _read(request, LoadBody)
        registry = await self.desk.registry()
        _check_terminal(registry, body.terminal, body.terminal_number)
        party = registry.parties.get(int(body.channel)) if body.channel.isascii() and body.channel.isdecimal() else None
        if body.channel != TRANSFER and (party is None or party.kind not in ("bank", "counter")):
            raise _bad("channel names a party of kind bank or counter, or transfer")
        if party and str(party.id) != body.channel:
            raise _bad("channel is a party id without leading zeros")
        grant = await self.desk.authorise_load(body.request())
        answer = {
            "load_id": grant.load_id,
            "date": grant.date.hex(),
            "time": grant.time.hex(),
            "mac2": grant.mac2.hex(),
        }
        return web.json_response(answer, status=201)

    async def acts(self, request: web.Request) -> web.Response:
        body = await _read(request, ActBody)
        registry = await self.desk.registry()
        _check_terminal(registry, body.terminal, body.terminal_number)
        if registry.terminals[body.terminal].sector != body.sector:
            raise _bad(f"terminal {body.terminal} belongs to another sector than {body.sector.label}")
        identity = CardIdentity(body.issuer, body.card, Suite.SM4)
        opened = self.clock.now()
        grant = await self.desk.open_act(
            ActRequest(
                identity=identity,
                terminal=body.terminal,
                terminal_number=body.terminal_number,
                sector=body.sector,
                amount_fen=body.amount_fen,
                transaction_type=body.transaction_type,
                split=body.split,
            )
        )
        names = ("act_id", "challenge", "date", "time", "digest")
        answer = {name: getattr(grant, name).hex() for name in names}
        return web.json_response(answer | {"expires_at": (opened + ACT_LIFE).isoformat()}, status=201)

    async def cards(self, request: web.Request) -> web.Response:
        row = await _read(request, CardRow)
        await self.desk.register(row)
        return web.json_response({"card": row.card.hex()}, status=201)

    async def reports(self, request: web.Request) -> web.Response:
        body = await _read(request, ReportBody)
        listed = await self.desk.report(body.card, body.reason, body.reported_at.astimezone(UTC))
        answer = {
            "list_version": listed.version,
            "effective_at": listed.effective_at.isoformat(),
            "published_at": listed.published_at.isoformat(),
        }
        return web.json_response(answer, status=201)

    async def replacements(self, request: web.Request) -> web.Response:
        body = await _read(request, ReplacementBody)
        values = await self.desk.replace(body.old, body.new)
        answer = {"load_fen": sum(values.values()), "values": {str(purse): fen for purse, fen in values.items()}}
        return web.json_response(answer, status=201)


def desk_routes(desk: Desk, clock: Clock) -> list[web.RouteDef]:
    """The calls of the desk."""
    routes = _Routes(desk, clock)
    calls: dict[str, Callable[[web.Request], Awaitable[web.Response]]] = {
        "cards": routes.cards,
        "loads": routes.loads,
        "acts": routes.acts,
        "reports": routes.reports,
        "replacements": routes.replacements,
    }
    return [web.post(f"/v1/desk/{name}", call) for name, call in calls.items()]


async def _read(request: web.Request, model: type[Body]) -> Body:
    if request.content_type != "application/json":
        raise Problem(415, "media", Retry.NEVER, "The desk takes application/json.")
    try:
        return parse_document(model, await request.read(), "the body")
    except FormatError as error:
        raise Problem(400, "bad-schema", Retry.NEVER, str(error)) from error


def _check_terminal(registry: Registry, terminal: int, number: bytes) -> None:
    if terminal not in registry.terminals:
        raise Problem(403, "unknown-terminal", Retry.NEVER, f"Terminal {terminal} is not in the registry.")
    if number != b"\0\0" + terminal.to_bytes(4):
        raise _bad("terminal_number of a counter is 0000 and its terminal id in hex")


def _bad(message: str) -> Problem:
    return Problem(400, "bad-schema", Retry.NEVER, f"{message}. Nothing was done.")
