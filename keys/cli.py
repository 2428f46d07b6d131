"""`onecard keys`: what a key custodian or an auditor sees and does. Nothing here shows a key, and no secret comes by
argument."""

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from rich.console import Console
from rich.table import Column, Table

from cardcore.errors import FormatError, SetupError
from keys import acts, exchange
from keys.ceremony import Ceremony
from keys.engine.kek import KekSource
from keys.prompts import Place, Prompts, expect_values
from keys.purposes import SUITE_LABELS, KeyId
from keys.rotation import Demand, Move, Sunset
from keys.status import QuotaLeft, Status, status_of
from keys.store import EmbeddedStore, Missing, is_store, open_store, secret_wanted
from keys.tr31 import Version
from keys.transcript import follow
from keys.wrapping import check_passphrase

app = cyclopts.App(name="keys", help="Key stores: what they hold, and what was done with it.")
Where = Annotated[Place, cyclopts.Parameter(name="*")]
HERE = Place()
Kdf = Literal["argon2id", "pbkdf2-sm3"]
Keys = Annotated[list[str], cyclopts.Parameter(help="Names of keys, as in sm4/TAC/1.")]
_SUITES = {"3des": KeyId.parse("3des/TAC/1").suite, "sm4": KeyId.parse("sm4/TAC/1").suite}
# Those with the least quota left.
_SCOPES_SHOWN = 5
# Tests put their answers in its place.
prompts = Prompts()


@app.command(name="list")
def list_keys(*, place: Where = HERE) -> None:
    """Name, version, state and check value of every key in the store."""
    with _existing(place) as opened:
        table = Table(
            "key", "version", "state", "KCV", "", title=f"{'production' if opened.production else 'TEST'} store"
        )
        for fact in opened.inventory():
            kcv, test = fact.kcv.hex().upper(), "TEST" if fact.test else ""
            table.add_row(fact.id.name, str(fact.id.version), fact.state, kcv, test)
    Console().print(table)


@app.command
def audit(*, last: int = 50, place: Where = HERE) -> None:
    """The last acts on the keys of the store."""
    with _existing(place) as opened:
        rows = opened.audit(last)
    table = Table(*(Column(name, overflow="fold") for name in ("no.", "instant", "act", "subject", "detail", "by")))
    for number, *texts in rows:
        table.add_row(str(number), *texts)
    Console().print(table)


@app.command
def status(*, place: Where = HERE) -> None:
    """What the store holds, where it lives, what quota is left, and what is not fit for production."""
    with _existing(place) as opened:
        _show(status_of(opened, os.environ))


@app.command
def found(
    *, production: bool = False, passphrase: bool = False, kdf: Kdf = "argon2id", missing: Missing | None = None,
    place: Where = HERE,
) -> None:  # fmt: skip
    """Found a store and enrol its first two custodians; --passphrase asks for one instead of making a key file, with
    --token its keys are in that token and --missing (lack, seal) says what becomes of those that it cannot hold."""
    if is_store(place.path):
        raise SetupError(f"there is a key store in {place.path} already; nothing was done, name an empty directory")
    if passphrase and place.token:
        raise FormatError("a token is opened by its PIN, and by no passphrase of the store; nothing was done")
    people = [prompts.name(f"{which} custodian, name") for which in ("First", "Second")]
    secrets = [prompts.new_passphrase(person) for person in people]
    # Tried before anything is written: who is refused here leaves no store behind.
    if acts.enrolment(people[0]) == acts.enrolment(people[1]):
        raise FormatError("the two custodians are one person; nothing was founded, ask another person in")
    for person, secret in zip(people, secrets, strict=True):
        acts.check_passphrase(person, secret)
    words = prompts.new_passphrase("the store") if passphrase else None
    if words is not None:
        check_passphrase(words)
    elif wanted := secret_wanted(place.path, place.token):
        words = prompts.secret(wanted)
    with open_store(
        place.path, token=place.token, production=production, passphrase=words, passphrase_kdf=KekSource(kdf),
        missing=missing, anchor=place.anchor,
    ) as opened:  # fmt: skip
        prompts.say_limits(opened)
        for person, secret in zip(people, secrets, strict=True):
            acts.enrol(opened, person, secret)
    _say(f"{place.path} is founded; hold a ceremony: onecard keys ceremony")


