"""What two persons do to a store (rule 23): take keys in, move them through their life, destroy them, issue PSAMs, set
the dates of suites, change what opens it, accept a restored copy. One act, two approvals of its exact words, one row of
audit."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cardcore.errors import FormatError, KeyUseError, RefusedError
from keys import custody, wrapping
from keys.custody import Approval, two_persons
from keys.engine.kek import KekSource
from keys.engine.root import RootKey
from keys.purposes import SUITE_LABELS, KeyId, KeyState
from keys.register import custodian_row, demand_row, life_row, psam_row, sunset_row
from keys.rotation import Demand, Move, Sunset, state_after
from keys.state import AuditRow, Statement
from keys.store import EmbeddedStore, KeyFacts

ISSUING_LASTS = timedelta(days=1)
ACCEPT_RESTORED = "accept the restored store"


def approve(store: EmbeddedStore, act: str, name: str, passphrase: str) -> Approval:
    """One custodian's approval of an act, good for ten minutes and once. Raises RefusedError('two-persons'), and the
    attempt is in the audit."""
    state = store.book.state
    one = store.book.register.custodians().get(custody.folded(name))
    try:
        if one is None:
            raise RefusedError("two-persons", f"{name} is no custodian of this store; nothing was approved")
        return custody.approve(one, passphrase, act, state.clock.now(), store._chain)
    except RefusedError:
        state.record([("approval refused", act, custody.folded(name))])
        raise


def enrol(store: EmbeddedStore, name: str, passphrase: str, approvals: Sequence[Approval] = ()) -> None:
    """Enrol a custodian, or give one a new passphrase. The first two of a store need no approval; nobody could give
    it."""
    one = custody.enrol(name, passphrase)
    act, known = enrolment(name), store.book.register.custodians()
    if len(known) < 2:
        if one.name in known:
            raise RefusedError("two-persons", f"{one.shown} is here already; nobody was enrolled, enrol another person")
        store.book.state.change([custodian_row(one)], [("enrol", one.shown, "one of the first two custodians")])
    else:
        decide(store, act, approvals, [custodian_row(one)], ("enrol", one.shown, ""))


def check_passphrase(name: str, passphrase: str) -> None:
    """Raises RefusedError for a name or passphrase that would not be enrolled."""
    custody.enrol(name, passphrase)


def enrolment(name: str) -> str:
    """The words of the act of enrolling."""
    return f"enrol {custody.folded(name)}"


def installation(keys: Sequence[RootKey]) -> str:
    """The words of the act of taking keys in: their names, versions and check values."""
    return "take in " + ", ".join(f"{root.id} KCV {root.kcv.hex().upper()}" for root in keys)


def install(
    store: EmbeddedStore, keys: Sequence[RootKey], approvals: Sequence[Approval], givers: Sequence[str], transcript: str
) -> str:
    """Take in the keys of a ceremony, all or none, pre-active; `givers` held their components, `transcript` is the
    seal of what was written of it. Returns who approved."""
    fresh = store.fresh(keys)
    if len(fresh) != len(keys) or not keys:
        raise KeyUseError("a key of this ceremony is here already; nothing was kept, give it a new version")
    act = installation(keys)
    told = f"{act}; components of {', '.join(givers)}; transcript {transcript}"
    row = ("ceremony", "TEST keys" if fresh[0].test else "keys", told)
    who = decide(store, act, approvals, store.rows_of(fresh), row, givers)
    store.reload()
    return who


def movement(move: Move, ids: Sequence[KeyId]) -> str:
    """The words of the act of moving versions."""
    return f"{move} {', '.join(map(str, ids))}"


def check_movement(store: EmbeddedStore, move: Move, ids: Sequence[KeyId]) -> None:
    """Raises KeyUseError when a move may not start, so that nobody is asked in vain."""
    for id in ids:
        state_after(move, id, store.book.register.lives())


def carry_out(store: EmbeddedStore, move: Move, ids: Sequence[KeyId], approvals: Sequence[Approval]) -> list[KeyFacts]:
    """Move versions through their life, all or none. A destroyed key's block is overwritten in the file and its log;
    its check value and dates stay. Returns what the store holds of them now. Raises KeyUseError, RefusedError."""
    state, lives = store.book.state, store.book.register.lives()
    since = state.clock.now().isoformat(timespec="seconds")
    statements: list[Statement] = []
    moved = {}
    for id in ids:
        end = state_after(move, id, lives)
        life = lives[id]
        moved[id] = type(life)(id, end, since, life.kcv, life.test)
        if end is KeyState.DESTROYED:
            statements.append(("DELETE FROM block WHERE name = ? AND version = ?", (id.name, id.version)))
            statements.append(life_row(moved[id]))
        else:
            statements += store.rows_of([store.in_state(id, end)])
    subject = ", ".join(map(str, ids))
    told = "; ".join(f"{id} KCV {lives[id].kcv}: {lives[id].state} → {moved[id].state}" for id in ids)
    decide(store, movement(move, ids), approvals, statements, (move, subject, told))
    if move is Move.DESTROY:
        state.checkpoint()
    store.reload()
    return [fact for fact in store.inventory() if fact.id in moved]


def sunset_act(sunset: Sunset) -> str:
    """The words of the act of dating the end of a suite."""
    return (
        f"end {SUITE_LABELS[sunset.suite]}: load and issue until {sunset.making_until}, "
        f"verify until {sunset.verifying_until}"
    )


def set_sunset(store: EmbeddedStore, sunset: Sunset, approvals: Sequence[Approval]) -> None:
    """Date the end of a suite, or change the dates."""
    act = sunset_act(sunset)
    decide(store, act, approvals, [sunset_row(sunset)], ("sunset", SUITE_LABELS[sunset.suite], act))


def demand_act(demand: Demand) -> str:
    """The words of the act of asking for SM4."""
    return f"SM4 only for {demand.subject} from {demand.since}"


def demand_sm4(store: EmbeddedStore, demand: Demand, approvals: Sequence[Approval]) -> None:
    """From a date on, refuse a card, issuer or terminal anything but SM4."""
    decide(store, demand_act(demand), approvals, [demand_row(demand)], ("sm4-only", demand.subject, str(demand.since)))


def issuing_act(numbers: Sequence[str]) -> str:
    """The words of the act of issuing PSAMs."""
    return f"issue {len(numbers)} PSAMs: {', '.join(sorted(number.lower() for number in numbers))}"


def issue_psams(store: EmbeddedStore, numbers: Sequence[str], approvals: Sequence[Approval]) -> datetime:
    """Open the issuing of exactly these PSAMs (terminal numbers, 12 hexadecimal digits) for a day; returns the instant
    when it closes. Raises FormatError, RefusedError."""
    lowered = [number.lower() for number in numbers]
    for number in lowered:
        if len(number) != 12 or not set(number) <= set("0123456789abcdef"):
            raise FormatError(f"a PSAM's terminal number has 12 hexadecimal digits, not {number!r}; nothing was opened")
    if not lowered or len(set(lowered)) != len(lowered):
        raise FormatError("name each PSAM once, and at least one; nothing was opened")
    until = store.book.state.clock.now() + ISSUING_LASTS
    row = ("issue PSAMs", f"{len(lowered)} PSAMs", ", ".join(sorted(lowered)))
    decide(store, issuing_act(lowered), approvals, [psam_row(number, until) for number in lowered], row)
    return until


def opening_act(passphrase: bool) -> str:
    """The words of the act of changing what opens a store."""
    return f"open the store by a new {'passphrase' if passphrase else 'key file'} from now on"


def check_opening(store: EmbeddedStore) -> None:
    """Raises KeyUseError when nothing here can be changed, so that nobody is asked in vain."""
    if store.source is KekSource.TOKEN:
        raise KeyUseError(
            "this store is opened by the PIN of its token; nothing was changed, change the PIN by the token's own tool"
        )


def change_opening(
    store: EmbeddedStore, approvals: Sequence[Approval], passphrase: str | None,
    kdf: KekSource = KekSource.ARGON2ID,
) -> None:  # fmt: skip
    """Open the store by a new passphrase from now on, or by a new key file, beside the directory as ever. After a kill
    at any moment the old or the new one opens it. Raises KeyUseError, FormatError, SetupError, RefusedError."""
    check_opening(store)
    act, state = opening_act(passphrase is not None), store.book.state
    try:
        with wrapping.rewrapped(state, store._sealer, passphrase, kdf) as facts:
            rows: list[Statement] = [("UPDATE store SET value = ? WHERE name = ?", (facts[one], one)) for one in facts]
            decide(store, act, approvals, rows, ("change opening", facts["kek"].decode(), act))
    finally:
        store.source = KekSource(state.facts()["kek"].decode())
    # The old wrapping is in neither the file nor its log.
    state.checkpoint()


def accept_restored(store: EmbeddedStore, approvals: Sequence[Approval]) -> None:
    """Accept a copy that was put back on purpose: from now on the anchor is its own again. What happened after the
    copy was made (loads, retired keys) is not in it: the acts of that time have to be done again."""
    if not store.restored:
        raise KeyUseError("this store fits its anchor: there is nothing to accept, and nothing was changed")
    who, used = _agreed(store, ACCEPT_RESTORED, approvals, frozenset())
    told = f"what was done after it was made is not in it; by {who}"
    number = store.book.state.head().number
    store.lift_anchor()
    store.book.state.change(used, [("accept restored", f"row {number}", told)])
    store.restored = False


def decide(
    store: EmbeddedStore, act: str, approvals: Sequence[Approval], statements: Sequence[Statement], row: AuditRow,
    givers: Sequence[str] = (),
) -> str:  # fmt: skip
    """Check the two persons, who are none of the `givers` of components, then do it all in one transaction. Returns who
    they are. Raises RefusedError, and nothing was done."""
    if store.restored:
        raise KeyUseError("this store is a copy that was put back; nothing was done, accept it first")
    who, used = _agreed(store, act, approvals, frozenset(map(custody.folded, givers)))
    word, subject, detail = row
    store.book.state.change([*statements, *used], [(word, subject, f"{detail + '; ' if detail else ''}by {who}")])
    return who


def _agreed(
    store: EmbeddedStore, act: str, approvals: Sequence[Approval], givers: frozenset[str]
) -> tuple[str, list[Statement]]:
    """Who agreed, and what uses their approvals up, also in the eyes of another process: the number of an approval is
    a primary key. A refusal is in the audit."""
    state, register = store.book.state, store.book.register
    now = state.clock.now()
    try:
        who = two_persons(
            act, approvals, register.custodians(), register.used_approvals(), now, store._chain, other_than=givers
        )
    except RefusedError as refusal:
        state.record([("act refused", act, str(refusal))])
        raise
    used: list[Statement] = [("DELETE FROM approval WHERE at < ?", ((now - custody.LIFETIME).isoformat(),))]
    used += [("INSERT INTO approval VALUES (?, ?)", (one.nonce, one.at.isoformat())) for one in approvals]
    return who, used
