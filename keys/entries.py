"""The MACs of metro gates (docs/card.md, "Metro and transfer"): who mends a journey makes them, who doubts an entry
checks them."""

import asyncio
import hmac
from collections.abc import Iterable

from cardcore.authority import CardIdentity
from cardcore.card_files import MetroRecord, TransferRecord
from cardcore.cryptogram import composite_mac_input
from cardcore.errors import FormatError, KeyUseError
from keys.engine.root import RootKey, card_key, of_purpose
from keys.governed import Book
from keys.guarded import Guarded
from keys.personaliser import subject
from keys.purposes import AUTHORISING, SCOPES, VERIFYING, KeyPurpose


class EntryGuard(Guarded):
    """Makes and checks the MACs of the composite records that metro gates write, and nothing else: for a counter that
    mends a journey, and whoever has to say whether an entry was a gate's.

    Every method raises FormatError for a purse that no gate debits, and KeyUseError when the key is missing or
    suspended or the use cannot be written down. A cancelled call may have left its row in the audit.
    """

    __slots__ = ("_book", "_roots")

    def __init__(self, roots: Iterable[RootKey], book: Book) -> None:
        self._roots = of_purpose(roots, frozenset({KeyPurpose.ENTRY}), VERIFYING)
        self._book = book

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    async def guard(self, identity: CardIdentity, purse: int, record: MetroRecord | TransferRecord) -> bytes:
        """The 8 bytes that belong into a record with its counter, by the newest active version of the key."""
        return await asyncio.to_thread(self._guard, identity, purse, record)

    async def holds(self, identity: CardIdentity, purse: int, record: MetroRecord | TransferRecord) -> bool:
        """Whether the MAC in a record is that of this card, purse and record, by any version that is still believed.

        It says nothing about the time and the counter of the record (`cardcore.metro.judge_entry`)."""
        return await asyncio.to_thread(self._holds, identity, purse, record)

    def _guard(self, identity: CardIdentity, purse: int, record: MetroRecord | TransferRecord) -> bytes:
        covered = _entry_covered(identity, purse, record)
        active = [id for id, root in self._roots.items() if self._book.register.state_of(root) in AUTHORISING]
        if not active:
            raise KeyUseError("the store holds no active ENTRY key; nothing was made, ask its custodians")
        newest = max(active, key=lambda id: id.version)
        made = _entry_mac(self._roots[newest], identity, covered)
        self._book.state.record([("guard entry", subject(identity), f"counter {record.counter}; key {newest}")])
        return made

    def _holds(self, identity: CardIdentity, purse: int, record: MetroRecord | TransferRecord) -> bool:
        covered = _entry_covered(identity, purse, record)
        believed = [root for root in self._roots.values() if self._book.register.state_of(root) in VERIFYING]
        right = any(hmac.compare_digest(_entry_mac(root, identity, covered), record.mac) for root in believed)
        names = ", ".join(sorted(str(root.id) for root in believed)) or "none"
        verdict = f"{'genuine' if right else 'not'}, counter {record.counter}; keys {names}"
        self._book.state.record([("check entry", subject(identity), verdict)])
        return right


def _entry_covered(identity: CardIdentity, purse: int, record: MetroRecord | TransferRecord) -> bytes:
    if str(purse) not in SCOPES[KeyPurpose.TAC]:
        raise FormatError(f"application {purse} has no purse that a gate could debit; nothing was made")
    return composite_mac_input(identity.card, purse, record.encode())


def _entry_mac(root: RootKey, identity: CardIdentity, covered: bytes) -> bytes:
    # The engine has this MAC for acts: SM4-CBC, IV 0, pad80, first 8 bytes.
    return card_key(root, identity.issuer, identity.card).act_mac(covered)
