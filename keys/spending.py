"""What is given out of a day's quota."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a load authoriser may give out in one day: number of loads, and fen."""

    loads: int
    fen: int


@dataclass(frozen=True, slots=True)
class Spending:
    """One load on its way: digest of its request, its name, its card date and time, the date of the quotas that it is
    taken from, and what the audit says of it.
    """

    request: bytes
    load_id: str
    date: bytes
    time: bytes
    fen: int
    quota_date: str
    detail: str
    act: str = "load"
