"""The keeper of issued PSAMs: sets how much one may still sign for, once its owner has seen its records (docs/card.md,
"The PSAM"). Whether he has seen them is asked elsewhere (`clearing.desk.ceilings`)."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from cardcore.authority import PsamIdentity
from cardcore.commands import ExternalAuthenticate, SetCeilings
from cardcore.errors import FormatError, KeyUseError
from cardcore.secure_messaging import mac_input
from keys.engine.root import RootKey, of_purpose
from keys.engine.suites import SuiteKey
from keys.governed import Book
from keys.guarded import Guarded
from keys.personaliser import subject
from keys.purposes import VERIFYING, KeyId, KeyPurpose

PURPOSES = frozenset({KeyPurpose.CONTROL, KeyPurpose.MAINTENANCE})
# Eight: with four, answers to some ten thousand challenges would be worth keeping for the one that comes again.
CHALLENGE_BYTES = 8
_MOST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How many purchases, and fen in all, a PSAM may open. Raises FormatError for 0, which a PSAM takes for no ceiling,
    and for what 4 bytes do not hold."""

    count: int
    amount_fen: int

    def __post_init__(self) -> None:
        if not (1 <= self.count <= _MOST and 1 <= self.amount_fen <= _MOST):
            raise FormatError("ceilings are 1 to 2^32 - 1, and 0 would be none at all; nothing was made")


class PsamKeeper(Guarded):
    """Makes the two commands that set the ceilings of an issued PSAM, and nothing else: it cannot take a ceiling away,
    and neither write keys and files nor sign for a debit.

    Both methods raise FormatError for what no PSAM asks, and KeyUseError when the key is missing or suspended or the
    use cannot be written down; the PSAM is as it was. A cancelled call may have left its row in the audit. What they
    answer serves one challenge of one PSAM, so it may travel by any way.
    """

    __slots__ = ("_book", "_roots")

    def __init__(self, roots: Iterable[RootKey], book: Book) -> None:
        self._roots = of_purpose(roots, PURPOSES, VERIFYING)
        self._book = book

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    async def prove(self, psam: PsamIdentity, challenge: bytes) -> bytes:
        """The whole EXTERNAL AUTHENTICATE with 39.00 for the PSAM's challenge (8 bytes)."""
        return await asyncio.to_thread(self._prove, psam, challenge)

    async def set_ceilings(self, psam: PsamIdentity, ceilings: Ceilings, challenge: bytes) -> bytes:
        """The whole SET CEILINGS with its MAC by 36.00 for the PSAM's challenge (8 bytes)."""
        return await asyncio.to_thread(self._set_ceilings, psam, ceilings, challenge)

    def _prove(self, psam: PsamIdentity, challenge: bytes) -> bytes:
        id, key = self._open(psam, KeyPurpose.CONTROL, challenge)
        made = ExternalAuthenticate(key.authentication(challenge)).apdu().encode()
        self._book.state.record([("keep", subject(psam), f"prove the control key; key {id}")])
        return made

    def _set_ceilings(self, psam: PsamIdentity, ceilings: Ceilings, challenge: bytes) -> bytes:
        id, key = self._open(psam, KeyPurpose.MAINTENANCE, challenge)
        covered = mac_input(SetCeilings(ceilings.count, ceilings.amount_fen).apdu())
        made = covered + key.secure_mac(challenge, covered)
        said = f"ceilings {ceilings.count} purchases, {ceilings.amount_fen} fen; key {id}"
        self._book.state.record([("keep", subject(psam), said)])
        return made

    def _open(self, psam: PsamIdentity, purpose: KeyPurpose, challenge: bytes) -> tuple[KeyId, SuiteKey]:
        if len(psam.terminal_number) != 6 or len(challenge) != CHALLENGE_BYTES:
            raise FormatError(
                f"a PSAM has a terminal number of 6 bytes, its challenge here {CHALLENGE_BYTES}; nothing was made"
            )
        id = KeyId(psam.suite, purpose, "0")
        root = self._roots.get(id)
        if root is None or self._book.register.state_of(root) not in VERIFYING:
            raise KeyUseError(f"the store holds no usable key {id}; nothing was made, ask its custodians")
        return id, root.psam(psam.terminal_number)
