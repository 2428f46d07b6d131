"""Ceremonies and acts of several persons: who may, what is left of an interruption, and what a transcript shows."""

import asyncio
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.authority import PsamIdentity, Under
from cardcore.errors import FormatError, KeyUseError, RefusedError, SetupError
from cardcore.record import Suite
from keys import acts
from keys.ceremony import Ceremony
from keys.custody import Approval
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.rotation import Move
from keys.store import EmbeddedStore, open_store
from keys.transcript import follow
from tests import test_keys_reference as reference
from tests.custody_side import PASSPHRASES, Moment, approved, hold, move, staffed

TAC = KeyId(Suite.SM4, KeyPurpose.TAC, "1")


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
def store(tmp_path: Path, clock: Moment) -> Iterator[EmbeddedStore]:
    with staffed(tmp_path / "keys", clock, production=True) as opened:
        yield opened


def kcv(suite: Suite, key: bytes) -> str:
    """By the reference's block cipher, which is not ours."""
    block, size = reference.BLOCK[suite]
    return block(key, bytes(size))[:3].hex().upper()


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["sm4/TAC/1", "3des/LOAD/1"])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_key_is_the_sum_of_its_components(name: str, parts: int, store: EmbeddedStore, tmp_path: Path) -> None:
    drawn = hold(store, [name], tmp_path / "papers" / "t.txt", parts)
    (id, components), *_ = drawn.items()
    value = 0
    for one in components:
        value ^= int(one, 16)
    (fact,) = store.inventory()
    assert (fact.kcv.hex().upper(), fact.state, fact.test) == (
        kcv(id.suite, value.to_bytes(16, "big")), KeyState.PRE_ACTIVE, False,
    )  # fmt: skip
    text = (tmp_path / "papers" / "t.txt").read_text()
    for one in components:
        assert kcv(id.suite, bytes.fromhex(one)) in text
    assert fact.kcv.hex().upper() in text and follow(text) in text
    assert stat.S_IMODE((tmp_path / "papers" / "t.txt").stat().st_mode) == 0o600
    files = everything(tmp_path).lower()
    for secret in (*components, f"{value:032x}"):
        assert secret.encode() not in files and bytes.fromhex(secret) not in everything(tmp_path)


