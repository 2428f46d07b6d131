"""The upkeep of issued chips at a counter: protected files, locks, PINs, and the proof of an allowance (docs/card.md,
"Secure messaging").

A chip in the field is kept in order for as long as its keys are believed: also when they go into no new chip, and
whatever the sunset of its suite, so that it can still be blocked. Every answer is in the audit before it leaves.
"""

import asyncio
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4

from cardcore.apdu import CommandApdu
from cardcore.authority import (
    BlockAct,
    BlockRequest,
    CardIdentity,
    OverdraftProof,
    OverdraftRequest,
    PinReloadRequest,
    PinUnblockRequest,
    ProtectedAnswer,
    ProtectRequest,
)
from cardcore.cryptogram import folds_tac_key, overdraft_tac_input
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from cardcore.secure_messaging import MAC_BYTES, enciphered_field, initial_vector, mac_input, read_field
from keys.engine.root import RootKey, card_key, of_purpose
from keys.engine.suites import SuiteKey
from keys.governed import Book
from keys.guarded import Guarded
from keys.personaliser import Identity, subject
from keys.purposes import VERIFYING, KeyId, KeyPurpose

PURPOSES = frozenset({KeyPurpose.MAINTENANCE, KeyPurpose.PIN_UNBLOCK, KeyPurpose.PIN_RELOAD, KeyPurpose.TAC})
OVERDRAFT_TYPE = 0x07
# READ BINARY and READ RECORD; UPDATE BINARY, UPDATE RECORD and APPEND RECORD.
_READS = frozenset({0xB0, 0xB2})
_WRITES = frozenset({0xD6, 0xDC, 0xE2})
_PIN_UNBLOCK = (0x84, 0x24)
# A card's key as the cipher that its answers come in.
_CIPHERS: Mapping[Suite, Callable[[bytes], TripleDES | SM4]] = {
    Suite.TRIPLE_DES: lambda octets: TripleDES(octets + octets[:8]),
    Suite.SM4: SM4,
}


