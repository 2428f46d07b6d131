"""The purse: load, purchase, composite purchase, unload, allowance, balance and proof (JR/T 0025, docs/card.md).

INITIALIZE opens a transaction, the very next command finishes it; anything else, an error included, closes it. Only a
composite purchase may pass through UPDATE CAPP DATA CACHE first. Amounts are 4 bytes, fen; the counter that INITIALIZE
answers is the one before the transaction.
"""

from dataclasses import dataclass, field
from enum import Enum

from simulators.chip import OK, Chip, Command, Run
from simulators.cipher import CipherKey
from simulators.file_system import DedicatedFile, KeyRecord, Proof, PurseCell, PurseFile, RecordFile, Records, Refused
from simulators.nvm import Write

TAC_KEY = 0x34
LAST_COUNTER = 0xFFFF
MOST_FEN = 0x7FFFFFFF  # the top bit of a balance is no money
LOG_RECORD = 23


class Sort(Enum):
    """What INITIALIZE opens: its P1, the key type, the transaction types of purses 01 (ED) and 02 (EP), 0 for none."""

    LOAD = 0x00, 0x3F, (0x01, 0x02)
    PURCHASE = 0x01, 0x3E, (0x05, 0x06)
    CASH = 0x02, 0x3E, (0x04, 0x00)
    COMPOSITE = 0x03, 0x3E, (0x00, 0x09)
    ALLOWANCE = 0x04, 0x3C, (0x07, 0x07)
    UNLOAD = 0x05, 0x3D, (0x03, 0x03)

    def __init__(self, p1: int, key_kind: int, types: tuple[int, int]) -> None:
        self.p1, self.key_kind, self.types = p1, key_kind, types


_SORTS = {sort.p1: sort for sort in Sort}
_DEBITS = (Sort.PURCHASE, Sort.COMPOSITE, Sort.CASH)


@dataclass(slots=True)
class Opened:
    """A transaction between INITIALIZE and its end; `turn` is the command that may be followed by the end."""

    turn: int
    sort: Sort
    transaction_type: int
    file: PurseFile
    amount: bytes
    terminal_number: bytes
    random: bytes
    counter: bytes
    key: KeyRecord
    tac_key: CipherKey
    session: CipherKey | None
    cache: dict[RecordFile, Records] = field(default_factory=dict)


class PurseChip(Chip):
    """A chip with purses: it remembers the transaction that INITIALIZE opened."""

    def enter(self, df: DedicatedFile) -> None:
        super().enter(df)
        self.opened: Opened | None = None


def initialize(card: PurseChip, command: Command) -> bytes:
    """INITIALIZE FOR …: raw balance ‖ counter ‖ [allowance ‖] key version ‖ algorithm ‖ random [‖ MAC1]."""
    sort, data = _SORTS.get(command.p1), command.data
    if sort is None or command.p2 not in (1, 2) or not (transaction_type := sort.types[command.p2 - 1]):
        raise Refused(0x6A86)
    if len(data) != (7 if sort is Sort.ALLOWANCE else 11):
        raise Refused(0x6700)
    file = _purse(card, command.p2)
    if not card.pin_verified and (sort is Sort.LOAD or command.p2 == 1):
        raise Refused(0x6982)
    key = card.key(sort.key_kind, data[0], missing=0x9403)
    card.require(key.use)
    tac = card.df.key_with(TAC_KEY, key.secret.algorithm)
    if tac is None:
        raise Refused(0x9403)
    purse = file.purse.value
    debit = sort in _DEBITS
    counter = purse.offline if debit else purse.online
    if counter == LAST_COUNTER:
        raise Refused(0x9402)
    amount, terminal_number = data[1:-6], data[-6:]
    _afford(sort, purse, int.from_bytes(amount, "big"))
    random, counted, tac_key = card.rng.randbytes(4), counter.to_bytes(2, "big"), tac.secret.tac_key()
    if sort is Sort.ALLOWANCE and card.behaviour.overdraft_tac_key == "whole":
        tac_key = tac.secret
    card.opened = opened = Opened(
        card.turn, sort, transaction_type, file, amount, terminal_number, random, counted, key, tac_key, None
    )
    balance, key_info = purse.raw_fen.to_bytes(4, "big"), bytes((key.version, key.algorithm))
    allowance = purse.allowance_fen.to_bytes(3, "big")
    if debit:
        return balance + counted + allowance + key_info + random + OK
    if sort is not Sort.LOAD:
        _forget_like_proof(card, opened, counter)
    opened.session = session = key.secret.session(random + counted)
    shown = allowance if sort is Sort.ALLOWANCE else b""
    mac1 = session.mac(balance + (shown or amount) + bytes((transaction_type,)) + terminal_number)
    return balance + counted + shown + key_info + random + mac1[:4] + OK


