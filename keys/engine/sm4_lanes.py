"""SM4 on numpy tables, one key per lane (GB/T 32907): two 16-bit T-tables for the rounds, two for the key schedule."""

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
Octets = NDArray[np.uint8]

LANES: Final = 16_384

_S = np.frombuffer(bytes.fromhex(
    "d690e9fecce13db716b614c228fb2c052b679a762abe04c3aa441326498606999c4250f491ef987a33540b43edcfac62"
    "e4b31ca9c908e89580df94fa758f3fa64707a7fcf37317ba83593c19e6854fa8686b81b27164da8bf8eb0f4b70569d35"
    "1e240e5e6358d1a225227c3b01217887d40046579fd327524c3602e7a0c4c89eeabf8ad240c738b5a3f7f2cef96115a1"
    "e0ae5da49b341a55ad933230f58cb1e31df6e22e8266ca60c02923ab0d534e6fd5db3745defd8e2f03ff6a726d6c5b51"
    "8d1baf92bbddbc7f11d95c411f105ad80ac13188a5cd7bbd2d74d012b8e5b4b08969974a0c96777e65b9f109c56ec684"
    "18f07dec3adc4d2079ee5f3ed7cb3948"
), np.uint8)  # fmt: skip
_FK = (0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC)
_CK = [int.from_bytes(bytes((4 * step + place) * 7 % 256 for place in range(4)), "big") for step in range(32)]


def _tables(turns: tuple[int, ...]) -> tuple[U32, U32]:
    """S-box of two bytes at once, then the linear step x ⊕ x<<<t for each turn t: for the high and the low half of
    a word."""
    index = np.arange(65536)
    pair = _S[index >> 8].astype(np.uint32) << np.uint32(8) | _S[index & 255].astype(np.uint32)

    def linear(word: U32) -> U32:
        result = word.copy()
        for turn in turns:
            result ^= word << np.uint32(turn) | word >> np.uint32(32 - turn)
        return result

    return linear(pair << np.uint32(16)), linear(pair)


_ROUND = _tables((2, 10, 18, 24))
_KEY = _tables((13, 23))
# Where the high and the low half of a word lie in memory.
_HIGH, _LOW = (1, 0) if sys.byteorder == "little" else (0, 1)

Schedule = list[U32]
"""Thirty-two round keys, each one value per lane."""


class _Mixer:
    """The scratch arrays of a step and the step itself: word ⊕= T(mixed)."""

    def __init__(self, lanes: int) -> None:
        self.mixed = np.empty(lanes, np.uint32)
        self._value = np.empty(lanes, np.uint32)
        halves = self.mixed.view(np.uint16)
        self._high, self._low = halves[_HIGH::2], halves[_LOW::2]

    def step(self, word: U32, tables: tuple[U32, U32]) -> None:
        for half, table in ((self._high, tables[0]), (self._low, tables[1])):
            table.take(half, out=self._value, mode="clip")
            np.bitwise_xor(word, self._value, out=word)


def _words(block: Octets) -> list[U32]:
    """Four native words of each block (n, 16)."""
    words = np.ascontiguousarray(block).view(">u4").reshape(-1, 4)
    return [words[:, place].astype(np.uint32) for place in range(4)]


def schedule(keys: Octets) -> Schedule:
    """Round keys of (n, 16) key bytes."""
    words = [word ^ np.uint32(constant) for word, constant in zip(_words(keys), _FK, strict=True)]
    mixer = _Mixer(len(keys))
    round_keys = []
    for constant in _CK:
        a, b, c, d = words
        np.bitwise_xor(b, c, out=mixer.mixed)
        np.bitwise_xor(mixer.mixed, d, out=mixer.mixed)
        np.bitwise_xor(mixer.mixed, np.uint32(constant), out=mixer.mixed)
        mixer.step(a, _KEY)
        round_keys.append(a.copy())
        words = [b, c, d, a]
    return round_keys


def cbc_mac(round_keys: Sequence[U32], message: Octets) -> Octets:
    """Last block (n, 16) of SM4-CBC with IV 0 over whole padded messages (n, 16·m); one block of it is a plain
    encryption."""
    lanes = len(message)
    words = [np.zeros(lanes, np.uint32) for _ in range(4)]
    mixer = _Mixer(lanes)
    for start in range(0, message.shape[1], 16):
        for word, part in zip(words, _words(message[:, start : start + 16]), strict=True):
            np.bitwise_xor(word, part, out=word)
        for key in round_keys:
            a, b, c, d = words
            np.bitwise_xor(b, c, out=mixer.mixed)
            np.bitwise_xor(mixer.mixed, d, out=mixer.mixed)
            np.bitwise_xor(mixer.mixed, key, out=mixer.mixed)
            mixer.step(a, _ROUND)
            words = [b, c, d, a]
        words.reverse()
    return np.stack(words, axis=1).astype(">u4").view(np.uint8).reshape(lanes, 16)
