"""Personalisation: a script of `cardcore.script` run on one chip, resumable from its journal (D5).

Every hop to the card carries as much as the card can do without the authority: the end of one step and the challenge
for the next go together.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import CardIdentity, OverdraftRequest, PersonalisationAuthority, PsamIdentity
from cardcore.bcd import encode_moment
from cardcore.card_files import CommonData
from cardcore.commands import CreateDf, ExternalAuthenticate, GetChallenge, InitUpdate, Select, UpdateOverdraft
from cardcore.errors import CardError, FormatError, ReaderError
from cardcore.status import OK, explain
from cardcore.step import Authenticate, Compare, Plain, Secured, SetAllowance, Stage, Step, WriteKeyAct
from readers.pcsc.channel import CardTorn, Channel
from readers.pcsc.journal import Entry, Journal, Line, Progress, StepReport

ISSUING_TERMINAL = bytes(6)


@dataclass(frozen=True, slots=True)
class Job:
    """One chip to be made: who it becomes, its script, and the channel to the blank."""

    identity: CardIdentity | PsamIdentity
    profile: str
    steps: Sequence[Step]
    channel: Channel
    reader: str = "in-process"

    @property
    def chip(self) -> str:
        """Name of the chip in the journal."""
        if isinstance(self.identity, CardIdentity):
            return f"card {self.identity.card.hex()}"
        return f"PSAM {self.identity.terminal_number.hex()}"

    @property
    def script(self) -> str:
        """Digest (32 hex digits) of everything that the script says; what was begun by one script ends by it."""
        return hashlib.sha256(repr(tuple(self.steps)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Scrapped:
    """A chip that the script cannot finish: it refused a step. It is stock to be destroyed, the reason says why."""

    chip: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A chip that left its reader, or whose reader failed; the same job on the same chip resumes."""

    chip: str
    reason: str


class WrongChip(CardError):
    """The chip in the reader is not the one that the journal means. Nothing was changed, neither there nor here."""


def _nobody(_: Stage) -> None: ...


class Bench:
    """Where chips are personalised: an authority, a journal, an operator and a local clock."""

    def __init__(
        self, authority: PersonalisationAuthority, journal: Journal, operator: str, clock: Callable[[], datetime]
    ) -> None:
        self._authority = authority
        self._journal = journal
        self._operator = operator
        self._clock = clock

    async def personalise(self, job: Job, ended: Callable[[Stage], None] = _nobody) -> Scrapped | None:
        """Run what is left of the job's script; None when the chip is issued, also if it was before.

        `ended` is told each stage once it is in the journal. Raises CardTorn or ReaderError when the way to the chip
        breaks: the same call on the same chip resumes, and so it does after a cancelled call or a kill. Raises
        WrongChip before anything is changed.
        """
        entry = self._journal.find(job.chip)
        if entry is not None and entry.progress is Progress.ISSUED:
            return None
        if entry is not None and entry.progress is Progress.SCRAPPED:
            return Scrapped(job.chip, entry.reason)
        script = job.script
        await job.channel.reset()
        await _recognise(job, script, entry)
        if entry is None:
            await self._write(job, script, Progress.RUNNING)
        done = entry.done if entry else frozenset()
        last = job.steps[-1].stage
        for stage, steps in groupby(job.steps, key=lambda step: step.stage):
            if stage in done:
                continue
            run = _StageRun(job, self._authority, self._clock, probing=entry is not None)
            try:
                await run.perform(tuple(steps))
            except CardTorn:
                raise
            except CardError as error:
                await self._write(job, script, Progress.SCRAPPED, reason=str(error))
                return Scrapped(job.chip, str(error))
            progress = Progress.ISSUED if stage is last else Progress.RUNNING
            await self._write(job, script, progress, stage, run.reports)
            ended(stage)
        return None

    async def personalise_all(
        self, jobs: Iterable[Job], at_once: int = 16
    ) -> AsyncIterator[Job | Scrapped | Unfinished]:
        """Personalise many chips, some at a time; yields each as it ends: in = issued + scrapped + unfinished."""
        waiting = iter(jobs)
        running: set[asyncio.Task[Job | Scrapped | Unfinished]] = set()
        try:
            while True:
                while len(running) < at_once and (job := next(waiting, None)) is not None:
                    running.add(asyncio.create_task(self._one_of_many(job)))
                if not running:
                    return
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _one_of_many(self, job: Job) -> Job | Scrapped | Unfinished:
        try:
            return await self.personalise(job) or job
        except (CardTorn, WrongChip, ReaderError) as error:
            return Unfinished(job.chip, str(error))

    async def _write(
        self,
        job: Job,
        script: str,
        progress: Progress,
        stage: Stage | None = None,
        steps: Sequence[StepReport] = (),
        reason: str = "",
    ) -> None:
        line = Line(
            chip=job.chip,
            script=script,
            profile=job.profile,
            reader=job.reader,
            operator=self._operator,
            progress=progress,
            at=self._clock(),
            reason=reason,
            stage=stage,
            steps=steps,
        )
        await self._journal.write(line)


