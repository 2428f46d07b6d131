"""A validator's side of a tap, APDU by APDU: the card in the field, the PSAM in the slot (docs/card.md, JR/T 0025)."""

from __future__ import annotations

from typing import NamedTuple

from simulators.city.facts import ALLOWANCE_FEN, Device, Manner, PlannedCard, Tap
from simulators.city.gates import METRO_RECORD, METRO_SFI, RECORD_BYTES, Finding, Gate, Journey, Rider
from simulators.city.parties import CONCESSION
from simulators.city.parts import Card, CityBroken, Psam
from simulators.city.records import SEAL_AT, Kind, TapRecord, bcd_instant, encode
from simulators.city.sam import Sam
from simulators.nvm import TearPoint

__all__ = ["Card", "CityBroken", "Psam", "Validator"]

TRANSIT, SMALLPAY, UTILITY = (
    bytes.fromhex(aid) for aid in ("A000000632010105", "F053584F43010103", "F053584F43010104")
)
AID = {1: TRANSIT, 3: SMALLPAY, 4: UTILITY}
RECORD_USAGE, RECORD_KEY = 0x26, 0x01
PRICED_WITHOUT_ENTRY = 4
"""Bit 2 of a record's flags."""


class Opened(NamedTuple):
    """What INITIALIZE FOR PURCHASE answered."""

    raw: int
    counter: int
    overdraft_fen: int
    key_version: int
    algorithm: int
    random: bytes


