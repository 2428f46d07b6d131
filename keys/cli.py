"""`onecard keys`: what a key custodian or an auditor sees and does. Nothing here shows a key, and no secret comes by
argument."""

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.table import Table

from cardcore.errors import FormatError, SetupError
from keys import acts
from keys.ceremony import Ceremony
from keys.prompts import Prompts, expect_values
from keys.purposes import KeyId
from keys.rotation import Demand, Move, Sunset
from keys.status import Status, status_of
from keys.store import FILE_NAME, EmbeddedStore, open_store
from keys.transcript import follow

app = cyclopts.App(name="keys", help="Key stores: what they hold, and what was done with it.")
Anchor = Annotated[Path | None, cyclopts.Parameter(name="--anchor", help="The store's anchor, best on another disk.")]
_SUITES = {"3des": KeyId.parse("3des/TAC/1").suite, "sm4": KeyId.parse("sm4/TAC/1").suite}
# Tests put their answers in its place.
prompts = Prompts()


@app.command(name="list")
def list_keys(store: Path, *, anchor: Anchor = None) -> None:
    """Name, version, state and check value of every key in the store."""
    with _existing(store, anchor) as opened:
        table = Table(
            "key", "version", "state", "KCV", "", title=f"{'production' if opened.production else 'TEST'} store"
        )
        for fact in opened.inventory():
            kcv, test = fact.kcv.hex().upper(), "TEST" if fact.test else ""
            table.add_row(fact.id.name, str(fact.id.version), fact.state, kcv, test)
    Console().print(table)


@app.command
def audit(store: Path, *, last: int = 50, anchor: Anchor = None) -> None:
    """The last acts on the keys of the store."""
    with _existing(store, anchor) as opened:
        rows = opened.audit(last)
    table = Table("no.", "instant", "act", "subject", "detail")
    for number, *texts in rows:
        table.add_row(str(number), *texts)
    Console().print(table)


@app.command
def status(store: Path, *, anchor: Anchor = None) -> None:
    """What the store holds, where it lives, what quota is left, and what is not fit for production."""
    with _existing(store, anchor) as opened:
        _show(status_of(opened, store, os.environ, anchor))


@app.command
def found(store: Path, *, production: bool = False, passphrase: bool = False, anchor: Anchor = None) -> None:
    """Found a store and enrol its first two custodians; --passphrase asks for one instead of making a key file."""
    if (store / FILE_NAME).is_file():
        raise SetupError(f"there is a key store in {store} already; nothing was done, name an empty directory")
    people = [prompts.name(f"{place} custodian, name") for place in ("First", "Second")]
    secrets = [prompts.new_passphrase(person) for person in people]
    # Tried before anything is written: who is refused here leaves no store behind.
    if acts.enrolment(people[0]) == acts.enrolment(people[1]):
        raise FormatError("the two custodians are one person; nothing was founded, ask another person in")
    for person, secret in zip(people, secrets, strict=True):
        acts.check_passphrase(person, secret)
    words = prompts.new_passphrase("the store") if passphrase else None
    with open_store(store, production=production, passphrase=words, anchor=anchor) as opened:
        for person, secret in zip(people, secrets, strict=True):
            acts.enrol(opened, person, secret)
    Console().print(f"{store} is founded; hold a ceremony: onecard keys ceremony")


@app.command
def enrol(store: Path, *, anchor: Anchor = None) -> None:
    """Enrol a custodian, or give one a new passphrase; two custodians approve."""
    with _existing(store, anchor) as opened:
        person = prompts.name("Name of the custodian to enrol")
        passphrase = prompts.new_passphrase(person)
        few = len(opened.book.register.custodians()) < 2
        acts.enrol(opened, person, passphrase, () if few else prompts.approvals(opened, acts.enrolment(person)))


@app.command
def ceremony(
    store: Path, keys: list[str], *, parts: int = 3, transcript: Path | None = None, anchor: Anchor = None
) -> None:
    """Take in keys from components that as many persons hold; each key gets its next version, pre-active."""
    _hold(store, keys, parts, None, transcript, anchor)


@app.command(name="import-components")
def import_components(
    store: Path, keys: list[str], *, kcv: list[str], parts: int = 3, transcript: Path | None = None,
    anchor: Anchor = None,
) -> None:  # fmt: skip
    """The same for keys that another centre made: --kcv sm4/TAC/1=A1B2C3 of its form has to come out."""
    _hold(store, keys, parts, kcv, transcript, anchor)


def _hold(
    path: Path, keys: Sequence[str], parts: int, kcv: Sequence[str] | None, transcript: Path | None, anchor: Path | None
) -> None:
    with _existing(path, anchor) as opened:
        sitting = Ceremony(opened, keys, parts)
        prompts.components(sitting)
        if kcv is not None:
            expect_values(sitting, kcv)
        approvals = prompts.approvals(opened, sitting.act)
        place = transcript or path.parent / f"{path.name}-transcripts" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
        seal = sitting.finish(approvals, place)
    Console().print(f"kept, pre-active; transcript {place}\nseal {seal}; sign it on paper", soft_wrap=True)


