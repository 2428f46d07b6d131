"""A second, slow reading of the card's cryptography, by `cryptography` and `gmssl` call by call, and its check against
what is published.

The other tests of `keys` compare with it. Sources: JR/T 0025 worked examples, GB/T 32907, GB/T 32905,
docs/onecard-sm4-1.md.
"""

from dataclasses import replace

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from gmssl.sm4 import SM4_ENCRYPT, CryptSM4

from cardcore import cryptogram
from cardcore.record import SEALED_BYTES, Kind, Suite, TapRecord
from keys.proof import sm3

ISSUER = bytes.fromhex("02317910")
CARD = bytes.fromhex("03105170010170907984")


def pad(message: bytes, block: int) -> bytes:
    message += b"\x80"
    while len(message) % block:
        message += b"\x00"
    return message


def ede(key: bytes, block: bytes) -> bytes:
    return Cipher(TripleDES((key * 3)[:24]), modes.ECB()).encryptor().update(block)  # noqa: S305 - one block


def sm4(key: bytes, block: bytes) -> bytes:
    """One block by gmssl, which is plain Python."""
    cipher = CryptSM4()
    cipher.set_key(key, SM4_ENCRYPT)
    return bytes(cipher.one_round(cipher.sk, list(block)))


BLOCK = {Suite.TRIPLE_DES: (ede, 8), Suite.SM4: (sm4, 16)}


def chain(suite: Suite, key: bytes, message: bytes, iv: bytes = b"") -> bytes:
    """Last block of CBC, block by block."""
    encrypt, size = BLOCK[suite]
    register = iv.ljust(size, b"\0")
    for at in range(0, len(message), size):
        register = encrypt(key, bytes(a ^ b for a, b in zip(register, message[at : at + size], strict=True)))
    return register


def divide(suite: Suite, key: bytes, factor: bytes) -> bytes:
    complement = bytes(255 - octet for octet in factor)
    if suite is Suite.SM4:
        return sm4(key, factor + complement)
    return ede(key, factor) + ede(key, complement)


def card_key(suite: Suite, root: bytes, issuer: bytes = ISSUER, card: bytes = CARD) -> bytes:
    return divide(suite, divide(suite, root, issuer + issuer), card[2:])


def mac4(suite: Suite, key: bytes, message: bytes) -> bytes:
    return chain(suite, key, pad(message, BLOCK[suite][1]))[:4]


def tac(suite: Suite, root: bytes, record: TapRecord) -> bytes:
    key = card_key(suite, root, record.issuer, record.card)
    if suite is Suite.TRIPLE_DES:
        key = bytes(a ^ b for a, b in zip(key[:8], key[8:], strict=True))
    is_load = record.kind == Kind.LOAD
    return mac4(suite, key, cryptogram.load_tac_input(record) if is_load else cryptogram.purchase_tac_input(record))


def act_mac(suite: Suite, key: bytes, digest: bytes) -> bytes:
    if suite is Suite.SM4:
        return chain(suite, key, pad(digest, 16))[:8]
    blocks = pad(digest, 8)
    last = chain(suite, key[:8], blocks)
    undone = Cipher(TripleDES(key[8:] * 3), modes.ECB()).decryptor().update(last)  # noqa: S305 - one block
    return ede(key[:8], undone)


def seal(root: bytes, raw: bytes) -> bytes:
    factor = b"\0\0" + raw[29:35]
    key = divide(Suite.SM4, divide(Suite.SM4, root, factor), factor)
    return chain(Suite.SM4, key, pad(raw[:SEALED_BYTES], 16))[:8]


def proven(suite: Suite, root: bytes, record: TapRecord) -> TapRecord:
    """The record with its right TAC."""
    record = replace(record, suite=suite)
    return replace(record, cryptogram=tac(suite, root, record) + bytes(4))


def debit(**changes: object) -> TapRecord:
    ride = TapRecord(
        kind=Kind.DEBIT, issuer=ISSUER, card=CARD, terminal_number=bytes.fromhex("791001000001"), terminal=110001,
        date=bytes.fromhex("20260302"), time=bytes.fromhex("081530"), sequence=7, counter=41, amount_fen=200,
        transaction_type=6, terminal_transaction=900, balance_before_fen=5000, line=12, full_fare_fen=200, operator=101,
    )  # fmt: skip
    return replace(ride, **changes)  # type: ignore[arg-type]  # tests change any field


def test_load_example_of_the_reference() -> None:
    key = bytes.fromhex("11223344556677888877665544332211")
    session = ede(key, bytes.fromhex("1122334400008000"))
    assert session.hex() == "9b1d924e05595603"
    terminal = bytes.fromhex("001122334455")
    mac1 = cryptogram.load_mac1_input(0, 0x1000, 1, terminal)
    mac2 = cryptogram.host_mac2_input(0x1000, 1, terminal, bytes.fromhex("20111221"), bytes.fromhex("214822"))
    assert mac4(Suite.TRIPLE_DES, session, mac1).hex() == "2988ae5a"
    assert mac4(Suite.TRIPLE_DES, session, mac2).hex() == "3a845bf0"


def test_sm4_example_of_the_reference() -> None:
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    assert sm4(key, key).hex() == "681edf34d206965e86b3e94f536e4246"


def test_sm3_examples() -> None:
    assert sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert sm3(b"abcd" * 16).hex() == "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
    packaged = hashes.Hash(hashes.SM3())
    packaged.update(b"onecard")
    assert packaged.finalize() == sm3(b"onecard")
