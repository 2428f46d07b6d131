"""The change of a card's allowance: from what the card has opened to the MAC2 that it obeys (docs/card.md)."""

import hmac

from cardcore.authority import OverdraftRequest
from cardcore.bcd import decode_moment
from cardcore.cryptogram import overdraft_mac1_input, overdraft_mac2_input
from cardcore.errors import FormatError
from keys.engine.root import RootKey, card_key
from keys.widths import check_widths


def check(request: OverdraftRequest) -> None:
    """Raises FormatError for what no card can have opened: its widths are what keeps MAC2 from covering chosen text."""
    check_widths(
        "an allowance",
        "the card is unchanged",
        {
            "terminal number": (request.terminal_number, 6),
            "random": (request.random, 4),
            "MAC1": (request.mac1, 4),
            "date": (request.date, 4),
            "time": (request.time, 3),
        },
    )
    decode_moment(request.date, request.time)
    after_fen = request.raw_balance_fen + request.limit_fen - request.old_limit_fen
    limits = 0 <= request.limit_fen < 2**24 and 0 <= request.old_limit_fen < 2**24
    if not (
        limits and 0 <= request.raw_balance_fen < 2**32 and 0 <= after_fen < 2**32 and 0 <= request.counter < 2**16
    ):
        raise FormatError(
            "limit, balance or counter of an allowance is out of the range that a card can hold, or the balance would "
            "be; the card is unchanged"
        )


def answer(root: RootKey, request: OverdraftRequest) -> bytes | None:
    """MAC2 (4 bytes) for a checked request; None when MAC1 is not that card's."""
    card = card_key(root, request.identity.issuer, request.identity.card)
    session = card.load_session(request.random, request.counter, request.session_key)
    number = request.terminal_number
    covered = overdraft_mac1_input(request.raw_balance_fen, request.old_limit_fen, number)
    if not hmac.compare_digest(session.mac4(covered), request.mac1):
        return None
    return session.mac4(overdraft_mac2_input(request.limit_fen, number, request.date, request.time))


def told(request: OverdraftRequest) -> str:
    """What was asked for, for the audit."""
    return (
        f"purse {request.purse}, {request.old_limit_fen} to {request.limit_fen} fen, counter {request.counter}, "
        f"terminal number {request.terminal_number.hex()}, key {request.key_suite.name} v{request.key_version}"
    )