def test_a_transcript_names_persons_instants_and_the_audit(store: EmbeddedStore, tmp_path: Path) -> None:
    hold(store, ["sm4/TAC/1", "sm4/LOAD/1"], tmp_path / "t.txt")
    text = (tmp_path / "t.txt").read_text()
    for word in ("Chen Yi", "Sun Li", "Li Na", "Wang Wei", "2026-03-02 08:00:05 UTC", "production", "sm4/LOAD/1 v1"):
        assert word in text
    head = store.book.state.head()
    assert f"row {head.number}, seal {head.seal}" in text
    assert re.search(r"transcript [0-9a-f]{64}", store.audit()[-1][4])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_transcript_shows_it(data: st.DataObject) -> None:
    text = TRANSCRIPT
    at = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.characters(codec="ascii", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e").filter(text[at].__ne__))
    with pytest.raises(FormatError):
        follow(text[:at] + other + text[at + 1 :])


def test_a_line_less_shows_too() -> None:
    lines = TRANSCRIPT.splitlines(keepends=True)
    for place in range(len(lines) - 1):
        with pytest.raises(FormatError):
            follow("".join(lines[:place] + lines[place + 1 :]))
    assert follow(TRANSCRIPT)


def _transcript() -> str:
    from keys.transcript import Transcript

    made = Transcript(Moment())
    for text in ("ceremony of 1 keys", "Chen Yi gives component 1 of 2", "key sm4/TAC/1 v1: KCV A1B2C3"):
        made.add(text)
    return made.text


TRANSCRIPT = _transcript()


@pytest.mark.parametrize("again", ["Chen Yi", "chen yi", "  Chen   Yi ", "ＣＨＥＮ yi"])
def test_the_same_person_gives_no_two_components(again: str, store: EmbeddedStore) -> None:
    sitting = Ceremony(store, ["sm4/TAC/1"], 2)
    sitting.seat("Chen Yi")
    sitting.give(TAC, secrets.token_hex(16))
    with pytest.raises(RefusedError, match="has given a component already"):
        sitting.seat(again)


def test_components_that_are_none(store: EmbeddedStore) -> None:
    sitting = Ceremony(store, ["sm4/TAC/1"], 3)
    with pytest.raises(RefusedError):
        sitting.give(TAC, secrets.token_hex(16))
    sitting.seat("Chen Yi")
    for wrong in ("", "zz" * 16, "00" * 15, "00" * 17):
        with pytest.raises(FormatError) as refusal:
            sitting.give(TAC, wrong)
        assert not wrong or wrong not in str(refusal.value)
        assert refusal.value.__cause__ is None and refusal.value.__context__ is None
    with pytest.raises(RefusedError, match="hides nothing"):
        sitting.give(TAC, "00" * 16)
    component = secrets.token_hex(16)
    assert sitting.give(TAC, component) == kcv(Suite.SM4, bytes.fromhex(component))
    with pytest.raises(RefusedError, match="of this person"):
        sitting.give(TAC, secrets.token_hex(16))
    sitting.seat("Sun Li")
    with pytest.raises(RefusedError, match="given before"):
        sitting.give(TAC, component)
    with pytest.raises(RefusedError, match="not the turn"):
        sitting.seat("Qian Fu")
    with pytest.raises(RefusedError, match="not every component"):
        sitting.check_values()


def test_ceremonies_that_are_none(store: EmbeddedStore) -> None:
    for names, parts in (([], 2), (["sm4/TAC/1"] * 2, 2), (["sm4/TAC/1"], 1), (["sm4/TAC/2"], 2)):
        with pytest.raises(FormatError):
            Ceremony(store, names, parts)


def filled(store: EmbeddedStore) -> Ceremony:
    sitting = Ceremony(store, ["sm4/TAC/1"], 2)
    for person in ("Chen Yi", "Li Na"):
        sitting.seat(person)
        sitting.give(TAC, secrets.token_hex(16))
    return sitting


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["Wang Wei", "Wang Wei"], "two different custodians"),
        (["Wang Wei"], "two different custodians"),
        ([], "two different custodians"),
        (["Li Na", "Wang Wei"], "gave a component"),
    ],
)
def test_who_may_not_approve_a_ceremony(names: list[str], why: str, store: EmbeddedStore, tmp_path: Path) -> None:
    sitting = filled(store)
    with pytest.raises(RefusedError, match=why):
        sitting.finish(approved(store, sitting.act, names), tmp_path / "t.txt")
    assert store.inventory() == [] and not list(tmp_path.glob("t.txt*"))
    assert sitting.finish(approved(store, sitting.act, ["Wang Wei", "Zhao Min"]), tmp_path / "t.txt")


def test_approvals_hold_for_their_act_now_and_once(store: EmbeddedStore, clock: Moment, tmp_path: Path) -> None:
    hold(store, ["sm4/TAC/1"], tmp_path / "t.txt")
    act = acts.movement(Move.ROLL_OUT, [TAC])
    good = approved(store, act)

    def refused(given: list[Approval], why: str) -> None:
        with pytest.raises(RefusedError, match=why):
            acts.carry_out(store, Move.ROLL_OUT, [TAC], given)
        assert store.book.register.lives()[TAC].state is KeyState.PRE_ACTIVE
        assert store.audit()[-1][2] == "act refused"

    refused(approved(store, acts.movement(Move.DESTROY, [TAC])), "approved something else")
    refused([good[0], replace(good[1], custodian="zhao min")], "not given by this store")
    refused([good[0], replace(good[1], at=clock.instant.replace(year=2030))], "not given by this store")
    clock.pass_(minutes=10, seconds=1)
    refused(good, "not of now")
    clock.pass_(minutes=-11)
    refused(good, "not of now")
    clock.pass_(minutes=2)
    acts.carry_out(store, Move.ROLL_OUT, [TAC], good)
    for step in (Move.PROMOTE, Move.SUSPEND, Move.RESUME):
        move(store, step, TAC)
    used = approved(store, acts.movement(Move.SUSPEND, [TAC]))
    acts.carry_out(store, Move.SUSPEND, [TAC], used)
    move(store, Move.RESUME, TAC)
    with pytest.raises(RefusedError, match="used before"):
        acts.carry_out(store, Move.SUSPEND, [TAC], used)


