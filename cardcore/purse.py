"""How a purse transaction ends, seen from the reader: committed, refused, or unknown until the card tells (D5).

    evidence = Evidence.of(TransactionType.PURCHASE, opened, amount_fen, terminal_number, date, time)
    evidence = Evidence.of_allowance(opened, limit_fen, terminal_number, date, time, mac2)
    outcome = judge(evidence, DebitPurchase.name, reply)   # reply None: the card fell silent
    outcome = resolve(evidence, finding)                   # later: proof, log record, or counter

Pure decisions; sending is `readers`' work.
"""

from dataclasses import dataclass

from cardcore.apdu import ResponseApdu
from cardcore.card_files import LogCounter, LogRecord
from cardcore.commands.purse import (
    LoadInitialisation,
    PurchaseInitialisation,
    TransactionProof,
    TransactionType,
    UpdateInitialisation,
)
from cardcore.status import Standing, classify, explain

_OFFLINE = frozenset(
    {TransactionType.PURCHASE, TransactionType.COMPOSITE, TransactionType.DEPOSIT_PURCHASE, TransactionType.CASH}
)
# A deposit beside the purse counts for itself, and writes into the same log.
_DEPOSIT = frozenset({TransactionType.DEPOSIT_LOAD, TransactionType.DEPOSIT_PURCHASE, TransactionType.CASH})
_OUTFLOWS = _OFFLINE | {TransactionType.UNLOAD}
# A record of the allowance has no amount in the sense of the others, so the new limit names it.
_OVERDRAFT = TransactionType.OVERDRAFT
# The card may have acted although it did not answer 9000.
_UNCLEAR = frozenset({Standing.MEMORY, Standing.UNKNOWN, Standing.WARNING, Standing.MORE, Standing.LENGTH})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known before the deciding command is sent: the answer of INITIALIZE, and what the cryptograms will cover.

    The counter is the offline one of a purchase, else the online one. For an allowance the amount is new limit − old,
    and `limit_fen` the new one. `mac2` is what the host granted for a load or an allowance, empty otherwise.
    """

    transaction_type: TransactionType
    counter: int
    raw_balance_before_fen: int
    amount_fen: int
    terminal_number: bytes
    date: bytes
    time: bytes
    mac2: bytes = b""
    limit_fen: int = 0

    @classmethod
    def of(
        cls,
        transaction_type: TransactionType,
        opened: LoadInitialisation | PurchaseInitialisation | UpdateInitialisation,
        amount_fen: int,
        terminal_number: bytes,
        date: bytes,
        time: bytes,
        mac2: bytes = b"",
    ) -> "Evidence":
        """From the answer of INITIALIZE; date and time are BCD as sent to the card."""
        balance_fen = opened.raw_balance_fen
        return cls(transaction_type, opened.counter, balance_fen, amount_fen, terminal_number, date, time, mac2)

    @classmethod
    def of_allowance(
        cls, opened: UpdateInitialisation, limit_fen: int, terminal_number: bytes, date: bytes, time: bytes, mac2: bytes
    ) -> "Evidence":
        """Of an allowance that is to become `limit_fen`."""
        change_fen, balance_fen = limit_fen - opened.overdraft_fen, opened.raw_balance_fen
        return cls(_OVERDRAFT, opened.counter, balance_fen, change_fen, terminal_number, date, time, mac2, limit_fen)

    @property
    def raw_balance_after_fen(self) -> int:
        """The raw balance if the card did it."""
        change_fen = -self.amount_fen if self.transaction_type in _OUTFLOWS else self.amount_fen
        return self.raw_balance_before_fen + change_fen

    @property
    def offline(self) -> bool:
        """Whether the counter is the offline one."""
        return self.transaction_type in _OFFLINE


@dataclass(frozen=True, slots=True)
class Committed:
    """The card did it. `tac` and `mac` (MAC2 or MAC3) have 4 bytes, None where what was found does not hold them."""

    evidence: Evidence
    tac: bytes | None = None
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The card did nothing; `sw` is its status word, 0 when it is known by other evidence."""

    evidence: Evidence
    reason: str
    sw: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether the card did it is open; the evidence decides it once the card can be asked."""

    evidence: Evidence


Outcome = Committed | Refused | Unknown


@dataclass(frozen=True, slots=True)
class CounterSeen:
    """What INITIALIZE answered when the card came back: the counter of the evidence's family, and the raw balance."""

    counter: int
    raw_balance_fen: int


