"""A chip in a virtual PC/SC reader: the card's end of the vpcd protocol over TCP.

A frame is a 2-byte big-endian length and a body, both ways. A body of one byte controls: 00 power off, 01 power on, 02
reset (no answer to these), 04 asks for the ATR. Any other body is a command APDU. The reader listens without any
authentication, so it belongs on the loopback of a test machine.
"""

import asyncio
import socket
from typing import cast

from simulators.card_line import Line, Powered, Protocol
from simulators.chip import ATR_T0

ATRS: dict[Protocol, bytes] = {"T=0": ATR_T0, "T=1": bytes.fromhex("3BE80000010073C8401300900091")}

_POWER_ON, _RESET, _ATR = 1, 2, 4


class Link(asyncio.Protocol):
    """A chip that lies in a reader. `gone` is done when it does so no more: removed, torn, or the reader went away.

    `line` is the way of its answers; a power cut on it leaves the reader with the beginning of a frame.
    """

    def __init__(self, chip: Powered, protocol: Protocol) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.line, self._atr = Line(chip, protocol), ATRS[protocol]
        self._received = bytearray()

    async def remove(self) -> None:
        """Take the chip out, also in the middle of a command. Safe to call twice; cancelled, it is out all the same."""
        self._transport.abort()
        await asyncio.shield(self.gone)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._quick()

    def connection_lost(self, exc: Exception | None) -> None:
        self.line.power_off()
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._quick()
        received = self._received
        received += data
        while len(received) >= 2 and len(received) >= (end := 2 + int.from_bytes(received[:2], "big")):
            body = bytes(received[2:end])
            del received[:end]
            if len(body) == 1:
                self._control(body[0])
            elif body:
                self._command(body)

    def _control(self, octet: int) -> None:
        if octet == _ATR:
            self._send(self._atr)
            return
        if octet in (_POWER_ON, _RESET):
            self.line.power_on()
        else:
            self.line.power_off()

    def _command(self, apdu: bytes) -> None:
        answer = self.line.transmit(apdu)
        if answer:
            self._send(answer)
            return
        # An empty frame would be a successful empty answer; a chip without power is a chip that is gone.
        if stump := self.line.stump:
            self._transport.write((len(stump) + 1).to_bytes(2, "big") + stump)
            self._transport.close()
        else:
            self._transport.abort()

    def _send(self, body: bytes) -> None:
        self._transport.write(len(body).to_bytes(2, "big") + body)

    def _quick(self) -> None:
        # The reader writes length and body apart with Nagle on; without this a delayed ACK costs 44 ms an APDU.
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def insert(host: str, port: int, card: Powered, *, protocol: Protocol = "T=0", patience_s: float = 5.0) -> Link:
    """Put `card` into the reader that listens at `host`:`port`.

    With T=0 answers come by 61xx and 6Cxx, with T=1 in one go. Raises OSError when nobody listened for `patience_s`;
    cancelled before that, nothing is inserted. A reader looks for its card every 400 ms: after a removal or a tear wait
    longer than that, or it never sees the slot empty and does not power the next card.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            return (await loop.create_connection(lambda: Link(card, protocol), host, port))[1]
        except OSError:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(0.05)
