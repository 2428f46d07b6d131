"""Auditor E against days that were worked out by hand.

Each test fabricates a small out directory: records with real cryptograms, made with gmssl (SM4, SM3) and psec (3DES),
which the auditor does not use, and beside them the books and cases that follow, written down in fen by a reader of
docs/ledger.md.
"""

import json
import random
import re
import struct
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gmssl import sm3 as gm_sm3
from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from psec.des import encrypt_tdes_ecb
from psec.mac import generate_cbc_mac, generate_retail_mac

from simulators.auditor_evidence import Audit, EvidenceError, audit
from simulators.evidence import ciphers
from simulators.evidence.casebook import CaseBook, Found
from simulators.evidence.record_cases import missing_ranges

# psec still takes 3DES from where cryptography used to keep it.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

DAY1, DAY2 = "2026-03-02", "2026-03-03"
OWN, FOREIGN = "02317910", "02317950"
CARD, STUDENT, OTHER, SM4_CARD = (f"031079100000000000{n:02d}" for n in (1, 2, 3, 4))
BUS, METRO, POS, COUNTER, HOSPITAL = 110001, 120001, 130001, 140001, 150001
BUS_PSAM, METRO_PSAM, POS_PSAM, FEE_PSAM, LOST_PSAM = (f"7910010000{n:02d}" for n in (1, 2, 3, 4, 5))
PSAM_OF = {BUS: BUS_PSAM, METRO: METRO_PSAM, POS: POS_PSAM}
LAYOUT = """
    version 1  kind 1  flags 1  suite 1  key_version 1  key_index 1  purse 1  generation 1  issuer 4  card 10
    counter 2  amount_fen 4  transaction_type 1  terminal_number 6  terminal_transaction 4  date 4  time 3
    cryptogram 8  balance_before_fen 4  overdraft_fen 4  terminal 4  epoch 2  sequence 4  line 2  station 2
    entry_station 2  entry_at 4  concession 1  full_fare_fen 4  list_version 4  fare_version 2  operator 2
    act_id 8  shift 2
"""
FIELDS = [(name, int(width)) for name, width in re.findall(r"(\w+) (\d+)", LAYOUT)]
HEX_FIELDS = {"issuer", "card", "terminal_number", "date", "time", "cryptogram", "act_id"}


# --- a second implementation of the cryptography ---------------------------------------------------------------


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


# --- a city in a few lines ----------------------------------------------------------------------------------------


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
        wrong_mac2: bool = False,
        terminal: int = COUNTER,
        channel: int = 301,
    ) -> bytes:
        """Authorise a load on a purse of value 0; the answer is the record that would finish it."""
        day, _, clock = at.partition(" ")
        date, time = day.replace("-", ""), clock.replace(":", "")
        suite, name = (4, "sm4") if card == SM4_CARD else (0, "3des")
        key, random4 = card_key(f"{name}/LOAD/1", suite, card), bytes.fromhex("11223344")
        seed = random4 + struct.pack(">H", counter) + b"\x80"
        session = sm4(key, seed.ljust(16, b"\0")) if suite else encrypt_tdes_ecb(key, seed.ljust(8, b"\0"))
        common = struct.pack(">IB", fen, 2) + terminal.to_bytes(6, "big")
        mac1 = mac4(suite, session, struct.pack(">I", 800) + common)
        mac2 = mac4(suite, session, common + bytes.fromhex(date + time)) if not wrong_mac2 else bytes(4)
        request: dict[str, object] = {"terminal": terminal, "terminal_number": f"{terminal:012x}", "issuer": OWN}
        request |= {"card": card, "purse": 1, "generation": 0, "suite": suite, "key_version": 1, "key_index": 1}
        request |= {"amount_fen": fen, "channel": channel, "balance_fen": 800, "counter": counter}
        request |= {"random": random4.hex(), "mac1": mac1.hex()}
        self.call("loads", at, request, {"load_id": "1", "date": date, "time": time, "mac2": mac2.hex()})
        return self.load_record(card, fen, at, counter, terminal)

    def load_record(self, card: str, fen: int, at: str, counter: int = 0, terminal: int = COUNTER) -> bytes:
        fields: dict[str, Any] = {
            "kind": 4,
            "counter": counter,
            "transaction_type": 2,
            "terminal": terminal,
            "balance_before_fen": 0,
        }
        return self.record(card, fen, at, **fields)

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


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


# --- the days -----------------------------------------------------------------------------------------------------

TWO_RIDES_AND_A_PURCHASE = f"""
    {DAY1} purse float:1 debit@1 550 0
    {DAY1} purse due:transit debit@1 0 400
    {DAY1} purse due:smallpay debit@1 0 150
    {DAY1} transit due:purse debit@1 400 0
    {DAY1} transit payable:102 debit@1 0 400
    {DAY1} smallpay due:purse debit@1 150 0
    {DAY1} smallpay payable:103 debit@1 0 150
    accepted 3 550
"""


def two_rides_and_a_purchase(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY1} 08:00:00"), scene.record(OTHER, at=f"{DAY1} 08:01:00")])
    scene.upload([scene.record(SM4_CARD, 150, terminal=POS)], as_json=True)
    scene.close(DAY1)


