"""One group of records becomes verdicts, rows and postings: pure, between the look-ups and the writes of one
transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from cardcore.record import OFFLINE_KINDS, Kind, Sector
from clearing.intake.proving import Verifiers
from clearing.ledger.postings import Strand, act_legs, debit_legs, foreign_legs, load_legs
from clearing.registry.dates import Days, Instants, Mask, days_of
from clearing.registry.snapshot import Registry
from clearing.verdict.bearings import Bearings, take_bearings
from clearing.verdict.precedence import Tally, later, outdone, over_limit, repeated, rivals
from clearing.verdict.table import Proofs, Verdict, decide, find
from keys.columns import Records
from keys.proof import sm3
from keys.verifiers import OpenedAct
from keys.verifiers import Verdict as ProofVerdict

LoadKey = tuple[bytes, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Records of RECORD_DTYPE in the order of arrival: from which batch of the group, when (µs since 2000), how far
    the clock policy lets an instant lie ahead of that, and which tally (terminal and day of receipt) counts the bad
    proofs."""

    records: Records
    batch: NDArray[np.int64]
    received: Instants
    ahead: Instants
    owner: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenAct:
    """An act as the desk opened it and nobody has used it; `opened` in µs since 2000."""

    fields: Mapping[str, object]
    split: Mapping[str, int]
    proof: OpenedAct
    opened: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the store knew of the group's records when the transaction began. `facts`: proof key → (record, counts as
    sealed)."""

    open_date: date
    exhibits: frozenset[bytes] | set[bytes]
    facts: Mapping[bytes, tuple[bytes, bool]]
    loads: Mapping[LoadKey, tuple[str, str]]
    acts: Mapping[bytes, OpenAct]
    tallies: Mapping[int, Tally]


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome: verdicts by row of docs/ledger.md, where and when, postings as strands, and the desk's acts and
    loads that were finished. `adopted` are positions of sealed copies that lend their claims; `digests` are of
    exhibits, by position."""

    verdict: NDArray[np.uint8]
    proofs: Proofs
    bearings: Bearings
    post_date: Days
    open_day: int
    strands: list[Strand]
    adopted: list[int]
    digests: Mapping[int, bytes]
    used_acts: list[bytes]
    confirmed_loads: list[str]


ACT_LIFE_US = 120_000_000


def settle(arrivals: Arrivals, proofs: Proofs, evidence: Evidence, registry: Registry, verifiers: Verifiers) -> Settled:
    """Judge a group in the order of arrival. Counts up the tallies of `evidence`; touches nothing else."""
    records = arrivals.records
    bearings = take_bearings(records, registry)
    proofs = _prove_acts(arrivals, proofs, evidence.acts, verifiers)
    among = rivals(proofs.key).tolist()
    duplicate = repeated(records, among) | _seen(records, evidence, proofs)
    findings = find(records, arrivals.received, registry, bearings, proofs, arrivals.ahead)
    findings[Verdict.DUPLICATE] = duplicate
    first = decide(findings)
    limited = over_limit(arrivals.owner, ~duplicate, first == Verdict.BAD_PROOF, evidence.tallies)
    findings[Verdict.TERMINAL_SUSPENDED] = limited
    contenders = (first > Verdict.BAD_PROOF) & ~limited
    findings[Verdict.CONFLICT] = conflict = outdone(proofs, contenders, among)
    adopted = _meet_facts(records, proofs, contenders, conflict, evidence.facts)
    load_keys = _load_keys(records, evidence.loads)
    findings[Verdict.ROGUE_LOAD] = _rogue(records, decide(findings), load_keys, evidence.loads)
    verdict = decide(findings)

    post_date = np.maximum(bearings.origin, np.int32(days_of(evidence.open_date)))
    digests = {
        int(position): sm3(records[position].tobytes())
        for position in np.flatnonzero((verdict > Verdict.DUPLICATE) & (verdict <= Verdict.CONFLICT))
    }
    accepted = verdict == Verdict.ACCEPTED
    return Settled(
        verdict=verdict,
        proofs=proofs,
        bearings=bearings,
        post_date=post_date,
        open_day=days_of(evidence.open_date),
        strands=_strands(arrivals, proofs, bearings, verdict, post_date, evidence, digests),
        adopted=adopted,
        digests=digests,
        used_acts=[
            records["act_id"][at].tobytes()
            for at in np.flatnonzero((records["kind"] == Kind.ACT) & (verdict > Verdict.CONFLICT))
        ],
        confirmed_loads=[evidence.loads[key][0] for position, key in load_keys.items() if accepted[position]],
    )


