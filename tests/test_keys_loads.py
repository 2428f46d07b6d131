"""The load authoriser: MAC1 decides, the quota is spent before MAC2, and a kill in between never gives money away."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore import cryptogram
from cardcore.authority import CardIdentity, LoadRequest
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from keys.ceremony import required_roots, test_ceremony
from keys.loads import LoadAuthoriser, Quota, Quotas
from keys.store import EmbeddedStore, open_store
from tests import test_keys_reference as reference

QUOTAS = Quotas(Quota(5, 100_000), Quota(3, 60_000), Quota(5, 100_000))
COMPONENTS = {name: (bytes((place,)) * 16, bytes(range(16))) for place, name in enumerate(required_roots())}


class Noon:
    """08:00 UTC, 16:00 on a card."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 3, 2, 8, 0, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant


def root(name: str) -> bytes:
    return bytes(a ^ b for a, b in zip(*COMPONENTS[name], strict=True))


def session_key(request: LoadRequest) -> bytes:
    name = f"{'3des' if request.key_suite is Suite.TRIPLE_DES else 'sm4'}/LOAD/{request.purse}"
    key = reference.card_key(request.key_suite, root(name), request.identity.issuer, request.identity.card)
    block, size = reference.BLOCK[request.key_suite]
    return block(key, reference.pad(request.random + request.counter.to_bytes(2, "big"), size))


def asked(suite: Suite = Suite.SM4, **changes: object) -> LoadRequest:
    """A load as a card opens it, with the MAC1 that the card would answer."""
    request = LoadRequest(
        identity=CardIdentity(reference.ISSUER, reference.CARD, suite), terminal=900001, purse=1, generation=0,
        terminal_number=bytes.fromhex("0000000dbba1"), key_suite=suite, key_version=1, key_index=0x11,
        amount_fen=10_000,
        channel="301", raw_balance_fen=250, counter=4,
        random=b"\x01\x02\x03\x04", mac1=b"", operator=902,
    )  # fmt: skip
    request = replace(request, **changes)  # type: ignore[arg-type]  # tests change any field
    covered = cryptogram.load_mac1_input(request.raw_balance_fen, request.amount_fen, 2, request.terminal_number)
    return replace(request, mac1=reference.mac4(request.key_suite, session_key(request), covered))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path / "keys") as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


@pytest.fixture
def authoriser(store: EmbeddedStore) -> LoadAuthoriser:
    return store.load_authoriser(Noon(), QUOTAS)


@pytest.mark.parametrize("suite", Suite)
async def test_mac2_is_what_the_card_expects(suite: Suite, authoriser: LoadAuthoriser) -> None:
    request = asked(suite)
    grant = await authoriser.authorise_load(request)
    assert (grant.date.hex(), grant.time.hex()) == ("20260302", "160005")
    covered = cryptogram.host_mac2_input(10_000, 2, request.terminal_number, grant.date, grant.time)
    assert grant.mac2 == reference.mac4(suite, session_key(request), covered)


@pytest.mark.parametrize(
    "changes",
    [{"amount_fen": 10_001}, {"raw_balance_fen": 0}, {"counter": 5}, {"random": bytes(4)}, {"purse": 3},
     {"mac1": bytes(4)},
     {"key_suite": Suite.TRIPLE_DES}, {"key_version": 2}, {"purse": 2}, {"terminal_number": bytes(6)}],
)  # fmt: skip
async def test_a_wrong_mac1_spends_nothing(changes: dict[str, object], store: EmbeddedStore) -> None:
    authoriser = store.load_authoriser(Noon(), QUOTAS)
    with pytest.raises(RefusedError) as refusal:
        await authoriser.authorise_load(replace(asked(), **changes))  # type: ignore[arg-type]  # tests change any field
    assert refusal.value.code == "bad-mac1"
    assert spent(store) == Quota(0, 0)
    assert store.audit()[-1][2:4] == ("load refused", reference.CARD.hex())


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_fen": 0},
        {"amount_fen": -5},
        {"counter": 2**16},
        {"mac1": b"123"},
        {"random": b""},
        {"terminal_number": b"1"},
    ],
)
async def test_what_no_card_can_ask_is_refused(changes: dict[str, object], authoriser: LoadAuthoriser) -> None:
    with pytest.raises(FormatError):
        await authoriser.authorise_load(replace(asked(), **changes))  # type: ignore[arg-type]  # tests change any field


def spent(store: EmbeddedStore, scope: str = "total", date: str = "2026-03-02") -> Quota:
    return store._state.spent(date, scope)


async def test_asking_again_gets_the_same_grant_once(store: EmbeddedStore) -> None:
    clock = Noon()
    authoriser = store.load_authoriser(clock, QUOTAS)
    first = await authoriser.authorise_load(asked())
    clock.instant = datetime(2026, 3, 3, 1, 0, tzinfo=UTC)
    assert await authoriser.authorise_load(asked()) == first
    assert spent(store) == Quota(1, 10_000)
    assert spent(store, date="2026-03-03") == Quota(0, 0)


