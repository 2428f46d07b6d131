"""When and where each record of an array was made, as far as its bytes and the registry tell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardcore.record import VERSION, Kind
from clearing.registry.dates import Days, Instants, Mask, wall_moments
from clearing.registry.snapshot import Registry, Stations
from keys.columns import Records, number, octets, part


@dataclass(frozen=True, slots=True)
class Bearings:
    """`readable` says whether the other columns mean anything; instants in µs and origin dates in days since 2000."""

    readable: Mask
    instant: Instants
    origin: Days
    station: Stations
    card: NDArray[np.bytes_]


def take_bearings(records: Records, registry: Registry) -> Bearings:
    """Bearings of RECORD_DTYPE records; the registry needs a cut-off policy."""
    assert registry.calendar is not None, "a registry with terminals has a cut-off policy"
    rows = octets(records)
    wall, readable = wall_moments(records["date"], records["time"])
    card = part(rows, "card")
    readable &= ((card >> 4 <= 9) & (card & 15 <= 9)).all(axis=1)
    readable &= ~part(rows, "reserved").any(axis=1)
    readable &= (records["version"] == VERSION) & (records["kind"] >= Kind.DEBIT) & (records["kind"] <= Kind.TORN)
    instant, origin = registry.calendar.resolve(wall)
    station = registry.psams.locate(number(part(rows, "terminal_number")).astype(np.int64), instant)
    online = (records["kind"] == Kind.LOAD) | (records["kind"] == Kind.ACT)
    serials = np.ascontiguousarray(card).view("S10").ravel()
    return Bearings(readable, instant, origin, _with_terminals(station, records["terminal"], online, registry), serials)


def _with_terminals(station: Stations, terminals: NDArray[np.uint32], online: Mask, registry: Registry) -> Stations:
    """Loads and acts are made at a terminal of the registry, not at a PSAM; a terminal is always active."""
    if not online.any():
        return station
    claimed, where = np.unique(terminals[online], return_inverse=True)
    rows = [registry.terminals.get(int(terminal)) for terminal in claimed]
    known = np.array([row is not None for row in rows], np.bool_)[where]
    sector = np.array([row.sector if row else 0 for row in rows], np.int16)[where]
    operator = np.array([row.operator if row else 0 for row in rows], np.int32)[where]
    merged = Stations(station.known.copy(), station.active.copy(), station.sector.copy(), station.operator.copy())
    merged.known[online], merged.active[online] = known, known
    merged.sector[online], merged.operator[online] = sector, operator
    return merged
