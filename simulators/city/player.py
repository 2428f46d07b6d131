"""Plays a plan: taps by real APDUs at their place in time, desk steps handed to the front door, records and batch
bodies made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

from simulators.city.facts import (
    ActResult,
    Copying,
    Delivery,
    DeskResult,
    DeskStep,
    LoadResult,
    Manner,
    Plan,
    ReplacementResult,
    ReportResult,
    Seal,
    Sent,
    Tap,
    TimelineItem,
)
from simulators.city.records import CHINA, Kind, TapRecord, bcd_instant, encode, frame
from simulators.city.validators import Card, CityBroken, Psam, Validator

SLACK = timedelta(seconds=120)
"""How far the desk's clock may be from a step's instant; taps of one card are further apart."""
SIDE_BY_SIDE = timedelta(seconds=60)


class Player:
    """`cards` by serial and `psams` by terminal number, all personalised. One thread plays; another may report what was
    done meanwhile.

        player = Player(plan, cards, psams)
        uploader = Uploader(plan, player, base_url, directory=out, counter=counter)
        for day in plan.dates:
            for steps in player.steps(day):
                for step in steps:
                    player.done(step, front_door(step))
            uploader.day(day)

    `deliver` is called with the request that carries an act's record as soon as the act is done, because an act expires
    after 120 s; an Uploader puts itself there. What was delivered so is left out of the evening's uploads.
    """

    def __init__(
        self,
        plan: Plan,
        cards: Mapping[str, Card],
        psams: Mapping[str, Psam],
        deliver: Callable[[Delivery], None] | None = None,
    ) -> None:
        self.deliver = deliver
        self._plan, self._cards = plan, cards
        self._validators = {d.psam: Validator(d, psams[d.psam]) for d in plan.devices if not d.online}
        self._clones: dict[str, Card] = {}
        self._versions: dict[int, int] = {}
        self._waiting: dict[int, DeskStep] = {}
        self._in_hand: frozenset[str] = frozenset()
        self._records: dict[int, bytes] = {}
        self._rng = Random(f"{plan.seed}/forgeries")
        self.delivered: set[int] = set()
        self._act_requests = {
            s.id: d
            for requests in plan.deliveries.values()
            for d in requests
            for s in d.batch.sents
            if s.kind is Kind.ACT
        }

    def steps(self, day: date) -> Iterator[tuple[DeskStep, ...]]:
        """The day in order of time: taps by itself, and yields the desk steps between them. Steps of one tuple are
        loads within a minute, which may be done side by side, those of one card in their order.

        Nobody has to wait for the desk: asked on at once, it plays what follows without the cards in hand there. When
        it can go on no more it yields an empty tuple, and all that was handed out must be done before it is asked
        again.

        Raises CityBroken when `done` was not called for each, or a card or PSAM disagrees with the plan."""
        side_by_side: list[DeskStep] = []
        for item in self._plan.timeline[day]:
            step = _desk_step(item)
            if side_by_side and not _goes_with(step, side_by_side):
                yield from self._hand_out(side_by_side)
                side_by_side = []
            if step is not None:
                side_by_side.append(step)
            elif isinstance(item, Copying | Tap):
                if self._needs_the_desk(item):
                    yield from self._catch_up()
                self._play(item)
        if side_by_side:
            yield from self._hand_out(side_by_side)
        yield from self._catch_up()

    def _hand_out(self, steps: Sequence[DeskStep]) -> Iterator[tuple[DeskStep, ...]]:
        yield from self._catch_up()
        self._waiting = {id(step): step for step in steps}
        self._in_hand = frozenset(serial for step in steps for serial in (step.card, step.new_card))
        yield tuple(steps)

    def _catch_up(self) -> Iterator[tuple[DeskStep, ...]]:
        if self._waiting:
            yield ()
        for left in self._waiting.values():
            raise CityBroken(f"the desk step {left.kind} of card {left.card} was not reported as done")

    def _needs_the_desk(self, item: Copying | Tap) -> bool:
        """Whether the card is in hand at the desk, or the device's denylist is one that the desk is still writing."""
        reported = item.list_of if isinstance(item, Tap) else None
        return item.card.serial in self._in_hand or id(reported) in self._waiting

    def done(self, step: DeskStep, result: DeskResult) -> None:
        """Takes the front door's result: LoadResult (None for a cut load), ActResult, ReportResult or
        ReplacementResult.

        Raises CityBroken when it is not what was planned."""
        if self._waiting.get(id(step)) is not step:
            raise CityBroken(f"the desk step {step.kind} of card {step.card} is not one that is waited for")
        if isinstance(result, ReportResult) and step.kind == "report":
            self._versions[id(step)] = result.list_version
        elif isinstance(result, ReplacementResult) and step.kind == "replacement":
            _agree(step, "the value to be moved", step.amount_fen, result.load_fen)
            for purse in sorted(step.values.keys() | result.values.keys()):
                answered = result.values.get(purse, 0)
                _agree(step, f"the value of the old card's purse {purse}", step.values.get(purse, 0), answered)
        elif isinstance(result, LoadResult) and step.kind == "load" and step.cut is None:
            self._load(step, result)
        elif isinstance(result, ActResult) and step.kind == "act":
            self._act(step, result)
        elif result is not None or step.cut is None:
            raise CityBroken(f"{step.kind} of card {step.card}: {type(result).__name__} is no result of this step")
        del self._waiting[id(step)]

    def validator(self, psam: str) -> Validator:
        """The validator with the PSAM of this number."""
        return self._validators[psam]

    def body(self, delivery: Delivery) -> bytes:
        """The request body of a delivery, as its device sends it."""
        batch = delivery.batch
        records = [self._records[s.id] for s in batch.sents]
        whole = frame(batch.device.terminal, 1, batch.sents[0].sequence, records, batch.device.media)
        return whole[: len(whole) - 60] if delivery.cut_short else whole

    def memories(self) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
        """cards.json: every card's purses as they are now (docs/demo.md)."""
        return {
            planned.serial: {
                "purses": {
                    str(number): {"balance_fen": p.balance_fen, "offline": p.offline, "online": p.online}
                    for number, p in sorted(self._cards[planned.serial].purses().items())
                }
            }
            for planned in self._plan.cards
        }

    def _play(self, item: Copying | Tap) -> None:
        if isinstance(item, Copying):
            self._clones[item.card.serial] = self._cards[item.card.serial].clone()
        else:
            self._tap(item)

    def _tap(self, tap: Tap) -> None:
        serial = tap.card.serial
        card = self._clones[serial] if tap.manner is Manner.ON_CLONE else self._cards[serial]
        validator = self._validators[tap.device.psam]
        record = validator.tap(card, tap, self._versions[id(tap.list_of)] if tap.list_of else 0)
        if record.terminal_transaction != tap.terminal_transaction:
            raise CityBroken(
                f"PSAM {tap.device.psam} numbered a purchase {record.terminal_transaction}, "
                f"the plan {tap.terminal_transaction}: it was used outside the plan"
            )
        for sent in tap.sents:
            self._records[sent.id] = self._written(sent, record, validator)

    def _written(self, sent: Sent, record: TapRecord, validator: Validator) -> bytes:
        """The bytes of one record as sent: honest, altered after sealing, replayed or forged."""
        record = record._replace(sequence=sent.sequence)
        if sent.forged:
            validator = self._validators[sent.device.psam]
            stamp = bcd_instant(sent.at)
            record = record._replace(
                terminal=sent.device.terminal, terminal_number=bytes.fromhex(sent.device.psam), date=stamp[:4],
                time=stamp[4:],
                operator=sent.device.operator, terminal_transaction=900000 + self._rng.randrange(90000),
                line=sent.device.line, station=sent.device.station,
            )  # fmt: skip
        if sent.bad_tac:
            wrong = bytes(octet ^ 0xFF for octet in record.cryptogram[:4])
            record = record._replace(cryptogram=wrong + bytes(4))
        if sent.replayed == "counter":
            record = record._replace(counter=record.counter + 7)
        if sent.altered or sent.replayed == "terminal":
            moved: dict[str, Any] = {"sequence": record.sequence + 1, "epoch": record.epoch + 1}
            sealed = validator.seal(record._replace(**{n: v for n, v in moved.items() if n == sent.altered}))
            return encode(_altered(sent, record))[:120] + sealed[120:]
        return validator.seal(record) if sent.seal is Seal.GOOD else encode(record)

    def _load(self, step: DeskStep, r: LoadResult) -> None:
        tap = step.tap
        assert tap is not None
        _on_time(step, r.date + r.time)
        _agree(step, "the value", tap.balance_before_fen, r.raw_balance - r.overdraft_fen)
        _agree(step, "the online counter", tap.counter, r.counter)
        record = self._online(tap, r.date, r.time, r.suite, r.key_version, r.key_index)._replace(
            counter=r.counter, cryptogram=r.tac + bytes(4), balance_before_fen=r.raw_balance - r.overdraft_fen,
            overdraft_fen=r.overdraft_fen,
        )  # fmt: skip
        for sent in tap.sents:
            self._records[sent.id] = encode(record._replace(sequence=sent.sequence))

    def _act(self, step: DeskStep, r: ActResult) -> None:
        tap = step.tap
        assert tap is not None
        _on_time(step, r.date + r.time)
        record = self._online(tap, r.date, r.time, r.suite, r.key_version, r.key_index)
        for sent in tap.sents:
            whole = record._replace(sequence=sent.sequence, cryptogram=r.cryptogram, act_id=r.act_id)
            self._records[sent.id] = encode(whole)
            request = self._act_requests[sent.id]
            if self.deliver is not None:
                self.deliver(request)
                self.delivered.add(id(request))

    def _online(self, tap: Tap, day: bytes, time: bytes, suite: int, key_version: int, key_index: int) -> TapRecord:
        device = tap.device
        return TapRecord(
            kind=tap.kind, suite=suite, key_version=key_version, key_index=key_index, purse=tap.purse,
            issuer=bytes.fromhex(tap.card.issuer), card=bytes.fromhex(tap.card.serial), counter=0,
            amount_fen=tap.amount_fen,
            transaction_type=tap.transaction_type, terminal_number=bytes.fromhex(device.psam), date=day, time=time,
            balance_before_fen=0, overdraft_fen=0, terminal=device.terminal, epoch=1, sequence=0,
            concession=tap.card.card_class,
            full_fare_fen=tap.full_fare_fen, operator=device.operator,
        )  # fmt: skip


