"""The close of a business date: what is true of all records known now, less what earlier closes posted."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple

from simulators.evidence.books import Account
from simulators.evidence.casebook import CaseBook, Found, Key
from simulators.evidence.gaps import Counters, Finding, Purse, Reading, Settled, known_counters, read_counters
from simulators.evidence.happenings import Close, Replacement, Report
from simulators.evidence.intake import Fact, Intake, source_of
from simulators.evidence.record_cases import record_cases, terminal_cases
from simulators.evidence.replacements import Moved, values_fen
from simulators.evidence.taprecord import PRICED_WITHOUT_ENTRY, Kind

Declared = Mapping[tuple[str, str, date], tuple[int, int]]


class Leg(NamedTuple):
    """One side of what a close holds to be true; `subject` keeps apart what is posted and taken back on its own."""

    account: Account
    rule: str
    origin: date
    subject: str


class Fare(NamedTuple):
    """A rated transit record: the rule version that rates it and what a concession case or a fare case would say."""

    rule: str
    off_fen: int
    wrong_class: bool
    wrong_fare: bool


def smallest(members: list[Fact]) -> Fact:
    """The member of a fork that keeps the float (rule 4)."""

    def order(fact: Fact) -> tuple[bytes, bytes, bytes, int]:
        return fact.tap.date, fact.tap.time, fact.tap.terminal_number, fact.tap.terminal_transaction

    return min(members, key=order)


@dataclass(slots=True)
class Closer:
    """Closes dates one after the other; holds the cases and what earlier closes posted."""

    intake: Intake
    declared: Declared
    cases: CaseBook = field(default_factory=CaseBook)
    posted: dict[Leg, int] = field(default_factory=dict)
    moved: list[Moved] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)

    def replace(self, replacement: Replacement) -> dict[int, int]:
        """Take up a replacement; the values of the old card, fen by purse, as known and closed at this moment."""
        carried = {(leg.rule, leg.account.name, leg.subject): fen for leg, fen in self.posted.items()}
        values = values_fen(self.intake, carried, replacement.old)
        origin = self.intake.time.business_date(replacement.at)
        self.moved += [Moved(replacement.order, origin, purse, fen) for purse, fen in values.items()]
        self.intake.take_desk(replacement)
        return values

    def close(self, closing: Close) -> None:
        """Post the differences and fold the cases of a date; afterwards the next date is open."""
        day, intake = closing.day, self.intake
        known = known_counters(intake.facts)
        wanted: dict[Leg, int] = defaultdict(int)
        found: dict[Key, Found] = {}
        self._forks(known, wanted, found, closing.at, day)
        self._subsidies(wanted, found)
        self._counters(known, wanted, found, closing.at, day)
        self._replacements(wanted, day)
        for card in sorted({fact.tap.card for fact in intake.facts if fact.code == "rogue-load"}):
            self._freeze(card, closing.at, day)
        self._post(day, wanted)
        self._fees(day)
        found |= record_cases(intake, known) | terminal_cases(intake, known, self.declared, day)
        self.cases.fold(day, found)
        intake.open_date = day + timedelta(days=1)

    def _post(self, day: date, wanted: Mapping[Leg, int]) -> None:
        for leg in wanted.keys() | self.posted.keys():
            if change_fen := wanted.get(leg, 0) - self.posted.get(leg, 0):
                self.intake.books.post(day, leg.account, leg.rule, change_fen, leg.origin)
        self.posted = dict(wanted)

    def _freeze(self, card: bytes, at: datetime, day: date) -> None:
        """Denylist a card from the instant of the close, unless it is denylisted by then."""
        if any(entry.effective_at <= at for entry in self.intake.denylist.get(card, ())):
            return
        policy = self.intake.registry.policy("denylist", "*", day)
        published = at + timedelta(seconds=policy.number("publish_after_s") if policy else 0)
        self.intake.take_desk(Report(0, card, self.intake.list_version + 1, at, published))

    def _forks(
        self, known: Mapping[Purse, Counters], wanted: dict[Leg, int], found: dict[Key, Found], at: datetime, day: date
    ) -> None:
        for (card, purse, generation), counters in known.items():
            for counter, members in counters.items():
                if len(members) < 2:
                    continue
                subject = f"{card.hex()}/{purse}/{generation}/{counter}"
                found["fork", subject] = Found(sum(fact.tap.amount_fen for fact in members), "issuer")
                self._freeze(card, at, day)
                keeper = smallest(members)
                for fact in members:
                    fact.state = "disputed"
                    fen, legs = fact.tap.amount_fen, {}
                    if fact.born == "accepted":
                        legs[Account(fact.sector, f"payable:{fact.operator}")] = fen
                        legs[Account(fact.sector, f"suspense:{fact.operator}")] = -fen
                    if fact is not keeper:
                        legs |= {Account("purse", "fraud"): fen, Account("purse", f"float:{purse}"): -fen}
                    for account, leg_fen in legs.items():
                        wanted[Leg(account, "fork@1", fact.origin, fact.tap.proof_key.hex())] += leg_fen

    def _subsidies(self, wanted: dict[Leg, int], found: dict[Key, Found]) -> None:
        for fact in self.intake.facts:
            if not fact.sealed or fact.state != "accepted" or fact.sector != "transit":
                continue
            if fact.claims.kind not in (Kind.DEBIT, Kind.EXIT):
                continue
            fare, subject = self._fare(fact), fact.claims.subject
            subsidy_fen = fact.claims.full_fare_fen - fact.tap.amount_fen
            if fare.wrong_fare:
                found["fare", subject] = Found(fare.off_fen, "operator")
            if fare.wrong_class:
                found["concession", subject] = Found(subsidy_fen, "operator")
            if subsidy_fen > 0 and not fare.wrong_fare and not fare.wrong_class:
                payable = Account("transit", f"subsidy_payable:{fact.operator}")
                wanted[Leg(Account("transit", "subsidy"), fare.rule, fact.origin, fact.tap.proof_key.hex())] += (
                    subsidy_fen
                )
                wanted[Leg(payable, fare.rule, fact.origin, fact.tap.proof_key.hex())] -= subsidy_fen

    def _fare(self, fact: Fact) -> Fare:
        """Rate a record by the policies of its origin date; the class that it claims decides what was due."""
        registry, claims = self.intake.registry, fact.claims
        full_fen = self._full_fare(fact)
        concession = registry.policy("concession", "transit", fact.origin)
        percent = int(concession.value.get(str(claims.concession), 100)) if concession else 100
        due_fen = full_fen * percent // 100
        return Fare(
            rule=f"subsidy@{concession.version if concession else 0}",
            off_fen=abs(claims.amount_fen - due_fen),
            wrong_class=claims.concession != registry.cards[claims.card].concession,
            wrong_fare=claims.full_fare_fen != full_fen or claims.amount_fen != due_fen,
        )

    def _full_fare(self, fact: Fact) -> int:
        """Fare before concessions, fen; 0 for a line that no policy knows, which no fare of its can equal."""
        name = "fare-flat" if fact.claims.kind == Kind.DEBIT else "fare-metro"
        policy = self.intake.registry.policy(name, str(fact.claims.line), fact.origin)
        if policy is None:
            return 0
        if name == "fare-flat":
            return policy.number("fen")
        if fact.claims.flags & PRICED_WITHOUT_ENTRY:
            return policy.number("max_fen")
        distance = abs(fact.claims.station - fact.claims.entry_station)
        return min(policy.number("max_fen"), policy.number("base_fen") + policy.number("step_fen") * distance)

    def _counters(
        self, known: Mapping[Purse, Counters], wanted: dict[Leg, int], found: dict[Key, Found], at: datetime, day: date
    ) -> None:
        self.reading = read_counters(self.intake, known)
        for finding in self.reading.findings:
            card, purse, _ = finding.purse
            owner = "issuer" if finding.kind.startswith("unexplained") else "clearing"
            found[finding.kind, finding.subject] = Found(finding.fen, owner)
            if finding.kind == "unexplained-credit":
                self._freeze(card, at, day)
            if finding.kind == "card-gap" and finding.fen:
                self._want_gap(wanted, finding, purse)
        self._loads(self.reading.settled, wanted, found, day)

    @staticmethod
    def _want_gap(wanted: dict[Leg, int], gap: Finding, purse: int) -> None:
        for name, sign in (("float", 1), ("unsettled", -1)):
            wanted[Leg(Account("purse", f"{name}:{purse}"), "gap@1", gap.upper.origin, gap.subject)] += sign * gap.fen

    def _loads(
        self,
        settled: list[Settled],
        wanted: dict[Leg, int],
        found: dict[Key, Found],
        day: date,
    ) -> None:
        decided = {id(each): committed for each, committed in settled}
        for key, tries in self.intake.loads.items():
            told = [each for each in tries if each.origin <= day or id(each) in decided]
            if key in self.intake.loaded or not told:
                continue
            # Tries under one counter are one case: of the one that was committed, else of the last that is undecided.
            rank = {True: 2, None: 1, False: 0}
            authorised = max(reversed(told), key=lambda each: rank[decided.get(id(each))])
            load, committed = authorised.load, decided.get(id(authorised))
            subject = f"{load.card.hex()}/{load.purse}/{load.counter}"
            resolution = None if committed is None else "committed" if committed else "reversed"
            found["load-in-doubt", subject] = Found(load.amount_fen, "issuer", resolution=resolution)
            if committed:
                for name, sign in ((source_of(load), 1), (f"float:{load.purse}", -1)):
                    leg = Leg(Account("purse", name), "load@1", authorised.origin, subject)
                    wanted[leg] += sign * load.amount_fen

    def _replacements(self, wanted: dict[Leg, int], day: date) -> None:
        for each in self.moved:
            if each.origin <= day:
                for name, fen in ((f"float:{each.purse}", each.fen), ("transfer", -each.fen)):
                    wanted[Leg(Account("purse", name), "replace@1", each.origin, f"{each.order}/{each.purse}")] += fen

    def _fees(self, day: date) -> None:
        """One fee per operator on the sum of its sectors; the fen that do not divide go to the largest remainders."""
        earned: dict[str, dict[str, int]] = defaultdict(dict)
        for (sector, operator), base_fen in self.intake.books.payable_fen(day).items():
            earned[operator][sector] = base_fen
        for operator, bases in earned.items():
            policy = self.intake.registry.policy("fee", operator, day)
            total = sum(bases.values())
            if policy is None or total <= 0:
                continue
            left = fee_fen = (total * policy.number("bps") * 2 + 10000) // 20000
            above = sum(max(base_fen, 0) for base_fen in bases.values())
            parts = [(*divmod(fee_fen * base_fen, above), sector) for sector, base_fen in bases.items() if base_fen > 0]
            left -= sum(share for share, _, _ in parts)
            for place, (share, _, sector) in enumerate(sorted(parts, key=lambda part: (-part[1], part[2]))):
                if charged := share + (place < left):
                    self.intake.books.charge(day, sector, operator, f"fee@{policy.version}", charged)


def states(intake: Intake) -> dict[str, tuple[int, int]]:
    """(count, fen) of the records in each state."""
    counts: Counter[str] = Counter()
    fen: Counter[str] = Counter()
    for fact in intake.facts:
        counts[fact.state] += 1
        fen[fact.state] += fact.tap.amount_fen
    return {state: (count, fen[state]) for state, count in counts.items()}
