"""A trace of every APDU that may stay on in production: it shows what is allowed to be shown, and nothing else.

A line is built from a whitelist, never by blanking out: a command that the table does not know is OTHER, without its
parameters. No data byte of a command or an answer is ever written, save the number of an application of ours that is
selected. Names and columns:

    reader | ms since the trace began | command | P1 P2 | bytes sent | bytes answered | SW | µs
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TextIO

from cardcore.apdu import CommandApdu
from cardcore.card_map import ALL_APPLICATIONS
from cardcore.errors import SetupError

MOST_BYTES = 16_000_000
_SECURE_MESSAGING = 0x04
_AIDS = {item.aid: item.number for item in ALL_APPLICATIONS.values()}
_SELECT = 0xA4
_READER = re.compile(r"[^A-Za-z0-9 ._()\[\]-]")


class Shown(NamedTuple):
    """What may be shown of a command: its name, and whether P1 and P2 may."""

    name: str
    parameters: bool = True


# By instruction, and by P1 where one instruction is several commands. A class byte only marks secure messaging.
COMMANDS: dict[int | tuple[int, int], Shown] = {
    0x0E: Shown("ERASE DF"),
    0x16: Shown("CARD BLOCK"),
    0x18: Shown("APPLICATION UNBLOCK"),
    0x1A: Shown("INIT FOR DESCRYPT"),
    0x1E: Shown("APPLICATION BLOCK"),
    0x20: Shown("VERIFY PIN"),
    0x24: Shown("PIN UNBLOCK"),
    (0x50, 0x00): Shown("INITIALIZE FOR LOAD"),
    (0x50, 0x01): Shown("INITIALIZE FOR PURCHASE"),
    (0x50, 0x02): Shown("INITIALIZE FOR CASH WITHDRAW"),
    (0x50, 0x03): Shown("INITIALIZE FOR COMPOSITE PURCHASE"),
    (0x50, 0x04): Shown("INITIALIZE FOR UPDATE"),
    (0x50, 0x05): Shown("INITIALIZE FOR UNLOAD"),
    0x52: Shown("CREDIT FOR LOAD"),
    (0x54, 0x01): Shown("DEBIT FOR PURCHASE"),
    (0x54, 0x03): Shown("DEBIT FOR UNLOAD"),
    0x58: Shown("UPDATE OVERDRAFT LIMIT"),
    0x5A: Shown("GET TRANSACTION PROOF"),
    0x5C: Shown("GET BALANCE"),
    (0x5E, 0x00): Shown("RELOAD PIN"),
    (0x5E, 0x01): Shown("CHANGE PIN"),
    0x70: Shown("INIT SAM FOR PURCHASE"),
    0x72: Shown("CREDIT SAM FOR PURCHASE"),
    0x82: Shown("EXTERNAL AUTHENTICATE"),
    0x84: Shown("GET CHALLENGE"),
    0x88: Shown("INTERNAL AUTHENTICATE"),
    0xA4: Shown("SELECT"),
    0xB0: Shown("READ BINARY"),
    0xB2: Shown("READ RECORD"),
    0xC0: Shown("GET RESPONSE"),
    0xD4: Shown("WRITE KEY"),
    0xD6: Shown("UPDATE BINARY"),
    0xDC: Shown("UPDATE RECORD"),
    0xE0: Shown("CREATE FILE"),
    0xE2: Shown("APPEND RECORD"),
    0xE8: Shown("SET CEILINGS"),
    0xFA: Shown("CRYPT"),
}
_OTHER = Shown("OTHER", parameters=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One command, its raw answer (b"" when the card fell silent) and how long it took, in microseconds."""

    command: CommandApdu
    answer: bytes
    micros: int


def line(exchange: Exchange) -> str:
    """What may be said of an exchange, tab-separated; never more than the table allows."""
    command, answer = exchange.command, exchange.answer
    shown = COMMANDS.get((command.ins, command.p1)) or COMMANDS.get(command.ins, _OTHER)
    name = shown.name + (" (secure)" if command.cla & _SECURE_MESSAGING else "") + _application(command)
    parameters = f"{command.p1:02X} {command.p2:02X}" if shown.parameters else "-- --"
    sw = f"{answer[-2]:02X} {answer[-1]:02X}" if len(answer) >= 2 else "torn"
    size = max(len(answer) - 2, 0)
    return f"{name}\t{parameters}\t{len(command.data)} B\t{size} B\t{sw}\t{exchange.micros} us"


def _application(command: CommandApdu) -> str:
    number = _AIDS.get(command.data) if command.ins == _SELECT else None
    return "" if number is None else f" application {number}"


class Trace:
    """Appends to a file; may be told of exchanges by any thread.

    A trace never disturbs the work: what cannot be written is counted in `lost`. At `most_bytes` the file is renamed to
    `.1`, in place of an older one, and begun anew. Raises SetupError when it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime],
        most_bytes: int = MOST_BYTES,
        elapsed: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.lost = 0
        self._path = path
        self._now = now
        self._most_bytes = most_bytes
        self._elapsed = elapsed
        self._began = elapsed()
        self._lock = threading.Lock()
        try:
            self._file = self._begun()
        except OSError as error:
            raise SetupError(f"{path} cannot be written ({error}): name another file for the trace") from error

    def note(self, reader: str, exchange: Exchange) -> None:
        """One line; never raises."""
        began_ms = 1000 * (self._elapsed() - self._began)
        text = f"{_READER.sub('?', reader)}\t{began_ms:.1f} ms\t{line(exchange)}\n"
        with self._lock:
            try:
                if self._file.tell() > self._most_bytes:
                    self._turn_over()
                self._file.write(text)
            except (OSError, ValueError):
                self.lost += 1

    def close(self) -> None:
        """Write what is buffered. Safe to call twice."""
        with self._lock:
            try:
                self._file.close()
            except OSError:
                self.lost += 1

    def _begun(self) -> TextIO:
        file = self._path.open("a", encoding="utf-8", buffering=1)
        file.write(f"# onecard APDU trace, {self._now():%Y-%m-%d %H:%M}; no data bytes are kept\n")
        return file

    def _turn_over(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = self._begun()
