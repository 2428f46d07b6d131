"""What surrounds a counter in tests: a TEST store, orders and blanks, and a clearing service of its own."""

import random
import struct
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from aiohttp import web

from cardcore.authority import CardIdentity, LoadAuthority, LoadRequest
from cardcore.errors import RefusedError
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.record import Suite
from cardcore.script import steps
from keys.ceremony import test_ceremony
from keys.columns import from_bytes
from keys.loads import LoadAuthoriser, Quotas
from keys.purposes import required_roots
from keys.spending import Quota
from keys.store import EmbeddedStore, open_store
from keys.unloads import UnloadAuthoriser
from keys.verifiers import Verdict
from readers.pcsc.channel import Channel
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from simulators.card_os import SoftwareCard

ISSUER = bytes.fromhex("02317910")
SUITE_NAMES = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}
NOW = datetime(2026, 3, 1, 9, 0)
PIN = "123456"


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 3, 1, 1, 0, tzinfo=UTC)


def make_store(folder: Path, seed: int = 7) -> EmbeddedStore:
    """A TEST store with every root; the same seed gives the same keys."""
    store, draw = open_store(folder / "keys"), random.Random(seed)
    test_ceremony(store, {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()})
    return store


def authoriser(store: EmbeddedStore) -> LoadAuthoriser:
    """A load authoriser with a quota that no test reaches."""
    plenty = Quota(10_000, 10**9)
    return store.load_authoriser(Clock(), Quotas(plenty, plenty, plenty))


def unloader(store: EmbeddedStore) -> UnloadAuthoriser:
    """An unload authoriser with a quota that no test reaches."""
    plenty = Quota(100_000, 10**10)
    return store.unload_authoriser(Clock(), Quotas(plenty, plenty, plenty))


def order(number: int, suite: Suite) -> CardOrder:
    """The order of the card with this number."""
    return CardOrder(
        issuer=ISSUER,
        card=bytes.fromhex(f"03107910{number:012d}"),
        suite=suite,
        concession=2,
        starts=date(2026, 3, 1),
        expires=date(2036, 3, 1),
    )


def job(channel: Channel, number: int = 1, suite: Suite = Suite.SM4, profile: str = "shared-purse") -> Job:
    """A job that makes that card of the blank behind the channel."""
    made = order(number, suite)
    return Job(made.identity, profile, steps(load_profile(profile), made), channel)


def blank(suite: Suite = Suite.SM4, seed: int = 1) -> SoftwareCard:
    """A blank ordered for a suite."""
    return SoftwareCard.blank(SUITE_NAMES[suite], rng=random.Random(seed))


async def issued(store: EmbeddedStore, folder: Path, number: int = 1, suite: Suite = Suite.SM4) -> SoftwareCard:
    """An issued card with this number."""
    card = blank(suite, seed=number)
    journal = Journal(folder / f"issued-{number}-{suite}.sqlite")
    try:
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        assert await bench.personalise(job(DirectChannel(card), number, suite)) is None
    finally:
        journal.close()
    return card


@dataclass
class Service:
    """A clearing service as docs/wire.md has it, read a second time: loads, and batches of a counter.

    `down` refuses the next so many batches, `lost` stores them but loses the answer.
    """

    authority: LoadAuthority
    store: EmbeddedStore
    batches: dict[tuple[int, int], bytes] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    requests: int = 0
    down: int = 0
    lost: int = 0

    async def serve(self) -> tuple[web.AppRunner, str]:
        """Start on a free loopback port; gives what stops it, and the address."""
        app = web.Application()
        app.router.add_post("/v1/desk/loads", self._loads)
        app.router.add_put(r"/v1/t/{terminal:\d+}/batches/{n:\d+}", self._batch)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return runner, f"http://{host}:{port}"

    async def _loads(self, request: web.Request) -> web.Response:
        body = await request.json()
        suite = Suite(body["suite"])
        asked = LoadRequest(
            identity=CardIdentity(bytes.fromhex(body["issuer"]), bytes.fromhex(body["card"]), suite),
            terminal=body["terminal"],
            terminal_number=bytes.fromhex(body["terminal_number"]),
            purse=body["purse"],
            generation=body["generation"],
            key_suite=suite,
            key_version=body["key_version"],
            key_index=body["key_index"],
            amount_fen=body["amount_fen"],
            channel=body["channel"],
            raw_balance_fen=body["balance_fen"],
            counter=body["counter"],
            random=bytes.fromhex(body["random"]),
            mac1=bytes.fromhex(body["mac1"]),
        )
        self.requests += 1
        try:
            grant = await self.authority.authorise_load(asked)
        except RefusedError as error:
            return web.json_response({"code": error.code, "detail": str(error), "retry": "never"}, status=422)
        answer = {
            "load_id": grant.load_id,
            "date": grant.date.hex(),
            "time": grant.time.hex(),
            "mac2": grant.mac2.hex(),
        }
        return web.json_response(answer, status=201)

    async def _batch(self, request: web.Request) -> web.Response:
        terminal, n, body = int(request.match_info["terminal"]), int(request.match_info["n"]), await request.read()
        if self.down:
            self.down -= 1
            return web.json_response({"code": "busy", "retry": "after", "detail": "no store"}, status=503)
        assert request.content_type == "application/vnd.onecard.batch"
        if self.batches.get((terminal, n), body) != body:
            return web.json_response({"code": "batch-conflict", "retry": "never", "detail": "other bytes"}, status=409)
        if (terminal, n) not in self.batches:
            self._store(terminal, body)
            self.batches[terminal, n] = body
        if self.lost:
            self.lost -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"n": n, "ack_seq": len(self.records), "missing": [], "quarantined": []})

    def _store(self, terminal: int, body: bytes) -> None:
        magic, told, _epoch, count, first, last, fen, zeros = struct.unpack(">4sIHHIIQ4s", body[:32])
        assert (magic, told, zeros, len(body)) == (b"OCB1", terminal, bytes(4), 32 + 128 * count)
        records = [body[at : at + 128] for at in range(32, len(body), 128)]
        assert fen == sum(int.from_bytes(record[24:28], "big") for record in records)
        sequences = [int.from_bytes(record[68:72], "big") for record in records]
        assert sequences == list(range(first, last + 1))
        assert (self.store.tac_verifier().verify(from_bytes(body[32:])) == Verdict.OK).all()
        self.records += records
