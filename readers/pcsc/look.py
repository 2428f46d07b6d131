"""Reading a card at the counter: what it is, whose, what is on it; something sensible about a card that is not ours."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from cardcore.card_files import CityData, CommonData, LogRecord
from cardcore.card_map import APPLICATIONS, MF, Application, Sfi
from cardcore.commands import GetBalance, InitPurchase, ReadBinary, ReadRecord, Select
from cardcore.errors import CardError, FormatError
from readers.pcsc.channel import Channel
from readers.pcsc.purse import ask

LOG_RECORDS = 10
PURSES = (1, 3, 4)
# Applications of others that a counter meets (names of the schemes; docs/card.md has ours).
STRANGERS = {
    bytes.fromhex("A00000000386980701"): "a construction-ministry city card",
    bytes.fromhex("A000000333010101"): "a bank debit card",
    bytes.fromhex("A000000333010102"): "a bank credit card",
    bytes.fromhex("A000000632010106"): "a T-Union card with electronic cash",
}


@dataclass(frozen=True, slots=True)
class PurseView:
    """One purse: raw balance in fen (allowance included), and the newest log records."""

    application: int
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
    purses: tuple[PurseView, ...] = ()


async def look(channel: Channel) -> CardView:
    """Read what may be read without a key or PIN; changes nothing on the card. Raises ReaderError, CardTorn."""
    atr = await channel.reset()
    found = [item for item in APPLICATIONS.values() if item is not MF and await _is_there(channel, item.aid)]
    common = await _common(channel, found)
    if common is None:
        return CardView(atr, await _remark(channel, bool(found)))
    purses = [view for item in found if item.number in PURSES and (view := await _purse(channel, item))]
    return CardView(
        atr, "a card of ours", common, await _city(channel), tuple(item.number for item in found), tuple(purses)
    )


async def _is_there(channel: Channel, aid: bytes) -> bool:
    return (await channel.run([Select(aid).apdu()])).last().ok


async def _common(channel: Channel, found: list[Application]) -> CommonData | None:
    for item in found:
        if item.number in PURSES:
            try:
                control = await ask(channel, Select(item.aid))
                return CommonData.decode(control.common or await ask(channel, ReadBinary(Sfi.COMMON, 30)))
            except (CardError, FormatError):
                continue
    return None


async def _remark(channel: Channel, has_application: bool) -> str:
    for aid, name in STRANGERS.items():
        if await _is_there(channel, aid):
            return f"not a card of ours: {name}"
    if has_application:
        return "an application of ours without readable card data: personalisation was not finished"
    if await _is_there(channel, MF.aid):
        return "a CPU card without our applications: a blank, or of another scheme"
    return "not a card of ours, and no application that we know"


async def _city(channel: Channel) -> CityData | None:
    try:
        await ask(channel, Select(APPLICATIONS[1].aid))
        return CityData.decode(await ask(channel, ReadBinary(Sfi.CITY, 60)))
    except (CardError, FormatError):
        return None


async def _purse(channel: Channel, item: Application) -> PurseView | None:
    await ask(channel, Select(item.aid))
    try:
        balance_fen = await ask(channel, GetBalance())
    except CardError:
        return None
    return PurseView(item.number, balance_fen, await _overdraft(channel), tuple([x async for x in _log(channel)]))


async def _overdraft(channel: Channel) -> int:
    """The allowance, which only INITIALIZE tells; opening a purchase of 0 fen and leaving it changes nothing."""
    for index in (0x01, 0x11, 0x02, 0x12, 0x03, 0x13):
        opening = InitPurchase(index, 0, bytes(6))
        reply = (await channel.run([opening.apdu()])).last()
        if reply.ok:
            return opening.read(reply).overdraft_fen
    return 0


async def _log(channel: Channel) -> AsyncIterator[LogRecord]:
    for number in range(1, LOG_RECORDS + 1):
        try:
            yield LogRecord.decode(await ask(channel, ReadRecord(Sfi.LOG, number, 23)))
        except (CardError, FormatError):
            return
