"""The ciphers of a chip, 3DES (algorithm id 00) and SM4 (04): what its operating system does with a key.

Sources: JR/T 0025 (purse), ISO/IEC 9797-1 algorithms 1 and 3 with padding method 2, docs/onecard-sm4-1.md.
An OpenSSL context costs about ten times a block, so each key opens its contexts once, when first used, and keeps them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4

TRIPLE_DES, SM4_ID = 0x00, 0x04

_CBC = {block: modes.CBC(bytes(block)) for block in (8, 16)}
_ECB = modes.ECB()  # noqa: S305 - what cards do
_PADS = {block: [b"\x80" + bytes(block - 1 - used) for used in range(block)] for block in (8, 16)}


def pad80(octets: bytes, block: int) -> bytes:
    """`octets` ‖ 80 ‖ 00… up to a multiple of `block`; a full last block gets a whole block more."""
    return octets + _PADS[block][len(octets) % block]


def complement(octets: bytes) -> bytes:
    """Each bit turned over: the second half of a diversification input."""
    return bytes(255 - octet for octet in octets)


class _Chain:
    """A CBC encryptor that is never closed: its register, known from the last answer, is undone in the next block."""

    __slots__ = ("_block", "_register", "_update")

    def __init__(self, algorithm: TripleDES | SM4) -> None:
        self._block = algorithm.block_size // 8
        self._register = 0
        self._update: Callable[[bytes], bytes] = Cipher(algorithm, _CBC[self._block]).encryptor().update

    def last_block(self, blocks: bytes, iv: bytes) -> bytes:
        """The last block of CBC over whole `blocks` that starts from `iv`."""
        size = self._block
        first = int.from_bytes(blocks[:size], "big") ^ self._register
        if iv:
            first ^= int.from_bytes(iv, "big") << 8 * (size - len(iv))
        last = self._update(first.to_bytes(size, "big") + blocks[size:])[-size:]
        self._register = int.from_bytes(last, "big")
        return last


class CipherKey(ABC):
    """One key in a chip. `value` is its bytes; contexts are opened lazily and stay out of copies and pickles."""

    algorithm: int
    block: int

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type["CipherKey"], tuple[bytes]]:
        return type(self), (self.value,)

    @abstractmethod
    def _cipher(self) -> TripleDES | SM4: ...

    @cached_property
    def encrypt(self) -> Callable[[bytes], bytes]:
        """ECB over whole blocks."""
        return Cipher(self._cipher(), _ECB).encryptor().update

    @cached_property
    def decrypt(self) -> Callable[[bytes], bytes]:
        """ECB over whole blocks, the inverse."""
        return Cipher(self._cipher(), _ECB).decryptor().update

    @abstractmethod
    def mac(self, octets: bytes, iv: bytes = b"") -> bytes:
        """The whole last block of the key's MAC over `pad80(octets)`; `iv` is filled with zeros on the right."""

    def authenticate(self, challenge: bytes) -> bytes:
        """The one block that proves this key in EXTERNAL AUTHENTICATE."""
        return self.encrypt(challenge.ljust(self.block, b"\0"))

    def decipher(self, blocks: bytes) -> bytes | None:
        """What a secure-messaging field (length ‖ plaintext ‖ padding) holds; None when it is no such field."""
        if not blocks or len(blocks) % self.block:
            return None
        plain = self.decrypt(blocks)
        return plain[1 : 1 + plain[0]] if plain == self._field(plain[1 : 1 + plain[0]]) else None

    def encipher(self, octets: bytes) -> bytes:
        """length ‖ octets, padded only when not yet a multiple of the block (unlike a MAC), ECB."""
        return self.encrypt(self._field(octets))

    def _field(self, octets: bytes) -> bytes:
        field = bytes([len(octets)]) + octets
        return pad80(field, self.block) if len(field) % self.block else field


class SingleDesKey(CipherKey):
    """A session key or a folded TAC key of the 3DES suite: 8 bytes, plain DES."""

    algorithm, block = TRIPLE_DES, 8

    def _cipher(self) -> TripleDES:
        return TripleDES(self.value * 3)

    @cached_property
    def _chain(self) -> _Chain:
        return _Chain(self._cipher())

    def mac(self, octets: bytes, iv: bytes = b"") -> bytes:
        """ISO/IEC 9797-1 algorithm 1."""
        return self._chain.last_block(octets + _PADS[8][len(octets) % 8], iv)


