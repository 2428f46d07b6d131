"""One line of a tap file: normalised, identified, and judged. Nothing that a line holds raises, and no line is lost."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from clearing.municipal.companies import name_of
from keys.proof import sm3

SCHEME = "municipal-taps"
COLUMNS = (
    "deal_date", "close_date", "card_no", "deal_value", "deal_type", "company_name", "car_no", "station", "conn_mark",
    "deal_money", "equ_no",
)  # fmt: skip
NEEDED = ("deal_date", "close_date", "card_no", "deal_value", "deal_type", "company_name", "deal_money")
# Those that are read as values, in this order.
_READ = ("deal_date", "close_date", "deal_value", "deal_type", "deal_money")
# What sources write where they know nothing.
NOTHING = frozenset({"", "-", "--", "—", "null", "NULL", "None", "\\N"})
MOST_FEN = 2**31 - 1
# Years of a tap, and how far its settlement date may lie from it: beyond them a line is kept, and not counted.
FIRST_YEAR, LAST_YEAR = 1990, 2199
MOST_APART = timedelta(days=366)
# Every kind of space is one; a zero byte cannot be stored as text.
_SPACES = (("\u3000", " "), ("\u00a0", " "), ("\ufeff", " "), ("\t", " "), ("\0", "\ufffd"))
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_AMOUNT = re.compile(r"\d{1,10}(?:\.0*)?", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?)?", re.ASCII
)


class TapType(StrEnum):
    """`deal_type` of the source."""

    BUS = "巴士"
    METRO_IN = "地铁入站"
    METRO_OUT = "地铁出站"


RIDES = (TapType.BUS, TapType.METRO_OUT)


@dataclass(frozen=True, slots=True)
class Tap:
    """A judged line; `code` is empty when it is accepted. Amounts in fen; `moment` is the device's wall clock, without
    a zone.

    What could not be read is None. `text` is what an accepted line says, in one spelling, else its cells as they stand;
    `key` (32 bytes) is its SM3, `card` has 10 bytes (docs/ledger.md).
    """

    line: int
    card: bytes
    key: bytes
    text: str
    code: str
    ride: bool
    company: str
    full_fare_fen: int | None
    charged_fen: int | None
    moment: datetime | None
    close_date: date | None


class Layout:
    """Where each column stands, by the header of the file; without a header the columns stand as in `COLUMNS`."""

    def __init__(self, first_line: str) -> None:
        names = [name_of(name).casefold() for name in split(first_line)]
        self.has_header = any(name in COLUMNS for name in names)
        self._names = names if self.has_header else list(COLUMNS)
        self._regular = sorted(self._names) == sorted(COLUMNS)

    def read(self, number: int, line: str, readable: bool = True) -> Tap:
        """Judge one line; `number` counts from 1, `readable` as `encoding.text_of` says. A line of fewer or more cells
        than columns has lost or doubled something, so none of its cells can be trusted to stand in its place.
        """
        cells = split(line)
        extra: list[tuple[str, str]] = []
        if self._regular and len(cells) == len(COLUMNS):
            fields = dict(zip(self._names, cells, strict=True))
        else:
            fields, extra = self._gather(cells)
        flaw = "" if len(cells) == len(self._names) else "columns"
        return _judge(number, fields, extra, flaw if readable else "encoding")

    def _gather(self, cells: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Cells by column, and what stands in strange, doubled or surplus columns, which is part of the row's identity
        too.
        """
        fields = dict.fromkeys(COLUMNS, "")
        extra: list[tuple[str, str]] = []
        for at, cell in enumerate(cells):
            name = self._names[at] if at < len(self._names) else f"+{at}"
            if fields.get(name) == "":
                fields[name] = cell
            elif cell:
                extra.append((name, cell))
        return fields, sorted(extra)


def judge_again(text: str, code: str) -> Tap:
    """The judgement of a row from its normalised text alone. Of its `code` only what the text cannot tell has to be
    told: that the header named another number of cells, or that bytes were no characters. Raises ValueError on a text
    that is none.
    """
    cells = json.loads(text)
    fields, extra = dict(zip(COLUMNS, cells, strict=False)), cells[len(COLUMNS) :]
    if len(fields) < len(COLUMNS) or not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("a normalised row has a text in every column")
    return _judge(0, fields, [(name, cell) for name, cell in extra], code if code in ("columns", "encoding") else "")


