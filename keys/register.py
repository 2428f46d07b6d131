"""What the file of a store says of its keys now: lives, dated rules, custodians. Read again whenever the file changes,
so that a handle that was made yesterday obeys what two custodians decided a minute ago."""

from collections.abc import Mapping
from datetime import date, datetime
from threading import Lock

from cardcore.record import Suite
from keys.custody import Custodian
from keys.engine.root import RootKey
from keys.purposes import SUITE_LABELS, KeyId, KeyState
from keys.rotation import Demand, Life, SuitePolicy, Sunset
from keys.state import StateFile, Statement

SUNSET, DEMAND, PSAM = "sunset", "sm4-only", "psam"


class Register:
    """A view; safe in several threads."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._lock = Lock()
        self._edition: tuple[int, int] | None = None
        self._lives: dict[KeyId, Life] = {}
        self._policy = SuitePolicy({}, {})

    def lives(self) -> Mapping[KeyId, Life]:
        """Every version that this store ever held."""
        self._refresh()
        return self._lives

    def policy(self) -> SuitePolicy:
        """The dated rules about suites."""
        self._refresh()
        return self._policy

    def psams(self) -> dict[str, datetime]:
        """The PSAMs whose issuing is open (12 hexadecimal digits), and until when."""
        rows = self._state.rows("rule")
        return {str(number): datetime.fromisoformat(str(until)) for kind, number, until in rows if kind == PSAM}

    def state_of(self, root: RootKey) -> KeyState:
        """The state of a key as the file has it now; as it was opened, where a store keeps no lives."""
        life = self.lives().get(root.id)
        return life.state if life else root.state

    def custodians(self) -> dict[str, Custodian]:
        """Who may approve, by folded name."""
        return {str(row[0]): Custodian(*map(str, row)) for row in self._state.rows("custodian")}

    def used_approvals(self) -> frozenset[str]:
        """Nonces of the approvals that were used."""
        return frozenset(str(row[0]) for row in self._state.rows("approval"))

    def _refresh(self) -> None:
        edition = self._state.edition()
        with self._lock:
            if edition == self._edition:
                return
            self._lives = {life.id: life for life in map(_life, self._state.rows("life"))}
            self._policy = _policy([(str(a), str(b), str(c)) for a, b, c in self._state.rows("rule")])
            self._edition = edition


def life_row(life: Life) -> Statement:
    """How a life is written down."""
    row = (life.id.name, life.id.version, str(life.state), life.since, life.kcv, int(life.test))
    return "INSERT OR REPLACE INTO life VALUES (?, ?, ?, ?, ?, ?)", row


def sunset_row(sunset: Sunset) -> Statement:
    """How a sunset is written down; it takes the place of an earlier one."""
    dates = f"{sunset.making_until.isoformat()} {sunset.verifying_until.isoformat()}"
    return "INSERT OR REPLACE INTO rule VALUES (?, ?, ?)", (SUNSET, SUITE_LABELS[sunset.suite], dates)


def demand_row(demand: Demand) -> Statement:
    """How a demand for SM4 is written down."""
    return "INSERT OR REPLACE INTO rule VALUES (?, ?, ?)", (DEMAND, demand.subject, demand.since.isoformat())


def psam_row(number: str, until: datetime) -> Statement:
    """How the opening of a PSAM's issuing is written down."""
    return "INSERT OR REPLACE INTO rule VALUES (?, ?, ?)", (PSAM, number, until.isoformat())


def custodian_row(one: Custodian) -> Statement:
    """How a custodian is written down; enrolling again changes the passphrase."""
    return "INSERT OR REPLACE INTO custodian VALUES (?, ?, ?, ?)", (one.name, one.shown, one.salt, one.verifier)


def _life(row: tuple[str | int | bytes, ...]) -> Life:
    name, version, state, since, kcv, test = row
    return Life(KeyId.parse(str(name), int(version)), KeyState(str(state)), str(since), str(kcv), bool(test))


def _policy(rules: list[tuple[str, str, str]]) -> SuitePolicy:
    suites = {label: suite for suite, label in SUITE_LABELS.items()}
    sunsets: dict[Suite, Sunset] = {}
    demands: dict[str, Demand] = {}
    for kind, subject, detail in rules:
        if kind == SUNSET:
            making, verifying = map(date.fromisoformat, detail.split())
            sunsets[suites[subject]] = Sunset(suites[subject], making, verifying)
        elif kind == DEMAND:
            demands[subject] = Demand(subject, date.fromisoformat(detail))
    return SuitePolicy(sunsets, demands)
