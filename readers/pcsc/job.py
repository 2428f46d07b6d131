"""One chip to be personalised: who it becomes, and whether the chip in the reader may be that one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cardcore.apdu import ResponseApdu
from cardcore.authority import CardIdentity, PersonalisationAuthority, PsamIdentity, Under
from cardcore.card_map import Sfi
from cardcore.commands import CreateDf, ExternalAuthenticate, GetChallenge, Select, UpdateBinary
from cardcore.errors import CardError
from cardcore.step import CompareSecured, Plain, Secured, Stage, Step, WriteKeyAct
from cardcore.versions import FIRST_VERSIONS, SUITE_NAMES, KeyVersions
from readers.pcsc.ask import ask, psam_number
from readers.pcsc.channel import Channel
from readers.pcsc.journal import Entry


def chip_number(identity: CardIdentity | PsamIdentity) -> bytes:
    """What a chip shows of itself: a card's serial (10 bytes), a PSAM's terminal number (6 bytes)."""
    return identity.card if isinstance(identity, CardIdentity) else identity.terminal_number


def chip_name(identity: CardIdentity | PsamIdentity) -> str:
    """Name of a chip in the journal."""
    kind = "card" if isinstance(identity, CardIdentity) else "PSAM"
    return f"{kind} {chip_number(identity).hex()}"


@dataclass(frozen=True, slots=True)
class Job:
    """One chip to be made: who it becomes, its script, and the channel to the blank."""

    identity: CardIdentity | PsamIdentity
    profile: str
    steps: Sequence[Step]
    channel: Channel
    reader: str = "in-process"
    # Of its keys, as in its order: what was begun with some versions ends with them.
    versions: KeyVersions = FIRST_VERSIONS
    # What the issued chip cannot do, for the journal; nothing as a rule.
    remark: str = ""

    @property
    def chip(self) -> str:
        """Name of the chip in the journal."""
        return chip_name(self.identity)

    @property
    def script(self) -> str:
        """SM3 digest (32 hex digits) of everything that the script says; what was begun by one script ends by it."""
        return hashlib.new("sm3", b"".join(map(_said, self.steps))).hexdigest()[:32]

    @property
    def enciphers(self) -> bool:
        """Whether a file of the chip is enciphered, which takes who keeps its line key in order."""
        return any(
            isinstance(step.act, CompareSecured) or (isinstance(step.act, Secured) and step.act.enciphered)
            for step in self.steps
        )


@lru_cache(maxsize=1024)
def _said(step: Step) -> bytes:
    """Most steps are those of every card of a profile."""
    return repr(step).encode() + b"\n"


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


# No such key: what a directory answers whose control key is not written yet.
_KEYLESS = frozenset({0x6A88, 0x9403})


async def recognise(job: Job, script: str, entry: Entry | None, authority: PersonalisationAuthority) -> None:
    """See that a new job has a blank before it, and a resumed one the chip that it began; raises WrongChip.

    A chip is known by the EF 0015 that it shows, or, where it shows none, by its first control key; before it has that
    key it is like any other chip of its kind.
    """
    if entry is not None and entry.script != script:
        raise WrongChip(f"{job.chip} was begun with another order on {entry.begun_at:%Y-%m-%d}; repeat that order")
    if isinstance(job.identity, PsamIdentity):
        await _recognise_psam(job, entry, authority)
        return
    first = _first_directory(job.steps)
    if first is None:
        return
    reply = (await job.channel.run([Select(first).apdu()])).last()
    if entry is None:
        if reply.ok:
            raise WrongChip(
                f"the chip in the reader is no blank; nothing was changed, put a blank there for {job.chip}"
            )
        return
    bound = _binding(job.steps) in entry.done
    if not reply.ok:
        if bound:
            raise WrongChip(f"{job.chip} was begun on another chip; nothing was changed, put that one back")
        return
    shown = Select(first).read(reply).common or b""
    if any(shown):
        if shown != _identity(job.steps):
            raise WrongChip(
                f"{job.chip} was begun on another chip, and this one was begun as another card; nothing was changed, "
                "put that one back"
            )
    elif not await _has_its_key(job, authority, without_will_do=not bound):
        raise WrongChip(
            f"{job.chip} was begun on another chip: this one does not have its first key; nothing was changed, put "
            "that one back"
        )


async def _recognise_psam(job: Job, entry: Entry | None, authority: PersonalisationAuthority) -> None:
    """A PSAM has no directory to be known by, only its number. A new job's opens by the factory's key before the
    journal has it: so what is no blank is not called scrap, and who may not be issued spends no number."""
    shown = await psam_number(job.channel)
    if shown and (entry is None or shown != chip_number(job.identity)):
        wanted = f"a blank there for {job.chip}" if entry is None else f"{job.chip} back"
        raise WrongChip(f"the chip in the reader is PSAM {shown.hex()}; nothing was changed, put {wanted}")
    if entry is None:
        reply = await _proves(job, 0, Under.TRANSPORT, authority)
        if not reply.ok:
            raise WrongChip(
                f"the chip in the reader is no blank PSAM of {SUITE_NAMES[job.identity.suite]} (the factory's key: "
                f"{reply.sw:04X}); nothing was changed, put a blank there for {job.chip}"
            )


async def _has_its_key(job: Job, authority: PersonalisationAuthority, without_will_do: bool) -> bool:
    """Whether the selected directory has the first control key of the job. A wrong try is made good by the next right
    one, which the resumed script of the chip's own job begins with."""
    keys = (step.act.key for step in job.steps if isinstance(step.act, WriteKeyAct))
    first = next(key for key in keys if key.application)
    reply = await _proves(job, first.application, Under.CONTROL, authority)
    return reply.ok or (without_will_do and reply.sw in _KEYLESS)


async def _proves(job: Job, application: int, under: Under, authority: PersonalisationAuthority) -> ResponseApdu:
    """The answer of the selected directory to EXTERNAL AUTHENTICATE."""
    challenge = await ask(job.channel, GetChallenge())
    proof = await authority.authenticate(job.identity, application, under, challenge)
    return (await job.channel.run([ExternalAuthenticate(proof).apdu()])).last()


def _first_directory(steps: Sequence[Step]) -> bytes | None:
    for step in steps:
        if isinstance(step.act, Plain) and isinstance(step.act.command, CreateDf):
            return step.act.command.df_name
    return None


def _binding(steps: Sequence[Step]) -> Stage:
    """The stage at whose end a chip has the first control key of its own."""
    return next(step.stage for step in steps if isinstance(step.act, WriteKeyAct) and step.act.key.application)


def _identity(steps: Sequence[Step]) -> bytes:
    """What the script writes into the first EF 0015."""
    for step in steps:
        if isinstance(step.act, Plain | Secured):
            match step.act.command:
                case UpdateBinary(sfi=Sfi.COMMON, content=content):
                    return content
    return b""
