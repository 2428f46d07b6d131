"""Chips that a dishonest factory prepared, or got at when they were half made: whoever has the transport key leaves
keys, files and directories of his own. None of them may be in a chip that is issued."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from terminal_side import SUITES, TRANSPORT, protected, send

from cardcore.card_map import TRANSIT
from cardcore.order import PsamOrder
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from cardcore.script import psam_steps
from cardcore.step import Stage
from keys.store import EmbeddedStore
from readers.pcsc.channel import CardTorn
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job, Scrapped, WrongChip
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench
from simulators.chip import Chip
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, SUITE_NAMES, blank, job, make_store
from tests.test_personalise import Cutting, memory

FOREIGN = bytes(range(16))
CARD, PSAM = "card 03107910000000000001", "PSAM 791001000001"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


class Thief:
    """Tries with the transport key, and takes what he is given; `got` are the status words."""

    def __init__(self, chip: Chip, suite: Suite) -> None:
        self.chip, self.suite, self.got = chip, suite, list[int]()

    def proves(self) -> None:
        send(self.chip, "00A40000", b"\x3f\x00")
        challenge, _ = send(self.chip, "00840000", le=4)
        cipher = SUITES[SUITE_NAMES[self.suite]]
        send(self.chip, "00820000", cipher.encrypt(TRANSPORT, challenge.ljust(cipher.block, b"\0")))

    def creates(self, fid: str, description: str) -> None:
        self.got.append(send(self.chip, "80E0" + fid, bytes.fromhex(description))[1])

    def selects(self, fid: str) -> None:
        send(self.chip, "00A40000", bytes.fromhex(fid))

    def writes(self, head: str, *content: int) -> None:
        cipher = SUITES[SUITE_NAMES[self.suite]]
        self.got.append(protected(cipher, self.chip, TRANSPORT, head, bytes(content) + FOREIGN, encipher=True))


def extra_key(thief: Thief) -> None:
    """A control key and a line key beside ours, at ids that no profile uses."""
    thief.writes("84D40105", 0x39, 0xF0, 0xF0, 0x0A, 0xFF)
    thief.writes("84D40107", 0x36, 0xF0, 0xF0, 0xFF, 0xFF)


def key_in_our_place(thief: Thief) -> None:
    thief.writes("84D40100", 0x36, 0xF0, 0xFA, 0xFF, 0x33)


def extra_file(thief: Thief) -> None:
    thief.creates("00EE", "280010F0F0FFFF")


def extra_directory(thief: Thief) -> None:
    """An application of his own, with a key of his own, that everyone may add to."""
    thief.creates("3FEE", "380100F0F095FFFF" + b"EVIL.APP".hex())
    thief.selects("3FEE")
    thief.creates("0000", "3F004095F0FFFF")
    thief.writes("84D40100", 0x39, 0xF0, 0xF0, 0x0A, 0x55)


def directory_in_our_place(thief: Thief) -> None:
    """The last of our applications, with a load key of his own in it."""
    item = load_profile("shared-purse").applications[-1]
    thief.creates(f"{item.fid:04X}", f"38{item.size:04X}F0F095FFFF{item.aid.hex()}")
    thief.selects(f"{item.fid:04X}")
    thief.creates("0000", "3F014095F0FFFF")
    thief.writes("84D40102", 0x3F, 0xF0, 0xF0, 1, 4)


def root(thief: Thief) -> None:
    """With it, the terminal would take cards of the factory's making."""
    for number in (0x10 + Sector.TRANSIT, 0x7F):
        thief.writes(f"84D401{number:02X}", 0x42, 0xF0, 0xFA, 1, 4)


IN_ANY_CHIP = (extra_key, key_in_our_place, extra_file, extra_directory)
IN_CARDS = (*IN_ANY_CHIP, directory_in_our_place)
IN_PSAMS = (*IN_ANY_CHIP, root)
Plant = Callable[[Thief], None]


