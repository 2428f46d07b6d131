"""A root key: a suite key with a name, a state and a check value, and the two derivations below it (docs/card.md)."""

from collections.abc import Iterable, Mapping
from threading import Lock

from cardcore.errors import FormatError, KeyUseError
from keys.engine.suites import Octets, SuiteKey, suite_of
from keys.guarded import Guarded
from keys.purposes import KeyId, KeyPurpose, KeyState

_CITIES = 256


class RootKey(Guarded):
    """One root of one purpose. What leaves it are keys further down, and its own bytes only towards a sealed block or
    a PSAM.

    Safe in several threads: an OpenSSL context is not, so each derivation holds the root's lock.
    """

    __slots__ = ("_cities", "_key", "_lock", "id", "kcv", "state", "test")

    def __init__(self, id: KeyId, octets: bytes, state: KeyState = KeyState.ACTIVE, test: bool = False) -> None:
        self._key = suite_of(id.suite)(octets)
        self._cities: dict[bytes, SuiteKey] = {}
        self._lock = Lock()
        self.id = id
        self.state = state
        self.test = test
        self.kcv = self._key.kcv()

    @property
    def label(self) -> str:
        return f"{self.id} KCV {self.kcv.hex().upper()} {self.state}{' TEST' if self.test else ''}"

    def card(self, issuer: bytes, serial: bytes) -> SuiteKey:
        """A card's key, DIV(DIV(root, issuer ‖ issuer), last 8 bytes of the serial)."""
        with self._lock:
            return self._city(issuer).child(serial[-8:])

    def cards(self, issuer: bytes, factors: Octets) -> Octets:
        """Keys (n, 16) of many cards of one issuer, by their factors (n, 8), in one OpenSSL call."""
        with self._lock:
            return self._city(issuer).children(factors)

    def psam(self, terminal_number: bytes) -> SuiteKey:
        """A PSAM's own key, DIV(root, 00 00 ‖ terminal number)."""
        with self._lock:
            return self._key.child(b"\0\0" + terminal_number)

    def psams(self, factors: Octets) -> Octets:
        """Own keys (n, 16) of many PSAMs, by their factors (n, 8)."""
        with self._lock:
            return self._key.children(factors)

    def undiversified(self) -> SuiteKey:
        """The root itself, opened anew: a transport key, a purchase root on its way into a PSAM, a key to be sealed."""
        return suite_of(self.id.suite)(self._key.reveal())

    def _city(self, issuer: bytes) -> SuiteKey:
        """The issuer's key, DIV(root, issuer ‖ issuer); the last ones used stay open."""
        key = self._cities.get(issuer)
        if key is None:
            if len(self._cities) >= _CITIES:
                self._cities.clear()
            key = self._cities[issuer] = self._key.child(issuer * 2)
        return key


Roots = Mapping[KeyId, RootKey]


def card_key(root: RootKey, issuer: bytes, serial: bytes) -> SuiteKey:
    """As `RootKey.card`; raises FormatError for what names no card."""
    if len(issuer) != 4 or len(serial) != 10:
        raise FormatError("a card has an issuer of 4 and a serial of 10 bytes; nothing was made")
    return root.card(issuer, serial)


def of_purpose(
    roots: Iterable[RootKey], purposes: frozenset[KeyPurpose], states: frozenset[KeyState]
) -> dict[KeyId, RootKey]:
    """Those that a handle may hold; raises KeyUseError when there is none, because a handle without a key is a
    mistake."""
    chosen = {root.id: root for root in roots if root.id.purpose in purposes and root.state in states}
    if not chosen:
        wanted = ", ".join(sorted(purposes))
        raise KeyUseError(f"the store holds no usable key for {wanted}; hold the ceremony first, nothing was opened")
    return chosen