def _forget_like_proof(card: PurseChip, opened: Opened, counter: int) -> None:
    """GET TRANSACTION PROOF names no purse, and both share the types of unload and allowance: the other purse's proof
    of this type and counter goes, or it would pass for the proof of what is opened now.
    """
    for file in card.df.files.value.values():
        if isinstance(file, PurseFile) and file is not opened.file:
            purse = file.purse.value
            if purse.proof and purse.proof[:2] == (opened.transaction_type, counter):
                card.memory.note(file.purse.becomes(purse._replace(proof=None)))


def credit_for_load(card: PurseChip, command: Command) -> bytes:
    """CREDIT FOR LOAD: D ‖ T ‖ MAC2 → TAC over the new raw balance."""
    _plain(command)
    opened = _opened(card, command, (Sort.LOAD,), 11)
    purse, when, mac2 = opened.file.purse.value, command.data[:7], command.data[7:]
    tail = opened.amount + bytes((opened.transaction_type,)) + opened.terminal_number + when
    _check(opened, tail, mac2)
    raw_fen = purse.raw_fen + int.from_bytes(opened.amount, "big")
    tac = opened.tac_key.mac(raw_fen.to_bytes(4, "big") + opened.counter + tail)[:4]
    proof = Proof(opened.transaction_type, purse.online, mac2, tac)
    after = PurseCell(raw_fen, purse.allowance_fen, purse.online + 1, purse.offline, proof)
    card.memory.commit(opened.file.purse.becomes(after), *_log(card, opened, purse, when))
    return tac + OK


def debit(card: PurseChip, command: Command) -> bytes:
    """DEBIT FOR PURCHASE, CASH WITHDRAW, CAPP PURCHASE (P1 01): TAC ‖ MAC2; DEBIT FOR UNLOAD (P1 03): MAC3."""
    if command.p2 or command.p1 not in (0x01, 0x03):
        raise Refused(0x6A86)
    return _debit_for_purchase(card, command) if command.p1 == 0x01 else _debit_for_unload(card, command)


def _debit_for_purchase(card: PurseChip, command: Command) -> bytes:
    opened = _opened(card, command, _DEBITS, 15)
    if opened.sort is Sort.COMPOSITE and not opened.cache:
        raise Refused(0x6985)
    data, purse = command.data, opened.file.purse.value
    transaction, when, mac1 = data[:4], data[4:11], data[11:]
    opened.session = session = opened.key.secret.session(opened.random + opened.counter + transaction[2:])
    head = opened.amount + bytes((opened.transaction_type,)) + opened.terminal_number
    _check(opened, head + when, mac1)
    tac, mac2 = opened.tac_key.mac(head + transaction + when)[:4], session.mac(opened.amount)[:4]
    after = PurseCell(
        purse.raw_fen - int.from_bytes(opened.amount, "big"),
        purse.allowance_fen,
        purse.online,
        purse.offline + 1,
        Proof(opened.transaction_type, purse.offline, mac2, tac),
    )
    composite = [file.records.becomes(records) for file, records in opened.cache.items()]
    card.memory.commit(opened.file.purse.becomes(after), *_log(card, opened, purse, when), *composite)
    return tac + mac2 + OK


def _debit_for_unload(card: PurseChip, command: Command) -> bytes:
    opened = _opened(card, command, (Sort.UNLOAD,), 11)
    purse, when, mac2 = opened.file.purse.value, command.data[:7], command.data[7:]
    tail = opened.amount + bytes((opened.transaction_type,)) + opened.terminal_number + when
    session = _check(opened, tail, mac2)
    raw_fen = purse.raw_fen - int.from_bytes(opened.amount, "big")
    mac3 = session.mac(raw_fen.to_bytes(4, "big") + opened.counter + tail)[:4]
    proof = Proof(opened.transaction_type, purse.online, mac3, bytes(4))
    after = PurseCell(raw_fen, purse.allowance_fen, purse.online + 1, purse.offline, proof)
    card.memory.commit(opened.file.purse.becomes(after), *_log(card, opened, purse, when))
    return mac3 + OK


def update_allowance(card: PurseChip, command: Command) -> bytes:
    """UPDATE OVERDRAW LIMIT: limit(3) ‖ D ‖ T ‖ MAC2 → TAC; the raw balance moves by the difference of the limits."""
    _plain(command)
    opened = _opened(card, command, (Sort.ALLOWANCE,), 14)
    purse, limit, when, mac2 = opened.file.purse.value, command.data[:3], command.data[3:10], command.data[10:]
    tail = limit + bytes((opened.transaction_type,)) + opened.terminal_number + when
    _check(opened, tail, mac2)
    allowance_fen = int.from_bytes(limit, "big")
    raw_fen = purse.raw_fen + allowance_fen - purse.allowance_fen
    if not 0 <= raw_fen <= MOST_FEN:
        raise Refused(0x9401 if raw_fen < 0 else 0x6985)
    tac = opened.tac_key.mac(raw_fen.to_bytes(4, "big") + opened.counter + tail)[:4]
    proof = Proof(opened.transaction_type, purse.online, mac2, tac)
    after = PurseCell(raw_fen, allowance_fen, purse.online + 1, purse.offline, proof)
    opened.amount = bytes(4)
    card.memory.commit(opened.file.purse.becomes(after), *_log(card, opened, after, when))
    return tac + OK


