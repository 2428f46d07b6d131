"""What a purse does with its host: load, unload, overdraft allowance. MAC1 asks, MAC2 grants, TAC or MAC3 proves."""

from dataclasses import dataclass
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, exactly, number
from cardcore.commands.purse import LoadInitialisation, Opening, PurseKind, UpdateInitialisation, granted

_PROOF_BYTES = 4


class OnlineOpening(Opening[LoadInitialisation]):
    """INITIALIZE with the card's MAC1 over balance, amount, type and terminal."""

    __slots__ = ()
    answer_bytes: ClassVar[int] = 16

    def parse(self, answer: bytes) -> LoadInitialisation:
        return LoadInitialisation.decode(answer)


@dataclass(frozen=True, slots=True)
class Granted(Command[bytes]):
    """The deciding command with the host's date, time (BCD) and MAC2; the card answers 4 bytes of proof."""

    date: bytes
    time: bytes
    mac2: bytes
    ins: ClassVar[int]
    p1: ClassVar[int] = 0x00

    def apdu(self) -> CommandApdu:
        content = granted(self.date, self.time, self.mac2)
        return CommandApdu(0x80, self.ins, self.p1, 0x00, content, _PROOF_BYTES)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, _PROOF_BYTES)


class InitLoad(OnlineOpening):
    """INITIALIZE FOR LOAD (type 02, of a deposit 01)."""

    __slots__ = ()
    name: ClassVar[str] = "INITIALIZE FOR LOAD"
    p1: ClassVar[int] = 0x00


class CreditLoad(Granted):
    """CREDIT FOR LOAD; answers the TAC."""

    __slots__ = ()
    name: ClassVar[str] = "CREDIT FOR LOAD"
    ins: ClassVar[int] = 0x52


class InitUnload(OnlineOpening):
    """INITIALIZE FOR UNLOAD (type 03): the holder's value goes back. FMCOS has it for a deposit only."""

    __slots__ = ()
    name: ClassVar[str] = "INITIALIZE FOR UNLOAD"
    p1: ClassVar[int] = 0x05


class DebitUnload(Granted):
    """DEBIT FOR UNLOAD; answers MAC3, by which the host knows that the value has left the card."""

    __slots__ = ()
    name: ClassVar[str] = "DEBIT FOR UNLOAD"
    ins: ClassVar[int] = 0x54
    p1: ClassVar[int] = 0x03


@dataclass(frozen=True, slots=True)
class InitUpdate(Command[UpdateInitialisation]):
    """INITIALIZE FOR UPDATE of the overdraft allowance (type 07)."""

    key_index: int
    terminal_number: bytes
    purse: PurseKind = PurseKind.PURSE
    name: ClassVar[str] = "INITIALIZE FOR UPDATE"

    def apdu(self) -> CommandApdu:
        opening = number(self.key_index, 1, "key index") + exactly(self.terminal_number, 6)
        return CommandApdu(0x80, 0x50, 0x04, self.purse, opening, 19)

    def parse(self, answer: bytes) -> UpdateInitialisation:
        return UpdateInitialisation.decode(answer)


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
        content = limit + granted(self.date, self.time, self.mac2)
        return CommandApdu(0x80, 0x58, 0x00, 0x00, content, _PROOF_BYTES)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, _PROOF_BYTES)
