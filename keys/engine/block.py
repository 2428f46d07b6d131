"""Sealed key blocks: a key never lies on disk but enciphered, and bound to its name, version, state and TEST mark.

What seals them is a store's own key, which lies in the store in such a block too, under a key-encryption key
(`keys.engine.kek`); so what opens a store can be changed without touching what it holds.

A block is length(2) ‖ header ‖ tag(16) ‖ ciphertext(48). The tag is SM4-CMAC over everything before it and the
plaintext (key ‖ random), and is the IV of SM4-CBC: what SIV does, so that no nonce can repeat and no bit can be turned
unnoticed.
"""

import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.cmac import CMAC

from cardcore.errors import FormatError, KeyUseError
from keys.engine.root import RootKey
from keys.engine.suites import KEY_BYTES
from keys.guarded import Guarded
from keys.purposes import KeyId, KeyState

_MAGIC = "OCKB1"
_WRAPPED = "OCKW1"
_TAG_BYTES = 16
_PLAIN_BYTES = 48


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(SM4(key))
    mac.update(message)
    return mac.finalize()


class _Blocks:
    """Seals and opens blocks of one kind under two keys made from another."""

    __slots__ = ("_enciphering", "marking")

    def __init__(self, magic: str, key: bytes) -> None:
        self._enciphering = _cmac(key, b"\x01%b encipher\x00\x80" % magic.encode())
        self.marking = _cmac(key, b"\x01%b mark\x00\x80" % magic.encode())

    def seal(self, header: bytes, key: bytes) -> bytes:
        head = len(header).to_bytes(2, "big") + header
        plain = key + os.urandom(_PLAIN_BYTES - KEY_BYTES)
        tag = _cmac(self.marking, head + plain)
        return head + tag + Cipher(SM4(self._enciphering), modes.CBC(tag)).encryptor().update(plain)

    def open(self, block: bytes) -> tuple[bytes, bytes] | None:
        """Header and key; None when any bit is not as it was sealed."""
        size = 2 + int.from_bytes(block[:2], "big")
        head, tag, cipher = block[:size], block[size : size + _TAG_BYTES], block[size + _TAG_BYTES :]
        if len(cipher) != _PLAIN_BYTES:
            return None
        plain = Cipher(SM4(self._enciphering), modes.CBC(tag)).decryptor().update(cipher)
        right = hmac.compare_digest(_cmac(self.marking, head + plain), tag)
        return (head[2:], plain[:KEY_BYTES]) if right else None


class Sealer(Guarded):
    """Seals and opens key blocks under a store's own key."""

    __slots__ = ("_blocks", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._blocks = _Blocks(_MAGIC, key)

    @classmethod
    def drawn(cls) -> "Sealer":
        """Of a new store."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def unwrapped(cls, wrapped: bytes, kek: bytes) -> "Sealer | None":
        """Of the store whose own key was wrapped so; None under another key-encryption key."""
        found = _Blocks(_WRAPPED, kek).open(wrapped)
        return cls(found[1]) if found else None

    def wrapped(self, kek: bytes) -> bytes:
        """The store's own key as it lies in the store."""
        return _Blocks(_WRAPPED, kek).seal(_WRAPPED.encode(), self._key)

    @property
    def label(self) -> str:
        return "of key blocks"

    def mark(self, text: bytes) -> bytes:
        """Tag (16 bytes) of what a store says of itself."""
        return _cmac(self._blocks.marking, b"store" + text)

    def seal(self, root: RootKey) -> bytes:
        """The block of a key."""
        header = "|".join(
            (_MAGIC, root.id.name, str(root.id.version), root.state, "TEST" if root.test else "-")
        ).encode()
        return self._blocks.seal(header, root.undiversified().reveal())

    def open(self, block: bytes) -> RootKey:
        """The key of a block; raises KeyUseError when any bit is not as it was sealed."""
        found = self._blocks.open(block)
        if found is None:
            raise _refusal()
        header, octets = found
        try:
            magic, name, version, state, test = header.decode().split("|")
            id, life = KeyId.parse(name, int(version)), KeyState(state)
        except (FormatError, ValueError) as error:
            raise KeyUseError(
                "a sealed key block is of a form that this program does not know; use a newer one"
            ) from error
        if magic != _MAGIC:
            raise _refusal()
        return RootKey(id, octets, life, test == "TEST")


def _refusal() -> KeyUseError:
    return KeyUseError(
        "a sealed key block was changed or belongs to another store; nothing was opened, restore the store"
    )
