"""How a purse transaction ended, asked of the card itself: at once, or when it comes back (D5, rule 17)."""

from collections.abc import Awaitable, Callable

from cardcore.apdu import ResponseApdu
from cardcore.commands import Command, GetTransactionProof, InitLoad, InitPurchase, InitUpdate, VerifyPin
from cardcore.commands.purse import TransactionProof, TransactionType
from cardcore.errors import CardError, FormatError, ReaderError
from cardcore.purse import Committed, CounterSeen, Evidence, Outcome, Refused, Unknown, judge, resolve
from cardcore.status import NOT_AVAILABLE
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.ask import ask, common_data, read_log
from readers.pcsc.budget import Budget, OutOfTime
from readers.pcsc.channel import Channel

_WORDS = {
    TransactionType.UNLOAD: "unload",
    TransactionType.PURCHASE: "debit",
    TransactionType.COMPOSITE: "debit",
    TransactionType.OVERDRAFT: "change of the allowance",
}
Counter = Callable[[], Awaitable[CounterSeen]]


async def decide(channel: Channel, evidence: Evidence, command: Command[object], budget: Budget) -> Outcome:
    """Send the one command that moves value or an allowance, and tell by its answer how that ended.

    Refused also when the time was gone before it was sent; Unknown when whatever came cannot be told from silence.
    """
    reply: ResponseApdu | None = None
    with budget.at(command.name):
        try:
            replies = await channel.run([command.apdu()])
            reply = None if replies.torn else replies.answers[-1]
        except OutOfTime as error:
            if not error.sent:
                return Refused(evidence, f"{error}; the card heard nothing of it")
        except ReaderError:
            pass
        return judge(evidence, command.name, reply)


async def recover_load(
    channel: Channel,
    evidence: Evidence,
    purse: int,
    key_index: int,
    pin: str,
    card: bytes,
    switches: Switches = DEFAULTS,
) -> Outcome:
    """As `find_out`, but Unknown also when the card is gone, refuses, or is not the one."""
    try:
        return await find_out(channel, evidence, purse, key_index, pin, card, switches)
    except (CardError, FormatError, ReaderError):
        return Unknown(evidence)


async def find_out(
    channel: Channel,
    evidence: Evidence,
    purse: int,
    key_index: int,
    pin: str,
    card: bytes,
    switches: Switches = DEFAULTS,
) -> Outcome:
    """Ask `card` (its 10-byte serial) how a load or an unload ended: its proof, else its log, else its counter, which a
    load by the key `key_index` opens for either: an unload opens on no purse that is in its allowance.

    A `Committed` of an unload with a MAC has the MAC3 of the card's proof, which is true once the host has checked it;
    one without is what the log says, by which no money is paid.
    `switches` are those of its profile: which counter the log has, and what SELECT says of a blocked application.

    Unknown when none of them decides it. Raises CardError (also for another card, or a wrong PIN), CardTorn or
    ReaderError: the load then stays as open as it was.
    """

    async def counter() -> CounterSeen:
        await ask(channel, VerifyPin(pin))
        opened = await ask(channel, InitLoad(key_index, evidence.amount_fen, evidence.terminal_number))
        return CounterSeen(opened.counter, opened.raw_balance_fen)

    return await _found(channel, evidence, purse, card, counter, switches)


async def find_allowance(
    channel: Channel, evidence: Evidence, purse: int, key_index: int, card: bytes, switches: Switches = DEFAULTS
) -> Outcome:
    """As `find_out`, for a change of the allowance, which needs no PIN."""

    async def counter() -> CounterSeen:
        opened = await ask(channel, InitUpdate(key_index, evidence.terminal_number))
        return CounterSeen(opened.counter, opened.raw_balance_fen)

    return await _found(channel, evidence, purse, card, counter, switches)


async def find_debit(
    channel: Channel, evidence: Evidence, purse: int, key_index: int, card: bytes, switches: Switches = DEFAULTS
) -> Outcome:
    """As `find_out`, for a purchase, which needs no PIN."""

    async def counter() -> CounterSeen:
        # Opening 0 fen tells the counter, and never lacks the balance.
        opened = await ask(channel, InitPurchase(key_index, 0, evidence.terminal_number))
        return CounterSeen(opened.counter, opened.raw_balance_fen)

    return await _found(channel, evidence, purse, card, counter, switches)


async def recover_debit(
    channel: Channel, evidence: Evidence, purse: int, key_index: int, card: bytes, switches: Switches = DEFAULTS
) -> Outcome:
    """As `find_debit`, but Unknown also when the card is gone, refuses, or is not the one."""
    try:
        return await find_debit(channel, evidence, purse, key_index, card, switches)
    except (CardError, FormatError, ReaderError):
        return Unknown(evidence)


async def _found(
    channel: Channel, evidence: Evidence, purse: int, card: bytes, counter: Counter, switches: Switches
) -> Outcome:
    await channel.reset()
    found = (await common_data(channel, purse, switches.blocked_select)).card
    if found != card:
        raise CardError(f"this is card {found.hex()}, not {card.hex()}; put that card on the reader")
    proof = await _proof(channel, evidence)
    if proof is not None and proof.mac == evidence.mac2:
        return resolve(evidence, proof)
    log = await read_log(channel)
    # Terminal, date, time and sum may be those of two transactions: only the counter tells them apart.
    by_log = [resolve(evidence, record, switches.log_counter) for record in log]
    if any(isinstance(told, Committed) for told in by_log):
        return Committed(evidence) if proof is None or evidence.mac2 else resolve(evidence, proof)
    if proof is not None and log:
        what = _WORDS.get(evidence.transaction_type, "load")
        return Refused(evidence, f"counter {evidence.counter} went to another {what} of the card; this one never came")
    # The log needs no PIN, and tells also of a card whose counter has ended.
    by_others = next((told for told in by_log if isinstance(told, Refused)), None)
    return by_others or resolve(evidence, proof or await counter())


async def _proof(channel: Channel, evidence: Evidence) -> TransactionProof | None:
    command = GetTransactionProof(evidence.transaction_type, evidence.counter)
    reply = (await channel.run([command.apdu()])).last()
    return None if reply.sw == NOT_AVAILABLE else command.read(reply)
