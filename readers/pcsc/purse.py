"""The counter's flows with one card: load, act, and what to do when the card falls silent (D5, rules 6 and 17)."""

from dataclasses import dataclass
from typing import TypeVar

from cardcore.apdu import ResponseApdu
from cardcore.authority import ActAuthority, ActGrant, ActRequest, CardIdentity, LoadAuthority, LoadGrant, LoadRequest
from cardcore.card_files import CommonData
from cardcore.card_map import APPLICATIONS, KeyType, Sfi, act_application, key_id
from cardcore.commands import (
    Command,
    CreditLoad,
    GetTransactionProof,
    InitLoad,
    InternalAuthenticate,
    LoadInitialisation,
    ReadBinary,
    Select,
    VerifyPin,
)
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError, FormatError, ReaderError
from cardcore.purse import CounterSeen, Evidence, Finding, Outcome, Unknown, judge, resolve
from cardcore.record import Sector, Suite
from cardcore.status import NOT_AVAILABLE
from readers.pcsc.channel import Channel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Till:
    """Where a load is made: terminal id and number (6 bytes) of the counter, and who takes the money."""

    terminal: int
    terminal_number: bytes
    channel: str


@dataclass(frozen=True, slots=True)
class Load:
    """A load as far as it came: what the card opened, what the desk granted, how it ended."""

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


async def identify(channel: Channel, application: int, suite: Suite) -> CardIdentity:
    """Select an application and read whose card it is; raises CardError when it is not one of ours."""
    control = await ask(channel, Select(APPLICATIONS[application].aid))
    raw = control.common or await ask(channel, ReadBinary(Sfi.COMMON, 30))
    common = CommonData.decode(raw)
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
        outcome = await recover_load(channel, evidence, purse, index, pin)
    return Load(opened, grant, index, outcome)


async def _credit(channel: Channel, grant: LoadGrant) -> ResponseApdu | None:
    """The answer to CREDIT FOR LOAD; None when whatever came cannot be told from silence."""
    try:
        replies = await channel.run([CreditLoad(grant.date, grant.time, grant.mac2).apdu()])
    except ReaderError:
        return None
    return None if replies.torn else replies.answers[-1]


async def recover_load(channel: Channel, evidence: Evidence, purse: int, key_index: int, pin: str) -> Outcome:
    """Ask the card that came back: its proof, else its counter. Unknown when the card is gone or cannot decide it."""
    try:
        await channel.reset()
        await ask(channel, Select(APPLICATIONS[purse].aid))
        finding = await _proof(channel, evidence) or await _counter(channel, evidence, key_index, pin)
    except (CardError, FormatError, ReaderError):
        return Unknown(evidence)
    return resolve(evidence, finding)


async def _proof(channel: Channel, evidence: Evidence) -> Finding | None:
    command = GetTransactionProof(evidence.transaction_type, evidence.counter)
    reply = (await channel.run([command.apdu()])).last()
    return None if reply.sw == NOT_AVAILABLE else command.read(reply)


async def _counter(channel: Channel, evidence: Evidence, key_index: int, pin: str) -> Finding:
    await ask(channel, VerifyPin(pin))
    opened = await ask(channel, InitLoad(key_index, evidence.amount_fen, evidence.terminal_number))
    return CounterSeen(opened.counter, opened.raw_balance_fen)


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
