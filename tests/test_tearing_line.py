"""An answer that breaks off after any byte, on the line of a virtual reader and in-process."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from simulators.card_line import Line, Protocol
from simulators.card_os import SoftwareCard
from simulators.vpcd import Link, insert

MF = bytes.fromhex("00A40000023F00")
FCI = bytes.fromhex("6F15840E") + b"1PAY.SYS.DDF01" + bytes.fromhex("A503880101")


@dataclass
class Reader:
    """The reader's end of the virtual slot."""

    port: int
    cards: "asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]"

    async def powered(self, link: Link, asks: list[bytes]) -> bytes:
        """Power the card, ask one after the other; everything that came until the card was gone."""
        incoming, outgoing = await self.cards.get()
        came = b""
        for body in (b"\x01", *asks):
            outgoing.write(len(body).to_bytes(2, "big") + body)
            if body != b"\x01":
                came += (head := await incoming.read(2))
                if len(head) < 2:
                    break
                came += await incoming.read(int.from_bytes(head, "big"))
        with contextlib.suppress(OSError):
            outgoing.write_eof()
        came += await incoming.read()
        await link.remove()
        return came


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    cards: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: cards.put_nowait(streams), "127.0.0.1", 0)
    yield Reader(server.sockets[0].getsockname()[1], cards)
    server.close()


def card() -> SoftwareCard:
    return SoftwareCard.blank("sm4", rng=random.Random(4))


@pytest.mark.parametrize(
    ("protocol", "asks", "answers"),
    [
        ("T=1", [MF], [FCI + b"\x90\x00"]),
        ("T=0", [MF, bytes.fromhex("00C0000017")], [b"\x61\x17", FCI + b"\x90\x00"]),
    ],
)
async def test_every_byte_at_a_reader(
    reader: Reader, protocol: Protocol, asks: list[bytes], answers: list[bytes]
) -> None:
    """The frame says that more would come, so that no beginning of an answer is taken for a whole one."""
    for cut in range(sum(map(len, answers)) + 1):
        chip = card()
        link = await insert("127.0.0.1", reader.port, chip, protocol=protocol)
        link.line.cut_after(cut)
        came = await asyncio.wait_for(reader.powered(link, asks), 5)
        expected, left = b"", cut
        for answer in answers:
            whole, part = len(answer) <= left, answer[:left]
            if part:
                expected += (len(part) + (not whole)).to_bytes(2, "big") + part
            left -= len(part)
            if not whole:
                break
        assert came == expected
        assert not chip.powered


@pytest.mark.parametrize("protocol", ["T=0", "T=1"])
def test_a_cut_card_is_dead_until_it_is_powered(protocol: Protocol) -> None:
    chip = card()
    line = Line(chip, protocol)
    assert line.transmit(MF) == b"", "never powered"
    line.power_on()
    line.cut_after(1)
    assert (line.transmit(MF), line.stump) == (b"", b"\x61" if protocol == "T=0" else FCI[:1])
    assert line.transmit(MF) == line.transmit(bytes.fromhex("00C0000017")) == b""
    line.power_on()
    assert line.stump == b""
    assert line.transmit(MF)[-2:] == (b"\x61\x17" if protocol == "T=0" else b"\x90\x00")
    chip.cut_after(0)
    assert line.transmit(bytes.fromhex("80E00001072C0840F0F0FFFF")) == b""
    assert line.transmit(bytes.fromhex("00C0000017")) == b"", "a chip torn in itself is dead too"
    line.power_on()
    line.power_off()
    assert line.transmit(bytes.fromhex("00C0000017")) == b"", "what waited is gone"


def test_a_cut_behind_the_last_byte_still_answers() -> None:
    line = Line(card())
    line.power_on()
    line.cut_after(len(FCI) + 2)
    assert line.transmit(MF) == FCI + b"\x90\x00"
    assert line.transmit(MF) == b""
    line.power_on()
    line.cut_after(1)
    line.cut_after(None)
    assert line.transmit(MF) == FCI + b"\x90\x00", "taken back"
