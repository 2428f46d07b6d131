"""One card, one loader and one PSAM against a tiny model of money, PINs and counters.

Hypothesis chooses what is done, what is forged, what comes in between and where the power goes. The model knows only
what a terminal may know: it learns whether a torn act happened from the transaction proof. After every step the memory
of the card and of the PSAM must be what the model says.
"""

import pickle
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

sys.path.insert(0, str(Path(__file__).parent))

from card_side import METRO_IN, METRO_OUT, TRIP, ask
from psam_side import CARD, CITY, CONTROL, LINE, ROOT, equip
from terminal_side import AIDS, PIN, SUITES, TERMINAL, WHEN, Keys, Sm4, Suite, iso_pad, issue

from simulators.card_line import Line
from simulators.file_system import BinaryFile, PurseFile, RecordFile
from simulators.psam_ceilings import Ceilings

MOST_FEN = 0x7FFFFFFF
MOST_TRIES = 3


class QuickSm4(Sm4):
    """SM4 of a compiled library: the one of the other tests takes milliseconds a block."""

    def encrypt(self, key: bytes, octets: bytes) -> bytes:
        return Cipher(SM4(key), modes.ECB()).encryptor().update(octets)  # noqa: S305

    def mac(self, key: bytes, octets: bytes, iv: bytes = b"") -> bytes:
        cipher = Cipher(SM4(key), modes.CBC(iv.ljust(16, b"\0")))
        return cipher.encryptor().update(iso_pad(octets, 16))[-16:]


QUICK: dict[str, Suite] = {"3des": SUITES["3des"], "sm4": QuickSm4()}


@cache
def issued(name: str) -> tuple[bytes, bytes, Keys]:
    """A card and a PSAM that share a purchase root, pickled."""
    suite = SUITES[name]
    keys = Keys(purchase=suite.derive(suite.derive(ROOT, CITY), CARD))
    card, psam = issue(name, keys=keys), equip(name)
    card.power_off()
    psam.power_off()
    return pickle.dumps(card), pickle.dumps(psam), keys


@dataclass(frozen=True)
class Purse:
    raw_fen: int = 0
    allowance_fen: int = 0
    online: int = 0
    offline: int = 0


@dataclass(frozen=True)
class Known:
    """What the terminals know of the card."""

    purses: dict[int, Purse] = field(default_factory=lambda: {1: Purse(), 2: Purse()})
    log: tuple[tuple[int, int], ...] = ()  # type and amount (or new allowance), newest first
    metro: bytes | None = None
    trips: int = 0
    mark: int = 0  # the last byte of EF 0015
    pin: bytes = PIN
    tries: int = MOST_TRIES
    lock: str = "OPEN"
    line_tries: int = MOST_TRIES

    def moved(self, number: int, kind: int, amount_fen: int, **purse: int) -> "Known":
        """One transaction more."""
        purses = {**self.purses, number: replace(self.purses[number], **purse)}
        return replace(self, purses=purses, log=((kind, amount_fen), *self.log)[:10])


@dataclass
class Safe:
    """What the terminals know of the PSAM."""

    next_number: int = 1
    ceilings: Ceilings = field(default_factory=Ceilings)


AMOUNTS = st.one_of(st.integers(0, 3_000), st.integers(0, 20), st.sampled_from([0, 1, MOST_FEN, MOST_FEN + 1]))
# Where the power goes: after so many writes, or bytes sent, counted from the last command of the act.
CUTS = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(st.just("writes"), st.integers(0, 12)),
    st.tuples(st.just("octets"), st.integers(0, 11)),
)
DISTURBANCES = st.one_of(
    st.none(), st.none(), st.none(), st.sampled_from(["00840000 04", "805C0002 04", "00FF0000", "00B09500 01", "00"])
)
PINS = st.sampled_from([PIN, bytes.fromhex("654321"), bytes.fromhex("1234"), bytes.fromhex("999999999999")])
GUESSES = st.one_of(st.none(), st.none(), PINS)  # None is the right one
ONLINE: dict[str, Any] = {
    "act": st.sampled_from(["load", "unload", "allowance"]),
    "number": st.sampled_from([1, 2, 2, 2]),
    "fen": AMOUNTS,
    "forged": st.integers(0, 9),
    "between": DISTURBANCES,
    "cut": CUTS,
}
SEL = bytes.fromhex("00A4040008" + AIDS[1])


