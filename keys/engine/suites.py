"""The two suites of a card as two key classes with one interface, chosen by algorithm id in one table (decision D3).

Sources: JR/T 0025 (purse), ISO/IEC 9797-1 algorithms 1 and 3 with padding method 2, docs/onecard-sm4-1.md,
docs/card.md. The trap that public code falls into: a session key of 3DES is one block, so MAC1, MAC2 and TAC are plain
DES; secure messaging uses the whole key, so its MAC is the retail MAC.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import numpy as np
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from numpy.typing import NDArray

from cardcore.cryptogram import session_input
from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite
from cardcore.switches import Sm4SessionKey
from keys.engine import des_lanes, sm4_lanes
from keys.guarded import Guarded
from keys.purposes import SUITE_LABELS

Octets = NDArray[np.uint8]
Lanes = NDArray[np.intp]

KEY_BYTES = 16


def pad80(message: bytes, block: int) -> bytes:
    """Padding method 2, always added: a full last block gets a whole block more."""
    return message + b"\x80" + bytes(-(len(message) + 1) % block)


def pad80_lanes(messages: Octets, block: int) -> Octets:
    """The same for messages (n, length), all of one length."""
    lanes, length = messages.shape
    padded = np.zeros((lanes, length + 1 + -(length + 1) % block), np.uint8)
    padded[:, :length] = messages
    padded[:, length] = 0x80
    return padded


class Chain:
    """CBC over an encryptor that stays open: its running register is cancelled in the first block, which saves a
    context a MAC."""

    __slots__ = ("_register", "_update")

    def __init__(self, algorithm: TripleDES | SM4) -> None:
        self._register = bytes(algorithm.block_size // 8)
        self._update = Cipher(algorithm, modes.CBC(self._register)).encryptor().update

    def last(self, blocks: bytes, iv: bytes = b"") -> bytes:
        """Last block of CBC over whole blocks, from an IV that zeros fill on the right."""
        size = len(self._register)
        first = int.from_bytes(blocks[:size], "big") ^ int.from_bytes(self._register, "big")
        first ^= int.from_bytes(iv, "big") << 8 * (size - len(iv))
        self._register = self._update(first.to_bytes(size, "big") + blocks[size:])[-size:]
        return self._register


class SessionKey(Guarded):
    """Key of one purse transaction: 8 bytes of DES, or 16 of SM4."""

    __slots__ = ("_block", "_chain")

    def __init__(self, algorithm: TripleDES | SM4) -> None:
        self._block = algorithm.block_size // 8
        self._chain = Chain(algorithm)

    @property
    def label(self) -> str:
        return "of one transaction"

    def mac4(self, message: bytes) -> bytes:
        """MAC1, MAC2 or MAC3: CBC-MAC, IV 0, first 4 bytes."""
        return self._chain.last(pad80(message, self._block))[:4]


class SuiteKey(Guarded):
    """A 16-byte key opened in its suite; OpenSSL contexts are made once, when first used. Not safe in two threads
    at once."""

    __slots__ = ("_ecb", "_mac", "_octets")
    suite: ClassVar[Suite]
    block: ClassVar[int]

    def __init__(self, octets: bytes) -> None:
        if len(octets) != KEY_BYTES:
            raise KeyUseError(f"a key of a card has {KEY_BYTES} bytes, not {len(octets)}; nothing was opened")
        self._octets = octets
        self._ecb: Callable[[bytes], bytes] | None = None
        self._mac: Chain | None = None

    @property
    def label(self) -> str:
        return f"{SUITE_LABELS[self.suite]} KCV {self.kcv().hex().upper()}"

    def reveal(self) -> bytes:
        """The key's bytes, for sealing into a block or enciphering into WRITE KEY."""
        return self._octets

    def encrypt(self, blocks: bytes) -> bytes:
        """ECB of whole blocks under the whole key."""
        if self._ecb is None:
            self._ecb = Cipher(self._algorithm(), modes.ECB()).encryptor().update  # noqa: S305 - one block, or independent ones
        return self._ecb(blocks)

    def child(self, factor: bytes) -> Self:
        """DIV by 8 bytes."""
        if len(factor) != 8:
            raise FormatError(f"a diversification factor has 8 bytes, not {len(factor)}")
        return type(self)(self.encrypt(factor + bytes(octet ^ 0xFF for octet in factor)))

    def children(self, factors: Octets) -> Octets:
        """DIV by many factors (n, 8) in one call: (n, 16)."""
        return np.frombuffer(self.encrypt(np.concatenate((factors, ~factors), axis=1).tobytes()), np.uint8).reshape(
            -1, KEY_BYTES
        )

    def kcv(self) -> bytes:
        """Check value: first 3 bytes of the encipherment of zeros."""
        return self.encrypt(bytes(self.block))[:3]

    def load_session(self, random: bytes, counter: int, rule: Sm4SessionKey = Sm4SessionKey.PADDED) -> SessionKey:
        """Session key of load, unload and overdraft, from the 4-byte random and the online counter, by the profile's
        rule."""
        return self._session(self.encrypt(session_input(self.suite, random, counter, sm4=rule)))

    def purchase_session(self, random: bytes, counter: int, terminal_transaction: int) -> SessionKey:
        """Session key of a purchase, from the random, the offline counter and the last 2 bytes of the terminal
        transaction number."""
        return self._session(self.encrypt(session_input(self.suite, random, counter, terminal_transaction)))

    def encipher(self, content: bytes) -> bytes:
        """Secure messaging: length ‖ content, padded only when it does not fill its blocks; ECB."""
        framed = bytes((len(content),)) + content
        return self.encrypt(pad80(framed, self.block) if len(framed) % self.block else framed)

    def authentication(self, challenge: bytes) -> bytes:
        """Answer of EXTERNAL AUTHENTICATE: the challenge, zeros on its right, one block."""
        return self.encrypt(challenge.ljust(self.block, b"\0"))

    def secure_mac(self, challenge: bytes, message: bytes) -> bytes:
        """Secure messaging MAC: the challenge, zeros on its right, is the IV; first 4 bytes."""
        return self._whole_mac(message, challenge)[:4]

    def act_mac(self, digest: bytes) -> bytes:
        """What a card answers to INTERNAL AUTHENTICATE P1=02 over an act's digest: 8 bytes."""
        return self._whole_mac(digest, b"")[:8]

    @staticmethod
    @abstractmethod
    def tac_macs(card_keys: Octets, lane_key: Lanes, messages: Octets) -> Octets:
        """TACs (n, 4) of messages (n, length): lane i under card_keys[lane_key[i]]; lane_key ascends."""

    @staticmethod
    @abstractmethod
    def act_macs(card_keys: Octets, lane_key: Lanes, digests: Octets) -> Octets:
        """Act MACs (n, 8) of digests (n, 16), keyed in the same way."""

    @abstractmethod
    def _algorithm(self) -> TripleDES | SM4: ...

    @staticmethod
    @abstractmethod
    def _session(octets: bytes) -> SessionKey: ...

    @abstractmethod
    def _whole_mac(self, message: bytes, iv: bytes) -> bytes: ...


