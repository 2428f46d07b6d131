"""One stage of a script on one chip.

Every hop to the card carries as much as the card can do without the authority: the end of one step and the challenge
for the next go together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import (
    CardIdentity,
    KeyStep,
    OverdraftRequest,
    PersonalisationAuthority,
    ProtectedAnswer,
    ProtectRequest,
    Under,
    UpkeepAuthority,
)
from cardcore.bcd import encode_moment
from cardcore.card_map import MF_FID
from cardcore.commands import (
    Command,
    EraseDf,
    ExternalAuthenticate,
    GetChallenge,
    InitUpdate,
    ProtectedRead,
    ProtectedWrite,
    Select,
    UpdateOverdraft,
)
from cardcore.errors import CardError, FormatError, RefusedError
from cardcore.status import OK, explain
from cardcore.step import (
    Authenticate,
    Compare,
    CompareSecured,
    Plain,
    Secured,
    SetAllowance,
    Step,
    TakeOver,
    WriteKeyAct,
)
from readers.pcsc.channel import CardTorn
from readers.pcsc.job import Job, WrongChip
from readers.pcsc.journal import StepReport

ISSUING_TERMINAL = bytes(6)


class StageRun:
    """One stage on one chip. Commands wait until an answer is needed, then go in one hop."""

    def __init__(
        self,
        job: Job,
        authority: PersonalisationAuthority,
        upkeep: UpkeepAuthority | None,
        clock: Callable[[], datetime],
        probing: bool,
    ) -> None:
        """`upkeep` may be None where no file of the script is enciphered."""
        self._job = job
        self._authority = authority
        self._upkeep = upkeep
        self._clock = clock
        self._probing = probing
        self._waiting: list[tuple[Step, CommandApdu]] = []
        self.reports: list[StepReport] = []

    async def perform(self, steps: Sequence[Step]) -> None:
        """Raises CardError at the first step that the card refuses, CardTorn when it falls silent, and WrongChip when
        a repeated stage meets a chip that is not the job's."""
        if self._probing and not any(isinstance(step.act, TakeOver) for step in steps):
            await self._select_ours()
        for step in steps:
            if self._probing and step.probe is not None and await self._has_been_done(step):
                self.reports.append(StepReport(step.id, OK, already=True))
                continue
            await self._do(step)
        await self._flush()

    async def _do(self, step: Step) -> None:
        match step.act:
            case Plain(command):
                self._waiting.append((step, command.apdu()))
            case Compare(command, expected):
                answer = await self._ask(command.apdu())
                self._compare(step, answer.data if answer.ok else b"", answer.sw, expected)
            case CompareSecured(application, command, expected):
                found, sw = await self._revealed(application, command)
                self._compare(step, found, sw, expected)
            case SetAllowance():
                await self._set_allowance(step, step.act)
            case TakeOver(key):
                await self._take_over(step, key)
            case act:
                protected = await self._protected(act, await self._challenge())
                self._waiting.append((step, protected))

    async def _challenge(self) -> bytes:
        return GetChallenge().read(await self._ask(GetChallenge().apdu()))

    async def _protected(self, act: Authenticate | WriteKeyAct | Secured, challenge: bytes) -> CommandApdu:
        identity, authority = self._job.identity, self._authority
        match act:
            case Authenticate(application, under):
                cryptogram = await authority.authenticate(identity, application, under, challenge)
                return ExternalAuthenticate(cryptogram).apdu()
            case WriteKeyAct(key):
                return CommandApdu.decode(await authority.write_key(identity, key, challenge))
            case Secured(application, command, enciphered=True):
                raw = await self._enciphered(application, command, challenge)
                return ProtectedWrite(command, raw).apdu()
            case Secured(application, command):
                raw = await authority.secure(identity, application, command.apdu().encode(), challenge)
                return CommandApdu.decode(raw)

    async def _select_ours(self) -> None:
        """Whoever resumes a script has the chip prove that it was taken over: what it holds is ours then, and so are
        the rights in its MF that the rest of the script needs."""
        await self._ask(Select(MF_FID.to_bytes(2, "big")).apdu())
        if not (await self._prove(Under.CONTROL)).ok:
            raise WrongChip(
                f"{self._job.chip} was begun on another chip: this one does not prove its first key; nothing was "
                "changed, put that one back"
            )

    async def _take_over(self, step: Step, key: KeyStep) -> None:
        if self._probing and (await self._prove(Under.CONTROL)).ok:
            self.reports.append(StepReport(step.id, OK, already=True))
            return
        opened = await self._prove(Under.TRANSPORT)
        if self._probing and not opened.ok:
            raise WrongChip(
                f"{self._job.chip} was begun on another chip, and this one is no blank: it opens by neither key; "
                "nothing was changed, put that one back, or a blank"
            )
        self._note(replace(step, id=f"{step.id}.open", act=Authenticate(0, Under.TRANSPORT)), opened)
        # Nothing may come between the erasing and our key, or somebody could plant anew what is gone.
        erasing = Plain(EraseDf())
        self._waiting.append((replace(step, id=f"{step.id}.erase", act=erasing), erasing.command.apdu()))
        ours = await self._protected(WriteKeyAct(key), await self._challenge())
        self._waiting.append((step, ours))

    async def _prove(self, under: Under) -> ResponseApdu:
        """EXTERNAL AUTHENTICATE in the MF; a wrong try is made good by the next right one."""
        return await self._ask(await self._protected(Authenticate(0, under), await self._challenge()))

    async def _enciphered(self, application: int, command: Command[object], challenge: bytes) -> bytes:
        """A command on an enciphered file, as the upkeep of the keys protects it."""
        assert self._upkeep is not None
        plain = command.apdu()
        sent = replace(plain, le=None).encode()
        return await self._upkeep.protect(
            ProtectRequest(self._job.identity, application, sent, challenge, enciphered=True)
        )

    async def _revealed(self, application: int, command: Command[bytes]) -> tuple[bytes, int]:
        """The content of an enciphered file and the status word of its read; raises CardError for a wrong MAC."""
        assert self._upkeep is not None
        challenge = await self._challenge()
        read = ProtectedRead(command, await self._enciphered(application, command, challenge))
        answer = await self._ask(read.apdu())
        if not answer.ok:
            return b"", answer.sw
        told = read.read(answer)
        asked = ProtectedAnswer(self._job.identity, application, told.body, told.mac, challenge, enciphered=True)
        try:
            return await self._upkeep.reveal(asked), answer.sw
        except (RefusedError, FormatError) as refusal:
            raise CardError(f"{read.name}: {refusal}") from refusal

    async def _has_been_done(self, step: Step) -> bool:
        """Ask the step's probe; its refusal is an answer, not an error."""
        match step.probe:
            case Compare(command, expected):
                answer = await self._ask(command.apdu())
                return answer.ok and answer.data == expected
            case CompareSecured(application, command, expected):
                found, sw = await self._revealed(application, command)
                return sw == OK and found == expected
            case Authenticate() as probe:
                return (await self._ask(await self._protected(probe, await self._challenge()))).ok
        raise AssertionError("no probe")

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
                session_key=act.session_key,
                key_version=opened.key_version,
            )
        )
        self._waiting.append((step, UpdateOverdraft(act.limit_fen, date, time, mac2).apdu()))

    def _compare(self, step: Step, found: bytes, sw: int, expected: bytes) -> None:
        if sw != OK or found != expected:
            shown = "another content" if isinstance(step.act, CompareSecured) and found else found.hex() or "nothing"
            raise CardError(f"{step.id}: read back {shown} ({sw:04X}), not what was written")
        self.reports.append(StepReport(step.id, sw, already=False))

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
        for (step, _), answer in zip(waiting, replies.answers, strict=False):
            self._note(step, answer)
        if replies.torn:
            raise CardTorn(f"{self._job.chip} left the reader; put the same chip back, the script resumes")
        self._waiting = waiting[len(replies.answers) :]
        return replies.answers

    def _note(self, step: Step, answer: ResponseApdu) -> None:
        already = self._probing and answer.sw in step.settled
        if not answer.ok and not already:
            raise CardError(f"{step.id}: {explain(_name(step), answer.sw)}")
        self.reports.append(StepReport(step.id, answer.sw, already))


def _name(step: Step) -> str:
    match step.act:
        case Plain(command) | Secured(_, command) | Compare(command, _) | CompareSecured(_, command, _):
            return command.name
        case Authenticate():
            return ExternalAuthenticate.name
        case SetAllowance():
            return UpdateOverdraft.name
        case WriteKeyAct() | TakeOver():
            return "WRITE KEY"
