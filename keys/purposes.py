"""What a key may be for, and how keys are named. The set is closed: a new use is a new purpose."""

from dataclasses import dataclass
from enum import StrEnum

from cardcore.errors import FormatError
from cardcore.record import Sector, Suite


class KeyPurpose(StrEnum):
    """Purposes of root keys (docs/card.md)."""

    PURCHASE = "PURCHASE"
    LOAD = "LOAD"
    TAC = "TAC"
    UNLOAD = "UNLOAD"
    OVERDRAFT = "OVERDRAFT"
    ACT = "ACT"
    CONTROL = "CONTROL"
    MAINTENANCE = "MAINTENANCE"
    PIN_UNBLOCK = "PIN_UNBLOCK"
    PIN_RELOAD = "PIN_RELOAD"
    RECORD = "RECORD"
    ENTRY = "ENTRY"
    TRANSPORT = "TRANSPORT"


class KeyState(StrEnum):
    """Life of a key version; a version moves down this list, never up, except between ACTIVE and SUSPENDED. Which
    moves there are stands in `keys.rotation`."""

    PRE_ACTIVE = "pre-active"
    ROLLING_OUT = "rolling-out"
    ACTIVE = "active"
    VERIFY_ONLY = "verify-only"
    SUSPENDED = "suspended"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


VERIFYING = frozenset({KeyState.ROLLING_OUT, KeyState.ACTIVE, KeyState.VERIFY_ONLY})
# What may be written into chips: a version that is rolled out goes into them before any load relies on it.
MAKING = frozenset({KeyState.ROLLING_OUT, KeyState.ACTIVE})
# What may answer a load.
AUTHORISING = frozenset({KeyState.ACTIVE})

SUITE_LABELS = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}
_BY_LABEL = {label: suite for suite, label in SUITE_LABELS.items()}

# The city card of the construction ministry's scheme has roots of its own for everything, purchases too.
CITY_CARD = "6"
_PURSES = ("1", "3", "4", CITY_CARD)
_APPLICATIONS = ("0", "1", "2", "3", "4", "5", CITY_CARD)
_SECTORS = tuple(sector.label for sector in (Sector.TRANSIT, Sector.SMALLPAY, Sector.UTILITY))
SCOPES: dict[KeyPurpose, tuple[str, ...]] = {
    KeyPurpose.PURCHASE: (*_SECTORS, CITY_CARD),
    KeyPurpose.LOAD: _PURSES,
    KeyPurpose.TAC: _PURSES,
    KeyPurpose.UNLOAD: _PURSES,
    KeyPurpose.OVERDRAFT: _PURSES,
    KeyPurpose.ACT: ("2", "5"),
    KeyPurpose.CONTROL: _APPLICATIONS,
    KeyPurpose.MAINTENANCE: _APPLICATIONS,
    KeyPurpose.PIN_UNBLOCK: _APPLICATIONS,
    KeyPurpose.PIN_RELOAD: _APPLICATIONS,
    KeyPurpose.RECORD: ("",),
    KeyPurpose.ENTRY: ("",),
    KeyPurpose.TRANSPORT: ("",),
}
# Seals and entry MACs are SM4 whatever the suite of the card.
SM4_ONLY = frozenset({KeyPurpose.RECORD, KeyPurpose.ENTRY})


@dataclass(frozen=True, slots=True)
class KeyId:
    """Which root: suite, purpose, scope (sector, or application number, or nothing) and version. The suite is part
    of the name, so no key of one suite can ever stand in for the other's (decision D3)."""

    suite: Suite
    purpose: KeyPurpose
    scope: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        if self.scope not in SCOPES[self.purpose]:
            raise FormatError(f"a {self.purpose} key has one of the scopes {SCOPES[self.purpose]}, not {self.scope!r}")
        if self.purpose in SM4_ONLY and self.suite is not Suite.SM4:
            raise FormatError(f"{self.purpose} keys are SM4 whatever the suite of the card: there is no other")
        if not 1 <= self.version <= 255:
            raise FormatError(f"a key version is 1..255, not {self.version}")

    @property
    def name(self) -> str:
        """`<suite>/<PURPOSE>[/<scope>]`, without the version, as in a ceremony's list of components."""
        return "/".join(filter(None, (SUITE_LABELS[self.suite], self.purpose, self.scope)))

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    @classmethod
    def parse(cls, name: str, version: int = 1) -> "KeyId":
        """Read a name; raises FormatError on one that names no key."""
        label, _, rest = name.partition("/")
        purpose, _, scope = rest.partition("/")
        if label in _BY_LABEL and purpose in KeyPurpose.__members__:
            id = cls(_BY_LABEL[label], KeyPurpose(purpose), scope, version)
            if id.name == name:  # one key, one spelling
                return id
        raise FormatError(f"{name!r} is no key name; keys are named <3des|sm4>/<PURPOSE>[/<scope>], as in sm4/TAC/1")


def required_roots() -> list[str]:
    """Names of every root that a complete store holds (docs/card.md), sorted; the factory's transport key is not
    among them."""
    return sorted(
        KeyId(suite, purpose, scope).name
        for purpose, scopes in SCOPES.items()
        if purpose is not KeyPurpose.TRANSPORT
        for suite in ((Suite.SM4,) if purpose in SM4_ONLY else SUITE_LABELS)
        for scope in scopes
    )
