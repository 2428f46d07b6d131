"""Runs a personalisation script of `cardcore.script` on a chip object, with the keys of a TEST store."""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import CardIdentity, OverdraftRequest, PersonalisationAuthority, PsamIdentity, Under
from cardcore.commands import (
    Command,
    EraseDf,
    ExternalAuthenticate,
    GetChallenge,
    InitUpdate,
    Select,
    UpdateInitialisation,
    UpdateOverdraft,
    WriteKey,
)
from cardcore.errors import CardError
from cardcore.record import Suite
from cardcore.script import Authenticate, Compare, Plain, Secured, SetAllowance, Stage, Step, TakeOver, WriteKeyAct

MF = bytes.fromhex("3F00")
COUNTER_NUMBER = bytes.fromhex("00000001ADB1")
DATE, TIME = bytes.fromhex("20260302"), bytes.fromhex("081530")


class Chip(Protocol):
    def power_on(self) -> bytes: ...

    def transmit(self, apdu: bytes) -> bytes: ...


class TornError(Exception):
    """The chip fell silent."""


@dataclass
class Issuer:
    """One chip on the way from blank to issued; `apdus` counts what was sent."""

    chip: Chip
    authority: PersonalisationAuthority
    identity: CardIdentity | PsamIdentity
    apdus: int = 0
    done: list[str] = field(default_factory=list)

    async def run(self, script: tuple[Step, ...]) -> None:
        """All stages; one that is torn is repeated, with its probes, after a reset, as readers do."""
        for _, group in groupby(script, key=lambda step: step.stage):
            stage, repeated = tuple(group), False
            while not await self._stage(stage, repeated):
                self.chip.power_on()
                repeated = True

    async def _stage(self, stage: tuple[Step, ...], repeated: bool) -> bool:
        try:
            if repeated and not any(isinstance(step.act, TakeOver) for step in stage):
                self._ask(Select(MF))
                await self._act(Step("ours", Stage.ISSUE, 0, Authenticate(0, Under.CONTROL)))
            for step in stage:
                # A chip that proves our 39.00 of its MF was taken over before.
                probe = Authenticate(0, Under.CONTROL) if isinstance(step.act, TakeOver) else step.probe
                if not (repeated and probe and await self._probe(probe)):
                    await self._act(step, step.settled if repeated else frozenset())
                self.done.append(step.id)
        except TornError:
            return False
        return True

    async def _probe(self, probe: Authenticate | Compare) -> bool:
        try:
            await self._act(Step("probe", Stage.ISSUE, 0, probe))
        except CardError:
            return False
        return True

    async def _act(self, step: Step, settled: frozenset[int] = frozenset()) -> None:
        match step.act:
            case Plain(command):
                self._ask(command, settled)
            case Authenticate(application, under):
                answer = await self.authority.authenticate(self.identity, application, under, self._challenge())
                self._ask(ExternalAuthenticate(answer))
            case TakeOver(key):
                await self._act(Step("open", step.stage, 0, Authenticate(0, Under.TRANSPORT)))
                self._ask(EraseDf())
                await self._act(Step("ours", step.stage, 0, WriteKeyAct(key)))
            case WriteKeyAct(key):
                written = await self.authority.write_key(self.identity, key, self._challenge())
                self._ask(WriteKey(written), settled)
            case Secured(application, plain):
                raw = await self.authority.secure(self.identity, application, plain.apdu().encode(), self._challenge())
                plain.read(self._send(CommandApdu.decode(raw)))
            case SetAllowance():
                await self._allow(step.act)
            case Compare(command, expected):
                response = self._send(command.apdu())
                command.read(response)
                if response.data != expected:
                    raise CardError(f"{step.id}: {response.data.hex()}, not {expected.hex()}")

    async def _allow(self, act: SetAllowance) -> None:
        assert isinstance(self.identity, CardIdentity)
        command = InitUpdate(act.key_index, COUNTER_NUMBER)
        opened: UpdateInitialisation = command.read(self._send(command.apdu()))
        mac2 = await self.authority.set_overdraft(
            OverdraftRequest(
                identity=self.identity,
                terminal_number=COUNTER_NUMBER,
                purse=act.application,
                key_suite=Suite(opened.algorithm),
                limit_fen=act.limit_fen,
                old_limit_fen=opened.overdraft_fen,
                raw_balance_fen=opened.raw_balance_fen,
                counter=opened.counter,
                random=opened.random,
                mac1=opened.mac1,
                date=DATE,
                time=TIME,
            )
        )
        self._ask(UpdateOverdraft(act.limit_fen, DATE, TIME, mac2))

    def _challenge(self) -> bytes:
        command = GetChallenge()
        return command.read(self._send(command.apdu()))

    def _ask(self, command: Command[object], settled: frozenset[int] = frozenset()) -> None:
        response = self._send(command.apdu())
        if response.sw not in settled:
            command.read(response)

    def _send(self, apdu: CommandApdu) -> ResponseApdu:
        self.apdus += 1
        raw = self.chip.transmit(apdu.encode())
        if len(raw) < 2:
            raise TornError
        return ResponseApdu.decode(raw)
