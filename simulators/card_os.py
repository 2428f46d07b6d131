"""The software card: an FMCOS-style operating system with purses, in RAM (JR/T 0025, docs/card.md)."""

import copy
import random
from dataclasses import dataclass
from typing import ClassVar

from simulators.card_behaviour import STANDARD, Behaviour
from simulators.chip import GENERAL_COMMANDS, Run
from simulators.file_commands import FILE_COMMANDS
from simulators.file_system import BinaryFile, PurseFile
from simulators.key_commands import KEY_COMMANDS, LOCK_COMMANDS
from simulators.pin import PIN_COMMANDS
from simulators.purse import PURSE_COMMANDS, PurseChip

APPLICATIONS = {
    bytes.fromhex("A000000632010105"): 1,
    bytes.fromhex("F053584F43010103"): 3,
    bytes.fromhex("F053584F43010104"): 4,
    bytes.fromhex("A00000000386980701"): 6,
}
EP, COMMON = 0x0002, 0x0015


def application_number(name: bytes) -> int | None:
    """The number of the application with this DF name, which may go on after the AID; None for one without a purse."""
    return next((number for aid, number in APPLICATIONS.items() if name.startswith(aid)), None)


@dataclass(frozen=True, slots=True)
class PurseState:
    """A purse seen from outside: value without the allowance, fen, and both counters."""

    balance_fen: int
    offline: int
    online: int


class SoftwareCard(PurseChip):
    """A card. Picklable, so it can cross processes."""

    commands: ClassVar[dict[bytes, Run]] = (
        GENERAL_COMMANDS | FILE_COMMANDS | KEY_COMMANDS | LOCK_COMMANDS | PIN_COMMANDS | PURSE_COMMANDS
    )
    calculating_kinds = frozenset({0x30, 0x31, 0x32, 0x34, 0x3C, 0x3D, 0x3E, 0x3F})

    def __init__(self, suite: str, rng: random.Random, kind: str = "card", behaviour: Behaviour = STANDARD) -> None:
        self.kind = kind
        super().__init__(suite, rng, behaviour)

    @classmethod
    def blank(
        cls, suite: str, *, rng: random.Random, kind: str = "card", behaviour: Behaviour = STANDARD
    ) -> "SoftwareCard":
        """A card from the factory, ordered for `suite` ("3des" or "sm4"): an MF with the TEST transport key as 39.00.

        All randomness comes from `rng`, which may be shared between cards. `kind` is a label ("card", "phone") that no
        command looks at; `behaviour` chooses among the readings of the standards. Raises KeyError for another suite.
        """
        return cls(suite, rng, kind, behaviour)

    def clone(self) -> "SoftwareCard":
        """A bit copy of the memory, unpowered: what a cloner makes. Random numbers come from the same source."""
        twin = copy.deepcopy(self, {id(self.rng): self.rng})
        twin.power_off()
        return twin

    def purses(self) -> dict[int, PurseState]:
        """The electronic purses by application number (docs/card.md)."""
        found = {}
        for df in self.mf.applications():
            file, number = df.files.value.get(EP), application_number(df.name)
            if number is not None and isinstance(file, PurseFile):
                purse = file.purse.value
                found[number] = PurseState(purse.raw_fen - purse.allowance_fen, purse.offline, purse.online)
        return found

    @property
    def serial(self) -> bytes:
        """The 10-byte application serial of the first EF 0015 that has one; b"" before personalisation."""
        for df in self.mf.applications():
            file = df.files.value.get(COMMON) if application_number(df.name) else None
            if isinstance(file, BinaryFile) and any(serial := file.content.value[10:20]):
                return serial
        return b""
