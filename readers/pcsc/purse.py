"""The counter's flows with one card: load and act, and what to do when the card falls silent (D5, rules 6 and 17).

A flow that moves money ends `Committed | Refused | Unknown(evidence)` once it could have; all of it has one deadline.
A debit is in `readers.pcsc.debit`, how an Unknown is decided in `readers.pcsc.recovery`.
"""

from dataclasses import dataclass, replace

from cardcore.authority import ActAuthority, ActGrant, ActRequest, CardIdentity, LoadAuthority, LoadGrant, LoadRequest
from cardcore.card_map import KeyType, act_application, key_id
from cardcore.commands import CreditLoad, InitLoad, InternalAuthenticate, LoadInitialisation, Select, VerifyPin
from cardcore.commands.purse import TransactionType
from cardcore.purse import Evidence, Outcome, Unknown
from cardcore.record import Sector, Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget, TimedChannel
from readers.pcsc.channel import Channel
from readers.pcsc.recovery import decide, recover_load


@dataclass(frozen=True, slots=True)
class Till:
    """Where a load is made: terminal id and number (6 bytes) of the counter, and who takes the money."""

    terminal: int
    terminal_number: bytes
    channel: str


@dataclass(frozen=True, slots=True)
class Load:
    """A load as far as it came: whose card, what it opened, what the desk granted, how it ended.

    `ran_out_at` is the step at which its time was gone, "" when there was enough.
    """

    identity: CardIdentity
    opened: LoadInitialisation
    grant: LoadGrant
    key_index: int
    outcome: Outcome
    ran_out_at: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """A finished online act: the desk's grant, and the card's cryptogram (8 bytes) with the key that made it."""

    grant: ActGrant
    cryptogram: bytes
    key_index: int


async def load(
    channel: Channel,
    authority: LoadAuthority,
    till: Till,
    purse: int,
    suite: Suite,
    amount_fen: int,
    pin: str,
    budget: Budget | None = None,
    switches: Switches = DEFAULTS,
) -> Load:
    """Load `amount_fen` onto a purse; the card must be selected by nobody else. `switches` are those of its profile.

    Raises CardError, RefusedError or OutOfTime while nothing has been granted; OutOfTime at "the desk's answer" may
    leave a grant that the card never heard of. After the grant every ending is a `Load`: an `Unknown` outcome has been
    asked of the card once more, as far as there was time, and stays open until the card comes back (`recover_load`).
    A cancelled call may leave an authorised load, which is in doubt until its record or the card's next tap.
    """
    budget = budget or Budget()
    timed = TimedChannel(channel, budget)
    index = key_id(KeyType.LOAD, suite)

    async def opening() -> tuple[CardIdentity, LoadInitialisation]:
        with budget.at("reading the card"):
            identity = await identify(timed, purse, suite, switches.blocked_select)
        with budget.at(VerifyPin.name):
            await ask(timed, VerifyPin(pin))
        with budget.at(InitLoad.name):
            return identity, await ask(timed, InitLoad(index, amount_fen, till.terminal_number))

    identity, opened = await anew(timed, opening)
    request = replace(_request(identity, till, purse, index, amount_fen, opened), session_key=switches.sm4_session_key)
    grant = await budget.wait("the desk's answer", authority.authorise_load(request))
    evidence = Evidence.of(
        TransactionType.LOAD, opened, amount_fen, till.terminal_number, grant.date, grant.time, grant.mac2
    )
    outcome = await decide(timed, evidence, CreditLoad(grant.date, grant.time, grant.mac2), budget)
    if isinstance(outcome, Unknown):
        with budget.at("asking the card how it ended"):
            outcome = await recover_load(timed, evidence, purse, index, pin, identity.card, switches)
    return Load(identity, opened, grant, index, outcome, budget.ran_out_at)


def _request(
    identity: CardIdentity, till: Till, purse: int, index: int, amount_fen: int, opened: LoadInitialisation
) -> LoadRequest:
    return LoadRequest(
        identity=identity,
        terminal=till.terminal,
        terminal_number=till.terminal_number,
        purse=purse,
        generation=0,
        key_suite=identity.suite,
        key_version=opened.key_version,
        key_index=index,
        amount_fen=amount_fen,
        channel=till.channel,
        raw_balance_fen=opened.raw_balance_fen,
        counter=opened.counter,
        random=opened.random,
        mac1=opened.mac1,
    )


async def act(
    channel: Channel, authority: ActAuthority, request: ActRequest, pin: str, budget: Budget | None = None
) -> Act:
    """An online act of social security or medical care: PIN, grant, the card's cryptogram.

    Raises CardError, CardTorn, RefusedError or OutOfTime; an act that was opened and not finished expires by itself.
    """
    budget = budget or Budget()
    timed = TimedChannel(channel, budget)
    application = act_application(Sector(request.sector))
    with budget.at(VerifyPin.name):
        await ask(timed, Select(application.aid))
        await ask(timed, VerifyPin(pin))
    grant = await budget.wait("the desk's answer", authority.open_act(request))
    index = key_id(KeyType.ACT, request.identity.suite)
    with budget.at(InternalAuthenticate.name):
        return Act(grant, await ask(timed, InternalAuthenticate(index, grant.digest)), index)
