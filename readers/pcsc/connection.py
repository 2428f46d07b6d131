"""The blocking half of a reader's channel: one context, one exclusive connection, used by one thread."""

import time
from collections.abc import Sequence

from cardcore.apdu import CommandApdu, ResponseApdu
from readers.pcsc import scard
from readers.pcsc.channel import Replies
from readers.pcsc.trace import Exchange, Trace

PROTOCOL_T0 = 1
MOST_PARTS = 256
_DELIVERED = (b"\x90", b"\x62", b"\x63")
GET_RESPONSE = bytes((0x00, 0xC0, 0x00, 0x00))


class Connection:
    """The card in `reader`, connected at the first call that needs it.

    `abandoned` may be set by another thread: a script then ends before its next command.
    """

    def __init__(self, reader: str, trace: Trace | None = None) -> None:
        self._reader = reader
        self._trace = trace
        self._context: int | None = None
        self._handle: int | None = None
        self._protocol = PROTOCOL_T0
        self._torn = False
        self.abandoned = False

    def power_on(self) -> bytes:
        """Reset the card, or connect anew, which also survives a PC/SC service that died; gives the ATR.

        Raises PcscError; nothing is held then.
        """
        self._torn = self.abandoned = False
        if self._handle is not None:
            try:
                self._protocol = scard.reconnect(self._handle)
                return scard.attribute_atr(self._handle)
            except scard.PcscError:
                self.close()
        return self._open()

    def script(self, commands: Sequence[CommandApdu]) -> Replies:
        """Run commands until one is not answered by 9000. Raises PcscError when nothing of the last one was sent."""
        if self._handle is None and not self._torn:
            self._open()
        answers: list[ResponseApdu] = []
        for command in commands:
            raw = b"" if self._torn or self.abandoned else self._traced(command)
            if len(raw) < 2:
                self._torn = True
                self.close()
                return Replies(tuple(answers), torn=True)
            answers.append(ResponseApdu.decode(raw))
            if not answers[-1].ok:
                break
        return Replies(tuple(answers))

    def close(self) -> None:
        """Power the card down and give handle and context back; what is dead already is gone, which is fine."""
        if self._handle is not None:
            scard.disconnect(self._handle)
        if self._context is not None:
            scard.release(self._context)
        self._handle = self._context = None

    def _open(self) -> bytes:
        try:
            self._context = scard.establish()
            self._handle, self._protocol = scard.connect(self._context, self._reader)
            return scard.attribute_atr(self._handle)
        except scard.PcscError:
            self.close()
            raise

    def _traced(self, command: CommandApdu) -> bytes:
        if self._trace is None:
            return self._exchange(command)
        began = time.perf_counter_ns()
        raw = self._exchange(command)
        self._trace.note(self._reader, Exchange(command, raw, (time.perf_counter_ns() - began) // 1000))
        return raw

    def _exchange(self, command: CommandApdu) -> bytes:
        """One command; 61xx announces data for GET RESPONSE, 6Cxx names the right Le. b"" when torn on the way."""
        assert self._handle is not None
        raw = command.encode()
        if self._protocol == PROTOCOL_T0 and command.data and command.le is not None:
            raw = raw[:-1]
        collected, announced = b"", False
        for _ in range(MOST_PARTS):
            answer = scard.transmit(self._handle, self._protocol, raw)
            if len(answer) == 2 and answer[0] == 0x6C and len(raw) == 5:
                raw = raw[:4] + answer[1:]
            elif len(answer) >= 2 and answer[-2] == 0x61:
                collected, announced = collected + answer[:-2], True
                raw = GET_RESPONSE + answer[-1:]
            elif announced and answer[:1] not in _DELIVERED and len(answer) == 2:
                # What was announced is lost, but the command was done: an error here would deny that.
                return b""
            else:
                return collected + answer if len(answer) >= 2 else b""
        return b""
