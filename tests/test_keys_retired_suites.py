"""A suite is retired, by its date or because its purchase roots are out of use: chips of the other are made as before,
a PSAM says what it cannot do, and a card of the retired one is refused before a serial is spent."""

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cardcore.card_files import Concession
from cardcore.errors import KeyUseError
from cardcore.order import PsamOrder
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from cardcore.script import limits, psam_steps, steps
from keys import acts
from keys.ceremony import test_ceremony
from keys.purposes import KeyId
from keys.rotation import Move, Sunset
from keys.store import EmbeddedStore
from readers.counter.issuing import Plan
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench, Job
from simulators.psam import SoftwarePsam
from tests.counter_side import ISSUER, NOW, blank
from tests.custody_side import Moment, approved, move, staffed
from tests.test_keys_loads import COMPONENTS

OLD, SM4 = Suite.TRIPLE_DES, Suite.SM4
ROOTS = [KeyId(OLD, KeyId.parse("3des/PURCHASE/6").purpose, scope) for scope in ("transit", "smallpay", "utility", "6")]


def by_date(store: EmbeddedStore, clock: Moment) -> None:
    end = Sunset(OLD, date(2026, 6, 30), date(2027, 6, 30))
    acts.set_sunset(store, end, approved(store, acts.sunset_act(end)))
    clock.pass_(days=130)


def by_its_roots(store: EmbeddedStore, _: Moment) -> None:
    for step in (Move.COMPROMISE, Move.DESTROY):
        move(store, step, *ROOTS)


def wanted(store: EmbeddedStore, suite: Suite) -> PsamOrder:
    versions = store.personaliser().key_versions()
    return PsamOrder(
        terminal_number=bytes(5) + b"\x07", serial=bytes(10), sector=Sector.TRANSIT, suite=suite, versions=versions
    )


def plan(suite: Suite) -> Plan:
    return Plan(f"{3107910:08}{1:012}", 2, ISSUER, load_profile("shared-purse"), suite, Concession.ORDINARY, NOW)


@pytest.mark.parametrize("retire", [by_date, by_its_roots])
async def test_chips_of_the_other_suite_are_made(
    tmp_path: Path, retire: Callable[[EmbeddedStore, Moment], None]
) -> None:
    clock, journal = Moment(), Journal(tmp_path / "readers.sqlite")
    with staffed(tmp_path / "keys", clock) as store:
        test_ceremony(store, COMPONENTS)
        assert not limits(wanted(store, SM4)), "as long as both are in use"
        retire(store, clock)
        psam, order = SoftwarePsam.blank("sm4", rng=random.Random(3)), wanted(store, SM4)
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        job = Job(order.identity, "psam", psam_steps(order), DirectChannel(psam), remark=limits(order))
        assert await bench.personalise(job) is None
        roots = [key.algorithm for (usage, _), key in psam.mf.keys.value.items() if usage == 0x42]
        assert roots == [SM4]
        told = journal.find(job.chip)
        assert told is not None and told.reason == f"PSAM {'00' * 5}07 debits no 3DES card: that suite is retired"

        made, _ = plan(SM4).orders(journal, store.personaliser().key_versions())
        assert await bench.personalise(plan(SM4).job(made, DirectChannel(blank(SM4)), "one")) is None
        assert journal.stock()[Progress.ISSUED] == 2


@pytest.mark.parametrize("retire", [by_date, by_its_roots])
def test_chips_of_the_retired_suite_are_refused_first(
    tmp_path: Path, retire: Callable[[EmbeddedStore, Moment], None]
) -> None:
    clock, journal = Moment(), Journal(tmp_path / "readers.sqlite")
    with staffed(tmp_path / "keys", clock) as store:
        test_ceremony(store, COMPONENTS)
        begun, _ = plan(OLD).orders(journal, store.personaliser().key_versions())
        retire(store, clock)
        refused = "3DES is retired.*no serial was spent, order it in SM4"
        with pytest.raises(KeyUseError, match=refused):
            plan(OLD).orders(journal, store.personaliser().key_versions())
        with pytest.raises(KeyUseError, match=refused):
            psam_steps(wanted(store, OLD))
        assert steps(load_profile("shared-purse"), begun), "what was begun before keeps its script"
        assert sum(journal.stock().values()) == 0


@pytest.mark.parametrize("step", [Move.SUSPEND, Move.RETIRE])
@pytest.mark.parametrize("name", ["3des/LOAD/1", "3des/UNLOAD/1", "3des/MAINTENANCE/1", "3des/CONTROL/0"])
def test_a_key_that_goes_into_no_chip_is_named_before_the_first_card(tmp_path: Path, step: Move, name: str) -> None:
    """One key of a card stops the issuing of its suite, as its siblings are active still: who issues hears which, and
    no card is begun."""
    with staffed(tmp_path / "keys", Moment()) as store, closing(Journal(tmp_path / "readers.sqlite")) as journal:
        test_ceremony(store, COMPONENTS)
        assert not store.personaliser().key_versions().missing
        move(store, step, KeyId.parse(name))
        with pytest.raises(KeyUseError, match=f"no version of {name} .*no serial was spent.*promote or resume"):
            plan(OLD).orders(journal, store.personaliser().key_versions())
        assert plan(SM4).orders(journal, store.personaliser().key_versions()), "the other suite has all its keys"
        assert sum(journal.stock().values()) == 0


@pytest.mark.parametrize("name", ["sm4/PURCHASE/transit", "3des/PURCHASE/transit", "sm4/RECORD", "sm4/ENTRY"])
def test_a_psam_is_not_begun_without_a_key_of_it(tmp_path: Path, name: str) -> None:
    with staffed(tmp_path / "keys", Moment()) as store:
        test_ceremony(store, COMPONENTS)
        move(store, Move.SUSPEND, KeyId.parse(name))
        with pytest.raises(KeyUseError, match=f"no version of {name} "):
            psam_steps(replace(wanted(store, SM4), gate=True))
        move(store, Move.RESUME, KeyId.parse(name))
        assert psam_steps(replace(wanted(store, SM4), gate=True))
