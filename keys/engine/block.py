"""Sealed key blocks: a key never lies on disk but enciphered, and bound to its name, version, state and TEST mark.

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
_TAG_BYTES = 16
_PLAIN_BYTES = 48


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(SM4(key))
    mac.update(message)
    return mac.finalize()


class Sealer(Guarded):
    """Seals and opens key blocks under two keys made from the key-encryption key."""

    __slots__ = ("_enciphering", "_marking")

    def __init__(self, kek: bytes) -> None:
        self._enciphering = _cmac(kek, b"\x01OCKB1 encipher\x00\x80")
        self._marking = _cmac(kek, b"\x01OCKB1 mark\x00\x80")

    @property
    def label(self) -> str:
        return "of key blocks"

    def mark(self, text: bytes) -> bytes:
        """Tag (16 bytes) of what a store says of itself."""
        return _cmac(self._marking, b"store" + text)

    def seal(self, root: RootKey) -> bytes:
        """The block of a key."""
        header = "|".join(
            (_MAGIC, root.id.name, str(root.id.version), root.state, "TEST" if root.test else "-")
        ).encode()
        head = len(header).to_bytes(2, "big") + header
        plain = root.undiversified().reveal() + os.urandom(_PLAIN_BYTES - KEY_BYTES)
        tag = _cmac(self._marking, head + plain)
        return head + tag + Cipher(SM4(self._enciphering), modes.CBC(tag)).encryptor().update(plain)

    def open(self, block: bytes) -> RootKey:
        """The key of a block; raises KeyUseError when any bit is not as it was sealed."""
        size = 2 + int.from_bytes(block[:2], "big")
        head, tag, cipher = block[:size], block[size : size + _TAG_BYTES], block[size + _TAG_BYTES :]
        if len(cipher) != _PLAIN_BYTES:
            raise _refusal()
        plain = Cipher(SM4(self._enciphering), modes.CBC(tag)).decryptor().update(cipher)
        if not hmac.compare_digest(_cmac(self._marking, head + plain), tag):
            raise _refusal()
        try:
            magic, name, version, state, test = head[2:].decode().split("|")
            id, life = KeyId.parse(name, int(version)), KeyState(state)
        except (FormatError, ValueError) as error:
            raise KeyUseError(
                "a sealed key block is of a form that this program does not know; use a newer one"
            ) from error
        if magic != _MAGIC:
            raise _refusal()
        return RootKey(id, plain[:KEY_BYTES], life, test == "TEST")


def _refusal() -> KeyUseError:
    return KeyUseError(
        "a sealed key block was changed or belongs to another store; nothing was opened, restore the store"
    )
