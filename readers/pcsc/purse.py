"""The counter's flows with one card: load, act, and what to do when the card falls silent (D5, rules 6 and 17)."""

from dataclasses import dataclass
from typing import TypeVar

from cardcore.apdu import ResponseApdu
from cardcore.authority import ActAuthority, ActGrant, ActRequest, CardIdentity, LoadAuthority, LoadGrant, LoadRequest
from cardcore.card_files import CommonData, LogRecord
from cardcore.card_map import APPLICATIONS, KeyType, Sfi, act_application, key_id
from cardcore.commands import (
    Command,
    CreditLoad,
    GetTransactionProof,
    InitLoad,
    InternalAuthenticate,
    LoadInitialisation,
    ReadBinary,
    ReadRecord,
    Select,
    VerifyPin,
)
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError, FormatError, ReaderError
from cardcore.purse import Committed, CounterSeen, Evidence, Finding, Outcome, Refused, Unknown, judge, resolve
from cardcore.record import Sector, Suite
from cardcore.status import NOT_AVAILABLE
from readers.pcsc.channel import Channel

T = TypeVar("T")

LOG_RECORDS = 10
LOG_RECORD_BYTES = 23


@dataclass(frozen=True, slots=True)
class Till:
    """Where a load is made: terminal id and number (6 bytes) of the counter, and who takes the money."""

    terminal: int
    terminal_number: bytes
    channel: str


@dataclass(frozen=True, slots=True)
class Load:
    """A load as far as it came: whose card, what it opened, what the desk granted, how it ended."""

    identity: CardIdentity
    opened: LoadInitialisation
    grant: LoadGrant
    key_index: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Act:
    """A finished online act: the desk's grant, and the card's cryptogram (8 bytes) with the key that made it."""

    grant: ActGrant
    cryptogram: bytes
    key_index: int


async def ask(channel: Channel, command: Command[T]) -> T:
    """One typed command; raises CardError when refused, CardTorn when the card fell silent."""
    return command.read((await channel.run([command.apdu()])).last())


async def common_data(channel: Channel, application: int) -> CommonData:
    """Select an application and read whose card it is; raises CardError or FormatError when it is not one of ours."""
    raw = (await ask(channel, Select(APPLICATIONS[application].aid))).common
    if not raw:
        raw = await ask(channel, ReadBinary(Sfi.COMMON, 30))
    return CommonData.decode(raw)


async def identify(channel: Channel, application: int, suite: Suite) -> CardIdentity:
    """Select an application and say whose keys it has; errors as of `common_data`."""
    common = await common_data(channel, application)
    return CardIdentity(common.issuer, common.card, suite)


async def load(
    channel: Channel, authority: LoadAuthority, till: Till, purse: int, suite: Suite, amount_fen: int, pin: str
) -> Load:
    """Load `amount_fen` onto a purse; the card must be selected by nobody else.

    Raises CardError or RefusedError while nothing has been granted. After the grant every ending is a `Load`: an
    `Unknown` outcome has been asked of the card once more, and stays open until the card comes back (`recover_load`).
    A cancelled call may leave an authorised load, which is in doubt until its record or the card's next tap.
    """
    identity = await identify(channel, purse, suite)
    await ask(channel, VerifyPin(pin))
    index = key_id(KeyType.LOAD, suite)
    opened = await ask(channel, InitLoad(index, amount_fen, till.terminal_number))
    grant = await authority.authorise_load(
        LoadRequest(
            identity=identity,
            terminal=till.terminal,
            terminal_number=till.terminal_number,
            purse=purse,
            generation=0,
            key_suite=suite,
            key_version=opened.key_version,
            key_index=index,
            amount_fen=amount_fen,
            channel=till.channel,
            raw_balance_fen=opened.raw_balance_fen,
            counter=opened.counter,
            random=opened.random,
            mac1=opened.mac1,
        )
    )
    evidence = Evidence.of(TransactionType.LOAD, opened, amount_fen, till.terminal_number, grant.date, grant.time)
    outcome = judge(evidence, CreditLoad.name, await _credit(channel, grant))
    if isinstance(outcome, Unknown):
        outcome = await recover_load(channel, evidence, purse, index, pin, identity.card)
    return Load(identity, opened, grant, index, outcome)


async def _credit(channel: Channel, grant: LoadGrant) -> ResponseApdu | None:
    """The answer to CREDIT FOR LOAD; None when whatever came cannot be told from silence."""
    try:
        replies = await channel.run([CreditLoad(grant.date, grant.time, grant.mac2).apdu()])
    except ReaderError:
        return None
    return None if replies.torn else replies.answers[-1]


async def recover_load(
    channel: Channel, evidence: Evidence, purse: int, key_index: int, pin: str, card: bytes
) -> Outcome:
    """As `find_out`, but Unknown also when the card is gone, refuses, or is not the one."""
    try:
        return await find_out(channel, evidence, purse, key_index, pin, card)
    except (CardError, FormatError, ReaderError):
        return Unknown(evidence)


async def find_out(channel: Channel, evidence: Evidence, purse: int, key_index: int, pin: str, card: bytes) -> Outcome:
    """Ask `card` (its 10-byte serial) how a load ended: its proof, else its log, else its counter.

    Unknown when none of them decides it. Raises CardError (also for another card, or a wrong PIN), CardTorn or
    ReaderError: the load then stays as open as it was.
    """
    await channel.reset()
    found = (await common_data(channel, purse)).card
    if found != card:
        raise CardError(f"this is card {found.hex()}, not {card.hex()}; put that card on the reader")
    proof = await _proof(channel, evidence)
    log = await read_log(channel)
    if proof is not None and log and not _tells(log[0], evidence):
        return Refused(evidence, f"counter {evidence.counter} went to another load of the card; this one never came")
    if proof is None and any(_tells(record, evidence) for record in log):
        return Committed(evidence)
    return resolve(evidence, proof or await _counter(channel, evidence, key_index, pin))


def _tells(record: LogRecord, evidence: Evidence) -> bool:
    """Whether a log record is of this load; its counter is left out, for cards differ in which one they write."""
    told = record.transaction_type, record.amount_fen, record.terminal_number, record.date, record.time
    sent = evidence.transaction_type, evidence.amount_fen, evidence.terminal_number, evidence.date, evidence.time
    return told == sent


async def _proof(channel: Channel, evidence: Evidence) -> Finding | None:
    command = GetTransactionProof(evidence.transaction_type, evidence.counter)
    reply = (await channel.run([command.apdu()])).last()
    return None if reply.sw == NOT_AVAILABLE else command.read(reply)


async def _counter(channel: Channel, evidence: Evidence, key_index: int, pin: str) -> Finding:
    await ask(channel, VerifyPin(pin))
    opened = await ask(channel, InitLoad(key_index, evidence.amount_fen, evidence.terminal_number))
    return CounterSeen(opened.counter, opened.raw_balance_fen)


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


async def act(channel: Channel, authority: ActAuthority, request: ActRequest, pin: str) -> Act:
    """An online act of social security or medical care: PIN, grant, the card's cryptogram.

    Raises CardError, CardTorn or RefusedError; an act that was opened and not finished expires by itself.
    """
    application = act_application(Sector(request.sector))
    await ask(channel, Select(application.aid))
    await ask(channel, VerifyPin(pin))
    grant = await authority.open_act(request)
    index = key_id(KeyType.ACT, request.identity.suite)
    return Act(grant, await ask(channel, InternalAuthenticate(index, grant.digest)), index)
