"""Targets of key blocks: the store's own sealed blocks, and TR-31 blocks of other parties.

A mutated block fails at its mark and shows nothing of what lies behind. So each has a second target, whose input is the
text inside, put under a right mark.
"""

from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite
from keys.engine.block import Sealer
from keys.engine.root import RootKey
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.tr31 import ProtectionKey, Version, unwrap, wrap
from tests.fuzz.draw import Draw
from tests.fuzz.target import Target

_SEALER = Sealer(bytes(range(16)))
_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
_ROOTS = [RootKey(KeyId(suite, KeyPurpose.TAC, "1", 3), _KEY, KeyState.ACTIVE, test=True) for suite in Suite]
_UNDER = {version: ProtectionKey(version, [bytes(range(16)).hex(), "5A" * 16]) for version in Version}
_ID = KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1", 3)


def read_sealed(raw: bytes) -> None:
    with suppress(KeyUseError):
        assert _same(_SEALER.open(raw)), "a block that was never sealed was opened"


def _same(root: RootKey) -> bool:
    return root.undiversified().reveal() == _KEY


@dataclass(frozen=True)
class _Claim:
    """What a store of another version may once have sealed: any words where a name, a version and a state stand."""

    id: SimpleNamespace
    state: str
    test: bool

    def undiversified(self) -> SimpleNamespace:
        return SimpleNamespace(reveal=lambda: _KEY)


def read_sealed_inside(raw: bytes) -> None:
    words = raw.decode("latin-1").split("\n")
    name, version, state = (words + [""] * 3)[:3]
    claim = _Claim(SimpleNamespace(name=name, version=version), state, test=len(words) > 3)
    with suppress(KeyUseError):
        root = _SEALER.open(_SEALER.seal(cast(RootKey, claim)))
        assert root.id.name == name and root.state == state and _same(root)


def read_tr31(raw: bytes) -> None:
    text = raw.decode("latin-1")
    for under in _UNDER.values():
        with suppress(FormatError, KeyUseError):
            assert _same(unwrap(text, under, _ID)), "a block that nobody made was opened"


def read_tr31_inside(raw: bytes) -> None:
    """A version, eleven characters of attributes, optional blocks, and the key with its length."""
    draw = Draw(raw)
    under = _UNDER[draw.choice(list(Version))]
    plain = draw.octets(32)
    attributes = draw.rest().decode("latin-1")
    length = 5 + len(attributes) + 2 * (len(plain) + under._block)
    block = under._seal(f"{under.version}{length % 10_000:04d}{attributes}", plain) if attributes.isascii() else ""
    with suppress(FormatError, KeyUseError):
        root = unwrap(block, under, _ID)
        assert root.undiversified().reveal() == plain[2:18]
        with suppress(KeyUseError):
            assert unwrap(wrap(root, under), under, _ID).kcv == root.kcv


_PLAIN = (128).to_bytes(2, "big") + _KEY + bytes(14)

TARGETS = (
    Target("block", read_sealed, 200, seeds=tuple(map(_SEALER.seal, _ROOTS))),
    Target(
        "block-inside", read_sealed_inside, 120,
        seeds=(b"3des/TAC/1\n3\nactive", b"sm4/RECORD\n1\nverify-only\n"),
        words=(*(purpose.encode() for purpose in KeyPurpose), *(state.encode() for state in KeyState), b"|", b"3des/"),
    ),
    Target(
        "tr31", read_tr31, 300,
        seeds=(*(wrap(_ROOTS[0], under).encode() for under in _UNDER.values()),), words=(b"LB", b"PB", b"E0TX01N"),
    ),
    Target(
        "tr31-inside", read_tr31_inside, 200,
        seeds=(
            *(version + _PLAIN + b"E0TX03E0000" for version in (b"\0\0", b"\0\1")),
            b"\0\1" + _PLAIN + b"E0TX03E0200LB0E3des/TAC/1PB0400",
        ),
        words=(b"LB", b"PB", b"E0TX03E", b"E0TX03N", b"0100", b"00"),
    ),
)  # fmt: skip
