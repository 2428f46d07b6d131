"""The link of a software card to a virtual reader: frames, T=0, T=1, removal, tearing, against a reader of our own."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from simulators.card_os import SoftwareCard
from simulators.chip import ATR_T0
from simulators.nvm import TearPoint
from simulators.vpcd import ATRS, Protocol, insert

MF = bytes.fromhex("00A40000023F00")
FCI = bytes.fromhex("6F15840E") + b"1PAY.SYS.DDF01" + bytes.fromhex("A503880101")


@dataclass
class Reader:
    """The other end: it listens, and writes length and body apart, as the real driver does."""

    port: int
    cards: "asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]"

    async def power(self) -> None:
        self.incoming, self.outgoing = await self.cards.get()
        await self.tell(b"\x01")

    async def tell(self, body: bytes) -> None:
        self.outgoing.write(len(body).to_bytes(2, "big"))
        await self.outgoing.drain()
        self.outgoing.write(body)

    async def ask(self, body: bytes) -> bytes:
        await self.tell(body)
        length = int.from_bytes(await self.incoming.readexactly(2), "big")
        assert length, "an empty frame would be taken for a successful answer"
        return await self.incoming.readexactly(length)


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    cards: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: cards.put_nowait(streams), "127.0.0.1", 0)
    yield Reader(server.sockets[0].getsockname()[1], cards)
    server.close()


@pytest.fixture
def card() -> SoftwareCard:
    return SoftwareCard.blank("sm4", rng=random.Random(4))


async def test_t0(reader: Reader, card: SoftwareCard) -> None:
    link = await insert("127.0.0.1", reader.port, card)
    await reader.power()
    assert await reader.ask(b"\x04") == ATR_T0
    assert await reader.ask(MF) == b"\x61\x17"
    assert await reader.ask(bytes.fromhex("00C0000018")) == b"\x6c\x17"
    assert await reader.ask(bytes.fromhex("00C0000010")) == FCI[:16] + b"\x61\x07"
    assert await reader.ask(bytes.fromhex("00C0000007")) == FCI[16:] + b"\x90\x00"
    assert await reader.ask(bytes.fromhex("00C0000007")) == b"\x69\x85"
    assert len(await reader.ask(bytes.fromhex("0084000008"))) == 10
    assert await reader.ask(MF) == b"\x61\x17"
    await reader.tell(b"\x02")
    assert await reader.ask(bytes.fromhex("00C0000017")) == b"\x69\x85", "a reset forgets what waits"
    await link.remove()
    await link.remove()
    assert await reader.incoming.read() == b""
    assert card.transmit(MF) == b"", "out of the reader is out of power"


async def test_t0_corrects_the_length(reader: Reader, card: SoftwareCard) -> None:
    link = await insert("127.0.0.1", reader.port, card)
    await reader.power()
    assert await reader.ask(bytes.fromhex("80E0000107") + bytes.fromhex("2C0108F0F0FFFF")) == b"\x90\x00"
    assert await reader.ask(bytes.fromhex("00E2000803700155")) == b"\x90\x00"
    assert await reader.ask(bytes.fromhex("00B2010C04")) == b"\x6c\x03"
    assert await reader.ask(bytes.fromhex("00B2010C03")) == bytes.fromhex("7001559000")
    await link.remove()


async def test_t1(reader: Reader, card: SoftwareCard) -> None:
    link = await insert("127.0.0.1", reader.port, card, protocol="T=1")
    await reader.power()
    atr = await reader.ask(b"\x04")
    check = 0
    for octet in atr[1:]:
        check ^= octet
    assert check == 0 and atr[4] == 0x01, "a T=1 ATR with a good check byte"
    assert await reader.ask(MF) == FCI + b"\x90\x00"
    await link.remove()


@pytest.mark.parametrize("protocol", ATRS)
async def test_torn_card_drops_the_link(reader: Reader, card: SoftwareCard, protocol: Protocol) -> None:
    link = await insert("127.0.0.1", reader.port, card, protocol=protocol)
    await reader.power()
    card.tear_next(TearPoint.BEFORE_ANSWER)
    await reader.tell(bytes.fromhex("80E0000107") + bytes.fromhex("2C0108F0F0FFFF"))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.incoming.readexactly(2)
    await link.gone
    await insert("127.0.0.1", reader.port, card)
    await reader.power()
    assert await reader.ask(bytes.fromhex("00B2010C03")) == b"\x6a\x83", "the file was created, and is empty"


async def test_nobody_listens(card: SoftwareCard) -> None:
    with pytest.raises(OSError, match="Connect call failed"):
        await insert("127.0.0.1", 1, card, patience_s=0.1)