async def _recognise(job: Job, script: str, entry: Entry | None) -> None:
    """See that a new job has a blank before it, and a resumed one the chip that it began; raises WrongChip."""
    if entry is not None and entry.script != script:
        raise WrongChip(f"{job.chip} was begun with another order on {entry.begun_at:%Y-%m-%d}; repeat that order")
    first = _first_application(job.steps)
    if first is None or (entry is not None and Stage.STRUCTURE not in entry.done):
        return
    reply = (await job.channel.run([Select(first).apdu()])).last()
    if entry is None and reply.ok:
        raise WrongChip(f"the chip in the reader is no blank; nothing was changed, put a blank there for {job.chip}")
    if entry is not None and not (reply.ok and _may_be(job, Select(first).read(reply).common)):
        raise WrongChip(f"{job.chip} was begun on another chip; nothing was changed, put that one back")


def _first_application(steps: Sequence[Step]) -> bytes | None:
    for step in steps:
        if isinstance(step.act, Plain) and isinstance(step.act.command, CreateDf):
            return step.act.command.df_name
    return None


def _may_be(job: Job, common: bytes | None) -> bool:
    """Whether the common data that a chip shows, which are zeros until they are written, are those of the job."""
    try:
        shown = CommonData.decode(common or b"")
    except FormatError:
        return True
    return isinstance(job.identity, CardIdentity) and shown.card == job.identity.card