def test_accepted_debits_of_both_suites_and_both_spellings(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    nets = f"""
        {DAY1} stored_value 102 400
        {DAY1} stored_value 103 150
        {DAY1} stored_value issuer -550
    """
    line = {"class": "stored value", "fee_fen": 0, "late": []}
    statements = {
        f"{DAY1}/102": [line | {"sector": "transit", "count": 2, "gross_fen": 400, "net_fen": 400}],
        f"{DAY1}/103": [line | {"sector": "smallpay", "count": 1, "gross_fen": 150, "net_fen": 150}],
    }
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE, nets=nets, statements=statements)
    assert found.differences == []
    assert found.checked == 8 + 3 + 2


def test_digests_are_those_of_the_lines_in_the_contract(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE)
    books = f"""{DAY1}|purse|due:smallpay|CNY|debit@1|0|150
{DAY1}|purse|due:transit|CNY|debit@1|0|400
{DAY1}|purse|float:1|CNY|debit@1|550|0
{DAY1}|smallpay|due:purse|CNY|debit@1|150|0
{DAY1}|smallpay|payable:103|CNY|debit@1|0|150
{DAY1}|transit|due:purse|CNY|debit@1|400|0
{DAY1}|transit|payable:102|CNY|debit@1|0|400
accepted|3|550
"""
    substance = f"""purse|due:smallpay|{DAY1}|-150
purse|due:transit|{DAY1}|-400
purse|float:1|{DAY1}|550
smallpay|due:purse|{DAY1}|150
smallpay|payable:103|{DAY1}|-150
transit|due:purse|{DAY1}|400
transit|payable:102|{DAY1}|-400
"""
    assert found.books_digest == sm3(books.encode()).hex()
    assert found.substance_digest == sm3(substance.encode()).hex()


@pytest.mark.parametrize(
    ("place", "old", "new", "says"),
    [
        ("books.jsonl", '"debit_fen": 550', '"debit_fen": 551', "float:1 CNY debit@1: published debit 551"),
        ("books.jsonl", '"count": 3', '"count": 4', "books state accepted: published count 4"),
        ("books.jsonl", "payable:103", "payable:102", "smallpay payable:103 CNY debit@1: published nothing"),
        (f"statements/{DAY1}/net.json", "-550", "-549", "stored value issuer: published -549, recomputed -550"),
    ],
)
def test_one_fen_beside_the_truth_is_told(scene: Scene, place: str, old: str, new: str, says: str) -> None:
    two_rides_and_a_purchase(scene)
    nets = f"{DAY1} stored_value 102 400\n {DAY1} stored_value 103 150\n {DAY1} stored_value issuer -550"
    scene.publish(TWO_RIDES_AND_A_PURCHASE, nets=nets)
    path = scene.directory / place
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    told = [each for each in audit(scene.directory).differences if not each.startswith("statement ")]
    assert any(says in each for each in told)