class TripleDesKey(SuiteKey):
    """Algorithm id 00: two-key 3DES."""

    __slots__ = ()
    suite = Suite.TRIPLE_DES
    block = 8

    def _algorithm(self) -> TripleDES:
        return TripleDES(self._octets + self._octets[:8])

    @staticmethod
    def _session(octets: bytes) -> SessionKey:
        return SessionKey(TripleDES(octets * 3))

    def _whole_mac(self, message: bytes, iv: bytes) -> bytes:
        """Retail MAC: DES-CBC under the left half, but the last block goes through both halves, which is 3DES of it."""
        blocks = pad80(message, 8)
        if self._mac is None:
            self._mac = Chain(TripleDES(self._octets[:8] * 3))
        head = self._mac.last(blocks[:-8], iv) if len(blocks) > 8 else iv.ljust(8, b"\0")
        return self.encrypt((int.from_bytes(head, "big") ^ int.from_bytes(blocks[-8:], "big")).to_bytes(8, "big"))

    @staticmethod
    def tac_macs(card_keys: Octets, lane_key: Lanes, messages: Octets) -> Octets:
        tac_keys = card_keys[:, :8] ^ card_keys[:, 8:]
        padded = pad80_lanes(messages, 8)
        macs = np.empty((len(messages), 4), np.uint8)
        for lanes, keys, spread in _chunks(lane_key, des_lanes.LANES):
            round_keys = [key.take(spread) for key in des_lanes.schedule(tac_keys[keys])]
            macs[lanes] = des_lanes.cbc_mac(round_keys, padded[lanes])[:, :4]
        return macs

    @staticmethod
    def act_macs(card_keys: Octets, lane_key: Lanes, digests: Octets) -> Octets:
        padded = pad80_lanes(digests, 8)
        macs = np.empty((len(digests), 8), np.uint8)
        for lanes, keys, spread in _chunks(lane_key, des_lanes.LANES):
            left = [key.take(spread) for key in des_lanes.schedule(card_keys[keys, :8])]
            right = [key.take(spread) for key in des_lanes.schedule(card_keys[keys, 8:])]
            macs[lanes] = des_lanes.cbc_mac(left, padded[lanes], finish=(right, left))
        return macs


