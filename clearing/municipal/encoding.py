"""Lines of a tap file as text, whatever they are encoded in; no byte of a line is lost, and no byte raises."""

from collections.abc import Iterator
from pathlib import Path

from keys.proof import sm3

ENCODINGS = ("utf-8", "gb18030")
_BOM = b"\xef\xbb\xbf"
# A line beyond this is no tap: it comes in pieces, each of which is kept with a reason.
LONGEST_LINE = 1 << 16
_BLOCK = 1 << 20


def lines_of(path: Path) -> Iterator[bytes]:
    """Raw lines without their ends (LF, CRLF or CR) and without a byte-order mark; blank lines are left out."""
    with path.open("rb") as file:
        rest = file.read(_BLOCK).removeprefix(_BOM)
        while rest:
            block = file.read(_BLOCK)
            *lines, rest = rest.replace(b"\r", b"\n").split(b"\n")
            if not block:
                lines, rest = [*lines, rest], b""
            for line in lines:
                yield from _pieces(line)
            while len(rest) > LONGEST_LINE:
                yield from _pieces(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            rest += block


def digest_of(path: Path) -> bytes:
    """SM3 over the SM3 of each block of 1 MiB: what tells two files apart (32 bytes)."""
    digests = bytearray()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digests += sm3(block)
    return sm3(bytes(digests))


def text_of(line: bytes) -> tuple[str, bool]:
    """The line as text, and whether it is all of it text: in UTF-8, else in GB18030, else with its strange bytes spelt
    out.

    Each line stands for itself: a damaged one changes neither how its neighbours read, nor do they change how it reads
    when the file comes in pieces. For taps that is exact: the type of a tap in GB18030 begins its cell with a byte (B0
    or B5) at which no character of UTF-8 begins, and the type in UTF-8 is none when read as GB18030.
    """
    for encoding in ENCODINGS:
        try:
            return line.decode(encoding), True
        except UnicodeDecodeError:
            continue
    return line.decode(errors="backslashreplace"), False


def _pieces(line: bytes) -> Iterator[bytes]:
    pieces = (line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE))
    return (piece for piece in pieces if piece.strip())
