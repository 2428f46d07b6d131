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
    """Raw lines without their ends (LF, CRLF or CR) and without a byte-order mark; empty lines are left out."""
    with path.open("rb") as file:
        first = True
        while line := file.readline(LONGEST_LINE):
            if first:
                line, first = line.removeprefix(_BOM), False
            for part in line.rstrip(b"\r\n").split(b"\r"):
                if part.strip():
                    yield part


def digest_of(path: Path) -> bytes:
    """SM3 over the SM3 of each block of 1 MiB: what tells two files apart (32 bytes)."""
    digests = bytearray()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digests += sm3(block)
    return sm3(bytes(digests))


def encoding_of(path: Path) -> str:
    """The encoding that reads more lines of the file; UTF-8 when both do as well."""
    failures = dict.fromkeys(ENCODINGS, 0)
    for line in lines_of(path):
        if _decode(line, ENCODINGS[0]) is None:
            failures[ENCODINGS[0]] += 1
            failures[ENCODINGS[1]] += _decode(line, ENCODINGS[1]) is None
    return min(ENCODINGS, key=failures.__getitem__)


def text_of(line: bytes, preferred: str) -> str:
    """The line as text: in the preferred encoding, else in the other, else with its strange bytes spelt out."""
    text = _decode(line, preferred)
    if text is None:
        other = ENCODINGS[preferred == ENCODINGS[0]]
        text = _decode(line, other)
    return line.decode(preferred, errors="backslashreplace") if text is None else text


def _decode(line: bytes, encoding: str) -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None
