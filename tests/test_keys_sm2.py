"""SM2: the published example of GB/T 32918, gmssl both ways, and every turned bit refused."""

import pickle
import re

import pytest
from gmssl import func, sm2, sm3
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.errors import FormatError, KeyUseError
from keys.sm2 import DEFAULT_ID, PublicKey, Signer

# GB/T 32918.2 on the curve of GB/T 32918.5: private key, k, e = SM3(Z ‖ M), r, s over "message digest".
D = "3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8"
X = "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
Y = "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
R = "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
S = "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
MESSAGE = b"message digest"
SIGNER = Signer()


def digest(point: bytes, message: bytes, id: bytes = DEFAULT_ID) -> bytes:
    """SM3(Z ‖ M) by gmssl's SM3 and the constants of the standard's text: independent of OpenSSL."""
    curve = (
        "FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFC"
        "28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93"
        "32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7"
        "BC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0"
    )
    head = (len(id) * 8).to_bytes(2, "big") + id + bytes.fromhex(curve) + point
    z = sm3.sm3_hash(func.bytes_to_list(head))
    return bytes.fromhex(sm3.sm3_hash(func.bytes_to_list(bytes.fromhex(z) + message)))


def test_the_published_example() -> None:
    key = PublicKey(bytes.fromhex(X + Y))
    assert key.verify(MESSAGE, bytes.fromhex(R + S))
    assert (
        digest(key.point, MESSAGE).hex().upper() == "F0B43E94BA45ACCAACE692ED534382EB17E6AB5A19CE7B31F4486FDFC0D28640"
    )
    signer = Signer()
    signer._take(int(D, 16))
    assert signer.public.point.hex().upper() == X + Y
    assert key.verify(MESSAGE, signer.sign(MESSAGE))


@settings(max_examples=8, deadline=None)
@given(st.binary(max_size=200))
def test_gmssl_takes_ours(message: bytes) -> None:
    # gmssl strips every leading 0 and 4 of a key that begins with 04, so it is given the uncompressed mark only then.
    other = sm2.CryptSM2(private_key="", public_key="")
    other.public_key = SIGNER.public.point.hex()
    assert other.verify(SIGNER.sign(message).hex(), digest(SIGNER.public.point, message))


@settings(max_examples=8, deadline=None)
@given(st.binary(max_size=200), st.integers(2, 2**250))
def test_we_take_gmssls(message: bytes, scalar: int) -> None:
    other = sm2.CryptSM2(private_key=f"{scalar:064x}", public_key="")
    point = bytes.fromhex(other._kg(scalar, other.ecc_table["g"]))
    made = other.sign(digest(point, message), f"{scalar % 2**200 + 77:064x}")
    assert PublicKey(point).verify(message, bytes.fromhex(made))


def test_every_turned_bit_is_refused() -> None:
    signature = SIGNER.sign(MESSAGE)
    for bit in range(512):
        turned = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
        assert not SIGNER.public.verify(MESSAGE, turned)
    assert SIGNER.public.verify(MESSAGE, signature)
    assert not SIGNER.public.verify(MESSAGE + b"\0", signature)
    assert not SIGNER.public.verify(MESSAGE, signature, b"another signer")
    assert not Signer().public.verify(MESSAGE, signature)
    for odd in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64):
        assert not SIGNER.public.verify(MESSAGE, odd)


def test_a_point_off_the_curve_is_refused() -> None:
    with pytest.raises(FormatError, match="curve"):
        PublicKey(bytes.fromhex(X + X))
    with pytest.raises(FormatError, match="64 bytes"):
        PublicKey(bytes(63))


def test_a_signer_shows_its_name_only() -> None:
    assert re.fullmatch(r"<Signer SM2 key [0-9a-f]{16}>", repr(SIGNER))
    assert SIGNER._scalar.hex() not in f"{SIGNER!r}{SIGNER}"
    with pytest.raises(KeyUseError):
        pickle.dumps(SIGNER)
    assert SIGNER.sign(MESSAGE) != SIGNER.sign(MESSAGE)
