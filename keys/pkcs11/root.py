"""Roots that stay in the token, in the place of `keys.engine.root.RootKey`: the handles do not know the difference."""

from typing import NoReturn, Self

import numpy as np

from cardcore.errors import FormatError, KeyUseError
from keys.engine.root import RootKey
from keys.engine.suites import KEY_BYTES, Octets, TripleDesKey, pad80
from keys.pkcs11.hsm import PREFIX, Hsm
from keys.purposes import KeyId, KeyPurpose, KeyState


def label_of(id: KeyId, test: bool) -> str:
    """A root's label in the token. Labels cannot be changed there, so neither can name, version nor TEST mark."""
    return f"{PREFIX}{id}{' TEST' if test else ''}"


def left_of(label: str) -> str:
    """The label of a transport key's left half (twice, as a key): a retail MAC begins with single DES, which a token
    does only so."""
    return f"{label} left"


class TokenKey(TripleDesKey):
    """A transport key, used as it is: blocks are enciphered in the token."""

    __slots__ = ("_hsm", "_label")

    def __init__(self, hsm: Hsm, label: str) -> None:
        super().__init__(bytes(KEY_BYTES))
        self._hsm = hsm
        self._label = label

    def reveal(self) -> NoReturn:
        raise _stays(self._label)

    def child(self, factor: bytes) -> Self:
        raise _stays(self._label)

    def encrypt(self, blocks: bytes) -> bytes:
        return self._hsm.encrypt(self._label, blocks)

    def _whole_mac(self, message: bytes, iv: bytes) -> bytes:
        """As `TripleDesKey`: single DES under the left half, the last block under the whole key."""
        blocks, iv = pad80(message, 8), iv.ljust(8, b"\0")
        head = self._hsm.chain(left_of(self._label), iv, blocks[:-8]) if len(blocks) > 8 else iv
        return self.encrypt(bytes(one ^ other for one, other in zip(head, blocks[-8:], strict=True)))


class TokenRoot(RootKey):
    """A root in the token. Keys of single chips come out of it; issuers' keys are derived inside and stay there.

    No lock of its own: the token's one thread puts calls in order, and a lock held while waiting for it would stop it.
    """

    __slots__ = ("_hsm", "_name")

    def __init__(self, hsm: Hsm, id: KeyId, state: KeyState, test: bool) -> None:
        self._hsm = hsm
        self._name = label_of(id, test)
        self.id = id
        self.state = state
        self.test = test
        self.kcv = hsm.encrypt(self._name, bytes(8))[:3]

    def card(self, issuer: bytes, serial: bytes) -> TripleDesKey:
        return TripleDesKey(self._hsm.encrypt_below(self._name, issuer * 2, _doubled(serial[-8:])))

    def cards(self, issuer: bytes, factors: Octets) -> Octets:
        return _keys(self._hsm.encrypt_below(self._name, issuer * 2, _all_doubled(factors)))

    def psam(self, terminal_number: bytes) -> TripleDesKey:
        return TripleDesKey(self._hsm.encrypt(self._name, _doubled(b"\0\0" + terminal_number)))

    def psams(self, factors: Octets) -> Octets:
        return _keys(self._hsm.encrypt(self._name, _all_doubled(factors)))

    def undiversified(self) -> TokenKey:
        """A transport key to work with. Raises KeyUseError for every other root: none of them leaves the token."""
        if self.id.purpose is not KeyPurpose.TRANSPORT:
            raise _stays(self._name)
        return TokenKey(self._hsm, self._name)


def _doubled(factor: bytes) -> bytes:
    if len(factor) != 8:
        raise FormatError(f"a diversification factor has 8 bytes, not {len(factor)}")
    return factor + bytes(octet ^ 0xFF for octet in factor)


def _all_doubled(factors: Octets) -> bytes:
    return np.concatenate((factors, ~factors), axis=1).tobytes()


def _keys(octets: bytes) -> Octets:
    return np.frombuffer(octets, np.uint8).reshape(-1, KEY_BYTES)


def _stays(label: str) -> KeyUseError:
    return KeyUseError(
        f"the key {label.removeprefix(PREFIX)} stays in its token and cannot be written elsewhere; nothing was made, "
        "personalise PSAMs with the embedded store of the ceremony"
    )
