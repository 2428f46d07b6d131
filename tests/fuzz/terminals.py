"""Targets of what a terminal uploads: the batch frame in its two spellings."""

import json
from contextlib import suppress
from struct import Struct

from cardcore.record import RECORD_BYTES
from clearing.intake.frame import BINARY, JSON, decode_batch
from clearing.problem import Problem
from tests.fuzz.cards import RECORD
from tests.fuzz.target import Target

_HEADER = Struct(">4sIHHIIQ4s")
_CODES = {(400, "bad-frame"), (400, "bad-schema"), (413, "too-large"), (422, "wrong-terminal")}


def read_frame(raw: bytes) -> None:
    """A body, sent to the terminal that it names."""
    _decode(BINARY, raw, int.from_bytes(raw[4:8], "big"))


def read_repaired(raw: bytes) -> None:
    """Any records under the header that is theirs: a batch that must be taken as it is."""
    body = raw[8:][: (len(raw) - 8) // RECORD_BYTES * RECORD_BYTES] if len(raw) >= 8 + RECORD_BYTES else b""
    if not body:
        return
    records = [body[at : at + RECORD_BYTES] for at in range(0, len(body), RECORD_BYTES)]
    fen = sum(int.from_bytes(record[24:28], "big") for record in records)
    terminal = int.from_bytes(records[0][62:66], "big")
    header = _HEADER.pack(b"OCB1", terminal, 1, len(records), 1, len(records), fen, bytes(4))
    one_terminal = all(record[62:66] == records[0][62:66] for record in records)
    assert _decode(BINARY, header + body, terminal) == one_terminal


def read_frame_json(raw: bytes) -> None:
    _decode(JSON, raw, RECORD.terminal)


def _decode(media: str, body: bytes, terminal: int) -> bool:
    """Whether the batch is taken; one that is has the records of its body, byte by byte."""
    with suppress(Problem):
        try:
            batch = decode_batch(media, body, terminal, 1)
        except Problem as problem:
            assert (problem.status, problem.code) in _CODES, problem.code
            raise
        assert 1 <= len(batch.records) <= 500
        if media == BINARY:
            assert batch.records.tobytes() == body[_HEADER.size :]
        return True
    return False


def _binary(count: int) -> bytes:
    header = _HEADER.pack(b"OCB1", RECORD.terminal, 1, count, 7, 6 + count, count * RECORD.amount_fen, bytes(4))
    return header + RECORD.encode() * count


_SPOKEN = {
    "terminal": RECORD.terminal, "epoch": 1, "count": 1, "first_seq": 7, "last_seq": 7, "amount_fen": 200,
    "records": [RECORD.to_json()],
}  # fmt: skip

TARGETS = (
    Target("frame", read_frame, 700, seeds=(_binary(1), _binary(2)), words=(b"OCB1",)),
    Target("frame-whole", read_repaired, 600, seeds=(bytes(8) + RECORD.encode() * 2,)),
    Target(
        "frame-json", read_frame_json, 2000,
        seeds=(json.dumps(_SPOKEN).encode(),), words=tuple(f'"{name}"'.encode() for name in _SPOKEN),
    ),
)  # fmt: skip
