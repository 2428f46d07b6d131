"""Whole exchanges between the product and the software card: load, purchase, unload, change of the allowance.

The card gets its keys from the product's personalisation, as a real one does. Then each side makes its own cryptograms:
the card refuses a wrong MAC of ours, and we compare every one of its own.
"""

import asyncio
import pickle
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from cardcore import cryptogram
from cardcore.apdu import ResponseApdu
from cardcore.card_map import KeyType
from cardcore.commands import (
    Command,
    CreditLoad,
    DebitPurchase,
    DebitUnload,
    InitLoad,
    InitPurchase,
    InitUnload,
    InitUpdate,
    Select,
    UpdateOverdraft,
    VerifyPin,
)
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from keys.ceremony import test_ceremony
from keys.engine.root import RootKey
from keys.engine.suites import suite_of
from keys.purposes import SUITE_LABELS, KeyId, KeyPurpose, required_roots
from keys.store import open_store
from tests import counter_side
from tests.oracles.purse import ride
from tests.oracles.strangers import Compared, Drawn
from tests.terminal_side import xor

# A card's counters end at FFFF and its balance at its four bytes: a new one is taken long before.
LIFE = 1_000
ORACLE = "software card"
_ROOTS = (
    (KeyPurpose.LOAD, "1"), (KeyPurpose.UNLOAD, "1"), (KeyPurpose.OVERDRAFT, "1"), (KeyPurpose.TAC, "1"),
    (KeyPurpose.PURCHASE, "transit"),
)  # fmt: skip
AnswerT = TypeVar("AnswerT")


