"""TR-31 key blocks (ANSI X9.143): how a root leaves for another party's module, and how theirs comes in.

Version D (AES protection key) carries every root; version B (TDES protection key) is kept for modules that know no
AES, and carries 3DES roots only, because a block must not be weaker than its key. A and C bind a header to its key by a
variant, which is withdrawn; they are refused. TR-31 knows no SM4: such a block has the algorithm `4` (numerals are
left to the parties), which onecard reads and no other module should.

A block's header is part of its MAC. The optional block LB names the root and its TEST mark, where onecard wrote it; a
label of another party's is information for people and decides nothing.
"""

import hmac
import os
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import reduce
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite
from keys.engine.root import RootKey
from keys.engine.suites import KEY_BYTES
from keys.engine.weakness import des_weakness, weakness
from keys.guarded import Guarded
from keys.purposes import KeyId, KeyPurpose, KeyState

__all__ = ["ProtectionKey", "Version", "component_value", "may_go_on", "unwrap", "wrap"]

# Usage and modes of use of our purposes. Roots derive (X) the keys of chips and do nothing else; the factory's
# transport key enciphers as it is. E0 application cryptograms, E1 and E2 secure messaging (confidentiality, integrity),
# E5 personalisation, E6 other, K0 key encipherment.
_USAGE: Final[Mapping[KeyPurpose, tuple[str, str]]] = {
    KeyPurpose.PURCHASE: ("E0", "X"),
    KeyPurpose.LOAD: ("E0", "X"),
    KeyPurpose.TAC: ("E0", "X"),
    KeyPurpose.UNLOAD: ("E0", "X"),
    KeyPurpose.OVERDRAFT: ("E0", "X"),
    KeyPurpose.ACT: ("E0", "X"),
    KeyPurpose.CONTROL: ("E5", "X"),
    KeyPurpose.MAINTENANCE: ("E2", "X"),
    KeyPurpose.PIN_UNBLOCK: ("E2", "X"),
    KeyPurpose.PIN_RELOAD: ("E1", "X"),
    KeyPurpose.RECORD: ("E6", "X"),
    KeyPurpose.ENTRY: ("E6", "X"),
    KeyPurpose.TRANSPORT: ("K0", "E"),
}
_ALGORITHM: Final = {Suite.TRIPLE_DES: "T", Suite.SM4: "4"}
_HEADER_BYTES = 16
# Length, key and padding up to a whole block beyond the longest TDES key: the length of a block says nothing.
_PLAIN_BYTES = 32
_BLOCK = re.compile(r"[BD][0-9]{4}[0-9A-Z]{11}[\x20-\x7e]*")
_HEX = re.compile(r"(?:[0-9A-F]{2})+")


class Version(StrEnum):
    """Versions of a key block that are spoken here, by the cipher of their protection key."""

    TDES = "B"
    AES = "D"


class ProtectionKey(Guarded):
    """A key block protection key, agreed with one other party and good for nothing but `wrap` and `unwrap`."""

    __slots__ = ("_enciphering", "_marking", "kcv", "version")

    def __init__(self, version: Version, components: Sequence[str]) -> None:
        """The XOR of two or more components in hexadecimal text, as their custodians type them.

        Raises FormatError on components of other lengths (TDES 16 or 24 bytes, AES 16, 24 or 32) and KeyUseError on a
        TDES key that is no stronger than single DES.
        """
        parts = [_component(version, component) for component in components]
        if len(parts) < 2 or len({len(part) for part in parts}) != 1:
            raise FormatError("a protection key comes from two or more components of one length; nothing was made")
        key = reduce(lambda one, other: bytes(a ^ b for a, b in zip(one, other, strict=True)), parts)
        if version is Version.TDES and (found := des_weakness(key)):
            raise KeyUseError(f"this protection key {found}; draw its components anew")
        self.version = version
        self.kcv = _check_value(version, key)
        self._enciphering, self._marking = (_derived(version, key, usage) for usage in (0, 1))

    @property
    def label(self) -> str:
        return f"of version {self.version} KCV {self.kcv.hex().upper()}"

    @property
    def _block(self) -> int:
        return _BLOCKS[self.version]

    def _seal(self, header: str, plain: bytes) -> str:
        mac = _cmac(self.version, self._marking, header.encode() + plain)
        cipher = Cipher(_cipher(self.version, self._enciphering), modes.CBC(mac)).encryptor().update(plain)
        return header + (cipher + mac).hex().upper()

    def _open(self, header: str, cipher: bytes, mac: bytes) -> bytes:
        plain = Cipher(_cipher(self.version, self._enciphering), modes.CBC(mac)).decryptor().update(cipher)
        if not hmac.compare_digest(_cmac(self.version, self._marking, header.encode() + plain), mac):
            raise KeyUseError(
                "the key block was changed, or made under another protection key; nothing was taken in, compare the "
                "protection keys' check values with its sender"
            )
        return plain


