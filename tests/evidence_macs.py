"""A second implementation of the cryptography that auditor E proves: gmssl (SM4, SM3) and psec (3DES), which it does
not use."""

import re
import struct

from gmssl import sm3 as gm_sm3
from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from psec.des import encrypt_tdes_ecb
from psec.mac import generate_cbc_mac

OWN = "02317910"
LAYOUT = """
    version 1  kind 1  flags 1  suite 1  key_version 1  key_index 1  purse 1  generation 1  issuer 4  card 10
    counter 2  amount_fen 4  transaction_type 1  terminal_number 6  terminal_transaction 4  date 4  time 3
    cryptogram 8  balance_before_fen 4  overdraft_fen 4  terminal 4  epoch 2  sequence 4  line 2  station 2
    entry_station 2  entry_at 4  concession 1  full_fare_fen 4  list_version 4  fare_version 2  operator 2
    act_id 8  shift 2
"""
FIELDS = [(name, int(width)) for name, width in re.findall(r"(\w+) (\d+)", LAYOUT)]
HEX_FIELDS = {"issuer", "card", "terminal_number", "date", "time", "cryptogram", "act_id"}


def sm3(message: bytes) -> bytes:
    return bytes.fromhex(gm_sm3.sm3_hash(list(message)))


def sm4(key: bytes, block: bytes) -> bytes:
    cipher = CryptSM4()
    cipher.set_key(key, SM4_ENCRYPT)
    return bytes(cipher.one_round(cipher.sk, list(block)))


def sm4_mac(key: bytes, message: bytes) -> bytes:
    padded = message + b"\x80"
    padded += bytes(-len(padded) % 16)
    state = bytes(16)
    for at in range(0, len(padded), 16):
        state = sm4(key, bytes(a ^ b for a, b in zip(state, padded[at : at + 16], strict=True)))
    return state


def derived(suite: int, root: bytes, *factors: bytes) -> bytes:
    for factor in factors:
        block = factor + bytes(255 - byte for byte in factor)
        root = sm4(root, block) if suite == 4 else encrypt_tdes_ecb(root, block)
    return root


def mac4(suite: int, key: bytes, message: bytes) -> bytes:
    return sm4_mac(key, message)[:4] if suite == 4 else generate_cbc_mac(key * 2, message, 2, 4)


def root(name: str) -> bytes:
    return sm3(b"root " + name.encode())[:16]


def card_key(name: str, suite: int, card: str) -> bytes:
    return derived(suite, root(name), bytes.fromhex(OWN * 2), bytes.fromhex(card)[-8:])


def cryptogram(record: dict[str, int | str]) -> bytes:
    """The card's TAC over the fields of a record, in the order of docs/record.md."""
    suite, kind, fen = int(record["suite"]), record["kind"], int(record["amount_fen"])
    head = struct.pack(">IB", fen, record["transaction_type"]) + bytes.fromhex(str(record["terminal_number"]))
    when = bytes.fromhex(f"{record['date']}{record['time']}")
    if kind == 4:
        raw_new = int(record["balance_before_fen"]) + int(record["overdraft_fen"]) + fen
        message = struct.pack(">IH", raw_new, record["counter"]) + head + when
    else:
        message = head + struct.pack(">I", record["terminal_transaction"]) + when
    suite_name = {0: "3des", 4: "sm4"}[suite]
    dtk = card_key(f"{suite_name}/TAC/{record['purse']}", suite, str(record["card"]))
    key = dtk if suite == 4 else bytes(a ^ b for a, b in zip(dtk[:8], dtk[8:], strict=True))
    return mac4(suite, key, message) + bytes(4)


def packed(record: dict[str, int | str]) -> bytes:
    parts = []
    for name, width in FIELDS:
        value = record[name]
        if name in HEX_FIELDS:
            parts.append(bytes.fromhex(str(value)))
        else:
            parts.append(int(value).to_bytes(width, "big", signed=name == "balance_before_fen"))
    return b"".join(parts) + bytes(15)


def spelled(raw: bytes) -> dict[str, int | str]:
    """A record in JSON as docs/record.md spells it."""
    found: dict[str, int | str] = {}
    at = 0
    for name, width in FIELDS:
        part = raw[at : at + width]
        signed = name == "balance_before_fen"
        found[name] = part.hex() if name in HEX_FIELDS else int.from_bytes(part, "big", signed=signed)
        at += width
    return found | {"seal": raw[120:].hex()}
