"""A city for its tests: small plans, and an issuer and a desk of the tests' own, by docs/card.md and docs/record.md
alone: roots, WRITE KEY, loads, acts, proofs."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from random import Random
from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4

from simulators.card_os import SoftwareCard
from simulators.city import ActResult, DeskStep, LoadResult, Plan, Player, ReplacementResult, ReportResult, plan
from simulators.city.facts import DeskResult
from simulators.city.records import CHINA, Kind
from simulators.psam import SoftwarePsam

DATES = (date(2026, 3, 2), date(2026, 3, 3))
TRANSPORT = bytes.fromhex("54455354205452414E53504F52542031")  # a TEST key: "TEST TRANSPORT 1"


def small(seed: int) -> Plan:
    return plan(seed, 37, 503, DATES)


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


def pad80(octets: bytes, block: int) -> bytes:
    return octets + b"\x80" + bytes(-(len(octets) + 1) % block)


def ecb(suite: int, key: bytes, octets: bytes) -> bytes:
    algorithm = SM4(key) if suite else TripleDES(key + key[:8] if len(key) == 16 else key * 3)
    return Cipher(algorithm, modes.ECB()).encryptor().update(octets)  # noqa: S305 - what cards do


def cbc_last(suite: int, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
    block = 16 if suite else 8
    algorithm = SM4(key) if suite else TripleDES(key * 3)
    return Cipher(algorithm, modes.CBC(iv.ljust(block, b"\0"))).encryptor().update(pad80(octets, block))[-block:]


def derive(suite: int, key: bytes, factor: bytes) -> bytes:
    inverse = bytes(~octet & 0xFF for octet in factor)
    return ecb(suite, key, factor + inverse) if suite else ecb(suite, key, factor) + ecb(suite, key, inverse)


def mac4(suite: int, key: bytes, octets: bytes) -> bytes:
    """MAC under a session key, or a TAC under what `tac_key` gives."""
    return cbc_last(suite, key, octets)[:4]


def tac_key(suite: int, key: bytes) -> bytes:
    return key if suite else bytes(a ^ b for a, b in zip(key[:8], key[8:], strict=True))


def retail(suite: int, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
    """Secure messaging MAC, 8 bytes: retail MAC for 3DES, CBC-MAC for SM4."""
    if suite:
        return cbc_last(suite, key, octets, iv)[:8]
    last = cbc_last(0, key[:8], octets, iv)
    single = Cipher(TripleDES(key[8:] * 3), modes.ECB()).decryptor().update(last)  # noqa: S305 - what cards do
    return ecb(0, key[:8], single)


@cache
def root(suite: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{suite} {purpose}".encode()).digest()[:16]


@cache
def card_key(suite: int, purpose: str, issuer: bytes, serial: bytes) -> bytes:
    return derive(suite, derive(suite, root(suite, purpose), issuer * 2), serial[2:])


def record_key(terminal_number: bytes) -> bytes:
    """What a PSAM is issued with: it seals under one more derivation of it."""
    return derive(4, root(4, "RECORD"), b"\0\0" + terminal_number)


class Issuer:
    """Personalises by plain CREATE FILE and WRITE KEY APDUs under the transport key, and plays the desk."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)

    def ask(self, chip: SoftwareCard | SoftwarePsam, apdu: bytes) -> bytes:
        answer = chip.transmit(apdu)
        assert answer[-2:] == b"\x90\x00", (apdu.hex(), answer.hex())
        return answer[:-2]

    def write_key(self, chip: SoftwareCard | SoftwarePsam, suite: int, number: int, content: bytes) -> None:
        iv = self.ask(chip, b"\x00\x84\x00\x00\x04")
        block, field = (16 if suite else 8), bytes((len(content),)) + content
        body = ecb(suite, TRANSPORT, pad80(field, block) if len(field) % block else field)
        head = bytes((0x84, 0xD4, 0x01, number, len(body) + 4))
        self.ask(chip, head + body + retail(suite, TRANSPORT, head + body, iv)[:4])

    def create(self, chip: SoftwareCard | SoftwarePsam, fid: int, content: bytes) -> None:
        self.ask(chip, b"\x80\xe0" + fid.to_bytes(2, "big") + bytes((len(content),)) + content)

    def card(self, planned: Any) -> SoftwareCard:
        suite = 4 if planned.suite == "sm4" else 0
        chip = SoftwareCard.blank(planned.suite, rng=self.rng)
        chip.power_on()
        serial, issuer = bytes.fromhex(planned.serial), bytes.fromhex(planned.issuer)
        sectors = {1: ("transit", "smallpay", "utility")} if planned.profile == "shared-purse" else {
            1: ("transit",), 3: ("smallpay",), 4: ("utility",),
        }  # fmt: skip
        names = {1: "A000000632010105", 3: "F053584F43010103", 4: "F053584F43010104"}
        for purse, paid in sectors.items():
            self.ask(chip, bytes.fromhex("00A40000023F0000"))
            fid = 0x3F00 + purse
            self.create(chip, fid, bytes.fromhex("380C00F0F095FFFF") + bytes.fromhex(names[purse]))
            self.ask(chip, b"\x00\xa4\x00\x00\x02" + fid.to_bytes(2, "big") + b"\x00")
            self.create(chip, 0x0000, bytes.fromhex("3F018095F0FFFF"))
            self.create(chip, 0x0015, bytes.fromhex("28001EF0F0FFFF"))
            self.ask(chip, b"\x00\xd6\x95\x00\x1e" + issuer + bytes(4) + b"\x02\x01" + serial + bytes(10))
            if purse == 1:
                self.create(chip, 0x0017, bytes.fromhex("28003CF0F0FFFF"))
                self.ask(chip, b"\x00\xd6\x97\x0a\x01" + bytes((planned.card_class,)))
                self.create(chip, 0x001A, bytes.fromhex("2C0430F0F0FFFF"))
            self.create(chip, 0x0018, bytes.fromhex("2E0A17F0EFFFFF"))
            self.create(chip, 0x0002, bytes.fromhex("2F0208F000FF18"))
            high = 0x10 if suite else 0
            for kind, number, purpose in (
                *((0x3E, high + {"transit": 1, "smallpay": 2, "utility": 3}[s], f"PURCHASE {s}") for s in paid),
                (0x3F, high + 1, f"LOAD {purse}"), (0x34, high + 1, f"TAC {purse}"), (0x3C, high + 1,
                f"OVERDRAFT {purse}"),
            ):  # fmt: skip
                key = card_key(suite, purpose, issuer, serial)
                self.write_key(chip, suite, number, bytes((kind, 0xF0, 0xF0, 1, suite)) + key)
            self.write_key(chip, suite, 0, bytes.fromhex("3AF0EF0133123456"))
            self._allow(chip, suite, high + 1, card_key(suite, f"OVERDRAFT {purse}", issuer, serial))
        return chip

    def _allow(self, chip: SoftwareCard, suite: int, number: int, key: bytes) -> None:
        terminal, when, limit = bytes(6), bytes.fromhex("20260101080000"), (800).to_bytes(3, "big")
        a = self.ask(chip, b"\x80\x50\x04\x02\x07" + bytes((number,)) + terminal + b"\x13")
        session = self._session(suite, key, a[11:15] + a[4:6])
        tail = limit + b"\x07" + terminal + when
        self.ask(chip, b"\x80\x58\x00\x00\x0e" + limit + when + mac4(suite, session, tail) + b"\x04")

    @staticmethod
    def _session(suite: int, key: bytes, seed: bytes) -> bytes:
        return ecb(suite, key, pad80(seed, 16) if suite else (seed + b"\x80\x00")[:8])

    def psam(self, number: str, sector: str, *, gate: bool = False) -> SoftwarePsam:
        chip = SoftwarePsam.blank("sm4", rng=self.rng)
        chip.power_on()
        self.create(chip, 0x0016, bytes.fromhex("280006F0F0FFFF"))
        self.ask(chip, b"\x00\xd6\x96\x00\x06" + bytes.fromhex(number))
        code = {"transit": 1, "smallpay": 3, "utility": 4}[sector]
        for suite, high in ((0, 0), (4, 0x10)):
            key = bytes((0x42, 0xF0, 0xF0, 1, suite)) + root(suite, f"PURCHASE {sector}")
            self.write_key(chip, 4, high + code, key)
        self.write_key(chip, 4, 1, bytes((0x26, 0xF0, 0xF0, 1, 4)) + record_key(bytes.fromhex(number)))
        if gate:
            self.write_key(chip, 4, 1, bytes((0x46, 0xF0, 0xF0, 1, 4)) + root(4, "ENTRY"))
        return chip

    def load(self, card: SoftwareCard, step: DeskStep) -> LoadResult | None:
        suite, names = (
            int(step.suite == "sm4") * 4,
            {1: "A000000632010105", 3: "F053584F43010103", 4: "F053584F43010104"},
        )
        card.power_on()
        self.ask(card, b"\x00\xa4\x04\x00\x08" + bytes.fromhex(names[step.purse]) + b"\x00")
        self.ask(card, bytes.fromhex("0020000003123456"))
        amount, terminal = step.amount_fen.to_bytes(4, "big"), bytes.fromhex(step.terminal_number)
        a = self.ask(card, b"\x80\x50\x00\x02\x0b" + bytes((step.key_index,)) + amount + terminal + b"\x10")
        key = card_key(suite, f"LOAD {step.purse}", bytes.fromhex(step.issuer), bytes.fromhex(step.card))
        session = self._session(suite, key, a[8:12] + a[4:6])
        assert mac4(suite, session, a[:4] + amount + b"\x02" + terminal) == a[12:16]
        when = bytes.fromhex(step.instant.astimezone(CHINA).strftime("%Y%m%d%H%M%S"))
        mac2 = mac4(suite, session, amount + b"\x02" + terminal + when)
        if step.cut == "before-commit":
            return None
        tac = self.ask(card, b"\x80\x52\x00\x00\x0b" + when + mac2 + b"\x04")
        if step.cut:
            return None
        return LoadResult(
            tac,
            when[:4],
            when[4:],
            int.from_bytes(a[:4], "big"),
            800,
            int.from_bytes(a[4:6], "big"),
            a[7],
            a[6],
            step.key_index,
        )