class _KeptRoot(RootKey):
    """A root whose block forbids handing it on."""

    __slots__ = ()


def component_value(version: Version, component: str) -> str:
    """Check value (6 digits) of one component, for whoever typed it. Raises FormatError, without showing it."""
    return _check_value(version, _component(version, component)).hex().upper()


def may_go_on(root: RootKey) -> bool:
    """Whether the party that a root came from lets it be handed on."""
    return not isinstance(root, _KeptRoot)


def wrap(root: RootKey, under: ProtectionKey, *, onward: bool = False) -> str:
    """The block of a root for the party that shares `under`; `onward` lets that party hand it on (E instead of N).

    Raises KeyUseError for a root that came in under N, one that lives in a token, and an SM4 root in version B.
    """
    if not may_go_on(root):
        raise KeyUseError(f"{root.id} came in as not exportable; nothing was made, ask its owner for a block")
    if root.id.suite is Suite.SM4 and under.version is Version.TDES:
        raise KeyUseError(f"{root.id} is stronger than a TDES protection key; use version D, nothing was made")
    usage, mode = _USAGE[root.id.purpose]
    label = _optional("LB", f"{root.id.name}{' TEST' if root.test else ''}")
    # Optional blocks fill whole cipher blocks; the filling has a block's own head of four.
    missing = -len(label) % under._block
    filling = _optional("PB", "0" * ((missing - 4) % under._block)) if missing else ""
    optional = label + filling
    plain = (KEY_BYTES * 8).to_bytes(2, "big") + root.undiversified().reveal()
    length = _HEADER_BYTES + len(optional) + 2 * (_PLAIN_BYTES + under._block)
    attributes = f"{usage}{_ALGORITHM[root.id.suite]}{mode}{root.id.version:02X}{'E' if onward else 'N'}"
    header = f"{under.version}{length:04d}{attributes}{2 if filling else 1:02d}00{optional}"
    return under._seal(header, plain + os.urandom(_PLAIN_BYTES - len(plain)))


def unwrap(
    block: str, under: ProtectionKey, id: KeyId, *, test: bool = False, state: KeyState = KeyState.PRE_ACTIVE
) -> RootKey:
    """The root of a block, as the key `id` that its custodian says it is; a store takes it by `admit`.

    Usage, mode of use, algorithm and version must be those of `id`; so must a label that names one of our keys. A block
    that carries the TEST mark makes a TEST key whatever `test` says. Raises FormatError on a text that is no block, and
    KeyUseError on a changed one, on a wrong protection key, and on attributes that do not fit.
    """
    header, labels, cipher, mac = _parsed(block, under)
    plain = under._open(header, cipher, mac)
    _check_attributes(header, id)
    name, mark = _labelled(labels.get("LB", ""))
    if name not in ("", id.name):
        raise KeyUseError(f"the block holds {name!r}, which is not {id.name}; nothing was taken in")
    octets = plain[2 : 2 + KEY_BYTES]
    if int.from_bytes(plain[:2], "big") != KEY_BYTES * 8 or len(octets) != KEY_BYTES:
        raise KeyUseError(f"the block holds no key of {KEY_BYTES} bytes; nothing was taken in")
    if found := weakness(octets, id.suite, test=test or mark == "TEST"):
        raise KeyUseError(f"{id} in the block {found}; nothing was taken in")
    made = RootKey if header[11] == "E" else _KeptRoot
    return made(id, octets, state, test or mark == "TEST")


def _labelled(label: str) -> tuple[str, str]:
    """The name of our own key in a label, and its mark; nothing of a label that another party wrote."""
    name, _, mark = label.partition(" ")
    try:
        return (KeyId.parse(name).name, mark) if mark in ("", "TEST") else ("", "")
    except FormatError:
        return "", ""


def _sized(block: str, at: int) -> tuple[int, int]:
    """Length of the optional block at a place, and of its head; 00 announces the number of bytes that the length has.

    Raises FormatError where there is none, or one that does not even hold its own head.
    """
    size, head = block[at + 2 : at + 4], 4
    if size == "00":
        count = block[at + 4 : at + 6]
        head = 6 + 2 * int(count, 16) if _HEX.fullmatch(count) else 0
        size = block[at + 6 : at + head]
    length = int(size, 16) if _HEX.fullmatch(size) else 0
    if len(size) % 2 or not 4 <= head <= length <= len(block) - at:
        raise FormatError("an optional block of the key block is malformed; nothing was taken in")
    return length, head


