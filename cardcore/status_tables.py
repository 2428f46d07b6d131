"""The status words of each command, and what a clerk does after each (FMCOS 2.0 chapters 7 and 8; docs/card.md).

A word that means the same after every command is taken from `status_words`; what a command gives another meaning stands
here.
"""

from collections.abc import Mapping

from cardcore.status_words import GENERAL, Meaning, Standing

_S = Standing
_Own = tuple[Standing, str, str]


def _table(general: str, own: Mapping[int, _Own] | None = None) -> Mapping[int, Meaning]:
    taken = {int(word, 16): GENERAL[int(word, 16)] for word in general.split()}
    return taken | {word: Meaning(*row) for word, row in (own or {}).items()}


_PIN_FIRST = "verify the PIN first"
_READ_DENIED: _Own = _S.DENIED, "the read right of the file is not met", _PIN_FIRST
_WRITE_DENIED: _Own = _S.DENIED, "the write right of the file is not met", "authenticate with the control key first"
_MONEY_PIN = "the holder enters the PIN, then start again"
_NO_KEY: _Own = (
    _S.ABSENT,
    "the purse has no key of that index, version or algorithm",
    "use the key index that the card's profile names; a PSAM or desk of another scheme has none",
)
_NO_PURSE: _Own = _S.ABSENT, "the selected application has no purse", "select an application with a purse"
_COUNTER_END: _Own = _S.BLOCKED, "the card's counter is at its maximum", "replace the card and carry its value over"
_STARTS = "6581 6700 6981 6985 6A81 6A86"
_DECIDES = "6581 6700 6901 6985 6A81 6A86"
_LOCKING: _Own = (
    _S.CRYPTOGRAM,
    "the secure-messaging MAC is wrong",
    "stop: three in a row lock the application for ever; check key version, suite and challenge first",
)
_LOCKED: _Own = _S.BLOCKED, "the application is locked for ever by wrong MACs", "replace the card"
_WRITES = "6581 6700 6900 6981 6985 6A81 6A82 6B00"


_PURSE: Mapping[int, _Own] = {0x6A82: _NO_PURSE, 0x9402: _COUNTER_END, 0x9403: _NO_KEY}
_LOCKS: Mapping[int, _Own] = {0x6988: _LOCKING, 0x9302: _LOCKING, 0x9303: _LOCKED}
_WRONG_GUARD: _Own = _S.CRYPTOGRAM, "the MAC is wrong", "stop: see which key guards the directory, transport or its own"
_WRONG_UNBLOCK: _Own = (
    _S.CRYPTOGRAM,
    "the MAC of the unblocking is wrong",
    "stop: three in a row block the key for ever",
)


def _opening(pin: str, advice: str = _PIN_FIRST) -> Mapping[int, _Own]:
    return {**_PURSE, 0x6982: (_S.DENIED, pin, advice)}


def _host_mac(nothing: str) -> _Own:
    return _S.CRYPTOGRAM, "MAC2 of the authorisation is wrong", f"{nothing}: release the authorisation and start again"


