"""The city: its plan balances, its faults are there, and cards, PSAMs and a wire of another making agree with it."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators import auditor_truth
from simulators.card_os import SoftwareCard
from simulators.city import (
    ActResult,
    DeskStep,
    LoadResult,
    Plan,
    Player,
    ReplacementResult,
    ReportResult,
    Uploader,
    plan,
    truth_lines,
    write_cards,
    write_papers,
)
from simulators.city.facts import DeskResult, Sent, Tap
from simulators.city.faults import CLAIMS
from simulators.city.papers import dump
from simulators.city.records import CHINA, Kind, amount_of, spelled
from simulators.city.validators import CityBroken, crc16
from simulators.psam import SoftwarePsam

DATES = (date(2026, 3, 2), date(2026, 3, 3))
NAMED_FAULTS = {
    "batch-repeated", "batch-renumbered", "batch-truncated", "batch-late", "batch-lost", "bad-tac", "unsealed",
    "replay:sequence", "replay:counter", "replay:terminal", "clone", "fork-with-bad-twin", "load-in-gap",
    "load-doubt-committed", "load-doubt-lost", "psam-gap", "terminal-twins", "clock-ahead", "missing-exit",
    "overdraft-ride",
    "foreign", "denylist-before-applied", "denylist-after-applied", "replaced-card-late-tap",
    "operator-total-off-by-one", "concession-ended",
    "torn-recovered", "torn-committed", "torn-void",
} | {f"altered-claim:{name}" for name in CLAIMS}  # fmt: skip
TRANSPORT = bytes.fromhex("54455354205452414E53504F52542031")  # a TEST key: "TEST TRANSPORT 1"


def small(seed: int) -> Plan:
    return plan(seed, 37, 503, DATES)


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


# -- the plan
# ----------------------------------------------------------------------------------------------------------------


def test_the_same_seed_tells_the_same_truth() -> None:
    first, again = small(7), small(7)
    assert dump(truth_lines(first)) == dump(truth_lines(again)) == dump(truth_lines(first))
    assert dump(truth_lines(small(8))) != dump(truth_lines(first))


def test_every_fault_is_injected_and_has_its_case() -> None:
    planned = small(11)
    lines = truth_lines(planned)
    assert {f.name for f in planned.faults} == NAMED_FAULTS
    kinds = {line["kind"] for line in of(lines, "case")}
    for fault in of(lines, "fault"):
        assert fault["case"] is None or fault["case"] in kinds, fault


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_plan_conserves_every_fen(seed: int) -> None:
    planned = small(seed)
    lines: list[dict[str, Any]] = truth_lines(planned)
    net: Counter[str] = Counter()
    per_journal: Counter[tuple[str, str, str]] = Counter()
    for move in of(lines, "move"):
        fen = move["debit_fen"] - move["credit_fen"]
        net[f"{move['ledger']} {move['account'].split(':')[0]}"] += fen
        per_journal[move["date"], move["ledger"], move["rule"]] += fen
    assert not any(per_journal.values())
    own = {c.serial for c in planned.cards if c.own}
    memories = sum(line["balance_fen"] for line in of(lines, "balance") if line["card"] in own)
    # Rule 22: every fault of the plan shows itself by the last close, so nothing is left that only the cards know.
    assert memories == -net["purse float"]
    owed = {"payable", "suspense", "fee"}
    sectors = -sum(fen for name, fen in net.items() if name.split()[1] in owed and not name.startswith("purse"))
    assert net["purse cash"] + net["purse fraud"] == memories - net["purse unsettled"] + sectors
    per_class: Counter[tuple[str, str]] = Counter()
    for line in of(lines, "net"):
        per_class[line["date"], line["class"]] += line["net_fen"]
    assert not any(per_class.values())


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_plan_keeps_its_shape(seed: int) -> None:
    planned = small(seed)
    events = of(truth_lines(planned), "event")
    offline = [
        e
        for e in events
        if e["kind"] in ("debit", "entry", "exit") and e["sequence"] and not (e["fault"] or "").startswith("replay")
    ]
    per_day = Counter(e["origin_date"] for e in offline)
    assert per_day["2026-03-02"] >= 503 and per_day["2026-03-03"] >= 301
    assert {e["sector"] for e in events} == {"transit", "smallpay", "utility", "social", "medical"}
    bad = Counter((e["terminal"], e["at"][:10]) for e in events if e["state"] == "quarantined")
    assert max(bad.values()) <= 20
    by_card: dict[str, list[Tap]] = {}
    for tap in planned.taps:
        if tap.kind is not Kind.ACT and not tap.initial:
            by_card.setdefault(tap.card.serial, []).append(tap)
    for taps in by_card.values():
        gaps = [(b.at - a.at).total_seconds() for a, b in itertools.pairwise(taps)]
        assert not gaps or min(gaps) >= 120
    _each_terminal_counts_without_holes(planned.sents)
    _metro_trips_are_closed(planned)


def _each_terminal_counts_without_holes(sents: list[Sent]) -> None:
    stores: dict[str, list[int]] = {}
    for sent in sents:
        stores.setdefault(f"{sent.device.terminal} {sent.device.twin}", []).append(sent.sequence)
    for sequences in stores.values():
        assert sorted(sequences) == list(range(1, len(sequences) + 1))


def _metro_trips_are_closed(planned: Plan) -> None:
    open_entries: dict[str, Tap] = {}
    for tap in planned.taps:
        if tap.kind is Kind.ENTRY:
            assert tap.card.serial not in open_entries or open_entries[tap.card.serial].card.fault == "missing-exit"
            open_entries[tap.card.serial] = tap
        elif tap.kind is Kind.EXIT:
            assert open_entries.pop(tap.card.serial) is tap.entry
    assert not open_entries


def test_the_purses_of_the_plan_follow_from_its_events() -> None:
    """Replaying the truth's own event lines gives the truth's balances."""
    planned = small(3)
    lines: list[dict[str, Any]] = truth_lines(planned)
    value: Counter[tuple[str, int]] = Counter()
    faults = {f["event"]: f["name"] for f in of(lines, "fault")}
    for event in of(lines, "event"):
        copied = (
            event["fault"] == "clone" or event["state"] == "conflict" or faults.get(event["id"]) == "fork-with-bad-twin"
        )
        if event["kind"] == "act" or copied or event["fault"] in ("torn-void", "load-doubt-lost"):
            continue
        sign = 1 if event["kind"] == "load" else -1
        value[event["card"], event["purse"]] += sign * event["amount_fen"]
    assert {(b["card"], b["purse"]): b["balance_fen"] for b in of(lines, "balance")} == {
        (c.serial, p): value[c.serial, p] for c in planned.cards for p in c.purses
    }


@pytest.mark.parametrize(("cards", "debits"), [(20, 503), (37, 40000)])
def test_a_city_that_cannot_be_planned_says_why(cards: int, debits: int) -> None:
    with pytest.raises(ValueError, match="cards"):
        plan(1, cards, debits, DATES)


def test_the_metro_record_is_checked_by_the_published_crc() -> None:
    assert crc16(b"123456789") == 0x29B1  # the check value of CRC-16/CCITT-FALSE


# -- an issuer of the test's own: roots, WRITE KEY, loads, acts, proofs
# ------------------------------------------------------


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

    def psam(self, number: str, sector: str) -> SoftwarePsam:
        chip = SoftwarePsam.blank("sm4", rng=self.rng)
        chip.power_on()
        self.create(chip, 0x0016, bytes.fromhex("280006F0F0FFFF"))
        self.ask(chip, b"\x00\xd6\x96\x00\x06" + bytes.fromhex(number))
        code = {"transit": 1, "smallpay": 3, "utility": 4}[sector]
        for suite, high in ((0, 0), (4, 0x10)):
            key = bytes((0x42, 0xF0, 0xF0, 1, suite)) + root(suite, f"PURCHASE {sector}")
            self.write_key(chip, 4, high + code, key)
        self.write_key(chip, 4, 1, bytes((0x26, 0xF0, 0xF0, 1, 4)) + record_key(bytes.fromhex(number)))
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


# -- the city played
# ---------------------------------------------------------------------------------------------------------


class Desk:
    """The front door of the test: does what the steps ask for with the issuer's keys, and remembers what a service must
    know."""

    def __init__(self, planned: Plan, issuer: Issuer) -> None:
        self.issuer = issuer
        self.cards = {c.serial: issuer.card(c) for c in planned.cards}
        self.psams = {d.psam: issuer.psam(d.psam, d.sector) for d in planned.devices if not d.online}
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
            return ReplacementResult(self.cards[step.card].purses()[1].balance_fen + self._late_tap(step))
        act_id, cryptogram = self.issuer.rng.randbytes(8), self.issuer.rng.randbytes(8)
        self.acts[act_id.hex()] = cryptogram.hex(), step.instant
        when = bytes.fromhex(step.instant.astimezone(CHINA).strftime("%Y%m%d%H%M%S"))
        return ActResult(act_id, cryptogram, when[:4], when[4:], int(step.suite == "sm4") * 4, 1, step.key_index)

    @staticmethod
    def _late_tap(step: DeskStep) -> int:
        """What the desk cannot know yet: the ride that the card has made and nobody has uploaded."""
        assert step.tap is not None
        return step.tap.amount_fen


def played(planned: Plan) -> tuple[Player, Desk]:
    desk = Desk(planned, Issuer(planned.seed))
    player = Player(planned, desk.cards, desk.psams)
    for day in planned.dates:
        for steps in player.steps(day):
            for step in steps:
                player.done(step, desk.do(step))
    return player, desk


@pytest.fixture(scope="module")
def city() -> tuple[Plan, Player, Desk]:
    planned = small(5)
    return planned, *played(planned)


def test_the_cards_end_as_planned(city: tuple[Plan, Player, Desk], tmp_path: Path) -> None:
    planned, player, _ = city
    write_cards(player, tmp_path)
    cards = json.loads((tmp_path / "cards.json").read_text())
    for line in of(truth_lines(planned), "balance"):
        assert cards[line["card"]]["purses"][str(line["purse"])]["balance_fen"] == line["balance_fen"]
    for card in planned.cards:
        for purse, counter in card.offline.items():
            assert cards[card.serial]["purses"][str(purse)]["offline"] == counter
            assert cards[card.serial]["purses"][str(purse)]["online"] == card.online[purse]


def test_the_records_prove_what_the_plan_says(city: tuple[Plan, Player, Desk]) -> None:
    planned, player, _ = city
    records = {s.id: player._records[s.id] for s in planned.sents}
    for sent in planned.sents:
        raw = records[sent.id]
        record = spelled(raw)
        assert (record["kind"], amount_of(raw), record["sequence"]) == (sent.kind, sent.tap.amount_fen, sent.sequence)
        assert record["terminal"] == sent.device.terminal
        if sent.kind is Kind.ACT:
            continue
        if sent.kind is Kind.TORN:
            assert record["cryptogram"] == "00" * 8
        else:
            assert proven(record) == (not sent.bad_tac), sent.fault
        if sent.kind is not Kind.LOAD:
            assert seal_is_good(raw) == (sent.seal.value == "good"), sent.fault
        if not sent.forged:
            counter = sent.tap.counter + {"counter": 7}.get(sent.replayed or "", 0) + (sent.altered == "counter")
            assert record["counter"] == counter


def test_a_card_that_was_used_elsewhere_stops_the_play() -> None:
    planned = small(6)
    desk = Desk(planned, Issuer(6))
    player = Player(planned, desk.cards, desk.psams)
    with pytest.raises(CityBroken, match="is not one that is waited for"):
        player.done(DeskStep("load", datetime(2026, 3, 2, tzinfo=UTC), "00"), None)
    steps = player.steps(DATES[0])
    first, *_ = next(steps)
    result = desk.do(first)
    assert isinstance(result, LoadResult)
    with pytest.raises(CityBroken, match="value"):
        player.done(first, replace(result, raw_balance=result.raw_balance + 1))
    with pytest.raises(CityBroken, match="was not reported as done"):
        next(steps)


# -- the wire
# ----------------------------------------------------------------------------------------------------------------


class Wire:
    """A small service by docs/wire.md and the verdict table alone: it knows keys, the desk's acts and the date, and no
    plan."""

    def __init__(self, desk: Desk, stumble: Callable[[], str]) -> None:
        self.desk, self.stumble, self.lock = desk, stumble, threading.Lock()
        self.answers: dict[tuple[int, int], tuple[bytes, dict[str, object]]] = {}
        self.seen: set[bytes] = set()
        self.proofs: set[str] = set()
        self.states: Counter[str] = Counter()
        self.now = datetime(2026, 3, 3, 2, tzinfo=CHINA)

    def put(self, terminal: int, n: int, body: bytes, media: str) -> tuple[int, dict[str, object]]:
        with self.lock:
            if (known := self.answers.get((terminal, n))) is not None:
                return (200, known[1]) if known[0] == body else (409, {"code": "batch-conflict"})
            records = self._unpacked(terminal, body) if media.endswith("batch") else self._spelt(terminal, body)
            if records is None:
                return 400, {"code": "bad-frame"}
            answer: dict[str, Any] = dict.fromkeys(
                ("accepted", "duplicate", "suspended", "pending", "memo", "conflict"), 0
            )
            answer |= {"n": n, "quarantined": [], "now": self.now.isoformat()}
            for raw in records:
                state = self._judge(raw)
                if state == "quarantined":
                    answer["quarantined"].append({"seq": int.from_bytes(raw[68:72], "big"), "code": "bad-proof"})
                else:
                    answer[state] += 1
            self.answers[terminal, n] = body, answer
            return 200, answer

    def _unpacked(self, terminal: int, body: bytes) -> list[bytes] | None:
        magic, named, epoch, count, first, last, total = struct.unpack_from(">4sIHHIIQ", body)
        if magic != b"OCB1" or len(body) != 32 + 128 * count:
            return None
        records = [body[at : at + 128] for at in range(32, len(body), 128)]
        assert (named, epoch, last - first + 1) == (terminal, 1, count) and 1 <= count <= 500
        assert total == sum(map(amount_of, records))
        assert [int.from_bytes(r[68:72], "big") for r in records] == list(range(first, last + 1))
        assert {int.from_bytes(r[62:66], "big") for r in records} == {terminal}
        return records

    def _spelt(self, terminal: int, body: bytes) -> list[bytes]:
        from cardcore.record import TapRecord

        document = json.loads(body)
        records = [TapRecord.from_json(r).encode() for r in document["records"]]
        assert (document["terminal"], document["count"]) == (terminal, len(records))
        return records

    def _judge(self, raw: bytes) -> str:
        state = self._state(raw)
        if state != "duplicate":
            self.states[{"pending": "pending_issuer"}.get(state, state)] += 1
        self.seen.add(raw)
        return state

    def _state(self, raw: bytes) -> str:
        record: dict[str, Any] = dict(spelled(raw))
        at = datetime.strptime(record["date"] + record["time"], "%Y%m%d%H%M%S").replace(tzinfo=CHINA)
        if raw in self.seen:
            return "duplicate"
        if record["kind"] == Kind.TORN:
            return "memo"
        if record["issuer"] != "02317910":
            return "pending"
        act = record["kind"] == Kind.ACT
        if not (self._act_is_good(record) if act else proven(record)):
            return "quarantined"
        members = (
            ("act_id",) if act else ("card", "cryptogram", "terminal_number", "terminal_transaction", "date", "time")
        )
        proof = " ".join(str(record[m]) for m in members)
        if proof in self.proofs:
            return "conflict"
        self.proofs.add(proof)
        replaced = record["card"] in self.desk.replaced
        listed = record["card"] in self.desk.reported and self.desk.reported[record["card"]] <= at
        return "suspended" if at > self.now + timedelta(seconds=300) or replaced or listed else "accepted"

    def _act_is_good(self, record: dict[str, Any]) -> bool:
        cryptogram, opened = self.desk.acts.get(record["act_id"], ("", self.now))
        return bool(cryptogram == record["cryptogram"]) and self.now - opened <= timedelta(seconds=120)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for a `Wire`; stumbles where it says so."""

    protocol_version = "HTTP/1.1"
    wire: ClassVar[Wire]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stumble = self.wire.stumble()
        if stumble == "busy":
            self._say(503, {"code": "busy"}, {"Retry-After": "0"})
            return
        _, _, _, terminal, _, n = self.path.split("/")
        status, document = self.wire.put(int(terminal), int(n), body, self.headers["Content-Type"])
        if stumble == "gone":
            self.close_connection = True
            self.connection.close()
            return
        self._say(status, document, {})

    def do_GET(self) -> None:
        self._say(200, {"now": self.wire.now.isoformat()}, {})

    def _say(self, status: int, document: dict[str, object], headers: Mapping[str, str]) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the test speaks."""


@pytest.fixture
def serve() -> Iterator[Callable[[Wire], str]]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(wire: Wire) -> str:
        handler = type("Bound", (Handler,), {"wire": wire})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_uploads_agree_with_a_service_of_another_making(serve: Callable[[Wire], str], tmp_path: Path) -> None:
    planned = small(9)
    rng = Random(9)
    desk = Desk(planned, Issuer(9))
    wire = Wire(desk, lambda: rng.choices(("", "busy", "gone"), (90, 5, 5))[0])
    player = Player(planned, desk.cards, desk.psams)
    counter = itertools.count(1)
    uploader = Uploader(planned, player, serve(wire), directory=tmp_path, counter=counter)
    acts = sum(t.kind is Kind.ACT for t in planned.taps)
    requests = acts
    for day in planned.dates:
        for steps in player.steps(day):
            for step in steps:
                wire.now = step.instant
                player.done(step, desk.do(step))
        wire.now = datetime(day.year, day.month, day.day, 2, 30, tzinfo=CHINA) + timedelta(days=1)
        requests += uploader.day(day).requests
    truth = {line["state"]: line["count"] for line in of(truth_lines(planned), "state")}
    # A fork is found by the close, not by the wire.
    truth["accepted"] += truth.pop("disputed")
    assert dict(wire.states) == truth
    index = [json.loads(line) for line in (tmp_path / "uploads" / "index.jsonl").read_text().splitlines()]
    assert sorted(line["order"] for line in index) == list(range(1, requests + 1))
    assert Counter(line["status"] for line in index)[409] == 1 and Counter(line["status"] for line in index)[400] == 1
    assert all((tmp_path / "uploads" / line["file"]).stat().st_size and line["at"] for line in index)
    assert {line["media"] for line in index} == {"application/vnd.onecard.batch", "application/json"}


def test_an_unplanned_answer_stops_the_uploads(serve: Callable[[Wire], str], tmp_path: Path) -> None:
    planned = small(9)
    player, desk = played(planned)
    wire = Wire(desk, lambda: "")
    sent = next(
        d.batch.sents[0] for d in planned.deliveries[DATES[0]] if d.batch.sents[0].kind is Kind.DEBIT and not d.phase
    )
    true = player._records[sent.id]
    player._records[sent.id] = true[:46] + bytes(octet ^ 1 for octet in true[46:50]) + true[50:]
    with pytest.raises(CityBroken, match="instead of"):
        Uploader(planned, player, serve(wire), directory=tmp_path, counter=itertools.count()).day(DATES[0], threads=2)


def test_a_service_that_stays_away_is_reported(tmp_path: Path) -> None:
    planned = small(9)
    player, _ = played(planned)
    uploader = Uploader(
        planned, player, "http://127.0.0.1:9", directory=tmp_path, counter=itertools.count(), patience_s=0.2
    )
    with pytest.raises(CityBroken, match="not acknowledged"):
        uploader.day(DATES[0], threads=1)


# -- auditor T
# ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The files of a clearing that did everything right, written from the truth by the shapes of docs/ledger.md."""
    planned = small(2)
    write_papers(planned, tmp_path)
    lines: list[dict[str, Any]] = truth_lines(planned)
    books = [{**m, "unit": "CNY"} for m in of(lines, "move")] + [dict(s) for s in of(lines, "state")]
    for line in books:
        del line["type"]
    (tmp_path / "books.jsonl").write_bytes(dump(books))
    cases = [
        {k: v for k, v in c.items() if k != "type"} | {"owner": "clearing", "detail": ""} for c in of(lines, "case")
    ]
    (tmp_path / "cases.jsonl").write_bytes(dump(cases))
    for day in DATES:
        folder = tmp_path / "statements" / day.isoformat()
        folder.mkdir(parents=True)
        rows = [
            {"class": x["class"], "party": x["party"], "net_fen": x["net_fen"]}
            for x in of(lines, "net")
            if x["date"] == str(day)
        ]
        (folder / "net.json").write_text(json.dumps(rows))
    cards: dict[str, dict[str, Any]] = {}
    for b in of(lines, "balance"):
        cards.setdefault(b["card"], {"purses": {}})["purses"][str(b["purse"])] = {"balance_fen": b["balance_fen"]}
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    return tmp_path


def test_auditor_t_is_content_with_the_truth(published: Path) -> None:
    audit = auditor_truth.audit(published)
    assert audit.differences == [] and audit.checked > 200


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("books.jsonl", '"debit_fen":', '"debit_fen":1'),
        ("books.jsonl", '"account":"payable:', '"account":"payable:9'),
        ("books.jsonl", '"state":"conflict"', '"state":"accepted2"'),
        ("cases.jsonl", '"kind":"fork"', '"kind":"gap-or-load"'),
        ("cases.jsonl", '"resolution":"committed"', '"resolution":"reversed"'),
        ("cases.jsonl", '"opened":"2026-03-02"', '"opened":"2026-03-03"'),
        ("statements/2026-03-02/net.json", '"net_fen": ', '"net_fen": 1'),
        ("cards.json", '"balance_fen": ', '"balance_fen": 1'),
        ("truth.jsonl", '"type":"state","state":"memo","count":', '"type":"state","state":"memo","count":1'),
    ],
)
def test_auditor_t_finds_every_kind_of_difference(published: Path, file: str, old: str, new: str) -> None:
    path = published / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert auditor_truth.audit(published).differences
