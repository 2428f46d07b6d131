"""What a purse does with a PSAM: purchase, composite purchase with cached records, cash withdrawal of a deposit."""

from dataclasses import dataclass
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, Silent, exactly, number, writable
from cardcore.commands.purse import DebitReceipt, Opening, PurchaseInitialisation, PurseKind, granted
from cardcore.errors import FormatError


class OfflineOpening(Opening[PurchaseInitialisation]):
    """INITIALIZE of a debit that a PSAM authorises."""

    __slots__ = ()
    answer_bytes: ClassVar[int] = 15

    def parse(self, answer: bytes) -> PurchaseInitialisation:
        return PurchaseInitialisation.decode(answer)


class InitPurchase(OfflineOpening):
    """INITIALIZE FOR PURCHASE (type 06, of a deposit 05)."""

    __slots__ = ()
    name: ClassVar[str] = "INITIALIZE FOR PURCHASE"
    p1: ClassVar[int] = 0x01


class InitComposite(OfflineOpening):
    """INITIALIZE FOR COMPOSITE PURCHASE (CAPP, type 09); 0 fen for an entry."""

    __slots__ = ()
    name: ClassVar[str] = "INITIALIZE FOR COMPOSITE PURCHASE"
    p1: ClassVar[int] = 0x03


@dataclass(frozen=True, slots=True)
class InitCash(OfflineOpening):
    """INITIALIZE FOR CASH WITHDRAW (type 04), from a deposit only; the PIN comes first."""

    purse: PurseKind = PurseKind.DEPOSIT
    name: ClassVar[str] = "INITIALIZE FOR CASH WITHDRAW"
    p1: ClassVar[int] = 0x02


@dataclass(frozen=True, slots=True)
class UpdateComposite(Silent):
    """UPDATE COMPOSITE CACHE: a record that changes together with the debit.

    `identifier` is the composite id (0: the newest of a cyclic file), or, `by_number`, the number of the record.
    """

    sfi: int
    identifier: int
    content: bytes
    by_number: bool = False
    name: ClassVar[str] = "UPDATE COMPOSITE CACHE"

    def apdu(self) -> CommandApdu:
        if not 1 <= self.sfi <= 30:
            raise FormatError(f"a short file identifier is 1..30, not {self.sfi}")
        reference = self.sfi << 3 | (0x04 if self.by_number else 0x00)
        return CommandApdu(0x80, 0xDC, self.identifier, reference, writable(self.content))


@dataclass(frozen=True, slots=True)
class DebitPurchase(Command[DebitReceipt]):
    """DEBIT FOR PURCHASE, simple or composite, and for a cash withdrawal, with the PSAM's number and MAC1."""

    terminal_transaction: int
    date: bytes
    time: bytes
    mac1: bytes
    name: ClassVar[str] = "DEBIT FOR PURCHASE"

    def apdu(self) -> CommandApdu:
        transaction = number(self.terminal_transaction, 4, "terminal transaction")
        return CommandApdu(0x80, 0x54, 0x01, 0x00, transaction + granted(self.date, self.time, self.mac1), 8)

    def parse(self, answer: bytes) -> DebitReceipt:
        exactly(answer, 8)
        return DebitReceipt(answer[:4], answer[4:])


def composite(
    opening: InitComposite, records: tuple[UpdateComposite, ...], debit: DebitPurchase
) -> tuple[Command[object], ...]:
    """A composite purchase in its order: INITIALIZE, the cached records, DEBIT; all of it happens or nothing.

    No other command may stand between them. Raises FormatError when no record is cached or two go to one place, of
    which the card would keep only the last.
    """
    places = [(item.sfi, item.identifier, item.by_number) for item in records if item.identifier or item.by_number]
    if not records:
        raise FormatError("a composite purchase changes at least one record; use a plain purchase")
    if len(set(places)) != len(places):
        raise FormatError("two cached records of a composite purchase go to the same place; cache each record once")
    return (opening, *records, debit)