class CardMachine(RuleBasedStateMachine):
    """The rules are what happens at counters, validators and in thieves' workshops."""

    happened: ClassVar[Counter[str]] = Counter()

    @initialize(name=st.sampled_from(sorted(QUICK)), protocol=st.sampled_from(["T=0", "T=1"]), old=st.integers(0, 40))
    def begin(self, name: str, protocol: Any, old: int) -> None:
        """A card with money in both purses, now and then one whose counters are about to end."""
        blank, psam, self.keys = issued(name)
        self.name, self.suite = name, QUICK[name]
        self.card, self.psam = pickle.loads(blank), pickle.loads(psam)  # noqa: S301
        self.known, self.safe = Known(), Safe()
        self.loaded_fen = self.spent_fen = 0
        if old < 4:
            start = 0xFFFF - old
            for number, file in self._purse_files():
                file.purse.value = file.purse.value._replace(online=start, offline=start)
                self.known.purses[number] = Purse(online=start, offline=start)
        self.line, self.slot = Line(self.card, protocol), Line(self.psam)
        self.slot.power_on()
        self.psam_proved = False
        self.tap()
        for number in (1, 2):
            self.with_pin("load", number, 20_000, 1, None, None)

    # Rules: the holder and the counter

    @rule()
    def tap(self) -> None:
        assert self.line.power_on()
        self.verified, self.state = False, 0
        answer = ask(self.line, SEL)
        assert answer[-2:] == (b"\x90\x00" if self.known.lock == "OPEN" else b"\x62\x83")
        self.happened["tap"] += 1

    @rule(pin=GUESSES, cut=CUTS)
    def verify(self, pin: bytes | None, cut: Any) -> None:
        pin = pin or self.known.pin
        self._cut(cut)
        self._pin_command(bytes([0, 0x20, 0, 0, len(pin)]) + pin, pin, self.known.pin)

    @rule(old=GUESSES, new=PINS, cut=CUTS)
    def change_pin(self, old: bytes | None, new: bytes, cut: Any) -> None:
        old = old or self.known.pin
        self._cut(cut)
        both = old + b"\xff" + new
        self._pin_command(bytes([0x80, 0x5E, 1, 0, len(both)]) + both, old, new)

    @rule(new=PINS, by_unblock=st.booleans())
    def restore_pin(self, new: bytes, by_unblock: bool) -> None:
        if by_unblock:
            told = self._protected("84240000", self.keys.unblock, new, encipher=True)
        else:
            mac = self.suite.mac(self.suite.tac_key(self.keys.reload), new)[:4]
            told = self._ask("805E0000", new + mac)
        if self._open(told):
            assert told == b"\x90\x00"
            self.known = replace(self.known, pin=new, tries=MOST_TRIES)
            self.happened["PIN restored"] += 1

    @rule(**ONLINE)
    def with_pin(self, act: str, number: int, fen: int, forged: int, between: str | None, cut: Any) -> None:
        """The holder is there and knows the PIN."""
        self.verify(None, None)
        self.online(act, number, fen, forged, between, cut)

    @rule(**ONLINE)
    def online(self, act: str, number: int, fen: int, forged: int, between: str | None, cut: Any) -> None:
        """Load, unload or allowance at the counter."""
        p1, finish, key = {
            "load": (0x00, "80520000", self.keys.load),
            "unload": (0x05, "80540300", self.keys.unload),
            "allowance": (0x04, "80580000", self.keys.allowance),
        }[act]
        kind = {"load": number, "unload": 0x03, "allowance": 0x07}[act]
        fen = fen & 0xFFFF if act == "allowance" else fen
        amount = fen.to_bytes(3 if act == "allowance" else 4, "big")
        asked = bytes([self._key_id]) + (b"" if act == "allowance" else amount) + TERMINAL
        opened = self._ask(f"8050{p1:02X}{number:02X}", asked, 0)
        if not self._open(opened):
            return
        purse = self.known.purses[number]
        expected = self._online_status(act, number, fen)
        assert opened[-2:] == expected.to_bytes(2, "big"), (act, number, fen, opened.hex())
        if expected != 0x9000:
            self.happened[f"{act} refused {expected:04X}"] += 1
            return
        balance, counted, random4 = opened[:4], opened[4:6], opened[-10:-6]
        assert balance + counted == purse.raw_fen.to_bytes(4, "big") + purse.online.to_bytes(2, "big")
        session = self.suite.session(key, random4 + counted)
        shown = purse.allowance_fen.to_bytes(3, "big") if act == "allowance" else amount
        assert opened[-6:-2] == self.suite.mac(session, balance + shown + bytes([kind]) + TERMINAL)[:4]
        closed = self._disturb(between)
        tail = amount + bytes([kind]) + TERMINAL + WHEN
        mac2 = bytes(4) if forged == 0 else self.suite.mac(session, tail)[:4]
        change = fen if act == "load" else -fen if act == "unload" else fen - purse.allowance_fen
        raw = purse.raw_fen + change
        after = self.known.moved(number, kind, fen, raw_fen=raw, online=purse.online + 1)
        if act == "allowance":
            after.purses[number] = replace(after.purses[number], allowance_fen=fen)
        self._cut(cut)
        told = self._ask(finish, (amount if act == "allowance" else b"") + WHEN + mac2, 4)
        lost = not told
        committed = self._came(told, closed, forged == 0, raw < 0, kind, counted)
        if committed:
            self.known = after
            self.loaded_fen += 0 if act == "allowance" else change
            self._count(act, lost)
        if committed and not lost:
            judge = session if act == "unload" else self.suite.tac_key(self.keys.tac)
            assert told[:4] == self.suite.mac(judge, raw.to_bytes(4, "big") + counted + tail)[:4]

    def _online_status(self, act: str, number: int, fen: int) -> int:
        purse = self.known.purses[number]
        if not self.verified and (act == "load" or number == 1):
            return 0x6982
        if act in ("load", "unload") and self.state < 1:
            return 0x6982
        if purse.online == 0xFFFF:
            return 0x9402
        if act == "load" and purse.raw_fen + fen > MOST_FEN:
            return 0x6985
        return 0x9401 if act == "unload" and fen > purse.raw_fen - purse.allowance_fen else 0x9000

    # Rules: the validator

    @rule(
        act=st.sampled_from(["purchase", "purchase", "composite", "composite", "deposit purchase", "cash"]),
        fen=AMOUNTS,
        out=st.booleans(),
        trips=st.integers(0, 2),
        forged=st.integers(0, 9),
        between=DISTURBANCES,
        cut=CUTS,
        psam_cut=CUTS,
    )
    def debit(
        self, act: str, fen: int, out: bool, trips: int, forged: int, between: str | None, cut: Any, psam_cut: Any
    ) -> None:
        """A purchase between the card and the PSAM; the terminal needs no key."""
        p1, number, kind = {
            "purchase": (0x01, 2, 0x06),
            "composite": (0x03, 2, 0x09),
            "deposit purchase": (0x01, 1, 0x05),
            "cash": (0x02, 1, 0x04),
        }[act]
        if number == 1 and forged % 4:
            self.verify(None, None)
        amount = fen.to_bytes(4, "big")
        opened = self._ask(f"8050{p1:02X}{number:02X}", bytes([self._key_id]) + amount + TERMINAL, 0x0F)
        if not self._open(opened):
            return
        purse = self.known.purses[number]
        expected = self._debit_status(number, fen)
        assert opened[-2:] == expected.to_bytes(2, "big"), (act, fen, opened.hex())
        if expected != 0x9000:
            self.happened[f"{act} refused {expected:04X}"] += 1
            return
        counted, after = opened[4:6], self.known
        if act == "composite":
            after = self._stage(out, trips)
        signed = self._sign(opened[11:15] + counted + amount + bytes([kind]), opened[10], psam_cut, fen)
        if signed is None:
            return
        closed = self._disturb(between)
        transaction, mac1 = signed[:4], signed[4:8] if forged else bytes(4)
        self._cut(cut)
        told = self._ask("80540100", transaction + WHEN + mac1, 8)
        lost = not told
        if self._came(told, closed, not forged, False, kind, counted):
            self.known = after.moved(number, kind, fen, raw_fen=purse.raw_fen - fen, offline=purse.offline + 1)
            self.spent_fen += fen
            self._count(act, lost)
            if not lost:
                tac = self.suite.mac(
                    self.suite.tac_key(self.keys.tac), amount + bytes([kind]) + TERMINAL + transaction + WHEN
                )
                assert told[:4] == tac[:4]
                self._credit(told[4:8], forged == 1)

    def _debit_status(self, number: int, fen: int) -> int:
        purse = self.known.purses[number]
        if number == 1 and not self.verified:
            return 0x6982
        if purse.offline == 0xFFFF:
            return 0x9402
        return 0x9401 if fen > purse.raw_fen else 0x9000

    def _stage(self, out: bool, trips: int) -> Known:
        """Records into the cache: the metro record, then trips; what the card holds if the debit comes."""
        metro = METRO_OUT if out else METRO_IN
        assert self._ask("80DC21D0", metro) == b"\x90\x00"
        for _ in range(trips):
            assert self._ask("80DC00F0", TRIP) == b"\x90\x00"
        return replace(self.known, metro=metro, trips=min(self.known.trips + trips, 30))

    def _sign(self, head: bytes, algorithm: int, cut: Any, fen: int) -> bytes | None:
        """INIT SAM FOR PURCHASE; None when there is no MAC1."""
        expected = 0x9000 if self.safe.ceilings.admit(fen) else 0x6985
        if not self.safe.ceilings.tries:
            expected = 0x6983
        self._cut(cut, self.slot, self.psam)
        asked = head + WHEN + bytes([1, algorithm]) + CARD + CITY
        told = ask(self.slot, bytes.fromhex("8070000024") + asked + b"\x08")
        self._uncut()
        number = self.safe.next_number
        if not self.psam.powered:
            assert self.slot.power_on()
            self.psam_proved = False
            self.happened["PSAM torn"] += 1
        if told:
            assert told[-2:] == expected.to_bytes(2, "big")
        elif self.psam.next_transaction == number:
            expected = 0  # lost before it was stored
        if expected == 0x9000:
            self.safe = Safe(number + 1, self.safe.ceilings.after(fen))
        if not told or expected != 0x9000:
            self.happened["no MAC1"] += 1
            return None
        assert told[:4] == number.to_bytes(4, "big")
        return told[:8]

    def _credit(self, mac2: bytes, forged: bool) -> None:
        if not self.psam.powered or self.psam.purchase is None:
            return
        told = ask(self.slot, bytes.fromhex("8072000004") + (bytes(4) if forged else mac2))
        before = self.safe.ceilings
        after = before.missed() if forged else before.restored()
        expected = 0x9000 if not forged else 0x9302 if before.tries == 15 else 0x63C0 | after.tries
        assert told == expected.to_bytes(2, "big")
        self.safe = Safe(self.safe.next_number, after)

    @rule(count=st.integers(0, 6), fen=st.integers(0, 9_000), prove=st.integers(0, 3))
    def ceilings(self, count: int, fen: int, prove: int) -> None:
        """The owner visits the validator."""
        if prove:
            challenge = ask(self.slot, bytes.fromhex("0084000008"))[:8].ljust(self.suite.block, b"\0")
            proof = self.suite.encrypt(CONTROL, challenge)
            assert ask(self.slot, bytes([0, 0x82, 0, 0, len(proof)]) + proof) == b"\x90\x00"
            self.psam_proved = True
        start = bytes.fromhex("84E800000C") + count.to_bytes(4, "big") + fen.to_bytes(4, "big")
        challenge = ask(self.slot, bytes.fromhex("0084000004"))[:4]
        told = ask(self.slot, start + self.suite.mac(LINE, start, challenge)[:4])
        assert told == (b"\x90\x00" if self.psam_proved else b"\x69\x82")
        if self.psam_proved:
            self.safe = Safe(self.safe.next_number, Ceilings(count, fen))

    # Rules: the back office, and others

    @rule(mark=st.integers(0, 255), right=st.integers(0, 4), cut=CUTS)
    def update_file(self, mark: int, right: int, cut: Any) -> None:
        """A protected update; wrong MACs in a row lock the application for ever."""
        assume(right or self.known.line_tries > 1 or mark < 40)
        key = self.keys.line if right else bytes(16)
        told = self._protected("04D6951D", key, bytes([mark]), cut=cut)
        if not self._open(told, torn=True):
            return
        before = self.known
        good = replace(before, mark=mark, line_tries=MOST_TRIES)
        left = before.line_tries - 1
        bad = replace(before, line_tries=left, lock=before.lock if left else "LOCKED")
        after = good if right else bad
        if not told:
            found = self._found_again()
            assert found in (before, after, replace(before, line_tries=MOST_TRIES))
            self.known = found
            self.tap()
            return
        assert told == (b"\x90\x00" if right else b"\x69\x88" if left else b"\x93\x03")
        self.known = after
        self.happened["file updated" if right else "wrong MAC"] += 1

    @precondition(lambda self: self.known.lock != "LOCKED")
    @rule(block=st.integers(0, 7).map(lambda chance: not chance))
    def block_or_unblock(self, block: bool) -> None:
        block = block and self.known.lock == "OPEN"
        told = self._protected("841E0000" if block else "84180000", self.keys.line, b"")
        assert told == b"\x90\x00"
        self.known = replace(self.known, lock="BLOCKED" if block else "OPEN", line_tries=MOST_TRIES)
        self.happened["blocked" if block else "unblocked"] += 1

    @rule(noise=st.binary(min_size=2, max_size=20))
    def noise(self, noise: bytes) -> None:
        """Anything but a PIN or a selection."""
        assume(noise[1] not in (0x20, 0x5E, 0xA4, 0x24, 0x82) and not noise[0] & 0x04)
        told = ask(self.line, noise)
        assert len(told) >= 2

    @invariant()
    def memory_is_as_known(self) -> None:
        if not hasattr(self, "card"):
            return
        self.happened["steps"] += 1
        if not self.card.powered:
            self.tap()  # the power went right behind an answer
        assert self._found() == self.known
        value = sum(purse.raw_fen - purse.allowance_fen for purse in self.known.purses.values())
        assert value == self.loaded_fen - self.spent_fen, "money is neither made nor lost"
        assert (self.psam.next_transaction, self.psam.ceilings.value) == (self.safe.next_number, self.safe.ceilings)

    # How to talk

    @property
    def _key_id(self) -> int:
        return self.suite.offset + 1

    def _ask(self, head: str, data: bytes = b"", le: int | None = None) -> bytes:
        octets = bytes.fromhex(head) + (bytes([len(data)]) if data else b"") + data
        return ask(self.line, octets + (b"" if le is None else bytes([le])))

    def _protected(self, head: str, key: bytes, data: bytes, *, encipher: bool = False, cut: Any = None) -> bytes:
        challenge = self._ask("00840000", le=4)[:4]
        if encipher:
            data = bytes([len(data)]) + data
            data = self.suite.encrypt(key, iso_pad(data, self.suite.block) if len(data) % self.suite.block else data)
        start = bytes.fromhex(head) + bytes([len(data) + 4])
        self._cut(cut)
        told = self._ask(head, data + self.suite.mac(key, start + data, challenge)[:4])
        self._uncut()
        return told

    def _cut(self, cut: Any, line: Line | None = None, chip: Any = None) -> None:
        if cut is not None:
            (line or self.line).cut_after(cut[1] if cut[0] == "octets" else None)
            (chip or self.card).cut_after(cut[1] if cut[0] == "writes" else None)

    def _uncut(self) -> None:
        for line, chip in ((self.line, self.card), (self.slot, self.psam)):
            line.cut_after(None)
            chip.cut_after(None)

    def _disturb(self, between: str | None) -> bool:
        """Something between INITIALIZE and its end: the transaction is closed by it."""
        if between is None:
            return False
        ask(self.line, bytes.fromhex(between))
        return True

    def _open(self, told: bytes, torn: bool = False) -> bool:
        """Whether the application took the command at all; a locked or blocked one says so."""
        if self.known.lock == "OPEN":
            assert told or torn
            return True
        if not told and torn:
            return False
        assert told == (b"\x93\x03" if self.known.lock == "LOCKED" else b"\x6a\x81")
        return False

    def _came(self, told: bytes, closed: bool, forged: bool, short: bool, kind: int, counted: bytes) -> bool:
        """Whether the act happened: by its answer, or by the proof when there is none."""
        self._uncut()
        if not told:
            self.tap()
            proof = self._ask(f"805A00{kind:02X}", counted, 8)
            assert proof[-2:] in (b"\x90\x00", b"\x94\x06")
            assert not (closed or forged or short) or proof == b"\x94\x06"
            self.happened["torn"] += 1
            return len(proof) == 10
        expected = b"\x69\x01" if closed else b"\x93\x02" if forged else b"\x94\x01" if short else b"\x90\x00"
        assert told[-2:] == expected, (told.hex(), expected.hex())
        self.happened["refused at the end"] += expected != b"\x90\x00"
        return expected == b"\x90\x00"

    def _pin_command(self, apdu: bytes, presented: bytes, pin_after: bytes) -> None:
        told = ask(self.line, apdu)
        self._uncut()
        if not self._open(told, torn=True):
            return
        before, changing = self.known, apdu[1] == 0x5E
        right = presented == before.pin and before.tries > 0
        if not told:
            found = self._found_again()
            assert found.tries in (before.tries, before.tries - 1) or (right and found.tries == MOST_TRIES)
            assert found.pin == before.pin or (right and found.pin == pin_after and found.tries == MOST_TRIES)
            self.known = replace(before, tries=found.tries, pin=found.pin)
            self.tap()
            self.happened["PIN torn"] += 1
            return
        if not before.tries:
            assert told == b"\x69\x83"
        elif right:
            assert told == b"\x90\x00"
            self.known = replace(before, tries=MOST_TRIES, pin=pin_after)
            if not changing:
                self.verified, self.state = True, 1
            self.happened["PIN right"] += 1
        else:
            assert told == bytes([0x63, 0xC0 | before.tries - 1])
            self.known = replace(before, tries=before.tries - 1)
            self.verified, self.state = False, 0 if self.state == 1 else self.state
            self.happened["PIN wrong"] += 1

    def _count(self, act: str, lost: bool) -> None:
        self.happened[act + (", answer lost" if lost else "")] += 1

    def _purse_files(self) -> list[tuple[int, PurseFile]]:
        files = self._application().files.value
        return [(number, file) for number in (1, 2) if isinstance(file := files[number], PurseFile)]

    def _application(self) -> Any:
        return next(df for df in self.card.mf.applications() if df.fid == 0x3F01)

    def _found_again(self) -> Known:
        """What it holds after a tear, once power has finished what was decided."""
        assert self.line.power_on()
        return self._found()

    def _found(self) -> Known:
        """What the memory of the card holds."""
        df = self._application()
        files, pin = df.files.value, df.pins.value[0]
        common, log, metro, trips = (files[fid] for fid in (0x15, 0x18, 0x1A, 0x1E))
        assert isinstance(common, BinaryFile) and isinstance(log, RecordFile)
        purses = {}
        for number, file in self._purse_files():
            cell = file.purse.value
            purses[number] = Purse(cell.raw_fen, cell.allowance_fen, cell.online, cell.offline)
        return Known(
            purses=purses,
            log=tuple((line[9], _logged(line)) for line in log.records.value),
            metro=metro.records.value[0] if metro.records.value else None,
            trips=len(trips.records.value),
            mark=common.content.value[-1],
            pin=pin.pin,
            tries=pin.tries.left,
            lock=df.lock.value.name,
            line_tries=df.keys.value[0x36, 0].tries.left,
        )


def _logged(line: bytes) -> int:
    return int.from_bytes(line[2:5] if line[9] == 0x07 else line[5:9], "big")