def plant_into(chip: Chip, suite: Suite, plant: Plant) -> list[int]:
    """The status words that the thief got."""
    chip.power_on()
    thief = Thief(chip, suite)
    thief.proves()
    plant(thief)
    chip.power_off()
    return thief.got


def card_job(chip: Chip, suite: Suite) -> Job:
    return job(DirectChannel(chip), 1, suite)


def psam_job(chip: Chip, suite: Suite) -> Job:
    order = PsamOrder(
        terminal_number=bytes.fromhex("791001000001"), serial=bytes(10), sector=Sector.TRANSIT, suite=suite
    )
    return Job(order.identity, "psam", psam_steps(order), DirectChannel(chip))


def psam(suite: Suite) -> SoftwarePsam:
    return SoftwarePsam.blank(SUITE_NAMES[suite], rng=Random(4))


def content(chip: Chip) -> dict[str, object]:
    """What lies in a chip, by its place, but for tries: a thief who guesses spends some of an application's key."""
    found = memory(chip)  # type: ignore[arg-type]  # it looks at what card and PSAM have in common
    for place, kept in found.items():
        if " key " in place and isinstance(kept, tuple):
            secret, shape = kept
            found[place] = secret, shape[:-1]
    return found


KINDS: dict[str, tuple[Callable[[Suite], Chip], Callable[[Chip, Suite], Job]]] = {
    "card": (blank, card_job),
    "psam": (psam, psam_job),
}
EVERY = [("card", plant) for plant in IN_CARDS] + [("psam", plant) for plant in IN_PSAMS]


async def made(store: EmbeddedStore, path: Path, wanted: Job, until: Stage | None = None) -> Scrapped | None:
    """`until`: the chip is taken out of the reader when this stage is in the journal."""

    def ended(stage: Stage) -> None:
        if stage is until:
            raise CardTorn(stage.value)

    journal = Journal(path)
    try:
        return await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(wanted, ended)
    finally:
        journal.close()