def _prove_acts(arrivals: Arrivals, proofs: Proofs, acts: Mapping[bytes, OpenAct], verifiers: Verifiers) -> Proofs:
    """The proofs with those of the acts among them: good are those that are as they were opened, in time, the first of
    their act, and authenticated by the card."""
    records = arrivals.records
    positions = np.flatnonzero(records["kind"] == Kind.ACT)
    if not len(positions):
        return proofs
    fitting = [_fitting_act(arrivals, int(position), acts) for position in positions]
    verdict = verifiers.act.verify(records[positions], [act.proof if act else None for act in fitting])
    good, no_key = proofs.good.copy(), proofs.no_key.copy()
    good[positions], no_key[positions] = verdict == ProofVerdict.OK, verdict == ProofVerdict.NO_KEY
    claims = [(int(position), records["act_id"][position].tobytes()) for position in positions if good[position]]
    return replace(proofs, good=good & ~later(claims, len(records)), no_key=no_key)


def _fitting_act(arrivals: Arrivals, position: int, acts: Mapping[bytes, OpenAct]) -> OpenAct | None:
    record = arrivals.records[position]
    act = acts.get(record["act_id"].tobytes())
    if act is None or arrivals.received[position] - act.opened > ACT_LIFE_US:
        return None
    for name, value in act.fields.items():
        said = record[name].tobytes() if isinstance(value, bytes) else int(record[name])
        if said != value:
            return None
    return act


def _seen(records: Records, evidence: Evidence, proofs: Proofs) -> Mask:
    """Which records lie in the store already, byte for byte."""
    mark = np.zeros(len(records), np.bool_)
    if evidence.exhibits:
        mark |= np.array([record.tobytes() in evidence.exhibits for record in records], np.bool_)
    if evidence.facts:
        for position, key in enumerate(proofs.key):
            fact = evidence.facts.get(key.tobytes())
            mark[position] |= fact is not None and fact[0] == records[position].tobytes()
    return mark


def _meet_facts(
    records: Records, proofs: Proofs, contenders: Mask, conflict: Mask, facts: Mapping[bytes, tuple[bytes, bool]]
) -> list[int]:
    """Mark in `conflict` whoever has the proof key of a stored fact; the first sealed copy of an unsealed fact is
    adopted."""
    adopted: dict[bytes, int] = {}
    if facts:
        for position in np.flatnonzero(contenders):
            key = proofs.key[position].tobytes()
            if key in facts:
                conflict[position] = True
                if proofs.sealed[position] and not facts[key][1]:
                    adopted.setdefault(key, int(position))
    return list(adopted.values())


def _rogue(
    records: Records,
    verdict: NDArray[np.uint8],
    load_keys: Mapping[int, LoadKey],
    loads: Mapping[LoadKey, tuple[str, str]],
) -> Mask:
    """Which loads have no authorisation to themselves: of several that fit one, the first has it."""
    rogue = np.asarray(records["kind"] == Kind.LOAD)
    claims = [(at, loads[key][0]) for at, key in load_keys.items() if verdict[at] == Verdict.ACCEPTED and key in loads]
    rogue[[at for at, _ in claims]] = False
    return rogue | later(claims, len(records))


def _load_keys(records: Records, loads: Mapping[LoadKey, tuple[str, str]]) -> dict[int, LoadKey]:
    """Which order each load finishes: that of its own terminal, whose number its TAC covers, else the latest (0)."""
    positions = np.flatnonzero(records["kind"] == Kind.LOAD)
    columns = (records[name][positions].tolist() for name in ("purse", "counter", "amount_fen"))
    cards = (records["card"][position].tobytes() for position in positions)
    keys: dict[int, LoadKey] = {}
    for position, card, purse, counter, amount in zip(positions, cards, *columns, strict=True):
        terminal = int.from_bytes(records["terminal_number"][position].tobytes())
        own = (card, purse, counter, amount, terminal)
        keys[int(position)] = own if own in loads else (card, purse, counter, amount, 0)
    return keys


