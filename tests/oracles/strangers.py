"""What a case of a row is, the strangers' ciphers, and the random inputs of a case."""

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from pyemv.mac import mac_iso9797_3

from cardcore.record import Suite
from tests.terminal_side import Sm4, TripleDes, iso_pad, xor


class Compared(NamedTuple):
    """One case of a row: what the product makes of it and what a stranger does."""

    row: str
    oracle: str
    ours: object
    theirs: object


class QuickSm4(Sm4):
    """gmssl block by block: the schedules of the last keys are kept."""

    def encrypt(self, key: bytes, octets: bytes) -> bytes:
        cipher = _gmssl(key)
        blocks = (octets[at : at + 16] for at in range(0, len(octets), 16))
        return b"".join(bytes(cipher.one_round(cipher.sk, list(block))) for block in blocks)

    def mac(self, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
        register, padded = iv.ljust(16, b"\0"), iso_pad(octets, 16)
        for at in range(0, len(padded), 16):
            register = self.encrypt(key, xor(register, padded[at : at + 16]))
        return register


@lru_cache(maxsize=64)
def _gmssl(key: bytes) -> CryptSM4:
    cipher = CryptSM4()
    cipher.set_key(key, SM4_ENCRYPT)
    return cipher


STRANGERS: Mapping[Suite, tuple[str, TripleDes | Sm4]] = {
    Suite.TRIPLE_DES: ("psec", TripleDes()),
    Suite.SM4: ("gmssl", QuickSm4()),
}


class Drawn:
    """Random inputs of a case, each drawn when it is first named."""

    def __init__(self, draw: random.Random) -> None:
        self.key, self.random4, self.terminal = draw.randbytes(16), draw.randbytes(4), draw.randbytes(6)
        self.counter, self.transaction = draw.randrange(0x10000), draw.randrange(2**32)
        # Amounts of all sizes, so that each byte of the field is met with a zero and with a value.
        self.fen, self.raw_fen = (draw.randrange(1 << draw.randrange(1, 33)) for _ in range(2))
        self.limit_fen, self.old_fen = (draw.randrange(1 << draw.randrange(1, 25)) for _ in range(2))
        self.date, self.time = draw.randbytes(4), draw.randbytes(3)
        self.kind, self.issuer, self.serial = draw.randrange(256), draw.randbytes(4), draw.randbytes(10)

    @property
    def when(self) -> bytes:
        return self.date + self.time


def u(value: int, width: int = 4) -> bytes:
    return value.to_bytes(width, "big")


def retail(key: bytes, message: bytes) -> bytes:
    """Retail MAC (ISO/IEC 9797-1 algorithm 3) by pyemv, 8 bytes."""
    return mac_iso9797_3(key[:8] * 3, key[8:] * 3, message, 2)
