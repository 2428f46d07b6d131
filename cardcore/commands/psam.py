"""The commands of a PSAM (docs/card.md, "The PSAM")."""

from dataclasses import dataclass
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, Silent, exactly, number
from cardcore.commands.purse import PurchaseInitialisation
from cardcore.errors import FormatError
from cardcore.switches import PsamFactorOrder


@dataclass(frozen=True, slots=True)
class PsamGrant:
    """Answer of INIT SAM FOR PURCHASE: the PSAM's transaction number, and MAC1 (4 bytes) for the card."""

    terminal_transaction: int
    mac1: bytes


@dataclass(frozen=True, slots=True)
class InitSamPurchase(Command[PsamGrant]):
    """INIT SAM FOR PURCHASE for a debit that a card has opened; the factors have 8 bytes each."""

    opened: PurchaseInitialisation
    amount_fen: int
    transaction_type: int
    date: bytes
    time: bytes
    card_factor: bytes
    city_factor: bytes
    order: PsamFactorOrder = PsamFactorOrder.CARD_CITY
    name: ClassVar[str] = "INIT SAM FOR PURCHASE"

    def apdu(self) -> CommandApdu:
        card = exactly(self.opened.random, 4) + number(self.opened.counter, 2, "counter")
        debit = number(self.amount_fen, 4, "amount") + number(self.transaction_type, 1, "type")
        key = number(self.opened.key_version, 1, "key version") + number(self.opened.algorithm, 1, "algorithm")
        moment = exactly(self.date, 4) + exactly(self.time, 3)
        content = card + debit + moment + key + ordered_factors(self.order, self.card_factor, self.city_factor)
        return CommandApdu(0x80, 0x70, 0x00, 0x00, content, 8)

    def parse(self, answer: bytes) -> PsamGrant:
        exactly(answer, 8)
        return PsamGrant(int.from_bytes(answer[:4], "big"), answer[4:])


@dataclass(frozen=True, slots=True)
class CreditSam(Silent):
    """CREDIT SAM FOR PURCHASE: the PSAM checks the card's MAC2, directly after it has opened the debit."""

    mac2: bytes
    name: ClassVar[str] = "CREDIT SAM FOR PURCHASE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x72, 0x00, 0x00, exactly(self.mac2, 4))


@dataclass(frozen=True, slots=True)
class InitDescrypt(Silent):
    """INIT FOR DESCRYPT: select a key by usage and id, and derive it by one to three factors of 8 bytes."""

    usage: int
    key_id: int
    factors: bytes
    name: ClassVar[str] = "INIT FOR DESCRYPT"

    def apdu(self) -> CommandApdu:
        if len(self.factors) != 8 * (self.usage >> 5):
            raise FormatError(f"usage {self.usage:02X} derives {self.usage >> 5} levels, a factor of 8 bytes for each")
        return CommandApdu(0x80, 0x1A, self.usage, self.key_id, self.factors)


@dataclass(frozen=True, slots=True)
class Crypt(Command[bytes]):
    """CRYPT in one piece: the MAC (8 bytes) over the content by the key that INIT FOR DESCRYPT derived."""

    content: bytes
    name: ClassVar[str] = "CRYPT"

    def apdu(self) -> CommandApdu:
        if not 1 <= len(self.content) <= 239:
            raise FormatError(f"a PSAM takes 1 to 239 bytes at once, not {len(self.content)}")
        return CommandApdu(0x80, 0xFA, 0x05, 0x00, self.content, 8)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, 8)


@dataclass(frozen=True, slots=True)
class SetCeilings(Silent):
    """SET CEILINGS: how many purchases, and fen in all, the PSAM may still open; 0 is no ceiling.

    `apdu` is the command before its MAC by key 36.00 (`cardcore.secure_messaging`), which the PSAM does not take bare.
    """

    count: int
    amount_fen: int
    name: ClassVar[str] = "SET CEILINGS"

    def apdu(self) -> CommandApdu:
        content = number(self.count, 4, "count") + number(self.amount_fen, 4, "amount")
        return CommandApdu(0x80, 0xE8, 0x00, 0x00, content)


def ordered_factors(order: PsamFactorOrder, card_factor: bytes, city_factor: bytes) -> bytes:
    """Card and city factor (8 bytes each) in the order that the PSAMs of the profile expect."""
    card, city = exactly(card_factor, 8), exactly(city_factor, 8)
    return card + city if order is PsamFactorOrder.CARD_CITY else city + card
