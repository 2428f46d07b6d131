"""The manners of a card over contact protocol T=0 (ISO/IEC 7816-3): 61xx with GET RESPONSE, and 6Cxx."""

from typing import Protocol

GET_RESPONSE = b"\x00\xc0\x00\x00"


class Answering(Protocol):
    """A chip, or something that stands before one."""

    def transmit(self, apdu: bytes) -> bytes: ...


class HalfDuplex:
    """Stands before a chip and keeps the answer of a command with data until GET RESPONSE fetches it."""

    def __init__(self, chip: Answering) -> None:
        self._chip = chip
        self._waiting = b""
        self._status = b""

    def reset(self) -> None:
        """Power went or came: nothing waits."""
        self._waiting = self._status = b""

    def transmit(self, apdu: bytes) -> bytes:
        """One exchange; b"" when the chip was torn."""
        if apdu[:4] == GET_RESPONSE:
            return self._fetch(apdu[4] or 256 if len(apdu) == 5 else 256)
        self.reset()
        answer = self._chip.transmit(apdu)
        octets = answer[:-2]
        if not octets:
            return answer
        if len(apdu) > 5:
            self._waiting, self._status = octets, answer[-2:]
            return b"\x61" + bytes([len(octets) & 0xFF])
        if len(apdu) == 5 and (apdu[4] or 256) not in (len(octets), 256):
            return b"\x6c" + bytes([len(octets) & 0xFF])
        return answer

    def _fetch(self, wanted: int) -> bytes:
        waiting = self._waiting
        if not waiting:
            return b"\x69\x85"
        if wanted > len(waiting) and wanted != 256:
            return b"\x6c" + bytes([len(waiting)])
        self._waiting = waiting[wanted:]
        rest = self._waiting
        return waiting[:wanted] + (b"\x61" + bytes([len(rest) & 0xFF]) if rest else self._status)
