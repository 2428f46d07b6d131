"""What the tests of the software card share: a card with money at a till, and exchanges that can be played again."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from terminal_side import Till, issue, send

from simulators.card_behaviour import STANDARD, Behaviour
from simulators.card_line import Line, Protocol
from simulators.card_os import SoftwareCard
from simulators.chip import Chip
from simulators.file_system import BinaryFile, PurseCell, PurseFile, RecordFile

METRO_IN = bytes.fromhex("212E0001") + bytes(44)
METRO_OUT = bytes.fromhex("212E0002") + bytes(44)
TRIP = bytes(range(48))
COMPOSITE = ("80DC21D0", METRO_IN), ("80DC00F0", TRIP)
GET_RESPONSE = bytes.fromhex("00C00000")
PIN_TRIES = 3


def tapped(name: str, behaviour: Behaviour = STANDARD) -> Till:
    """A till at a tapped card of this suite with 100.00 yuan in purse 1."""
    till = Till.of(name, issue(name, behaviour=behaviour))
    till.tap()
    till.load(10_000)
    return till


def balance(card: SoftwareCard) -> int:
    return card.purses()[1].balance_fen


def record(card: SoftwareCard, sfi: int, number: int) -> bytes | None:
    answer, status = send(card, f"00B2{number:02X}{sfi << 3 | 4:02X}", le=0)
    assert status in (0x9000, 0x6A83)
    return answer if status == 0x9000 else None


def memory(card: SoftwareCard) -> dict[tuple[int, int], Any]:
    """What every file of every application holds."""
    return {(df.fid, fid): content for df in card.mf.applications() for fid, content in _contents(df.files.value)}


def _contents(files: dict[int, Any]) -> Iterator[tuple[int, Any]]:
    for fid, file in files.items():
        if isinstance(file, PurseFile):
            yield fid, file.purse.value
        elif isinstance(file, RecordFile):
            yield fid, file.records.value
        elif isinstance(file, BinaryFile):
            yield fid, file.content.value


def value(card: SoftwareCard) -> int:
    """The money in all purses, fen, without what is only allowed."""
    cells = [cell for cell in memory(card).values() if isinstance(cell, PurseCell)]
    return sum(cell.raw_fen - cell.allowance_fen for cell in cells)


class Act(NamedTuple):
    """A command sequence that moves money: purse, transaction type, what it does to the value, how a till does it."""

    purse: int
    kind: int
    change_fen: int
    play: Callable[[Till], bytes]


def _in_deposit(play: Callable[[Till], bytes]) -> Callable[[Till], bytes]:
    def played(till: Till) -> bytes:
        till.enter_pin()
        return play(replace(till, purse=1))

    return played


ACTS = {
    "load": Act(2, 0x02, 700, lambda till: till.load(700)),
    "purchase": Act(2, 0x06, -700, lambda till: till.debit(700)),
    "composite purchase": Act(2, 0x09, -700, lambda till: till.debit(700, *COMPOSITE)),
    "unload": Act(2, 0x03, -700, lambda till: till.unload(700)),
    "allowance": Act(2, 0x07, 0, lambda till: till.allow(700)),
    "deposit load": Act(1, 0x01, 700, _in_deposit(lambda till: till.load(700))),
    "deposit purchase": Act(1, 0x05, -700, _in_deposit(lambda till: till.debit(700))),
    "cash": Act(1, 0x04, -700, _in_deposit(lambda till: till.debit(700, cash=True))),
    "deposit unload": Act(1, 0x03, -700, _in_deposit(lambda till: till.unload(700))),
    "deposit allowance": Act(1, 0x07, 0, _in_deposit(lambda till: till.allow(700))),
}


@dataclass(frozen=True)
class Tape:
    """An exchange with a chip whose random numbers are known: played again it asks the same and is told the same."""

    blank: bytes  # the chip before, without power
    asked: tuple[bytes, ...]
    told: tuple[bytes, ...]
    writes: int

    def chip(self) -> Any:
        """The chip as it was before."""
        return pickle.loads(self.blank)  # noqa: S301

    def play(self, line: Line) -> list[bytes]:
        """Power on and ask, until an answer stays out; what was told."""
        told: list[bytes] = []
        if line.power_on():
            for apdu in self.asked:
                told.append(ask(line, apdu))
                if not told[-1]:
                    break
        return told


def ask(line: Line, apdu: bytes) -> bytes:
    """One command, by GET RESPONSE where the protocol wants it; b"" when the answer did not come whole."""
    answer = line.transmit(apdu)
    if len(answer) == 2 and answer[0] == 0x61:
        return line.transmit(GET_RESPONSE + answer[1:])
    return answer


class _Recorder:
    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.heard: list[tuple[bytes, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chip, name)

    def transmit(self, apdu: bytes) -> bytes:
        answer = self.chip.transmit(apdu)
        self.heard.append((apdu, answer))
        return answer


def tape(chip: Chip, play: Callable[[Any], object]) -> Tape:
    """What `play` and the chip, powered on by it, say to each other; the chip goes on from there."""
    chip.power_off()
    blank, recorder, before = pickle.dumps(chip), _Recorder(chip), chip.memory.written
    play(recorder)
    asked, told = zip(*recorder.heard, strict=True)
    return Tape(blank, asked, told, chip.memory.written - before)


def octets(told: Sequence[bytes], protocol: Protocol) -> int:
    """How many bytes a chip sends for these answers: with T=0, 61xx before every answer with content."""
    return sum(len(answer) + 2 * (protocol == "T=0" and len(answer) > 2) for answer in told)
