"""How keys come into a store: from components that nobody holds all of. `Ceremony` is one sitting of several persons;
`test_ceremony` is that of one process, whose keys are marked for ever.

A key is the XOR of its components: whatever n-1 persons know, every key is as likely as before.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from keys import acts
from keys.custody import Approval, folded
from keys.engine.root import RootKey
from keys.engine.suites import KEY_BYTES, suite_of
from keys.engine.weakness import TEST_TRANSPORT_KEY, weakness
from keys.purposes import KeyId, KeyPurpose, KeyState, required_roots
from keys.rotation import next_version
from keys.store import EmbeddedStore, KeyStore
from keys.transcript import Transcript

__all__ = ["TEST_TRANSPORT_KEY", "Ceremony", "required_roots", "test_ceremony"]


def test_ceremony(store: KeyStore, components: Mapping[str, tuple[bytes, bytes]]) -> dict[str, bytes]:
    """Install every root of docs/card.md, each the XOR of two 16-byte components, and the TEST transport key of both
    suites.

    `components` names exactly `required_roots()`. All keys are marked TEST, which a production store refuses. Holding
    it twice with the same components changes nothing. Returns the check value (3 bytes) by name. Raises FormatError on
    missing, unknown or malformed components, KeyUseError when the store refuses; nothing is kept then.
    """
    required = set(required_roots())
    if missing := sorted(required - set(components)):
        raise FormatError(f"{len(missing)} keys have no components, the first is {missing[0]}; nothing was kept")
    if unknown := sorted(set(components) - required):
        raise FormatError(f"{unknown[0]!r} is no root key of a store; nothing was kept")
    roots = [_combine(KeyId.parse(name), components[name]) for name in sorted(required)]
    roots += [RootKey(KeyId(suite, KeyPurpose.TRANSPORT), TEST_TRANSPORT_KEY, test=True) for suite in Suite]
    store.admit(roots)
    return {root.id.name: root.kcv for root in roots}


# Not a test of the suite, whatever its name says to pytest.
test_ceremony.__test__ = False  # type: ignore[attr-defined]  # functions take attributes; mypy does not model this one


class Ceremony:
    """One sitting: several persons, one after the other, each give one component of every key, two others approve.

    Nothing is written anywhere before `finish`: who leaves in between leaves nothing behind.
    """

    def __init__(self, store: EmbeddedStore, names: Sequence[str], parts: int) -> None:
        """`names` of the keys, each of which gets its next version; `parts` persons, two or more. Raises FormatError,
        and KeyUseError for a key that the store cannot hold."""
        if parts < 2:
            raise FormatError("a key comes from two components or more, of as many persons; nothing was begun")
        if not names or len(set(names)) != len(names):
            raise FormatError("name each key of the ceremony once, and at least one; nothing was begun")
        known = store.book.register.lives()
        self.ids = [KeyId.parse(name, next_version(name, known)) for name in names]
        for id in self.ids:
            store.check_holds(id)
        self.parts = parts
        self._store = store
        self._givers: list[str] = []
        self._components: dict[KeyId, list[bytes]] = {id: [] for id in self.ids}
        self._transcript = Transcript(store.book.state.clock)
        kind = "production" if store.production else "TEST"
        self._transcript.add(f"ceremony of {len(self.ids)} keys from {parts} components each, {kind} store")

    def seat(self, person: str) -> None:
        """The next person. Raises RefusedError when that one was here before, or it is not their turn."""
        if len(self._givers) == self.parts or not self._complete(len(self._givers)):
            raise RefusedError("two-persons", f"it is not the turn of {person}; nothing was taken")
        if folded(person) in map(folded, self._givers):
            raise RefusedError(
                "two-persons", f"{person} has given a component already; nothing was taken, ask another person in"
            )
        self._givers.append(" ".join(person.split()))
        self._transcript.add(f"{self._givers[-1]} gives component {len(self._givers)} of {self.parts}")

    def give(self, id: KeyId, component: str) -> str:
        """Take the seated person's component, 32 hexadecimal digits, and return its check value (6 digits).

        Raises FormatError, and RefusedError for a component that was given before; the words never show it.
        """
        given = self._components[id]
        if len(given) + 1 != len(self._givers):
            raise RefusedError("two-persons", f"{id} has its component of this person; nothing was taken")
        octets = _octets(component)
        if octets is None:
            raise FormatError(f"a component of {id} is 32 hexadecimal digits; nothing was taken, type it again")
        if octets in given or not any(octets):
            raise RefusedError(
                "two-persons", f"this component of {id} hides nothing: it is all zeros, or was given before; draw anew"
            )
        value = suite_of(id.suite)(octets).kcv().hex().upper()
        given.append(octets)
        self._transcript.add(f"component {len(given)} of {id}: KCV {value}")
        return value

    def check_values(self) -> dict[KeyId, str]:
        """The check value of each key (6 digits), once every component is here."""
        return {root.id: root.kcv.hex().upper() for root in self._roots()}

    @property
    def act(self) -> str:
        """What the approvals have to say."""
        return acts.installation(self._roots())

    def finish(self, approvals: Sequence[Approval], transcript: Path) -> str:
        """Take the keys in, pre-active, and leave the transcript in a new file. Returns the transcript's seal. Raises
        RefusedError, KeyUseError and SetupError, and then neither is there."""
        roots, told, custodians = self._roots(), self._transcript, self._store.book.register.custodians()
        with told.written_to(transcript):
            for root in roots:
                told.add(f"key {root.id}: KCV {root.kcv.hex().upper()}{' TEST' if root.test else ''}")
            for one in approvals:
                shown = custodians[one.custodian].shown if one.custodian in custodians else one.custodian
                told.add(f"approved by {shown} at {one.at:%Y-%m-%d %H:%M:%S} UTC")
            acts.install(self._store, roots, approvals, self._givers, told.seal)
            head = self._store.book.state.head()
            told.add(f"kept; the audit of the store stands at row {head.number}, seal {head.seal}")
        self._components.clear()
        return told.seal

    def _roots(self) -> list[RootKey]:
        if not self._givers or not self._complete(self.parts):
            raise RefusedError("two-persons", "not every component is here; nothing was made")
        test = not self._store.production
        return [_combine(id, given, KeyState.PRE_ACTIVE, test) for id, given in self._components.items()]

    def _complete(self, parts: int) -> bool:
        return bool(self._components) and all(len(given) == parts for given in self._components.values())


def _octets(component: str) -> bytes | None:
    """The bytes of a component; None, and no word about what was typed, when they are none."""
    try:
        octets = bytes.fromhex(component)
    except ValueError:
        return None
    return octets if len(octets) == KEY_BYTES else None


def _combine(id: KeyId, components: Sequence[bytes], state: KeyState = KeyState.ACTIVE, test: bool = True) -> RootKey:
    if any(len(one) != KEY_BYTES for one in components):
        raise FormatError(f"the components of {id.name} have {KEY_BYTES} bytes each; nothing was kept")
    octets = reduce(lambda one, other: bytes(a ^ b for a, b in zip(one, other, strict=True)), components)
    if found := weakness(octets, id.suite, test=test):
        raise KeyUseError(f"these components make a key that {found}, of {id.name}; draw them anew")
    return RootKey(id, octets, state, test)
