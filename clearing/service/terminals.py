"""The calls of validators and counters: batches, the time, readiness."""

import json
from dataclasses import dataclass

from aiohttp import web

from clearing.clock import Clock
from clearing.intake.frame import BINARY, JSON, WrongTerminal, decode_batch
from clearing.intake.intake import Intake
from clearing.problem import Problem, Retry
from clearing.registry.snapshot import RegistryFeed
from clearing.service.edge import read_body
from clearing.store import intake as rows
from clearing.store.types import Pool

_PATH = r"/v1/t/{terminal:\d{1,10}}/batches/{n:\d{1,18}}"


@dataclass(frozen=True, slots=True)
class Terminals:
    """Handlers over one intake."""

    pool: Pool
    intake: Intake
    feed: RegistryFeed
    clock: Clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put(_PATH, self.put_batch),
            web.get(_PATH, self.get_batch),
            web.get("/v1/time", self.time),
            web.get("/healthz", self.health),
        ]

    async def put_batch(self, request: web.Request) -> web.Response:
        terminal, n = int(request.match_info["terminal"]), int(request.match_info["n"])
        media = request.content_type if "Content-Type" in request.headers else ""
        if media not in (BINARY, JSON):
            raise Problem(415, "media", Retry.NEVER, f"A batch is {BINARY} or {JSON}. Nothing was stored.")
        await self._check_terminal(terminal)
        body = await read_body(request)
        try:
            batch = decode_batch(media, body, terminal, n)
        except WrongTerminal as problem:
            await self._note("wrong-terminal", terminal, f"batch {n}: {problem}", body)
            raise
        return _json(await self.intake.upload(batch))

    async def get_batch(self, request: web.Request) -> web.Response:
        terminal, n = int(request.match_info["terminal"]), int(request.match_info["n"])
        async with self.pool.acquire() as connection:
            answer = await rows.stored_answer(connection, terminal, n)
        if answer is None:
            raise Problem(404, "unknown-batch", Retry.NEVER, f"No batch {n} of terminal {terminal} is stored. Send it.")
        return _json(answer)

    async def time(self, _: web.Request) -> web.Response:
        return _json(json.dumps({"now": self.clock.now().isoformat()}))

    async def health(self, _: web.Request) -> web.Response:
        async with self.pool.acquire(timeout=2) as connection:
            await connection.execute("SELECT 1")
        return _json('{"ready": true}')

    async def _check_terminal(self, terminal: int) -> None:
        if terminal in self.feed.latest.terminals:
            return
        async with self.pool.acquire() as connection:
            registry = await self.feed.current(connection)
        if terminal not in registry.terminals:
            await self._note("unknown-terminal", terminal, "a batch was offered", None)
            raise Problem(403, "unknown-terminal", Retry.NEVER, f"Terminal {terminal} is not in the registry.")

    async def _note(self, kind: str, terminal: int, detail: str, body: bytes | None) -> None:
        async with self.pool.acquire() as connection:
            await rows.write_security_event(connection, kind, terminal, detail, body, self.clock.now())


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")
