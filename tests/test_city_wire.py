"""The city's uploads, against a small service of another making."""

from __future__ import annotations

import http.server
import itertools
import json
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from simulators.city import Player, Uploader, truth_lines
from simulators.city.records import CHINA, Kind, amount_of, spelled
from simulators.city.validators import CityBroken
from tests.city_side import DATES, Desk, Issuer, of, played, proven, small


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
        if record["kind"] == Kind.TORN and not proven(record):
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
