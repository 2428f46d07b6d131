"""What the service tells of itself: one JSON object a line on the error output, of the fields that are named here.

What the service works on is evidence, and some of it opens doors. A field that nobody named is left out; of an
exception its kind and its place are told, because its message and its frames quote the rows that it was about.
"""

import logging
import sys
from collections.abc import MutableMapping
from itertools import islice
from traceback import walk_tb

import structlog

FIELDS = ("at", "level", "event", "url", "path", "terminal", "n", "batches", "error", "where")
LONGEST = 200
MOST_FRAMES = 40


def log_as_json() -> None:
    """From now on everything that this process logs, libraries included, goes to the error output in this shape."""
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.add_log_level,
            _tell_exception,
            _keep_named,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """The standard library's log, without the arguments of its messages: asyncio and aiohttp put requests into them."""

    def emit(self, record: logging.LogRecord) -> None:
        first_line = str(record.msg).partition("\n")[0]
        structlog.get_logger().log(record.levelno, first_line, exc_info=record.exc_info)


def _tell_exception(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exception()
    if given and error is not None:
        kind = type(error)
        event["error"] = f"{kind.__module__}.{kind.__qualname__}"
        event["where"] = [
            f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
            for frame, line in islice(walk_tb(error.__traceback__), MOST_FRAMES)
        ]
    return event


def _keep_named(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    return {name: _short(event[name]) for name in FIELDS if name in event}


def _short(value: object) -> object:
    return value[:LONGEST] if isinstance(value, str) else value
