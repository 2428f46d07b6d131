"""The load authoriser: it checks the card's MAC1, spends a durable quota, and only then answers MAC2 (rule 17,
decision D4)."""

import asyncio
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta, timezone, tzinfo
from uuid import uuid4

from cardcore.authority import LoadGrant, LoadRequest, MoneyRequest
from cardcore.bcd import encode_moment
from cardcore.cryptogram import host_mac2_input, load_mac1_input
from cardcore.errors import FormatError, RefusedError
from keys.engine.root import RootKey, of_purpose
from keys.engine.suites import SessionKey
from keys.guarded import Guarded
from keys.proof import sm3
from keys.purposes import AUTHORISING, MAKING, KeyId, KeyPurpose
from keys.register import Register
from keys.spending import Quota, Spending
from keys.state import Clock, StateFile
from keys.widths import check_widths

__all__ = ["LOCAL", "LoadAuthoriser", "Quota", "Quotas"]

LOAD_TYPE = 0x02
_NAME_CHARACTERS = 32
# China has had one time zone without summer time since 1991; a card's date and time are local.
LOCAL = timezone(timedelta(hours=8), "CST")


@dataclass(frozen=True, slots=True)
class Quotas:
    """Daily quotas (local date): of the whole store, of each terminal, and of each operator of terminals."""

    total: Quota
    terminal: Quota
    operator: Quota

    def scopes(self, request: MoneyRequest, act: str = "") -> dict[str, Quota]:
        """The quotas that a request is taken out of, all of them or none, by the names that `status` shows. The
        operator is never the channel, which the counter chooses: by naming another it would get another quota. Raises
        FormatError for a channel that is no name."""
        if not (request.channel.isascii() and request.channel.isalnum() and len(request.channel) <= _NAME_CHARACTERS):
            raise FormatError("nobody is named who takes the money; nothing was done, name a party or `transfer`")
        terminal, operator = f"{act}terminal {request.terminal}", f"{act}operator {request.operator}"
        return {f"{act}total": self.total, terminal: self.terminal, operator: self.operator}


class LoadAuthoriser(Guarded):
    """Implements `cardcore.authority.LoadAuthority`. It cannot MAC anything but the answer to a load that a card
    has opened."""

    __slots__ = ("_clock", "_quotas", "_register", "_roots", "_state", "_zone")

    def __init__(
        self, roots: Iterable[RootKey], state: StateFile, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL
    ) -> None:
        self._roots = of_purpose(roots, frozenset({KeyPurpose.LOAD}), MAKING)
        self._state = state
        self._register = Register(state)
        self._clock = clock
        self._quotas = quotas
        self._zone = zone

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        """MAC2 for a load; date and time are local card time of the injected clock.

        The quota is spent and committed before MAC2 is made; asking again for the same load (same card, counter,
        random, amount, terminal) gets the same grant and spends nothing. Raises RefusedError('bad-mac1' |
        'over-quota' | 'sunset' | 'downgrade') and FormatError, with nothing spent, and KeyUseError when the spending
        cannot be written down. A cancelled call may have spent the quota.
        """
        return await asyncio.to_thread(self._authorise, request)

    def _authorise(self, request: LoadRequest) -> LoadGrant:
        moment = self._clock.now().astimezone(self._zone)
        self._check_policy(request, moment.date())
        session = self._proven_session(request)
        on, at = encode_moment(moment)
        day = moment.date().isoformat()
        asked = Spending(_digest(request), uuid4().hex, on, at, request.amount_fen, day, _detail(request))
        given = self._state.spend(asked, self._quotas.scopes(request))
        mac2 = session.mac4(
            host_mac2_input(request.amount_fen, LOAD_TYPE, request.terminal_number, given.date, given.time)
        )
        return LoadGrant(given.load_id, given.date, given.time, mac2)

    def _check_policy(self, request: LoadRequest, on: date) -> None:
        """Nothing falls back: a suite past its sunset, or a chip or terminal of SM4 only, is refused and audited."""
        subjects = (
            f"card {request.identity.card.hex()}",
            f"issuer {request.identity.issuer.hex()}",
            f"terminal {request.terminal}",
        )
        try:
            self._register.policy().may_make(request.key_suite, on, subjects)
        except RefusedError as refusal:
            self._state.record([("load refused", request.identity.card.hex(), f"{refusal.code}, {_detail(request)}")])
            raise

    def _proven_session(self, request: LoadRequest) -> SessionKey:
        """The session key that the card used, once its MAC1 has shown that it is that card; a refusal is audited."""
        _check(request)
        root = self._root(request)
        if root is not None:
            card = root.card(request.identity.issuer, request.identity.card)
            session = card.load_session(request.random, request.counter, request.session_key)
            covered = load_mac1_input(request.raw_balance_fen, request.amount_fen, LOAD_TYPE, request.terminal_number)
            if hmac.compare_digest(session.mac4(covered), request.mac1):
                return session
        self._state.record([("load refused", request.identity.card.hex(), f"bad-mac1, {_detail(request)}")])
        why = (
            "is wrong; nothing was loaded, let the card open the load again"
            if root is not None
            else "cannot be checked: there is no active load key of its suite, version and purse; nothing was loaded"
        )
        raise RefusedError("bad-mac1", f"MAC1 of card {request.identity.card.hex()} {why}")

    def _root(self, request: LoadRequest) -> RootKey | None:
        try:
            id = KeyId(request.key_suite, KeyPurpose.LOAD, str(request.purse), request.key_version)
        except FormatError:
            return None
        # Asked at each load, not when the handle was made: a key that is retired now answers no more now.
        root = self._roots.get(id)
        return root if root is not None and self._register.state_of(root) in AUTHORISING else None


def _check(request: LoadRequest) -> None:
    identity = request.identity
    check_widths(
        "a load",
        "nothing was loaded",
        {
            "issuer": (identity.issuer, 4),
            "card": (identity.card, 10),
            "terminal number": (request.terminal_number, 6),
            "random": (request.random, 4),
            "mac1": (request.mac1, 4),
        },
    )
    if not (0 < request.amount_fen < 2**32 and 0 <= request.raw_balance_fen < 2**32 and 0 <= request.counter < 2**16):
        raise FormatError(
            "amount, balance or counter of a load is out of the range that a card can hold; nothing was loaded"
        )


def _digest(request: LoadRequest) -> bytes:
    """What makes a load this one and no other: all that the card's MAC1 covers, and the session that it opened."""
    identity = request.identity
    return sm3(
        identity.issuer
        + identity.card
        + bytes((request.key_suite, request.key_version, request.purse))
        + request.counter.to_bytes(2, "big")
        + request.random
        + load_mac1_input(request.raw_balance_fen, request.amount_fen, LOAD_TYPE, request.terminal_number)
        + request.terminal.to_bytes(4, "big")
    )


def _detail(request: LoadRequest) -> str:
    return (
        f"card {request.identity.card.hex()} purse {request.purse} counter {request.counter} "
        f"amount {request.amount_fen} fen terminal {request.terminal} "
        f"channel {request.channel} operator {request.operator} key {request.key_suite.name} v{request.key_version}"
    )
