"""A device's way to its PSAM (docs/card.md, "The PSAM")."""

from __future__ import annotations

from simulators.city.facts import Device
from simulators.city.parts import CityBroken, Psam


class Sam:
    """The PSAM in the slot of a device. A PSAM holds one selected key at a time, and selecting costs an exchange: this
    remembers which one it is."""

    def __init__(self, device: Device, psam: Psam) -> None:
        self._device, self._psam = device, psam
        self.number = bytes.fromhex(device.psam)
        self._selected = b""
        psam.power_on()

    def ask(self, apdu: bytes) -> bytes:
        """The answer without its 9000; raises CityBroken for another status word."""
        answer = self._psam.transmit(apdu)
        if answer[-2:] != b"\x90\x00":
            said = answer.hex() or "nothing"
            raise CityBroken(f"PSAM {self._device.psam} answered {said} to {apdu[:5].hex()}; is it personalised?")
        return answer[:-2]

    def word(self, apdu: bytes) -> int:
        """The status word alone."""
        return int.from_bytes(self._psam.transmit(apdu)[-2:], "big")

    def mac(self, usage: int, number: int, factors: bytes, text: bytes) -> bytes:
        """CRYPT: the MAC (8 bytes) over `text` by a key of the PSAM, diversified by the factors."""
        selecting = bytes((0x80, 0x1A, usage, number, len(factors))) + factors
        if selecting != self._selected:
            self.ask(selecting)
            self._selected = selecting
        return self.ask(b"\x80\xfa\x05\x00" + bytes((len(text),)) + text + b"\x08")
