"""Status words: what they mean after which command, and what to do (ISO/IEC 7816-4; FMCOS and PBOC purse commands)."""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

OK = 0x9000
INSUFFICIENT = frozenset({0x9401, 0x9301})
FILE_INVALIDATED = 0x6283
NOT_AVAILABLE = 0x9406


class Standing(Enum):
    """What a status word says about the command, coarsely enough to act on."""

    OK = "ok"
    WARNING = "warning"
    MORE = "more"
    LENGTH = "length"
    RETRIES = "retries"
    INSUFFICIENT = "insufficient"
    ABSENT = "absent"
    DENIED = "denied"
    BLOCKED = "blocked"
    CRYPTOGRAM = "cryptogram"
    ORDER = "order"
    FORM = "form"
    # The card cannot say what its memory holds now: the only class that does not mean "nothing was changed".
    MEMORY = "memory"
    UNKNOWN = "unknown"


class Meaning(NamedTuple):
    """One row of a status table: what rule was not met, and what to do."""

    standing: Standing
    what: str
    advice: str


_S = Standing
_PIN_FIRST = "verify the PIN first"
_AUTHENTICATE = "the access rule asks for an external authentication or the PIN"

GENERAL: Mapping[int, Meaning] = {
    0x6281: Meaning(_S.WARNING, "part of the answer may be corrupt", "read again"),
    0x6282: Meaning(_S.WARNING, "the file ended before the length asked for", "ask for fewer bytes"),
    0x6283: Meaning(_S.BLOCKED, "the application is blocked", "unblock it at a counter or replace the card"),
    0x6581: Meaning(_S.MEMORY, "the card failed to write its memory", "read its state before anything else"),
    0x6700: Meaning(_S.FORM, "wrong length", "check Lc, Le and the data against docs/card.md"),
    0x6900: Meaning(_S.FORM, "the class byte does not fit the protection of the file", "use secure messaging"),
    0x6901: Meaning(_S.ORDER, "no matching INITIALIZE came before", "start again from INITIALIZE"),
    0x6981: Meaning(_S.FORM, "the file is of another kind", "use the commands of that kind of file"),
    0x6982: Meaning(_S.DENIED, _AUTHENTICATE, "authenticate or verify the PIN in this application, then repeat"),
    0x6983: Meaning(_S.BLOCKED, "the key or PIN is blocked: no tries are left", "unblock it at a counter"),
    0x6984: Meaning(_S.ORDER, "there is no fresh challenge", "get a challenge directly before this command"),
    0x6985: Meaning(_S.ORDER, "the conditions of use are not met", "start the sequence again from its first command"),
    0x6986: Meaning(_S.ORDER, "no file is selected", "select the file first"),
    0x6987: Meaning(_S.CRYPTOGRAM, "the secure-messaging MAC is missing", "send it protected by the line key"),
    0x6988: Meaning(
        _S.CRYPTOGRAM,
        "the secure-messaging MAC is wrong",
        "check key version, suite and derivation before another try: three failures lock the application",
    ),
    0x6A80: Meaning(_S.FORM, "the data field is not right", "compare the data with docs/card.md"),
    0x6A81: Meaning(
        _S.BLOCKED,
        "the card or application is blocked, or lacks this function",
        "select again; if it stays, replace the card",
    ),
    0x6A82: Meaning(_S.ABSENT, "there is no such file or application", "check the card's profile"),
    0x6A83: Meaning(_S.ABSENT, "there is no such record", "ask for a record that exists"),
    0x6A84: Meaning(_S.FORM, "the file or the card is full", "use a profile with a larger file"),
    0x6A86: Meaning(_S.FORM, "P1 or P2 is wrong, or the file exists", "select the right application; check P1 and P2"),
    0x6A88: Meaning(_S.ABSENT, "there is no such key", "check the card's profile and key ids"),
    0x6B00: Meaning(_S.FORM, "the offset is outside the file", "read within the size of the file"),
    0x6D00: Meaning(_S.FORM, "the card does not know this instruction", "check which card this is"),
    0x6E00: Meaning(_S.FORM, "the card does not know this class", "check which card this is"),
    0x6F00: Meaning(_S.MEMORY, "the card gives no diagnosis", "reset it and read its state before anything else"),
    0x9301: Meaning(_S.INSUFFICIENT, "the balance is not enough", "load the card or ask for another payment"),
    0x9302: Meaning(_S.CRYPTOGRAM, "the MAC is wrong", "check key version, suite and derivation before another try"),
    0x9303: Meaning(_S.BLOCKED, "the application is locked for ever", "replace the card"),
    0x9401: Meaning(_S.INSUFFICIENT, "the balance is not enough", "load the card or ask for another payment"),
    0x9402: Meaning(_S.BLOCKED, "the card's counter is at its maximum", "replace the card"),
    0x9403: Meaning(
        _S.ABSENT,
        "there is no key of that index, version or algorithm",
        "use the key index that the card's profile names",
    ),
    0x9406: Meaning(
        _S.ABSENT,
        "the card has no proof of that transaction",
        "compare the counter: unchanged means that nothing was committed",
    ),
}

