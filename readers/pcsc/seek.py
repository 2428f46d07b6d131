"""Which reader is meant, and waiting until a card answers in it."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cardcore.errors import ReaderError
from readers.pcsc import scard
from readers.pcsc.worker import ReaderChannel

LOOK_AGAIN_S = 0.3
_NONE = "there is no card reader; plug one in (a leftover of a virtual reader can hide it)"


@dataclass(frozen=True, slots=True)
class ReaderView:
    """A reader: its name and the ATR of the card in it, None without a card."""

    name: str
    atr: bytes | None


class NoSuchReader(ReaderError):
    """No reader, or more than one, fits what was asked for."""


async def list_readers() -> list[ReaderView]:
    """The readers, sorted by name. Raises PcscError, SetupError."""
    return await asyncio.to_thread(_list)


async def choose(name: str | None) -> str:
    """The reader that is meant: by (part of) its name, or the only one with a card. Raises NoSuchReader, PcscError."""
    readers = await list_readers()
    if not readers:
        raise NoSuchReader(_NONE)
    names = ", ".join(reader.name for reader in readers)
    if name is not None:
        found = [reader.name for reader in readers if reader.name == name] or [
            reader.name for reader in readers if name.casefold() in reader.name.casefold()
        ]
        if len(found) != 1:
            raise NoSuchReader(f"{name!r} fits {len(found)} readers of: {names}; name one with --reader")
        return found[0]
    with_card = [reader.name for reader in readers if reader.atr is not None]
    if not with_card:
        raise NoSuchReader(f"there is no card on any reader ({names}); put the card down and try again")
    if len(with_card) > 1:
        raise NoSuchReader(f"there are cards on several readers: {', '.join(with_card)}; name one with --reader")
    return with_card[0]


async def choose_all(names: Sequence[str]) -> list[str]:
    """The readers that are meant: each by (part of) its name, all of them without a name. Raises as `choose`."""
    chosen = [await choose(name) for name in names] or [reader.name for reader in await list_readers()]
    if not chosen:
        raise NoSuchReader(_NONE)
    if len(set(chosen)) < len(chosen):
        raise NoSuchReader(f"{', '.join(names)} name one reader twice; nothing was done")
    return chosen


def wait_for_readers(names: Collection[str], patience_s: float = 5.0) -> None:
    """Block until all of these readers are listed; raises NoSuchReader, or PcscError, when they are not in time."""
    deadline = time.monotonic() + patience_s
    while not set(names) <= {reader.name for reader in _list()}:
        if time.monotonic() > deadline:
            raise NoSuchReader(f"these readers did not all appear within {patience_s:g} s: {', '.join(names)}")
        time.sleep(LOOK_AGAIN_S / 30)


async def until_card(channel: ReaderChannel, patience_s: float, look_again_s: float = LOOK_AGAIN_S) -> None:
    """Wait until a card answers in the reader, through a removal, a hang or the service's restart.

    Raises the last ReaderError when it does not within `patience_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            await channel.reset()
            return
        except ReaderError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(look_again_s)


def _list() -> list[ReaderView]:
    context = scard.establish()
    try:
        names = scard.list_readers(context)
        states = scard.status_change(context, 0, [(name, 0) for name in names]) if names else []
    finally:
        scard.release(context)
    return sorted(
        (ReaderView(name, atr if state & scard.PRESENT else None) for name, state, atr in states),
        key=lambda reader: reader.name,
    )