class Sm4Key(SuiteKey):
    """Algorithm id 04: onecard-SM4-1."""

    __slots__ = ()
    suite = Suite.SM4
    block = 16

    def _algorithm(self) -> SM4:
        return SM4(self._octets)

    @staticmethod
    def _session(octets: bytes) -> SessionKey:
        return SessionKey(SM4(octets))

    def _whole_mac(self, message: bytes, iv: bytes) -> bytes:
        if self._mac is None:
            self._mac = Chain(SM4(self._octets))
        return self._mac.last(pad80(message, 16), iv)

    @staticmethod
    def tac_macs(card_keys: Octets, lane_key: Lanes, messages: Octets) -> Octets:
        return sm4_macs(card_keys, lane_key, messages, 4)

    @staticmethod
    def act_macs(card_keys: Octets, lane_key: Lanes, digests: Octets) -> Octets:
        return sm4_macs(card_keys, lane_key, digests, 8)


def sm4_macs(keys: Octets, lane_key: Lanes, messages: Octets, length: int) -> Octets:
    """SM4-CBC-MACs (n, length), IV 0, pad80: TACs, acts and seals."""
    padded = pad80_lanes(messages, 16)
    macs = np.empty((len(messages), length), np.uint8)
    for lanes, chosen, spread in _chunks(lane_key, sm4_lanes.LANES):
        round_keys = [key.take(spread) for key in sm4_lanes.schedule(keys[chosen])]
        macs[lanes] = sm4_lanes.cbc_mac(round_keys, padded[lanes])[:, :length]
    return macs


def _chunks(lane_key: Lanes, lanes: int) -> "list[tuple[slice, slice, Lanes]]":
    """Pieces that stay in the processor's cache: the lanes, the keys that they need, and each lane's place among
    those."""
    pieces = []
    for start in range(0, len(lane_key), lanes):
        piece = lane_key[start : start + lanes]
        pieces.append((slice(start, start + lanes), slice(piece[0], piece[-1] + 1), piece - piece[0]))
    return pieces


_SUITES: Mapping[Suite, type[SuiteKey]] = {Suite.TRIPLE_DES: TripleDesKey, Suite.SM4: Sm4Key}


def suite_of(suite: Suite) -> type[SuiteKey]:
    """The algorithms of a suite; nothing falls back from one to the other."""
    return _SUITES[suite]
