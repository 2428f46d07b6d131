"""A PSAM personalised as docs/card.md says, transit sector, and what it is asked for a purchase."""

import random

from terminal_side import SERIAL, SUITES, TERMINAL, TRANSPORT, WHEN, create, header, must, protected, write_key

from simulators.chip import Chip
from simulators.psam import SoftwarePsam

ROOT = bytes.fromhex("00112233445566778899AABBCCDDEEFF")
RECORD_ROOT = bytes.fromhex("F0E0D0C0B0A090807060504030201000")
CONTROL = bytes.fromhex("0F1E2D3C4B5A69788796A5B4C3D2E1F0")
LINE = bytes.fromhex("1F2E3D4C5B6A79880796A5B4C3D2E1F0")
CITY, CARD = bytes.fromhex("0231791002317910"), SERIAL[-8:]
AMOUNT = (350).to_bytes(4, "big")


def equip(name: str) -> SoftwarePsam:
    suite, psam = SUITES[name], SoftwarePsam.blank(name, rng=random.Random(3))
    psam.power_on()
    create(psam, "0015", "28000EF0F0FFFF")
    create(psam, "0016", "280006F0F0FFFF")
    must(psam, "00D69500", bytes(14))
    must(psam, "00D69600", TERMINAL)
    write_key(
        suite, psam, TRANSPORT, f"84D401{suite.offset + 1:02X}", header(0x42, 0xF0, 0xF0, 1, suite.algorithm) + ROOT
    )
    write_key(suite, psam, TRANSPORT, "84D40101", header(0x26, 0xF0, 0xF0, 1, 0x04) + RECORD_ROOT)
    write_key(suite, psam, TRANSPORT, "84D40100", header(0x36, 0xF0, 0xF0, 0xFF, 0x33) + LINE)
    write_key(suite, psam, TRANSPORT, "84D43900", header(0x39, 0xF0, 0xF0, 1, 0x33) + CONTROL)
    return psam


def purchase(
    random4: bytes, counter: bytes, kind: int, algorithm: int, factors: bytes = CARD + CITY, amount: bytes = AMOUNT
) -> bytes:
    return random4 + counter + amount + bytes([kind]) + WHEN + bytes([1, algorithm]) + factors


def prove_control(name: str, chip: Chip, key: bytes = CONTROL) -> None:
    """External authentication with 39.00."""
    challenge = must(chip, "00840000", le=8)
    must(chip, "00820000", SUITES[name].encrypt(key, challenge.ljust(SUITES[name].block, b"\0")))


def set_ceilings(name: str, psam: SoftwarePsam, count: int, amount_fen: int, key: bytes = LINE) -> int:
    """SET CEILINGS; its status word."""
    ceilings = count.to_bytes(4, "big") + amount_fen.to_bytes(4, "big")
    return protected(SUITES[name], psam, key, "84E80000", ceilings)
