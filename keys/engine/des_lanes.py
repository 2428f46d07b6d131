"""DES on numpy tables, one key per lane (FIPS 46-3): the fast half of bulk verification.

Both halves of the state stay E-expanded: 48 bits, as four 12-bit fields in the four 16-bit words of a uint64. E only
copies bits, so XOR commutes with it and nothing is packed between rounds: a round is one XOR with the round key and
four reads in 4,096-entry tables that do S, P and E at once. CBC stays inside the initial permutation; the final one
runs once, at the end.
"""

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Octets = NDArray[np.uint8]

LANES: Final = 16_384

# FIPS 46-3; bit 1 is the most significant.
_E = [(4 * box + bit - 1) % 32 + 1 for box in range(8) for bit in range(6)]
_P = [
    16,
    7,
    20,
    21,
    29,
    12,
    28,
    17,
    1,
    15,
    23,
    26,
    5,
    18,
    31,
    10,
    2,
    8,
    24,
    14,
    32,
    27,
    3,
    9,
    19,
    13,
    30,
    6,
    22,
    11,
    4,
    25,
]
_IP = [first - 8 * column for first in (58, 60, 62, 64, 57, 59, 61, 63) for column in range(8)]
_PC1 = [
    57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
    63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4,
]  # fmt: skip
_PC2 = [
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
]  # fmt: skip
_SHIFTS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)
# Each box as 4 rows of 16 hexadecimal digits.
_S = (
    "e4d12fb83a6c5907" "0f74e2d1a6cb9538" "41e8d62bfc973a50" "fc8249175b3ea06d",
    "f18e6b34972dc05a" "3d47f28ec01a69b5" "0e7ba4d158c6932f" "d8a13f42b67c05e9",
    "a09e63f51dc7b428" "d709346a285ecbf1" "d6498f30b12c5ae7" "1ad069874fe3b52c",
    "7de3069a1285bc4f" "d8b56f03472c1ae9" "a690cb7df13e5284" "3f06a1d8945bc72e",
    "2c417ab6853fd0e9" "eb2c47d150fa3986" "421bad78f9c5630e" "b8c71e2d6f09a453",
    "c1af92680d34e75b" "af427c9561de0b38" "9ef528c3704a1db6" "432c95fabe17608d",
    "4b2ef08d3c975a61" "d0b7491ae35c2f86" "14bdc37eaf680592" "6bd814a7950fe23c",
    "d2846fb1a93e50c7" "1fd8a374c56b0e92" "7b419ce206adf358" "21e74a8dfc90356b",
)  # fmt: skip


