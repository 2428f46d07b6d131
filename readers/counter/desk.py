"""The desk over HTTP: a counter's `LoadAuthority` and `ActAuthority` (docs/wire.md, "The desk")."""

from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from cardcore.authority import ActGrant, ActRequest, LoadGrant, LoadRequest
from cardcore.errors import OnecardError, RefusedError
from cardcore.order import CardOrder
from cardcore.record import Sector

Document = Mapping[str, object]
BATCH = "application/vnd.onecard.batch"


class DeskUnreachable(OnecardError):
    """The desk did not answer; what was asked for may have been granted: an act then expires, a load is in doubt."""


class Desk:
    """Client of one desk; use it as an async context manager."""

    def __init__(self, base_url: str, timeout_s: float = 30.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def register(self, order: CardOrder, profile: str, suite: str) -> None:
        """Take a card into the registry before it is made; raises RefusedError, and the same card again is fine."""
        row = {
            "card": order.card.hex(),
            "issuer": order.issuer.hex(),
            "profile": profile,
            "suite": suite,
            "class": int(order.concession),
            "generation": 0,
        }
        await self.ask("cards", row)

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        answer = await self.ask(
            "loads",
            {
                "terminal": request.terminal,
                "terminal_number": request.terminal_number.hex(),
                "issuer": request.identity.issuer.hex(),
                "card": request.identity.card.hex(),
                "purse": request.purse,
                "generation": request.generation,
                "suite": int(request.key_suite),
                "key_version": request.key_version,
                "key_index": request.key_index,
                "amount_fen": request.amount_fen,
                "channel": request.channel,
                "balance_fen": request.raw_balance_fen,
                "counter": request.counter,
                "random": request.random.hex(),
                "mac1": request.mac1.hex(),
            },
        )
        return LoadGrant(
            load_id=str(answer["load_id"]),
            date=_hex(answer["date"]),
            time=_hex(answer["time"]),
            mac2=_hex(answer["mac2"]),
        )

    async def open_act(self, request: ActRequest) -> ActGrant:
        answer = await self.ask(
            "acts",
            {
                "terminal": request.terminal,
                "terminal_number": request.terminal_number.hex(),
                "sector": Sector(request.sector).label,
                "issuer": request.identity.issuer.hex(),
                "card": request.identity.card.hex(),
                "amount_fen": request.amount_fen,
                "transaction_type": request.transaction_type,
                "split": dict(request.split),
            },
        )
        return ActGrant(*(_hex(answer[name]) for name in ("act_id", "challenge", "date", "time", "digest")))

    async def ask(self, call: str, document: Document) -> Document:
        """One call of the desk; raises RefusedError with the code of docs/wire.md, or DeskUnreachable."""
        return await self._call("POST", f"/v1/desk/{call}", json=document)

    async def upload(self, terminal: int, n: int, body: bytes) -> Document:
        """Send batch `n` of a counter; gives the service's answer. Raises as `ask`; sending it again does no harm."""
        path, kind = f"/v1/t/{terminal}/batches/{n}", {"Content-Type": BATCH}
        return await self._call("PUT", path, data=body, headers=kind)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json: Document | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        url = self._base_url + path
        try:
            async with self._session.request(method, url, json=json, data=data, headers=headers) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DeskUnreachable(f"the desk at {self._base_url} does not answer ({error}); ask again later") from error
        if not isinstance(answer, dict):
            raise DeskUnreachable(f"what answers at {self._base_url} is no desk; check the address")
        code, detail = str(answer.get("code", response.status)), str(answer.get("detail", answer))
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise DeskUnreachable(f"the desk at {self._base_url} is busy ({detail}); ask again later")
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise RefusedError(code, detail)
        return answer


def _hex(value: object) -> bytes:
    return bytes.fromhex(str(value))
