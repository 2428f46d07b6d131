"""Single questions to a card: one typed command, whose card it is, its log."""

from itertools import takewhile
from typing import TypeVar

from cardcore.authority import CardIdentity
from cardcore.card_files import CommonData, LogRecord, MinistryData
from cardcore.card_map import ALL_APPLICATIONS, MF, MF_FID, Sfi
from cardcore.commands import Command, ReadBinary, ReadRecord, Select
from cardcore.errors import CardError
from cardcore.record import Suite
from cardcore.selection import Availability, Selection, read_common, read_selection
from cardcore.switches import BlockedSelect
from readers.pcsc.channel import CardTorn, Channel

T = TypeVar("T")

LOG_RECORDS = 10
LOG_RECORD_BYTES = 23
COMMON_BYTES = 30
TERMINAL_NUMBER_BYTES = 6
_CLOSED = {
    Availability.BLOCKED: "it is blocked, the rest of the card is not; unblock it, or replace the card",
    Availability.CARD_BLOCKED: "the whole card is blocked, for ever; replace it",
    Availability.ABSENT: "the card has none; take a card that has it",
}


async def ask(channel: Channel, command: Command[T]) -> T:
    """One typed command; raises CardError when refused, CardTorn when the card fell silent."""
    return command.read((await channel.run([command.apdu()])).last())


async def selected(channel: Channel, application: int, blocked_select: BlockedSelect) -> Selection:
    """Select an application; `blocked_select` is the profile's switch, and the MF is asked where 6A81 leaves it open
    whether the application or the whole card is blocked. Raises CardError for any other refusal."""
    command = Select(ALL_APPLICATIONS[application].aid)
    found = read_selection(command, (await channel.run([command.apdu()])).last(), blocked_select)
    if found.availability is not Availability.APPLICATION_OR_CARD_BLOCKED:
        return found
    open_card = (await channel.run([Select(MF.aid).apdu()])).last().ok
    return Selection(Availability.BLOCKED if open_card else Availability.CARD_BLOCKED)


async def common_data(
    channel: Channel, application: int, blocked_select: BlockedSelect = BlockedSelect.FCI_6283
) -> CommonData | MinistryData:
    """Select an application and read whose card it is, in the layout of that application.

    Raises CardError when it is blocked or absent, CardError or FormatError when it is not one of ours.
    """
    found = await selected(channel, application, blocked_select)
    if found.availability is not Availability.OPEN:
        raise CardError(f"application {application}: {_CLOSED[found.availability]}; nothing was changed")
    raw = found.control.common
    if not raw:
        raw = await ask(channel, ReadBinary(Sfi.COMMON, COMMON_BYTES))
    return read_common(application, raw)


async def identify(
    channel: Channel, application: int, suite: Suite, blocked_select: BlockedSelect = BlockedSelect.FCI_6283
) -> CardIdentity:
    """Select an application and say whose keys it has; errors as of `common_data`."""
    common = await common_data(channel, application, blocked_select)
    return CardIdentity(common.issuer, common.card, suite)


async def psam_number(channel: Channel) -> bytes:
    """The terminal number (6 bytes) that a PSAM shows; b"" of a blank, of one that has none yet, and of anything else.
    Raises CardTorn, ReaderError."""
    try:
        await ask(channel, Select(MF_FID.to_bytes(2, "big")))
        number = await ask(channel, ReadBinary(Sfi.TERMINAL_NUMBER, TERMINAL_NUMBER_BYTES))
    except CardTorn:
        raise
    except CardError:
        return b""
    return number if any(number) else b""


async def read_log(channel: Channel) -> tuple[LogRecord, ...]:
    """The log of the selected application, the newest first, up to the first record that is blank or none at all; ()
    where it has none. Raises CardTorn, ReaderError."""
    reads = [ReadRecord(Sfi.LOG, number, LOG_RECORD_BYTES) for number in range(1, LOG_RECORDS + 1)]
    replies = await channel.run([read.apdu() for read in reads])
    if replies.torn:
        replies.last()
    return tuple(map(LogRecord.decode, takewhile(_written, (reply.data for reply in replies.answers if reply.ok))))


def _written(record: bytes) -> bool:
    """A card may come with its whole log laid out in zeros or ones, to be written over later."""
    return len(record) == LOG_RECORD_BYTES and record not in (bytes(LOG_RECORD_BYTES), b"\xff" * LOG_RECORD_BYTES)
