"""The purse: types and answers, balance, transaction proof (PBOC electronic purse, JR/T 0025; docs/card.md).

Amounts are fen, 4 bytes; balances are raw, the overdraft allowance included. What moves money is in `online` (with the
host: load, unload, allowance) and `offline` (with a PSAM: purchase, composite purchase, cash withdrawal).
"""

from abc import abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, TypeVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, exactly, number

OpenedT = TypeVar("OpenedT", covariant=True)


class PurseKind(IntEnum):
    """P2 of the purse commands: the electronic deposit (ED), or the electronic purse (EP) that city cards have."""

    DEPOSIT = 0x01
    PURSE = 0x02


class TransactionType(IntEnum):
    """Type byte of the cryptograms; LOAD, PURCHASE and COMPOSITE are those of an electronic purse."""

    DEPOSIT_LOAD = 0x01
    LOAD = 0x02
    UNLOAD = 0x03
    CASH = 0x04
    DEPOSIT_PURCHASE = 0x05
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

    @classmethod
    def decode(cls, answer: bytes) -> "LoadInitialisation":
        exactly(answer, 16)
        balance_fen, counter = int.from_bytes(answer[:4], "big"), int.from_bytes(answer[4:6], "big")
        return cls(balance_fen, counter, answer[6], answer[7], answer[8:12], answer[12:])


@dataclass(frozen=True, slots=True)
class PurchaseInitialisation:
    """Answer of INITIALIZE FOR PURCHASE, simple or composite, and for a cash withdrawal.

    `counter` is the offline counter.
    """

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

    @classmethod
    def decode(cls, answer: bytes) -> "PurchaseInitialisation":
        exactly(answer, 15)
        balance_fen, counter = int.from_bytes(answer[:4], "big"), int.from_bytes(answer[4:6], "big")
        return cls(balance_fen, counter, int.from_bytes(answer[6:9], "big"), answer[9], answer[10], answer[11:])


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

    @classmethod
    def decode(cls, answer: bytes) -> "UpdateInitialisation":
        first = PurchaseInitialisation.decode(exactly(answer, 19)[:15])
        sums = first.raw_balance_fen, first.counter, first.overdraft_fen
        return cls(*sums, first.key_version, first.algorithm, first.random, answer[15:])


@dataclass(frozen=True, slots=True)
class DebitReceipt:
    """Answer of DEBIT FOR PURCHASE: the TAC for clearing, MAC2 for the PSAM, 4 bytes each."""

    tac: bytes
    mac2: bytes


@dataclass(frozen=True, slots=True)
class TransactionProof:
    """What the card still knows of its last committed transaction: MAC and TAC, 4 bytes each.

    MAC is MAC2 (of the PSAM's purchase, or as granted by the host), MAC3 for an unload, whose TAC is zeros.
    """

    mac: bytes
    tac: bytes


@dataclass(frozen=True, slots=True)
class GetBalance(Command[int]):
    """GET BALANCE: the raw balance in fen; a deposit asks for the PIN first."""

    purse: PurseKind = PurseKind.PURSE
    name: ClassVar[str] = "GET BALANCE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x5C, 0x00, self.purse, le=4)

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
class Opening(Command[OpenedT]):
    """INITIALIZE of anything with an amount: key index, amount in fen, terminal number (6 bytes)."""

    key_index: int
    amount_fen: int
    terminal_number: bytes
    purse: PurseKind = PurseKind.PURSE
    p1: ClassVar[int]
    answer_bytes: ClassVar[int]

    def apdu(self) -> CommandApdu:
        asked = number(self.key_index, 1, "key index") + number(self.amount_fen, 4, "amount")
        content = asked + exactly(self.terminal_number, 6)
        return CommandApdu(0x80, 0x50, self.p1, self.purse, content, self.answer_bytes)

    @abstractmethod
    def parse(self, answer: bytes) -> OpenedT: ...


def granted(date: bytes, time: bytes, mac: bytes) -> bytes:
    """Date, time (BCD) and the MAC of host or PSAM, as the deciding commands carry them; raises FormatError."""
    return exactly(date, 4) + exactly(time, 3) + exactly(mac, 4)