BY_COMMAND: Mapping[str, Mapping[int, Meaning]] = {
    "SELECT": _table(
        "6283 6700 6A86 9303",
        {
            0x6A82: (_S.ABSENT, "there is no such application or file", "check that this is a card of ours"),
            0x6A81: (_S.BLOCKED, "the card is blocked", "keep it and open a replacement"),
        },
    ),
    "READ BINARY": _table("6281 6282 6700 6900 6981 6987 6A81 6A82 6A86 6B00", {0x6982: _READ_DENIED}),
    "UPDATE BINARY": _table(_WRITES + " 6987", {0x6982: _WRITE_DENIED, **_LOCKS}),
    "READ RECORD": _table("6281 6700 6900 6981 6987 6A81 6A82 6A83 6A86", {0x6982: _READ_DENIED}),
    "UPDATE RECORD": _table(
        _WRITES + " 6283 6987 6A83 6A84",
        {0x6982: _WRITE_DENIED, **_LOCKS},
    ),
    "APPEND RECORD": _table(
        "6581 6700 6900 6981 6987 6A81 6A82",
        {
            0x6982: _WRITE_DENIED,
            0x6A84: (_S.FORM, "no space is left in the file", "the records are already there, or the file is small"),
            0x6988: _LOCKING,
            0x9303: _LOCKED,
        },
    ),
    "PROTECTED READ": _table(
        "6281 6700 6900 6981 6984 6985 6987 6A81 6A82 6A83 6B00",
        {0x6982: _READ_DENIED, **_LOCKS},
    ),
    "PROTECTED WRITE": _table(
        _WRITES + " 6984 6987 6A83 6A84",
        {0x6982: _WRITE_DENIED, **_LOCKS},
    ),
    "GET RESPONSE": _table(
        "6700 6A86 6F00", {0x6985: (_S.ORDER, "nothing is waiting to be fetched", "repeat the command itself")}
    ),
    "GET CHALLENGE": _table("6700 6A81 6A86"),
    "EXTERNAL AUTHENTICATE": _table(
        "6700 6984 6985 6A81 6A86",
        {
            0x6982: (_S.DENIED, "the use right of the key is not met", "select the application of the key first"),
            0x6983: (_S.BLOCKED, "the control key is blocked", "the card cannot be administered: scrap it"),
            0x6A88: (_S.ABSENT, "the directory has no control key of that id", "check the card's profile"),
            0x9302: (
                _S.CRYPTOGRAM,
                "the cryptogram is wrong",
                "check suite, key version and whether the card still has the transport key",
            ),
        },
    ),
    "INTERNAL AUTHENTICATE": _table(
        "6700 6981 6A81 6A86 6A88 9403",
        {
            0x6982: (_S.DENIED, "the use right of the key is not met", _PIN_FIRST),
            0x6985: (_S.ORDER, "the key does not do this kind of calculation", "check P1 and the key's type"),
        },
    ),
    "VERIFY PIN": _table(
        "6581 6700 6A81 6A86",
        {
            0x6982: (_S.DENIED, "the use right of the PIN is not met", "select the application of the PIN first"),
            0x6983: (_S.BLOCKED, "the PIN is blocked", "unblock it at a counter"),
            0x6A88: (_S.ABSENT, "the application has no PIN of that id", "check the card's profile"),
            0x9403: (_S.ABSENT, "the application has no PIN of that id", "check the card's profile"),
        },
    ),
    "CHANGE PIN": _table(
        "6581 6700 6A80 6A81 6A86",
        {
            0x6983: (_S.BLOCKED, "the PIN is blocked and cannot be changed", "unblock it: the holder's identity first"),
            0x6A88: (_S.ABSENT, "the application has no PIN of that id", "check the card's profile"),
            0x9403: (_S.ABSENT, "the application has no PIN of that id", "check the card's profile"),
        },
    ),
    "RELOAD PIN": _table(
        "6581 6700 6A80 6A81 6A86",
        {
            0x6982: (_S.DENIED, "the use right of the reload key is not met", "select the application first"),
            0x6983: (_S.BLOCKED, "the reload key is blocked: three wrong MACs", "replace the card"),
            0x6A88: (_S.ABSENT, "the application has no PIN or reload key", "check the card's profile"),
            0x9302: (_S.CRYPTOGRAM, "the MAC over the new PIN is wrong", "the old PIN stands: check suite and version"),
            0x9403: (_S.ABSENT, "the application has no PIN or reload key", "check the card's profile"),
        },
    ),
    "PIN UNBLOCK": _table(
        "6581 6700 6984 6985 6987 6A80 6A81",
        {
            0x6982: (_S.DENIED, "the use right of the unblocking key is not met", "select the application first"),
            0x6983: (_S.BLOCKED, "the unblocking key is blocked: three wrong MACs", "replace the card"),
            0x6988: _WRONG_UNBLOCK,
            0x6A86: (_S.FORM, "the card wants the PIN's id elsewhere", "correct pin_unblock_place in the profile"),
            0x6A88: (_S.ABSENT, "the application has no PIN or unblocking key", "check the card's profile"),
            0x9302: _WRONG_UNBLOCK,
            0x9303: _LOCKED,
        },
    ),
    "CARD BLOCK": _table(
        "6581 6700 6984 6985 6987 6988 6A86 9303",
        {
            0x6A81: (_S.BLOCKED, "the card is blocked already", "keep the card"),
            0x6A88: (_S.ABSENT, "the MF has no line key", "select the MF; check the card's profile"),
        },
    ),
    "APPLICATION BLOCK": _table(
        "6581 6700 6984 6985 6987 6988 6A86 6A88 9303",
        {
            0x6A81: (_S.BLOCKED, "the application is blocked already", "nothing is left to do"),
        },
    ),
    "APPLICATION UNBLOCK": _table(
        "6581 6700 6984 6987 6A81 6A86 6A88",
        {
            0x6985: (_S.ORDER, "the application is not blocked, or there is no challenge", "select it and look"),
            0x6988: (_S.CRYPTOGRAM, "the MAC is wrong", "check the line key: three failures block it for ever"),
            0x9303: (_S.BLOCKED, "the application is blocked for ever", "replace the card and carry its value over"),
        },
    ),
    "GET BALANCE": _table(
        "6700 6981 6985 6A81 6A86",
        {
            0x6982: (_S.DENIED, "the read right of the purse is not met", _PIN_FIRST),
            0x6A82: _NO_PURSE,
        },
    ),
    "GET TRANSACTION PROOF": _table(
        "6700 6985 6A81 6A82 6A86",
        {
            0x9406: (
                _S.ABSENT,
                "the card has no proof of that transaction",
                "look into the log, then compare the counter: unchanged means that nothing was committed",
            ),
        },
    ),
    "INITIALIZE FOR LOAD": _table(
        _STARTS,
        _opening("a load needs the PIN"),
    ),
    "CREDIT FOR LOAD": _table(_DECIDES, {0x9302: _host_mac("nothing was loaded")}),
    "INITIALIZE FOR PURCHASE": _table(
        _STARTS + " 9301 9401",
        _opening("a deposit pays with its PIN", _MONEY_PIN),
    ),
    "INITIALIZE FOR CASH WITHDRAW": _table(
        _STARTS + " 9301 9401",
        _opening("a withdrawal needs the PIN", _MONEY_PIN),
    ),
    "INITIALIZE FOR COMPOSITE PURCHASE": _table(
        _STARTS + " 6982 9301 9401",
        {**_PURSE},
    ),
    "UPDATE COMPOSITE CACHE": _table(
        "6581 6700 6901 6981 6982 6985 6A81 6A82 6A84 6A86",
        {
            0x6A83: (_S.ABSENT, "the card has no composite record of that id", "the card lacks this application"),
            0x6A80: (_S.FORM, "id or length of the record contradicts the file", "compare it with docs/card.md"),
            0x6283: (_S.BLOCKED, "the record's application is locked by its lock byte", "send the holder to a counter"),
        },
    ),
    "DEBIT FOR PURCHASE": _table(
        _DECIDES + " 9301 9401",
        {
            0x9302: (
                _S.CRYPTOGRAM,
                "MAC1 of the PSAM is wrong",
                "nothing was debited: check that PSAM and card belong to one scheme",
            ),
        },
    ),
    "INITIALIZE FOR UNLOAD": _table(
        _STARTS + " 9301 9401",
        _opening("an unload needs the PIN"),
    ),
    "DEBIT FOR UNLOAD": _table(_DECIDES + " 9301 9401", {0x9302: _host_mac("nothing was unloaded, pay nothing")}),
    "INITIALIZE FOR UPDATE": _table(
        _STARTS,
        _opening("the use right of the allowance key is not met"),
    ),
    "UPDATE OVERDRAFT LIMIT": _table(
        _DECIDES + " 9301 9401",
        {0x9302: _host_mac("the allowance is unchanged")},
    ),
    "CREATE FILE": _table(
        "6581 6700 6981 6A80 6A81",
        {
            0x6982: (
                _S.DENIED,
                "the create right of the directory is not met",
                "authenticate with its control key first; on a blank that is the transport key",
            ),
            0x6A84: (_S.FORM, "no space is left in the directory", "use a profile with a larger directory"),
            0x6A86: (_S.FORM, "the file exists already", "go on, or erase the directory first"),
        },
    ),
    "WRITE KEY": _table(
        "6581 6700 6984 6985 6987 6A80 6A81 6A84 6A88",
        {
            0x6982: (_S.DENIED, "the add or change right of the key is not met", "authenticate first"),
            0x6983: (_S.BLOCKED, "the control key is blocked", "the card cannot be personalised: scrap it"),
            0x6988: _WRONG_GUARD,
            0x6A86: (_S.FORM, "the key exists already", "replace it, or erase the directory first"),
            0x9302: _WRONG_GUARD,
            0x9303: _LOCKED,
        },
    ),
    "ERASE DF": _table(
        "6581 6700 6985 6A81 6A86",
        {0x6982: (_S.DENIED, "the erase right of the directory is not met", "authenticate first")},
    ),
    "INIT SAM FOR PURCHASE": _table(
        "6581 6700 6982 6A81 6A86 6A88",
        {
            0x6983: (_S.BLOCKED, "the PSAM is blocked by wrong MAC2s", "have its ceilings set anew: that frees it"),
            0x6985: (
                _S.BLOCKED,
                "the PSAM is at a ceiling, or not personalised",
                "upload every record, then ask the clearing house to set its ceilings anew",
            ),
            0x9402: (_S.BLOCKED, "the PSAM's transaction number is at its maximum", "exchange the PSAM"),
            0x9403: (
                _S.ABSENT,
                "the PSAM has no purchase key of the card's version and algorithm",
                "refuse the card: it is of another scheme or key generation",
            ),
        },
    ),
    "CREDIT SAM FOR PURCHASE": _table(
        "6581 6700 6901 6985 6A81",
        {
            0x6983: (_S.BLOCKED, "the PSAM is blocked by wrong MACs", "exchange the PSAM"),
            0x9302: (
                _S.CRYPTOGRAM,
                "MAC2 of the card is wrong",
                "the card is not genuine: do not open the gate, keep the record as evidence",
            ),
        },
    ),
    "SET CEILINGS": _table(
        "6581 6700 6987 6A81 6A86 6A88",
        {
            0x6982: (
                _S.DENIED,
                "the control key was not proved in this selection",
                "send EXTERNAL AUTHENTICATE with a fresh challenge first",
            ),
            0x6985: (_S.ORDER, "there is no fresh challenge", "get a challenge and ask the clearing house again"),
            0x6988: (
                _S.CRYPTOGRAM,
                "the MAC is wrong, or over an older challenge",
                "ask again with a fresh challenge: three in a row lock the PSAM for ever",
            ),
            0x9303: (_S.BLOCKED, "the PSAM is locked for ever by wrong MACs", "exchange the PSAM"),
        },
    ),
    "INIT FOR DESCRYPT": _table(
        "6700 6982 6A81 6A86 9403", {0x6A88: (_S.ABSENT, "the PSAM has no key of that usage", "go on without it")}
    ),
    "CRYPT": _table(
        "6700 6A80 6A81 6A86",
        {
            0x6985: (_S.ORDER, "no key was selected", "send INIT FOR DESCRYPT first"),
            0x6901: (_S.ORDER, "no key was selected", "send INIT FOR DESCRYPT first"),
        },
    ),
}
