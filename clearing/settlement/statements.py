"""Each operator's statement of a date, from what the date posted to the operator's payable accounts (docs/ledger.md,
"Files of a day").
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date

from clearing.ledger.accounts import operator_of
from clearing.settlement.netting import Movement

# Credits by these rules are not principal: a fork only takes back, a fee only costs.
_NOT_PRINCIPAL = ("fork", "fee")


def statements(day: date, movements: Iterable[Movement]) -> dict[int, dict[str, object]]:
    """The statement documents by operator; amounts in fen, lines sorted by (sector, class)."""
    grouped: dict[int, dict[tuple[str, str], list[Movement]]] = defaultdict(lambda: defaultdict(list))
    for movement in movements:
        operator = operator_of(movement.account)
        if operator is not None:
            grouped[operator][movement.ledger, movement.class_].append(movement)
    return {
        operator: {
            "date": day.isoformat(),
            "operator": operator,
            "lines": [_line(day, sector, class_, lines[sector, class_]) for sector, class_ in sorted(lines)],
        }
        for operator, lines in sorted(grouped.items())
    }


def _line(day: date, sector: str, class_: str, movements: list[Movement]) -> dict[str, object]:
    principal = [movement for movement in movements if movement.rule not in _NOT_PRINCIPAL]
    late: dict[date, tuple[int, int]] = {}
    for movement in principal:
        if movement.origin_date < day and movement.credit_fen:
            count, fen = late.get(movement.origin_date, (0, 0))
            late[movement.origin_date] = count + movement.credit_count, fen + movement.credit_fen
    return {
        "sector": sector,
        "class": class_,
        "count": sum(movement.credit_count for movement in principal),
        "gross_fen": sum(movement.credit_fen for movement in principal),
        "fee_fen": sum(movement.debit_fen for movement in movements if movement.rule == "fee"),
        "net_fen": sum(movement.net_fen for movement in movements),
        "late": [
            {"origin_date": origin.isoformat(), "count": count, "fen": fen}
            for origin, (count, fen) in sorted(late.items())
        ],
    }
