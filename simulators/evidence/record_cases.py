"""Cases that stand on single records, on terminals' sequences and on operators' declarations."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, timedelta

from simulators.evidence.casebook import Found, Key
from simulators.evidence.gaps import Counters, Purse
from simulators.evidence.intake import Fact, Intake
from simulators.evidence.taprecord import OFFLINE, PRICED_WITHOUT_ENTRY, Kind, Tap

_OF_OPERATOR = frozenset(
    {"bad-proof", "unknown-psam", "unknown-issuer", "no-key", "unknown-card", "malformed", "terminal-suspended"}
)
_OF_CLEARING = frozenset({"clock", "psam-inactive", "rogue-load", "replaced-card"})
RENEWAL_COUNTER = 0xFC00
_DECLARED_KINDS = OFFLINE | {Kind.ACT}
_DECLARED_STATES = frozenset({"accepted", "suspended", "disputed", "pending_issuer"})


def record_cases(intake: Intake, known: Mapping[Purse, Counters]) -> dict[Key, Found]:
    """Cases by the code a record was born with, missing seals, conflicts, torn debits and counters near their end."""
    found: dict[Key, Found] = {}
    for fact in intake.facts:
        tap, code = fact.claims, fact.code
        if code in _OF_OPERATOR:
            found[code, tap.subject] = Found(tap.amount_fen, "operator")
        elif code in _OF_CLEARING:
            found[code, tap.subject] = Found(tap.amount_fen, "clearing")
        elif code == "denylisted":
            bearer = _bearer(intake, fact)
            found["denylist", tap.subject] = Found(tap.amount_fen, bearer, bearer)
        elif code == "conflict":
            when = tap.date.hex() + tap.time.hex()
            found["conflict", f"{tap.card.hex()}@{when}"] = Found(tap.amount_fen, "operator")
        elif code == "torn":
            found["torn", tap.subject] = _torn(fact, known.get(tap.purse_key, {}))
        if fact.proven and fact.offline and not fact.sealed:
            found["bad-seal", tap.subject] = Found(tap.amount_fen, "operator")
    for card, purse, generation in _worn_out(intake, known):
        found["renewal", f"{card.hex()}/{purse}/{generation}"] = Found(0, "issuer")
    return found


def _worn_out(intake: Intake, known: Mapping[Purse, Counters]) -> Iterator[Purse]:
    """Purses of our own cards with a counter so near its end that the card should be renewed (rule 5)."""
    for purse, counters in known.items():
        if any(counter >= RENEWAL_COUNTER and len(members) == 1 for counter, members in counters.items()):
            yield purse
    for fact in intake.facts:
        if fact.tap.kind == Kind.LOAD and fact.state == "accepted" and fact.tap.counter >= RENEWAL_COUNTER:
            yield fact.tap.purse_key


def _bearer(intake: Intake, fact: Fact) -> str:
    """Who bears a denylisted debit (rule 19): the acquirer once its list had the card, or its grace was over."""
    entry = fact.listed
    if entry is None:
        return "issuer"
    if fact.sealed and fact.claims.list_version >= entry.version:
        return "acquirer"
    # Without a seal the terminal is only claimed, and so is the class that would have a longer grace.
    terminal = intake.registry.terminals.get(fact.claims.terminal) if fact.sealed else None
    grace = intake.registry.policy("grace", terminal.kind if terminal else "*", fact.origin)
    applied_by = entry.published_at + timedelta(hours=grace.number("hours") if grace else 0)
    return "acquirer" if fact.instant >= applied_by else "issuer"


def _torn(fact: Fact, counters: Counters) -> Found:
    counter, fen = fact.tap.counter, fact.tap.amount_fen
    if counter in counters:
        return Found(fen, "clearing", resolution="void")
    return Found(fen, "clearing", "committed" if any(each > counter for each in counters) else "undecided")


def terminal_cases(
    intake: Intake,
    known: Mapping[Purse, Counters],
    declared: Mapping[tuple[str, str, date], tuple[int, int]],
    day: date,
) -> dict[Key, Found]:
    """Sequences, batches, missing exits and declared totals, at the close of `day`."""
    found: dict[Key, Found] = {("batch-conflict", subject): Found(0, "operator") for subject in intake.batch_conflicts}
    for (terminal, epoch), sequences in intake.sequences.items():
        for first, last in missing_ranges(sequences):
            found["sequence-gap", f"{terminal}/{epoch}/{first}-{last}"] = Found(0, "operator")
    keys: dict[tuple[int, int, int], bytes] = {}
    for fact in intake.facts:
        if fact.proven:
            name = fact.claims.terminal, fact.claims.epoch, fact.claims.sequence
            if keys.setdefault(name, fact.key) != fact.key:
                found["sequence-conflict", f"{fact.claims.terminal}/{fact.claims.epoch}"] = Found(0, "operator")
    for purse, counters in known.items():
        rides = _rides(counters)
        subject = f"{purse[0].hex()}/{purse[1]}/{purse[2]}"
        for counter in _without_exit(rides, counters, day):
            found["missing-exit", f"{subject}/{counter}"] = Found(0, "operator")
        for counter in _without_entry(rides, counters, day):
            found["missing-entry", f"{subject}/{counter}"] = Found(0, "operator")
    return found | _operator_totals(intake, declared, day)


def missing_ranges(sequences: set[int]) -> list[tuple[int, int]]:
    """The runs of numbers from 1 to the highest that are not there."""
    missing, expected = [], 1
    for sequence in sorted(sequences):
        if sequence > expected:
            missing.append((expected, sequence - 1))
        expected = max(expected, sequence + 1)
    return missing


Rides = list[tuple[int, Fact]]


def _rides(counters: Counters) -> Rides:
    """The metro records of a purse by counter."""
    metro = (Kind.ENTRY, Kind.EXIT)
    return [(at, fact) for at in sorted(counters) for fact in counters[at] if fact.claims.kind in metro]


def _without_exit(rides: Rides, counters: Counters, day: date) -> Iterator[int]:
    for counter, fact in rides:
        if fact.claims.kind == Kind.ENTRY and fact.origin <= day:
            later = [ride for at, ride in rides if at > counter and len(counters[at]) == 1]
            if not later or not _ends_ride(later[0]):
                yield counter


def _without_entry(rides: Rides, counters: Counters, day: date) -> Iterator[int]:
    """Exits that were priced by an entry which is not the last thing known of the holder's rides."""
    for counter, fact in rides:
        if _ends_ride(fact) and fact.origin <= day:
            earlier = [ride for at, ride in rides if at < counter and len(counters[at]) == 1]
            if not earlier or not _begins_ride(earlier[-1], fact.claims):
                yield counter


