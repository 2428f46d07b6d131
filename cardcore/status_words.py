"""What status words mean whatever the command (ISO/IEC 7816-4; FMCOS 2.0; PBOC purse commands)."""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


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
