"""A batch of cards: everything that can be wrong with it is found before the first card is touched."""

from collections.abc import Iterable

from cardcore.errors import FormatError, OnecardError
from cardcore.order import CardOrder
from cardcore.profile import Profile
from cardcore.script import steps
from cardcore.step import Authenticate, Compare, Plain, Secured, Step

_SHOWN = 5


def check_batch(profile: Profile, orders: Iterable[CardOrder]) -> int:
    """The number of cards, when every one of them can be made of this profile.

    Each order's whole script is built and each of its commands encoded; serials must differ, and a holder needs a file.
    Raises FormatError that names the orders at fault by place and serial; no card has been touched then.
    """
    faults: list[str] = []
    seen: dict[bytes, int] = {}
    count = 0
    for count, order in enumerate(orders, 1):
        fault = _fault(profile, order)
        if first := seen.get(order.card):
            fault = fault or f"has the serial of order {first}"
        seen.setdefault(order.card, count)
        if fault:
            faults.append(f"order {count} (card {order.card.hex()}) {fault}")
    if not count:
        raise FormatError("the batch has no orders; no card was made")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise FormatError(
            f"{len(faults)} of {count} orders cannot be made, so no card was: {'; '.join(faults[:_SHOWN])}{more}; "
            "correct them and start the batch again"
        )
    return count


def _fault(profile: Profile, order: CardOrder) -> str | None:
    try:
        written = {_written(step) for step in steps(profile, order)}
    except OnecardError as error:
        return f"cannot be made: {error}"
    if order.holder and not written & {0x0016, 0xEF06}:
        return f"names a holder, but profile {profile.name} has no file for one"
    return None


def _written(step: Step) -> int | None:
    """Encode what a step sends, as far as it is known without a key; the file that it writes into, if any."""
    match step.act:
        case Plain(command) | Secured(_, command) | Compare(command, _):
            command.apdu().encode()
        case Authenticate():
            return None
    parts = step.id.split(".")
    return int(parts[2], 16) if parts[0] == "data" and len(parts) == 4 else None
