"""The unload authoriser: it checks the card's MAC1 and writes the unload down before MAC2 leaves, and believes that
value has left the card by MAC3 alone (rule 18; docs/card.md).

Unloads have quotas of their own, under scopes that begin with `unload`.
"""

import asyncio
import hmac
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, tzinfo
from uuid import uuid4

from cardcore.authority import UnloadGrant, UnloadRequest
from cardcore.bcd import encode_moment
from cardcore.cryptogram import host_mac2_input, load_mac1_input, unload_mac3_input
from cardcore.errors import FormatError, RefusedError
from keys.engine.root import RootKey, of_purpose
from keys.engine.suites import SessionKey
from keys.governed import Book
from keys.guarded import Guarded
from keys.loads import LOCAL, Quotas
from keys.proof import sm3
from keys.purposes import AUTHORISING, VERIFYING, KeyId, KeyPurpose, KeyState
from keys.spending import Spending
from keys.state import Clock
from keys.widths import check_widths

UNLOAD_TYPE = 0x03
_UNLOAD = "an unload", "nothing was unloaded"


class UnloadAuthoriser(Guarded):
    """Implements `cardcore.authority.UnloadAuthority`. It cannot MAC anything but the answer to an unload that a card
    has opened."""

    __slots__ = ("_book", "_clock", "_quotas", "_roots", "_zone")

    def __init__(
        self, roots: Iterable[RootKey], book: Book, clock: Clock, quotas: Quotas, zone: tzinfo = LOCAL
    ) -> None:
        self._roots = of_purpose(roots, frozenset({KeyPurpose.UNLOAD}), VERIFYING)
        self._book = book
        self._clock = clock
        self._quotas = quotas
        self._zone = zone

    @property
    def label(self) -> str:
        return ", ".join(sorted(root.label for root in self._roots.values()))

    async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
        """MAC2 for an unload; date and time are local card time of the injected clock.

        The unload is spent and committed before MAC2 is made; asking again for the same opening gets the same grant
        and spends nothing. Raises RefusedError('bad-mac1' | 'over-quota' | 'sunset' | 'downgrade') and FormatError,
        with nothing spent, and KeyUseError when the spending cannot be written down. A cancelled call may have
        authorised the unload.
        """
        return await asyncio.to_thread(self._authorise, request)

    async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        """Believe that the value has left the card: the grant is ours, and MAC3 (4 bytes) the card's answer to it.

        Raises RefusedError('bad-mac3'): pay nothing; FormatError; KeyUseError when it cannot be written down. It may
        be asked again, after a cancelled call too; paying once is the care of whoever pays, by `unload_id`.
        """
        await asyncio.to_thread(self._confirm, request, grant, mac3)

    def _authorise(self, request: UnloadRequest) -> UnloadGrant:
        _check(request)
        moment = self._clock.now().astimezone(self._zone)
        self._check_policy(request, moment.date())
        session = self._proven_session(request)
        on, at = encode_moment(moment)
        day = moment.date().isoformat()
        asked = Spending(_digest(request), uuid4().hex, on, at, request.amount_fen, day, _detail(request), "unload")
        given = self._book.state.spend(asked, self._quotas.scopes(request, "unload "))
        return UnloadGrant(given.load_id, given.date, given.time, _mac2(session, request, given.date, given.time))

    def _confirm(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        _check(request)
        check_widths(
            *_UNLOAD, {"date": (grant.date, 4), "time": (grant.time, 3), "MAC2": (grant.mac2, 4), "MAC3": (mac3, 4)}
        )
        session = self._session(request, VERIFYING)
        if session is None:
            why = "cannot be checked: there is no usable unload key of its suite, version and purse"
            raise self._refused(request, "bad-mac3", why, "pay nothing, ask the custodian of the keys")
        left_fen = request.raw_balance_fen - request.amount_fen
        covered = unload_mac3_input(
            left_fen, request.counter, request.amount_fen, request.terminal_number, grant.date, grant.time
        )
        # MAC2 tells that the grant was given here, for this opening and this moment; no table has to be asked.
        if not hmac.compare_digest(_mac2(session, request, grant.date, grant.time), grant.mac2):
            raise self._refused(request, "bad-mac3", "answers a grant that was not given for it", "pay nothing")
        if not hmac.compare_digest(session.mac4(covered), mac3):
            raise self._refused(
                request, "bad-mac3", "is wrong", "pay nothing, ask the card for its proof of the unload"
            )
        self._book.state.record([("unload confirmed", grant.unload_id, _detail(request))])

    def _check_policy(self, request: UnloadRequest, on: date) -> None:
        """Value may leave a card for as long as its proofs are believed, which is longer than value may go onto it;
        but a chip or terminal of SM4 only gets nothing of 3DES. A refusal is audited."""
        policy = self._book.register.policy()
        subjects = (
            f"card {request.identity.card.hex()}",
            f"issuer {request.identity.issuer.hex()}",
            f"terminal {request.terminal}",
        )
        if not policy.may_verify(request.key_suite, on):
            why = "is of a suite that is verified no more"
            raise self._refused(request, "sunset", why, "nothing was unloaded, refund by the case of a dead card")
        try:
            replace(policy, sunsets={}).may_make(request.key_suite, on, subjects)
        except RefusedError as refusal:
            self._tell_refusal(request, refusal.code)
            raise

    def _proven_session(self, request: UnloadRequest) -> SessionKey:
        """The session key that the card used, once its MAC1 has shown that it is that card."""
        session = self._session(request, AUTHORISING)
        if session is None:
            why = "cannot be checked: there is no active unload key of its suite, version and purse"
            raise self._refused(request, "bad-mac1", why, "nothing was unloaded")
        covered = load_mac1_input(request.raw_balance_fen, request.amount_fen, UNLOAD_TYPE, request.terminal_number)
        if not hmac.compare_digest(session.mac4(covered), request.mac1):
            advice = "nothing was unloaded, let the card open the unload again"
            raise self._refused(request, "bad-mac1", "is wrong", advice)
        return session

    def _session(self, request: UnloadRequest, states: frozenset[KeyState]) -> SessionKey | None:
        try:
            id = KeyId(request.key_suite, KeyPurpose.UNLOAD, str(request.purse), request.key_version)
        except FormatError:
            return None
        # Asked at each use, not when the handle was made: a key that is retired now answers no more now.
        root = self._roots.get(id)
        if root is None or self._book.register.state_of(root) not in states:
            return None
        card = root.card(request.identity.issuer, request.identity.card)
        return card.load_session(request.random, request.counter, request.session_key)

    def _refused(self, request: UnloadRequest, code: str, why: str, advice: str) -> RefusedError:
        """The refusal, once it is in the audit."""
        self._tell_refusal(request, code)
        what = {"bad-mac1": "MAC1", "bad-mac3": "MAC3"}.get(code, "the unload")
        return RefusedError(code, f"{what} of card {request.identity.card.hex()} {why}; {advice}")

    def _tell_refusal(self, request: UnloadRequest, code: str) -> None:
        self._book.state.record([("unload refused", request.identity.card.hex(), f"{code}, {_detail(request)}")])


def _mac2(session: SessionKey, request: UnloadRequest, on: bytes, at: bytes) -> bytes:
    return session.mac4(host_mac2_input(request.amount_fen, UNLOAD_TYPE, request.terminal_number, on, at))


def _check(request: UnloadRequest) -> None:
    identity = request.identity
    check_widths(
        *_UNLOAD,
        {
            "issuer": (identity.issuer, 4),
            "card": (identity.card, 10),
            "terminal number": (request.terminal_number, 6),
            "random": (request.random, 4),
            "MAC1": (request.mac1, 4),
        },
    )
    held = 0 < request.amount_fen <= request.raw_balance_fen < 2**32 and 0 <= request.counter < 2**16
    if not (held and 0 <= request.terminal < 2**32):
        raise FormatError(
            "the amount of an unload is above 0 fen and at most the balance, and counter and terminal are what a card "
            "and the registry can hold; nothing was unloaded"
        )


def _digest(request: UnloadRequest) -> bytes:
    """What makes an unload this one and no other: all that the card's MAC1 covers, and the session that it opened."""
    identity = request.identity
    return sm3(
        b"unload"
        + identity.issuer
        + identity.card
        + bytes((request.key_suite, request.key_version, request.purse))
        + request.counter.to_bytes(2, "big")
        + request.random
        + load_mac1_input(request.raw_balance_fen, request.amount_fen, UNLOAD_TYPE, request.terminal_number)
        + request.terminal.to_bytes(4, "big")
    )


def _detail(request: UnloadRequest) -> str:
    return (
        f"unload of card {request.identity.card.hex()} purse {request.purse} counter {request.counter} "
        f"amount {request.amount_fen} fen of {request.raw_balance_fen} fen terminal {request.terminal} "
        f"channel {request.channel} operator {request.operator} key {request.key_suite.name} v{request.key_version}"
    )
