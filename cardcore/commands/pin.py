"""Changing, reloading and unblocking a PIN (FMCOS 2.0). The digits are never shown by `repr`.

A change needs the old PIN alone; a reload the key 38 over the new one; an unblocking the key 37, by which the try
counter goes back to its maximum.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.commands.command import Silent, exactly
from cardcore.commands.security import check_tries, pin_bytes
from cardcore.errors import FormatError
from cardcore.switches import PinUnblockPlace


@dataclass(frozen=True, slots=True)
class ChangePin(Silent):
    """CHANGE PIN; a wrong old PIN counts as a try."""

    old: str = field(repr=False)
    new: str = field(repr=False)
    pin_id: int = 0x00
    name: ClassVar[str] = "CHANGE PIN"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x5E, 0x01, self.pin_id, pin_bytes(self.old) + b"\xff" + pin_bytes(self.new))

    def read(self, response: ResponseApdu) -> None:
        """Raises WrongPinError with the tries left, CardError for any other refusal."""
        check_tries(self.name, response)
        Silent.read(self, response)


@dataclass(frozen=True, slots=True)
class ReloadPin(Silent):
    """RELOAD PIN with the authority's MAC (4 bytes) over the new PIN."""

    pin: str = field(repr=False)
    mac: bytes
    pin_id: int = 0x00
    name: ClassVar[str] = "RELOAD PIN"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x80, 0x5E, 0x00, self.pin_id, pin_bytes(self.pin) + exactly(self.mac, 4))


@dataclass(frozen=True, slots=True)
class UnblockPin(Silent):
    """PIN UNBLOCK as the authority made it: the new PIN enciphered, with its MAC, both under key 37."""

    command: bytes = field(repr=False)
    name: ClassVar[str] = "PIN UNBLOCK"

    def apdu(self) -> CommandApdu:
        command = CommandApdu.decode(self.command)
        if (command.cla, command.ins) != (0x84, 0x24):
            raise FormatError(f"{command.cla:02X}{command.ins:02X} is no PIN UNBLOCK; it starts with 8424")
        return command


def unblock_head(place: PinUnblockPlace, pin: str, pin_id: int = 0x00) -> CommandApdu:
    """PIN UNBLOCK before its protection: the header where the profile puts the PIN's id, and the new PIN."""
    p1, p2 = (0x00, pin_id) if place is PinUnblockPlace.P2 else (pin_id, 0x00)
    return CommandApdu(0x84, 0x24, p1, p2, pin_bytes(pin))
