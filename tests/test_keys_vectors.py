"""The vectors of docs/onecard-sm4-1.md: each line by gmssl, and what the product makes of the same."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from cardcore import cryptogram, secure_messaging
from cardcore.apdu import CommandApdu
from cardcore.record import Suite, TapRecord
from cardcore.switches import Sm4SessionKey
from keys.columns import from_bytes
from keys.engine.root import RootKey
from keys.engine.suites import Sm4Key
from keys.purposes import KeyId, KeyPurpose
from keys.verifiers import SealVerifier, TacVerifier, Verdict
from tests import test_keys_reference as reference

DOCUMENT = Path(__file__).parents[1] / "docs" / "onecard-sm4-1.md"
LINE = re.compile(
    r"^\| ([^|]+) \| (DIV|SM4|MAC(?: from `\w+`)?) \| ([^|]+) \| (`[^`]+`|[^|`]+) \| `([0-9A-F]+)` \|$", re.MULTILINE
)
RECORD = re.compile(r"^    ([0-9A-F]{240})$", re.MULTILINE)
ROOT = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
ISSUER, CARD = bytes.fromhex("02317910"), bytes.fromhex("03105170010170907984")
TERMINAL, DATE, TIME = bytes.fromhex("791001000001"), bytes.fromhex("20260302"), bytes.fromhex("081530")
RANDOM, CHALLENGE = bytes.fromhex("11223344"), bytes.fromhex("A1B2C3D4")


def evaluate(how: str, key: bytes, message: str, known: Mapping[str, bytes]) -> bytes:
    """A line by gmssl: DIV, ECB of whole blocks, or a CBC-MAC over padded bytes from an IV."""
    octets = bytes.fromhex(re.sub(r"<([^>]+)>", lambda found: known[found[1]].hex(), message))
    if how == "DIV":
        return reference.divide(Suite.SM4, key, octets)
    if how == "SM4":
        return b"".join(reference.sm4(key, octets[at : at + 16]) for at in range(0, len(octets), 16))
    iv = bytes.fromhex(how[len("MAC from `") : -1]) if "from" in how else b""
    return reference.chain(Suite.SM4, key, reference.pad(octets, 16), iv)


@pytest.fixture(scope="module")
def record() -> bytes:
    [raw] = RECORD.findall(DOCUMENT.read_text("utf-8"))
    return bytes.fromhex(raw)


@pytest.fixture(scope="module")
def said(record: bytes) -> dict[str, bytes]:
    """Every value of the document under its name, each as gmssl makes it."""
    known = {"root": ROOT}
    for name, how, key, message, value in LINE.findall(DOCUMENT.read_text("utf-8")):
        covered = message.strip("`") if message.startswith("`") else record.hex()
        made = evaluate(how, known[key], covered, known)
        known[name] = bytes.fromhex(value)
        assert made.startswith(known[name]), f"{name}: gmssl makes {made.hex()}"
    return known


def test_the_product_makes_what_the_document_says(said: dict[str, bytes], record: bytes) -> None:
    root = RootKey(KeyId(Suite.SM4, KeyPurpose.PURCHASE, "transit"), ROOT)
    card, factory = root.card(ISSUER, CARD), Sm4Key(ROOT)
    purchase, load = card.purchase_session(RANDOM, 0x29, 0x384), card.load_session(RANDOM, 0x29)
    ride = TapRecord.decode(record + bytes(8))
    plain = CommandApdu(0x00, 0xD6, 0x96, 0x00, bytes.fromhex("01020304"))
    written = bytes.fromhex("3EF0020104") + card.reveal()
    body = factory.encipher(written)
    keyed = secure_messaging.mac_input(CommandApdu(0x84, 0xD4, 0x01, 0x11, written), body)
    complement = Sm4SessionKey.COMPLEMENT
    entry_covers = bytes.fromhex(_message("MAC of a metro entry"))
    # Any record of 48 bytes with these first 38: nothing behind them is covered.
    entry = entry_covers[15:] + bytes(10)
    made = {
        "root": ROOT,
        "check value": root.kcv,
        "city key": factory.child(ISSUER * 2).reveal(),
        "card key": card.reveal(),
        "session key of the purchase": card.encrypt(cryptogram.session_input(Suite.SM4, RANDOM, 0x29, 0x384)),
        "session key of the purchase, `complement`": card.encrypt(
            cryptogram.session_input(Suite.SM4, RANDOM, 0x29, 0x384, complement)
        ),
        "MAC1 of the purchase": purchase.mac4(cryptogram.host_mac2_input(200, 6, TERMINAL, DATE, TIME)),
        "MAC2 of the purchase": purchase.mac4(cryptogram.purchase_mac2_input(200)),
        "TAC of the purchase": card.act_mac(cryptogram.purchase_tac_input(ride))[:4],
        "session key of the load": card.encrypt(cryptogram.session_input(Suite.SM4, RANDOM, 0x29)),
        "session key of the load, `complement`": card.encrypt(
            cryptogram.session_input(Suite.SM4, RANDOM, 0x29, sm4=complement)
        ),
        "MAC1 of the load": load.mac4(cryptogram.load_mac1_input(5000, 200, 2, TERMINAL)),
        "MAC2 of the load": load.mac4(cryptogram.host_mac2_input(200, 2, TERMINAL, DATE, TIME)),
        "TAC of the load": card.act_mac(
            (5200).to_bytes(4, "big") + b"\x00\x29" + cryptogram.host_mac2_input(200, 2, TERMINAL, DATE, TIME)
        )[:4],
        "MAC3 of an unload": load.mac4(cryptogram.unload_mac3_input(4800, 0x29, 200, TERMINAL, DATE, TIME)),
        "MAC1 of an allowance": load.mac4(cryptogram.overdraft_mac1_input(5000, 0, TERMINAL)),
        "MAC2 of an allowance": load.mac4(cryptogram.overdraft_mac2_input(800, TERMINAL, DATE, TIME)),
        "TAC of an allowance": card.act_mac(cryptogram.overdraft_tac_input(5800, 0x29, 800, TERMINAL, DATE, TIME))[:4],
        "answer of EXTERNAL AUTHENTICATE": card.authentication(CHALLENGE),
        "MAC of `04 D6 96 00 08 01020304`": card.secure_mac(CHALLENGE, secure_messaging.mac_input(plain)),
        "enciphered field of `01020304`": card.encipher(plain.data),
        "enciphered content of WRITE KEY 3E.11": body,
        "MAC of that WRITE KEY": factory.secure_mac(CHALLENGE, keyed),
        "MAC of RELOAD PIN `123456`": card.secure_mac(b"", bytes.fromhex("123456")),
        "cryptogram of an act": card.act_mac(bytes(range(16))),
        "key of a PSAM": root.psam(TERMINAL).reveal(),
        "key of its seals": root.psam(TERMINAL).child(b"\0\0" + TERMINAL).reveal(),
        "seal of the record below": root.psam(TERMINAL).child(b"\0\0" + TERMINAL).act_mac(record),
        "MAC of a metro entry": card.act_mac(cryptogram.composite_mac_input(CARD, 1, entry)),
    }
    assert made == said


def test_the_record_of_the_document_is_proved_by_its_tac_and_its_seal(said: dict[str, bytes], record: bytes) -> None:
    whole = bytearray(record + said["seal of the record below"])
    assert bytes(whole[46:50]) == said["TAC of the purchase"]
    tac = RootKey(KeyId(Suite.SM4, KeyPurpose.TAC, "1"), ROOT)
    seal = RootKey(KeyId(Suite.SM4, KeyPurpose.RECORD), ROOT)
    rows = from_bytes(bytes(whole))
    assert TacVerifier([tac]).verify(rows).tolist() == [Verdict.OK]
    assert SealVerifier([seal]).verify(rows).tolist() == [True]


def _message(name: str) -> str:
    [found] = [line for line in LINE.findall(DOCUMENT.read_text("utf-8")) if line[0] == name]
    return found[3].strip("`")