def update_composite(card: PurseChip, command: Command) -> bytes:
    """UPDATE CAPP DATA CACHE: stages a record until the debit. A record whose byte 2 is set is locked: 6985."""
    opened = card.opened
    if opened is None or opened.turn != card.turn - 1 or opened.sort is not Sort.COMPOSITE:
        raise Refused(0x6901)
    file = card.elementary(command.p2 >> 3)
    if not isinstance(file, RecordFile):
        raise Refused(0x6981)
    if file.protected or file.fid & 0x1F == opened.file.log_sfi:
        raise Refused(0x6982)
    records = opened.cache.get(file, file.records.value)
    updated = file.updated(records, command.p1, command.p2, command.data)
    if file.variable and any(old[2:3] > b"\0" for old in set(records) - set(updated)):
        raise Refused(0x6985)
    opened.cache[file] = updated
    opened.turn = card.turn
    return OK


def get_balance(card: PurseChip, command: Command) -> bytes:
    """GET BALANCE: the raw balance, 4 bytes; P1 03 is what T-Union validators send. ED needs the PIN."""
    if command.p1 not in (0x00, 0x03) or command.p2 not in (1, 2):
        raise Refused(0x6A86)
    if command.data:
        raise Refused(0x6700)
    file = _purse(card, command.p2)
    if command.p2 == 1 and not card.pin_verified:
        raise Refused(0x6982)
    return file.purse.value.raw_fen.to_bytes(4, "big") + OK


def get_transaction_proof(card: PurseChip, command: Command) -> bytes:
    """GET TRANSACTION PROOF: P2 = type, data = counter as INITIALIZE answered it → MAC ‖ TAC; 9406: not committed."""
    if command.p1:
        raise Refused(0x6A86)
    if len(command.data) != 2:
        raise Refused(0x6700)
    wanted = command.p2, int.from_bytes(command.data, "big")
    for file in card.df.files.value.values():
        if isinstance(file, PurseFile) and (proof := file.purse.value.proof) and proof[:2] == wanted:
            return proof.mac + proof.tac + OK
    raise Refused(0x9406)


def _purse(card: PurseChip, number: int) -> PurseFile:
    file = card.df.files.value.get(number)
    if not isinstance(file, PurseFile):
        raise Refused(0x6A82)
    card.require(file.read_right)
    return file


def _afford(sort: Sort, purse: PurseCell, amount_fen: int) -> None:
    if sort is Sort.LOAD:
        if purse.raw_fen + amount_fen > MOST_FEN:
            raise Refused(0x6985)
    elif sort is Sort.UNLOAD:
        if amount_fen > purse.raw_fen - purse.allowance_fen:
            raise Refused(0x9401)
    elif sort is not Sort.ALLOWANCE and amount_fen > purse.raw_fen:
        raise Refused(0x9401)


def _plain(command: Command) -> None:
    if command.p1 or command.p2:
        raise Refused(0x6A86)


def _opened(card: PurseChip, command: Command, sorts: tuple[Sort, ...], length: int) -> Opened:
    """What the command just before opened, of one of `sorts`; 6901 otherwise, 6700 for another length of data."""
    opened = card.opened
    if opened is None or opened.turn != card.turn - 1 or opened.sort not in sorts:
        raise Refused(0x6901)
    if len(command.data) != length:
        raise Refused(0x6700)
    return opened


def _check(opened: Opened, text: bytes, mac: bytes) -> CipherKey:
    if opened.session is None or opened.session.mac(text)[:4] != mac:
        raise Refused(0x9302)
    return opened.session


def _log(card: PurseChip, opened: Opened, purse: PurseCell, when: bytes) -> tuple[Write, ...]:
    """One more record of EF 0018: counter (which one, by behaviour), allowance, amount, type, terminal, date, time.

    A change of the allowance is logged with the new one, and no amount.
    """
    log = card.df.elementary(opened.file.log_sfi)
    if not isinstance(log, RecordFile) or log.length != LOG_RECORD:
        return ()
    allowance = purse.allowance_fen.to_bytes(3, "big")
    kind = bytes((opened.transaction_type,))
    counter = opened.counter
    if card.behaviour.log_counter == "after":
        counter = (int.from_bytes(counter, "big") + 1).to_bytes(2, "big")
    record = counter + allowance + opened.amount + kind + opened.terminal_number + when
    return (log.records.becomes(log.appended(log.records.value, record)),)


PURSE_COMMANDS: dict[bytes, Run] = {
    b"\x80\x50": initialize,
    b"\x80\x52": credit_for_load,
    b"\x80\x54": debit,
    b"\x80\x58": update_allowance,
    b"\x80\xdc": update_composite,
    b"\x80\x5c": get_balance,
    b"\x80\x5a": get_transaction_proof,
}