def _altered(sent: Sent, record: TapRecord) -> TapRecord:
    """The record after the seal: one claim changed, or brought to another terminal."""
    name = sent.altered
    if name in ("sequence", "epoch"):
        return record  # A gap-free store needs the true ones, so these differ under the seal.
    if name == "terminal" or sent.replayed == "terminal":
        return record._replace(terminal=sent.device.terminal)
    assert name is not None
    value: int = getattr(record, name)
    changed = {
        "kind": Kind.TORN, "flags": 1, "generation": 1, "concession": 1 + value % 3,
        "operator": 103 if value != 103 else 104, "balance_before_fen": value - 100,
        "key_index": value & 0x10 | value % 3 + 1,
    }.get(name, value + 1)  # fmt: skip
    claim: dict[str, Any] = {name: changed}
    return record._replace(**claim)


def _goes_with(step: DeskStep | None, others: Sequence[DeskStep]) -> bool:
    """Whether a step may be done side by side with others: loads within a minute."""
    if step is None or step.kind != "load":
        return False
    return others[0].kind == "load" and step.instant - others[0].instant <= SIDE_BY_SIDE


def _desk_step(item: TimelineItem) -> DeskStep | None:
    """The desk step that a load, an act or the plan itself asks for; None for what is none."""
    if isinstance(item, DeskStep):
        return item
    if not isinstance(item, Tap) or item.kind not in (Kind.LOAD, Kind.ACT):
        return None
    tap, card, device = item, item.card, item.device
    return DeskStep(
        kind="load" if tap.kind is Kind.LOAD else "act", instant=tap.at, card=card.serial, purse=tap.purse,
        terminal=device.terminal,
        terminal_number=device.psam, sector=device.sector, issuer=card.issuer, suite=card.suite,
        key_index=tap.key_index,
        amount_fen=tap.amount_fen, channel=tap.channel, transaction_type=tap.transaction_type, split=tap.split,
        cut=tap.cut,
        expects_fen=tap.balance_before_fen, expects_counter=tap.counter, tap=tap,
    )  # fmt: skip


def _on_time(step: DeskStep, stamp: bytes) -> None:
    said = datetime.strptime(stamp.hex(), "%Y%m%d%H%M%S").replace(tzinfo=CHINA)
    if abs(said - step.instant) > SLACK:
        raise CityBroken(
            f"{step.kind} of card {step.card}: the desk dated it {said}, the plan {step.instant.astimezone(CHINA)}"
        )


def _agree(step: DeskStep, what: str, planned: int, answered: int) -> None:
    if planned != answered:
        raise CityBroken(
            f"{step.kind} of card {step.card} purse {step.purse}: {what} is {answered}, in the plan {planned}"
        )
