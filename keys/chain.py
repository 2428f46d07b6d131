"""What makes a key store's file refuse to be edited or put back: chained rows, a sealed head, an anchor beside it.

Each row of the audit carries SM3(the seal before ‖ the row), so that an auditor without any key can follow it. The
head names the last row and digests everything else that counts; it is marked under the store's key, so that nobody
without that key can make one that fits. The anchor is the head's number and seal once more, *outside* the file: an
older copy of the file, which is whole in itself, no longer fits it.
"""

import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cardcore.errors import KeyUseError
from keys.engine.block import Sealer
from keys.guarded import Guarded
from keys.proof import sm3

_SLOT_BYTES = 512
_SLOTS = 2
START = "0" * 64
TALLY_MODULUS = 2**128


class Chain(Guarded):
    """Makes and checks the marks of one store. Without a sealer (a store whose keys live in a token) a mark is a plain
    digest: it shows accidents, not forgers."""

    __slots__ = ("_sealer",)

    def __init__(self, sealer: Sealer | None = None) -> None:
        self._sealer = sealer

    @property
    def label(self) -> str:
        return "of a store's records" if self._sealer else "of a store's records, without a key"

    def mark(self, domain: str, *parts: object) -> str:
        """32 hexadecimal digits over a domain and what is said in it."""
        text = json.dumps([domain, *map(str, parts)]).encode()
        return (self._sealer.mark(text) if self._sealer else sm3(text)[:16]).hex()

    def holds(self, mark: str, domain: str, *parts: object) -> bool:
        """Whether a mark is that of these words; takes the same time whatever the mark."""
        return hmac.compare_digest(self.mark(domain, *parts).encode(), str(mark).encode())


def link(before: str, number: int, *texts: str) -> str:
    """Seal (64 hexadecimal digits) of a row of audit that follows the seal before it."""
    # In a damaged file a text may come back as bytes: then it is only another text.
    return sm3(json.dumps([before, number, *texts], default=repr).encode()).hex()


@dataclass(frozen=True, slots=True)
class Head:
    """Where a store stands: the number and seal of its last row of audit, the sum over its quota, the digest of its
    keys and rules."""

    number: int = 0
    seal: str = START
    tally: str = "0" * 32
    register: str = ""

    @property
    def parts(self) -> tuple[object, ...]:
        return self.number, self.seal, self.tally, self.register


@dataclass(frozen=True, slots=True)
class Anchor:
    """A file of two slots, written in turn after each commit: a cut in the middle of a write leaves the other slot.

    It may lag behind the store by what a power cut took, never run ahead of it.
    """

    path: Path

    def exists(self) -> bool:
        return self.path.is_file()

    def write(self, head: Head, chain: Chain) -> None:
        """Remember a head. Raises KeyUseError when that is not possible: what was asked for must not be answered."""
        line = f"{head.number} {head.seal} {chain.mark('anchor', head.number, head.seal)}\n".encode()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(handle, line.ljust(_SLOT_BYTES), head.number % _SLOTS * _SLOT_BYTES)
                os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise KeyUseError(
                f"the anchor {self.path} cannot be written ({error}): the use is in the audit but was not answered; "
                "make room or mount its disk, and ask again"
            ) from error

    def read(self, chain: Chain) -> Head:
        """The newest head that it remembers. Raises KeyUseError when there is none to be believed."""
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            raise KeyUseError(
                f"the anchor {self.path} of the store cannot be read ({error}), so that nobody can say whether the "
                "store is the newest one; nothing was opened, bring it back, or accept the store by two custodians "
                "(onecard keys accept-restored)"
            ) from error
        heads = [head for at in range(_SLOTS) if (head := _slot(raw[at * _SLOT_BYTES :][:_SLOT_BYTES], chain))]
        if not heads:
            raise KeyUseError(
                f"the anchor {self.path} is of another store or was changed; nothing was opened, bring the right one "
                "back, or accept the store by two custodians (onecard keys accept-restored)"
            )
        return max(heads, key=lambda head: head.number)


def _slot(raw: bytes, chain: Chain) -> Head | None:
    words = raw.decode("ascii", "replace").split()
    if len(words) != 3 or not words[0].isdecimal() or not chain.holds(words[2], "anchor", int(words[0]), words[1]):
        return None
    return Head(int(words[0]), words[1])
