"""The two spellings of a batch, binary and JSON, become one array of records (docs/wire.md)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np

from cardcore.errors import FormatError
from cardcore.record import RECORD_BYTES, TapRecord
from clearing.problem import Problem, Retry
from keys.columns import Records, from_bytes
from keys.proof import sm3

BINARY = "application/vnd.onecard.batch"
JSON = "application/json"
MOST_RECORDS = 500
MOST_BYTES = 1024 * 1024

_MAGIC = b"OCB1"
_HEADER = Struct(">4sIHHIIQ4s")
_MEMBERS = ("terminal", "epoch", "count", "first_seq", "last_seq", "amount_fen")
_WIDTHS = (32, 16, 16, 32, 32, 64)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it came, and its records as an array of RECORD_DTYPE."""

    terminal: int
    n: int
    media: str
    body: bytes
    digest: bytes
    epoch: int
    first_seq: int
    last_seq: int
    records: Records


class WrongTerminal(Problem):
    """Header, path and records do not name one terminal: the body is evidence of that."""

    def __init__(self, records: Sequence[int]) -> None:
        message = (
            "Path, header and records name different terminals. Nothing was taken in; the body is kept as a security "
            "event. Send what this terminal has made under its own number."
        )
        super().__init__(422, "wrong-terminal", Retry.NEVER, message, seq=records)


def decode_batch(media: str, body: bytes, path_terminal: int, n: int) -> Batch:
    """Read a body sent to `…/t/{path_terminal}/batches/{n}`; raises Problem (400, 413, 415, 422 of docs/wire.md)."""
    if media not in (BINARY, JSON):
        raise Problem(415, "media", Retry.NEVER, f"A batch is {BINARY} or {JSON}, not {media or 'without a type'}.")
    if len(body) > MOST_BYTES:
        raise too_large()
    header, records = _decode_binary(body) if media == BINARY else _decode_json(body)
    terminal, epoch, count, first_seq, last_seq, amount_fen = header
    if count != len(records) or amount_fen != int(records["amount_fen"].sum(dtype=np.uint64)):
        raise bad_frame("The header's count or sum of amounts is not that of the records.")
    foreign = records["terminal"] != path_terminal
    if terminal != path_terminal or foreign.any():
        raise WrongTerminal(records["sequence"][foreign].tolist())
    return Batch(path_terminal, n, media, body, sm3(body), epoch, first_seq, last_seq, records)


def bad_frame(message: str) -> Problem:
    return Problem(400, "bad-frame", Retry.NOW, f"{message} Nothing was stored. Build the batch again and send it.")


def too_large() -> Problem:
    return Problem(
        413,
        "too-large",
        Retry.NOW,
        f"A batch has at most {MOST_RECORDS} records and {MOST_BYTES} bytes. Nothing was stored. Send smaller ones.",
    )


def _decode_binary(body: bytes) -> tuple[tuple[int, ...], Records]:
    if len(body) < _HEADER.size:
        raise bad_frame(f"{len(body)} bytes are less than the header.")
    magic, terminal, epoch, count, first_seq, last_seq, amount_fen, zeros = _HEADER.unpack_from(body)
    if magic != _MAGIC or any(zeros):
        raise bad_frame("The header does not begin with OCB1, or does not end in zeros.")
    if count > MOST_RECORDS:
        raise too_large()
    if not count or len(body) != _HEADER.size + count * RECORD_BYTES:
        raise bad_frame(f"{len(body)} bytes are not a header and {count} records, at least one.")
    return (terminal, epoch, count, first_seq, last_seq, amount_fen), from_bytes(memoryview(body)[_HEADER.size :])


def _decode_json(body: bytes) -> tuple[tuple[int, ...], Records]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad_schema("the body is not JSON") from error
    if not isinstance(document, dict) or set(document) != {*_MEMBERS, "records"}:
        raise _bad_schema(f"a batch is an object of {', '.join(_MEMBERS)} and records")
    for member, width in zip(_MEMBERS, _WIDTHS, strict=True):
        value = document[member]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**width:
            raise _bad_schema(f"{member} takes an integer of {width} bits")
    listed = document["records"]
    if not isinstance(listed, list) or not all(isinstance(record, dict) for record in listed):
        raise _bad_schema("records takes a list of objects")
    if len(listed) > MOST_RECORDS:
        raise too_large()
    if not listed:
        raise bad_frame("A batch has at least one record.")
    raw = b"".join(_encoded(at, record) for at, record in enumerate(listed, 1))
    return tuple(document[member] for member in _MEMBERS), from_bytes(raw)


def _encoded(at: int, record: dict[str, Any]) -> bytes:
    """The 128 bytes of the record at place `at` of a JSON batch."""
    try:
        return TapRecord.from_json(record).encode()
    except FormatError as error:
        raise _bad_schema(f"record {at} of the batch: {error}") from error


def _bad_schema(message: str) -> Problem:
    return Problem(
        400, "bad-schema", Retry.NEVER, f"{message[:1].upper()}{message[1:]}. Nothing was stored. See docs/wire.md."
    )
