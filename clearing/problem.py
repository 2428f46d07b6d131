"""A refusal over the wire: RFC 9457 problem, with what a terminal's firmware has to do about it (docs/wire.md)."""

from collections.abc import Sequence
from enum import StrEnum

from cardcore.errors import OnecardError


class Retry(StrEnum):
    NEVER = "never"
    NOW = "now"
    AFTER = "after"


class Problem(OnecardError):
    """`status` and `code` of docs/wire.md; `after_s` seconds to wait where `retry` is AFTER; `seq` the records at
    fault, `missing` the ranges (first, last) of numbers that are not stored."""

    def __init__(
        self,
        status: int,
        code: str,
        retry: Retry,
        message: str,
        after_s: int | None = None,
        seq: Sequence[int] = (),
        missing: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry = retry
        self.after_s = after_s
        self.seq = tuple(seq)
        self.missing = tuple(missing)


def busy(message: str, after_s: int = 5) -> Problem:
    """503: the same request, unchanged, is welcome after `after_s`."""
    return Problem(503, "busy", Retry.AFTER, message, after_s)
