"""The call by which a terminal has the ceilings of its PSAM set (docs/wire.md, "The ceilings of a PSAM")."""

from dataclasses import dataclass
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from cardcore.authority import PsamIdentity
from cardcore.errors import FormatError
from cardcore.record import Suite
from clearing.desk.ceilings import Arming, Statement
from clearing.problem import Problem, Retry
from clearing.registry.document import hex_bytes, parse_document
from clearing.service.edge import read_body

_PATH = r"/v1/t/{terminal:\d{1,10}}/psams/{number:[0-9a-f]{12}}/ceilings"
U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]


class CeilingsBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    step: Literal["prove", "set"]
    epoch: Annotated[int, Field(ge=1, le=65535)]
    sequence: U32
    transaction: U32
    suite: Literal[0, 4]
    challenge: Annotated[bytes, hex_bytes(8)]


@dataclass(frozen=True, slots=True)
class CeilingsRoute:
    """The handler over one `Arming`."""

    arming: Arming

    def routes(self) -> list[web.RouteDef]:
        return [web.post(_PATH, self.post)]

    async def post(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise Problem(415, "media", Retry.NEVER, "This call takes application/json. Nothing was done.")
        try:
            body = parse_document(CeilingsBody, await read_body(request), "the body")
        except FormatError as error:
            raise Problem(400, "bad-schema", Retry.NEVER, str(error)) from error
        psam = PsamIdentity(bytes.fromhex(request.match_info["number"]), Suite(body.suite))
        terminal = int(request.match_info["terminal"])
        statement = Statement(terminal, psam, body.epoch, body.sequence, body.transaction)
        if body.step == "prove":
            return _answer({"step": "prove", "command": (await self.arming.prove(statement, body.challenge)).hex()})
        armed = await self.arming.arm(statement, body.challenge)
        ceilings = {"count": armed.ceilings.count, "amount_fen": armed.ceilings.amount_fen}
        return _answer({"step": "set", "command": armed.command.hex(), **ceilings})


def _answer(document: dict[str, object]) -> web.Response:
    return web.json_response(document, headers={"Cache-Control": "no-store"})
