"""The other end of a card's secrets, from libraries that the simulators do not use: psec for 3DES, gmssl for SM4.

Also a small issuing script, byte by byte from docs/card.md, for tests that need a card with keys.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from psec.des import encrypt_tdes_ecb
from psec.mac import generate_cbc_mac, generate_retail_mac

from simulators.card_behaviour import STANDARD, Behaviour
from simulators.card_os import SoftwareCard
from simulators.chip import Chip
from simulators.psam import SoftwarePsam

TRANSPORT = bytes.fromhex("54455354205452414E53504F52542031")
SERIAL = bytes.fromhex("03101234567890123456")
TERMINAL = bytes.fromhex("001122334455")
WHEN = bytes.fromhex("20260302081530")
AIDS = {1: "A000000632010105", 3: "F053584F43010103", 4: "F053584F43010104"}
PIN = bytes.fromhex("123456")


def iso_pad(octets: bytes, block: int) -> bytes:
    octets += b"\x80"
    return octets + bytes(-len(octets) % block)


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


class TripleDes:
    """3DES by psec."""

    algorithm, block, offset = 0x00, 8, 0x00

    def encrypt(self, key: bytes, octets: bytes) -> bytes:
        return encrypt_tdes_ecb(key + key[:8] if len(key) == 16 else key * 3, octets)

    def mac(self, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
        octets = iso_pad(octets, 8)
        octets = xor(octets[:8], iv.ljust(8, b"\0")) + octets[8:]  # CBC from an IV is CBC from zero over the sum
        if len(key) == 8:
            return generate_cbc_mac(key * 3, octets, padding=1)
        return generate_retail_mac(key[:8] * 3, key[8:] * 3, octets, padding=1)

    def session(self, key: bytes, seed: bytes) -> bytes:
        return self.encrypt(key, (seed + b"\x80\0")[:8])

    def tac_key(self, key: bytes) -> bytes:
        return xor(key[:8], key[8:])

    def derive(self, key: bytes, factor: bytes) -> bytes:
        return self.encrypt(key, factor) + self.encrypt(key, xor(factor, b"\xff" * 8))


class Sm4:
    """SM4 by gmssl."""

    algorithm, block, offset = 0x04, 16, 0x10

    def encrypt(self, key: bytes, octets: bytes) -> bytes:
        cipher = CryptSM4(padding_mode=-1)
        cipher.set_key(key, SM4_ENCRYPT)
        return bytes(cipher.crypt_ecb(octets))

    def mac(self, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
        cipher = CryptSM4()
        cipher.set_key(key, SM4_ENCRYPT)
        padded = iso_pad(octets, 16)
        return bytes(cipher.crypt_cbc(iv.ljust(16, b"\0"), padded))[: len(padded)][-16:]

    def session(self, key: bytes, seed: bytes) -> bytes:
        return self.encrypt(key, iso_pad(seed, 16))

    def tac_key(self, key: bytes) -> bytes:
        return key

    def derive(self, key: bytes, factor: bytes) -> bytes:
        return self.encrypt(key, factor + xor(factor, b"\xff" * 8))


Suite = TripleDes | Sm4
SUITES: dict[str, Suite] = {"3des": TripleDes(), "sm4": Sm4()}


class FixedRandom(random.Random):
    """A source whose every answer begins with the given bytes: the random number of the published examples."""

    def __init__(self, octets: str) -> None:
        super().__init__(0)
        self.octets = bytes.fromhex(octets)

    def randbytes(self, n: int) -> bytes:
        return self.octets.ljust(n, b"\0")[:n]


def send(chip: Chip, head: str, data: bytes = b"", le: int | None = None) -> tuple[bytes, int]:
    """CLA INS P1 P2 in hex, data, Le → answer data, status word."""
    apdu = bytes.fromhex(head) + (bytes([len(data)]) if data else b"") + data + (b"" if le is None else bytes([le]))
    answer = chip.transmit(apdu)
    return answer[:-2], int.from_bytes(answer[-2:], "big")


def must(chip: Chip, head: str, data: bytes = b"", le: int | None = None) -> bytes:
    answer, status = send(chip, head, data, le)
    assert status == 0x9000, f"{head} {data.hex()}: {status:04X}"
    return answer


def protected(suite: Suite, chip: Chip, key: bytes, head: str, data: bytes, *, encipher: bool = False) -> int:
    """A command under secure messaging; its status word."""
    challenge = must(chip, "00840000", le=4)
    if encipher:
        data = bytes([len(data)]) + data
        data = suite.encrypt(key, iso_pad(data, suite.block) if len(data) % suite.block else data)
    start = bytes.fromhex(head) + bytes([len(data) + 4])
    return send(chip, head, data + suite.mac(key, start + data, challenge)[:4])[1]


def write_key(suite: Suite, chip: Chip, control: bytes, head: str, content: bytes) -> None:
    assert protected(suite, chip, control, head, content, encipher=True) == 0x9000, content.hex()


def header(*octets: int) -> bytes:
    return bytes(octets)


@dataclass(frozen=True)
class Keys:
    """The keys of a test card: one per purpose, the same in each application."""

    control: bytes = bytes.fromhex("C0112233445566778899AABBCCDDEEF0")
    line: bytes = bytes.fromhex("11223344556677888877665544332211")
    purchase: bytes = bytes.fromhex("11223344556677888877665544332211")
    load: bytes = bytes.fromhex("11223344556677888877665544332211")
    unload: bytes = bytes.fromhex("0102030405060708090A0B0C0D0E0F10")
    allowance: bytes = bytes.fromhex("2102030405060708090A0B0C0D0E0F12")
    tac: bytes = bytes.fromhex("3132333435363738A1A2A3A4A5A6A7A8")
    act: bytes = bytes.fromhex("4142434445464748B1B2B3B4B5B6B7B8")
    unblock: bytes = bytes.fromhex("5152535455565758C1C2C3C4C5C6C7C8")
    reload: bytes = bytes.fromhex("6162636465666768D1D2D3D4D5D6D7D8")


def create(chip: Chip, fid: str, description: str) -> None:
    must(chip, "80E0" + fid, bytes.fromhex(description))


def issue(
    name: str,
    *,
    rng: random.Random | None = None,
    keys: Keys | None = None,
    versions: tuple[int, int] = (1, 1),
    behaviour: Behaviour = STANDARD,
) -> SoftwareCard:
    """A card with applications 1 and 3 as docs/card.md has them; `versions` of the purchase and the load key."""
    suite, keys = SUITES[name], keys or Keys()
    card = SoftwareCard.blank(name, rng=rng or random.Random(1), behaviour=behaviour)
    card.power_on()
    create(card, "0001", "2C0840F0F0FFFF")
    for application in (1, 3):
        fid = f"3F0{application}"
        create(card, fid, "380800F0F095FFFF" + AIDS[application])
        must(card, "00A40000", bytes.fromhex(fid))
        create(card, "0000", "3F01009500FFFF")
        personalise_application(suite, card, keys, versions)
        must(card, "00A40000", bytes.fromhex("3F00"))
    write_key(suite, card, TRANSPORT, "84D43900", header(0x39, 0xF0, 0xF0, 0x01, 0x33) + keys.control)
    return card


def personalise_application(suite: Suite, card: SoftwareCard, keys: Keys, versions: tuple[int, int]) -> None:
    algorithm, offset = suite.algorithm, suite.offset
    write_key(suite, card, TRANSPORT, "84D40100", header(0x39, 0xF0, 0xF0, 0x02, 0x33) + keys.control)

    def add(number: int, content: bytes) -> None:
        write_key(suite, card, keys.control, f"84D401{number:02X}", content)

    add(0, header(0x36, 0xF0, 0xF0, 0xFF, 0x33) + keys.line)
    add(0, header(0x37, 0xF0, 0xF0, 0xFF, 0x33) + keys.unblock)
    add(0, header(0x38, 0xF0, 0xF0, 0xFF, 0x33) + keys.reload)
    add(offset + 1, header(0x3E, 0xF0, 0xF0, versions[0], algorithm) + keys.purchase)
    add(offset + 1, header(0x3F, 0xF1, 0xF0, versions[1], algorithm) + keys.load)
    add(offset + 1, header(0x3D, 0xF1, 0xF0, 0x01, algorithm) + keys.unload)
    add(offset + 1, header(0x3C, 0xF0, 0xF0, 0x01, algorithm) + keys.allowance)
    add(offset + 1, header(0x34, 0xF0, 0xF0, 0x01, algorithm) + keys.tac)
    add(offset + 2, header(0x32, 0xF1, 0xF0, 0x01, algorithm) + keys.act)
    add(0, header(0x3A, 0xF0, 0xEF, 0x01, 0x33) + PIN)
    create(card, "0001", "2F0208F000FF18")
    create(card, "0002", "2F0208F000FF18")
    create(card, "0015", "A8001EF0F0FFFF")
    create(card, "0016", "E80037F1F0FFFF")
    create(card, "0017", "28003CF0F0FFFF")
    create(card, "0018", "2E0A17F0EFFFFF")
    create(card, "001A", "2C0430F0EFFFFF")
    create(card, "001E", "2E1E30F0EFFFFF")
    create(card, "0019", "2A0420F0F0FFFF")
    common = bytes.fromhex("02317910FFFFFFFF0201") + SERIAL + bytes.fromhex("20260101203601010000")
    assert protected(suite, card, keys.line, "04D69500", common) == 0x9000


@dataclass
class Till:
    """Plays a load or a debit against a card and checks every cryptogram with the independent library.

    `purse` is 2, the electronic purse, or 1, the deposit purse.
    """

    card: SoftwareCard
    suite: Suite
    keys: Keys
    key_id: int
    transaction: int = 0
    purse: int = 2

    @classmethod
    def of(cls, name: str, card: SoftwareCard) -> "Till":
        suite = SUITES[name]
        return cls(card, suite, Keys(), suite.offset + 1)

    def tap(self, application: int = 1) -> None:
        self.card.power_on()
        must(self.card, "00A40400", bytes.fromhex(AIDS[application]))

    def enter_pin(self) -> None:
        must(self.card, "00200000", PIN)

    def mac(self, key: bytes, octets: bytes) -> bytes:
        return self.suite.mac(key, octets)[:4]

    def start(self, p1: int, amount_fen: int | None) -> bytes:
        amount = b"" if amount_fen is None else amount_fen.to_bytes(4, "big")
        answer, status = send(self.card, f"8050{p1:02X}{self.purse:02X}", bytes([self.key_id]) + amount + TERMINAL)
        if status != 0x9000:
            raise ValueError(f"{status:04X}")
        return answer

    def online(
        self, p1: int, finish: str, key: bytes, kind: int, amount_fen: int, *, limit: int | None = None
    ) -> bytes:
        """Load, unload or allowance: checks MAC1, sends MAC2, checks the answer. b"" when the card was torn."""
        answer = self.start(p1, None if limit is not None else amount_fen)
        balance, counter, random4 = answer[:4], answer[4:6], answer[-8:-4]
        session = self.suite.session(key, random4 + counter)
        moved = amount_fen.to_bytes(4, "big") if limit is None else limit.to_bytes(3, "big")
        old = moved if limit is None else answer[6:9]
        assert answer[-4:] == self.mac(session, balance + old + bytes([kind]) + TERMINAL)
        tail = moved + bytes([kind]) + TERMINAL + WHEN
        end = (moved if limit is not None else b"") + WHEN + self.mac(session, tail)
        told = self.card.transmit(bytes.fromhex(finish) + bytes([len(end)]) + end + b"\x04")
        if told:
            assert told[-2:] == b"\x90\x00"
            change = {0x01: amount_fen, 0x02: amount_fen, 0x03: -amount_fen}.get(
                kind, (limit or 0) - int.from_bytes(old, "big")
            )
            after = (int.from_bytes(balance, "big") + change).to_bytes(4, "big")
            judge = session if kind == 0x03 else self.suite.tac_key(self.keys.tac)
            assert told[:4] == self.mac(judge, after + counter + tail)
        return told

    def load(self, amount_fen: int) -> bytes:
        self.enter_pin()
        return self.online(0x00, "80520000", self.keys.load, self.purse, amount_fen)

    def unload(self, amount_fen: int) -> bytes:
        self.enter_pin()
        return self.online(0x05, "80540300", self.keys.unload, 0x03, amount_fen)

    def allow(self, limit_fen: int) -> bytes:
        return self.online(0x04, "80580000", self.keys.allowance, 0x07, 0, limit=limit_fen)

    def debit(
        self,
        amount_fen: int,
        *updates: tuple[str, bytes],
        cash: bool = False,
        before_end: Callable[[], object] | None = None,
    ) -> bytes:
        """A purchase, with `updates` (head, record) a composite one, or cash. b"" when the card was torn."""
        p1, kind = (0x03, 0x09) if updates else (0x02, 0x04) if cash else (0x01, 0x04 + self.purse)
        answer = self.start(p1, amount_fen)
        counter, random4 = answer[4:6], answer[11:15]
        for head, record in updates:
            must(self.card, head, record)
        self.transaction += 1
        number, amount = self.transaction.to_bytes(4, "big"), amount_fen.to_bytes(4, "big")
        session = self.suite.session(self.keys.purchase, random4 + counter + number[2:])
        head_ = amount + bytes([kind]) + TERMINAL
        if before_end:
            before_end()
        told = self.card.transmit(
            bytes.fromhex("805401000F") + number + WHEN + self.mac(session, head_ + WHEN) + b"\x08"
        )
        if len(told) > 2:
            assert told[:4] == self.mac(self.suite.tac_key(self.keys.tac), head_ + number + WHEN)
            assert told[4:8] == self.mac(session, amount)
        return told

    def proof(self, kind: int, counter: int) -> bytes | None:
        answer, status = send(self.card, f"805A00{kind:02X}", counter.to_bytes(2, "big"), 8)
        assert status in (0x9000, 0x9406)
        return answer if status == 0x9000 else None


def blank_psam(name: str) -> SoftwarePsam:
    psam = SoftwarePsam.blank(name, rng=random.Random(2))
    psam.power_on()
    return psam
