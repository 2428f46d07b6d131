"""What a custodian should know of a store: what it holds, where it lives, what quota is left, and what about it is not
fit for production. Nothing here is secret."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from cardcore.errors import KeyUseError
from cardcore.record import Suite
from keys.custody import Custodian
from keys.engine.kek import KekSource
from keys.loads import LOCAL
from keys.pkcs11 import TokenStore
from keys.purposes import SUITE_LABELS, KeyPurpose, KeyState, required_roots
from keys.rotation import Life, SuitePolicy
from keys.spending import Quota
from keys.store import EmbeddedStore, key_file

_SECRET_NAMES = {"PASSPHRASE", "KEK", "PIN"}


@dataclass(frozen=True, slots=True)
class QuotaLeft:
    """Of one scope today: spent, and the limit in force at the last load."""

    scope: str
    spent: Quota
    limit: Quota

    @property
    def left(self) -> Quota:
        return Quota(max(0, self.limit.loads - self.spent.loads), max(0, self.limit.fen - self.spent.fen))


@dataclass(frozen=True, slots=True)
class Status:
    """All of it; `unfit` are sentences, empty when nothing speaks against production."""

    production: bool
    places: Mapping[str, str]
    keys: tuple[Life, ...]
    policy: SuitePolicy
    custodians: tuple[str, ...]
    quotas: tuple[QuotaLeft, ...]
    audit_rows: int
    audit_seal: str
    unfit: tuple[str, ...]


def status_of(store: EmbeddedStore, environ: Mapping[str, str]) -> Status:
    """Look at an open store; the whole audit is followed. Quota is that of today in China's time."""
    state, register = store.book.state, store.book.register
    today = state.clock.now().astimezone(LOCAL).date()
    lives = tuple(sorted(register.lives().values(), key=lambda life: (life.id.name, life.id.version)))
    custodians = register.custodians()
    broken = ""
    try:
        state.check_all()
    except KeyUseError as error:
        broken = str(error)
    head = state.head()
    policy = register.policy()
    reasons = [
        *([f"The audit or its loads do not hold: {broken}"] if broken else []),
        *_of_keys(lives, policy, today),
        *_of_keeping(store),
        *_of_places(store, environ),
        *_of_persons(custodians),
    ]
    quotas = tuple(QuotaLeft(*row) for row in state.quotas(today.isoformat()))
    shown = tuple(one.shown for one in custodians.values())
    return Status(
        store.production, store.places(), lives, policy, shown, quotas, head.number, head.seal, tuple(reasons)
    )


def _of_keys(lives: tuple[Life, ...], policy: SuitePolicy, today: date) -> list[str]:
    reasons = []
    living = [life for life in lives if life.state is not KeyState.DESTROYED]
    if tests := sum(life.test for life in living):
        reasons.append(f"{tests} TEST keys: their components are known to whoever ran the demo.")
    active = {life.id.name for life in living if life.state is KeyState.ACTIVE}
    if missing := [name for name in required_roots() if name not in active]:
        reasons.append(f"{len(missing)} roots of docs/card.md have no active version, the first is {missing[0]}.")
    weak = [life for life in living if life.id.suite is Suite.TRIPLE_DES and life.state is not KeyState.COMPROMISED]
    if any(life.id.purpose in (KeyPurpose.TAC, KeyPurpose.LOAD) for life in weak):
        end = policy.sunsets.get(Suite.TRIPLE_DES)
        when = f"ends {end.making_until}, verified until {end.verifying_until}" if end else "has no dated sunset"
        reasons.append(
            f"3DES: MAC1, MAC2 and TAC of {len(weak)} keys have the strength of single DES (56 bits); the suite {when}."
        )
    for suite, end in policy.sunsets.items():
        if today > end.verifying_until:
            reasons.append(f"{SUITE_LABELS[suite]} is verified no more since {end.verifying_until}: destroy its keys.")
    reasons += [f"{life.id} is compromised: destroy it." for life in living if life.state is KeyState.COMPROMISED]
    reasons += [f"{life.id} is suspended since {life.since}." for life in living if life.state is KeyState.SUSPENDED]
    return reasons


def _of_keeping(store: EmbeddedStore) -> list[str]:
    """Where keys are when they are used, and what opens the store."""
    if isinstance(store, TokenStore):
        reasons = ["The token is a program: its keys lie in files."] if store.in_software else []
        if sealed := store.sealed_beside:
            reasons.append(f"{sealed} keys lie sealed beside the token and open in this machine's memory.")
        return reasons
    reasons = ["The store is embedded: keys open in this machine's memory, and its root user can read them."]
    file = key_file(store.path)
    if store.source is KekSource.FILE:
        reasons.append(
            "The key-encryption key lies in a file: a backup that takes both, or this user's files, opens everything."
        )
    elif file.is_file():
        reasons.append(f"{file} opens this store no more, only older copies of it: destroy it.")
    return reasons


def _of_places(store: EmbeddedStore, environ: Mapping[str, str]) -> list[str]:
    reasons = []
    if not store.production:
        reasons.append("It was founded as a TEST store and never becomes one of production.")
    if told := [name for name in environ if _SECRET_NAMES & set(name.upper().split("_"))]:
        reasons.append(f"The environment has {told[0]}: other processes of this user can read a secret there.")
    if store.restored:
        reasons.append("It is a copy that was put back and that nobody has accepted: no key is used.")
    path, anchor = store.path, store.anchor.path
    if not anchor.is_file():
        reasons.append("There is no rollback anchor: an older copy of the file could be put back unseen.")
    elif anchor.stat().st_dev == path.stat().st_dev:
        reasons.append("The anchor lies on the disk of the store: who puts back both is not seen. Move it elsewhere.")
    for place in (path, store.book.state.path):
        if place.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            reasons.append(f"{place} is open to other users: take their rights away.")
    return reasons


def _of_persons(custodians: Mapping[str, Custodian]) -> list[str]:
    if len(custodians) > 2:
        return []
    return [f"{len(custodians)} custodians are enrolled: with one away, no act of two persons is possible."]
