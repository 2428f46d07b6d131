"""Custodians, a clock and a small store for the tests of keys: whatever two persons would do at a terminal."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from keys import acts
from keys.ceremony import Ceremony
from keys.custody import Approval, Custodian, enrol
from keys.purposes import KeyId
from keys.register import custodian_row
from keys.rotation import Move
from keys.store import EmbeddedStore, open_store

PASSPHRASES = {
    "Li Na": "correct horse battery",
    "Wang Wei": "staple of twelve letters",
    "Zhao Min": "a third one's words",
}


class Moment:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 3, 2, 8, 0, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    def pass_(self, **time: float) -> None:
        self.instant += timedelta(**time)


@cache
def enrolled(name: str) -> Custodian:
    return enrol(name, PASSPHRASES[name])


def staffed(path: Path, clock: Moment, *, production: bool = False, **options: object) -> EmbeddedStore:
    """A new store with all custodians; stretching their passphrases is done once for all tests."""
    store = open_store(path, production=production, clock=clock, **options)  # type: ignore[arg-type]  # options of open_store
    store.book.state.change([custodian_row(enrolled(name)) for name in PASSPHRASES], [])
    return store


def approved(store: EmbeddedStore, act: str, names: Sequence[str] = ("Li Na", "Wang Wei")) -> list[Approval]:
    return [acts.approve(store, act, name, PASSPHRASES[name]) for name in names]


def hold(store: EmbeddedStore, names: Sequence[str], transcript: Path, parts: int = 2) -> dict[KeyId, list[str]]:
    """A whole ceremony; returns the components, in hexadecimal."""
    sitting = Ceremony(store, names, parts)
    drawn: dict[KeyId, list[str]] = {id: [] for id in sitting.ids}
    for person in ("Chen Yi", "Sun Li", "Qian Fu", "Zhou Bo")[:parts]:
        sitting.seat(person)
        for id in sitting.ids:
            drawn[id].append(secrets.token_hex(16))
            sitting.give(id, drawn[id][-1])
    sitting.finish(approved(store, sitting.act), transcript)
    return drawn


def move(store: EmbeddedStore, step: Move, *ids: KeyId) -> None:
    acts.carry_out(store, step, ids, approved(store, acts.movement(step, ids)))
