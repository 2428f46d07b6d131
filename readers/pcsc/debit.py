"""A purchase, simple or composite: the card on one side, a PSAM of the pool on the other (docs/card.md; D5).

A composite purchase writes records together with the money, or neither. How a debit is opened is all that flows differ
in (`Opening`); `readers.pcsc.metro` opens those of a gate.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cardcore.authority import CardIdentity
from cardcore.card_map import card_factor, city_factor
from cardcore.commands import DebitPurchase, InitComposite, InitPurchase, PurchaseInitialisation, UpdateComposite
from cardcore.commands.psam import CreditSam, InitSamPurchase
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError, ReaderError
from cardcore.purse import Committed, Evidence, Outcome, Unknown
from cardcore.record import Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget, TimedChannel
from readers.pcsc.channel import Channel
from readers.pcsc.recovery import decide, recover_debit


@dataclass(frozen=True, slots=True)
class Purchase:
    """What is to be paid: fen, from which purse by which purchase key, at which terminal, at what BCD date and time.

    `records` change with the debit; a composite purchase has at least one, at the latest once it is opened.
    """

    amount_fen: int
    purse: int
    suite: Suite
    key_index: int
    terminal_number: bytes
    date: bytes
    time: bytes
    composite: bool = False
    records: tuple[UpdateComposite, ...] = ()

    @property
    def transaction_type(self) -> TransactionType:
        """Type byte of the cryptograms."""
        return TransactionType.COMPOSITE if self.composite else TransactionType.PURCHASE


@dataclass(frozen=True, slots=True)
class Opened:
    """A debit that the card has opened: whose it is, what INITIALIZE answered, and what is to be paid and written."""

    identity: CardIdentity
    answer: PurchaseInitialisation
    wanted: Purchase


Opening = Callable[[Channel, Channel, Budget], Awaitable[Opened]]
"""Opens a debit on card and PSAM, from selecting the purse on: it is run again after a foreign reset."""


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

    Raises CardError, ReaderError or OutOfTime before DEBIT FOR PURCHASE is sent, and nothing was taken or written then
    (the PSAM's number may have moved, which is legal). From there on every ending is a `Debit`; an `Unknown` outcome
    has been asked of the card once more and stays open until its next tap (`recovery.find_debit`), which tells of the
    records what it tells of the money. A cancelled call is as Unknown.
    """

    async def opening(card: Channel, psam: Channel, budget: Budget) -> Opened:
        with budget.at("reading the card"):
            identity = await identify(card, wanted.purse, wanted.suite, switches.blocked_select)
        return Opened(identity, await initialise(card, wanted, budget), wanted)

    return await debit_opened_by(opening, channel, sam, budget, switches)


async def initialise(card: Channel, wanted: Purchase, budget: Budget) -> PurchaseInitialisation:
    """INITIALIZE of the selected purse, which moves nothing and may be repeated with another sum."""
    command = InitComposite if wanted.composite else InitPurchase
    with budget.at(command.name):
        return await ask(card, command(wanted.key_index, wanted.amount_fen, wanted.terminal_number))


async def debit_opened_by(
    opening: Opening, channel: Channel, sam: Channel, budget: Budget | None = None, switches: Switches = DEFAULTS
) -> Debit:
    """As `debit`, of what `opening` opens."""
    budget = budget or Budget()
    card, psam = TimedChannel(channel, budget), TimedChannel(sam, budget)
    begun = await anew(card, lambda: opening(card, psam, budget))
    identity, opened, wanted = begun.identity, begun.answer, begun.wanted
    with budget.at(InitSamPurchase.name):
        granted = await ask(
            psam,
            InitSamPurchase(
                opened,
                wanted.amount_fen,
                wanted.transaction_type,
                wanted.date,
                wanted.time,
                card_factor(identity.card),
                city_factor(identity.issuer),
                switches.psam_factor_order,
            ),
        )
    evidence = Evidence.of(
        wanted.transaction_type, opened, wanted.amount_fen, wanted.terminal_number, wanted.date, wanted.time
    )
    with budget.at(UpdateComposite.name):
        for record in wanted.records:
            await ask(card, record)
    command = DebitPurchase(granted.terminal_transaction, wanted.date, wanted.time, granted.mac1)
    outcome = await decide(card, evidence, command, budget)
    if isinstance(outcome, Unknown):
        with budget.at("asking the card how it ended"):
            outcome = await recover_debit(card, evidence, wanted.purse, wanted.key_index, identity.card, switches)
    with budget.at(CreditSam.name):
        genuine = await _genuine(psam, outcome)
    return Debit(identity, opened, granted.terminal_transaction, outcome, genuine, budget.ran_out_at)


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
