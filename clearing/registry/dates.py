"""Local moments of terminals, instants, and the business date that a dated cut-off gives them (docs/ledger.md, Time).

Arrays of instants are int64 microseconds since 2000-01-01 UTC, arrays of dates int32 days since 2000-01-01: what
PostgreSQL stores, so that a column of either is its own binary form.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Instants = NDArray[np.int64]
Days = NDArray[np.int32]
Mask = NDArray[np.bool_]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_DATE = EPOCH.date()
_WALL_EPOCH = datetime(2000, 1, 1)
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_MICROSECOND = timedelta(microseconds=1)
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)


def instant_us(instant: datetime) -> int:
    """Microseconds since 2000-01-01 UTC."""
    return (instant - EPOCH) // _MICROSECOND


def instant_of(microseconds: int) -> datetime:
    """The instant, aware, in UTC."""
    return EPOCH + timedelta(microseconds=int(microseconds))


def date_of(days: int) -> date:
    """The date `days` after 2000-01-01."""
    return _EPOCH_DATE + timedelta(days=int(days))


def days_of(day: date) -> int:
    """Days since 2000-01-01."""
    return (day - _EPOCH_DATE).days


def wall_us(moments: Sequence[datetime | None]) -> Instants:
    """Wall-clock microseconds since 2000-01-01 00:00 of moments without a zone."""
    walls = np.array(moments, "datetime64[us]") - np.datetime64(_WALL_EPOCH, "us")
    return (walls // np.timedelta64(1, "us")).astype(np.int64)


def packed_digits(field: NDArray[np.void]) -> tuple[NDArray[np.int64], Mask]:
    """The decimal number and the validity of each BCD field of up to 9 bytes."""
    octets = np.ascontiguousarray(field).view(np.uint8).reshape(len(field), -1)
    high, low = octets >> 4, octets & 15
    number = np.zeros(len(field), np.int64)
    for column in range(octets.shape[1]):
        number = number * 100 + high[:, column] * 10 + low[:, column]
    return number, np.asarray(((high <= 9) & (low <= 9)).all(axis=1))


def wall_moments(date4: NDArray[np.void], time3: NDArray[np.void]) -> tuple[Instants, Mask]:
    """Wall-clock microseconds since 2000-01-01 00:00 of BCD dates and times, and which of them exist in the calendar.

    The years 0000, 0001 and 9999 do not: in some zone their instant would leave the calendar.
    """
    ymd, date_digits = packed_digits(date4)
    hms, time_digits = packed_digits(time3)
    year, month, day = ymd // 10_000, ymd // 100 % 100, ymd % 100
    hour, minute, second = hms // 10_000, hms // 100 % 100, hms % 100
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    safe_month = np.where((month >= 1) & (month <= 12), month, 1)
    last_day = _MONTH_DAYS[safe_month] + (leap & (month == 2))
    valid = (
        date_digits & time_digits & (year > 1) & (year < 9999) & (month == safe_month) & (day >= 1) & (day <= last_day)
    )
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    months = ((np.where(valid, year, 2000) - 1970) * 12 + safe_month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64) - (_EPOCH_DATE - date(1970, 1, 1)).days + day - 1
    moments = days * _DAY_US + (hour * 3600 + minute * 60 + second) * 1_000_000
    return np.where(valid, moments, 0), valid


@dataclass(frozen=True, slots=True)
class CutOff:
    """From this business date on, a day of the zone ends at `at` of the next one."""

    valid_from: date
    zone: ZoneInfo
    at: time

    @property
    def at_us(self) -> int:
        return (self.at.hour * 3600 + self.at.minute * 60 + self.at.second) * 1_000_000


class Calendar:
    """The dated cut-offs of a scheme. The first one also holds for all earlier dates, so that every moment has a
    date."""

    def __init__(self, cut_offs: Sequence[CutOff]) -> None:
        if not cut_offs:
            raise ValueError("a calendar needs a cut-off")
        self._cut_offs = sorted(cut_offs, key=lambda cut_off: cut_off.valid_from)
        self._starts = np.array([days_of(cut_off.valid_from) for cut_off in self._cut_offs], np.int64)

    def resolve(self, wall: Instants) -> tuple[Instants, Days]:
        """Instants and origin dates of wall-clock moments; the cut-off is the one in force on the local date of the
        moment."""
        instants = np.zeros(len(wall), np.int64)
        origins = np.zeros(len(wall), np.int32)
        version = np.clip(np.searchsorted(self._starts, wall // _DAY_US, side="right") - 1, 0, None)
        for index in np.unique(version):
            cut_off = self._cut_offs[index]
            chosen = version == index
            instants[chosen] = wall[chosen] - _offsets(cut_off.zone, wall[chosen], wall_clock=True)
            shifted = instants[chosen] - cut_off.at_us
            origins[chosen] = (shifted + _offsets(cut_off.zone, shifted, wall_clock=False)) // _DAY_US
        return instants, origins

    def alternatives(self) -> Iterator["Calendar"]:
        """This calendar, then each of several cut-offs alone, as if it held for all dates."""
        yield self
        if len(self._cut_offs) > 1:
            yield from (Calendar([cut_off]) for cut_off in self._cut_offs)

    def business_date(self, instant: datetime) -> date:
        """The business date that an instant falls on."""
        cut_off = self._cut_off_at(instant)
        return (instant.astimezone(UTC) - timedelta(microseconds=cut_off.at_us)).astimezone(cut_off.zone).date()

    def wall_clock(self, instant: datetime) -> datetime:
        """The local wall-clock moment of an instant, to the second, without a zone."""
        return instant.astimezone(self.zone_at(instant)).replace(tzinfo=None, microsecond=0)

    def zone_at(self, instant: datetime) -> ZoneInfo:
        """The local time of terminals and cards at an instant."""
        return self._cut_off_at(instant).zone

    def _cut_off_at(self, instant: datetime) -> CutOff:
        day = instant.astimezone(self._cut_offs[-1].zone).date()
        return next((one for one in reversed(self._cut_offs) if one.valid_from <= day), self._cut_offs[0])


def _offsets(zone: ZoneInfo, moments: Instants, *, wall_clock: bool) -> Instants:
    """Offset of the zone from UTC in microseconds at each moment; one look-up per distinct hour."""
    hours, where = np.unique(moments // _HOUR_US, return_inverse=True)
    table = np.empty(len(hours), np.int64)
    for index, hour in enumerate(hours):
        naive = _WALL_EPOCH + timedelta(hours=int(hour))
        local = naive.replace(tzinfo=zone) if wall_clock else naive.replace(tzinfo=UTC).astimezone(zone)
        table[index] = (local.utcoffset() or timedelta()) // _MICROSECOND
    return table[where]