Finding = TransactionProof | LogRecord | CounterSeen


def judge(evidence: Evidence, command: str, reply: ResponseApdu | None) -> Outcome:
    """The outcome by the answer to the deciding command, None when there was none (fewer than two bytes)."""
    if reply is None:
        return Unknown(evidence)
    if reply.ok:
        return _receipt(evidence, reply.data)
    if classify(reply.sw, command) in _UNCLEAR:
        return Unknown(evidence)
    return Refused(evidence, explain(command, reply.sw), reply.sw)


def resolve(evidence: Evidence, finding: Finding, log_counter: LogCounter = LogCounter.BEFORE) -> Outcome:
    """The outcome by what the card tells later; Unknown while that does not decide it.

    A missing proof (9406) is no finding: the card keeps only its last transaction, so ask the log or the counter then.
    If this one was refused, another may have taken its counter since: the proof of a load or an allowance is known by
    the MAC2 that was granted; that of a debit or unload holds once the PSAM or the host has checked `mac`, as after
    any 9000.
    A counter that moved does not tell who moved it, and a fitting balance neither: the next load is often of the same
    sum. A record of the log (EF 0018) names terminal and time.
    """
    match finding:
        case TransactionProof(mac=mac, tac=tac):
            return _by_proof(evidence, mac, tac)
        case LogRecord():
            return _by_log(evidence, finding, log_counter)
        case CounterSeen():
            return _by_counter(evidence, finding)


def _receipt(evidence: Evidence, answer: bytes) -> Outcome:
    expected = 8 if evidence.offline else 4
    if len(answer) != expected:
        return Unknown(evidence)
    if evidence.offline:
        return Committed(evidence, tac=answer[:4], mac=answer[4:])
    if evidence.transaction_type is TransactionType.UNLOAD:
        return Committed(evidence, mac=answer)
    return Committed(evidence, tac=answer)


def _by_proof(evidence: Evidence, mac: bytes, tac: bytes) -> Outcome:
    if evidence.mac2 not in (b"", mac):
        return Unknown(evidence)
    # An unload has no TAC: the card fills its place with zeros.
    return Committed(evidence, None if evidence.transaction_type is TransactionType.UNLOAD else tac, mac)


def _by_log(evidence: Evidence, record: LogRecord, log_counter: LogCounter) -> Outcome:
    same_family = (record.transaction_type in _OFFLINE) == evidence.offline
    same_purse = (record.transaction_type in _DEPOSIT) == (evidence.transaction_type in _DEPOSIT)
    if not (same_family and same_purse) or record.counter_before(log_counter) != evidence.counter:
        return Unknown(evidence)
    told = record.transaction_type, record.terminal_number, record.date, record.time
    sent = evidence.transaction_type, evidence.terminal_number, evidence.date, evidence.time
    allowance = evidence.transaction_type is _OVERDRAFT
    same_sum = record.overdraft_fen == evidence.limit_fen if allowance else record.amount_fen == evidence.amount_fen
    if told == sent and same_sum:
        return Committed(evidence)
    return Refused(evidence, f"counter {evidence.counter} went to another transaction of the card: nothing was changed")


def _by_counter(evidence: Evidence, seen: CounterSeen) -> Outcome:
    if seen.counter == evidence.counter:
        return Refused(evidence, f"the card's counter still is {seen.counter}: nothing was changed; start again")
    return Unknown(evidence)
