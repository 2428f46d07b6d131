"""Reading a card at the counter: what it is, whose, what is on it; something sensible about a card that is not ours."""

from dataclasses import dataclass

from cardcore.apdu import ResponseApdu
from cardcore.card_files import CityData, CommonData, LogRecord
from cardcore.card_map import APPLICATIONS, MF, Application, Sfi
from cardcore.commands import GetBalance, InitPurchase, PurchaseInitialisation, ReadBinary, Select
from cardcore.errors import CardError, FormatError
from cardcore.record import Suite
from cardcore.status import FILE_INVALIDATED
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.purse import ask, read_log

PURSES = (1, 3, 4)
PURCHASE_IDS = (0x01, 0x11, 0x02, 0x12, 0x03, 0x13)
# Applications of others that a counter meets (names of the schemes; docs/card.md has ours).
STRANGERS = {
    bytes.fromhex("A00000000386980701"): "a construction-ministry city card",
    bytes.fromhex("A000000333010101"): "a bank debit card",
    bytes.fromhex("A000000333010102"): "a bank credit card",
    bytes.fromhex("A000000632010106"): "a T-Union card with electronic cash",
}


@dataclass(frozen=True, slots=True)
class PurseView:
    """One purse: its suite, raw balance in fen (allowance included), and the newest log records.

    The suite is None where the card opens no purchase; the allowance is not known then either, and shown as 0.
    """

    application: int
    suite: Suite | None
    raw_balance_fen: int
    overdraft_fen: int
    log: tuple[LogRecord, ...]

    @property
    def value_fen(self) -> int:
        """What belongs to the holder, fen."""
        return self.raw_balance_fen - self.overdraft_fen


@dataclass(frozen=True, slots=True)
class CardView:
    """What was read: `common` is None for a card that is not ours; `remark` says what it is then."""

    atr: bytes
    remark: str
    common: CommonData | None = None
    city: CityData | None = None
    applications: tuple[int, ...] = ()
    blocked: tuple[int, ...] = ()
    purses: tuple[PurseView, ...] = ()

    def purse(self, application: int) -> PurseView | None:
        """The purse of an application, None when there is none that answers."""
        return next((view for view in self.purses if view.application == application), None)


async def look(channel: Channel) -> CardView:
    """Read what may be read without a key or PIN; changes nothing on the card. Raises ReaderError, CardTorn."""
    atr = await channel.reset()
    replies = {item.number: await _select(channel, item.aid) for item in APPLICATIONS.values() if item is not MF}
    found = {number: reply for number, reply in replies.items() if reply.ok or reply.sw == FILE_INVALIDATED}
    common = await _common(channel, found)
    if common is None:
        return CardView(atr, await _remark(channel, bool(found)))
    purses = [view for number in found if number in PURSES and (view := await _purse(channel, APPLICATIONS[number]))]
    blocked = tuple(number for number, reply in found.items() if not reply.ok)
    return CardView(atr, "a card of ours", common, await _city(channel), tuple(found), blocked, tuple(purses))


async def _select(channel: Channel, aid: bytes) -> ResponseApdu:
    return (await channel.run([Select(aid).apdu()])).last()


async def _common(channel: Channel, found: dict[int, ResponseApdu]) -> CommonData | None:
    """EF 0015 of an application with a purse: as SELECT shows it, also of a blocked one, or as it is read."""
    for number, reply in found.items():
        if number in PURSES:
            aid = APPLICATIONS[number].aid
            try:
                raw = Select(aid).parse(reply.data).common
                if not raw:
                    await ask(channel, Select(aid))
                    raw = await ask(channel, ReadBinary(Sfi.COMMON, 30))
                return CommonData.decode(raw)
            except CardTorn:
                raise
            except (CardError, FormatError):
                continue
    return None


async def _remark(channel: Channel, has_application: bool) -> str:
    for aid, name in STRANGERS.items():
        if (await _select(channel, aid)).ok:
            return f"not a card of ours: {name}"
    if has_application:
        return "an application of ours without readable card data: personalisation was not finished"
    if (await _select(channel, MF.aid)).ok:
        return "a CPU card without our applications: a blank, or of another scheme"
    return "not a card of ours, and no application that we know"


async def _city(channel: Channel) -> CityData | None:
    try:
        await ask(channel, Select(APPLICATIONS[1].aid))
        return CityData.decode(await ask(channel, ReadBinary(Sfi.CITY, 60)))
    except CardTorn:
        raise
    except (CardError, FormatError):
        return None


async def _purse(channel: Channel, item: Application) -> PurseView | None:
    try:
        await ask(channel, Select(item.aid))
        balance_fen = await ask(channel, GetBalance())
    except CardTorn:
        raise
    except CardError:
        return None
    opened = await _opened(channel)
    suite = next((suite for suite in Suite if opened and opened.algorithm == suite), None)
    overdraft_fen = opened.overdraft_fen if opened else 0
    return PurseView(item.number, suite, balance_fen, overdraft_fen, await read_log(channel))


async def _opened(channel: Channel) -> PurchaseInitialisation | None:
    """The allowance, which only INITIALIZE tells; opening a purchase of 0 fen and leaving it changes nothing."""
    for index in PURCHASE_IDS:
        opening = InitPurchase(index, 0, bytes(6))
        reply = (await channel.run([opening.apdu()])).last()
        if reply.ok:
            return opening.read(reply)
    return None
