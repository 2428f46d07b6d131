"""The verdict of every record in the order of the uploads, and what it posts at once (docs/ledger.md)."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from simulators.evidence.books import Account, Books
from simulators.evidence.happenings import ACT_LIFETIME, Act, Load, Replacement, Report, Upload
from simulators.evidence.proofs import Proof
from simulators.evidence.registry import BusinessTime, Registry
from simulators.evidence.taprecord import OFFLINE, SECTOR_NUMBERS, Kind, Tap

FEWEST_BAD_PROOFS = 20
_SECTOR_OF_APPLICATION = {number: sector for sector, number in SECTOR_NUMBERS.items()}
PROVEN = frozenset({"accepted", "suspended", "disputed"})
_DATED = frozenset({*PROVEN, "pending_issuer"})
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Fact:
    """A stored record and its verdict; what is claimed is read from `claims`, another copy's bytes once adopted."""

    tap: Tap
    claims: Tap
    sealed: bool
    key: bytes
    state: str = ""
    code: str = ""
    instant: datetime = _NEVER
    origin: date = date.min
    sector: str = ""
    operator: str = ""
    listed: Report | None = None
    born: str = ""

    @property
    def proven(self) -> bool:
        return self.state in PROVEN

    @property
    def offline(self) -> bool:
        return self.tap.kind in OFFLINE

    @property
    def known(self) -> bool:
        """Its claims count: a proven offline record under a seal."""
        return self.sealed and self.state in PROVEN and self.tap.kind in OFFLINE


@dataclass(slots=True)
class Authorised:
    """An authorised load at the instant and on the business date at which it was authorised."""

    load: Load
    instant: datetime
    origin: date


@dataclass(slots=True)
class TerminalDay:
    records: int = 0
    bad_proofs: int = 0

    @property
    def suspended(self) -> bool:
        """Rule 8: more than 20 bad proofs, or more than 0.1 % of the day's records if that is more."""
        return self.bad_proofs > FEWEST_BAD_PROOFS and self.bad_proofs * 1000 > self.records