@app.command
def passphrase(*, key_file: bool = False, kdf: Kdf = "argon2id", place: Where = HERE) -> None:
    """Open the store by a new passphrase from now on, or by a new key file (--key-file); two custodians approve."""
    with _existing(place) as opened:
        acts.check_opening(opened)
        words = None if key_file else prompts.new_passphrase("the store")
        if words is not None:
            check_passphrase(words)
        approvals = prompts.approvals(opened, acts.opening_act(words is not None))
        acts.change_opening(opened, approvals, words, KekSource(kdf))
        shown = opened.places()["opened by"]
    _say(f"the store is opened by {shown} from now on; what opened it before opens older copies only")


@app.command
def enrol(*, place: Where = HERE) -> None:
    """Enrol a custodian, or give one a new passphrase; two custodians approve."""
    with _existing(place) as opened:
        person = prompts.name("Name of the custodian to enrol")
        passphrase = prompts.new_passphrase(person)
        few = len(opened.book.register.custodians()) < 2
        acts.enrol(opened, person, passphrase, () if few else prompts.approvals(opened, acts.enrolment(person)))
        _say_done(opened)


@app.command
def ceremony(keys: Keys, *, parts: int = 3, transcript: Path | None = None, place: Where = HERE) -> None:
    """Take in keys from components that as many persons hold; each key gets its next version, pre-active."""
    _hold(place, keys, parts, None, transcript)


@app.command(name="import-components")
def import_components(
    keys: Keys, *, kcv: list[str], parts: int = 3, transcript: Path | None = None, place: Where = HERE,
) -> None:  # fmt: skip
    """The same for keys that another centre made: --kcv sm4/TAC/1=A1B2C3 of its form has to come out."""
    _hold(place, keys, parts, kcv, transcript)


def _hold(place: Place, keys: Sequence[str], parts: int, kcv: Sequence[str] | None, transcript: Path | None) -> None:
    with _existing(place) as opened:
        sitting = Ceremony(opened, keys, parts)
        prompts.components(sitting)
        if kcv is not None:
            expect_values(sitting, kcv)
        approvals = prompts.approvals(opened, sitting.act)
        file = transcript or place.state / "keys-transcripts" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
        seal = sitting.finish(approvals, file)
    _say(f"kept, pre-active; transcript {file}\nseal {seal}; sign it on paper")


@app.command(name="check-transcript")
def check_transcript(transcript: Path) -> None:
    """Whether a transcript is as it was written; compare its seal with the paper."""
    _say(f"every line holds; seal {follow(transcript.read_text(encoding='utf-8'))}")


def _move(move: Move, help: str) -> None:
    def act(keys: Keys, *, version: int, place: Where = HERE) -> None:
        with _existing(place) as opened:
            ids = [KeyId.parse(name, version) for name in keys]
            acts.check_movement(opened, move, ids)
            acts.carry_out(opened, move, ids, prompts.approvals(opened, acts.movement(move, ids)))
            shown = status_of(opened, os.environ)
        for life in shown.keys:
            if life.id in ids:
                _say(f"{life.id} KCV {life.kcv} is {life.state} since {life.since}")

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
def sunset(suite: str, *, making_until: date, verifying_until: date, place: Where = HERE) -> None:
    """Date the end of a suite (3des or sm4): the last day of loading and issuing, and of verifying."""
    if suite not in _SUITES:
        raise FormatError(f"{suite!r} is no suite; it is 3des or sm4, nothing was set")
    end = Sunset(_SUITES[suite], making_until, verifying_until)
    with _existing(place) as opened:
        acts.set_sunset(opened, end, prompts.approvals(opened, acts.sunset_act(end)))
        _say_done(opened)


@app.command(name="sm4-only")
def sm4_only(subject: str, *, since: date, place: Where = HERE) -> None:
    """From a day on refuse "card SERIAL", "issuer ID" or "terminal NUMBER" anything but SM4."""
    demand = Demand(subject, since)
    with _existing(place) as opened:
        acts.demand_sm4(opened, demand, prompts.approvals(opened, acts.demand_act(demand)))
        _say_done(opened)