class _StageRun:
    """One stage on one chip. Commands wait until an answer is needed, then go in one hop."""

    def __init__(
        self, job: Job, authority: PersonalisationAuthority, clock: Callable[[], datetime], probing: bool
    ) -> None:
        self._job = job
        self._authority = authority
        self._clock = clock
        self._probing = probing
        self._waiting: list[tuple[Step, CommandApdu]] = []
        self.reports: list[StepReport] = []

    async def perform(self, steps: Sequence[Step]) -> None:
        """Raises CardError at the first step that the card refuses, CardTorn when it falls silent."""
        for step in steps:
            if self._probing and step.probe is not None and await self._has_been_done(step):
                self.reports.append(StepReport(step.id, OK, already=True))
            else:
                await self._do(step)
        await self._flush()

    async def _do(self, step: Step) -> None:
        match step.act:
            case Plain(command):
                self._waiting.append((step, command.apdu()))
            case Compare(command, expected):
                answer = await self._ask(command.apdu())
                self._compare(step, answer, expected)
            case SetAllowance():
                await self._set_allowance(step, step.act)
            case act:
                challenge = GetChallenge().read(await self._ask(GetChallenge().apdu()))
                self._waiting.append((step, await self._protected(act, challenge)))

    async def _protected(self, act: Authenticate | WriteKeyAct | Secured, challenge: bytes) -> CommandApdu:
        identity, authority = self._job.identity, self._authority
        match act:
            case Authenticate(application, under):
                cryptogram = await authority.authenticate(identity, application, under, challenge)
                return ExternalAuthenticate(cryptogram).apdu()
            case WriteKeyAct(key):
                return CommandApdu.decode(await authority.write_key(identity, key, challenge))
            case Secured(application, command):
                raw = await authority.secure(identity, application, command.apdu().encode(), challenge)
                return CommandApdu.decode(raw)

    async def _has_been_done(self, step: Step) -> bool:
        """Ask the step's probe; its refusal is an answer, not an error."""
        if isinstance(step.probe, Compare):
            answer = await self._ask(step.probe.command.apdu())
            return answer.ok and answer.data == step.probe.expected
        assert step.probe is not None
        challenge = GetChallenge().read(await self._ask(GetChallenge().apdu()))
        return (await self._ask(await self._protected(step.probe, challenge))).ok

    async def _set_allowance(self, step: Step, act: SetAllowance) -> None:
        assert isinstance(self._job.identity, CardIdentity)
        opening = InitUpdate(act.key_index, ISSUING_TERMINAL)
        opened = opening.read(await self._ask(opening.apdu()))
        if self._probing and opened.overdraft_fen == act.limit_fen:
            self.reports.append(StepReport(step.id, OK, already=True))
            return
        date, time = encode_moment(self._clock())
        mac2 = await self._authority.set_overdraft(
            OverdraftRequest(
                identity=self._job.identity,
                terminal_number=ISSUING_TERMINAL,
                purse=act.application,
                key_suite=act.key_suite,
                limit_fen=act.limit_fen,
                old_limit_fen=opened.overdraft_fen,
                raw_balance_fen=opened.raw_balance_fen,
                counter=opened.counter,
                random=opened.random,
                mac1=opened.mac1,
                date=date,
                time=time,
            )
        )
        self._waiting.append((step, UpdateOverdraft(act.limit_fen, date, time, mac2).apdu()))

    def _compare(self, step: Step, answer: ResponseApdu, expected: bytes) -> None:
        if not answer.ok or answer.data != expected:
            raise CardError(
                f"{step.id}: read back {answer.data.hex() or 'nothing'} ({answer.sw:04X}), not what was written"
            )
        self.reports.append(StepReport(step.id, answer.sw, already=False))

    async def _ask(self, command: CommandApdu) -> ResponseApdu:
        """Send what waits and then this command, in one hop where the card agrees; give the answer to this one."""
        while True:
            waiting = self._waiting
            answers = await self._send([*(sent for _, sent in waiting), command])
            if len(answers) > len(waiting):
                return answers[-1]

    async def _flush(self) -> None:
        while self._waiting:
            await self._send([sent for _, sent in self._waiting])

    async def _send(self, commands: Sequence[CommandApdu]) -> Sequence[ResponseApdu]:
        """One hop; what of the waiting commands was answered is checked and no longer waits."""
        waiting, self._waiting = self._waiting, []
        replies = await self._job.channel.run(commands)
        self._note(waiting, replies.answers)
        if replies.torn:
            raise CardTorn(f"{self._job.chip} left the reader; put the same chip back, the script resumes")
        self._waiting = waiting[len(replies.answers) :]
        return replies.answers

    def _note(self, sent: Sequence[tuple[Step, CommandApdu]], answers: Sequence[ResponseApdu]) -> None:
        for (step, _), answer in zip(sent, answers, strict=False):
            already = answer.sw in step.settled
            if not answer.ok and not already:
                raise CardError(f"{step.id}: {explain(_name(step), answer.sw)}")
            self.reports.append(StepReport(step.id, answer.sw, already))


def _name(step: Step) -> str:
    match step.act:
        case Plain(command) | Secured(_, command) | Compare(command, _):
            return command.name
        case Authenticate():
            return ExternalAuthenticate.name
        case SetAllowance():
            return UpdateOverdraft.name
        case WriteKeyAct():
            return "WRITE KEY"
