"""How keys come into a store: from components that nobody holds all of. Here the one-process TEST ceremony; its
keys are marked for ever."""

from collections.abc import Mapping

from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite
from keys.engine.root import RootKey
from keys.engine.suites import KEY_BYTES
from keys.purposes import KeyId, KeyPurpose, required_roots
from keys.store import KeyStore

__all__ = ["TEST_TRANSPORT_KEY", "required_roots", "test_ceremony"]

# The factory key of TEST blanks, cards and PSAMs alike (docs/card.md).
TEST_TRANSPORT_KEY = b"TEST TRANSPORT 1"


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
    roots = [_combine(KeyId.parse(name), *components[name]) for name in sorted(required)]
    roots += [RootKey(KeyId(suite, KeyPurpose.TRANSPORT), TEST_TRANSPORT_KEY, test=True) for suite in Suite]
    store.admit(roots)
    return {root.id.name: root.kcv for root in roots}


# Not a test of the suite, whatever its name says to pytest.
test_ceremony.__test__ = False  # type: ignore[attr-defined]  # functions take attributes; mypy does not model this one


def _combine(id: KeyId, first: bytes, second: bytes) -> RootKey:
    if not len(first) == len(second) == KEY_BYTES:
        raise FormatError(f"the components of {id.name} have {KEY_BYTES} bytes each; nothing was kept")
    octets = bytes(one ^ other for one, other in zip(first, second, strict=True))
    if octets[:8] == octets[8:]:
        raise KeyUseError(
            f"{id.name} would have two equal halves, which is no {KEY_BYTES}-byte key; draw its components anew"
        )
    return RootKey(id, octets, test=True)
