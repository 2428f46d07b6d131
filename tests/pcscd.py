"""A private pcscd for the tests, and cards in its readers.

The environment variable is set when a test module imports this one, before anybody makes a PC/SC call, because the
client library reads it once.
"""

import asyncio
import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import cast

from readers.pcsc.seek import list_readers, until_card, wait_for_readers
from readers.pcsc.worker import ReaderChannel
from simulators.card_line import Protocol
from simulators.chip import Chip
from simulators.pcscd import SOCKET_VARIABLE, PrivatePcscd
from simulators.vpcd import Link, insert

FOLDER = Path(tempfile.mkdtemp(prefix="onecard-pcscd-"))
os.environ[SOCKET_VARIABLE] = str(FOLDER / "comm")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

# A reader looks for its card every 400 ms; only after that it has seen that the card is gone.
POLL_S = 0.6


def start(count: int) -> PrivatePcscd:
    """A running daemon whose readers are listed. PcscdMissing says what is not installed: such a test fails."""
    daemon = PrivatePcscd(count, FOLDER)
    daemon.start()
    wait_for_readers(daemon.readers)
    return daemon


class SlowLink(Link):
    """A card that thinks for `delay_s` over every command, None for ever."""

    delay_s: float | None = None

    def _command(self, apdu: bytes) -> None:
        if self.delay_s is not None:
            asyncio.get_running_loop().call_later(self.delay_s, super()._command, apdu)


async def insert_slow(port: int, card: Chip, delay_s: float | None) -> SlowLink:
    """Put a slow card into the reader at that port."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: SlowLink(card, "T=1"), "127.0.0.1", port)
    link.delay_s = delay_s
    return link


async def insert_and_wait(port: int, card: object, channel: ReaderChannel, protocol: Protocol = "T=0") -> Link:
    """Put a card into the reader at that port, and wait until it answers the channel's reset."""
    link = await insert("127.0.0.1", port, cast(Chip, card), protocol=protocol)
    await until_reset(channel)
    return link


async def take(link: Link, reader: str) -> None:
    """Take a card away, and wait until the reader has seen that, however busy the machine is."""
    await link.remove()
    while any(view.name == reader and view.atr is not None for view in await list_readers()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def until_reset(channel: ReaderChannel, patience_s: float = 3.0) -> None:
    """Until a card answers a reset."""
    await until_card(channel, patience_s, look_again_s=0.02)