def _parsed(block: str, under: ProtectionKey) -> tuple[str, dict[str, str], bytes, bytes]:
    """Header with its optional blocks, those by name, ciphertext and MAC."""
    if not _BLOCK.fullmatch(block) or int(block[1:5]) != len(block) or not block[12:14].isdigit():
        raise FormatError(
            "this is no TR-31 key block of version B or D, or a part of one; nothing was taken in, ask for it again"
        )
    if block[0] != under.version:
        raise KeyUseError(
            f"the block is of version {block[0]} and the protection key of version {under.version}; nothing was "
            "taken in, use the key that was agreed for it"
        )
    end, optional = _HEADER_BYTES, {}
    for _ in range(int(block[12:14])):
        name, (length, head) = block[end : end + 2], _sized(block, end)
        if name in optional:
            raise FormatError(f"the key block has two optional blocks {name}; nothing was taken in")
        optional[name] = block[end + head : end + length]
        end += length
    body = block[end:]
    if not _HEX.fullmatch(body) or len(body) % (2 * under._block) or len(body) < 2 * (under._block + KEY_BYTES):
        raise FormatError("the key in the key block is no whole number of hexadecimal blocks; nothing was taken in")
    octets = bytes.fromhex(body)
    return block[:end], optional, octets[: -under._block], octets[-under._block :]


def _check_attributes(header: str, id: KeyId) -> None:
    """The header of an authentic block must say what the key is to be used for here, and nothing more."""
    usage, algorithm, mode, version, exportability = header[5:7], header[7], header[8], header[9:11], header[11]
    wanted = {
        "usage": (usage, {_USAGE[id.purpose][0]}),
        "algorithm": (algorithm, {_ALGORITHM[id.suite]}),
        "mode of use": (mode, {_USAGE[id.purpose][1]}),
        # 00 is a key without a version of its own.
        "key version": (version, {"00", f"{id.version:02X}"}),
        # S allows weaker ways of handing on than a key block: it is kept as N, which allows none.
        "exportability": (exportability, {"E", "N", "S"}),
        "reserved field": (header[14:16], {"00"}),
    }
    for name, (found, allowed) in wanted.items():
        if found not in allowed:
            raise KeyUseError(
                f"the block's {name} is {found!r}, and {id} has {' or '.join(sorted(allowed))}; nothing was taken in, "
                "ask its sender for the right attributes"
            )


def _optional(name: str, content: str) -> str:
    return f"{name}{len(content) + 4:02X}{content}"


_BLOCKS: Final = {Version.TDES: 8, Version.AES: 16}
_LENGTHS: Final = {Version.TDES: (16, 24), Version.AES: (16, 24, 32)}
# What stands for the derived key's algorithm in its derivation, by version and length in bytes.
_DERIVATION: Final = {
    (Version.TDES, 16): 0,
    (Version.TDES, 24): 1,
    (Version.AES, 16): 2,
    (Version.AES, 24): 3,
    (Version.AES, 32): 4,
}


def _component(version: Version, text: str) -> bytes:
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) not in _LENGTHS[version]:
        raise FormatError(
            f"a component of a protection key of version {version} is hexadecimal text of one of {_LENGTHS[version]} "
            "bytes; nothing was made"
        )
    return octets


def _cipher(version: Version, key: bytes) -> TripleDES | AES:
    return TripleDES((key + key[:8])[:24]) if version is Version.TDES else AES(key)


def _cmac(version: Version, key: bytes, message: bytes) -> bytes:
    mac = CMAC(_cipher(version, key))
    mac.update(message)
    return mac.finalize()


def _derived(version: Version, key: bytes, usage: int) -> bytes:
    """Key for encipherment (0) or marks (1): CMAC in counter mode over counter ‖ usage ‖ 00 ‖ algorithm ‖ bits."""
    tail = b"".join(number.to_bytes(2, "big") for number in (usage, _DERIVATION[version, len(key)], len(key) * 8))
    text = tail[:2] + b"\0" + tail[2:]
    rounds = range(1, -(-len(key) // _BLOCKS[version]) + 1)
    return b"".join(_cmac(version, key, bytes((counter,)) + text) for counter in rounds)[: len(key)]


def _check_value(version: Version, key: bytes) -> bytes:
    """First 3 bytes: for TDES of the encipherment of zeros, for AES of the CMAC over a block of them."""
    if version is Version.AES:
        return _cmac(version, key, bytes(16))[:3]
    return Cipher(_cipher(version, key), modes.ECB()).encryptor().update(bytes(8))[:3]  # noqa: S305 - one block
