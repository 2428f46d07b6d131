"""A tap at a metro gate: entry and exit as composite purchases (docs/card.md, "Metro and transfer"; threat T6).

The entry record carries the counter of its own debit and a MAC of the gate's PSAM under the entry key. An exit has the
PSAM make that MAC again, and `cardcore.metro.judge_entry` decides what the entry is worth before anything is priced.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cardcore.authority import CardIdentity
from cardcore.bcd import encode_moment
from cardcore.card_files import MetroRecord, MetroState
from cardcore.card_files.composite import METRO_ID
from cardcore.card_map import Sfi, card_factor, city_factor
from cardcore.commands import ReadObject, UpdateComposite
from cardcore.commands.psam import Crypt, InitDescrypt, ordered_factors
from cardcore.cryptogram import composite_mac_input
from cardcore.errors import CardError, FormatError
from cardcore.metro import ENTRY_KEY_ID, ENTRY_USAGE, EntryFinding, judge_entry
from cardcore.record import Suite
from cardcore.switches import DEFAULTS, Switches
from readers.pcsc.ask import ask, identify
from readers.pcsc.budget import Budget
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.debit import Debit, Opened, Purchase, debit_opened_by, initialise

Pricing = Callable[[EntryFinding, MetroRecord], int]
"""The fare, fen. The record is as the card shows it where the entry is genuine, or unguarded and so for the operator's
policy to judge; of any other it has no entry, so that no fare can be taken from what was not believed."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a tap is: line, station, the PSAM's terminal number (6 bytes), and which purse pays by which key.

    `longest`: the network's longest journey. `alone` says of a card that its purse pays transit and nothing else; it
    goes by issuer and serial, which the keys prove.
    """

    line: int
    station: int
    terminal_number: bytes
    purse: int
    suite: Suite
    key_index: int
    longest: timedelta
    alone: Callable[[CardIdentity], bool]
    switches: Switches = DEFAULTS


@dataclass(frozen=True, slots=True)
class Passage:
    """A tap at a gate: its debit, the record that changed with it or not at all, and of an exit what the entry was."""

    debit: Debit
    record: MetroRecord
    finding: EntryFinding | None = None


@dataclass(slots=True)
class _Tap:
    """One tap while it is opened; what the debit opened last is what counts."""

    gate: Gate
    now: datetime
    record: MetroRecord = field(default_factory=MetroRecord)
    finding: EntryFinding | None = None

    def purchase(self, fare_fen: int) -> Purchase:
        gate = self.gate
        moment = encode_moment(self.now)
        return Purchase(fare_fen, gate.purse, gate.suite, gate.key_index, gate.terminal_number, *moment, composite=True)

    async def identified(self, card: Channel, psam: Channel, budget: Budget) -> CardIdentity:
        """Whose card it is; its entry key is selected in the PSAM."""
        gate = self.gate
        with budget.at("reading the card"):
            identity = await identify(card, gate.purse, gate.suite, gate.switches.blocked_select)
        order, of_card = gate.switches.psam_factor_order, card_factor(identity.card)
        with budget.at(InitDescrypt.name):
            factors = ordered_factors(order, of_card, city_factor(identity.issuer))
            await ask(psam, InitDescrypt(ENTRY_USAGE, ENTRY_KEY_ID, factors))
        return identity

    async def mac(self, psam: Channel, identity: CardIdentity, record: MetroRecord, budget: Budget) -> bytes:
        with budget.at(Crypt.name):
            return await ask(psam, Crypt(composite_mac_input(identity.card, self.gate.purse, record.encode())))

    async def guarded(self, psam: Channel, opened: Opened, record: MetroRecord, budget: Budget) -> Opened:
        """The debit with the record under the counter that INITIALIZE has answered, and its MAC."""
        counted = replace(record, counter=opened.answer.counter, mac=bytes(8))
        self.record = replace(counted, mac=await self.mac(psam, opened.identity, counted, budget))
        cached = UpdateComposite(Sfi.COMPOSITE, METRO_ID, self.record.encode())
        return replace(opened, wanted=replace(opened.wanted, records=(cached,)))


async def enter(channel: Channel, sam: Channel, gate: Gate, now: datetime, budget: Budget | None = None) -> Passage:
    """An entry: 0 fen, and a guarded entry record. `now` is local wall-clock time; errors as of `debit`."""
    tap = _Tap(gate, now)

    async def opening(card: Channel, psam: Channel, budget: Budget) -> Opened:
        identity = await tap.identified(card, psam, budget)
        wanted = tap.purchase(0)
        opened = Opened(identity, await initialise(card, wanted, budget), wanted)
        record = MetroRecord(MetroState.IN, gate.line, gate.station, now, gate.terminal_number)
        return await tap.guarded(psam, opened, record, budget)

    return Passage(await debit_opened_by(opening, channel, sam, budget, gate.switches), tap.record)


async def leave(
    channel: Channel, sam: Channel, gate: Gate, now: datetime, pricing: Pricing, budget: Budget | None = None
) -> Passage:
    """An exit: the entry is judged, then priced, and the exited record is written with the fare; errors as of `debit`.

    An entry that is not genuine is not written on: no gate guards what it did not believe.
    """
    tap = _Tap(gate, now)

    async def opening(card: Channel, psam: Channel, budget: Budget) -> Opened:
        identity = await tap.identified(card, psam, budget)
        with budget.at(ReadObject.name):
            entry = await _entry(card)
        mac = await tap.mac(psam, identity, entry, budget)

        def judged(counter: int) -> EntryFinding:
            alone = gate.alone(identity)
            return judge_entry(entry, mac, counter, alone=alone, now=now, longest=gate.longest)

        # As if the card had moved on by nothing but the entry: INITIALIZE tells, and wants a fare first.
        finding = judged(entry.counter + 1)
        wanted = tap.purchase(pricing(finding, _believed(finding, entry)))
        answer = await initialise(card, wanted, budget)
        if judged(answer.counter) is not finding:
            finding = judged(answer.counter)
            wanted = tap.purchase(pricing(finding, _believed(finding, entry)))
            answer = await initialise(card, wanted, budget)
        tap.finding = finding
        record = replace(
            entry if finding is EntryFinding.GENUINE else MetroRecord(),
            state=MetroState.EXITED,
            exit_line=gate.line,
            exit_station=gate.station,
            exit_at=now,
            fare_fen=wanted.amount_fen,
        )
        return await tap.guarded(psam, Opened(identity, answer, wanted), record, budget)

    return Passage(await debit_opened_by(opening, channel, sam, budget, gate.switches), tap.record, tap.finding)


def _believed(finding: EntryFinding, entry: MetroRecord) -> MetroRecord:
    return entry if finding in (EntryFinding.GENUINE, EntryFinding.UNGUARDED) else MetroRecord()


async def _entry(card: Channel) -> MetroRecord:
    """The metro record of the selected application; an empty one where the card has none that can be read."""
    try:
        return MetroRecord.decode(await ask(card, ReadObject(Sfi.COMPOSITE, METRO_ID)))
    except CardTorn:
        raise
    except (CardError, FormatError):
        return MetroRecord()
