"""Which PSAMs a production office makes: their orders, and the jobs that `Issuing` carries out."""

from dataclasses import dataclass, replace
from datetime import datetime

from cardcore.errors import FormatError
from cardcore.order import PsamOrder
from cardcore.record import Sector, Suite
from cardcore.script import limits, psam_steps
from cardcore.versions import FIRST_VERSIONS, KeyVersions
from readers.pcsc.channel import Channel
from readers.pcsc.job import Job, chip_name
from readers.pcsc.journal import Journal

PROFILE = "psam"


@dataclass(frozen=True, slots=True)
class PsamPlan:
    """The terminal numbers (6 bytes) of the PSAMs to be made, all alike but for these; `now` is local.

    Raises FormatError for what no PSAM can be, and for a number twice.
    """

    numbers: tuple[bytes, ...]
    sector: Sector
    suite: Suite
    gate: bool
    now: datetime

    def __post_init__(self) -> None:
        if not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise FormatError("name each PSAM once, and at least one; nothing was made")
        for number in self.numbers:
            psam_steps(self._order(number, FIRST_VERSIONS))

    def orders(self, journal: Journal, versions: KeyVersions) -> list[PsamOrder]:
        """The orders, with these versions of keys; a PSAM that was begun keeps its versions. Raises KeyUseError where a
        PSAM is still to be begun and its suite is retired or a key of it missing."""
        found = []
        for number in self.numbers:
            order = self._order(number, versions)
            entry = journal.find(chip_name(order.identity))
            if entry is None:
                # Made only to be refused here, before the first PSAM, and not at the one that is in the reader.
                psam_steps(order)
            else:
                order = self._order(number, _since(KeyVersions.read(entry.versions), versions))
            found.append(order)
        return found

    def job(self, order: PsamOrder, channel: Channel, reader: str) -> Job:
        """The job that makes one of them of the blank behind the channel."""
        script = psam_steps(order)
        return Job(order.identity, PROFILE, script, channel, reader, order.versions, limits(order))

    def _order(self, number: bytes, versions: KeyVersions) -> PsamOrder:
        return PsamOrder(
            terminal_number=number,
            # Of a PSAM nobody asks but its number.
            serial=bytes(4) + number,
            sector=self.sector,
            suite=self.suite,
            gate=self.gate,
            versions=versions,
        )


def _since(begun: KeyVersions, now: KeyVersions) -> KeyVersions:
    """The versions of a PSAM that was begun: the journal keeps those of cards alone, so what was rolling out is looked
    for among today's, promoted or not. A PSAM begun before a suite was retired is of another script now."""
    return replace(begun, rolling_out=now.rolling_out | now.active, retired=now.retired)
