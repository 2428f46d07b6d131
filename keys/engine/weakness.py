"""Values that are no key of 16 bytes in truth, whoever brings them (NIST SP 800-67 rev. 2, 3.3.2 and 3.4.2)."""

from itertools import pairwise

from cardcore.record import Suite

# The factory key of TEST blanks, cards and PSAMs alike (docs/card.md): everybody knows it.
TEST_TRANSPORT_KEY = b"TEST TRANSPORT 1"
_BLOCK = 8
# DES leaves the lowest bit of every byte aside. Of each pair of semi-weak halves one undoes what the other does.
_WEAK = frozenset(
    bytes.fromhex(half)
    for half in (
        "0000000000000000", "FEFEFEFEFEFEFEFE", "E0E0E0E0F0F0F0F0", "1E1E1E1E0E0E0E0E",
        "00FE00FE00FE00FE", "FE00FE00FE00FE00", "1EE01EE00EF00EF0", "E01EE01EF00EF00E",
        "00E000E000F000F0", "E000E000F000F000", "1EFE1EFE0EFE0EFE", "FE1EFE1EFE0EFE0E",
        "001E001E000E000E", "1E001E000E000E00", "E0FEE0FEF0FEF0FE", "FEE0FEE0FEF0FEF0",
    )
)  # fmt: skip


def weakness(key: bytes, suite: Suite, *, test: bool = False) -> str:
    """What is wrong with a key, as in "the key …"; "" for a sound one. `test`: it is marked as a TEST key."""
    if key == TEST_TRANSPORT_KEY and not test:
        return "is the published TEST transport key"
    if key[:_BLOCK] == key[_BLOCK:]:
        return "has two equal halves"
    return des_weakness(key) if suite is Suite.TRIPLE_DES else ""


def des_weakness(key: bytes) -> str:
    """The same of a 3DES key of two or three halves."""
    halves = [bytes(byte & 0xFE for byte in key[at : at + _BLOCK]) for at in range(0, len(key), _BLOCK)]
    if any(one == other for one, other in pairwise(halves)):
        return "has neighbouring halves that are one DES key, which is single DES"
    return "has a half that is a weak key of DES" if _WEAK.intersection(halves) else ""
