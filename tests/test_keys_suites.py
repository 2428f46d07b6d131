"""Each suite against published examples and independent libraries."""

import numpy as np
import psec.mac
import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.cryptogram import host_mac2_input, load_mac1_input, purchase_mac2_input
from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite
from keys.engine import des_lanes, sm4_lanes
from keys.engine.suites import Sm4Key, TripleDesKey, pad80, pad80_lanes, suite_of
from tests import test_keys_reference as reference

KEY = bytes.fromhex("11223344556677888877665544332211")
RANDOM = bytes.fromhex("11223344")
TERMINAL = bytes.fromhex("001122334455")
keys16 = st.binary(min_size=16, max_size=16)


def test_load_example() -> None:
    session = TripleDesKey(KEY).load_session(RANDOM, 0)
    assert session.mac4(load_mac1_input(0, 0x1000, 1, TERMINAL)).hex() == "2988ae5a"
    mac2 = host_mac2_input(0x1000, 1, TERMINAL, bytes.fromhex("20111221"), bytes.fromhex("214822"))
    assert session.mac4(mac2).hex() == "3a845bf0"


def test_purchase_example() -> None:
    session = TripleDesKey(KEY).purchase_session(RANDOM, 0, 0xABCD0001)
    mac1 = host_mac2_input(0x1000, 6, TERMINAL, bytes.fromhex("20120229"), bytes.fromhex("135100"))
    assert session.mac4(mac1).hex() == "f15cab75"
    assert session.mac4(purchase_mac2_input(0x1000)).hex() == "56988a13"


def test_sm4_standard_example() -> None:
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    assert Sm4Key(key).encrypt(key).hex() == "681edf34d206965e86b3e94f536e4246"
    assert Sm4Key(key).kcv() == Sm4Key(key).encrypt(bytes(16))[:3]


@pytest.mark.parametrize("suite", Suite)
@given(key=keys16, factor=st.binary(min_size=8, max_size=8), random=st.binary(min_size=4, max_size=4),
       counter=st.integers(0, 0xFFFF), transaction=st.integers(0, 2**32 - 1),
       message=st.binary(max_size=60))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_both_suites_as_the_reference_reads_them(
    suite: Suite, key: bytes, factor: bytes, random: bytes, counter: int, transaction: int, message: bytes
) -> None:
    ours, (block, size) = suite_of(suite)(key), reference.BLOCK[suite]
    assert ours.child(factor).reveal() == reference.divide(suite, key, factor)
    seed = random + counter.to_bytes(2, "big")
    load_key = block(key, reference.pad(seed, size))
    ride_seed = seed + transaction.to_bytes(4, "big")[2:]
    ride_key = block(key, ride_seed if suite is Suite.TRIPLE_DES else reference.pad(ride_seed, size))
    assert ours.load_session(random, counter).mac4(message) == reference.mac4(suite, load_key, message)
    assert ours.purchase_session(random, counter, transaction).mac4(message) == reference.mac4(suite, ride_key, message)
    assert ours.authentication(random) == block(key, random + bytes(size - 4))
    assert ours.act_mac(message) == reference.act_mac(suite, key, message)


@given(key=keys16, message=st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_secure_messaging_mac_of_3des_is_the_retail_mac(key: bytes, message: bytes) -> None:
    expected = psec.mac.generate_retail_mac(key[:8], key[8:], message, 2)
    assert TripleDesKey(key).secure_mac(b"", message) == expected[:4]
    assert TripleDesKey(key).act_mac(message) == expected


@given(key=keys16, challenge=st.binary(min_size=4, max_size=4), message=st.binary(max_size=80))
@settings(max_examples=60, deadline=None)
def test_challenge_is_the_iv_with_zeros_on_its_right(key: bytes, challenge: bytes, message: bytes) -> None:
    blocks = pad80(message, 8)
    first = bytes(a ^ b for a, b in zip(blocks[:8], challenge + bytes(4), strict=True))
    # With an IV it is the MAC of the message with the IV in its first block; psec's method 1 pads nothing then.
    expected = psec.mac.generate_retail_mac(key[:8], key[8:], first + blocks[8:], 1)
    assert TripleDesKey(key).secure_mac(challenge, message) == expected[:4]
    cbc = Cipher(SM4(key), modes.CBC(challenge + bytes(12))).encryptor().update(pad80(message, 16))
    assert Sm4Key(key).secure_mac(challenge, message) == cbc[-16:-12]


def test_a_key_answers_the_same_when_its_contexts_are_warm() -> None:
    for suite in Suite:
        key = suite_of(suite)(KEY)
        cold = [suite_of(suite)(KEY).secure_mac(RANDOM, bytes(length)) for length in range(40)]
        assert [key.secure_mac(RANDOM, bytes(length)) for length in range(40)] == cold


@pytest.mark.parametrize(("suite", "size"), [(Suite.TRIPLE_DES, 8), (Suite.SM4, 16)])
def test_encipherment_pads_only_what_does_not_fill_its_blocks(suite: Suite, size: int) -> None:
    encrypt = reference.BLOCK[suite][0]
    exact, short = bytes(range(size - 1)), bytes(range(size - 2))
    assert suite_of(suite)(KEY).encipher(exact) == encrypt(KEY, bytes((size - 1,)) + exact)
    assert suite_of(suite)(KEY).encipher(short) == encrypt(KEY, bytes((size - 2,)) + short + b"\x80")


def test_mac_padding_is_always_added() -> None:
    assert pad80(bytes(8), 8) == bytes(8) + b"\x80" + bytes(7)
    assert pad80_lanes(np.zeros((2, 16), np.uint8), 16).tobytes() == 2 * pad80(bytes(16), 16)


def test_lanes_of_des_equal_openssl() -> None:
    random = np.random.default_rng(11)
    keys, messages = random.integers(0, 256, (10_000, 8), np.uint8), random.integers(0, 256, (10_000, 32), np.uint8)
    macs = des_lanes.cbc_mac(des_lanes.schedule(keys), messages)
    for key, message, mac in zip(keys, messages, macs, strict=True):
        cipher = Cipher(TripleDES(key.tobytes() * 3), modes.CBC(bytes(8))).encryptor()
        assert cipher.update(message.tobytes())[-8:] == mac.tobytes()


def test_lanes_of_sm4_equal_openssl_and_gmssl() -> None:
    random = np.random.default_rng(12)
    keys, messages = random.integers(0, 256, (10_000, 16), np.uint8), random.integers(0, 256, (10_000, 32), np.uint8)
    macs = sm4_lanes.cbc_mac(sm4_lanes.schedule(keys), messages)
    for place, (key, message, mac) in enumerate(zip(keys, messages, macs, strict=True)):
        cipher = Cipher(SM4(key.tobytes()), modes.CBC(bytes(16))).encryptor()
        assert cipher.update(message.tobytes())[-16:] == mac.tobytes()
        if place % 100 == 0:
            assert reference.chain(Suite.SM4, key.tobytes(), message.tobytes()) == mac.tobytes()


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(KeyUseError, match="16 bytes"):
        Sm4Key(bytes(8))
    with pytest.raises(FormatError, match="8 bytes"):
        TripleDesKey(KEY).child(bytes(4))
