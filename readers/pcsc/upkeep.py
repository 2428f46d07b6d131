"""The upkeep of an issued card at the counter: its allowance, and a PIN that is blocked (docs/card.md; D5)."""

from dataclasses import dataclass
from typing import Protocol

from cardcore.authority import (
    CardIdentity,
    OverdraftProof,
    OverdraftRequest,
    PinUnblockRequest,
    UpkeepAuthority,
)
from cardcore.card_map import KeyType, key_id
from cardcore.commands import GetChallenge, InitUpdate, UpdateOverdraft
from cardcore.commands.pin import UnblockPin, unblock_head
from cardcore.commands.purse import UpdateInitialisation
from cardcore.errors import CardError, FormatError, OnecardError, ReaderError, RefusedError
from cardcore.purse import Committed, Evidence, Outcome, Unknown
from cardcore.record import Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.anew import anew
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget, TimedChannel
from readers.pcsc.channel import Channel
from readers.pcsc.recovery import decide, find_allowance

_CHALLENGE_BYTES = 4


class AllowanceAuthority(Protocol):
    """Grants a change of an allowance, as `keys` does to a card that it has issued."""

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        """MAC2 (4 bytes); raises RefusedError."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """A change of an allowance as far as it came. `confirmed` is the desk's word on the TAC, None while it has none;
    `ran_out_at` is the step at which the time was gone."""

    request: OverdraftRequest
    outcome: Outcome
    confirmed: bool | None = None
    ran_out_at: str = ""


async def set_allowance(
    channel: Channel,
    authority: AllowanceAuthority,
    upkeep: UpkeepAuthority,
    purse: int,
    suite: Suite,
    limit_fen: int,
    terminal_number: bytes,
    moment: tuple[bytes, bytes],
    budget: Budget | None = None,
    switches: Switches = DEFAULTS,
) -> Allowance:
    """Change a purse's allowance to `limit_fen`; `moment` is BCD date and time, `switches` are those of the profile.

    Raises CardError, RefusedError or OutOfTime before UPDATE OVERDRAFT LIMIT is sent, and nothing was changed then.
    From there on every ending is an `Allowance`; an `Unknown` outcome has been asked of the card once more and stays
    open until its next tap (`recovery.find_allowance`).
    """
    budget = budget or Budget()
    timed = TimedChannel(channel, budget)
    index = key_id(KeyType.OVERDRAFT, suite)

    async def opening() -> tuple[CardIdentity, UpdateInitialisation]:
        with budget.at("reading the card"):
            identity = await identify(timed, purse, suite, switches.blocked_select)
        with budget.at(InitUpdate.name):
            return identity, await ask(timed, InitUpdate(index, terminal_number))

    identity, opened = await anew(timed, opening)
    request = OverdraftRequest(
        identity=identity,
        terminal_number=terminal_number,
        purse=purse,
        key_suite=suite,
        limit_fen=limit_fen,
        old_limit_fen=opened.overdraft_fen,
        raw_balance_fen=opened.raw_balance_fen,
        counter=opened.counter,
        random=opened.random,
        mac1=opened.mac1,
        date=moment[0],
        time=moment[1],
        session_key=switches.sm4_session_key,
        key_version=opened.key_version,
    )
    mac2 = await budget.wait("the desk's answer", authority.set_overdraft(request))
    evidence = Evidence.of_allowance(opened, limit_fen, terminal_number, *moment, mac2)
    outcome = await decide(timed, evidence, UpdateOverdraft(limit_fen, *moment, mac2), budget)
    if isinstance(outcome, Unknown):
        with budget.at("asking the card how it ended"):
            outcome = await _found(timed, evidence, purse, index, identity.card, switches)
    confirmed = await _confirmed(upkeep, request, outcome, budget, switches)
    return Allowance(request, outcome, confirmed, budget.ran_out_at)


async def unblock_pin(
    channel: Channel,
    upkeep: UpkeepAuthority,
    application: int,
    suite: Suite,
    pin: str,
    budget: Budget | None = None,
    switches: Switches = DEFAULTS,
    pin_id: int = 0x00,
) -> None:
    """Unblock a PIN of an application and set it anew; `switches` are those of the profile.

    Raises CardError, CardTorn, RefusedError or OutOfTime. Doing it again does no harm: after a silence the new PIN is
    either set or not, and a second time sets it.
    """
    budget = budget or Budget()
    timed = TimedChannel(channel, budget)

    async def challenged() -> tuple[CardIdentity, bytes]:
        with budget.at("reading the card"):
            identity = await identify(timed, application, suite, switches.blocked_select)
        with budget.at(GetChallenge.name):
            return identity, await ask(timed, GetChallenge(_CHALLENGE_BYTES))

    identity, challenge = await anew(timed, challenged)
    head = unblock_head(switches.pin_unblock_place, pin, pin_id).encode()
    asked = upkeep.unblock_pin(PinUnblockRequest(identity, application, head, challenge))
    command = await budget.wait("the desk's answer", asked)
    with budget.at(UnblockPin.name):
        await ask(timed, UnblockPin(command))


async def _found(
    channel: Channel, evidence: Evidence, purse: int, index: int, card: bytes, switches: Switches
) -> Outcome:
    try:
        return await find_allowance(channel, evidence, purse, index, card, switches)
    except (CardError, FormatError, ReaderError):
        return Unknown(evidence)


async def _confirmed(
    upkeep: UpkeepAuthority, request: OverdraftRequest, outcome: Outcome, budget: Budget, switches: Switches
) -> bool | None:
    """The desk's word on the card's TAC; None where there is none, or no desk that answers."""
    if not isinstance(outcome, Committed) or outcome.tac is None:
        return None
    proof = OverdraftProof(request, outcome.tac, switches.overdraft_tac_key)
    try:
        await budget.wait("the desk's word on the TAC", upkeep.confirm_overdraft(proof))
    except RefusedError as refusal:
        return False if refusal.code == "bad-tac" else None
    except OnecardError:
        return None
    return True