class StoredKey(CipherKey):
    """A 16-byte key as a chip stores it: besides enciphering it begets session keys, a TAC key and subkeys."""

    @abstractmethod
    def session(self, seed: bytes) -> CipherKey:
        """The session key of `seed` = random(4) ‖ counter(2) [‖ last 2 bytes of the terminal's transaction number]."""

    @abstractmethod
    def tac_key(self) -> CipherKey:
        """What this key becomes when it authenticates without a session: TAC, reload of a PIN."""

    @abstractmethod
    def derive(self, factor: bytes) -> "StoredKey":
        """One level of diversification by an 8-byte factor."""


class TripleDesKey(StoredKey):
    """Two-key 3DES, K1 K2 K1."""

    algorithm, block = TRIPLE_DES, 8

    def _cipher(self) -> TripleDES:
        return TripleDES(self.value + self.value[:8])

    @cached_property
    def _left(self) -> _Chain:
        return _Chain(TripleDES(self.value[:8] * 3))

    @cached_property
    def _folded(self) -> SingleDesKey:
        left, right = (int.from_bytes(half, "big") for half in (self.value[:8], self.value[8:]))
        return SingleDesKey((left ^ right).to_bytes(8, "big"))

    def mac(self, octets: bytes, iv: bytes = b"") -> bytes:
        """ISO/IEC 9797-1 algorithm 3: the last block goes through E(K1) D(K2) E(K1), which is one 3DES block."""
        padded = pad80(octets, 8)
        chained, last = padded[:-8], int.from_bytes(padded[-8:], "big")
        register = self._left.last_block(chained, iv) if chained else iv.ljust(8, b"\0")
        return self.encrypt((last ^ int.from_bytes(register, "big")).to_bytes(8, "big"))

    def session(self, seed: bytes) -> SingleDesKey:
        return SingleDesKey(self.encrypt((seed + b"\x80\x00")[:8]))

    def tac_key(self) -> SingleDesKey:
        return self._folded

    def derive(self, factor: bytes) -> "TripleDesKey":
        return TripleDesKey(self.encrypt(factor + complement(factor)))


class DesKey(SingleDesKey, StoredKey):
    """An 8-byte key as old applications store it: plain DES for every purpose."""

    def session(self, seed: bytes) -> SingleDesKey:
        return SingleDesKey(self.encrypt((seed + b"\x80\x00")[:8]))

    def tac_key(self) -> SingleDesKey:
        return self

    def derive(self, factor: bytes) -> TripleDesKey:
        return TripleDesKey(self.encrypt(factor + complement(factor)))


class Sm4Key(StoredKey):
    """SM4; the same key serves every purpose whole."""

    algorithm, block = SM4_ID, 16

    def _cipher(self) -> SM4:
        return SM4(self.value)

    @cached_property
    def _chain(self) -> _Chain:
        return _Chain(self._cipher())

    def mac(self, octets: bytes, iv: bytes = b"") -> bytes:
        """SM4-CBC-MAC."""
        return self._chain.last_block(octets + _PADS[16][len(octets) % 16], iv)

    def session(self, seed: bytes) -> "Sm4Key":
        return Sm4Key(self.encrypt(pad80(seed, 16)))

    def tac_key(self) -> "Sm4Key":
        return self

    def derive(self, factor: bytes) -> "Sm4Key":
        return type(self)(self.encrypt(factor + complement(factor)))


class ComplementSm4Key(Sm4Key):
    """SM4 with the other session key: of d ‖ ~d, where d is the seed filled up as in 3DES."""

    def session(self, seed: bytes) -> Sm4Key:
        filled = (seed + b"\x80\x00")[:8]
        return Sm4Key(self.encrypt(filled + complement(filled)))


# Chips that count 01 as "single DES" still calculate 3DES with a 16-byte key, so both ids mean the same here.
STORED_KEYS: dict[int, type[StoredKey]] = {TRIPLE_DES: TripleDesKey, 0x01: TripleDesKey, SM4_ID: Sm4Key}
SUITES = {"3des": TRIPLE_DES, "sm4": SM4_ID}


def stored_key(algorithm: int, value: bytes, *, complement_sessions: bool = False) -> StoredKey | None:
    """The key of this algorithm id, 16 bytes, or 8 of plain DES; None when a chip knows no such key."""
    if len(value) == 8 and STORED_KEYS.get(algorithm) is TripleDesKey:
        return DesKey(value)
    if len(value) != 16 or algorithm not in STORED_KEYS:
        return None
    if algorithm == SM4_ID and complement_sessions:
        return ComplementSm4Key(value)
    return STORED_KEYS[algorithm](value)
