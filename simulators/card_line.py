"""The line between a chip and its reader, where an answer can break off after any byte."""

from typing import Literal
from typing import Protocol as Shape

from simulators.t0 import HalfDuplex

Protocol = Literal["T=0", "T=1"]


class Powered(Shape):
    """What lies at the end of a line: a chip, or something that stands before one."""

    def power_on(self) -> bytes: ...

    def power_off(self) -> None: ...

    def transmit(self, apdu: bytes) -> bytes: ...


class Line:
    """A chip as its reader has it: with T=0 answers come by 61xx and 6Cxx, with T=1, and in-process, in one go.

    An answer that broke off is b"" to the caller, who could not tell its bytes from a status word; `stump` holds them.
    """

    def __init__(self, chip: Powered, protocol: Protocol = "T=1") -> None:
        self.stump = b""
        self._chip = chip
        self._manners = HalfDuplex(chip) if protocol == "T=0" else None
        self._left: int | None = None
        self._powered = False

    def cut_after(self, octets: int | None) -> None:
        """Take the power away once so many more bytes were sent: 0 before the next one; None takes that back.

        A cut just behind the last byte of an answer still delivers it.
        """
        self._left = octets

    def power_on(self) -> bytes:
        """Reset the chip; what waited for GET RESPONSE is forgotten. The ATR is not counted as sent."""
        self._forget()
        atr = self._chip.power_on()
        self._powered = bool(atr)
        return atr

    def power_off(self) -> None:
        """Take the power away now."""
        self._forget()
        self._powered = False
        self._chip.power_off()

    def transmit(self, apdu: bytes) -> bytes:
        """One exchange; b"" when the answer did not come, or not whole."""
        answer = (self._manners or self._chip).transmit(apdu) if self._powered else b""
        if not answer:
            self._powered = False
        if self._left is None or not answer:
            return answer
        self._left -= len(answer)
        if self._left > 0:
            return answer
        sent, self._left = len(answer) + self._left, None
        self.power_off()
        if sent == len(answer):
            return answer
        self.stump = answer[:sent]
        return b""

    def _forget(self) -> None:
        self.stump = b""
        if self._manners is not None:
            self._manners.reset()