@dataclass(slots=True)
class Intake:
    """Everything known so far; the closes read it, and write to it only disputes, freezes and the open date."""

    registry: Registry
    time: BusinessTime
    books: Books
    proofs: Mapping[bytes, Proof]
    open_date: date
    facts: list[Fact] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    by_key: dict[bytes, Fact] = field(default_factory=dict)
    sequences: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    batch_conflicts: set[str] = field(default_factory=set)
    loads: dict[tuple[bytes, int, int], list[Authorised]] = field(default_factory=lambda: defaultdict(list))
    loaded: set[tuple[bytes, int, int]] = field(default_factory=set)
    acts: dict[bytes, Act] = field(default_factory=dict)
    used_acts: set[bytes] = field(default_factory=set)
    denylist: dict[bytes, list[Report]] = field(default_factory=lambda: defaultdict(list))
    list_version: int = 0
    replaced: set[bytes] = field(default_factory=set)
    terminal_days: dict[tuple[int, date], TerminalDay] = field(default_factory=lambda: defaultdict(TerminalDay))

    def take_desk(self, act: Load | Act | Report | Replacement) -> None:
        match act:
            case Load():
                instant = self.time.instant(act.date, act.time) or act.at
                authorised = Authorised(act, instant, self.time.business_date(instant))
                self.loads[act.card, act.purse, act.counter].append(authorised)
            case Act():
                self.acts[act.act_id] = act
            case Report():
                self.denylist[act.card].append(act)
                self.list_version = max(self.list_version, act.version)
            case Replacement():
                self.replaced.add(act.old)

    def take_upload(self, upload: Upload, taps: Mapping[bytes, Tap]) -> tuple[Counter[str], list[tuple[int, str]]]:
        """States counted as an answer counts them (duplicates included), and the quarantined as (sequence, code)."""
        if upload.status == 409:
            self.batch_conflicts.add(f"{upload.terminal}/{upload.n}")
        counted: Counter[str] = Counter()
        quarantined = []
        for raw in upload.records:
            if raw in self.seen:
                counted["duplicate"] += 1
                continue
            self.seen.add(raw)
            fact = self._take(raw, taps[raw], upload.at)
            counted[fact.state] += 1
            if fact.state == "quarantined":
                quarantined.append((fact.tap.sequence, fact.code))
        return counted, quarantined

    def _take(self, raw: bytes, tap: Tap, at: datetime) -> Fact:
        proof = self.proofs.get(raw)
        fact = Fact(tap, tap, bool(proof and proof.sealed), proof.key if proof else b"")
        today = self.terminal_days[tap.terminal, self.time.business_date(at)]
        today.records += 1
        fact.state, fact.code = self._verdict(fact, proof, at, today)
        fact.born = fact.state
        today.bad_proofs += fact.code == "bad-proof"
        self.facts.append(fact)
        self.sequences[tap.terminal, tap.epoch].add(tap.sequence)
        if fact.proven:
            self._prove(fact)
        elif fact.code == "conflict":
            self._lend_claims(fact)
        if fact.state in _DATED:
            self._post(fact)
        return fact

    def _verdict(self, fact: Fact, proof: Proof | None, at: datetime, today: TerminalDay) -> tuple[str, str]:
        """State and code by the table of docs/ledger.md, in its order; the first that holds decides."""
        tap, registry = fact.tap, self.registry
        if today.suspended:
            return "quarantined", "terminal-suspended"
        instant = self.time.instant(tap.date, tap.time) if tap.well_formed else None
        if instant is None:
            return "quarantined", "malformed"
        fact.instant, fact.origin = instant, self.time.business_date(instant)
        terminal = registry.terminals.get(tap.terminal)
        psam = None
        if tap.kind in (Kind.LOAD, Kind.ACT):
            if terminal is None:
                return "quarantined", "unknown-psam"
            fact.sector, fact.operator = terminal.sector, str(terminal.operator)
            if tap.kind == Kind.ACT:
                fact.sector = _SECTOR_OF_APPLICATION.get(tap.purse, terminal.sector)
        else:
            psam = registry.psam(tap.terminal_number, instant)
            if psam is None:
                return "quarantined", "unknown-psam"
            fact.sector, fact.operator = psam.sector, str(psam.operator)
        if tap.kind == Kind.TORN and not (proof and proof.genuine):
            return "memo", "torn"
        if tap.issuer not in registry.own:
            return "quarantined", "unknown-issuer"
        if not registry.own[tap.issuer]:
            return "pending_issuer", "foreign"
        if proof is None or not proof.has_key:
            return "quarantined", "no-key"
        if tap.card not in registry.cards:
            return "quarantined", "unknown-card"
        if not proof.genuine or (tap.kind == Kind.ACT and not self._fits_opened_act(tap, at)):
            return "quarantined", "bad-proof"
        if proof.key in self.by_key:
            return "conflict", "conflict"
        if psam is not None and not (psam.state == "active" and psam.covers(instant)):
            return "suspended", "psam-inactive"
        if tap.kind == Kind.LOAD:
            return ("accepted", "") if self._authorised(tap) else ("suspended", "rogue-load")
        clock = registry.policy("clock", "*", fact.origin)
        if instant > at + timedelta(seconds=clock.number("ahead_s") if clock else 0):
            return "suspended", "clock"
        if tap.card in self.replaced:
            return "suspended", "replaced-card"
        fact.listed = next((entry for entry in self.denylist.get(tap.card, ()) if entry.effective_at <= instant), None)
        if fact.listed:
            return "suspended", "denylisted"
        return "accepted", ""

    def _fits_opened_act(self, tap: Tap, at: datetime) -> bool:
        act = self.acts.get(tap.act_id)
        if act is None or tap.act_id in self.used_acts or at > act.at + ACT_LIFETIME:
            return False
        opened = (act.purse, act.issuer, act.card, act.terminal, act.terminal_number, act.amount_fen)
        recorded = (tap.purse, tap.issuer, tap.card, tap.terminal, tap.terminal_number, tap.amount_fen)
        dated = (act.transaction_type, act.date, act.time) == (tap.transaction_type, tap.date, tap.time)
        return opened == recorded and dated

    def _authorised(self, tap: Tap) -> Authorised | None:
        """The latest authorisation of this load at its own terminal, else anywhere; a load belongs to one
        authorisation, so a second record finds none."""
        key = tap.card, tap.purse, tap.counter
        if key in self.loaded:
            return None
        fitting = [each for each in self.loads.get(key, ()) if each.load.amount_fen == tap.amount_fen]
        at_home = [each for each in fitting if each.load.terminal_number == tap.terminal_number]
        candidates = at_home or fitting
        return candidates[-1] if candidates else None

    def _prove(self, fact: Fact) -> None:
        self.by_key[fact.key] = fact
        if fact.tap.kind == Kind.ACT:
            self.used_acts.add(fact.tap.act_id)

    def _lend_claims(self, fact: Fact) -> None:
        posted = self.by_key[fact.key]
        if fact.sealed and (not posted.sealed or fact.tap.said < posted.claims.said):
            posted.sealed, posted.claims = True, fact.tap

    def _post(self, fact: Fact) -> None:
        tap, fen = fact.tap, fact.tap.amount_fen
        authorised = self._authorised(tap) if tap.kind == Kind.LOAD and fact.state == "accepted" else None
        if tap.kind == Kind.LOAD and fact.state == "accepted":
            self.loaded.add((tap.card, tap.purse, tap.counter))
        if not fen:
            return
        if fact.state == "pending_issuer":
            if tap.kind != Kind.LOAD:
                debtor = f"pending_receivable:{tap.issuer.hex()}"
                self._pair(fact, "debit@1", fact.sector, debtor, "pending_payable", fen)
        elif authorised:
            post_load(self.books, max(fact.origin, self.open_date), authorised.load, fen, fact.origin)
        elif tap.kind == Kind.ACT and fact.state == "accepted":
            for payer, part_fen in self.acts[tap.act_id].split.items():
                if part_fen:
                    self._pair(fact, "act@1", fact.sector, payer, f"{payer}_payable", part_fen)
        elif fact.offline:
            day = max(fact.origin, self.open_date)
            self.books.post(day, Account("purse", f"float:{tap.purse}"), "debit@1", fen, fact.origin)
            self.books.post(day, Account("purse", f"due:{fact.sector}"), "debit@1", -fen, fact.origin)
            creditor = "payable" if fact.state == "accepted" else "suspense"
            self._pair(fact, "debit@1", fact.sector, "due:purse", creditor, fen)

    def _pair(self, fact: Fact, rule: str, ledger: str, debtor: str, creditor: str, fen: int) -> None:
        day = max(fact.origin, self.open_date)
        self.books.post(day, Account(ledger, debtor), rule, fen, fact.origin)
        self.books.post(day, Account(ledger, f"{creditor}:{fact.operator}"), rule, -fen, fact.origin)


def source_of(load: Load) -> str:
    """The account that pays for a load: the channel's cash, or the value of replaced cards."""
    return "transfer" if load.channel == "transfer" else f"cash:{load.channel}"


def post_load(books: Books, day: date, load: Load, fen: int, origin: date) -> None:
    """Cash due from the channel, or value of a replaced card, against value on the card."""
    books.post(day, Account("purse", source_of(load)), "load@1", fen, origin)
    books.post(day, Account("purse", f"float:{load.purse}"), "load@1", -fen, origin)
