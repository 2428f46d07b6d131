"""Personalisation: a script of `cardcore.script` run on one chip, resumable from its journal (D5)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby

from cardcore.authority import PersonalisationAuthority, UpkeepAuthority
from cardcore.errors import CardError, ReaderError, RefusedError, SetupError
from cardcore.step import Stage, Step
from readers.pcsc.anew import anew
from readers.pcsc.channel import CardTorn
from readers.pcsc.job import Job, Scrapped, Unfinished, WrongChip, recognise
from readers.pcsc.journal import Journal, Line, Progress, StepReport
from readers.pcsc.stage import StageRun

BAD_MAC1 = "bad-mac1"

__all__ = ["Bench", "Job", "Scrapped", "Unfinished", "WrongChip"]


def _nobody(_: Stage) -> None: ...


class Bench:
    """Where chips are personalised: an authority, a journal, an operator and a local clock.

    `upkeep` protects what is written into enciphered files, and reveals what is read back; a profile without such files
    does not need it.
    """

    def __init__(
        self,
        authority: PersonalisationAuthority,
        journal: Journal,
        operator: str,
        clock: Callable[[], datetime],
        upkeep: UpkeepAuthority | None = None,
    ) -> None:
        self._authority = authority
        self._journal = journal
        self._operator = operator
        self._clock = clock
        self._upkeep = upkeep

    def knows(self, job: Job) -> bool:
        """Whether the journal has this chip: its serial is spent."""
        return self._journal.find(job.chip) is not None

    async def personalise(self, job: Job, ended: Callable[[Stage], None] = _nobody) -> Scrapped | None:
        """Run what is left of the job's script; None when the chip is issued, also if it was before.

        `ended` is told each stage once it is in the journal. Raises CardTorn or ReaderError when the way to the chip
        breaks: the same call on the same chip resumes, and so it does after a cancelled call or a kill. Raises
        WrongChip, or SetupError where nobody can write its enciphered files, before anything is changed.
        """
        if job.enciphers and self._upkeep is None:
            raise SetupError(
                f"{job.profile} has enciphered files, and no upkeep of keys is at hand; nothing was written to the "
                "chip, open the key store beside the issuing"
            )
        entry = self._journal.find(job.chip)
        if entry is not None and entry.progress is Progress.ISSUED:
            return None
        if entry is not None and entry.progress is Progress.SCRAPPED:
            return Scrapped(job.chip, entry.reason)
        script = job.script
        await job.channel.reset()
        await anew(job.channel, partial(recognise, job, script, entry, self._authority))
        if entry is None:
            await self._write(job, script, Progress.RUNNING)
        done = entry.done if entry else frozenset()
        last = job.steps[-1].stage
        for stage, steps in groupby(job.steps, key=lambda step: step.stage):
            if stage in done:
                continue
            try:
                reports = await self._stage(job, tuple(steps), probing=entry is not None)
            except (CardTorn, WrongChip):
                raise
            except (CardError, RefusedError) as error:
                # A wrong MAC1 is the chip's fault; whatever else the keys refuse is not.
                if isinstance(error, RefusedError) and error.code != BAD_MAC1:
                    raise
                await self._write(job, script, Progress.SCRAPPED, reason=str(error))
                return Scrapped(job.chip, str(error))
            if stage is last:
                await self._authority.finish(job.identity)
            progress = Progress.ISSUED if stage is last else Progress.RUNNING
            await self._write(job, script, progress, stage, reports, job.remark if stage is last else "")
            ended(stage)
        return None

    async def _stage(self, job: Job, steps: Sequence[Step], probing: bool) -> Sequence[StepReport]:
        async def attempt() -> Sequence[StepReport]:
            nonlocal probing
            run = StageRun(job, self._authority, self._upkeep, self._clock, probing)
            # Begun anew after a foreign reset, it finds some of its steps done.
            probing = True
            await run.perform(steps)
            return run.reports

        return await anew(job.channel, attempt)

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
        except (CardError, ReaderError) as error:
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
            versions=job.versions.text,
        )
        await self._journal.write(line)