class Counter:
    """The product's side of a counter: commands and answers of `cardcore`, keys of `keys`."""

    def __init__(self, suite: Suite, folder: Path, draw: random.Random) -> None:
        parts = {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()}
        with open_store(folder / "keys") as store:
            test_ceremony(store, parts)
            self.card = asyncio.run(counter_side.issued(store, folder, 1, suite))
        self.suite, self.profile = suite, load_profile("shared-purse").for_suite(suite)
        self.keys = {}
        for purpose, scope in _ROOTS:
            root = xor(*parts[f"{SUITE_LABELS[suite]}/{purpose}/{scope}"])
            card = RootKey(KeyId(suite, purpose, scope), root).card(counter_side.ISSUER, self.card.serial)
            self.keys[purpose] = card
        self.card.power_off()
        self._new = pickle.dumps(self.card)
        # TAC inputs, and what the card answered: made over lanes at the end.
        self.tacs: dict[str, list[tuple[bytes, bytes]]] = {}

    def tap(self, draw: random.Random) -> None:
        """A new card of the same keys, with other random numbers."""
        self.card = pickle.loads(self._new)  # noqa: S301 - our own
        self.card.rng = random.Random(draw.randrange(2**32))
        self.card.power_on()
        self.ask(Select(load_profile("shared-purse").application(1).aid))
        self.ask(VerifyPin(counter_side.PIN))

    def ask(self, command: Command[AnswerT]) -> AnswerT:
        """Raises CardError when the card refuses, as it does a wrong MAC."""
        return command.read(ResponseApdu.decode(self.card.transmit(command.apdu().encode())))

    def index(self, kind: KeyType, sector: Sector | None = None) -> int:
        return self.profile.key_index(1, kind, sector)

    def load(self, case: Drawn, fen: int) -> Iterator[Compared]:
        opened = self.ask(InitLoad(self.index(KeyType.LOAD), fen, case.terminal))
        session = self.keys[KeyPurpose.LOAD].load_session(opened.random, opened.counter)
        mac1 = session.mac4(cryptogram.load_mac1_input(opened.raw_balance_fen, fen, 2, case.terminal))
        yield Compared("load: MAC1 of the card", ORACLE, mac1, opened.mac1)
        mac2 = session.mac4(cryptogram.host_mac2_input(fen, 2, case.terminal, case.date, case.time))
        tac = self.ask(CreditLoad(case.date, case.time, mac2))
        after = opened.raw_balance_fen + fen
        covered = after.to_bytes(4, "big") + opened.counter.to_bytes(2, "big")
        covered += cryptogram.host_mac2_input(fen, 2, case.terminal, case.date, case.time)
        self._note("load: TAC of the card", covered, tac)

    def purchase(self, case: Drawn, fen: int) -> Iterator[Compared]:
        opened = self.ask(InitPurchase(self.index(KeyType.PURCHASE, Sector.TRANSIT), fen, case.terminal))
        key = self.keys[KeyPurpose.PURCHASE]
        session = key.purchase_session(opened.random, opened.counter, case.transaction)
        mac1 = session.mac4(cryptogram.host_mac2_input(fen, 6, case.terminal, case.date, case.time))
        receipt = self.ask(DebitPurchase(case.transaction, case.date, case.time, mac1))
        mac2 = session.mac4(cryptogram.purchase_mac2_input(fen))
        yield Compared("purchase: MAC2 of the card", ORACLE, mac2, receipt.mac2)
        case.fen, case.kind = fen, 6
        self._note("purchase: TAC of the card", cryptogram.purchase_tac_input(ride(self.suite, case)), receipt.tac)

    def unload(self, case: Drawn, fen: int) -> Iterator[Compared]:
        opened = self.ask(InitUnload(self.index(KeyType.UNLOAD), fen, case.terminal))
        session = self.keys[KeyPurpose.UNLOAD].load_session(opened.random, opened.counter)
        mac1 = session.mac4(cryptogram.load_mac1_input(opened.raw_balance_fen, fen, 3, case.terminal))
        yield Compared("unload: MAC1 of the card", ORACLE, mac1, opened.mac1)
        mac2 = session.mac4(cryptogram.host_mac2_input(fen, 3, case.terminal, case.date, case.time))
        mac3 = self.ask(DebitUnload(case.date, case.time, mac2))
        after, counter = opened.raw_balance_fen - fen, opened.counter
        covered = cryptogram.unload_mac3_input(after, counter, fen, case.terminal, case.date, case.time)
        yield Compared("unload: MAC3 of the card", ORACLE, session.mac4(covered), mac3)

    def allow(self, case: Drawn) -> Iterator[Compared]:
        opened = self.ask(InitUpdate(self.index(KeyType.OVERDRAFT), case.terminal))
        session = self.keys[KeyPurpose.OVERDRAFT].load_session(opened.random, opened.counter)
        covered = cryptogram.overdraft_mac1_input(opened.raw_balance_fen, opened.overdraft_fen, case.terminal)
        yield Compared("allowance: MAC1 of the card", ORACLE, session.mac4(covered), opened.mac1)
        limit = case.limit_fen
        mac2 = session.mac4(cryptogram.overdraft_mac2_input(limit, case.terminal, case.date, case.time))
        tac = self.ask(UpdateOverdraft(limit, case.date, case.time, mac2))
        after = opened.raw_balance_fen - opened.overdraft_fen + limit
        asked = cryptogram.overdraft_tac_input(after, opened.counter, limit, case.terminal, case.date, case.time)
        self._note("allowance: TAC of the card", asked, tac)

    def _note(self, row: str, covered: bytes, tac: bytes) -> None:
        self.tacs.setdefault(row, []).append((covered, tac))

    def judged(self) -> Iterator[Compared]:
        """The TACs so far, all of the one card."""
        key = np.frombuffer(self.keys[KeyPurpose.TAC].reveal(), np.uint8).reshape(1, 16)
        for row, noted in self.tacs.items():
            octets = np.frombuffer(b"".join(covered for covered, _ in noted), np.uint8).reshape(len(noted), -1)
            macs = suite_of(self.suite).tac_macs(key, np.zeros(len(noted), np.intp), octets)
            for mac, (_, tac) in zip(macs, noted, strict=True):
                yield Compared(row, ORACLE, mac.tobytes(), tac)


def exchanges(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """So many of each kind; what is unloaded or spent was loaded before."""
    with tempfile.TemporaryDirectory(prefix="exchanges-") as folder:
        counter = Counter(suite, Path(folder), draw)
    for place in range(cases):
        if place % LIFE == 0:
            counter.tap(draw)
        loaded = 2 + draw.randrange(10**6)
        spent = draw.randrange(1, loaded)
        yield from counter.load(Drawn(draw), loaded)
        yield from counter.purchase(Drawn(draw), spent)
        yield from counter.unload(Drawn(draw), draw.randrange(1, loaded - spent + 1))
        yield from counter.allow(Drawn(draw))
    yield from counter.judged()
