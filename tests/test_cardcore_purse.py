"""Outcomes and recovery: decisions alone, and against a software card that is torn in the deciding command."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal_side import AIDS, SUITES, TERMINAL, WHEN, Till, issue

from cardcore.apdu import ResponseApdu
from cardcore.card_files import LogCounter, LogRecord
from cardcore.commands import (
    Command,
    CreditLoad,
    DebitPurchase,
    DebitUnload,
    GetTransactionProof,
    InitLoad,
    InitPurchase,
    InitUnload,
    ReadRecord,
    Select,
    TransactionProof,
    VerifyPin,
)
from cardcore.commands.purse import TransactionType
from cardcore.errors import CardError
from cardcore.purse import Committed, CounterSeen, Evidence, Finding, Outcome, Refused, Unknown, judge, resolve
from simulators.nvm import TearPoint

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

TYPES = st.sampled_from([TransactionType.LOAD, TransactionType.PURCHASE, TransactionType.UNLOAD])
DATE, TIME = WHEN[:4], WHEN[4:]
LATER = bytes.fromhex("081531")


def evidence(kind: TransactionType = TransactionType.PURCHASE, counter: int = 7, amount_fen: int = 200) -> Evidence:
    return Evidence(kind, counter, 5000, amount_fen, TERMINAL, DATE, TIME)


def test_answers_decide() -> None:
    debit = evidence()
    assert judge(debit, DebitPurchase.name, None) == Unknown(debit)
    paid = judge(debit, DebitPurchase.name, ResponseApdu(b"\1\1\1\1\2\2\2\2", 0x9000))
    assert paid == Committed(debit, tac=b"\1" * 4, mac=b"\2" * 4)
    assert judge(debit, DebitPurchase.name, ResponseApdu(b"\1", 0x9000)) == Unknown(debit)
    refused = judge(debit, DebitPurchase.name, ResponseApdu(b"", 0x9302))
    assert isinstance(refused, Refused) and refused.sw == 0x9302 and "MAC1 of the PSAM" in refused.reason
    for unclear in (0x6581, 0x6400, 0x6F00, 0x6108, 0x1234):
        assert judge(debit, DebitPurchase.name, ResponseApdu(b"", unclear)) == Unknown(debit)
    load, unload = evidence(TransactionType.LOAD), evidence(TransactionType.UNLOAD)
    assert judge(load, CreditLoad.name, ResponseApdu(b"\3" * 4, 0x9000)) == Committed(load, tac=b"\3" * 4)
    assert judge(unload, DebitUnload.name, ResponseApdu(b"\4" * 4, 0x9000)) == Committed(unload, mac=b"\4" * 4)


def test_proof_commits() -> None:
    debit = evidence()
    assert resolve(debit, TransactionProof(b"\2" * 4, b"\1" * 4)) == Committed(debit, tac=b"\1" * 4, mac=b"\2" * 4)


@given(TYPES, st.integers(0, 0xFFFE), st.integers(0, 0xFFFF), st.integers(0, 10**6), st.integers(0, 5000))
def test_a_counter_that_stands_refuses_and_one_that_moved_says_nothing(
    kind: TransactionType, counter: int, seen: int, balance_fen: int, amount_fen: int
) -> None:
    known = evidence(kind, counter, amount_fen)
    match resolve(known, CounterSeen(seen, balance_fen)):
        case Refused():
            assert seen == counter
        case found:
            assert found == Unknown(known) and seen != counter


def test_debits_of_equal_amount_are_told_apart_by_the_log() -> None:
    """The next bus took the same fare: counter and balance look alike, the terminal in the log does not."""
    load = evidence(TransactionType.LOAD)
    assert resolve(load, CounterSeen(8, 5200)) == Unknown(load), "the clerk may have loaded the same sum again"
    debit = evidence()
    assert resolve(debit, CounterSeen(8, 4800)) == Unknown(debit)
    own = LogRecord(7, 800, 200, 6, TERMINAL, DATE, TIME)
    other = LogRecord(7, 800, 200, 6, bytes(6), DATE, TIME)
    other_load = LogRecord(7, 800, 200, 2, TERMINAL, DATE, TIME)
    assert resolve(debit, own) == Committed(debit)
    assert isinstance(resolve(debit, other), Refused)
    assert resolve(debit, other_load) == Unknown(debit), "the online counter is another counter"
    of_deposit = LogRecord(7, 800, 200, 5, TERMINAL, DATE, TIME)
    assert resolve(debit, of_deposit) == Unknown(debit), "a deposit beside the purse counts for itself"
    assert resolve(debit, own, LogCounter.AFTER) == Unknown(debit)
    numbered_after = LogRecord(8, 800, 200, 6, TERMINAL, DATE, TIME)
    assert resolve(debit, numbered_after, LogCounter.AFTER) == Committed(debit)


class Counter:
    """The reader side of one card: typed commands in, typed answers out."""

    def __init__(self, suite: str) -> None:
        self.till = Till.of(suite, issue(suite))
        self.till.tap()
        self.till.load(10_000)

    def select(self) -> None:
        self.till.card.power_on()
        self.ask(Select(bytes.fromhex(AIDS[1])))
        self.ask(VerifyPin("123456"))

    def send(self, command: Command[object]) -> ResponseApdu | None:
        raw = self.till.card.transmit(command.apdu().encode())
        return ResponseApdu.decode(raw) if len(raw) >= 2 else None

    def ask(self, command: Command[object]) -> object:
        response = self.send(command)
        assert response is not None
        return command.read(response)

    def open(self, kind: TransactionType, amount_fen: int, time: bytes = TIME) -> tuple[Evidence, Command[object]]:
        """INITIALIZE, and the deciding command with a right MAC."""
        index, till = self.till.key_id, self.till
        tail = amount_fen.to_bytes(4, "big") + bytes((kind,)) + TERMINAL + DATE + time
        decide: Command[object]
        if kind is TransactionType.PURCHASE:
            bought = InitPurchase(index, amount_fen, TERMINAL)
            opened = bought.read(_some(self.send(bought)))
            self.session = till.suite.session(
                till.keys.purchase, opened.random + opened.counter.to_bytes(2, "big") + b"\0\1"
            )
            decide = DebitPurchase(1, DATE, time, till.mac(self.session, tail))
            return Evidence.of(kind, opened, amount_fen, TERMINAL, DATE, time), decide
        is_load = kind is TransactionType.LOAD
        start = (InitLoad if is_load else InitUnload)(index, amount_fen, TERMINAL)
        begun = start.read(_some(self.send(start)))
        key = till.keys.load if is_load else till.keys.unload
        self.session = till.suite.session(key, begun.random + begun.counter.to_bytes(2, "big"))
        mac2 = till.mac(self.session, tail)
        decide = (CreditLoad if is_load else DebitUnload)(DATE, time, mac2)
        return Evidence.of(kind, begun, amount_fen, TERMINAL, DATE, time, mac2 if is_load else b""), decide

    def checks(self, known: Evidence, session: bytes, proof: TransactionProof) -> bool:
        """What PSAM and host check after every 9000: MAC2 of a purchase, MAC3 of an unload."""
        covered = known.amount_fen.to_bytes(4, "big")
        if known.transaction_type is TransactionType.UNLOAD:
            head = known.raw_balance_after_fen.to_bytes(4, "big") + known.counter.to_bytes(2, "big")
            covered = head + covered + b"\x03" + TERMINAL + DATE + known.time
        return known.transaction_type is TransactionType.LOAD or proof.mac == self.till.mac(session, covered)

    def transact(
        self, kind: TransactionType, amount_fen: int, tear: TearPoint | None = None, time: bytes = TIME
    ) -> Outcome:
        known, decide = self.open(kind, amount_fen, time)
        self.till.card.tear_next(tear)
        outcome = judge(known, decide.name, self.send(decide))
        self.till.card.tear_next(None)
        return outcome

    def findings(self, known: Evidence, session: bytes) -> list[Finding]:
        """What a reader can ask when the card is back: a checked proof, the log, and a fresh INITIALIZE."""
        self.select()
        found: list[Finding] = []
        proof = GetTransactionProof(known.transaction_type, known.counter)
        answer = _some(self.send(proof))
        if answer.ok and self.checks(known, session, proof.read(answer)):
            found.append(proof.read(answer))
        for number in range(1, 11):
            try:
                record = self.ask(ReadRecord(0x18, number, 23))
            except CardError:
                break
            assert isinstance(record, bytes)
            found.append(LogRecord.decode(record))
        again = self.open(known.transaction_type, 1)[0]
        return [*found, CounterSeen(again.counter, again.raw_balance_before_fen)]


def _some(response: ResponseApdu | None) -> ResponseApdu:
    assert response is not None
    return response


@settings(max_examples=60, deadline=None)
@given(
    suite=st.sampled_from(sorted(SUITES)),
    kind=TYPES,
    amount_fen=st.integers(1, 3000),
    point=st.none() | st.sampled_from(TearPoint),
    later=st.lists(st.tuples(TYPES, st.integers(1, 500)), max_size=3),
)
def test_recovery_agrees_with_the_card(
    suite: str,
    kind: TransactionType,
    amount_fen: int,
    point: TearPoint | None,
    later: list[tuple[TransactionType, int]],
) -> None:
    """Whatever happened to the card since, no finding contradicts its memory, and together they decide."""
    counter = Counter(suite)
    counter.select()
    before = counter.till.card.purses()[1]
    outcome = counter.transact(kind, amount_fen, point)
    session = counter.session
    counter.select()
    after = counter.till.card.purses()[1]
    moved = (after.offline, after.online) != (before.offline, before.online)
    assert isinstance(outcome, Unknown if point else Committed)
    for then, fen in later:
        assert isinstance(counter.transact(then, fen, time=LATER), Committed)

    known = outcome.evidence
    decided = [
        result for result in (resolve(known, item) for item in counter.findings(known, session)) if _decides(result)
    ]
    assert decided, "proof, log and counter leave nothing open"
    for result in decided:
        assert isinstance(result, Committed) == moved
    assert all(type(one) is type(other) for one, other in pairwise(decided))
    assert known.raw_balance_before_fen == before.balance_fen
    if moved:
        assert known.raw_balance_after_fen == after.balance_fen


def _decides(outcome: Outcome) -> bool:
    return not isinstance(outcome, Unknown)
