"""Keys that are weaker than they look are taken in by no door."""

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from cardcore.record import Suite
from keys.engine.weakness import _WEAK, TEST_TRANSPORT_KEY, des_weakness, weakness

HALF = "0123456789ABCDEF"
# One DES key to the cipher: only the lowest bit of every byte differs.
TWIN = "0022446688AACCEE"


def _des(half: bytes, block: bytes) -> bytes:
    cipher = Cipher(TripleDES(half * 3), modes.ECB()).encryptor()  # noqa: S305 - one block, to know the key by
    return cipher.update(block) + cipher.finalize()


@pytest.mark.parametrize(
    ("key", "suite", "why"),
    [
        (HALF + HALF, Suite.TRIPLE_DES, "equal halves"),
        (HALF + HALF, Suite.SM4, "equal halves"),
        (HALF + TWIN, Suite.TRIPLE_DES, "single DES"),
        (HALF + TWIN, Suite.SM4, ""),
        ("01" * 8 + "FE" * 8, Suite.TRIPLE_DES, "weak key"),
        ("FEDCBA9876543210" + "1F1F1F1F0E0E0E0E", Suite.TRIPLE_DES, "weak key"),
        (HALF + "FEDCBA9876543210", Suite.TRIPLE_DES, ""),
        (TEST_TRANSPORT_KEY.hex(), Suite.SM4, "published"),
        (TEST_TRANSPORT_KEY.hex(), Suite.TRIPLE_DES, "published"),
    ],
)
def test_what_is_wrong_with_a_key(key: str, suite: Suite, why: str) -> None:
    found = weakness(bytes.fromhex(key), suite)
    assert why in found and bool(why) is bool(found)


def test_the_test_transport_key_serves_test_stores() -> None:
    assert not weakness(TEST_TRANSPORT_KEY, Suite.SM4, test=True)


def test_three_halves() -> None:
    assert "single DES" in des_weakness(bytes.fromhex(HALF + "FEDCBA9876543210" + "FFDDBB9977553311"))
    assert not des_weakness(bytes.fromhex(HALF + "FEDCBA9876543210" + HALF))


def test_twins_and_weak_keys_are_so_to_the_cipher() -> None:
    """A weak key undoes itself, or another of its list does."""
    block = b"onecard!"
    assert _des(bytes.fromhex(HALF), block) == _des(bytes.fromhex(TWIN), block)
    assert len(_WEAK) == 16
    for half in _WEAK:
        assert block in [_des(other, _des(half, block)) for other in _WEAK]