async def wholly(store: EmbeddedStore, folder: Path, kind: str, suite: Suite) -> dict[str, object]:
    """What a chip holds that nobody got at."""
    new, job_of = KINDS[kind]
    whole = new(suite)
    assert await made(store, folder / "whole.sqlite", job_of(whole, suite)) is None
    return content(whole)


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(("kind", "plant"), EVERY)
async def test_what_was_planted_in_a_blank_is_gone(
    store: EmbeddedStore, tmp_path: Path, kind: str, plant: Plant, suite: Suite
) -> None:
    new, job_of = KINDS[kind]
    got = plant_into(chip := new(suite), suite, plant)
    assert 0x9000 in got, "a blank takes what the factory's key says"
    planted = content(chip)
    assert await made(store, tmp_path / "j.sqlite", job_of(chip, suite)) is None
    assert content(chip) == await wholly(store, tmp_path, kind, suite) != planted


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(("kind", "plant"), EVERY)
async def test_a_half_made_chip_takes_nothing_and_ends_as_ours(
    store: EmbeddedStore, tmp_path: Path, kind: str, plant: Plant, suite: Suite
) -> None:
    """After every stage: the factory's key opens nothing any more."""
    new, job_of = KINDS[kind]
    whole = await wholly(store, tmp_path, kind, suite)
    for stage in {step.stage for step in job_of(new(suite), suite).steps} - {Stage.ISSUE}:
        path, chip = tmp_path / f"{stage.value}.sqlite", new(suite)
        with pytest.raises(CardTorn):
            await made(store, path, job_of(chip, suite), until=stage)
        assert 0x9000 not in plant_into(chip, suite, plant), stage
        assert await made(store, path, job_of(chip, suite)) is None
        assert content(chip) == whole, stage


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(("kind", "plant"), EVERY)
async def test_cut_while_it_is_taken_over(
    store: EmbeddedStore, tmp_path: Path, kind: str, plant: Plant, suite: Suite
) -> None:
    """From the first command on, heard by the chip or not: before our key is in it, it is erased again."""
    new, job_of = KINDS[kind]
    whole, taken = await wholly(store, tmp_path, kind, suite), set[bool]()
    for delivered in (False, True):
        for cut in range(2, 14):
            path, chip = tmp_path / f"{cut}-{delivered}.sqlite", new(suite)
            channel = Cutting(chip, cut, delivered)  # type: ignore[arg-type]  # it cuts the power of either
            with pytest.raises(CardTorn):
                await made(store, path, replace(job_of(chip, suite), channel=channel))
            taken.add(0x9000 in plant_into(chip, suite, plant))
            assert await made(store, path, job_of(chip, suite)) is None
            assert content(chip) == whole, (cut, delivered)
    assert taken == {True, False}, "both before and after"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_foreign_control_key_in_the_mf_is_never_issued(store: EmbeddedStore, tmp_path: Path, kind: str) -> None:
    """The thief took the chip over himself: as a new card it is scrapped, as a new PSAM no blank, and as one that was
    begun it is not the one."""
    new, job_of = KINDS[kind]

    def takes(thief: Thief) -> None:
        thief.writes("84D43900", 0x39, 0xF0, 0xFA, 0x0A, 0x55)

    chip = new(Suite.SM4)
    assert plant_into(chip, Suite.SM4, takes) == [0x9000]
    before = chip.mf.keys.value[0x39, 0].secret
    try:
        scrapped = await made(store, tmp_path / "new.sqlite", job_of(chip, Suite.SM4))
    except WrongChip as error:
        assert kind == "psam" and "no blank PSAM" in str(error)
    else:
        assert scrapped is not None and "39-00.open: EXTERNAL AUTHENTICATE" in scrapped.reason

    begun = new(Suite.SM4)
    channel = Cutting(begun, 3 if kind == "card" else 7, delivered=False)  # type: ignore[arg-type]  # it cuts the power of either
    with pytest.raises(CardTorn):
        await made(store, tmp_path / "begun.sqlite", replace(job_of(begun, Suite.SM4), channel=channel))
    with pytest.raises(WrongChip, match="opens by neither key"):
        await made(store, tmp_path / "begun.sqlite", job_of(chip, Suite.SM4))
    assert chip.mf.keys.value[0x39, 0].secret == before
    assert await made(store, tmp_path / "begun.sqlite", job_of(begun, Suite.SM4)) is None


async def test_a_counterfeit_of_a_half_made_card_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    """It shows the EF 0015 of a card that waits for its last stages, and the keys in it are the thief's."""
    begun, path = blank(), tmp_path / "j.sqlite"
    with pytest.raises(CardTorn):
        await made(store, path, card_job(begun, Suite.SM4), until=Stage.DATA)
    shown = begun.mf.files.value[load_profile("shared-purse").application(TRANSIT.number).fid]
    common = shown.files.value[0x15].content.value  # type: ignore[union-attr]  # a directory, and a binary file in it

    def copies(thief: Thief) -> None:
        item = load_profile("shared-purse").application(TRANSIT.number)
        thief.creates(f"{item.fid:04X}", f"38{item.size:04X}F0F095FFFF{item.aid.hex()}")
        thief.selects(f"{item.fid:04X}")
        thief.creates("0015", f"28{len(common):04X}F0F0FFFF")
        thief.got.append(send(thief.chip, "00D69500", common)[1])

    plant_into(counterfeit := blank(seed=5), Suite.SM4, copies)
    with pytest.raises(WrongChip, match="does not prove its first key"):
        await made(store, path, card_job(counterfeit, Suite.SM4))
    journal = Journal(path)
    assert journal.stock()[Progress.ISSUED] == 0
    journal.close()
    assert await made(store, path, card_job(begun, Suite.SM4)) is None