def test_a_report_with_another_digest_is_told(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    found = scene.publish(TWO_RIDES_AND_A_PURCHASE)
    report = {"books_digest": found.books_digest, "substance_digest": "00" * 32}
    report["sectors"] = {"transit": {"fees_fen": 1, "subsidy_fen": 0, "net": {"102": {"stored value": 400}}}}  # type: ignore[assignment]
    (scene.directory / "report.json").write_text(json.dumps(report))
    told = [each for each in audit(scene.directory).differences if each.startswith("report")]
    assert told == [
        f"report substance_digest: published {'00' * 32}, recomputed {found.substance_digest}",
        "report transit fees_fen: published 1, recomputed 0",
    ]


def test_a_bad_tac_moves_nothing_and_is_a_case(scene: Scene) -> None:
    answer = {"accepted": 0, "duplicate": 0, "quarantined": [{"seq": 1, "code": "bad-proof"}]}
    scene.upload([scene.record(genuine=0)], answer=answer)
    scene.close(DAY1)
    found = scene.publish("quarantined 1 200", f"bad-proof {BUS}/1/1 200 {DAY1} - operator")
    assert found.differences == []


def test_an_answer_that_told_another_verdict_is_told(scene: Scene) -> None:
    scene.upload([scene.record(genuine=0)], answer={"accepted": 1, "quarantined": []})
    found = scene.publish("quarantined 1 200")
    assert found.differences == [
        f"answer to {BUS}/1 (order 1) accepted: published 1, recomputed 0",
        f"answer to {BUS}/1 (order 1) quarantined: published [], recomputed [(1, 'bad-proof')]",
    ]


def test_the_22nd_record_of_a_terminal_with_21_bad_proofs_gets_no_verdict(scene: Scene) -> None:
    scene.upload([scene.record(genuine=0, counter=0, at=f"{DAY1} 09:00:{second:02d}") for second in range(21)])
    scene.upload([scene.record(counter=0)])
    scene.upload([scene.record(counter=0, at=f"{DAY2} 08:00:00")], at=f"{DAY2} 08:00:05")
    scene.close(DAY1)
    cases = [f"bad-proof {BUS}/1/{sequence} 200 {DAY1} - operator" for sequence in range(1, 22)]
    cases.append(f"terminal-suspended {BUS}/1/22 200 {DAY1} - operator")
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        quarantined 22 4400
        accepted 1 200
    """
    assert scene.publish(books, "\n".join(cases)).differences == []


def test_duplicates_count_nothing_and_a_batch_conflict_is_a_case(scene: Scene) -> None:
    ride = scene.record()
    scene.upload([ride])
    scene.upload([ride], n=1)
    scene.upload([ride], n=2, answer={"accepted": 0, "duplicate": 1})
    scene.upload([scene.record(OTHER, sequence=1)], n=2, status=409)
    scene.upload([scene.record(OTHER, sequence=1)], n=3, status=400)
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        accepted 1 200
    """
    assert scene.publish(books, f"batch-conflict {BUS}/2 0 {DAY1} - operator").differences == []


def test_a_sealed_copy_lends_its_claims_to_the_unsealed_one(scene: Scene) -> None:
    ride: dict[str, Any] = {
        "concession": 2,
        "full_fare_fen": 200,
        "sequence": 1,
        "terminal_transaction": 1,
        "counter": 0,
    }
    scene.upload([scene.record(STUDENT, 100, sealed=0, **ride)])
    scene.close(DAY1)
    scene.upload([scene.record(STUDENT, 100, **ride)], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 100 0
        {DAY1} purse due:transit debit@1 0 100
        {DAY1} transit due:purse debit@1 100 0
        {DAY1} transit payable:102 debit@1 0 100
        {DAY2} transit subsidy subsidy@7 100 0
        {DAY2} transit subsidy_payable:102 subsidy@7 0 100
        accepted 1 100
        conflict 1 100
    """
    cases = f"""
        bad-seal {BUS}/1/1 100 {DAY1} {DAY2} operator
        conflict {STUDENT}@20260302080000 100 {DAY2} - operator
    """
    nets = f"""
        {DAY1} stored_value 102 100
        {DAY1} stored_value issuer -100
        {DAY2} treasury_subsidy 102 100
        {DAY2} treasury_subsidy treasury -100
    """
    late = [{"origin_date": DAY1, "count": 1, "fen": 100}]
    line = {"sector": "transit", "count": 1, "gross_fen": 100, "fee_fen": 0, "net_fen": 100}
    statements = {
        f"{DAY1}/102": [line | {"class": "stored value", "late": []}],
        f"{DAY2}/102": [line | {"class": "treasury subsidy", "late": late}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_an_adopted_copy_lends_its_number_too(scene: Scene) -> None:
    scene.upload([scene.record(sealed=0, sequence=1, terminal_transaction=1, counter=0)])
    scene.upload([scene.record(sequence=2, terminal_transaction=1, counter=0, concession=2)])
    scene.upload([scene.record(OTHER, sequence=1)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        accepted 2 400
        conflict 1 200
    """
    cases = f"""
        conflict {CARD}@20260302080000 200 {DAY1} - operator
        fare {BUS}/1/2 100 {DAY1} - operator
        concession {BUS}/1/2 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


FORK_DAY1 = f"""
    {DAY1} purse float:1 debit@1 500 0
    {DAY1} purse due:transit debit@1 0 200
    {DAY1} purse due:smallpay debit@1 0 300
    {DAY1} transit due:purse debit@1 200 0
    {DAY1} transit payable:102 debit@1 0 200
    {DAY1} smallpay due:purse debit@1 300 0
    {DAY1} smallpay payable:103 debit@1 0 300
    {DAY1} transit payable:102 fork@1 200 0
    {DAY1} transit suspense:102 fork@1 0 200
    {DAY1} smallpay payable:103 fork@1 300 0
    {DAY1} smallpay suspense:103 fork@1 0 300
    {DAY1} purse fraud fork@1 300 0
    {DAY1} purse float:1 fork@1 0 300
"""


def fork(scene: Scene) -> None:
    scene.upload([scene.record(fen=300, counter=0, terminal=POS, at=f"{DAY1} 09:00:00")])
    scene.upload([scene.record(fen=200, counter=0, at=f"{DAY1} 08:00:00")])
    scene.close(DAY1)


def test_a_fork_falls_on_the_float_once_and_freezes_the_card(scene: Scene) -> None:
    fork(scene)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=-200, at=later)], at=f"{DAY2} 08:00:01")
    scene.close(DAY2)
    books = f"""
        {FORK_DAY1}
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        disputed 2 500
        suspended 1 200
    """
    cases = f"""
        fork {CARD}/1/0/0 500 {DAY1} - issuer
        denylist {BUS}/1/2 200 {DAY2} - issuer issuer
    """
    nets = ""
    line = {"class": "stored value", "count": 1, "fee_fen": 0, "net_fen": 0, "late": []}
    statements = {
        f"{DAY1}/102": [line | {"sector": "transit", "gross_fen": 200}],
        f"{DAY1}/103": [line | {"sector": "smallpay", "gross_fen": 300}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_a_late_third_member_of_a_fork_moves_the_float_to_the_smallest(scene: Scene) -> None:
    fork(scene)
    scene.upload([scene.record(fen=100, counter=0, at=f"{DAY1} 07:00:00")], at=f"{DAY2} 10:00:00")
    scene.close(DAY2)
    books = f"""
        {FORK_DAY1}
        {DAY2} purse float:1 debit@1 100 0
        {DAY2} purse due:transit debit@1 0 100
        {DAY2} transit due:purse debit@1 100 0
        {DAY2} transit payable:102 debit@1 0 100
        {DAY2} transit payable:102 fork@1 100 0
        {DAY2} transit suspense:102 fork@1 0 100
        {DAY2} purse fraud fork@1 200 0
        {DAY2} purse float:1 fork@1 0 200
        disputed 3 600
    """
    assert scene.publish(books, f"fork {CARD}/1/0/0 600 {DAY1} - issuer").differences == []


def test_a_fork_takes_back_its_subsidy(scene: Scene) -> None:
    ride: dict[str, Any] = {"concession": 2, "full_fare_fen": 200, "counter": 0}
    scene.upload([scene.record(STUDENT, 100, f"{DAY1} 08:00:00", **ride)])
    scene.close(DAY1)
    scene.upload([scene.record(STUDENT, 100, f"{DAY1} 08:30:00", **ride)], at=f"{DAY2} 10:00:00")
    scene.close(DAY2)
    both = "\n".join(
        f"""
        {day} purse float:1 debit@1 100 0
        {day} purse due:transit debit@1 0 100
        {day} transit due:purse debit@1 100 0
        {day} transit payable:102 debit@1 0 100
        """
        for day in (DAY1, DAY2)
    )
    books = f"""
        {both}
        {DAY1} transit subsidy subsidy@7 100 0
        {DAY1} transit subsidy_payable:102 subsidy@7 0 100
        {DAY2} transit subsidy subsidy@7 0 100
        {DAY2} transit subsidy_payable:102 subsidy@7 100 0
        {DAY2} transit payable:102 fork@1 200 0
        {DAY2} transit suspense:102 fork@1 0 200
        {DAY2} purse fraud fork@1 100 0
        {DAY2} purse float:1 fork@1 0 100
        disputed 2 200
    """
    assert scene.publish(books, f"fork {STUDENT}/1/0/0 200 {DAY2} - issuer").differences == []


def rides(scene: Scene, fen: int = 200) -> list[bytes]:
    return [scene.record(fen=fen, at=f"{DAY1} 0{hour}:00:00") for hour in (7, 8, 9)]


def test_a_gap_is_booked_and_released_when_the_late_record_fills_it(scene: Scene) -> None:
    first, lost, last = rides(scene)
    scene.declared.append({"operator": 102, "sector": "transit", "date": DAY1, "count": 3, "fen": 600})
    scene.upload([first, last])
    scene.close(DAY1)
    scene.upload([lost], at=f"{DAY2} 12:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse float:1 gap@1 200 0
        {DAY1} purse unsettled:1 gap@1 0 200
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        {DAY2} purse float:1 gap@1 0 200
        {DAY2} purse unsettled:1 gap@1 200 0
        accepted 3 600
    """
    cases = f"""
        card-gap {CARD}/1/0/1-1 200 {DAY1} {DAY2} clearing
        sequence-gap {BUS}/1/2-2 0 {DAY1} {DAY2} operator
        operator-total 102/transit/{DAY1} -200 {DAY1} {DAY2} operator
    """
    nets = f"""
        {DAY1} stored_value 102 400
        {DAY1} stored_value issuer -400
        {DAY2} stored_value 102 200
        {DAY2} stored_value issuer -200
    """
    line = {"sector": "transit", "class": "stored value", "fee_fen": 0}
    late = [{"origin_date": DAY1, "count": 1, "fen": 200}]
    statements = {
        f"{DAY1}/102": [line | {"count": 2, "gross_fen": 400, "net_fen": 400, "late": []}],
        f"{DAY2}/102": [line | {"count": 1, "gross_fen": 200, "net_fen": 200, "late": late}],
    }
    assert scene.publish(books, cases, nets, statements).differences == []


def test_delay_changes_the_books_but_not_the_substance(tmp_path: Path) -> None:
    late, prompt = Scene(tmp_path / "late"), Scene(tmp_path / "prompt")
    first, lost, last = rides(late)
    late.upload([first, last])
    late.close(DAY1)
    late.upload([lost], at=f"{DAY2} 12:00:00")
    late.close(DAY2)
    prompt.upload(rides(prompt))
    prompt.close(DAY1)
    prompt.close(DAY2)
    delayed, at_once = late.publish(""), prompt.publish("")
    assert delayed.substance_digest == at_once.substance_digest
    assert delayed.books_digest != at_once.books_digest


@pytest.mark.parametrize("seed", range(4))
def test_books_do_not_depend_on_the_order_and_grouping_of_uploads(tmp_path: Path, seed: int) -> None:
    plain, mixed = Scene(tmp_path / "plain"), Scene(tmp_path / "mixed")
    records = [
        *rides(plain)[:2],
        plain.record(fen=200, counter=1, terminal=BUS, at=f"{DAY1} 10:00:00", balance_before_fen=-200),
        plain.record(OTHER, 100, f"{DAY1} 11:00:00", genuine=0, counter=0),
        plain.record(OTHER, 200, f"{DAY1} 12:00:00", counter=2, balance_before_fen=-300),
    ]
    plain.upload(records)
    plain.close(DAY1)
    order = random.Random(seed)
    shuffled = records * 2
    order.shuffle(shuffled)
    for record in shuffled:
        mixed.upload([record])
    mixed.close(DAY1)
    expected, found = plain.publish(""), mixed.publish("")
    assert (found.books_digest, found.substance_digest) == (expected.books_digest, expected.substance_digest)


def test_an_unsealed_debit_posts_its_amount_and_explains_its_counter(scene: Scene) -> None:
    first = scene.record(at=f"{DAY1} 07:00:00")
    between = scene.record(at=f"{DAY1} 08:00:00", sealed=0)
    last = scene.record(at=f"{DAY1} 09:00:00")
    scene.upload([first, between, last])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 600 0
        {DAY1} purse due:transit debit@1 0 600
        {DAY1} transit due:purse debit@1 600 0
        {DAY1} transit payable:102 debit@1 0 600
        accepted 3 600
    """
    assert scene.publish(books, f"bad-seal {BUS}/1/2 200 {DAY1} - operator").differences == []


def test_unexplained_money_is_a_case_and_a_credit_freezes(scene: Scene) -> None:
    scene.upload([scene.record(counter=0, balance_before_fen=50)])
    scene.upload([scene.record(OTHER, counter=0, balance_before_fen=-70)])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=1, balance_before_fen=-150, at=later)], at=later)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        accepted 2 400
        suspended 1 200
    """
    cases = f"""
        unexplained-credit {CARD}/1/0/0 50 {DAY1} - issuer
        unexplained-debit {OTHER}/1/0/0 70 {DAY1} - issuer
    """
    assert scene.publish(books, cases).differences == []


def test_a_foreign_card_waits_for_its_issuer(scene: Scene) -> None:
    scene.upload([scene.record(issuer=FOREIGN)])
    scene.close(DAY1)
    books = f"""
        {DAY1} transit pending_receivable:{FOREIGN} debit@1 200 0
        {DAY1} transit pending_payable:102 debit@1 0 200
        pending_issuer 1 200
    """
    assert scene.publish(books, nets="", statements={}).differences == []


def test_who_bears_a_denylisted_debit(scene: Scene) -> None:
    scene.report(CARD, f"{DAY1} 09:00:00", version=5)
    times = ("08:59:59", "09:00:00", "09:40:00")
    early = [scene.record(at=f"{DAY1} {at}", list_version=5 if at == "09:40:00" else 4) for at in times]
    scene.upload(early)
    later = f"{DAY2} 10:00:00"
    scene.upload([scene.record(at=f"{DAY2} 09:59:59"), scene.record(at=later)], at=later)
    scene.close(DAY1)
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 600 0
        {DAY1} purse due:transit debit@1 0 600
        {DAY1} transit due:purse debit@1 600 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 400
        {DAY2} purse float:1 debit@1 400 0
        {DAY2} purse due:transit debit@1 0 400
        {DAY2} transit due:purse debit@1 400 0
        {DAY2} transit suspense:102 debit@1 0 400
        accepted 1 200
        suspended 4 800
    """
    cases = f"""
        denylist {BUS}/1/2 200 {DAY1} - issuer issuer
        denylist {BUS}/1/3 200 {DAY1} - acquirer acquirer
        denylist {BUS}/1/4 200 {DAY1} - issuer issuer
        denylist {BUS}/1/5 200 {DAY1} - acquirer acquirer
    """
    assert scene.publish(books, cases).differences == []


def test_an_unsealed_record_proves_no_terminal_whose_grace_it_could_have(scene: Scene) -> None:
    scene.report(CARD, f"{DAY1} 09:00:00", version=5)
    times = (f"{DAY2} 10:00:00", f"{DAY2} 10:01:00")
    scene.upload([scene.record(at=at, terminal=POS, sealed=at == times[0]) for at in times], at=times[1])
    scene.close(DAY1)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 400 0
        {DAY2} purse due:smallpay debit@1 0 400
        {DAY2} smallpay due:purse debit@1 400 0
        {DAY2} smallpay suspense:103 debit@1 0 400
        suspended 2 400
    """
    cases = f"""
        denylist {POS}/1/1 200 {DAY1} - issuer issuer
        denylist {POS}/1/2 200 {DAY1} - acquirer acquirer
        bad-seal {POS}/1/2 200 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_a_clock_that_runs_ahead_by_more_than_the_policy_allows(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY1} 20:10:00")], at=f"{DAY1} 20:05:00")
    scene.upload([scene.record(at=f"{DAY1} 20:20:01")], at=f"{DAY1} 20:15:00")
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 200
        accepted 1 200
        suspended 1 200
    """
    assert scene.publish(books, f"clock {BUS}/1/2 200 {DAY1} - clearing").differences == []


def test_a_tap_before_the_cut_off_belongs_to_the_day_before(scene: Scene) -> None:
    scene.upload([scene.record(at=f"{DAY2} 01:59:59"), scene.record(at=f"{DAY2} 02:00:00")], at=f"{DAY2} 02:00:00")
    scene.close(DAY1)
    lines = "purse float:1 debit@1 200 0", "purse due:transit debit@1 0 200", "transit due:purse debit@1 200 0"
    books = [f"{day} {line}" for day in (DAY1, DAY2) for line in (*lines, "transit payable:102 debit@1 0 200")]
    assert scene.publish("\n".join([*books, "accepted 2 400"])).differences == []


def test_a_proven_load(scene: Scene) -> None:
    scene.upload([scene.load(CARD, 5000, f"{DAY1} 07:00:00"), scene.load(SM4_CARD, 700, f"{DAY1} 07:01:00")])
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:301 load@1 5700 0
        {DAY1} purse float:1 load@1 0 5700
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        accepted 3 5900
    """
    assert scene.publish(books).differences == []


def test_a_desk_that_answered_with_a_wrong_mac2_is_told(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00", wrong_mac2=True)
    (told,) = scene.publish("").differences
    assert told.startswith("desk order 1: MAC2 of the load is 00000000, recomputed ")


def test_a_load_in_doubt_is_decided_by_the_next_tap(scene: Scene) -> None:
    unfinished = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(OTHER, 3000, f"{DAY1} 07:10:00")
    late = scene.load(SM4_CARD, 700, f"{DAY1} 07:20:00")
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.upload([scene.record(OTHER, counter=0, balance_before_fen=0)])
    scene.close(DAY1)
    scene.upload([unfinished, late], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse cash:301 load@1 5000 0
        {DAY1} purse float:1 load@1 0 5000
        {DAY2} purse cash:301 load@1 5700 5000
        {DAY2} purse float:1 load@1 5000 5700
        accepted 4 6100
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY1} issuer committed
        load-in-doubt {OTHER}/1/0 3000 {DAY1} {DAY1} issuer reversed
        load-in-doubt {SM4_CARD}/1/0 700 {DAY1} {DAY2} issuer committed
        sequence-gap {COUNTER}/1/2-2 0 {DAY2} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_a_load_in_doubt_beside_a_missing_counter_books_nothing_until_evidence(scene: Scene) -> None:
    load = scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.upload([scene.record(counter=1, balance_before_fen=4700)])
    scene.close(DAY1)
    scene.upload([load], at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY2} purse cash:301 load@1 5000 0
        {DAY2} purse float:1 load@1 0 5000
        {DAY2} purse float:1 gap@1 300 0
        {DAY2} purse unsettled:1 gap@1 0 300
        accepted 2 5200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY2} issuer committed
        gap-or-load {CARD}/1/0/0-0 5000 {DAY1} {DAY2} clearing
        card-gap {CARD}/1/0/0-0 300 {DAY2} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_load_retried_with_another_amount_is_one_case_and_committed_once(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(CARD, 3000, f"{DAY1} 07:05:00")
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=0, balance_before_fen=5000, at=later)], at=later)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit payable:102 debit@1 0 200
        {DAY2} purse cash:301 load@1 5000 0
        {DAY2} purse float:1 load@1 0 5000
        accepted 1 200
    """
    cases = f"load-in-doubt {CARD}/1/0 5000 {DAY1} {DAY2} issuer committed"
    assert scene.publish(books, cases).differences == []


def test_a_record_of_a_retried_load_finishes_the_order_of_its_own_terminal(scene: Scene) -> None:
    bank = scene.load(CARD, 5000, f"{DAY1} 07:00:00", terminal=HOSPITAL, channel=302)
    scene.load(CARD, 5000, f"{DAY1} 07:05:00")
    scene.load(OTHER, 700, f"{DAY1} 07:05:00", channel=302)
    cash = scene.load(OTHER, 700, f"{DAY1} 07:10:00")
    scene.upload([bank])
    scene.upload([cash])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse cash:302 load@1 5000 0
        {DAY1} purse cash:301 load@1 700 0
        {DAY1} purse float:1 load@1 0 5700
        accepted 2 5700
    """
    assert scene.publish(books, f"sequence-gap {COUNTER}/1/1-2 0 {DAY1} - operator").differences == []


def test_loads_that_two_sets_explain_stay_in_doubt(scene: Scene) -> None:
    scene.load(CARD, 5000, f"{DAY1} 07:00:00")
    scene.load(CARD, 5000, f"{DAY1} 07:05:00", counter=1)
    scene.upload([scene.record(counter=0, balance_before_fen=5000)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 200 0
        {DAY1} purse due:transit debit@1 0 200
        {DAY1} transit due:purse debit@1 200 0
        {DAY1} transit payable:102 debit@1 0 200
        accepted 1 200
    """
    cases = f"""
        load-in-doubt {CARD}/1/0 5000 {DAY1} - issuer
        load-in-doubt {CARD}/1/1 5000 {DAY1} - issuer
    """
    assert scene.publish(books, cases).differences == []


def test_torn_debits_are_void_committed_or_undecided(scene: Scene) -> None:
    reused = scene.record(kind=6, counter=0, at=f"{DAY1} 07:00:00")
    committed = scene.record(OTHER, kind=6, counter=0, at=f"{DAY1} 07:00:00")
    undecided = scene.record(SM4_CARD, kind=6, counter=0, at=f"{DAY1} 07:00:00")
    scene.upload([reused, committed, undecided])
    scene.upload([scene.record(), scene.record(OTHER, counter=1, balance_before_fen=-200)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        {DAY1} purse float:1 gap@1 200 0
        {DAY1} purse unsettled:1 gap@1 0 200
        accepted 2 400
        memo 3 600
    """
    cases = f"""
        torn {BUS}/1/1 200 {DAY1} {DAY1} clearing void
        torn {BUS}/1/2 200 {DAY1} - clearing committed
        torn {BUS}/1/3 200 {DAY1} - clearing undecided
        card-gap {OTHER}/1/0/0-0 200 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_missing_exit_is_a_case_until_the_exit_comes(scene: Scene) -> None:
    metro: dict[str, Any] = {"terminal": METRO, "transaction_type": 9, "line": 3}
    scene.upload([scene.record(CARD, 0, f"{DAY1} 08:00:00", kind=2, station=3, **metro)])
    scene.upload([scene.record(OTHER, 0, f"{DAY1} 08:00:00", kind=2, station=3, **metro)])
    scene.close(DAY1)
    exits = [
        scene.record(CARD, 450, f"{DAY1} 08:30:00", kind=3, station=8, entry_station=3, **metro),
        scene.record(OTHER, 900, f"{DAY1} 08:31:00", kind=3, station=8, flags=4, **metro),
    ]
    scene.upload(exits, at=f"{DAY2} 09:00:00")
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 1350 0
        {DAY2} purse due:transit debit@1 0 1350
        {DAY2} transit due:purse debit@1 1350 0
        {DAY2} transit payable:102 debit@1 0 1350
        accepted 4 1350
    """
    cases = f"""
        missing-exit {CARD}/1/0/0 0 {DAY1} {DAY2} operator
        missing-exit {OTHER}/1/0/0 0 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_an_operator_that_declares_one_fen_too_much(scene: Scene) -> None:
    two_rides_and_a_purchase(scene)
    declared = {"operator": 102, "sector": "transit", "date": DAY1, "count": 2, "fen": 401}
    exact = {"operator": 103, "sector": "smallpay", "date": DAY1, "count": 1, "fen": 150}
    not_closed_yet = {"operator": 103, "sector": "smallpay", "date": DAY2, "count": 9, "fen": 999}
    scene.declared += [declared, exact, not_closed_yet]
    cases = f"operator-total 102/transit/{DAY1} -1 {DAY1} - operator"
    assert scene.publish(TWO_RIDES_AND_A_PURCHASE, cases).differences == []


def test_a_fee_is_rounded_half_up_on_the_sum(scene: Scene) -> None:
    bought: dict[str, Any] = {"terminal": POS, "terminal_number": FEE_PSAM}
    scene.upload([scene.record(CARD, 250, **bought), scene.record(OTHER, 250, **bought)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 500 0
        {DAY1} purse due:smallpay debit@1 0 500
        {DAY1} smallpay due:purse debit@1 500 0
        {DAY1} smallpay payable:101 debit@1 0 500
        {DAY1} smallpay payable:101 fee@3 2 0
        {DAY1} smallpay fee:101 fee@3 0 2
        accepted 2 500
    """
    nets = f"""
        {DAY1} stored_value 101 498
        {DAY1} stored_value clearing 2
        {DAY1} stored_value issuer -500
    """
    line = {"sector": "smallpay", "class": "stored value", "count": 2, "gross_fen": 500, "fee_fen": 2, "net_fen": 498}
    assert scene.publish(books, nets=nets, statements={f"{DAY1}/101": [line | {"late": []}]}).differences == []


def test_subsidy_only_for_a_right_fare_and_a_right_class(scene: Scene) -> None:
    scene.upload(
        [
            scene.record(STUDENT, 100, f"{DAY1} 08:00:00", concession=2, full_fare_fen=200),
            scene.record(STUDENT, 90, f"{DAY1} 09:00:00", concession=2, full_fare_fen=200),
            scene.record(CARD, 0, f"{DAY1} 10:00:00", concession=3, full_fare_fen=200),
        ]
    )
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 190 0
        {DAY1} purse due:transit debit@1 0 190
        {DAY1} transit due:purse debit@1 190 0
        {DAY1} transit payable:102 debit@1 0 190
        {DAY1} transit subsidy subsidy@7 100 0
        {DAY1} transit subsidy_payable:102 subsidy@7 0 100
        accepted 3 190
    """
    cases = f"""
        fare {BUS}/1/2 10 {DAY1} - operator
        concession {BUS}/1/3 200 {DAY1} - operator
    """
    assert scene.publish(books, cases).differences == []


def test_an_act_posts_each_payer_once_and_in_time(scene: Scene) -> None:
    act = scene.act(f"{DAY1} 10:00:00", {"account": 300, "fund": 700})
    scene.upload([act], at=f"{DAY1} 10:02:00")
    slow = scene.act(f"{DAY1} 11:00:00", {"fund": 500})
    scene.upload([slow], at=f"{DAY1} 11:02:01")
    again = act[:68] + bytes.fromhex("00000009") + act[72:]
    scene.upload([again], at=f"{DAY1} 10:02:00")
    scene.close(DAY1)
    books = f"""
        {DAY1} medical account act@1 300 0
        {DAY1} medical account_payable:201 act@1 0 300
        {DAY1} medical fund act@1 700 0
        {DAY1} medical fund_payable:201 act@1 0 700
        accepted 1 1000
        quarantined 2 1500
    """
    cases = f"""
        bad-proof {HOSPITAL}/1/2 500 {DAY1} - operator
        bad-proof {HOSPITAL}/1/9 1000 {DAY1} - operator
        sequence-gap {HOSPITAL}/1/3-8 0 {DAY1} - operator
    """
    nets = f"""
        {DAY1} insurance_fund 201 700
        {DAY1} insurance_fund fund -700
        {DAY1} personal_medical_account 201 300
        {DAY1} personal_medical_account account -300
    """
    assert scene.publish(books, cases, nets).differences == []


UNKNOWN_CARD = "03107910000000009999"


@pytest.mark.parametrize(
    ("fields", "state", "code", "owner"),
    [
        ({"version": 2}, "quarantined", "malformed", "operator"),
        ({"time": "240000"}, "quarantined", "malformed", "operator"),
        ({"terminal_number": "799999999999"}, "quarantined", "unknown-psam", "operator"),
        ({"issuer": "02310000"}, "quarantined", "unknown-issuer", "operator"),
        ({"key_version": 2}, "quarantined", "no-key", "operator"),
        ({"suite": 7}, "quarantined", "no-key", "operator"),
        ({"card": UNKNOWN_CARD}, "quarantined", "unknown-card", "operator"),
        ({"terminal_number": LOST_PSAM}, "suspended", "psam-inactive", "clearing"),
    ],
)
def test_the_code_of_what_is_not_accepted(
    scene: Scene, fields: dict[str, Any], state: str, code: str, owner: str
) -> None:
    scene.upload([scene.record(terminal=POS, **fields)])
    scene.close(DAY1)
    books = f"{state} 1 200"
    if state == "suspended":
        books += f"""
            {DAY1} purse float:1 debit@1 200 0
            {DAY1} purse due:smallpay debit@1 0 200
            {DAY1} smallpay due:purse debit@1 200 0
            {DAY1} smallpay suspense:103 debit@1 0 200
        """
    assert scene.publish(books, f"{code} {POS}/1/1 200 {DAY1} - {owner}").differences == []


def test_a_load_that_nobody_authorised_and_a_card_that_was_replaced(scene: Scene) -> None:
    scene.upload([scene.load_record(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.upload([scene.record(OTHER)])
    scene.call("replacements", f"{DAY1} 09:00:00", {"old": OTHER, "new": CARD}, {"load_fen": 0})
    scene.upload([scene.record(OTHER, at=f"{DAY1} 08:30:00")])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 200
        {DAY1} transit suspense:102 debit@1 0 200
        accepted 1 200
        suspended 2 5200
    """
    cases = f"""
        rogue-load {COUNTER}/1/1 5000 {DAY1} - clearing
        replaced-card {BUS}/1/2 200 {DAY1} - clearing
    """
    assert scene.publish(books, cases).differences == []


def test_a_rogue_load_is_no_value_and_freezes_the_card(scene: Scene) -> None:
    scene.upload([scene.load_record(CARD, 5000, f"{DAY1} 07:00:00")])
    scene.close(DAY1)
    later = f"{DAY2} 08:00:00"
    scene.upload([scene.record(counter=0, balance_before_fen=5000, at=later)], at=later)
    scene.close(DAY2)
    books = f"""
        {DAY2} purse float:1 debit@1 200 0
        {DAY2} purse due:transit debit@1 0 200
        {DAY2} transit due:purse debit@1 200 0
        {DAY2} transit suspense:102 debit@1 0 200
        suspended 2 5200
    """
    cases = f"""
        rogue-load {COUNTER}/1/1 5000 {DAY1} - clearing
        denylist {BUS}/1/1 200 {DAY2} - issuer issuer
        unexplained-credit {CARD}/1/0/0 5000 {DAY2} - issuer
    """
    assert scene.publish(books, cases).differences == []


def test_two_proven_records_under_one_sequence(scene: Scene) -> None:
    scene.upload([scene.record(sequence=1), scene.record(OTHER, sequence=1)])
    scene.close(DAY1)
    books = f"""
        {DAY1} purse float:1 debit@1 400 0
        {DAY1} purse due:transit debit@1 0 400
        {DAY1} transit due:purse debit@1 400 0
        {DAY1} transit payable:102 debit@1 0 400
        accepted 2 400
    """
    assert scene.publish(books, f"sequence-conflict {BUS}/1 0 {DAY1} - operator").differences == []


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_a_case_that_resolved_itself_opens_again_when_its_condition_returns() -> None:
    book, key = CaseBook(), ("operator-total", f"102/transit/{DAY1}")
    day1, day2, day3 = (date(2026, 3, day) for day in (2, 3, 4))
    book.fold(day1, {key: Found(-200, "operator")})
    book.fold(day2, {})
    assert (book[key].opened, book[key].resolved, book[key].amount_fen) == (day1, day2, -200)
    book.fold(day3, {key: Found(100, "operator")})
    assert (book[key].opened, book[key].resolved, book[key].amount_fen) == (day1, None, 100)


def test_missing_ranges_run_from_one_to_the_highest() -> None:
    assert missing_ranges({2, 3, 7}) == [(1, 1), (4, 6)]
    assert missing_ranges(set()) == []


def test_published_vectors() -> None:
    """GB/T 32907 and 32905 A.1, and the public load example of the PBOC purse."""
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    assert ciphers.sm4(key)(key).hex() == "681edf34d206965e86b3e94f536e4246"
    assert ciphers.sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    load_key = bytes.fromhex("11223344556677888877665544332211")
    session = ciphers.load_session_key(0, load_key, bytes.fromhex("11223344"), bytes(2))
    assert session.hex().upper() == "9B1D924E05595603"
    inputs = [bytes.fromhex("000000000000100001001122334455")]
    assert ciphers.transaction_macs(0, session, inputs)[0].hex().upper() == "2988AE5A"
    inputs = [bytes.fromhex("000010000100112233445520111221214822")]
    assert ciphers.transaction_macs(0, session, inputs)[0].hex().upper() == "3A845BF0"


def test_an_interpreter_without_sm3_gives_the_same_hash() -> None:
    assert ciphers._library_sm3(b"abc") == ciphers._hashlib_sm3(b"abc")


def test_missing_evidence_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"registry\.json"):
        audit(tmp_path)