async def test_quotas_hold_by_number_and_by_amount(store: EmbeddedStore) -> None:
    authoriser = store.load_authoriser(Noon(), QUOTAS)
    for counter in range(3):
        await authoriser.authorise_load(asked(counter=counter))
    with pytest.raises(RefusedError, match="terminal 900001") as refusal:
        await authoriser.authorise_load(asked(counter=3))
    assert refusal.value.code == "over-quota"
    with pytest.raises(RefusedError, match="30000 of 100000 fen"):
        await authoriser.authorise_load(asked(counter=4, terminal=900002, amount_fen=70_001))
    await authoriser.authorise_load(asked(counter=4, terminal=900002, amount_fen=60_000))
    assert spent(store) == Quota(4, 90_000)
    assert spent(store, "terminal 900001") == Quota(3, 30_000)


@settings(max_examples=25, deadline=None)
@given(
    loads=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from((1, 2, 3)), st.sampled_from((1, 2)), st.integers(1, 40_000)),
        max_size=20,
    )
)
def test_no_operator_terminal_or_store_gives_more_than_its_quota(loads: list[tuple[int, int, int, int]]) -> None:
    """Whoever asks, in whatever order, and however often: each load counts once for its terminal, its operator, and
    the store, or for none of them."""
    quotas = Quotas(total=Quota(9, 120_000), terminal=Quota(4, 50_000), operator=Quota(6, 70_000))
    limits = {"total": quotas.total} | {f"terminal {n}": quotas.terminal for n in (1, 2, 3)}
    limits |= {f"operator {n}": quotas.operator for n in (1, 2)}
    given: dict[tuple[int, int, int], tuple[str, LoadRequest]] = {}
    with TemporaryDirectory() as folder, open_store(Path(folder) / "keys") as store:
        test_ceremony(store, COMPONENTS)
        authoriser = store.load_authoriser(Noon(), quotas)
        for counter, terminal, operator, fen in loads:
            request = asked(counter=counter, terminal=terminal, operator=operator, amount_fen=fen)
            took = {name: spent(store, name) for name in limits}
            try:
                load_id = asyncio.run(authoriser.authorise_load(request)).load_id
            except RefusedError as refusal:
                assert refusal.code == "over-quota" and (counter, terminal, fen) not in given
                assert took == {name: spent(store, name) for name in limits}
            else:
                # The card opened it once: who asks the second time changes nothing.
                assert given.setdefault((counter, terminal, fen), (load_id, request))[0] == load_id
        for name, limit in limits.items():
            mine = [
                one
                for _, one in given.values()
                if name in ("total", f"terminal {one.terminal}", f"operator {one.operator}")
            ]
            assert spent(store, name) == Quota(len(mine), sum(one.amount_fen for one in mine))
            assert len(mine) <= limit.loads and sum(one.amount_fen for one in mine) <= limit.fen


@pytest.mark.parametrize("channel", ["", "a" * 33, "301\n", "total 9"])
async def test_who_takes_the_money_has_a_name(channel: str, authoriser: LoadAuthoriser) -> None:
    with pytest.raises(FormatError, match="takes the money"):
        await authoriser.authorise_load(asked(channel=channel))


async def test_loads_at_once_never_exceed_the_quota(store: EmbeddedStore) -> None:
    authoriser = store.load_authoriser(Noon(), QUOTAS)
    requests = [asked(counter=counter, terminal=900000 + counter) for counter in range(12)]
    answers = await asyncio.gather(
        *(authoriser.authorise_load(request) for request in requests), return_exceptions=True
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 5
    assert spent(store) == Quota(5, 50_000)


async def test_no_mac2_without_a_written_audit(authoriser: LoadAuthoriser, store: EmbeddedStore) -> None:
    store.close()
    with pytest.raises(KeyUseError, match="cannot write down"):
        await authoriser.authorise_load(asked())


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from keys.engine.suites import SessionKey
from keys.store import open_store
from tests.test_keys_loads import Noon, QUOTAS, asked

made = SessionKey.mac4
calls = []

def mac4(key, message):
    calls.append(message)
    if len(message) == 18:  # MAC2: the answer that would leave
        os.kill(os.getpid(), signal.SIGKILL)
    return made(key, message)

SessionKey.mac4 = mac4
store = open_store(Path(sys.argv[1]))
asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked(counter=int(sys.argv[2]))))
"""


def test_a_kill_between_spending_and_answering_leaves_the_quota_spent(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with open_store(path) as store:
        test_ceremony(store, COMPONENTS)
    for counter in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, path, str(counter)], env=os.environ | {"PYTHONPATH": "."}, check=False
        )
        assert ended.returncode == -signal.SIGKILL
    with open_store(path) as store:
        assert {spent(store, name) for name in ("total", "terminal 900001", "operator 902")} == {Quota(3, 30_000)}
        with pytest.raises(RefusedError, match="terminal 900001"):
            asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked(counter=3)))
        # The counter that was killed asks again and gets its answer, without spending twice.
        grant = asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked(counter=2)))
        assert len(grant.mac2) == 4
        assert {spent(store, name) for name in ("total", "terminal 900001", "operator 902")} == {Quota(3, 30_000)}
