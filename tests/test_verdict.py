"""Judging and posting are total: any 128 bytes get a verdict, and a journal of any group sums to zero."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.bcd import decode_moment, encode_moment
from cardcore.errors import FormatError
from cardcore.record import BY_NAME
from clearing.intake.evidence import sequence_runs
from clearing.intake.proving import Verifiers, prove
from clearing.intake.rows import exhibit_segments, fact_segments
from clearing.intake.settle import Arrivals, Evidence, settle
from clearing.ledger.postings import summed
from clearing.registry.dates import Calendar, CutOff, date_of, instant_us, wall_moments
from clearing.registry.snapshot import Party, Psams, Registry, Since, Terminal
from clearing.verdict.precedence import BAD_PROOFS_ALLOWED, Tally, over_limit
from clearing.verdict.table import State, Verdict
from keys.columns import from_bytes
from keys.engine.root import RootKey
from keys.purposes import KeyId
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier
from tests.intake_side import BUS, BUS_PSAM, CARDS, FOREIGN, NOON, OWN, ZONE, debit, roots

ROOTS = [RootKey(KeyId.parse(name), key, test=True) for name, key in roots().items()]
VERIFIERS = Verifiers(TacVerifier(ROOTS), SealVerifier(ROOTS), ActVerifier(ROOTS))
CUT_OFF = CutOff(date(2026, 1, 1), ZONE, datetime(2026, 1, 1, 2).time())
OPEN = date(2026, 3, 2)


def registry() -> Registry:
    return Registry(
        own={bytes.fromhex(OWN): True, bytes.fromhex(FOREIGN): False},
        parties={101: Party(101, "operator", "bus")},
        terminals={BUS: Terminal(BUS, 101, 1, "bus", 1)},  # type: ignore[arg-type]  # a sector by number will do
        psams=Psams(
            number=np.array([int(BUS_PSAM, 16)]), valid_from=np.array([0]), valid_to=np.array([2**62]),
            active=np.array([True]), sector=np.array([1], np.int16), operator=np.array([101], np.int32),
        ),
        policies={},
        calendar=Calendar([CUT_OFF]),
        cards=np.sort(np.array([bytes.fromhex(card) for card in CARDS], "S10")),
        denied=Since(np.array([bytes.fromhex(CARDS[0])], "S10"), np.array([0])),
    )  # fmt: skip


TEMPLATE = debit(1).encode()
# Random bytes seldom get past the first rows, so most records are a good one with a few fields overwritten.
OVERWRITTEN = st.lists(st.tuples(st.sampled_from(sorted(BY_NAME)), st.binary(min_size=15, max_size=15)), max_size=3)


def _overwrite(changes: list[tuple[str, bytes]]) -> bytes:
    raw = bytearray(TEMPLATE)
    for name, octets in changes:
        field = BY_NAME[name]
        raw[field.offset : field.offset + field.width] = octets[: field.width]
    return bytes(raw)


RECORDS = st.lists(st.binary(min_size=128, max_size=128) | OVERWRITTEN.map(_overwrite), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(RECORDS)
def test_any_bytes_get_a_verdict(raws: list[bytes]) -> None:
    records = from_bytes(b"".join(raws))
    size = len(records)
    received = np.full(size, instant_us(NOON), np.int64)
    zeros = np.zeros(size, np.int64)
    arrivals = Arrivals(records, zeros, received, zeros, zeros)
    evidence = Evidence(OPEN, set(), {}, {}, {}, {0: Tally()})
    settled = settle(arrivals, prove(records, VERIFIERS), evidence, registry(), VERIFIERS)
    verdicts = [Verdict(int(row)) for row in settled.verdict]
    assert len(verdicts) == size
    assert len(set(raws)) == sum(verdict.state is not State.DUPLICATE for verdict in verdicts)
    for postings in summed(settled.strands).values():
        totals: defaultdict[str, int] = defaultdict(int)
        for posting in postings:
            totals[posting.ledger] += posting.amount_fen
        assert not any(totals.values())
    ids = np.zeros(1, np.int64)
    written = fact_segments(arrivals, settled, ids) + exhibit_segments(arrivals, settled, ids)
    assert b"".join(written).count(b"\0\0\0\x80") >= len(set(raws))  # a record of 128 bytes in every row
    runs = sequence_runs(records)
    covered = {(terminal, epoch, seq) for terminal, epoch, low, high in runs for seq in (low, high)}
    said = {(int(r["terminal"]), int(r["epoch"]), int(r["sequence"])) for r in records}
    assert covered <= said
    assert sum(high - low + 1 for *_, low, high in runs) == len(said)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=7, max_size=7) | st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)).map(
    lambda moment: b"".join(encode_moment(moment))
))  # fmt: skip
def test_moments_are_those_of_the_calendar(packed: bytes) -> None:
    raw = np.frombuffer(packed, np.dtype([("date", "V4"), ("time", "V3")]))
    wall, valid = wall_moments(raw["date"], raw["time"])
    try:
        moment = decode_moment(packed[:4], packed[4:])
    except FormatError:
        assert not valid[0]
        return
    if moment.year in (1, 9999):
        assert not valid[0]
        return
    assert valid[0]
    assert datetime(2000, 1, 1) + timedelta(microseconds=int(wall[0])) == moment


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
    st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "Asia/Kolkata"]),
    st.integers(0, 23),
)
def test_origin_dates_are_local_dates_of_the_instant_less_the_cut_off(moment: datetime, zone: str, hour: int) -> None:
    cut_off = CutOff(date(1980, 1, 1), ZoneInfo(zone), datetime(2000, 1, 1, hour).time())
    # A card's moment does not say which of two equal hours it means: the first.
    moment = moment.replace(microsecond=0, fold=0)
    wall = np.array([(moment - datetime(2000, 1, 1)) // timedelta(microseconds=1)])
    instants, origins = Calendar([cut_off]).resolve(wall)
    instant = moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    assert datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(instants[0])) == instant
    assert date_of(origins[0]) == (instant - timedelta(hours=hour)).astimezone(ZoneInfo(zone)).date()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=120), st.lists(st.integers(0, 120), max_size=4))
def test_the_allowance_of_bad_proofs_does_not_depend_on_grouping(bad: list[bool], cuts: list[int]) -> None:
    def marks(edges: list[int]) -> tuple[list[bool], Tally]:
        tally, out = Tally(), []
        for part in np.split(np.array(bad, np.bool_), edges):
            judged = np.ones(len(part), np.bool_)
            out += over_limit(np.zeros(len(part), np.int64), judged, part, {0: tally}).tolist()
        return out, tally

    whole, tally = marks([])
    assert marks(sorted(cut for cut in cuts if cut <= len(bad))) == (whole, tally)
    assert tally.bad <= BAD_PROOFS_ALLOWED + 1
    assert whole == sorted(whole)