def _place(bit: int) -> int:
    """Mask of expanded bit 0..47 in the uint64: field bit // 12, most significant first."""
    return 1 << (16 * (bit // 12) + 11 - bit % 12)


def _expanded(bit: int) -> int:
    """Mask of the copies that E makes of half-block bit 1..32."""
    return sum(_place(place) for place, source in enumerate(_E) if source == bit)


def _linear(masks: Sequence[int]) -> U64:
    """Table of 2**n entries of the linear map that sends input bit i (most significant first) to masks[i]."""
    table = np.zeros(1, np.uint64)
    for mask in reversed(masks):
        table = np.concatenate((table, table ^ np.uint64(mask)))
    return table


def _box_table(field: int) -> U64:
    """E(P(S(·))) of the two S-boxes whose inputs are this 12-bit field."""
    table = np.zeros(4096, np.uint64)
    index = np.arange(4096)
    for box, six in ((2 * field, index >> 6), (2 * field + 1, index & 63)):
        digits = np.array([int(digit, 16) for digit in _S[box]])
        four = digits[((six >> 5) * 2 + (six & 1)) * 16 + (six >> 1 & 15)]
        masks = [_expanded(_P.index(4 * box + bit + 1) + 1) for bit in range(4)]
        table ^= _linear(masks)[four]
    return table


def _initial_tables(half: int) -> list[U64]:
    """Per two bytes of a block: their contribution to the expanded left (0) or right (1) half after IP.

    Each half has every second bit of a byte. So the bits of one byte fill the gaps between those of the next, and the
    eight of both are one index: bit `place` of it is the second byte's own, or that of the first beside it.
    """
    outputs = _IP[32 * half : 32 * half + 32]
    masks = {source: _expanded(place + 1) for place, source in enumerate(outputs)}

    def source(pair: int, place: int) -> int:
        own = place % 2 == half
        return 16 * pair + (16 - place if own else 8 - place + (1 if half == 0 else -1))

    return [_linear([masks[source(pair, place)] for place in range(7, -1, -1)]) for pair in range(4)]


def _final_tables(half: int) -> list[U64]:
    """Per 12-bit field of an expanded half: its contribution to the block, as a big-endian number, after the final
    permutation."""
    masks = [0] * 48
    for bit in range(1, 33):
        masks[_E.index(bit)] = 1 << (64 - _IP[32 * half + bit - 1])
    return [_linear(masks[12 * field : 12 * field + 12]) for field in range(4)]


def _schedule_tables() -> list[list[U64]]:
    """Per round and byte of the key: its contribution to the expanded round key."""
    rounds, turn = [], 0
    for shift in _SHIFTS:
        turn += shift
        masks = [0] * 65
        for place, choice in enumerate(_PC2):
            half, position = divmod(choice - 1, 28)
            masks[_PC1[28 * half + (position + turn) % 28]] |= _place(place)
        rounds.append([_linear(masks[8 * octet + 1 : 8 * octet + 9]) for octet in range(8)])
    return rounds


_BOXES = [_box_table(field) for field in range(4)]
_INITIAL = (_initial_tables(0), _initial_tables(1))
_FINAL = (_final_tables(0), _final_tables(1))
_SCHEDULE = _schedule_tables()
# The bits of a half in every byte, and how far they move into the gaps of the next.
_EVERY_SECOND = (np.uint64(0x5555555555555555), np.uint64(0xAAAAAAAAAAAAAAAA))
_INTO_THE_GAPS = (np.uint64(7), np.uint64(9))
# Where field 0..3 of a uint64 lies among its 16-bit words in memory.
_WORDS = (0, 1, 2, 3) if sys.byteorder == "little" else (3, 2, 1, 0)
_LOW = 0 if sys.byteorder == "little" else 1

Schedule = list[U64]
"""Sixteen round keys, each one value per lane."""


def schedule(keys: Octets) -> Schedule:
    """Round keys of (n, 8) key bytes; parity bits are ignored."""
    index = [keys[:, octet].astype(np.intp) for octet in range(8)]
    value = np.empty(len(keys), np.uint64)
    round_keys = []
    for tables in _SCHEDULE:
        key = tables[0].take(index[0])
        for table, place in zip(tables[1:], index[1:], strict=True):
            np.bitwise_or(key, table.take(place, out=value, mode="clip"), out=key)
        round_keys.append(key)
    return round_keys


class _State:
    """Both expanded halves of all lanes, inside the initial permutation, with the scratch arrays of a round."""

    def __init__(self, lanes: int) -> None:
        self.left, self.right = np.zeros(lanes, np.uint64), np.zeros(lanes, np.uint64)
        self._value = np.empty(lanes, np.uint64)
        self._mixed = np.empty(lanes, np.uint64)
        words, octets = self._mixed.view(np.uint16), self._mixed.view(np.uint8)
        self._fields = [words[word::4] for word in _WORDS]
        self._pairs = [octets[2 * word + _LOW :: 8] for word in reversed(_WORDS)]

    def absorb(self, block: U64) -> None:
        """XOR the initial permutation of a block, a big-endian number a lane."""
        for half, state in enumerate((self.left, self.right)):
            np.bitwise_and(block, _EVERY_SECOND[half], out=self._mixed)
            np.right_shift(self._mixed, _INTO_THE_GAPS[half], out=self._value)
            np.bitwise_or(self._mixed, self._value, out=self._mixed)
            for pair, table in zip(self._pairs, _INITIAL[half], strict=True):
                table.take(pair, out=self._value, mode="clip")
                np.bitwise_xor(state, self._value, out=state)

    def encrypt(self, round_keys: Sequence[U64]) -> None:
        """Sixteen rounds and the last exchange of halves; with the keys reversed, decryption."""
        left, right = self.left, self.right
        for key in round_keys:
            np.bitwise_xor(right, key, out=self._mixed)
            for field, table in zip(self._fields, _BOXES, strict=True):
                table.take(field, out=self._value, mode="clip")
                np.bitwise_xor(left, self._value, out=left)
            left, right = right, left
        self.left, self.right = right, left

    def release(self) -> Octets:
        """The blocks (n, 8) after the final permutation."""
        block = np.zeros(len(self.left), np.uint64)
        for half, tables in ((self.left, _FINAL[0]), (self.right, _FINAL[1])):
            np.copyto(self._mixed, half)
            for field, table in zip(self._fields, tables, strict=True):
                np.bitwise_or(block, table.take(field), out=block)
        return block.astype(">u8").view(np.uint8).reshape(-1, 8)


def cbc_mac(
    round_keys: Sequence[U64], message: Octets, finish: tuple[Sequence[U64], Sequence[U64]] | None = None
) -> Octets:
    """Last block (n, 8) of DES-CBC with IV 0 over whole padded messages (n, 8·m).

    `finish` names two more schedules: decrypt with the first, encrypt with the second, which makes it the retail MAC
    (ISO/IEC 9797-1 algorithm 3).
    """
    state = _State(len(message))
    for block in np.ascontiguousarray(message).view(">u8").T:
        state.absorb(block.astype(np.uint64))
        state.encrypt(round_keys)
    if finish is not None:
        state.encrypt(finish[0][::-1])
        state.encrypt(finish[1])
    return state.release()
