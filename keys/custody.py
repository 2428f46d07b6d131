"""Two persons (rule 23): custodians prove themselves by a passphrase, and approve one act, by its words, for ten
minutes, once."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cardcore.errors import RefusedError
from keys.chain import Chain
from keys.engine.kek import KekSource, from_passphrase

LIFETIME = timedelta(minutes=10)
_SHORTEST = 12


@dataclass(frozen=True, slots=True)
class Custodian:
    """Who may approve: the folded name, the name as it is shown, and what tells the passphrase (Argon2id)."""

    name: str
    shown: str
    salt: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Approval:
    """One custodian's yes to one act, said at an instant; the mark shows that this store gave it."""

    act: str
    custodian: str
    at: datetime
    nonce: str
    mark: str


def folded(name: str) -> str:
    """A name as it is compared: one person does not become two by capitals, spaces or letter forms."""
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not text:
        raise RefusedError("two-persons", "a name is needed; nothing was done, say who is here")
    return text


def enrol(shown: str, passphrase: str) -> Custodian:
    """A new custodian. Raises RefusedError for a passphrase that is too short."""
    if len(passphrase) < _SHORTEST:
        raise RefusedError(
            "two-persons", f"a custodian's passphrase has {_SHORTEST} characters or more; nobody was enrolled"
        )
    salt = os.urandom(16)
    verifier = from_passphrase(KekSource.ARGON2ID, passphrase, salt).hex()
    return Custodian(folded(shown), " ".join(shown.split()), salt.hex(), verifier)


def approve(custodian: Custodian, passphrase: str, act: str, at: datetime, chain: Chain) -> Approval:
    """The approval of an act. Raises RefusedError when the passphrase is not this custodian's."""
    tried = from_passphrase(KekSource.ARGON2ID, passphrase, bytes.fromhex(custodian.salt)).hex()
    if chain.mark("passphrase", tried) != chain.mark("passphrase", custodian.verifier):
        raise RefusedError(
            "two-persons", f"the passphrase is not that of {custodian.shown}; nothing was approved, try again"
        )
    nonce = os.urandom(16).hex()
    return Approval(act, custodian.name, at, nonce, chain.mark("approval", act, custodian.name, at, nonce))


def two_persons(
    act: str, approvals: Sequence[Approval], custodians: Mapping[str, Custodian], used: frozenset[str],
    now: datetime, chain: Chain, *, other_than: frozenset[str] = frozenset(),
) -> str:  # fmt: skip
    """The names of two who approved exactly this act, just now, for the first time, and are not among those who hold
    its components. Raises RefusedError, and nothing was done."""
    for one in approvals:
        if not chain.holds(one.mark, "approval", one.act, one.custodian, one.at, one.nonce):
            raise _refused(act, f"the approval of {one.custodian} was not given by this store")
        if one.custodian not in custodians:
            raise _refused(act, f"{one.custodian} is no custodian of this store")
        if one.act != act:
            raise _refused(act, f"{one.custodian} approved something else ({one.act})")
        if one.nonce in used:
            raise _refused(act, f"the approval of {one.custodian} was used before")
        if not timedelta(0) <= now - one.at <= LIFETIME:
            raise _refused(act, f"the approval of {one.custodian} of {one.at:%Y-%m-%d %H:%M:%S} UTC is not of now")
        if one.custodian in other_than:
            raise _refused(act, f"{one.custodian} gave a component of it, and so may not approve it")
    if len({one.custodian for one in approvals}) < 2:
        raise _refused(act, "two different custodians have to approve it")
    return " and ".join(custodians[one.custodian].shown for one in approvals)


def _refused(act: str, why: str) -> RefusedError:
    return RefusedError("two-persons", f"{act}: {why}. Nothing was done; let two custodians approve it now")
