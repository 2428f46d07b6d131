"""An unload at the counter: value goes back from the card to the holder, in cash or to an account (rule 18; D5).

The card's 9000 is not what money is paid for: MAC3 is, once the authority has checked it. So an unload has two endings,
of the card (`outcome`) and of its proof (`confirmed`), and only `payable` is both.
"""

from dataclasses import dataclass, replace

from cardcore.authority import CardIdentity, UnloadAuthority, UnloadGrant, UnloadRequest
from cardcore.card_map import KeyType, key_id
from cardcore.commands import DebitUnload, InitUnload, LoadInitialisation, VerifyPin
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError, FormatError, OnecardError, ReaderError, RefusedError
from cardcore.purse import Committed, Evidence, Outcome, Unknown
from cardcore.record import Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget, TimedChannel
from readers.pcsc.channel import Channel
from readers.pcsc.purse import Till
from readers.pcsc.recovery import decide, find_out

_CONFIRMING = "the desk's word on MAC3"


@dataclass(frozen=True, slots=True)
class Unload:
    """An unload as far as it came: what the card opened, what the desk granted, how it ended on the card.

    `confirmed` is the desk's word on MAC3: True when it is the card's, False when it is not, None while nobody has said
    so, for want of a MAC3, of an answer or of time. `ran_out_at` is the step at which the time was gone.
    """

    request: UnloadRequest
    grant: UnloadGrant
    outcome: Outcome
    confirmed: bool | None = None
    ran_out_at: str = ""

    @property
    def payable(self) -> bool:
        """Whether the holder is to be paid `request.amount_fen`, once for ever (by `grant.unload_id`)."""
        return isinstance(self.outcome, Committed) and self.confirmed is True


async def unload(
    channel: Channel,
    authority: UnloadAuthority,
    till: Till,
    purse: int,
    suite: Suite,
    amount_fen: int,
    pin: str,
    budget: Budget | None = None,
    switches: Switches = DEFAULTS,
) -> Unload:
    """Take `amount_fen` of the holder's value off a purse, to be paid out; `switches` are those of the profile.

    Raises CardError, RefusedError or OutOfTime while nothing has been granted; OutOfTime at "the desk's answer" may
    leave a grant that the card never heard of. After the grant every ending is an `Unload`: an `Unknown` outcome has
    been asked of the card once more, as far as there was time; it, and one that nobody confirmed, stay open until
    `settle`. A cancelled call may leave value that is neither on the card nor paid, for `settle` or clearing.
    """
    budget = budget or Budget()
    timed = TimedChannel(channel, budget)
    index = key_id(KeyType.UNLOAD, suite)

    async def opening() -> tuple[CardIdentity, LoadInitialisation]:
        with budget.at("reading the card"):
            identity = await identify(timed, purse, suite, switches.blocked_select)
        with budget.at(VerifyPin.name):
            await ask(timed, VerifyPin(pin))
        with budget.at(InitUnload.name):
            return identity, await ask(timed, InitUnload(index, amount_fen, till.terminal_number))

    identity, opened = await anew(timed, opening)
    request = UnloadRequest(
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
        session_key=switches.sm4_session_key,
    )
    grant = await budget.wait("the desk's answer", authority.authorise_unload(request))
    command = DebitUnload(grant.date, grant.time, grant.mac2)
    outcome = await decide(timed, _evidence(request, grant), command, budget)
    done = await _confirmed(authority, Unload(request, grant, outcome), budget)
    return await _asked(timed, authority, done, pin, budget, switches)


async def settle(
    channel: Channel,
    authority: UnloadAuthority,
    done: Unload,
    pin: str,
    budget: Budget | None = None,
    switches: Switches = DEFAULTS,
) -> Unload:
    """How an unload ended that is open: of a MAC3 that nobody has confirmed the desk is asked, of an `Unknown` outcome
    the card, at its next tap. Asking again changes nothing; what is decided is given back as it is.

    Raises nothing but what a cancelled call does: a card that is gone, another one, or a desk that does not answer
    leaves the unload as open as it was.
    """
    budget = budget or Budget()
    done = replace(done, ran_out_at="")
    if done.confirmed is None:
        done = await _confirmed(authority, done, budget)
    return await _asked(TimedChannel(channel, budget), authority, done, pin, budget, switches)


async def _asked(
    channel: Channel, authority: UnloadAuthority, done: Unload, pin: str, budget: Budget, switches: Switches
) -> Unload:
    """The card's own word where its answer was none, or was no answer to this grant."""
    if not isinstance(done.outcome, Unknown):
        return replace(done, ran_out_at=budget.ran_out_at)
    request, evidence = done.request, done.outcome.evidence
    try:
        with budget.at("asking the card how it ended"):
            place, card = (request.purse, key_id(KeyType.LOAD, request.key_suite)), request.identity.card
            found = await find_out(channel, evidence, *place, pin, card, switches)
    except (CardError, FormatError, ReaderError):
        return replace(done, ran_out_at=budget.ran_out_at)
    if not isinstance(found, Unknown):
        done = replace(done, outcome=found, confirmed=None)
    return await _confirmed(authority, done, budget)


async def _confirmed(authority: UnloadAuthority, done: Unload, budget: Budget) -> Unload:
    """With the desk's word on the MAC3 of a committed unload; a wrong one makes the outcome Unknown again."""
    if isinstance(done.outcome, Committed) and done.outcome.mac is not None:
        try:
            asked = authority.confirm_unload(done.request, done.grant, done.outcome.mac)
            await budget.wait(_CONFIRMING, asked)
            done = replace(done, confirmed=True)
        except RefusedError:
            done = replace(done, outcome=Unknown(done.outcome.evidence), confirmed=False)
        except OnecardError:
            # The desk does not answer: the value has left the card, and its proof waits for `settle`.
            pass
    return replace(done, ran_out_at=budget.ran_out_at)


def _evidence(request: UnloadRequest, grant: UnloadGrant) -> Evidence:
    return Evidence(
        TransactionType.UNLOAD,
        request.counter,
        request.raw_balance_fen,
        request.amount_fen,
        request.terminal_number,
        grant.date,
        grant.time,
    )
