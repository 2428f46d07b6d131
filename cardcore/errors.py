"""The error tree of the whole product.

    OnecardError
    ├── FormatError        bytes, text or a document that is not what it should be; nothing was changed
    │   └── ProfileError   a card profile that cannot be used
    ├── CardError          the card answered, and refused
    ├── ReaderError        the way to the card is broken; the card's state is what it was
    ├── KeyUseError        a key is missing, of the wrong purpose, state or version
    ├── RefusedError       a rule says no (limit, licence, denylist …); nothing was changed
    └── SetupError         this machine lacks something; says what and how to get it

Every message says what happened, what state things are in, and what to do.
"""


class OnecardError(Exception):
    """Root of all errors that are meant for people."""


class FormatError(OnecardError, ValueError):
    """Input is not of the form that its standard or contract gives."""


class ProfileError(FormatError):
    """A card profile has an unknown, missing or contradictory field."""


class CardError(OnecardError):
    """The card refused a command: `command` names it, `sw` is the status word, 0 when the refusal has none."""

    def __init__(self, message: str, *, command: str = "", sw: int = 0) -> None:
        super().__init__(message)
        self.command = command
        self.sw = sw


class ReaderError(OnecardError):
    """The reader or its service failed before a command was sent."""


class KeyUseError(OnecardError):
    """A key is missing, or its purpose, version or state does not allow the use."""


class RefusedError(OnecardError):
    """A rule refused the act; `code` is the short name that goes over the wire (docs/wire.md)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SetupError(OnecardError):
    """Something that this machine needs is missing or unusable."""