@app.command(name="check-transcript")
def check_transcript(transcript: Path) -> None:
    """Whether a transcript is as it was written; compare its seal with the paper."""
    Console().print(f"every line holds; seal {follow(transcript.read_text(encoding='utf-8'))}", soft_wrap=True)


def _move(move: Move, help: str) -> None:
    def act(store: Path, keys: list[str], *, version: int, anchor: Anchor = None) -> None:
        with _existing(store, anchor) as opened:
            ids = [KeyId.parse(name, version) for name in keys]
            acts.check_movement(opened, move, ids)
            acts.carry_out(opened, move, ids, prompts.approvals(opened, acts.movement(move, ids)))
            shown = status_of(opened, store, os.environ, anchor)
        for life in shown.keys:
            if life.id in ids:
                Console().print(f"{life.id} KCV {life.kcv} is {life.state} since {life.since}")

    act.__doc__ = help
    app.command(act, name=move.value)


_move(Move.ROLL_OUT, "Let a version go into PSAMs and cards, and verify; loads do not rely on it yet.")
_move(Move.PROMOTE, "Put a rolled-out version in force.")
_move(Move.RETIRE, "End what a version makes; it verifies on.")
_move(Move.SUSPEND, "Stop a version for now.")
_move(Move.RESUME, "Put a suspended version in force again.")
_move(Move.COMPROMISE, "Stop a version for ever, verification too.")
_move(Move.DESTROY, "Destroy a version; its check value and dates stay.")


@app.command
def sunset(store: Path, suite: str, *, making_until: date, verifying_until: date, anchor: Anchor = None) -> None:
    """Date the end of a suite (3des or sm4): the last day of loading and issuing, and of verifying."""
    if suite not in _SUITES:
        raise FormatError(f"{suite!r} is no suite; it is 3des or sm4, nothing was set")
    end = Sunset(_SUITES[suite], making_until, verifying_until)
    with _existing(store, anchor) as opened:
        acts.set_sunset(opened, end, prompts.approvals(opened, acts.sunset_act(end)))


@app.command(name="sm4-only")
def sm4_only(store: Path, subject: str, *, since: date, anchor: Anchor = None) -> None:
    """From a day on refuse "card SERIAL", "issuer ID" or "terminal NUMBER" anything but SM4."""
    demand = Demand(subject, since)
    with _existing(store, anchor) as opened:
        acts.demand_sm4(opened, demand, prompts.approvals(opened, acts.demand_act(demand)))


@app.command(name="issue-psams")
def issue_psams(store: Path, numbers: list[str], *, anchor: Anchor = None) -> None:
    """Open the issuing of these PSAMs (terminal numbers) for a day; the bench issues no other of a production store."""
    with _existing(store, anchor) as opened:
        until = acts.issue_psams(opened, numbers, prompts.approvals(opened, acts.issuing_act(numbers)))
    Console().print(f"{len(numbers)} PSAMs may be issued until {until:%Y-%m-%d %H:%M} UTC")


@app.command(name="accept-restored")
def accept_restored(store: Path, *, anchor: Anchor = None) -> None:
    """Accept a backup that was put back on purpose; two custodians approve."""
    with _existing(store, anchor, restored=True) as opened:
        acts.accept_restored(opened, prompts.approvals(opened, acts.ACCEPT_RESTORED))


def _show(found: Status) -> None:
    console = Console()
    console.print(
        f"{'production' if found.production else 'TEST'} store; audit at row {found.audit_rows}", style="bold"
    )
    console.print(f"seal {found.audit_seal}", soft_wrap=True)
    for what, place in found.places.items():
        console.print(f"{what}: {place}", soft_wrap=True, highlight=False)
    console.print(f"custodians: {', '.join(found.custodians) or 'none'}")
    table = Table("key", "version", "state", "since", "KCV", "")
    for whole in (0, 3):  # a name or an instant that is cut is no use to who compares it
        table.columns[whole].overflow = "fold"
    for life in found.keys:
        test = "TEST" if life.test else ""
        table.add_row(life.id.name, str(life.id.version), life.state, life.since, life.kcv, test)
    console.print(table)
    for end in found.policy.sunsets.values():
        console.print(f"{end.suite.name}: loads until {end.making_until}, verified until {end.verifying_until}")
    for demand in found.policy.demands.values():
        console.print(f"SM4 only: {demand.subject} since {demand.since}")
    if not found.quotas:
        console.print("loads today: none, the whole quota is left")
    for one in found.quotas:
        console.print(
            f"loads today, {one.scope}: {one.spent.loads} and {one.spent.fen} fen spent, "
            f"{one.left.loads} and {one.left.fen} fen left"
        )
    for reason in found.unfit:
        console.print(f"not fit for production: {reason}", style="yellow", soft_wrap=True, highlight=False)


def _existing(path: Path, anchor: Path | None = None, *, restored: bool = False) -> EmbeddedStore:
    if not (path / FILE_NAME).is_file():
        raise SetupError(f"there is no key store in {path}; a store is founded by onecard keys found, or by the demo")
    return prompts.store(path, anchor=anchor, restored=restored)
