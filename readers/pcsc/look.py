"""Reading a card at the counter: what it is, whose, what is on it; something sensible about a card that is not ours."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from cardcore.apdu import ResponseApdu
from cardcore.card_files import CardId, CityData, CommonData, DirectoryEntry, LogRecord, MinistryData
from cardcore.card_map import ALL_APPLICATIONS, CITY_CARD, MF, TRANSIT, Application, Sfi
from cardcore.commands import GetBalance, InitPurchase, PurchaseInitialisation, ReadBinary, ReadRecord, Select
from cardcore.errors import CardError, FormatError
from cardcore.record import Suite
from cardcore.selection import Availability, Selection, read_common
from cardcore.switches import BlockedSelect
from readers.pcsc.anew import anew
from readers.pcsc.ask import COMMON_BYTES, ask, read_log, selected
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.strangers import HIDDEN, MUTE, OTHER_CITY, OTHER_CITY_CARD, UNFINISHED, memory_card, remark

OURS = "本系统的卡 a card of ours"
PURSES = (1, 3, 4, CITY_CARD.number)
PURCHASE_IDS = (0x01, 0x11, 0x02, 0x12, 0x03, 0x13)
# What nobody else has: T-Union and social security are on other cities' cards too.
OUR_OTHERS = frozenset({3, 4, 5})


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

    `common` is None where no card data of ours can be read. A T-Union or city card of another scheme has its data, but
    is not `ours`.
    """

    atr: bytes
    remark: str
    common: CommonData | MinistryData | None = None
    city: CityData | None = None
    applications: tuple[int, ...] = ()
    blocked: tuple[int, ...] = ()
    purses: tuple[PurseView, ...] = ()
    ours: bool = False

    @property
    def concession(self) -> int | None:
        """Class of the holder: a city card has it beside its serial, any other in EF 0017; None where it is unknown."""
        if isinstance(self.common, MinistryData):
            return self.common.sub_type
        return self.city.concession if self.city else None

    def purse(self, application: int) -> PurseView | None:
        """The purse of an application, None when there is none that answers."""
        return next((view for view in self.purses if view.application == application), None)


async def look(channel: Channel, blocked_select: BlockedSelect = BlockedSelect.FCI_6283) -> CardView:
    """Read what may be read without a key or PIN; changes nothing on any card. Raises ReaderError, CardTorn.

    `blocked_select` is the switch of the profile whose cards are expected here.

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
            return await anew(channel, partial(_look, channel, atr, blocked_select))
        return CardView(await channel.reset(), MUTE)
    return await anew(channel, partial(_look, channel, atr, blocked_select))


async def _look(channel: Channel, atr: bytes, blocked_select: BlockedSelect) -> CardView:
    found: dict[int, Selection] = {}
    for item in ALL_APPLICATIONS.values():
        if item is not MF and (shown := await _shown(channel, item, blocked_select)):
            found[item.number] = shown
    common = await _common(channel, found)
    blocked = tuple(number for number, shown in found.items() if shown.availability is Availability.BLOCKED)
    if common is None:
        # A blocked purse may show nothing, not even whose it is.
        told = HIDDEN if set(blocked) & set(PURSES) else await _unreadable(channel, found)
        return CardView(atr, told, applications=tuple(found), blocked=blocked)
    ours = bool(OUR_OTHERS & set(found)) or (isinstance(common, MinistryData) and await _made_here(channel, common))
    read = _purse if ours else _balance
    purses = [view for number in found if number in PURSES and (view := await read(channel, ALL_APPLICATIONS[number]))]
    city = await _city(channel) if TRANSIT.number in found else None
    told = OURS if ours else OTHER_CITY_CARD if isinstance(common, MinistryData) else OTHER_CITY
    return CardView(atr, told, common, city, tuple(found), blocked, tuple(purses), ours)


async def _unreadable(channel: Channel, found: dict[int, Selection]) -> str:
    """What a card is whose EF 0015 tells nothing: one of ours that was never finished has none, or an empty one."""
    if OUR_OTHERS & set(found):
        return UNFINISHED
    if TRANSIT.number in found:
        await _select(channel, TRANSIT.aid)
        reply = (await channel.run([ReadBinary(Sfi.COMMON, COMMON_BYTES).apdu()])).last()
        return OTHER_CITY if any(reply.data) else UNFINISHED
    shown = found[CITY_CARD.number].control.common if CITY_CARD.number in found else None
    # Laid out and never filled is how ours begin; what says something, in a way that we cannot read, is another city's.
    return UNFINISHED if shown and not any(shown) else await remark(channel)


async def _made_here(channel: Channel, common: MinistryData) -> bool:
    """Whether a city card has the form of ours: its directory lists the application, and EF 0005 says the same of the
    card as EF 0015. That is a hint for the clerk; what proves the card is its keys."""
    try:
        await ask(channel, Select(MF.aid))
        listed = DirectoryEntry.decode(await ask(channel, ReadRecord(Sfi.DIRECTORY, 1)))
        told = CardId.decode(await ask(channel, ReadBinary(Sfi.CARD_ID, COMMON_BYTES)))
    except CardTorn:
        raise
    except (CardError, FormatError):
        return False
    same = (told.issuer, told.city, told.serial) == (common.institution, common.city, common.serial)
    return same and listed.aid == CITY_CARD.aid


async def _shown(channel: Channel, item: Application, blocked_select: BlockedSelect) -> Selection | None:
    """An application that is there, open or blocked; None where the card shows none, or refuses to say."""
    try:
        found = await selected(channel, item.number, blocked_select)
    except CardTorn:
        raise
    except CardError:
        # An FCI of another form is no refusal: the files behind it may still be read.
        return Selection(Availability.OPEN) if (await _select(channel, item.aid)).ok else None
    return found if found.availability in (Availability.OPEN, Availability.BLOCKED) else None


async def _select(channel: Channel, aid: bytes) -> ResponseApdu:
    return (await channel.run([Select(aid).apdu()])).last()


async def _common(channel: Channel, found: dict[int, Selection]) -> CommonData | MinistryData | None:
    """EF 0015 of an application with a purse: as SELECT shows it, also of a blocked one, or as it is read."""
    for number, shown in found.items():
        if number in PURSES:
            aid = ALL_APPLICATIONS[number].aid
            with suppress(FormatError):
                return read_common(number, shown.control.common or b"")
            try:
                await _select(channel, aid)
                return read_common(number, await ask(channel, ReadBinary(Sfi.COMMON, COMMON_BYTES)))
            except CardTorn:
                raise
            except (CardError, FormatError):
                continue
    return None


async def _city(channel: Channel) -> CityData | None:
    try:
        await ask(channel, Select(TRANSIT.aid))
        return CityData.decode(await ask(channel, ReadBinary(Sfi.CITY, 60)))
    except CardTorn:
        raise
    except (CardError, FormatError):
        return None


async def _balance(channel: Channel, item: Application) -> PurseView | None:
    """Raw balance and log of a card that is not ours: nothing is opened on it."""
    if not (await _select(channel, item.aid)).ok:
        return None
    try:
        balance_fen = await ask(channel, GetBalance())
    except CardTorn:
        raise
    except CardError:
        return None
    return PurseView(item.number, None, balance_fen, 0, await read_log(channel))


async def _purse(channel: Channel, item: Application) -> PurseView | None:
    view = await _balance(channel, item)
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
