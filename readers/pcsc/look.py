"""Reading a card at the counter: what it is, whose, what is on it; something sensible about a card that is not ours."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from cardcore.apdu import ResponseApdu
from cardcore.card_files import CityData, CommonData, LogRecord
from cardcore.card_map import APPLICATIONS, MF, Application, Sfi
from cardcore.commands import GetBalance, InitPurchase, PurchaseInitialisation, ReadBinary, Select
from cardcore.errors import CardError, FormatError
from cardcore.record import Suite
from cardcore.status import FILE_INVALIDATED
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, read_log
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.strangers import MUTE, OTHER_CITY, UNFINISHED, memory_card, remark

OURS = "本系统的卡 a card of ours"
PURSES = (1, 3, 4)
PURCHASE_IDS = (0x01, 0x11, 0x02, 0x12, 0x03, 0x13)
# A T-Union card of ours has more than its purse: social security, medical care or utilities beside it.
OUR_OTHERS = frozenset({2, 3, 4, 5})


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
    """What was read; `remark` (Chinese and English) says what the card is.

    `common` is None where no card data of ours can be read. A T-Union card of another city has its data, but is not
    `ours`.
    """

    atr: bytes
    remark: str
    common: CommonData | None = None
    city: CityData | None = None
    applications: tuple[int, ...] = ()
    blocked: tuple[int, ...] = ()
    purses: tuple[PurseView, ...] = ()
    ours: bool = False

    def purse(self, application: int) -> PurseView | None:
        """The purse of an application, None when there is none that answers."""
        return next((view for view in self.purses if view.application == application), None)


async def look(channel: Channel) -> CardView:
    """Read what may be read without a key or PIN; changes nothing on any card. Raises ReaderError, CardTorn.

    CardTorn only when the card left in the middle: one that is there and answers no command is a view that says so.
    """
    atr = await channel.reset()
    if what := memory_card(atr):
        return CardView(atr, what)
    try:
        await _select(channel, MF.aid)
    except CardTorn:
        # It has left, which this reset raises, or it was there all the time.
        await channel.reset()
        with suppress(CardTorn):
            await _select(channel, MF.aid)
            return await anew(channel, partial(_look, channel, atr))
        return CardView(await channel.reset(), MUTE)
    return await anew(channel, partial(_look, channel, atr))


async def _look(channel: Channel, atr: bytes) -> CardView:
    replies = {item.number: await _select(channel, item.aid) for item in APPLICATIONS.values() if item is not MF}
    found = {number: reply for number, reply in replies.items() if reply.ok or reply.sw == FILE_INVALIDATED}
    common = await _common(channel, found)
    if common is None:
        return CardView(atr, UNFINISHED if found else await remark(channel))
    blocked = tuple(number for number, reply in found.items() if not reply.ok)
    if not OUR_OTHERS & set(found):
        balances = [view for number in found if number in PURSES and (view := await _balance(channel, number))]
        return CardView(
            atr, OTHER_CITY, common, await _city(channel), tuple(found), blocked, tuple(balances), ours=False
        )
    purses = [view for number in found if number in PURSES and (view := await _purse(channel, APPLICATIONS[number]))]
    city = await _city(channel)
    return CardView(atr, OURS, common, city, tuple(found), blocked, tuple(purses), ours=True)


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


async def _city(channel: Channel) -> CityData | None:
    try:
        await ask(channel, Select(APPLICATIONS[1].aid))
        return CityData.decode(await ask(channel, ReadBinary(Sfi.CITY, 60)))
    except CardTorn:
        raise
    except (CardError, FormatError):
        return None


async def _balance(channel: Channel, number: int) -> PurseView | None:
    """Raw balance and log of a card that is not ours: nothing is opened on it."""
    try:
        await ask(channel, Select(APPLICATIONS[number].aid))
        balance_fen = await ask(channel, GetBalance())
    except CardTorn:
        raise
    except CardError:
        return None
    return PurseView(number, None, balance_fen, 0, await read_log(channel))


async def _purse(channel: Channel, item: Application) -> PurseView | None:
    view = await _balance(channel, item.number)
    if view is None:
        return None
    opened = await _opened(channel)
    suite = next((suite for suite in Suite if opened and opened.algorithm == suite), None)
    return replace(view, suite=suite, overdraft_fen=opened.overdraft_fen if opened else 0)


async def _opened(channel: Channel) -> PurchaseInitialisation | None:
    """The allowance, which only INITIALIZE tells; opening a purchase of 0 fen and leaving it changes nothing."""
    for index in PURCHASE_IDS:
        opening = InitPurchase(index, 0, bytes(6))
        reply = (await channel.run([opening.apdu()])).last()
        if reply.ok:
            return opening.read(reply)
    return None
