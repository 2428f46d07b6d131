"""What goes wrong between the product's flows, a card, a PSAM and the desk: said beforehand, and done to real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TypeVar

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import LoadGrant, LoadRequest, OverdraftProof, OverdraftRequest, UnloadGrant, UnloadRequest
from cardcore.errors import KeyUseError, ReaderError, RefusedError
from keys.loads import LoadAuthoriser
from keys.personaliser import Personaliser
from keys.unloads import UnloadAuthoriser
from keys.upkeep import CardUpkeep
from readers.pcsc.channel import DEADLINE_S, ReaderQuarantined, Replies
from readers.pcsc.scard import ForeignReset
from simulators.card_line import Line
from simulators.chip import Chip

T = TypeVar("T")

DECIDING = frozenset({0x52, 0x54, 0x58, 0x72})
CACHING = 0xDC
LATE_S = 3_600.0


class Harm(Enum):
    """What happens at a command."""

    GONE = auto()  # the power goes before the chip hears of it
    WRITES = auto()  # the power goes after so many single writes
    OCTETS = auto()  # the power goes after so many bytes sent
    RESET = auto()  # another program has reset the chip; nothing is sent
    MUTE = auto()  # the chip does it, and no answer comes within the deadline
    LATE = auto()  # the chip does it and answers; then the flow's time is over


@dataclass(frozen=True)
class Trouble:
    """A harm at the n-th command of a flow, or at the deciding one; `away`: the chip is not put back in this flow."""

    harm: Harm
    at: int | None
    size: int = 0
    away: bool = False


@dataclass
class Time:
    """The clock of budgets."""

    s: float = 0.0

    def __call__(self) -> float:
        return self.s


class Hand:
    """A channel to a chip that somebody holds, just tapped; each trouble comes once.

    `disturbed` tells that one has come, `harmed` that it was one over which no flow can begin anew.
    """

    def __init__(self, chip: Chip, troubles: Sequence[Trouble], time: Time) -> None:
        self.line = Line(chip)
        self.disturbed = self.harmed = False
        self._chip, self._time = chip, time
        self._troubles = list(troubles)
        self._count = 0
        self._away = self._torn = False
        self._fault: ReaderError | None = None
        assert self.line.power_on()

    async def reset(self) -> bytes:
        """Power on; raises ReaderError while nobody puts the chip back."""
        if self._away:
            raise ReaderError("no card answers in the reader")
        self._fault, self._torn = None, False
        if atr := self.line.power_on():
            return atr
        raise ReaderError("the card answers no reset")

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        answers: list[ResponseApdu] = []
        for command in commands:
            trouble = self._due(command)
            if self._fault is not None:
                raise self._fault
            raw = b"" if self._torn else self.line.transmit(command.encode())
            self._after(trouble)
            if not raw:
                self._torn = True
                return Replies(tuple(answers), torn=True)
            answers.append(ResponseApdu.decode(raw))
            if not answers[-1].ok:
                break
        return Replies(tuple(answers))

    def put_back(self) -> None:
        """The next tap: with power, and no trouble left."""
        self._chip.cut_after(None)
        self.line.cut_after(None)
        assert self.line.power_on()

    def _due(self, command: CommandApdu) -> Trouble | None:
        number, deciding = self._count, command.cla == 0x80 and command.ins in DECIDING
        self._count += 1
        for trouble in self._troubles:
            if trouble.at == number or (trouble.at is None and deciding):
                self._troubles.remove(trouble)
                self.disturbed = True
                anew = trouble.harm is Harm.RESET and not (trouble.away or deciding or command.ins == CACHING)
                self.harmed = self.harmed or not anew
                self._before(trouble)
                return trouble
        return None

    def _before(self, trouble: Trouble) -> None:
        self._away = self._away or trouble.away
        match trouble.harm:
            case Harm.GONE:
                self.line.power_off()
            case Harm.WRITES:
                self._chip.cut_after(trouble.size)
            case Harm.OCTETS:
                self.line.cut_after(trouble.size)
            case Harm.RESET:
                self.line.power_on()
                self._fault = ForeignReset()

    def _after(self, trouble: Trouble | None) -> None:
        if trouble is not None and trouble.harm is Harm.MUTE:
            self._fault = ReaderQuarantined("the reader did not answer within 10 s")
            raise self._fault
        if trouble is not None and trouble.harm is Harm.LATE:
            self._time.s += LATE_S


class DeskHarm(Enum):
    """What the desk does instead of its work."""

    REFUSES = auto()
    LOST = auto()  # it did its work, and the answer does not come
    LIES = auto()  # a MAC2 of something else


@dataclass
class TroubledDesk:
    """The authorities of the counter's flows; `harm` comes at the n-th question of a flow. `asked` keeps loads."""

    loads: LoadAuthoriser
    unloads: UnloadAuthoriser
    personaliser: Personaliser
    upkeep: CardUpkeep
    harm: DeskHarm | None = None
    at: int = 0
    harmed: bool = False
    asked: list[tuple[LoadRequest, LoadGrant]] = field(default_factory=list)

    def trouble(self, harm: tuple[DeskHarm, int] | None) -> None:
        """Of the next flow."""
        self.harm, self.at = harm or (None, 0)
        self.harmed = False

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        self._before()
        grant = await self.loads.authorise_load(request)
        self.asked.append((request, grant))
        return self._after(grant)

    async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
        self._before()
        return self._after(await self.unloads.authorise_unload(request))

    async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        self._before()
        await self.unloads.confirm_unload(request, grant, mac3)
        self._after(None)

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        self._before()
        return self._after(await self.personaliser.set_overdraft(request))

    async def confirm_overdraft(self, proof: OverdraftProof) -> None:
        self._before()
        await self.upkeep.confirm_overdraft(proof)
        self._after(None)

    def _before(self) -> None:
        self.at -= 1
        if self.at == -1 and self.harm is DeskHarm.REFUSES:
            self.harmed = True
            raise RefusedError("over-quota", "not today")

    def _after(self, answer: T) -> T:
        if self.at != -1 or self.harm is None:
            return answer
        self.harmed = True
        if self.harm is DeskHarm.LIES and answer is not None:
            return _other(answer)
        raise KeyUseError("the desk's answer did not come")


def _other(answer: T) -> T:
    """With another MAC2."""
    if isinstance(answer, bytes):
        return bytes(octet ^ 1 for octet in answer)  # type: ignore[return-value]
    assert isinstance(answer, LoadGrant | UnloadGrant)
    return replace(answer, mac2=bytes(octet ^ 1 for octet in answer.mac2))
