"""The purse: balance, load, purchase, unload, allowance, proof (PBOC electronic purse, JR/T 0025; docs/card.md).

Amounts are fen, 4 bytes; balances are raw, the overdraft allowance included.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, Silent, exactly, number, writable

PURSE = 0x02


class TransactionType(IntEnum):
    """Type byte of the cryptograms of an electronic purse."""

    LOAD = 0x02
    UNLOAD = 0x03
    PURCHASE = 0x06
    OVERDRAFT = 0x07
    COMPOSITE = 0x09


@dataclass(frozen=True, slots=True)
class LoadInitialisation:
    """Answer of INITIALIZE FOR LOAD and FOR UNLOAD; `counter` is the online counter."""

    raw_balance_fen: int
    counter: int
    key_version: int
    algorithm: int
    random: bytes
    mac1: bytes


@dataclass(frozen=True, slots=True)
class PurchaseInitialisation:
    """Answer of INITIALIZE FOR PURCHASE, simple or composite; `counter` is the offline counter."""

    raw_balance_fen: int
    counter: int
    overdraft_fen: int
    key_version: int
    algorithm: int
    random: bytes

    @property
    def value_fen(self) -> int:
        """What belongs to the holder: negative while the allowance is in use."""
        return self.raw_balance_fen - self.overdraft_fen


@dataclass(frozen=True, slots=True)
class UpdateInitialisation:
    """Answer of INITIALIZE FOR UPDATE (of the allowance); `counter` is the online counter."""

    raw_balance_fen: int
    counter: int
    overdraft_fen: int
    key_version: int
    algorithm: int
    random: bytes
    mac1: bytes


@dataclass(frozen=True, slots=True)
class DebitReceipt:
    """Answer of DEBIT FOR PURCHASE: the TAC for clearing, MAC2 for the PSAM, 4 bytes each."""

    tac: bytes
    mac2: bytes


@dataclass(frozen=True, slots=True)
class TransactionProof:
    """What the card still knows of its last committed transaction: MAC and TAC, 4 bytes each."""

    mac: bytes
    tac: bytes


@dataclass(frozen=True, slots=True)
class GetBalance(Command[int]):
    """GET BALANCE: the raw balance in fen."""

    name: ClassVar[str] = "GET BALANCE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x5C, 0x00, PURSE, le=4)

    def parse(self, answer: bytes) -> int:
        # Some cards set the top bit; no balance of ours reaches it.
        return int.from_bytes(exactly(answer, 4), "big") & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class GetTransactionProof(Command[TransactionProof]):
    """GET TRANSACTION PROOF for the type and the counter that INITIALIZE answered; 9406 when the card has none."""

    transaction_type: int
    counter: int
    name: ClassVar[str] = "GET TRANSACTION PROOF"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x5A, 0x00, self.transaction_type, number(self.counter, 2, "counter"), 8)

    def parse(self, answer: bytes) -> TransactionProof:
        exactly(answer, 8)
        return TransactionProof(answer[:4], answer[4:])


@dataclass(frozen=True, slots=True)
class InitLoad(Command[LoadInitialisation]):
    """INITIALIZE FOR LOAD; `terminal_number` 6 bytes."""

    key_index: int
    amount_fen: int
    terminal_number: bytes
    name: ClassVar[str] = "INITIALIZE FOR LOAD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x50, 0x00, PURSE, _opening(self.key_index, self.amount_fen, self.terminal_number), 16)

    def parse(self, answer: bytes) -> LoadInitialisation:
        return _load_initialisation(answer)


@dataclass(frozen=True, slots=True)
class CreditLoad(Command[bytes]):
    """CREDIT FOR LOAD with the host's date, time (BCD) and MAC2; answers the TAC (4 bytes)."""

    date: bytes
    time: bytes
    mac2: bytes
    name: ClassVar[str] = "CREDIT FOR LOAD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x52, 0x00, 0x00, _granted(self.date, self.time, self.mac2), 4)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, 4)


@dataclass(frozen=True, slots=True)
class InitPurchase(Command[PurchaseInitialisation]):
    """INITIALIZE FOR PURCHASE (type 06)."""

    key_index: int
    amount_fen: int
    terminal_number: bytes
    name: ClassVar[str] = "INITIALIZE FOR PURCHASE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x50, 0x01, PURSE, _opening(self.key_index, self.amount_fen, self.terminal_number), 15)

    def parse(self, answer: bytes) -> PurchaseInitialisation:
        return _purchase_initialisation(answer)


@dataclass(frozen=True, slots=True)
class InitComposite(Command[PurchaseInitialisation]):
    """INITIALIZE FOR COMPOSITE PURCHASE (CAPP, type 09); 0 fen for an entry."""

    key_index: int
    amount_fen: int
    terminal_number: bytes
    name: ClassVar[str] = "INITIALIZE FOR COMPOSITE PURCHASE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x50, 0x03, PURSE, _opening(self.key_index, self.amount_fen, self.terminal_number), 15)

    def parse(self, answer: bytes) -> PurchaseInitialisation:
        return _purchase_initialisation(answer)


