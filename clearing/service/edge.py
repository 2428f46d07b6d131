"""What every request passes through: host, content type, body limits and deadline, and one shape for every refusal."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from cardcore.errors import FormatError, RefusedError
from clearing.intake.frame import MOST_BYTES, too_large
from clearing.problem import Problem, Retry, busy
from clearing.store.connect import UNAVAILABLE

BODY_DEADLINE_S = 30.0
GZIP = "gzip"
_GZIP_MEMBER = 16 + zlib.MAX_WBITS
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_log = structlog.get_logger("clearing.service")
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: Next) -> web.StreamResponse:
    """Every refusal as an RFC 9457 document with `Onecard-Code`; what nobody foresaw is `busy`, and nothing of it
    leaks."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem)
    except RefusedError as refusal:
        return problem_response(Problem(422, refusal.code, Retry.NEVER, str(refusal)))
    except FormatError as error:
        return problem_response(Problem(400, "bad-schema", Retry.NEVER, str(error)))
    except web.HTTPException as error:
        response = problem_response(Problem(error.status, _http_code(error), Retry.NEVER, error.reason))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ClientHungUp:
        _log.info("client hung up in the middle of a body", path=request.path)
        return problem_response(Problem(400, "bad-frame", Retry.NOW, "The body ended early. Nothing was stored."))
    except UNAVAILABLE as error:
        _log.warning("database unavailable", path=request.path, error=repr(error))
        return problem_response(busy("The database is away. What became of this request is unknown. Send it again."))
    except Exception:
        _log.exception("request failed", path=request.path)
        return problem_response(busy("The service failed on this request. Send it again later.", 60))


@web.middleware
async def guards(request: web.Request, handler: Next) -> web.StreamResponse:
    """Only our own names as Host (DNS rebinding), no content encoding but gzip."""
    if (request.url.host or "") not in LOOPBACK_NAMES:
        raise Problem(421, "host", Retry.NEVER, "This service answers only to the names of the loopback.")
    if _encoding(request) not in ("", GZIP):
        raise Problem(415, "media", Retry.NEVER, "Nothing was stored. Send the body plain, or in gzip.")
    return await handler(request)


class ClientHungUp(Exception):
    """The connection went away before the whole body had come: nobody waits for an answer."""


async def read_body(request: web.Request) -> bytes:
    """The body, at most 1 MiB also once it is inflated, within 30 s: a dripping client is cut off. Raises Problem 413,
    408, or 400 for what is no whole gzip; ClientHungUp."""
    if (request.content_length or 0) > MOST_BYTES:
        raise too_large()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large() from None
    except TimeoutError:
        raise Problem(
            408,
            "slow",
            Retry.NOW,
            f"The body did not come within {BODY_DEADLINE_S:g} s. Nothing was stored. Send smaller batches, or gzip.",
        ) from None
    except OSError as error:
        raise ClientHungUp from error
    return _inflated(body) if _encoding(request) == GZIP else body


def _encoding(request: web.Request) -> str:
    return request.headers.get("Content-Encoding", "").strip().lower()


def _inflated(body: bytes) -> bytes:
    """What a gzip body holds; a bomb is cut at the size that a plain body may have."""
    inflater = zlib.decompressobj(_GZIP_MEMBER)
    try:
        plain = inflater.decompress(body, MOST_BYTES + 1)
    except zlib.error:
        plain = b""
    if len(plain) > MOST_BYTES:
        raise too_large()
    if not inflater.eof or inflater.unused_data:
        raise Problem(400, "bad-frame", Retry.NOW, "The body is no whole gzip. Nothing was stored. Send it again.")
    return plain


def problem_response(problem: Problem) -> web.Response:
    """The document, with `Retry-After` where waiting helps; after a request whose body was not read the connection
    closes."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": problem.code,
        "status": problem.status,
        "detail": str(problem),
        "code": problem.code,
        "retry": problem.retry.value,
        "after_s": problem.after_s,
        "seq": list(problem.seq),
    }
    if problem.missing:
        document["missing"] = [list(pair) for pair in problem.missing]
    headers = {"Onecard-Code": problem.code}
    if problem.after_s is not None:
        headers["Retry-After"] = str(problem.after_s)
    response = web.json_response(
        document, status=problem.status, headers=headers, content_type="application/problem+json"
    )
    if problem.status in (408, 413, 415, 421):
        response.force_close()
    return response


def _http_code(error: web.HTTPException) -> str:
    return {404: "not-found", 405: "method", 413: "too-large"}.get(error.status, "http")
