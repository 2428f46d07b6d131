"""The cryptography of an auditor: key tree, MACs over many messages at once, SM3.

Sources: docs/card.md (key tree), docs/onecard-sm4-1.md, PBOC electronic purse (transaction MACs by single DES under the
XOR of the key's halves, secure messaging and acts by the retail MAC).
"""

import hashlib
from collections.abc import Callable, Sequence

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import ECB

DES3_ID, SM4_ID = 0x00, 0x04
SUITE_NAMES = {DES3_ID: "3des", SM4_ID: "sm4"}

Encipher = Callable[[bytes], bytes]


def _hashlib_sm3(message: bytes) -> bytes:
    return hashlib.new("sm3", message).digest()


def _library_sm3(message: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(message)
    return digest.finalize()


# Python's own SM3 is twice as quick, but depends on how the interpreter's OpenSSL was built.
sm3 = _hashlib_sm3 if "sm3" in hashlib.algorithms_available else _library_sm3


def xor(left: bytes, right: bytes) -> bytes:
    """Of equally long strings."""
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def pad80(message: bytes, block: int) -> bytes:
    """Append 80, then zeros to a multiple of `block`; never nothing."""
    return message + b"\x80" + bytes(-(len(message) + 1) % block)


def _ecb(algorithm: CipherAlgorithm) -> Encipher:
    # The standards' key tree and the lanes below are built of single blocks; nothing is kept secret by this mode.
    return Cipher(algorithm, ECB()).encryptor().update  # noqa: S305


def sm4(key: bytes) -> Encipher:
    return _ecb(SM4(key))


def des(key: bytes) -> Encipher:
    """Single DES (8-byte key) or two-key 3DES (16-byte key)."""
    return _ecb(TripleDES(key * 3 if len(key) == 8 else key + key[:8]))


def cbc_macs(encipher: Encipher, block: int, messages: Sequence[bytes]) -> list[bytes]:
    """Last CBC blocks (IV zero) of padded, equally long messages: a cipher call per block position, not per message."""
    state = bytes(block * len(messages))
    for at in range(0, len(messages[0]), block):
        state = encipher(xor(state, b"".join([message[at : at + block] for message in messages])))
    return [state[at : at + block] for at in range(0, len(state), block)]


def diversify(suite: int, key: bytes, factors: Sequence[bytes]) -> list[bytes]:
    """One level of the key tree for many 8-byte factors: 16-byte keys from `f ‖ ~f` in one cipher call."""
    blocks = b"".join([factor + xor(factor, b"\xff" * 8) for factor in factors])
    keys = (des if suite == DES3_ID else sm4)(key)(blocks)
    return [keys[at : at + 16] for at in range(0, len(keys), 16)]


def card_keys(suite: int, root: bytes, issuer: bytes, serials: Sequence[bytes]) -> dict[bytes, bytes]:
    """Province root → city (issuer twice) → card (last 8 bytes of the serial)."""
    (city,) = diversify(suite, root, [issuer * 2])
    return dict(zip(serials, diversify(suite, city, [serial[-8:] for serial in serials]), strict=True))


def transaction_macs(suite: int, key: bytes, messages: Sequence[bytes]) -> list[bytes]:
    """4-byte MACs of equally long messages: single DES under an 8-byte key (3DES suite), SM4 under a 16-byte key."""
    block = 8 if suite == DES3_ID else 16
    encipher = des(key) if suite == DES3_ID else sm4(key)
    return [mac[:4] for mac in cbc_macs(encipher, block, [pad80(message, block) for message in messages])]


def tacs(suite: int, card_key: bytes, messages: Sequence[bytes]) -> list[bytes]:
    """TACs under a card's DTK: the XOR of its halves in 3DES, the whole key in SM4."""
    key = xor(card_key[:8], card_key[8:]) if suite == DES3_ID else card_key
    return transaction_macs(suite, key, messages)


def load_session_key(suite: int, load_key: bytes, random: bytes, counter: bytes) -> bytes:
    """8 bytes in 3DES, 16 in SM4, from the card's random and online counter."""
    if suite == DES3_ID:
        return des(load_key)(pad80(random + counter, 8))
    return sm4(load_key)(pad80(random + counter, 16))


def act_mac(suite: int, card_key: bytes, digest: bytes) -> bytes:
    """8 bytes over the digest of an act: retail MAC (the last block under both halves), or SM4-CBC-MAC."""
    if suite != DES3_ID:
        return cbc_macs(sm4(card_key), 16, [pad80(digest, 16)])[0][:8]
    padded = pad80(digest, 8)
    (chained,) = cbc_macs(des(card_key[:8]), 8, [padded[:-8]])
    return des(card_key)(xor(chained, padded[-8:]))


def seals(record_root: bytes, terminal_number: bytes, bodies: Sequence[bytes]) -> list[bytes]:
    """8-byte seals of one PSAM over bytes 0..119 of some records."""
    factor = b"\0\0" + terminal_number
    (psam_key,) = diversify(SM4_ID, record_root, [factor])
    (seal_key,) = diversify(SM4_ID, psam_key, [factor])
    return [mac[:8] for mac in cbc_macs(sm4(seal_key), 16, [pad80(body, 16) for body in bodies])]
