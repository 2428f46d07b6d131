"""The PC/SC calls that we use, each result mapped to one error.

The only module that imports the PC/SC library, and only when it is used.
"""

from collections.abc import Sequence
from functools import cache
from types import ModuleType

from cardcore.errors import ReaderError, SetupError

NO_SERVICE = frozenset({0x8010001D, 0x8010001E, 0x80100013, 0x80100003})
REMOVED = frozenset({0x80100069, 0x80100016, 0x8010000C, 0x80100010})
NO_READER = frozenset({0x80100009, 0x80100017})
MUTE = frozenset({0x80100065, 0x80100066, 0x80100067})
RESET = 0x80100068
SHARING = 0x8010000B
TIMEOUT = 0x8010000A
DENIED = 0x8010006A

PNP = "\\\\?PnP?\\Notification"
# Bits of a reader's state, whose upper 16 bits count events. Plain numbers: inverting a flag would drop the counter.
CHANGED = 0x0002
PRESENT = 0x0020
EXCLUSIVE = 0x0080
MUTE_CARD = 0x0200


class PcscError(ReaderError):
    """A PC/SC call failed with `code` (32 bits)."""

    def __init__(self, code: int, doing: str) -> None:
        self.code = code & 0xFFFFFFFF
        super().__init__(f"{doing}: {_meaning(self.code)} ({self.code:08X})")


class ForeignReset(PcscError):
    """Another program reset the card: nothing was sent, and what was selected or verified before is gone."""

    def __init__(self) -> None:
        super().__init__(RESET, "sending a command")


def _meaning(code: int) -> str:
    if code in NO_SERVICE:
        return "the PC/SC service is not running; start pcscd, the reader comes back by itself"
    if code in REMOVED:
        return "no card answers in the reader; put the card (back) on it"
    if code in MUTE:
        return "what lies on the reader does not answer: a memory card, a card turned over, dirty or broken"
    if code in NO_READER:
        return "there is no such reader any more; plug it in again"
    if code == DENIED:
        return "this user may not use the PC/SC service; allow it in polkit's rules (org.debian.pcsc-lite.access_pcsc)"
    if code == SHARING:
        return "another program holds the card; close it (often gpg's scdaemon or a browser) and try again"
    if code == RESET:
        return "another program reset the card; what was selected is gone, start the operation anew"
    text: str = load().SCardGetErrorMessage(code - 2**32 if code >= 2**31 else code)
    return text


@cache
def load() -> ModuleType:
    """The PC/SC library; raises SetupError that says how to get it."""
    try:
        from smartcard import scard
    except ImportError as error:
        raise SetupError(
            f"card readers need the library pyscard, which cannot be loaded here ({error}). "
            "Install the extra onecard[pcsc]; it needs a C compiler, libpcsclite-dev and pcscd."
        ) from error
    library: ModuleType = scard
    return library


def _check(code: int, doing: str) -> None:
    if code != 0:
        raise PcscError(code, doing)


def establish() -> int:
    """A new context; contexts are never shared between threads, nor used after the service died."""
    library = load()
    code, context = library.SCardEstablishContext(library.SCARD_SCOPE_SYSTEM)
    _check(code, "asking the PC/SC service for a context")
    return int(context)


def release(context: int) -> None:
    """Give a context back; a context whose service died is already gone, which is fine."""
    load().SCardReleaseContext(context)


def list_readers(context: int) -> list[str]:
    """Names of the readers, [] when there is none."""
    library = load()
    code, names = library.SCardListReaders(context, [])
    if code & 0xFFFFFFFF == library.SCARD_E_NO_READERS_AVAILABLE & 0xFFFFFFFF:
        return []
    _check(code, "listing the readers")
    return list(names)


def connect(context: int, reader: str) -> tuple[int, int]:
    """Handle and protocol (1 = T=0, 2 = T=1) of an exclusive connection to the card in `reader`."""
    library = load()
    code, handle, protocol = library.SCardConnect(
        context, reader, library.SCARD_SHARE_EXCLUSIVE, library.SCARD_PROTOCOL_T0 | library.SCARD_PROTOCOL_T1
    )
    _check(code, f"connecting to the card in {reader}")
    return int(handle), int(protocol)


def reconnect(handle: int) -> int:
    """Reset the card and go on with the same handle; gives the protocol."""
    library = load()
    code, protocol = library.SCardReconnect(
        handle,
        library.SCARD_SHARE_EXCLUSIVE,
        library.SCARD_PROTOCOL_T0 | library.SCARD_PROTOCOL_T1,
        library.SCARD_RESET_CARD,
    )
    _check(code, "resetting the card")
    return int(protocol)


def disconnect(handle: int) -> None:
    """Power the card down and drop the handle; a dead handle is already gone."""
    library = load()
    library.SCardDisconnect(handle, library.SCARD_UNPOWER_CARD)


def attribute_atr(handle: int) -> bytes:
    """ATR of the connected card."""
    code, _reader, _state, _protocol, atr = load().SCardStatus(handle)
    _check(code, "reading the card's ATR")
    return bytes(atr)


def transmit(handle: int, protocol: int, apdu: bytes) -> bytes:
    """The card's raw answer; under two bytes means torn, and so does an error after sending, which gives b"".

    Raises ForeignReset.
    """
    library = load()
    pci = library.SCARD_PCI_T0 if protocol == library.SCARD_PROTOCOL_T0 else library.SCARD_PCI_T1
    code, answer = library.SCardTransmit(handle, pci, list(apdu))
    if code & 0xFFFFFFFF == RESET:
        raise ForeignReset
    return bytes(answer) if code == 0 else b""


def status_change(context: int, timeout_ms: int, known: Sequence[tuple[str, int]]) -> list[tuple[str, int, bytes]]:
    """Wait for a reader's state to differ from what is known; raises PcscError, `code` TIMEOUT when none does."""
    code, states = load().SCardGetStatusChange(context, timeout_ms, list(known))
    _check(code, "waiting for a card")
    return [(name, int(state), bytes(atr)) for name, state, atr in states]


def cancel(context: int) -> None:
    """End a status wait of that context; a running transmit cannot be ended."""
    load().SCardCancel(context)
