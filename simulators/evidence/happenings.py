"""What the out directory says happened, in order: uploads, acts of the desk, closes of business dates."""

import json
import struct
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from simulators.evidence.registry import instant_of
from simulators.evidence.taprecord import SECTOR_NUMBERS, SIZE, json_to_bytes

ACT_LIFETIME = timedelta(seconds=120)
BINARY, JSON = "application/vnd.onecard.batch", "application/json"
_HEADER = struct.Struct("> 4s I H H I I Q 4s")


@dataclass(frozen=True, slots=True)
class Upload:
    """A batch that the service answered with 200 (its records) or 409 (none: the batch conflicts)."""

    order: int
    at: datetime
    terminal: int
    n: int
    status: int
    records: tuple[bytes, ...]
    answer: dict[str, object] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    order: int
    at: datetime
    day: date


@dataclass(frozen=True, slots=True)
class Load:
    """An authorised load; `counter` is the online counter, `raw_balance_fen` includes the overdraft allowance."""

    order: int
    at: datetime
    card: bytes
    issuer: bytes
    purse: int
    generation: int
    suite: int
    key_version: int
    terminal_number: bytes
    amount_fen: int
    counter: int
    channel: str
    raw_balance_fen: int
    random: bytes
    mac1: bytes
    mac2: bytes
    date: bytes
    time: bytes


@dataclass(frozen=True, slots=True)
class Act:
    """An opened online act of social security or medical insurance."""

    order: int
    at: datetime
    act_id: bytes
    challenge: bytes
    digest: bytes
    sector: str
    issuer: bytes
    card: bytes
    terminal: int
    terminal_number: bytes
    amount_fen: int
    transaction_type: int
    date: bytes
    time: bytes
    split: dict[str, int]

    @property
    def purse(self) -> int:
        return SECTOR_NUMBERS[self.sector]


@dataclass(frozen=True, slots=True)
class Report:
    """A card on the denylist."""

    order: int
    card: bytes
    version: int
    effective_at: datetime
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Replacement:
    """A card replaced by another; `values_fen` is what the desk answered, by purse, without zeros."""

    order: int
    at: datetime
    old: bytes
    values_fen: dict[int, int]
    load_fen: int


Happening = Upload | Close | Load | Act | Report | Replacement


def _byte(value: int | str) -> int:
    """A one-byte field, written as an integer or in hex."""
    return value if isinstance(value, int) else int(value, 16)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; whoever reads it names what it takes."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def batch_records(body: bytes, media: str) -> tuple[bytes, ...]:
    """The 128-byte records of a batch; raises ValueError, KeyError or OverflowError for a body that is none."""
    if media.startswith(JSON):
        return tuple(json_to_bytes(spelling) for spelling in json.loads(body)["records"])
    if len(body) < _HEADER.size:
        raise ValueError("shorter than a header")
    magic, _, _, count, *_ = _HEADER.unpack_from(body)
    if magic != b"OCB1" or len(body) != _HEADER.size + SIZE * count:
        raise ValueError("the header does not fit the body")
    return tuple(body[at : at + SIZE] for at in range(_HEADER.size, len(body), SIZE))


def batch_epoch(body: bytes, media: str) -> int:
    """The epoch that a batch counts its sequences in."""
    epoch: int = json.loads(body).get("epoch", 0) if media.startswith(JSON) else _HEADER.unpack_from(body)[2]
    return epoch


def _uploads(directory: Path) -> list[Happening]:
    found: list[Happening] = []
    for line in json_lines(directory / "uploads" / "index.jsonl"):
        order, at = int(line["order"]), instant_of(line["at"])
        if "close" in line:
            found.append(Close(order, at, date.fromisoformat(line["close"])))
        elif line["status"] in (200, 409):
            records: tuple[bytes, ...] = ()
            epoch = 0
            if line["status"] == 200:
                body = (directory / "uploads" / Path(line["file"]).name).read_bytes()
                media = line.get("media") or (BINARY if body[:4] == b"OCB1" else JSON)
                try:
                    records, epoch = batch_records(body, media), batch_epoch(body, media)
                except (ValueError, KeyError, OverflowError) as error:
                    raise ValueError(f"uploads/{line['file']} was answered 200 but is no batch: {error}") from error
            answer = line["body"] if isinstance(line.get("body"), dict) else {}
            found.append(
                Upload(order, at, int(line["terminal"]), int(line["n"]), line["status"], records, answer, epoch)
            )
    return found


def _desk(directory: Path) -> list[Happening]:
    found: list[Happening] = []
    for line in json_lines(directory / "desk.jsonl"):
        if line.get("status") != 201:
            continue
        order, at, call = int(line["order"]), instant_of(line["at"]), line["call"]
        asked, got = line["request"], line["answer"]
        if call == "loads":
            found.append(
                Load(
                    order=order,
                    at=at,
                    card=bytes.fromhex(asked["card"]),
                    issuer=bytes.fromhex(asked["issuer"]),
                    purse=_byte(asked["purse"]),
                    generation=_byte(asked["generation"]),
                    suite=_byte(asked["suite"]),
                    key_version=_byte(asked["key_version"]),
                    terminal_number=bytes.fromhex(asked["terminal_number"]),
                    amount_fen=int(asked["amount_fen"]),
                    counter=int(asked["counter"]),
                    channel=str(asked["channel"]),
                    raw_balance_fen=int(asked["balance_fen"]),
                    random=bytes.fromhex(asked["random"]),
                    mac1=bytes.fromhex(asked["mac1"]),
                    mac2=bytes.fromhex(got["mac2"]),
                    date=bytes.fromhex(got["date"]),
                    time=bytes.fromhex(got["time"]),
                )
            )
        elif call == "acts":
            found.append(
                Act(
                    order=order,
                    at=at,
                    act_id=bytes.fromhex(got["act_id"]),
                    challenge=bytes.fromhex(got["challenge"]),
                    digest=bytes.fromhex(got["digest"]),
                    sector=asked["sector"],
                    issuer=bytes.fromhex(asked["issuer"]),
                    card=bytes.fromhex(asked["card"]),
                    terminal=int(asked["terminal"]),
                    terminal_number=bytes.fromhex(asked["terminal_number"]),
                    amount_fen=int(asked["amount_fen"]),
                    transaction_type=_byte(asked["transaction_type"]),
                    date=bytes.fromhex(got["date"]),
                    time=bytes.fromhex(got["time"]),
                    split={payer: int(fen) for payer, fen in asked["split"].items()},
                )
            )
        elif call == "reports":
            effective, published = instant_of(got["effective_at"]), instant_of(got["published_at"])
            card = bytes.fromhex(asked["card"])
            found.append(Report(order, card, int(got["list_version"]), effective, published))
        elif call == "replacements":
            values_fen = {int(purse): int(fen) for purse, fen in got.get("values", {}).items() if fen}
            found.append(Replacement(order, at, bytes.fromhex(asked["old"]), values_fen, int(got["load_fen"])))
    return found


def read_happenings(directory: Path) -> list[Happening]:
    """All that counts, in the common order of both files.

    Raises OSError, KeyError, TypeError, ValueError or OverflowError for files that are missing or of another shape.
    """
    return sorted(_uploads(directory) + _desk(directory), key=lambda happening: happening.order)
