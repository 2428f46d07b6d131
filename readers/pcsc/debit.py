"""A purchase at a counter: the card on one side, a PSAM of the pool on the other (docs/card.md; D5)."""

from dataclasses import dataclass

from cardcore.apdu import ResponseApdu
from cardcore.authority import CardIdentity
from cardcore.card_map import card_factor, city_factor
from cardcore.commands import DebitPurchase, InitPurchase, PurchaseInitialisation
from cardcore.commands.psam import CreditSam, InitSamPurchase
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError, ReaderError
from cardcore.purse import Committed, Evidence, Outcome, Refused, Unknown, judge
from cardcore.record import Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget, OutOfTime, TimedChannel
from readers.pcsc.channel import Channel
from readers.pcsc.recovery import recover_debit


@dataclass(frozen=True, slots=True)
class Purchase:
    """What is to be paid: fen, from which purse by which purchase key, at which terminal, at what BCD date and time."""

    amount_fen: int
    purse: int
    suite: Suite
    key_index: int
    terminal_number: bytes
    date: bytes
    time: bytes


@dataclass(frozen=True, slots=True)
class Debit:
    """A debit as far as it came; `transaction` is the PSAM's number, and `genuine` its word on the card's MAC2.

    `genuine` is None while the PSAM was not asked: nothing was committed, or it fell silent. `ran_out_at` is the step
    at which the time was gone.
    """

    identity: CardIdentity
    opened: PurchaseInitialisation
    transaction: int
    outcome: Outcome
    genuine: bool | None = None
    ran_out_at: str = ""


async def debit(
    channel: Channel, sam: Channel, wanted: Purchase, budget: Budget | None = None, switches: Switches = DEFAULTS
) -> Debit:
    """Take an amount off a purse; `sam` is leased for as long as this takes, `switches` are those of the profile.

    Raises CardError, ReaderError or OutOfTime before DEBIT FOR PURCHASE is sent, and nothing was taken then (the PSAM's
    number may have moved, which is legal). From there on every ending is a `Debit`; an `Unknown` outcome has been asked
    of the card once more and stays open until its next tap (`recovery.find_debit`). A cancelled call is as Unknown.
    """
    budget = budget or Budget()
    card, psam = TimedChannel(channel, budget), TimedChannel(sam, budget)

    async def opening() -> tuple[CardIdentity, PurchaseInitialisation]:
        with budget.at("reading the card"):
            identity = await identify(card, wanted.purse, wanted.suite, switches.blocked_select)
        with budget.at(InitPurchase.name):
            return identity, await ask(card, InitPurchase(wanted.key_index, wanted.amount_fen, wanted.terminal_number))

    identity, opened = await anew(card, opening)
    with budget.at(InitSamPurchase.name):
        granted = await ask(
            psam,
            InitSamPurchase(
                opened,
                wanted.amount_fen,
                TransactionType.PURCHASE,
                wanted.date,
                wanted.time,
                card_factor(identity.card),
                city_factor(identity.issuer),
                switches.psam_factor_order,
            ),
        )
    evidence = Evidence.of(
        TransactionType.PURCHASE, opened, wanted.amount_fen, wanted.terminal_number, wanted.date, wanted.time
    )
    with budget.at(DebitPurchase.name):
        command = DebitPurchase(granted.terminal_transaction, wanted.date, wanted.time, granted.mac1)
        outcome = await _debited(card, evidence, command)
    if isinstance(outcome, Unknown):
        with budget.at("asking the card how it ended"):
            outcome = await recover_debit(card, evidence, wanted.purse, wanted.key_index, identity.card, switches)
    with budget.at(CreditSam.name):
        genuine = await _genuine(psam, outcome)
    return Debit(identity, opened, granted.terminal_transaction, outcome, genuine, budget.ran_out_at)


async def _debited(card: Channel, evidence: Evidence, command: DebitPurchase) -> Outcome:
    reply: ResponseApdu | None
    try:
        replies = await card.run([command.apdu()])
        reply = None if replies.torn else replies.answers[-1]
    except ReaderError as error:
        if isinstance(error, OutOfTime) and not error.sent:
            return Refused(evidence, f"{error}; the card heard nothing of it")
        reply = None
    return judge(evidence, command.name, reply)


async def _genuine(psam: Channel, outcome: Outcome) -> bool | None:
    """Whether the PSAM takes the card's MAC2; None where there is none, or no PSAM that answers."""
    if not isinstance(outcome, Committed) or outcome.mac is None:
        return None
    try:
        await ask(psam, CreditSam(outcome.mac))
    except ReaderError:
        return None
    except CardError as refusal:
        return None if refusal.sw == 0 else False
    return True