def _begins_ride(fact: Fact, leave: Tap) -> bool:
    """Whether it is the entry that an exit says to be priced by; entry_at 0 is a time that nobody knows."""
    entry = fact.claims
    told = leave.entry_at in (0, int(fact.instant.timestamp()))
    return entry.kind == Kind.ENTRY and entry.station == leave.entry_station and told


def _ends_ride(fact: Fact) -> bool:
    return fact.claims.kind == Kind.EXIT and not fact.claims.flags & PRICED_WITHOUT_ENTRY


def _operator_totals(
    intake: Intake, declared: Mapping[tuple[str, str, date], tuple[int, int]], day: date
) -> dict[Key, Found]:
    received: dict[tuple[str, str, date], list[int]] = defaultdict(lambda: [0, 0])
    for fact in intake.facts:
        if fact.state in _DECLARED_STATES and fact.tap.kind in _DECLARED_KINDS:
            total = received[fact.operator, fact.sector, fact.origin]
            total[0] += 1
            total[1] += fact.tap.amount_fen
    found = {}
    for key, (count, fen) in declared.items():
        operator, sector, origin = key
        got_count, got_fen = received.get(key, (0, 0))
        if origin <= day and (got_count, got_fen) != (count, fen):
            detail = f"count {got_count - count:+d}"
            found["operator-total", f"{operator}/{sector}/{origin}"] = Found(got_fen - fen, "operator", detail)
    return found
