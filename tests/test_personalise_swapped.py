"""Two half-made chips in each other's place: whatever was written to them when the program was killed, each ends as the
card that the journal says, or is refused untouched."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from cardcore.profile import load_profile
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.step import Stage
from keys.store import EmbeddedStore
from readers.pcsc.channel import DEADLINE_S, Replies
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job, WrongChip
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench
from simulators.card_os import SoftwareCard
from tests.counter_side import NOW, blank, job, make_store, order
from tests.test_personalise import memory

SHARED, PER_SECTOR = "shared-purse", "purse-per-sector"
# Two selections, two challenges, an authentication, the erasing; the seventh command is the first key, from which on a
# chip is bound to its card.
BOUND = 8
# Then the first application, after which the journal knows it: the directory, its selection and its key file, its key,
# the proof of it and the line key, each with its challenge, EF 0015 created and written with a challenge, the purse,
# five files.
COMMITTED = BOUND + 3 + 2 + 2 + 2 + 3 + 1 + 5


_turns = count()


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it but what a new process does."""


class Killing(DirectChannel):
    """The program is killed before its `at`-th command is sent; with 0 it never is."""

    def __init__(self, card: SoftwareCard, at: int = 0) -> None:
        super().__init__(card)
        self.sent = 0
        self._at = at

    async def run(self, commands: Sequence[CommandApdu], deadline_s: float = DEADLINE_S) -> Replies:
        answers: list[Replies] = []
        for command in commands:
            self.sent += 1
            if self.sent == self._at:
                raise Killed
            answers.append(await super().run([command], deadline_s))
            if answers[-1].torn or not answers[-1].last().ok:
                break
        return Replies(tuple(answer for replies in answers for answer in replies.answers), answers[-1].torn)


@dataclass
class Shop:
    """One bench and its journal, opened anew after every kill."""

    store: EmbeddedStore
    path: Path
    stages: list[Stage] = field(default_factory=list)

    async def make(self, channel: DirectChannel, number: int, profile: str = SHARED) -> bool:
        """Whether the program lived to the end of it; raises WrongChip."""
        journal = Journal(self.path)
        try:
            bench = Bench(self.store.personaliser(), journal, "wang", lambda: NOW)
            assert await bench.personalise(job(channel, number, Suite.SM4, profile), self.stages.append) is None
        except Killed:
            return False
        finally:
            journal.close()
        return True

    def stock(self) -> dict[Progress, int]:
        journal = Journal(self.path)
        try:
            return journal.stock()
        finally:
            journal.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


@dataclass(frozen=True)
class Whole:
    """A card made without interruption: what lies in it, and how many commands that took."""

    memory: dict[str, object]
    commands: int


@pytest.fixture(scope="module")
def whole(store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Whole]:
    async def make(number: int, profile: str) -> Whole:
        channel = Killing(card := blank(seed=9))
        shop = Shop(store, tmp_path_factory.mktemp("whole") / "readers.sqlite")
        assert await shop.make(channel, number, profile)
        return Whole(memory(card), channel.sent)

    return {(number, name): asyncio.run(make(number, name)) for number in (1, 2) for name in (SHARED, PER_SECTOR)}


