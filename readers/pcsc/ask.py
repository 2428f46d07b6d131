"""Single questions to a card: one typed command, whose card it is, its log."""

from typing import TypeVar

from cardcore.authority import CardIdentity
from cardcore.card_files import CommonData, LogRecord, MinistryData
from cardcore.card_map import ALL_APPLICATIONS, Sfi
from cardcore.commands import Command, ReadBinary, ReadRecord, Select
from cardcore.errors import FormatError
from cardcore.record import Suite
from cardcore.selection import read_common
from readers.pcsc.channel import Channel

T = TypeVar("T")

LOG_RECORDS = 10
LOG_RECORD_BYTES = 23
COMMON_BYTES = 30


async def ask(channel: Channel, command: Command[T]) -> T:
    """One typed command; raises CardError when refused, CardTorn when the card fell silent."""
    return command.read((await channel.run([command.apdu()])).last())


async def common_data(channel: Channel, application: int) -> CommonData | MinistryData:
    """Select an application and read whose card it is, in the layout of that application.

    Raises CardError or FormatError when it is not one of ours.
    """
    raw = (await ask(channel, Select(ALL_APPLICATIONS[application].aid))).common
    if not raw:
        raw = await ask(channel, ReadBinary(Sfi.COMMON, COMMON_BYTES))
    return read_common(application, raw)


async def identify(channel: Channel, application: int, suite: Suite) -> CardIdentity:
    """Select an application and say whose keys it has; errors as of `common_data`."""
    common = await common_data(channel, application)
    return CardIdentity(common.issuer, common.card, suite)


async def read_log(channel: Channel) -> tuple[LogRecord, ...]:
    """The log of the selected application, the newest first; () where it has none. Raises CardTorn, ReaderError."""
    reads = [ReadRecord(Sfi.LOG, number, LOG_RECORD_BYTES) for number in range(1, LOG_RECORDS + 1)]
    replies = await channel.run([read.apdu() for read in reads])
    if replies.torn:
        replies.last()
    try:
        return tuple(LogRecord.decode(reply.data) for reply in replies.answers if reply.ok)
    except FormatError:
        return ()