def _strands(
    arrivals: Arrivals,
    proofs: Proofs,
    bearings: Bearings,
    verdict: NDArray[np.uint8],
    post_date: Days,
    evidence: Evidence,
    digests: Mapping[int, bytes],
) -> list[Strand]:
    """Records that post, gathered by what they post and where."""
    records = arrivals.records
    offline = np.isin(records["kind"], list(OFFLINE_KINDS)) & (records["amount_fen"] > 0)
    proven = verdict > Verdict.CONFLICT
    strands = []
    for group in _alike(arrivals, bearings, verdict, np.flatnonzero(offline & (proven | (verdict == Verdict.FOREIGN)))):
        at = int(group[0])
        sector, operator = int(bearings.station.sector[at]), int(bearings.station.operator[at])
        if verdict[at] == Verdict.FOREIGN:
            legs = foreign_legs(sector, records["issuer"][at].tobytes(), operator)
            leaves = tuple(digests[int(position)] for position in group)
        else:
            legs = debit_legs(int(records["purse"][at]), sector, operator, suspended=verdict[at] != Verdict.ACCEPTED)
            packed = proofs.key[group].tobytes()
            leaves = tuple(packed[start : start + 16] for start in range(0, len(packed), 16))
        fen = int(records["amount_fen"][group].sum(dtype=np.int64))
        strands.append(
            Strand(int(arrivals.batch[at]), "debit", legs, int(post_date[at]), int(bearings.origin[at]), fen, leaves)
        )
    online = (records["kind"] == Kind.LOAD) | (records["kind"] == Kind.ACT)
    for position in np.flatnonzero(online & (verdict == Verdict.ACCEPTED)):
        strands += _online(arrivals, proofs, bearings, post_date, evidence, int(position))
    return strands


def _alike(
    arrivals: Arrivals, bearings: Bearings, verdict: NDArray[np.uint8], positions: NDArray[np.intp]
) -> list[NDArray[np.intp]]:
    """The positions, split where batch, outcome, sector, operator, purse, issuer or origin date differ."""
    if not len(positions):
        return []
    records = arrivals.records[positions]
    outcome = np.where(verdict == Verdict.ACCEPTED, 2, np.where(verdict == Verdict.FOREIGN, 1, 0))[positions]
    foreign = np.where(outcome == 1, np.ascontiguousarray(records["issuer"]).view(">u4").ravel(), 0)
    columns = (
        foreign, bearings.origin[positions], records["purse"], bearings.station.operator[positions],
        bearings.station.sector[positions], outcome, arrivals.batch[positions],
    )  # fmt: skip
    order = np.lexsort(columns)
    edge = np.zeros(len(order), np.bool_)
    for column in columns:
        edge[1:] |= column[order][1:] != column[order][:-1]
    return np.split(positions[order], np.flatnonzero(edge))


def _online(
    arrivals: Arrivals, proofs: Proofs, bearings: Bearings, post_date: Days, evidence: Evidence, at: int
) -> list[Strand]:
    record = arrivals.records[at]
    amount, purse = int(record["amount_fen"]), int(record["purse"])
    if record["kind"] == Kind.LOAD:
        channel = evidence.loads[_load_keys(arrivals.records[at : at + 1], evidence.loads)[0]][1]
        parts = [("load", load_legs(purse, channel), amount)]
    else:
        act = evidence.acts[record["act_id"].tobytes()]
        sector, operator = Sector(act.proof.sector), int(bearings.station.operator[at])
        parts = [("act", act_legs(sector, payer, operator), fen) for payer, fen in sorted(act.split.items())]
    batch, posted, origin = int(arrivals.batch[at]), int(post_date[at]), int(bearings.origin[at])
    leaf = (proofs.key[at].tobytes(),)
    return [Strand(batch, rule, legs, posted, origin, fen, leaf) for rule, legs, fen in parts if fen > 0]