class Validator:
    """One device with its PSAM; makes, and seals, the records of the taps that it sees."""

    def __init__(self, device: Device, psam: Psam) -> None:
        self.device, self.sam = device, Sam(device, psam)
        self._gate = Gate(device, self.sam)

    def tap(self, card: Card, tap: Tap, list_version: int) -> TapRecord:
        """The whole tap; the record is not sealed and carries no sequence yet. Raises CityBroken where card and plan
        disagree."""
        stamp = bcd_instant(tap.stamped)
        composite = tap.kind in (Kind.ENTRY, Kind.EXIT)
        card.power_on()
        card_class, identity = self._read(card, tap)
        rider = Rider(identity[:4], identity[10:20], tap.purse, alone=tap.card.purses != (1,))
        if tap.manner is Manner.PSAM_GAP:
            self._opened_debit(self._open(card, tap, composite, tap.amount_fen), tap, stamp, identity)
        if tap.kind is Kind.EXIT:
            opened, trip = self._leave(card, tap, rider, stamp)
        else:
            opened = self._open(card, tap, composite, tap.amount_fen)
            trip = self._gate.entered(rider, opened.counter, stamp) if composite else b""
        terminal_transaction, mac1 = self._opened_debit(opened, tap, stamp, identity)
        if trip:
            _ask(card, bytes((0x80, 0xDC, METRO_RECORD, METRO_SFI << 3, len(trip))) + trip, tap)
        tac = self._debit(card, tap, b"\x80\x54\x01\x00\x0f" + terminal_transaction + stamp + mac1 + b"\x08", opened)
        entry = tap.entry
        return TapRecord(
            kind=tap.kind if tac else Kind.TORN, suite=opened.algorithm, key_version=opened.key_version,
            key_index=tap.key_index, flags=PRICED_WITHOUT_ENTRY if tap.kind is Kind.EXIT and entry is None else 0,
            purse=tap.purse, issuer=identity[:4], card=identity[10:20], counter=opened.counter,
            amount_fen=tap.amount_fen,
            transaction_type=tap.transaction_type, terminal_number=self.sam.number, date=stamp[:4], time=stamp[4:],
            balance_before_fen=opened.raw - opened.overdraft_fen, overdraft_fen=opened.overdraft_fen,
            terminal=self.device.terminal,
            epoch=1, sequence=0, concession=card_class, full_fare_fen=tap.full_fare_fen, operator=self.device.operator,
            terminal_transaction=int.from_bytes(terminal_transaction, "big"), cryptogram=(tac or bytes(4)) + bytes(4),
            line=self.device.line, station=self.device.station, entry_station=entry.device.station if entry else 0,
            entry_at=int(entry.stamped.timestamp()) if entry else 0, list_version=list_version,
        )  # fmt: skip

    def seal(self, record: TapRecord) -> bytes:
        """The record's 128 bytes, sealed by this PSAM."""
        octets = encode(record)[:SEAL_AT]
        return octets + self.sam.mac(RECORD_USAGE, RECORD_KEY, b"\0\0" + self.sam.number, octets)

    def _read(self, card: Card, tap: Tap) -> tuple[int, bytes]:
        """Selects the purse; its class and the 30 bytes of EF 0015, which the FCI carries in 9F0C."""
        fci = _ask(card, _select(TRANSIT), tap)
        card_class = _ask(card, b"\x00\xb0\x97\x00\x0b", tap)[10]
        if tap.purse != 1:
            fci = _ask(card, _select(AID[tap.purse]), tap)
        at = fci.find(b"\x9f\x0c\x1e") + 3
        identity = fci[at : at + 30]
        _agree(tap, "serial", tap.card.serial, identity[10:20].hex())
        _agree(tap, "class", tap.card.card_class, card_class)
        return card_class, identity

    def _open(self, card: Card, tap: Tap, composite: bool, amount_fen: int) -> Opened:
        head = b"\x80\x50\x03\x02\x0b" if composite else b"\x80\x50\x01\x02\x0b"
        data = bytes((tap.key_index,)) + amount_fen.to_bytes(4, "big") + self.sam.number
        a = _ask(card, head + data + b"\x0f", tap)
        opened = Opened(
            int.from_bytes(a[:4], "big"),
            int.from_bytes(a[4:6], "big"),
            int.from_bytes(a[6:9], "big"),
            a[9],
            a[10],
            a[11:15],
        )
        _agree(tap, "offline counter", tap.counter, opened.counter)
        _agree(tap, "value", tap.balance_before_fen, opened.raw - opened.overdraft_fen)
        if tap.purse == 1:
            _agree(tap, "overdraft allowance", ALLOWANCE_FEN, opened.overdraft_fen)
        return opened

    def _opened_debit(self, opened: Opened, tap: Tap, stamp: bytes, identity: bytes) -> tuple[bytes, bytes]:
        """INIT SAM FOR PURCHASE: transaction number and MAC1."""
        a = self.sam.ask(
            b"\x80\x70\x00\x00\x24" + opened.random + opened.counter.to_bytes(2, "big") + tap.amount_fen.to_bytes(4,
            "big")
            + bytes((tap.transaction_type,)) + stamp + bytes((opened.key_version, opened.algorithm))
            + identity[12:20] + identity[:4] + identity[:4] + b"\x08"
        )  # fmt: skip
        return a[:4], a[4:8]

    def _debit(self, card: Card, tap: Tap, apdu: bytes, opened: Opened) -> bytes:
        """The TAC, or nothing when the card was gone before it could tell."""
        torn = {
            Manner.RECOVERED: TearPoint.BEFORE_ANSWER, Manner.TORN_COMMITTED: TearPoint.BEFORE_ANSWER,
            Manner.TORN_VOID: TearPoint.BEFORE_MARKER,
        }.get(tap.manner)  # fmt: skip
        if torn is None:
            answer = _ask(card, apdu, tap)
        else:
            card.tear_next(torn)
            if card.transmit(apdu):
                raise CityBroken(f"{_name(tap)}: the card answered a debit that was to be torn")
            if tap.manner is not Manner.RECOVERED:
                return b""
            card.power_on()
            _ask(card, _select(AID[tap.purse]), tap)
            counter = opened.counter.to_bytes(2, "big")
            proof = _ask(card, bytes((0x80, 0x5A, 0x00, tap.transaction_type, 2)) + counter + b"\x08", tap)
            answer = proof[4:8] + proof[:4]
        self.sam.ask(b"\x80\x72\x00\x00\x04" + answer[4:8])
        return answer[:4]

    def _leave(self, card: Card, tap: Tap, rider: Rider, stamp: bytes) -> tuple[Opened, bytes]:
        """An exit's debit, opened at the fare that the card's entry is worth, and the record to write with it. Only
        INITIALIZE tells the counter: where that makes the entry stale, the debit is opened anew at another fare."""
        shown = _ask(card, bytes((0x00, 0xB2, METRO_RECORD, METRO_SFI << 3, RECORD_BYTES)), tap)
        journey = self._gate.shown(rider, shown, stamp)
        opened = self._open(card, tap, True, self._charge(tap, journey))
        if journey is not (now := journey.at(opened.counter, rider)):
            opened = self._open(card, tap, True, self._charge(tap, now))
        known = tap.entry.device.station if tap.entry else None
        _agree(tap, "entry station", known, now.station if now.finding is Finding.GENUINE else None)
        _agree(tap, "fare", (tap.full_fare_fen, tap.amount_fen), (self._gate.full_fare(now), self._charge(tap, now)))
        return opened, self._gate.exited(rider, now, tap.amount_fen, opened.counter, stamp)

    def _charge(self, tap: Tap, journey: Journey) -> int:
        return self._gate.full_fare(journey) * CONCESSION[tap.card.card_class] // 100


def _select(aid: bytes) -> bytes:
    return b"\x00\xa4\x04\x00" + bytes((len(aid),)) + aid + b"\x00"


def _ask(card: Card, apdu: bytes, tap: Tap) -> bytes:
    answer = card.transmit(apdu)
    if answer[-2:] != b"\x90\x00":
        raise CityBroken(f"{_name(tap)}: the card answered {answer.hex() or 'nothing'} to {apdu[:5].hex()}")
    return answer[:-2]


def _agree(tap: Tap, what: str, planned: object, answered: object) -> None:
    if planned != answered:
        raise CityBroken(f"{_name(tap)}: {what} is {answered} on the card, {planned} in the plan")


def _name(tap: Tap) -> str:
    card: PlannedCard = tap.card
    return f"card {card.serial} purse {tap.purse} at {tap.at:%Y-%m-%d %H:%M:%S}Z ({tap.manner.value})"