@pytest.mark.parametrize(("profile", "stride"), [(SHARED, 1), (PER_SECTOR, 4)])
async def test_killed_at_every_command_and_swapped(
    store: EmbeddedStore, tmp_path: Path, whole: dict[tuple[int, str], Whole], profile: str, stride: int
) -> None:
    """Card 1 is of the shared purse, card 2 of `profile`; both are killed at the same place, and then at others."""
    commands, at_once = min(whole[1, SHARED].commands, whole[2, profile].commands), asyncio.Semaphore(8)
    kinds = {1: SHARED, 2: profile}
    refused: set[int] = set()

    async def swap(first: int, second: int) -> None:
        async with at_once:
            shop = Shop(store, tmp_path / f"{first}-{second}-{profile}-{next(_turns)}.sqlite")
            chips = {1: blank(seed=first), 2: blank(seed=1000 + second)}
            assert not await shop.make(Killing(chips[1], first), 1)
            assert not await shop.make(Killing(chips[2], second), 2, profile)
            made: dict[int, SoftwareCard] = {}
            for number, other in ((1, 2), (2, 1)):
                before = memory(chips[other])
                try:
                    assert await shop.make(DirectChannel(chips[other]), number, kinds[number])
                    made[number] = chips[other]
                except WrongChip as wrong:
                    assert "another chip" in str(wrong) and "nothing was changed" in str(wrong)
                    assert _but_for_tries(memory(chips[other])) == _but_for_tries(before)
                    refused.add((first, second)[other - 1])
            for number in {1, 2} - set(made):
                chip = chips[number]
                if chip in made.values():
                    # Taken for the other card while the journal could not know that one of its own was written to.
                    assert (first, second)[2 - number] < COMMITTED
                    chip = blank(seed=2000)
                assert await shop.make(DirectChannel(chip), number, kinds[number])
                made[number] = chip
            assert shop.stock() == {Progress.RUNNING: 0, Progress.ISSUED: 2, Progress.SCRAPPED: 0}
            for number, chip in made.items():
                assert memory(chip) == whole[number, kinds[number]].memory, (first, second, number)

    cuts = range(2, commands + 1, stride)
    await asyncio.gather(*(swap(at, at) for at in cuts))
    assert refused == {at for at in cuts if at >= BOUND}
    await asyncio.gather(*(swap(at, at * 7 % (commands - 1) + 2) for at in range(2, commands - 1, 6 * stride)))


def _but_for_tries(found: dict[str, object]) -> dict[str, object]:
    """A chip that is asked for a key which it does not have counts a wrong try, until its own job comes back."""
    return {
        name: value[0] if " key 39" in name and isinstance(value, tuple) else value for name, value in found.items()
    }


async def test_a_new_job_takes_no_half_made_chip(store: EmbeddedStore, tmp_path: Path) -> None:
    shop, half = Shop(store, tmp_path / "readers.sqlite"), blank()
    assert not await shop.make(Killing(half, 40), 1)
    with pytest.raises(WrongChip, match="no blank"):
        await shop.make(DirectChannel(half), 2)
    assert shop.stock()[Progress.RUNNING] == 1, "no serial was spent on it"
    assert half.serial == order(1, Suite.SM4).card, "and it says whose it is"


async def test_the_identity_comes_before_any_other_key(store: EmbeddedStore) -> None:
    """Before EF 0015 there are the two keys that it takes, and no file of any other application."""
    for name in (SHARED, PER_SECTOR):
        ids = [step.id for step in steps(load_profile(name), order(1, Suite.SM4))]
        assert ids[: ids.index("identity.1.0015.1")] == [
            "identity.0.select", "identity.0.39-00", "identity.0.3F01", "identity.1.select",
            "identity.1.0000", "identity.1.39-00", "identity.1.authenticate", "identity.1.36-00", "identity.1.0015",
        ]  # fmt: skip


async def test_another_card_in_the_same_structure_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    """Once the journal has the stage that wrote the identity, no blank will do, and no chip that shows nothing."""
    shop, made = Shop(store, tmp_path / "readers.sqlite"), blank(seed=1)
    assert not await shop.make(Killing(made, COMMITTED), 1)
    assert shop.stages == [Stage.IDENTITY]
    early = blank(seed=2)
    assert not await Shop(store, tmp_path / "other.sqlite").make(Killing(early, BOUND - 1), 1)
    for other in (blank(seed=3), early):
        with pytest.raises(WrongChip, match="another chip"):
            await shop.make(DirectChannel(other), 1)
    assert await shop.make(DirectChannel(made), 1)


def test_a_job_knows_its_script() -> None:
    """What was begun by one script ends by it; the script says who the card becomes."""
    one, other = (job(DirectChannel(blank()), number) for number in (1, 2))
    again = Job(one.identity, one.profile, one.steps, one.channel, "another reader")
    assert one.script == again.script != other.script