@app.command(name="issue-psams")
def issue_psams(numbers: list[str], *, place: Where = HERE) -> None:
    """Open the issuing of these PSAMs (terminal numbers) for a day; the bench issues no other of a production store."""
    with _existing(place) as opened:
        until = acts.issue_psams(opened, numbers, prompts.approvals(opened, acts.issuing_act(numbers)))
    _say(f"{len(numbers)} PSAMs may be issued until {until:%Y-%m-%d %H:%M} UTC")


@app.command
def export(
    key: str, *, version: int, file: Path, under: Version = Version.AES, parts: int = 2, onward: bool = False,
    place: Where = HERE,
) -> None:  # fmt: skip
    """Hand a key to another party as a TR-31 block in a new FILE, under a protection key (aes: version D, tdes: version
    B) from the components of --parts persons; two others approve. --onward lets that party hand it on."""
    id = KeyId.parse(key, version)
    with _existing(place) as opened:
        exchange.check_export(opened, id)
        exchange.free(file)
        protection, givers = prompts.protection_key(under, parts)
        approvals = prompts.approvals(opened, exchange.export_act(opened, id, protection, onward=onward))
        exchange.export_root(opened, id, protection, approvals, givers, file, onward=onward)
    _say(f"{id} is in {file}; send it, and the components of the protection key by other ways")


@app.command(name="import")
def import_(file: Path, key: str, *, version: int | None = None, parts: int = 2, place: Where = HERE) -> None:
    """Take in a key from the TR-31 block in FILE, pre-active, as its next version or the one that its sender says."""
    block = exchange.read_block(file)
    with _existing(place) as opened:
        protection, givers = prompts.protection_key(exchange.version_of(block), parts)
        root = exchange.received(opened, block, protection, key, version)
        approvals = prompts.approvals(opened, acts.installation([root]))
        exchange.import_root(opened, root, approvals, givers, protection)
    _say(f"{root.id} KCV {root.kcv.hex().upper()} is kept, pre-active; compare the KCV with its sender")


@app.command(name="accept-restored")
def accept_restored(*, place: Where = HERE) -> None:
    """Accept a backup that was put back on purpose; two custodians approve."""
    with _existing(place, restored=True) as opened:
        acts.accept_restored(opened, prompts.approvals(opened, acts.ACCEPT_RESTORED))
        _say_done(opened)


def _say(text: str) -> None:
    Console().print(text, soft_wrap=True, highlight=False)


def _say_done(store: EmbeddedStore) -> None:
    _say(f"done, and in the audit as row {store.book.state.head().number}")


def _show(found: Status) -> None:
    console = Console()
    console.print(
        f"{'production' if found.production else 'TEST'} store; audit at row {found.audit_rows}", style="bold"
    )
    console.print(f"seal {found.audit_seal}")
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
        console.print(
            f"{SUITE_LABELS[end.suite]}: loads until {end.making_until}, verified until {end.verifying_until}"
        )
    for demand in found.policy.demands.values():
        console.print(f"SM4 only: {demand.subject} since {demand.since}")
    _show_quotas(console, found.quotas)
    for reason in found.unfit:
        console.print(f"not fit for production: {reason}", style="yellow", soft_wrap=True, highlight=False)


def _show_quotas(console: Console, quotas: Sequence[QuotaLeft]) -> None:
    if not quotas:
        console.print("loads and unloads today: none, the whole quota is left")
    for one in quotas:
        if one.scope in ("total", "unload total"):
            what = "unloads" if one.scope.startswith("unload") else "loads"
            console.print(
                f"{what} today: {one.spent.loads} and {one.spent.fen} fen spent, "
                f"{one.left.loads} and {one.left.fen} fen left"
            )
    for kind in ("operator", "terminal"):
        scopes = sorted((one for one in quotas if kind in one.scope), key=lambda one: one.left.fen)
        for one in scopes[:_SCOPES_SHOWN]:
            console.print(f"  {one.scope}: {one.left.loads} and {one.left.fen} fen left")
        if more := scopes[_SCOPES_SHOWN:]:
            console.print(f"  {len(more)} {kind}s more have more left")


def _existing(place: Place, *, restored: bool = False) -> EmbeddedStore:
    if not is_store(place.path):
        raise SetupError(
            f"there is no key store in {place.path}; name the state directory by --state, or found a store by onecard "
            "keys found"
        )
    return prompts.store(place, restored=restored)
