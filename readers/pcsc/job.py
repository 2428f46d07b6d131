"""One chip to be personalised: who it becomes, and whether the chip in the reader may be that one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cardcore.authority import CardIdentity, PsamIdentity
from cardcore.card_files import CommonData
from cardcore.commands import CreateDf, Select
from cardcore.errors import CardError, FormatError
from cardcore.step import Plain, Stage, Step
from readers.pcsc.channel import Channel
from readers.pcsc.journal import Entry


def chip_name(identity: CardIdentity | PsamIdentity) -> str:
    """Name of a chip in the journal."""
    if isinstance(identity, CardIdentity):
        return f"card {identity.card.hex()}"
    return f"PSAM {identity.terminal_number.hex()}"


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
        return chip_name(self.identity)

    @property
    def script(self) -> str:
        """SM3 digest (32 hex digits) of everything that the script says; what was begun by one script ends by it."""
        return hashlib.new("sm3", repr(tuple(self.steps)).encode()).hexdigest()[:32]


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


async def recognise(job: Job, script: str, entry: Entry | None) -> None:
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