class CardUpkeep(Guarded):
    """Implements `cardcore.authority.UpkeepAuthority`. It MACs file commands, locks and PINs of one chip at a time, and
    can neither write keys nor move money.

    Every method raises FormatError for what no chip takes, and KeyUseError when the key is missing or suspended or the
    use cannot be written down; then the chip is as it was. A cancelled call may have left its row in the audit.
    """

    __slots__ = ("_book", "_psams", "_roots")

    def __init__(self, roots: Iterable[RootKey], book: Book, psams: frozenset[str] | None = frozenset()) -> None:
        """`psams` (12 hexadecimal digits each) may be protected besides those that two custodians have opened; None
        means any, which is for TEST stores."""
        self._roots = of_purpose(roots, PURPOSES, VERIFYING)
        self._book = book
        self._psams = psams

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    async def protect(self, request: ProtectRequest) -> bytes:
        """The file command under key 36, without Le. Raises RefusedError('two-persons') for a PSAM that nobody has
        opened."""
        return await asyncio.to_thread(self._protect, request)

    async def reveal(self, answer: ProtectedAnswer) -> bytes:
        """The content of a protected read, once its MAC is right; raises RefusedError('bad-mac')."""
        return await asyncio.to_thread(self._reveal, answer)

    async def block(self, request: BlockRequest) -> bytes:
        """MAC (4 bytes) of a lock: CARD BLOCK of application 0, the others of an application."""
        return await asyncio.to_thread(self._block, request)

    async def reload_pin(self, request: PinReloadRequest) -> bytes:
        """MAC (4 bytes) over the new PIN alone, under the halves of key 38 XORed (3DES) or the whole key (SM4)."""
        return await asyncio.to_thread(self._reload_pin, request)

    async def unblock_pin(self, request: PinUnblockRequest) -> bytes:
        """The whole PIN UNBLOCK: the new PIN enciphered, and the MAC, both under key 37."""
        return await asyncio.to_thread(self._unblock_pin, request)

    async def confirm_overdraft(self, proof: OverdraftProof) -> None:
        """Believe that the allowance of a card was changed as asked; raises RefusedError('bad-tac' | 'sunset')."""
        await asyncio.to_thread(self._confirm_overdraft, proof)

    def _protect(self, request: ProtectRequest) -> bytes:
        plain = _file_command(request.command)
        key = self._open(request.identity, KeyPurpose.MAINTENANCE, request.application)
        # A read sends nothing that could be enciphered, whatever file it reads.
        made = _secured(key, plain, request.challenge, enciphered=request.enciphered and bool(plain.data))
        self._told(request.identity, f"protect {request.command[:4].hex()}", key)
        return made

    def _reveal(self, answer: ProtectedAnswer) -> bytes:
        initial_vector(answer.challenge, answer.identity.suite)
        if not answer.body or len(answer.mac) != MAC_BYTES:
            raise FormatError(f"a protected answer has content and a MAC of {MAC_BYTES} bytes; nothing was read")
        key = self._open(answer.identity, KeyPurpose.MAINTENANCE, answer.application)
        if not hmac.compare_digest(key.key.secure_mac(answer.challenge, answer.body), answer.mac):
            self._told(answer.identity, "bad-mac of a protected read", key, "upkeep refused")
            raise RefusedError(
                "bad-mac",
                f"the MAC of what {subject(answer.identity)} answered is wrong; nothing of it is believed, read again",
            )
        content = key.deciphered(answer.body) if answer.enciphered else answer.body
        self._told(answer.identity, "reveal a protected read", key)
        return content

    def _block(self, request: BlockRequest) -> bytes:
        if (request.act is BlockAct.CARD_BLOCK) != (request.application == 0):
            raise FormatError("the whole card is blocked in the MF (application 0), an application in itself")
        key = self._open(request.identity, KeyPurpose.MAINTENANCE, request.application)
        made = _secured(key, CommandApdu.decode(bytes.fromhex(request.act.value)), request.challenge)
        self._told(request.identity, request.act.name.lower().replace("_", " "), key)
        return made[-MAC_BYTES:]

    def _reload_pin(self, request: PinReloadRequest) -> bytes:
        _check_pin(request.pin)
        key = self._open(request.identity, KeyPurpose.PIN_RELOAD, request.application)
        made = key.folded_mac(request.pin)
        self._told(request.identity, "reload a PIN", key)
        return made

    def _unblock_pin(self, request: PinUnblockRequest) -> bytes:
        plain = CommandApdu.decode(request.command)
        if (plain.cla, plain.ins) != _PIN_UNBLOCK or (plain.p1 and plain.p2) or plain.le is not None:
            raise FormatError("PIN UNBLOCK is 84 24, the PIN's id in P1 or P2, and the new PIN; nothing was made")
        _check_pin(plain.data)
        key = self._open(request.identity, KeyPurpose.PIN_UNBLOCK, request.application)
        made = _secured(key, plain, request.challenge, enciphered=True)
        self._told(request.identity, "unblock a PIN", key)
        return made

    def _confirm_overdraft(self, proof: OverdraftProof) -> None:
        asked = proof.request
        covered = _overdraft_covered(proof)
        keys = self._tac_keys(asked)
        key = keys[0]
        if not self._book.verifying({(0, 0, 0): self._roots[key.id]}):
            self._told(asked.identity, "sunset of a proof", key, "upkeep refused")
            raise RefusedError("sunset", f"{key.id} is of a suite that is verified no more; nothing was confirmed")
        folded = folds_tac_key(asked.key_suite, OVERDRAFT_TYPE, proof.tac_key)
        for one in keys:
            tac = one.folded_mac(covered) if folded else one.key.secure_mac(b"", covered)
            if good := hmac.compare_digest(tac, proof.tac):
                key = one
                break
        use = f"allowance {asked.old_limit_fen} to {asked.limit_fen} fen counter {asked.counter}"
        if not good:
            self._told(asked.identity, f"bad-tac, {use}", key, "upkeep refused")
            raise RefusedError(
                "bad-tac",
                f"the TAC of card {asked.identity.card.hex()} is wrong: its allowance may be the old or the new one; "
                "ask the card for its proof of the change",
            )
        self._told(asked.identity, f"confirm {use}", key)

    def _tac_keys(self, asked: OverdraftRequest) -> list["_Key"]:
        """A card's TAC key in every version that is believed, the newest first: a card tells the version of its
        overdraft key, and not of this one."""
        name = KeyId(asked.key_suite, KeyPurpose.TAC, str(asked.purse)).name
        believed = [id for id, root in self._roots.items() if id.name == name and self._believes(root)]
        versions = sorted((id.version for id in believed), reverse=True) or [1]
        return [self._open(asked.identity, KeyPurpose.TAC, asked.purse, asked.key_suite, one) for one in versions]

    def _believes(self, root: RootKey) -> bool:
        return self._book.register.state_of(root) in VERIFYING

    def _open(
        self, identity: Identity, purpose: KeyPurpose, application: int, suite: Suite | None = None, version: int = 1
    ) -> "_Key":
        """A chip's key. Keys 36 to 38 have no version but 01 and are of the chip's suite; a TAC key is of its own."""
        id = KeyId(identity.suite if suite is None else suite, purpose, str(application), version)
        root = self._roots.get(id)
        if root is None or not self._believes(root):
            raise KeyUseError(f"the store holds no usable key {id}; nothing was made, ask its custodians")
        if isinstance(identity, CardIdentity):
            return _Key(id, card_key(root, identity.issuer, identity.card))
        if application or len(identity.terminal_number) != 6:
            raise FormatError("a PSAM has a terminal number of 6 bytes, and one application, 0; nothing was made")
        self._check_opened(identity.terminal_number.hex())
        return _Key(id, root.psam(identity.terminal_number))

    def _check_opened(self, number: str) -> None:
        """With its line key a PSAM's terminal number can be rewritten: two persons, as for its issuing."""
        if self._psams is None or number in self._psams:
            return
        until = self._book.register.psams().get(number)
        if until is None or self._book.state.clock.now() > until:
            raise RefusedError(
                "two-persons",
                f"no two custodians have opened PSAM {number}; nothing was made, let them do so "
                "(onecard keys issue-psams)",
            )

    def _told(self, identity: Identity, use: str, key: "_Key", act: str = "upkeep") -> None:
        self._book.state.record([(act, subject(identity), f"{use}; key {key.id}")])