def proven(record: Mapping[str, Any]) -> bool:
    """Whether a record's TAC is that of its card, by docs/record.md."""
    suite, serial, issuer = record["suite"], bytes.fromhex(record["card"]), bytes.fromhex(record["issuer"])
    key = tac_key(suite, card_key(suite, f"TAC {record['purse']}", issuer, serial))
    amount, kind = struct.pack(">IB", record["amount_fen"], record["transaction_type"]), record["kind"]
    where, when = bytes.fromhex(record["terminal_number"]), bytes.fromhex(record["date"] + record["time"])
    if kind == Kind.LOAD:
        raw = record["balance_before_fen"] + record["overdraft_fen"] + record["amount_fen"]
        text = struct.pack(">IH", raw, record["counter"]) + amount + where + when
    else:
        text = amount + where + struct.pack(">I", record["terminal_transaction"]) + when
    return mac4(suite, key, text) == bytes.fromhex(record["cryptogram"][:8])


def seal_is_good(record: bytes) -> bool:
    key = derive(4, record_key(record[29:35]), b"\0\0" + record[29:35])
    return cbc_last(4, key, record[:120])[:8] == record[120:]


class Desk:
    """The front door of the test: does what the steps ask for with the issuer's keys, and remembers what a service must
    know."""

    def __init__(self, planned: Plan, issuer: Issuer) -> None:
        self.issuer = issuer
        self.cards = {c.serial: issuer.card(c) for c in planned.cards}
        boxes = [d for d in planned.devices if not d.online]
        self.psams = {d.psam: issuer.psam(d.psam, d.sector, gate=d.terminal_class == "metro") for d in boxes}
        self.acts: dict[str, tuple[str, datetime]] = {}
        self.reported: dict[str, datetime] = {}
        self.replaced: set[str] = set()

    def do(self, step: DeskStep) -> DeskResult:
        if step.kind == "load":
            return self.issuer.load(self.cards[step.card], step)
        if step.kind == "report":
            self.reported[step.card] = step.instant
            return ReportResult(len(self.reported))
        if step.kind == "replacement":
            self.replaced.add(step.card)
            return self._replaced(step)
        act_id, cryptogram = self.issuer.rng.randbytes(8), self.issuer.rng.randbytes(8)
        self.acts[act_id.hex()] = cryptogram.hex(), step.instant
        when = bytes.fromhex(step.instant.astimezone(CHINA).strftime("%Y%m%d%H%M%S"))
        return ActResult(act_id, cryptogram, when[:4], when[4:], int(step.suite == "sm4") * 4, 1, step.key_index)

    def _replaced(self, step: DeskStep) -> ReplacementResult:
        """The lost card's memory, and what the desk cannot know yet: the ride that nobody has uploaded."""
        assert step.tap is not None
        values = {number: p.balance_fen for number, p in self.cards[step.card].purses().items()}
        values[step.tap.purse] += step.tap.amount_fen
        return ReplacementResult(sum(values.values()), values)


def played(planned: Plan) -> tuple[Player, Desk]:
    desk = Desk(planned, Issuer(planned.seed))
    player = Player(planned, desk.cards, desk.psams)
    for day in planned.dates:
        for steps in player.steps(day):
            for step in steps:
                player.done(step, desk.do(step))
    return player, desk