def split(line: str) -> list[str]:
    """The cells of a line, stripped, with every kind of space as a plain one. Quotes end with the line: they swallow no
    other.
    """
    for strange, plain in _SPACES:
        line = line.replace(strange, plain)
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], skipinitialspace=True), [])]
    except csv.Error:
        return [cell.strip() for cell in line.split(",")]


def card_id(masked: str) -> bytes:
    """The card of a source's own numbering: F1 and 9 bytes of SM3 over scheme and masked text; no serial of ours begins
    so.
    """
    return b"\xf1" + sm3(SCHEME.encode() + b"\0" + masked.encode("utf-8", "surrogatepass"))[:9]


def _judge(number: int, raw: dict[str, str], extra: Sequence[tuple[str, str]], flaw: str) -> Tap:
    cells = {name: _plain(cell) for name, cell in raw.items()}
    moment, closed = _moment(cells["deal_date"]), _moment(cells["close_date"])
    close_date = closed.date() if closed else None
    full_fare_fen, charged_fen = _amount(cells["deal_value"]), _amount(cells["deal_money"])
    tap_type = _tap_type(cells["deal_type"])
    code = flaw or _flaw(cells, moment, close_date, (full_fare_fen, charged_fen), tap_type)
    if not code:
        said = (moment, close_date, full_fare_fen, tap_type, charged_fen)
        raw = cells | {name: str(value) for name, value in zip(_READ, said, strict=True)}
        extra = sorted((name, plain) for name, cell in extra if (plain := _plain(cell)))
    text = _encode([*(raw[name] for name in COLUMNS), *extra])
    return Tap(
        line=number,
        card=card_id(cells["card_no"]),
        key=sm3(text.encode("utf-8", "surrogatepass")),
        text=text,
        code=code,
        ride=tap_type in RIDES,
        company=cells["company_name"],
        full_fare_fen=full_fare_fen,
        charged_fen=charged_fen,
        moment=moment,
        close_date=close_date,
    )


def _flaw(cells: dict[str, str], moment: datetime | None, close_date: date | None, amounts: Sequence[int | None],
          tap_type: TapType | None) -> str:  # fmt: skip
    """The first reason why a line is kept but not counted."""
    if not all(cells[name] for name in NEEDED):
        return "missing-field"
    if not cells["station"] and not cells["car_no"]:
        return "missing-place"
    if tap_type is None:
        return "bad-type"
    if moment is None:
        return "bad-time"
    if close_date is None or abs(close_date - moment.date()) > MOST_APART:
        return "bad-close-date"
    full_fare_fen, charged_fen = amounts
    if full_fare_fen is None or charged_fen is None or charged_fen > full_fare_fen:
        return "bad-amount"
    return "charged-entry" if tap_type is TapType.METRO_IN and charged_fen else ""


def _plain(cell: str) -> str:
    """The text that a cell means, empty where its source knew nothing."""
    plain = name_of(cell)
    return "" if plain in NOTHING else plain


@lru_cache(1024)
def _tap_type(text: str) -> TapType | None:
    try:
        return TapType(text.replace(" ", ""))
    except ValueError:
        return None


@lru_cache(4096)
def _amount(text: str) -> int | None:
    """Fen; `200.0` is 200, `200.5` and `-200` are none."""
    if not _AMOUNT.fullmatch(text):
        return None
    fen = int(text.partition(".")[0])
    return fen if fen <= MOST_FEN else None


@lru_cache(4096)
def _moment(text: str) -> datetime | None:
    found = _MOMENT.fullmatch(text)
    if not found or not FIRST_YEAR <= int(found[1]) <= LAST_YEAR:
        return None
    year, month, day, hour, minute, second, fraction = (part or "0" for part in found.groups())
    microsecond = int(fraction.ljust(6, "0")[:6])
    try:
        return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond)
    except ValueError:
        return None
