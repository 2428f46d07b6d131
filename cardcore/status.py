"""Status words: what they mean after which command, and what to do (ISO/IEC 7816-4; FMCOS and PBOC purse commands).

explain("CREDIT FOR LOAD", 0x9302)    # one sentence for a clerk
classify(0x9302, "CREDIT FOR LOAD")   # what a program acts on
move(0x9302, "CREDIT FOR LOAD")       # what a terminal does next
"""

from collections.abc import Mapping
from enum import Enum

from cardcore.status_tables import BY_COMMAND
from cardcore.status_words import GENERAL, Meaning, Standing

__all__ = ["BY_COMMAND", "GENERAL", "Meaning", "Move", "Standing", "classify", "explain", "move", "tries_left"]

OK = 0x9000
INSUFFICIENT = frozenset({0x9401, 0x9301})
FILE_INVALIDATED = 0x6283
NOT_AVAILABLE = 0x9406


class Move(Enum):
    """What a terminal does next, without a person."""

    GO_ON = "go on"
    FETCH = "fetch the rest with GET RESPONSE, or repeat with the Le that was told"
    START_AGAIN = "start the sequence again from its first command, once"
    ASK_PIN = "ask the holder for the PIN, or authenticate, then repeat"
    OTHER_PAYMENT = "let the holder pay otherwise"
    SEND_TO_COUNTER = "refuse, and send the holder to a counter"
    REPORT = "refuse, and report the fault of keys or profile to the operator"
    # The one case in which the outcome is open: never repeat a deciding command, never take it for refused.
    ASK_CARD = "reset the card and ask it for proof, log and counter"


_MOVES: Mapping[Standing, Move] = {
    Standing.OK: Move.GO_ON,
    Standing.WARNING: Move.ASK_CARD,
    Standing.MORE: Move.FETCH,
    Standing.LENGTH: Move.FETCH,
    Standing.RETRIES: Move.ASK_PIN,
    Standing.DENIED: Move.ASK_PIN,
    Standing.INSUFFICIENT: Move.OTHER_PAYMENT,
    Standing.BLOCKED: Move.SEND_TO_COUNTER,
    Standing.ABSENT: Move.REPORT,
    Standing.CRYPTOGRAM: Move.REPORT,
    Standing.FORM: Move.REPORT,
    Standing.ORDER: Move.START_AGAIN,
    Standing.MEMORY: Move.ASK_CARD,
    Standing.UNKNOWN: Move.ASK_CARD,
}

_BY_CLASS: Mapping[int, Standing] = {
    0x61: Standing.MORE,
    0x62: Standing.WARNING,
    0x64: Standing.MEMORY,
    0x65: Standing.MEMORY,
    0x6C: Standing.LENGTH,
    0x6F: Standing.MEMORY,
}


def tries_left(sw: int) -> int | None:
    """Tries that a 63Cx answer leaves, None for any other status word."""
    return sw & 0x0F if sw & 0xFFF0 == 0x63C0 else None


def classify(sw: int, command: str = "") -> Standing:
    """What kind of answer it is; the command matters for the few words with two meanings."""
    if sw == OK:
        return Standing.OK
    if tries_left(sw) is not None:
        return Standing.RETRIES
    if meaning := _meaning(command, sw):
        return meaning.standing
    return _BY_CLASS.get(sw >> 8, Standing.UNKNOWN)


def move(sw: int, command: str = "") -> Move:
    """What a terminal does after this answer."""
    return Move.SEND_TO_COUNTER if tries_left(sw) == 0 else _MOVES[classify(sw, command)]


def explain(command: str, sw: int) -> str:
    """One sentence for people: the command, what was not met, what to do."""
    head = f"{command}: {sw:04X}, "
    if sw == OK:
        return head + "done"
    left = tries_left(sw)
    if left is not None:
        return head + (
            f"wrong, {left} tries left; stop and check before another try"
            if left
            else "wrong, and now blocked; unblock it at a counter"
        )
    if meaning := _meaning(command, sw):
        return f"{head}{meaning.what}; {meaning.advice}"
    if sw >> 8 == 0x61:
        return f"{head}{sw & 0xFF or 256} more bytes are ready; fetch them with GET RESPONSE"
    if sw >> 8 == 0x6C:
        return f"{head}the answer has {sw & 0xFF or 256} bytes; repeat the command with that Le"
    return f"{head}a status word that no table of this card has; reset the card and read its state"


def _meaning(command: str, sw: int) -> Meaning | None:
    return BY_COMMAND.get(command, {}).get(sw) or GENERAL.get(sw)