def test_an_approval_of_another_store_counts_for_nothing(store: EmbeddedStore, clock: Moment, tmp_path: Path) -> None:
    hold(store, ["sm4/TAC/1"], tmp_path / "t.txt")
    with staffed(tmp_path / "other", clock) as other:
        foreign = approved(other, acts.movement(Move.DESTROY, [TAC]))
    with pytest.raises(RefusedError, match="not given by this store"):
        acts.carry_out(store, Move.DESTROY, [TAC], foreign)


def test_a_wrong_passphrase_is_refused_and_told(store: EmbeddedStore) -> None:
    for name, passphrase in (("Li Na", "correct horse batterz"), ("Li Na", ""), ("Nobody", PASSPHRASES["Li Na"])):
        with pytest.raises(RefusedError, match="nothing was approved"):
            acts.approve(store, "anything", name, passphrase)
        assert store.audit()[-1][2] == "approval refused"


def test_the_first_two_enrol_freely_and_others_by_two(tmp_path: Path, clock: Moment) -> None:
    with open_store(tmp_path / "keys", clock=clock) as store:
        acts.enrol(store, "Li Na", PASSPHRASES["Li Na"])
        with pytest.raises(RefusedError, match="here already"):
            acts.enrol(store, "li  na", "another passphrase")
        with pytest.raises(RefusedError, match="12 characters"):
            acts.enrol(store, "Wang Wei", "short")
        acts.enrol(store, "Wang Wei", PASSPHRASES["Wang Wei"])
        with pytest.raises(RefusedError, match="two different"):
            acts.enrol(store, "Zhao Min", PASSPHRASES["Zhao Min"])
        acts.enrol(store, "Zhao Min", PASSPHRASES["Zhao Min"], approved(store, acts.enrolment("Zhao Min")))
        assert approved(store, "x", ["Zhao Min"])


def test_a_transcript_that_cannot_be_written_keeps_no_key(store: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there.txt").write_text("an earlier one")
    for place in (tmp_path / "file" / "t.txt", tmp_path / "there.txt"):
        sitting = filled(store)
        with pytest.raises(SetupError, match="transcript"):
            sitting.finish(approved(store, sitting.act, ["Wang Wei", "Zhao Min"]), place)
        assert store.inventory() == []
    assert (tmp_path / "there.txt").read_text() == "an earlier one"


def test_psams_of_a_production_store_are_issued_by_an_act(store: EmbeddedStore, clock: Moment, tmp_path: Path) -> None:
    ids = list(hold(store, ["sm4/CONTROL/0", "sm4/TRANSPORT"], tmp_path / "t.txt"))
    for step in (Move.ROLL_OUT, Move.PROMOTE):
        move(store, step, *ids)
    bench = store.personaliser()

    def issue(number: str) -> bytes:
        psam = PsamIdentity(bytes.fromhex(number), Suite.SM4)
        return asyncio.run(bench.authenticate(psam, 0, Under.TRANSPORT, bytes(4)))

    with pytest.raises(RefusedError, match="no two custodians"):
        issue("0000000dbba1")
    for wrong in ([], ["12"], ["0000000dbba1"] * 2, ["zz00000dbba1"]):
        with pytest.raises(FormatError):
            acts.issue_psams(store, wrong, approved(store, acts.issuing_act(wrong)))
    number = "0000000DBBA1"
    acts.issue_psams(store, [number], approved(store, acts.issuing_act([number])))
    assert len(issue(number)) == 16
    with pytest.raises(RefusedError, match="no two custodians"):
        issue("0000000dbba2")
    clock.pass_(days=1, seconds=1)
    with pytest.raises(RefusedError, match="no two custodians"):
        issue(number)


def test_keys_of_production_only_come_by_a_ceremony(store: EmbeddedStore, tmp_path: Path) -> None:
    hold(store, ["sm4/TAC/1"], tmp_path / "t.txt")
    sitting = Ceremony(store, ["sm4/TAC/1"], 2)
    assert sitting.ids == [replace(TAC, version=2)]
    with pytest.raises(KeyUseError, match="no usable key"):
        store.tac_verifier()