@dataclass(frozen=True, slots=True)
class UpdateComposite(Silent):
    """UPDATE COMPOSITE CACHE: a record that changes together with the debit, by identifier (0: newest of a cyclic)."""

    sfi: int
    identifier: int
    content: bytes
    name: ClassVar[str] = "UPDATE COMPOSITE CACHE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0xDC, self.identifier, self.sfi << 3, writable(self.content))


@dataclass(frozen=True, slots=True)
class DebitPurchase(Command[DebitReceipt]):
    """DEBIT FOR PURCHASE, simple or composite, with the PSAM's transaction number and MAC1."""

    terminal_transaction: int
    date: bytes
    time: bytes
    mac1: bytes
    name: ClassVar[str] = "DEBIT FOR PURCHASE"

    def apdu(self) -> CommandApdu:
        transaction = number(self.terminal_transaction, 4, "terminal transaction")
        return CommandApdu(0x80, 0x54, 0x01, 0x00, transaction + _granted(self.date, self.time, self.mac1), 8)

    def parse(self, answer: bytes) -> DebitReceipt:
        exactly(answer, 8)
        return DebitReceipt(answer[:4], answer[4:])


@dataclass(frozen=True, slots=True)
class InitUnload(Command[LoadInitialisation]):
    """INITIALIZE FOR UNLOAD (type 03): the holder's value goes back."""

    key_index: int
    amount_fen: int
    terminal_number: bytes
    name: ClassVar[str] = "INITIALIZE FOR UNLOAD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x50, 0x05, PURSE, _opening(self.key_index, self.amount_fen, self.terminal_number), 16)

    def parse(self, answer: bytes) -> LoadInitialisation:
        return _load_initialisation(answer)


@dataclass(frozen=True, slots=True)
class DebitUnload(Command[bytes]):
    """DEBIT FOR UNLOAD with the host's MAC2; answers MAC3 (4 bytes)."""

    date: bytes
    time: bytes
    mac2: bytes
    name: ClassVar[str] = "DEBIT FOR UNLOAD"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x54, 0x03, 0x00, _granted(self.date, self.time, self.mac2), 4)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, 4)


@dataclass(frozen=True, slots=True)
class InitUpdate(Command[UpdateInitialisation]):
    """INITIALIZE FOR UPDATE of the overdraft allowance (type 07)."""

    key_index: int
    terminal_number: bytes
    name: ClassVar[str] = "INITIALIZE FOR UPDATE"

    def apdu(self) -> CommandApdu:
        opening = number(self.key_index, 1, "key index") + exactly(self.terminal_number, 6)
        return CommandApdu(0x80, 0x50, 0x04, PURSE, opening, 19)

    def parse(self, answer: bytes) -> UpdateInitialisation:
        exactly(answer, 19)
        first = _purchase_initialisation(answer[:15])
        return UpdateInitialisation(
            first.raw_balance_fen,
            first.counter,
            first.overdraft_fen,
            first.key_version,
            first.algorithm,
            first.random,
            answer[15:],
        )


@dataclass(frozen=True, slots=True)
class UpdateOverdraft(Command[bytes]):
    """UPDATE OVERDRAFT LIMIT to `limit_fen` with the host's MAC2; answers the TAC (4 bytes)."""

    limit_fen: int
    date: bytes
    time: bytes
    mac2: bytes
    name: ClassVar[str] = "UPDATE OVERDRAFT LIMIT"

    def apdu(self) -> CommandApdu:
        limit = number(self.limit_fen, 3, "overdraft limit")
        return CommandApdu(0x80, 0x58, 0x00, 0x00, limit + _granted(self.date, self.time, self.mac2), 4)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, 4)


def _opening(key_index: int, amount_fen: int, terminal_number: bytes) -> bytes:
    return number(key_index, 1, "key index") + number(amount_fen, 4, "amount") + exactly(terminal_number, 6)


def _granted(date: bytes, time: bytes, mac: bytes) -> bytes:
    return exactly(date, 4) + exactly(time, 3) + exactly(mac, 4)


def _load_initialisation(answer: bytes) -> LoadInitialisation:
    exactly(answer, 16)
    return LoadInitialisation(
        int.from_bytes(answer[:4], "big"),
        int.from_bytes(answer[4:6], "big"),
        answer[6],
        answer[7],
        answer[8:12],
        answer[12:],
    )


def _purchase_initialisation(answer: bytes) -> PurchaseInitialisation:
    exactly(answer, 15)
    return PurchaseInitialisation(
        int.from_bytes(answer[:4], "big"),
        int.from_bytes(answer[4:6], "big"),
        int.from_bytes(answer[6:9], "big"),
        answer[9],
        answer[10],
        answer[11:],
    )
