"""What a profile says, once read: files, keys, purses and applications of a kind of card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cardcore.card_map import KeyType
from cardcore.commands.personalise import FileKind
from cardcore.errors import ProfileError
from cardcore.record import Sector, Suite
from cardcore.switches import LogCounter, Switches


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One elementary file: `count` records of `length` bytes, or 0 and a binary of `length` bytes.

    `protected`: every write carries a MAC; `enciphered`: it is enciphered as well, and so is every read.
    `composites` are the ids of the composite records that personalisation writes into it.
    """

    fid: int
    kind: FileKind
    length: int
    count: int
    read_right: int
    write_right: int
    protected: bool
    composites: tuple[int, ...] = ()
    enciphered: bool = False

    @property
    def sfi(self) -> int:
        return self.fid & 0x1F

    @property
    def holds_records(self) -> bool:
        return self.kind is not FileKind.BINARY


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One key: its id in each suite and its attributes; `next_state` and `tries` where the type has them."""

    type: KeyType
    ids: Mapping[Suite, int] = field(hash=False)
    use: int
    change: int
    next_state: int
    tries: int
    sector: Sector | None = None


@dataclass(frozen=True, slots=True)
class PurseSpec:
    """An electronic purse: right to use it, SFI of its log, overdraft allowance in fen."""

    right: int
    log_sfi: int
    overdraft_fen: int


class CommonLayout(StrEnum):
    """Layout of EF 0015 of an application."""

    PBOC = "pboc"
    MINISTRY = "construction-ministry"


@dataclass(frozen=True, slots=True)
class ApplicationSpec:
    """One directory and what is in it; sizes in bytes. The MF (number 0) exists on the blank and has no sizes."""

    number: int
    label: str
    fid: int
    aid: bytes
    size: int
    create_right: int
    erase_right: int
    key_file_size: int
    add_right: int
    files: tuple[FileSpec, ...]
    keys: tuple[KeySpec, ...]
    purse: PurseSpec | None
    common_layout: CommonLayout = CommonLayout.PBOC

    def file(self, fid: int) -> FileSpec | None:
        return next((item for item in self.files if item.fid == fid), None)


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of card; `for_suite` binds it to the suite that a card is ordered in."""

    name: str
    title: str
    suites: tuple[Suite, ...]
    pin: str
    switches: Switches
    applications: tuple[ApplicationSpec, ...]

    def application(self, number: int) -> ApplicationSpec:
        """Raises ProfileError when this card has no such application."""
        for item in self.applications:
            if item.number == number:
                return item
        raise ProfileError(f"profile {self.name} has no application {number}")

    @property
    def log_counter(self) -> LogCounter:
        """Which counter the card writes into its log."""
        return self.switches.log_counter

    @property
    def purses(self) -> tuple[ApplicationSpec, ...]:
        """The applications that have a purse."""
        return tuple(item for item in self.applications if item.purse)

    def for_suite(self, suite: Suite) -> "SuiteProfile":
        """Raises ProfileError when the profile is not offered in this suite."""
        if suite not in self.suites:
            raise ProfileError(f"profile {self.name} is not offered in suite {suite.name}; order another suite")
        return SuiteProfile(self, suite)


@dataclass(frozen=True, slots=True)
class SuiteProfile:
    """A profile in one suite: which key to name in which command."""

    profile: Profile
    suite: Suite

    def key_index(self, application: int, kind: KeyType, sector: Sector | None = None) -> int:
        """Id of a key; `sector` chooses among purchase keys. Raises ProfileError when the card has none."""
        for key in self.profile.application(application).keys:
            if key.type is kind and (sector is None or key.sector is sector):
                return key.ids[self.suite]
        what = f"{kind.name.lower()} key" + (f" for {sector.label}" if sector else "")
        raise ProfileError(f"profile {self.profile.name} has no {what} in application {application}")

    def purse_for(self, sector: Sector) -> tuple[ApplicationSpec, int]:
        """The application whose purse pays in this sector, and its purchase-key id; raises ProfileError."""
        for item in self.profile.purses:
            for key in item.keys:
                if key.type is KeyType.PURCHASE and key.sector is sector:
                    return item, key.ids[self.suite]
        raise ProfileError(f"profile {self.profile.name} has no purse that pays in sector {sector.label}")
