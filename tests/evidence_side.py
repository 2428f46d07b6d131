"""An out directory in the making, with real cryptograms, for the tests of auditor E.

Beside the records stand the books and cases that follow, written down in fen by a reader of docs/ledger.md.
"""

import json
import struct
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psec.des import encrypt_tdes_ecb
from psec.mac import generate_retail_mac

from simulators.auditor_evidence import Audit, audit
from tests.evidence_macs import (
    FIELDS,
    OWN,
    card_key,
    cryptogram,
    derived,
    mac4,
    packed,
    root,
    sm3,
    sm4,
    sm4_mac,
    spelled,
)

# psec still takes 3DES from where cryptography used to keep it.
quiet = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

DAY1, DAY2 = "2026-03-02", "2026-03-03"
FOREIGN = "02317950"
CARD, STUDENT, OTHER, SM4_CARD = (f"031079100000000000{n:02d}" for n in (1, 2, 3, 4))
BUS, METRO, POS, COUNTER, HOSPITAL = 110001, 120001, 130001, 140001, 150001
BUS_PSAM, METRO_PSAM, POS_PSAM, FEE_PSAM, LOST_PSAM = (f"7910010000{n:02d}" for n in (1, 2, 3, 4, 5))
PSAM_OF = {BUS: BUS_PSAM, METRO: METRO_PSAM, POS: POS_PSAM}


def registry() -> dict[str, object]:
    psams = [
        (BUS_PSAM, "transit", 102, "active"),
        (METRO_PSAM, "transit", 102, "active"),
        (POS_PSAM, "smallpay", 103, "active"),
        (FEE_PSAM, "smallpay", 101, "active"),
        (LOST_PSAM, "smallpay", 103, "lost"),
    ]
    terminals = [
        (BUS, 102, "transit", "bus"),
        (METRO, 102, "transit", "metro"),
        (POS, 103, "smallpay", "pos"),
        (COUNTER, 302, "transit", "counter"),
        (HOSPITAL, 201, "medical", "hospital"),
    ]
    policies = [
        ("cut-off", "*", 1, {"timezone": "Asia/Shanghai", "at": "02:00"}),
        ("fare-flat", "1", 1, {"fen": 200}),
        ("fare-metro", "*", 1, {"base_fen": 200, "step_fen": 50, "max_fen": 900}),
        ("concession", "transit", 7, {"1": 100, "2": 50, "3": 0}),
        ("fee", "101", 3, {"bps": 30}),
        ("grace", "*", 1, {"hours": 24}),
        ("grace", "pos", 1, {"hours": 48}),
        ("clock", "*", 1, {"ahead_s": 300}),
        ("denylist", "*", 1, {"effective_after_s": 0, "publish_after_s": 3600}),
    ]
    cards = [(CARD, "3des", 1), (STUDENT, "3des", 2), (OTHER, "3des", 1), (SM4_CARD, "sm4", 1)]
    return {
        "issuers": [{"code": OWN, "name": "o", "own": True}, {"code": FOREIGN, "name": "f", "own": False}],
        "parties": [],
        "terminals": [
            {"id": number, "operator": operator, "sector": sector, "class": kind, "epoch": 1}
            for number, operator, sector, kind in terminals
        ],
        "psams": [
            {"number": n, "sector": s, "operator": o, "from": "2026-01-01T00:00:00+08:00", "to": None, "state": state}
            for n, s, o, state in psams
        ],
        "policies": [
            {"name": name, "scope": scope, "from": "2026-01-01", "version": version, "basis": "-", "value": value}
            for name, scope, version, value in policies
        ],
        "cards": [
            {"card": c, "issuer": OWN, "profile": "shared-purse", "suite": suite, "class": each, "generation": 0}
            for c, suite, each in cards
        ],
    }