@dataclass(frozen=True, slots=True)
class _Key:
    """A chip's key at hand, and the name of the root that it comes from."""

    id: KeyId
    key: SuiteKey

    def folded_mac(self, message: bytes) -> bytes:
        """4 bytes by the halves of the key XORed (3DES) or the whole key (SM4), IV 0, as a TAC is made."""
        keys, messages = (np.frombuffer(octets, np.uint8)[None] for octets in (self.key.reveal(), message))
        return self.key.tac_macs(keys, np.zeros(1, np.intp), messages).tobytes()

    def deciphered(self, field: bytes) -> bytes:
        """The content of an enciphered field; raises FormatError when the card cannot have written it."""
        if len(field) % self.key.block:
            raise FormatError(f"{len(field)} bytes are no enciphered field of whole blocks; nothing was read")
        cipher = Cipher(_CIPHERS[self.key.suite](self.key.reveal()), modes.ECB())  # noqa: S305 - the card's own mode
        return read_field(cipher.decryptor().update(field), self.key.suite)


def _secured(key: _Key, plain: CommandApdu, challenge: bytes, *, enciphered: bool = False) -> bytes:
    """The whole command under secure messaging."""
    initial_vector(challenge, key.key.suite)
    body = key.key.encrypt(enciphered_field(plain.data, key.key.suite)) if enciphered else plain.data
    covered = mac_input(plain, body)
    return covered + key.key.secure_mac(challenge, covered)


def _file_command(command: bytes) -> CommandApdu:
    """A plain file command; raises FormatError when it is none, KeyUseError when it is another command."""
    plain = CommandApdu.decode(command)
    if plain.cla not in (0x00, 0x04) or plain.ins not in _READS | _WRITES:
        raise KeyUseError(
            f"upkeep protects no command {plain.cla:02X} {plain.ins:02X}, only reads and writes of files; "
            "nothing was made"
        )
    if bool(plain.data) != (plain.ins in _WRITES):
        raise FormatError("a write has data, and a read has none; nothing was made")
    return plain


def _check_pin(pin: bytes) -> None:
    # The digits themselves stay out of every message.
    if not 2 <= len(pin) <= 6 or not pin.hex().isdecimal():
        raise FormatError("a PIN has 4 to 12 decimal digits, two in a byte; nothing was made")


def _overdraft_covered(proof: OverdraftProof) -> bytes:
    """What the card's TAC covers; raises FormatError for what no card can have answered."""
    asked = proof.request
    after_fen = asked.raw_balance_fen + asked.limit_fen - asked.old_limit_fen
    widths = [len(part) for part in (asked.terminal_number, asked.date, asked.time, proof.tac)]
    held = 0 <= after_fen < 2**32 and 0 <= asked.counter < 2**16 and 0 <= asked.limit_fen < 2**24
    if widths != [6, 4, 3, 4] or not held:
        raise FormatError("the proof of an allowance has a sum, counter or width that no card has; ask the card again")
    return overdraft_tac_input(after_fen, asked.counter, asked.limit_fen, asked.terminal_number, asked.date, asked.time)
