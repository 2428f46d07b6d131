"""Who asks: the user whose process this is, as every row of the audit names him (K7). Terminal, operator, card and
custodians stand in the row besides.

The name is part of the sealed text of the row, so that stores of any age open.
"""

import os
import pwd

_BY = "; as "


def whoever_runs_this() -> str:
    """User, uid and process id."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "nobody known"
    return f"{name}, uid {uid}, process {os.getpid()}"


def signed(detail: str, caller: str) -> str:
    """The text of a row."""
    return f"{detail}{_BY}{caller}"


def read_signed(text: str) -> tuple[str, str]:
    """Detail and caller of a row; no caller where the row is older than callers."""
    detail, by, caller = text.rpartition(_BY)
    return (detail, caller) if by else (text, "")
