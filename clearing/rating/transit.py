"""Transit: flat fares of bus lines, distance fares of metro lines, concessions by card class (docs/ledger.md,
Subsidy).
"""

from dataclasses import dataclass
from datetime import date

from cardcore.record import Kind
from clearing.rating.policies import Policies

FULL_PERCENT = 100


@dataclass(frozen=True, slots=True)
class Ride:
    """What decides a fare, as the sealed record claims it. `without_entry`: the exit was priced without an entry
    record.
    """

    kind: int
    line: int
    station: int
    entry_station: int
    without_entry: bool
    concession: int
    origin_date: date


@dataclass(frozen=True, slots=True)
class Fare:
    """The fare by the tariff: `full_fen` before concessions, None where the line has no tariff; `version` of the
    concession.
    """

    full_fen: int | None
    percent: int
    version: int

    @property
    def due_fen(self) -> int | None:
        """What the holder owes, rounded in the holder's favour."""
        return None if self.full_fen is None else self.full_fen * self.percent // FULL_PERCENT


def rate(ride: Ride, policies: Policies) -> Fare:
    """The fare under the policies of the ride's origin date."""
    concession = policies.find("concession", ride.origin_date, "transit")
    percent = FULL_PERCENT
    if concession and str(ride.concession) in concession.value:
        percent = concession.number(str(ride.concession))
    full_fen = _metro_fen(ride, policies) if ride.kind == Kind.EXIT else _flat_fen(ride, policies)
    return Fare(full_fen, percent, concession.version if concession else 0)


def _flat_fen(ride: Ride, policies: Policies) -> int | None:
    tariff = policies.find("fare-flat", ride.origin_date, str(ride.line))
    return tariff.number("fen") if tariff else None


def _metro_fen(ride: Ride, policies: Policies) -> int | None:
    tariff = policies.find("fare-metro", ride.origin_date, str(ride.line), "*")
    if tariff is None:
        return None
    most_fen = tariff.number("max_fen")
    if ride.without_entry:
        return most_fen
    stops = abs(ride.station - ride.entry_station)
    return min(most_fen, tariff.number("base_fen") + tariff.number("step_fen") * stops)