BY_COMMAND: Mapping[str, Mapping[int, Meaning]] = {
    "SELECT": {
        0x6A82: Meaning(_S.ABSENT, "there is no such application or file", "check that this is a card of ours"),
        0x6A81: Meaning(_S.BLOCKED, "the card is blocked", "keep it and open a replacement"),
    },
    "READ BINARY": {
        0x6982: Meaning(_S.DENIED, "the read right of the file is not met", _PIN_FIRST),
    },
    "UPDATE BINARY": {
        0x6982: Meaning(_S.DENIED, "the write right of the file is not met", "authenticate with the control key first"),
    },
    "READ RECORD": {
        0x6982: Meaning(_S.DENIED, "the read right of the file is not met", _PIN_FIRST),
    },
    "UPDATE RECORD": {
        0x6982: Meaning(_S.DENIED, "the write right of the file is not met", "authenticate with the control key first"),
    },
    "APPEND RECORD": {
        0x6982: Meaning(_S.DENIED, "the write right of the file is not met", "authenticate with the control key first"),
        0x6A84: Meaning(_S.FORM, "no space is left in the file", "the records are already there, or the file is small"),
    },
    "GET RESPONSE": {},
    "GET CHALLENGE": {},
    "EXTERNAL AUTHENTICATE": {
        0x6982: Meaning(_S.DENIED, "the use right of the key is not met", "select the application of the key first"),
        0x6983: Meaning(_S.BLOCKED, "the control key is blocked", "the card cannot be administered: scrap it"),
        0x9302: Meaning(
            _S.CRYPTOGRAM,
            "the cryptogram is wrong",
            "check suite, key version and whether the card still has the transport key",
        ),
    },
    "INTERNAL AUTHENTICATE": {
        0x6982: Meaning(_S.DENIED, "the use right of the key is not met", _PIN_FIRST),
    },
    "VERIFY PIN": {
        0x6983: Meaning(_S.BLOCKED, "the PIN is blocked", "unblock it at a counter"),
        0x9403: Meaning(_S.ABSENT, "the application has no PIN of that id", "check the card's profile"),
    },
    "CARD BLOCK": {},
    "APPLICATION BLOCK": {},
    "APPLICATION UNBLOCK": {
        0x6988: Meaning(_S.CRYPTOGRAM, "the MAC is wrong", "check the line key: three failures block it for ever"),
    },
    "GET BALANCE": {
        0x6982: Meaning(_S.DENIED, "the read right of the purse is not met", _PIN_FIRST),
        0x6A82: Meaning(_S.ABSENT, "the selected application has no purse", "select an application with a purse"),
    },
    "GET TRANSACTION PROOF": {},
    "INITIALIZE FOR LOAD": {
        0x6982: Meaning(_S.DENIED, "a load needs the PIN", _PIN_FIRST),
    },
    "CREDIT FOR LOAD": {
        0x9302: Meaning(
            _S.CRYPTOGRAM,
            "MAC2 of the authorisation is wrong",
            "nothing was loaded: release the authorisation and start again",
        ),
    },
    "INITIALIZE FOR PURCHASE": {},
    "INITIALIZE FOR COMPOSITE PURCHASE": {},
    "UPDATE COMPOSITE CACHE": {
        0x6A83: Meaning(_S.ABSENT, "the card has no composite record of that id", "the card lacks this application"),
    },
    "DEBIT FOR PURCHASE": {
        0x9302: Meaning(
            _S.CRYPTOGRAM,
            "MAC1 of the PSAM is wrong",
            "nothing was debited: check that PSAM and card belong to one scheme",
        ),
    },
    "INITIALIZE FOR UNLOAD": {
        0x6982: Meaning(_S.DENIED, "an unload needs the PIN", _PIN_FIRST),
    },
    "DEBIT FOR UNLOAD": {
        0x9302: Meaning(_S.CRYPTOGRAM, "MAC2 of the authorisation is wrong", "nothing was unloaded: start again"),
    },
    "INITIALIZE FOR UPDATE": {},
    "UPDATE OVERDRAFT LIMIT": {
        0x9302: Meaning(_S.CRYPTOGRAM, "MAC2 of the authorisation is wrong", "the allowance is unchanged: start again"),
    },
    "CREATE FILE": {
        0x6982: Meaning(
            _S.DENIED, "the create right of the directory is not met", "authenticate with the transport key first"
        ),
        0x6A84: Meaning(_S.FORM, "no space is left in the directory", "use a profile with a larger directory"),
        0x6A86: Meaning(_S.FORM, "the file exists already", "go on, or erase the directory first"),
    },
    "WRITE KEY": {
        0x6982: Meaning(_S.DENIED, "the add or change right of the key is not met", "authenticate first"),
        0x6983: Meaning(_S.BLOCKED, "the control key is blocked", "the card cannot be personalised: scrap it"),
        0x6A86: Meaning(_S.FORM, "the key exists already", "replace it, or erase the directory first"),
    },
    "ERASE DF": {
        0x6982: Meaning(_S.DENIED, "the erase right of the directory is not met", "authenticate first"),
    },
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