class Scene:
    """An out directory in the making. Cards start with 0 fen and live on their overdraft allowance of 800."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "uploads").mkdir(parents=True)
        self.index: list[dict[str, object]] = []
        self.desk: list[dict[str, object]] = []
        self.declared: list[dict[str, object]] = []
        self.order = 0
        self.numbers: dict[object, int] = {}
        self.purses: dict[str, list[int]] = {}

    def next(self, what: object) -> int:
        self.numbers[what] = self.numbers.get(what, 0) + 1
        return self.numbers[what]

    def record(self, card: str = CARD, fen: int = 200, at: str = f"{DAY1} 08:00:00", **over: int | str) -> bytes:
        """A sealed flat ride, unless fields say otherwise; counter and value come from the card's memory."""
        counter, value = self.purses.setdefault(card, [0, 0])
        terminal = int(over.pop("terminal", BUS))
        sealed, genuine = over.pop("sealed", 1), over.pop("genuine", 1)
        day, _, clock = at.partition(" ")
        record: dict[str, int | str] = dict.fromkeys((name for name, _ in FIELDS), 0)
        record |= {"version": 1, "kind": 1, "key_version": 1, "key_index": 1, "purse": 1, "issuer": OWN, "card": card}
        record |= {"suite": 4 if card == SM4_CARD else 0, "counter": counter, "amount_fen": fen, "transaction_type": 6}
        record |= {"terminal_number": PSAM_OF.get(terminal, f"{terminal:012x}"), "terminal": terminal, "epoch": 1}
        record |= {"date": day.replace("-", ""), "time": clock.replace(":", ""), "act_id": "00" * 8}
        record |= {"balance_before_fen": value, "overdraft_fen": 800, "full_fare_fen": fen, "concession": 1, "line": 1}
        record |= over
        record["sequence"] = over.get("sequence") or self.next(("sequence", terminal))
        if record["kind"] in (1, 2, 3):
            number = record["terminal_number"]
            record["terminal_transaction"] = over.get("terminal_transaction") or self.next(("psam", number))
            if "counter" not in over:
                self.purses[card] = [counter + 1, value - fen]
        if "cryptogram" not in over:
            known = record["suite"] in (0, 4) and record["kind"] != 6
            record["cryptogram"] = (cryptogram(record) if known and genuine else bytes(8)).hex()
        body = packed(record)
        factor = b"\0\0" + bytes.fromhex(str(record["terminal_number"]))
        key = derived(4, derived(4, root("sm4/RECORD"), factor), factor)
        return body + (sm4_mac(key, body)[:8] if sealed and record["kind"] not in (4, 5) else bytes(8))

    def upload(
        self,
        records: Iterable[bytes],
        at: str = f"{DAY1} 21:00:00",
        status: int = 200,
        n: int | None = None,
        answer: dict[str, object] | None = None,
        as_json: bool = False,
    ) -> None:
        records = list(records)
        terminal = int.from_bytes(records[0][62:66], "big")
        n = n or self.next(("batch", terminal))
        total = sum(int.from_bytes(record[24:28], "big") for record in records)
        body = struct.pack(">4sIHHIIQ4s", b"OCB1", terminal, 1, len(records), 1, 1, total, bytes(4)) + b"".join(records)
        if as_json:
            body = json.dumps({"terminal": terminal, "records": [spelled(record) for record in records]}).encode()
        file = f"{len(self.index):05d}.bin"
        (self.directory / "uploads" / file).write_bytes(body)
        line = {"file": file, "terminal": terminal, "n": n, "status": status, "body": answer or {}}
        media = "application/json" if as_json else "application/vnd.onecard.batch"
        self.index.append(line | {"media": media, "at": instant(at), "order": self.next_order()})

    def next_order(self) -> int:
        self.order += 1
        return self.order

    def close(self, day: str) -> None:
        night = str(datetime.fromisoformat(day) + timedelta(days=1, hours=3))
        self.index.append({"close": day, "at": instant(night), "order": self.next_order()})

    def call(
        self, call: str, at: str, request: dict[str, object], answer: dict[str, object], status: int = 201
    ) -> None:
        line = {"order": self.next_order(), "at": instant(at), "call": call, "request": request}
        self.desk.append(line | {"status": status, "answer": answer})

    def report(self, card: str, at: str, version: int) -> None:
        published = (datetime.fromisoformat(at) + timedelta(hours=1)).isoformat()
        answer = {"list_version": version, "effective_at": instant(at), "published_at": instant(published)}
        self.call("reports", at, {"card": card, "reason": "lost", "reported_at": instant(at)}, answer)

    def load(
        self,
        card: str,
        fen: int,
        at: str,
        counter: int = 0,
        found_fen: int = 0,
        wrong_mac2: bool = False,
        terminal: int = COUNTER,
        channel: int | str = 301,
    ) -> bytes:
        """Authorise a load on a purse of value `found_fen`; the answer is the record that would finish it."""
        day, _, clock = at.partition(" ")
        date, time = day.replace("-", ""), clock.replace(":", "")
        suite, name = (4, "sm4") if card == SM4_CARD else (0, "3des")
        key, random4 = card_key(f"{name}/LOAD/1", suite, card), bytes.fromhex("11223344")
        seed = random4 + struct.pack(">H", counter) + b"\x80"
        session = sm4(key, seed.ljust(16, b"\0")) if suite else encrypt_tdes_ecb(key, seed.ljust(8, b"\0"))
        common = struct.pack(">IB", fen, 2) + terminal.to_bytes(6, "big")
        mac1 = mac4(suite, session, struct.pack(">I", found_fen + 800) + common)
        mac2 = mac4(suite, session, common + bytes.fromhex(date + time)) if not wrong_mac2 else bytes(4)
        request: dict[str, object] = {"terminal": terminal, "terminal_number": f"{terminal:012x}", "issuer": OWN}
        request |= {"card": card, "purse": 1, "generation": 0, "suite": suite, "key_version": 1, "key_index": 1}
        request |= {"amount_fen": fen, "channel": channel, "balance_fen": found_fen + 800, "counter": counter}
        request |= {"random": random4.hex(), "mac1": mac1.hex()}
        self.call("loads", at, request, {"load_id": "1", "date": date, "time": time, "mac2": mac2.hex()})
        return self.load_record(card, fen, at, counter, found_fen, terminal)

    def load_record(
        self, card: str, fen: int, at: str, counter: int = 0, found_fen: int = 0, terminal: int = COUNTER
    ) -> bytes:
        fields: dict[str, Any] = {"kind": 4, "transaction_type": 2, "terminal": terminal}
        return self.record(card, fen, at, counter=counter, balance_before_fen=found_fen, **fields)

    def replace(self, old: str, new: str, at: str, values: dict[str, int], status: int = 201) -> None:
        answer: dict[str, object] = {"load_fen": sum(values.values()), "values": values}
        self.call("replacements", at, {"old": old, "new": new}, answer if status == 201 else {}, status)

    def act(self, at: str, split: dict[str, int], challenge: str = "a1a2a3a4a5a6a7a8") -> bytes:
        """Open an act at the hospital; the answer is the record that finishes it."""
        day, _, clock = at.partition(" ")
        date, time, fen = day.replace("-", ""), clock.replace(":", ""), sum(split.values())
        act_id = f"{self.next('act'):016x}"
        payers = sm3(";".join(f"{payer}={part}" for payer, part in sorted(split.items())).encode())
        number = f"{HOSPITAL:012x}"
        message = b"OCA1\x05" + bytes.fromhex(act_id + challenge) + struct.pack(">IB", fen, 0xA1)
        digest = sm3(message + bytes.fromhex(number + date + time + CARD) + payers)[:16]
        request: dict[str, object] = {"terminal": HOSPITAL, "terminal_number": number, "sector": "medical"}
        request |= {"issuer": OWN, "card": CARD, "amount_fen": fen, "transaction_type": 0xA1, "split": split}
        answer: dict[str, object] = {"act_id": act_id, "challenge": challenge, "date": date, "time": time}
        self.call("acts", at, request, answer | {"digest": digest.hex(), "expires_at": instant(at)})
        key = card_key("3des/ACT/5", 0, CARD)
        mac = generate_retail_mac(key[:8], key[8:], digest, 2, 8)
        over: dict[str, Any] = {"kind": 5, "purse": 5, "transaction_type": 0xA1, "terminal": HOSPITAL, "counter": 0}
        return self.record(CARD, fen, at, act_id=act_id, cryptogram=mac.hex(), **over)

    def publish(
        self,
        books: str,
        cases: str = "",
        nets: str | None = None,
        statements: dict[str, list[dict[str, object]]] | None = None,
    ) -> Audit:
        """Write what was worked out by hand and let the auditor compare it.

        Books: `date ledger account rule debit credit` or `state count fen` a line; cases:
        `kind subject amount opened resolved owner [resolution or detail]`; nets: `date class party fen`.
        """
        names = ["TAC/1", "LOAD/1", "ACT/5"]
        components = {f"{suite}/{name}": root(f"{suite}/{name}") for suite in ("3des", "sm4") for name in names}
        components["sm4/RECORD"] = root("sm4/RECORD")
        mask = bytes.fromhex("5a" * 16)
        halves = {
            name: [mask.hex(), bytes(a ^ b for a, b in zip(key, mask, strict=True)).hex()]
            for name, key in components.items()
        }
        (self.directory / "registry.json").write_text(json.dumps(registry()))
        (self.directory / "test-components.json").write_text(json.dumps(halves))
        self.write("uploads/index.jsonl", self.index)
        self.write("desk.jsonl", self.desk)
        self.write("declared.jsonl", self.declared)
        self.write("books.jsonl", [book_row(line) for line in filled(books)])
        self.write("cases.jsonl", [case_row(line) for line in filled(cases)])
        for line in self.index:
            if "close" in line:
                folder = self.directory / "statements" / str(line["close"])
                folder.mkdir(parents=True)
                rows = [row.split() for row in filled(nets or "") if row.startswith(str(line["close"]))]
                net = [{"class": each.replace("_", " "), "party": p, "net_fen": int(fen)} for _, each, p, fen in rows]
                (folder / "net.json").write_text(json.dumps(net))
        for name, lines in (statements or {}).items():
            day, _, operator = name.partition("/")
            path = self.directory / "statements" / day / f"{operator}.json"
            path.write_text(json.dumps({"date": day, "operator": int(operator), "lines": lines}))
        found = audit(self.directory)
        unasked = ("net ",) * (nets is None) + ("statement ",) * (statements is None)
        shown = [each for each in found.differences if not each.startswith(unasked)]
        return Audit(shown, found.checked, found.books_digest, found.substance_digest)

    def write(self, name: str, rows: list[dict[str, object]]) -> None:
        (self.directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def instant(local: str) -> str:
    return datetime.fromisoformat(f"{local}+08:00").isoformat()


def filled(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def book_row(line: str) -> dict[str, object]:
    words = line.split()
    if len(words) == 3:
        return {"state": words[0], "count": int(words[1]), "fen": int(words[2])}
    day, ledger, account, rule, debit, credit = words
    row = {"date": day, "ledger": ledger, "account": account, "unit": "CNY", "rule": rule}
    return row | {"debit_fen": int(debit), "credit_fen": int(credit)}


def case_row(line: str) -> dict[str, object]:
    kind, subject, fen, opened, resolved, owner, *more = line.split()
    resolution = more[0] if more and resolved != "-" else None
    row = {"kind": kind, "subject": subject, "amount_fen": int(fen), "opened": opened, "owner": owner}
    ended = {"resolved": None if resolved == "-" else resolved, "resolution": resolution}
    return row | ended | {"detail": {"says": more[0] if more else ""}}


def rides(scene: Scene, fen: int = 200) -> list[bytes]:
    return [scene.record(fen=fen, at=f"{DAY1} 0{hour}:00:00") for hour in (7, 8, 9)]


def ridden(day: str, fen: int) -> str:
    """What accepted flat rides of `fen` in all post on a day."""
    return f"""
        {day} purse float:1 debit@1 {fen} 0
        {day} purse due:transit debit@1 0 {fen}
        {day} transit due:purse debit@1 {fen} 0
        {day} transit payable:102 debit@1 0 {fen}
    """
