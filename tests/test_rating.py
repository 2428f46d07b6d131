"""Fares and fees: the holder's favour, and nothing lost to rounding."""

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearing.close.fees import fees
from clearing.rating.policies import Policies, Policy
from clearing.rating.transit import Ride, rate
from clearing.settlement.netting import Movement

DAY = date(2026, 3, 2)
FEN = st.integers(0, 100_000)
PERCENT = st.integers(0, 100)


def policies(flat_fen: int, metro: tuple[int, int, int], percent: int, bps: int = 0) -> Policies:
    base_fen, step_fen, max_fen = metro
    return Policies(
        [
            Policy("fare-flat", "7", date(2026, 1, 1), 1, {"fen": flat_fen}),
            Policy(
                "fare-metro", "*", date(2026, 1, 1), 1, {"base_fen": base_fen, "step_fen": step_fen, "max_fen": max_fen}
            ),
            Policy("concession", "transit", date(2026, 1, 1), 4, {"1": 100, "2": percent}),
            Policy("fee", "*", date(2026, 1, 1), 9, {"bps": bps}),
        ]
    )


@given(FEN, PERCENT)
def test_concession_rounds_in_the_holders_favour(flat_fen: int, percent: int) -> None:
    fare = rate(Ride(1, 7, 0, 0, False, 2, DAY), policies(flat_fen, (0, 0, 0), percent))
    exact = Fraction(flat_fen * percent, 100)
    assert fare.due_fen is not None
    assert exact - 1 < fare.due_fen <= exact
    assert fare.full_fen == flat_fen
    assert fare.version == 4


@pytest.mark.parametrize(
    ("flat_fen", "percent", "due_fen"),
    [(200, 50, 100), (201, 50, 100), (1, 50, 0), (1, 99, 0), (199, 33, 65), (200, 0, 0), (200, 100, 200)],
)
def test_what_a_concession_leaves_to_pay(flat_fen: int, percent: int, due_fen: int) -> None:
    assert rate(Ride(1, 7, 0, 0, False, 2, DAY), policies(flat_fen, (0, 0, 0), percent)).due_fen == due_fen


@given(FEN, FEN, FEN, st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_metro_fare_grows_with_distance_up_to_the_highest(
    base_fen: int, step_fen: int, max_fen: int, station: int, entry: int, without_entry: bool
) -> None:
    rules = policies(0, (base_fen, step_fen, max_fen), 50)
    full_fen = rate(Ride(3, 1, station, entry, without_entry, 1, DAY), rules).full_fen
    back_fen = rate(Ride(3, 1, entry, station, without_entry, 1, DAY), rules).full_fen
    assert full_fen is not None
    assert full_fen == back_fen
    assert full_fen <= max_fen
    if without_entry:
        assert full_fen == max_fen
    elif full_fen < max_fen:
        assert full_fen == base_fen + step_fen * abs(station - entry)


def test_a_class_without_a_concession_and_a_line_without_a_tariff() -> None:
    rules = policies(200, (200, 50, 900), 50)
    assert rate(Ride(1, 7, 0, 0, False, 8, DAY), rules).due_fen == 200
    assert rate(Ride(1, 8, 0, 0, False, 1, DAY), rules).due_fen is None
    assert rate(Ride(1, 7, 0, 0, False, 1, date(2025, 12, 31)), rules).full_fen is None


def test_the_version_in_force_is_that_of_the_rides_date() -> None:
    rules = Policies(
        [
            Policy("fare-flat", "7", date(2026, month, 1), version, {"fen": fen})
            for month, version, fen in ((3, 2, 250), (1, 1, 200))
        ]
    )
    dates = (date(2026, 1, 1), date(2026, 2, 28), date(2026, 3, 1), date(2027, 1, 1))
    assert [rate(Ride(1, 7, 0, 0, False, 1, on), rules).full_fen for on in dates] == [200, 200, 250, 250]


def earned(sector: str, fen: int) -> Movement:
    return Movement(sector, "payable:101", "stored value", "debit", DAY, max(-fen, 0), max(fen, 0), 1)


@given(st.integers(-10_000, 10_000_000), st.integers(0, 10_000))
def test_fee_is_half_up_with_its_remainder(base_fen: int, bps: int) -> None:
    posted = earned("transit", base_fen)
    taken = Movement("transit", "payable:101", "stored value", "fee", DAY, 7, 0, 0)
    (fee,) = fees(DAY, [posted, taken], policies(0, (0, 0, 0), 0, bps))
    if base_fen <= 0:
        assert fee.fee_fen == 0
    else:
        exact = Fraction(base_fen * bps, 10_000)
        assert exact - Fraction(1, 2) < fee.fee_fen <= exact + Fraction(1, 2)
        assert fee.fee_fen * 10_000 + fee.remainder == base_fen * bps
    assert fee.version == 9


SECTORS = ("medical", "smallpay", "social", "transit", "utility")


@given(st.dictionaries(st.sampled_from(SECTORS), st.integers(-10_000, 1_000_000), min_size=1), st.integers(0, 500))
def test_an_operator_of_several_sectors_pays_one_fee(bases: dict[str, int], bps: int) -> None:
    found = fees(DAY, [earned(*base) for base in bases.items()], policies(0, (0, 0, 0), 0, bps))
    whole = max(0, sum(bases.values()))
    assert sum(fee.fee_fen for fee in found) == int(Fraction(whole * bps, 10_000) + Fraction(1, 2))
    above = sum(max(0, fen) for fen in bases.values())
    for fee in found:
        exact = Fraction(whole * bps, 10_000) * max(0, bases[fee.sector]) / above if above else Fraction()
        assert abs(fee.fee_fen - exact) < Fraction(3, 2)
        assert fee.fee_fen == 0 or bases[fee.sector] > 0


def test_two_sectors_at_half_a_fen_pay_one_and_the_first_by_name_bears_it() -> None:
    found = fees(DAY, [earned(s, 84) for s in ("transit", "smallpay")], policies(0, (0, 0, 0), 0, 60))
    assert [(fee.sector, fee.fee_fen, fee.remainder) for fee in found] == [("smallpay", 1, -4960), ("transit", 0, 5040)]
