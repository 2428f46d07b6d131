"""Chips that a dishonest factory prepared: it knows the transport key, and leaves keys and directories of its own."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from terminal_side import SUITES, TRANSPORT, create, header, must, write_key

from cardcore.card_map import SMALLPAY
from cardcore.order import PsamOrder
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from cardcore.script import psam_steps
from keys.store import EmbeddedStore
from readers.pcsc.channel import CardTorn
from readers.pcsc.direct import DirectChannel
from readers.pcsc.job import Job, Scrapped
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench
from simulators.card_os import SoftwareCard
from simulators.psam import SoftwarePsam
from tests.counter_side import NOW, blank, job, make_store
from tests.test_personalise import Cutting, memory

PER_SECTOR = "purse-per-sector"
FOREIGN = bytes(range(16))
SM4 = SUITES["sm4"]
WANTED = PsamOrder(
    terminal_number=bytes.fromhex("791001000001"), serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


async def made(store: EmbeddedStore, path: Path, wanted: Job) -> Scrapped | None:
    journal = Journal(path)
    try:
        return await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(wanted)
    finally:
        journal.close()


def _directory(chip: SoftwareCard, application: int = SMALLPAY.number) -> None:
    """The directory as the profile has it, with a key file that everyone may add to."""
    item = load_profile(PER_SECTOR).application(application)
    create(chip, f"{item.fid:04X}", f"38{item.size:04X}FAFA95FFFF{item.aid.hex()}")
    must(chip, "00A40000", item.fid.to_bytes(2, "big"))
    create(chip, "0000", "3F01409500FFFF")


def load_key(chip: SoftwareCard) -> None:
    """A load key in the place of ours, and one more in a place that the profile leaves free."""
    _directory(chip)
    for number in ("11", "02"):
        write_key(SM4, chip, TRANSPORT, "84D401" + number, header(0x3F, 0xF0, 0xF0, 1, 4) + FOREIGN)


def line_key(chip: SoftwareCard) -> None:
    write_key(SM4, chip, TRANSPORT, "84D40100", header(0x36, 0xF0, 0xFA, 0xFF, 0x33) + FOREIGN)


def control_key(chip: SoftwareCard) -> None:
    _directory(chip)
    write_key(SM4, chip, TRANSPORT, "84D40100", header(0x39, 0xF0, 0xFA, 0x0A, 0x55) + FOREIGN)


def planted(chip: SoftwareCard, plant: Callable[[SoftwareCard], None]) -> SoftwareCard:
    chip.power_on()
    plant(chip)
    chip.power_off()
    return chip


@pytest.mark.parametrize("plant", [load_key, line_key, control_key])
async def test_a_prepared_blank_is_scrapped(
    store: EmbeddedStore, tmp_path: Path, plant: Callable[[SoftwareCard], None]
) -> None:
    """What is there before our first command is not ours."""
    card = planted(blank(), plant)
    ended = await made(store, tmp_path / "j.sqlite", job(DirectChannel(card), profile=PER_SECTOR))
    assert ended is not None and "6A86" in ended.reason


@pytest.mark.parametrize("plant", [load_key, line_key])
async def test_what_was_planted_in_a_begun_card_is_gone(
    store: EmbeddedStore, tmp_path: Path, plant: Callable[[SoftwareCard], None]
) -> None:
    """The journal says that it was begun, so that things may be there already: none of them is taken on trust."""
    assert await made(store, tmp_path / "w.sqlite", job(DirectChannel(whole := blank()), profile=PER_SECTOR)) is None
    card = blank()
    with pytest.raises(CardTorn):
        await made(store, tmp_path / "j.sqlite", job(Cutting(card, 3, delivered=False), profile=PER_SECTOR))
    planted(card, plant)
    assert await made(store, tmp_path / "j.sqlite", job(DirectChannel(card), profile=PER_SECTOR)) is None
    assert memory(card) == memory(whole)
    kept = [key.secret.value for df in (card.mf, *card.mf.applications()) for key in df.keys.value.values()]
    assert FOREIGN not in kept


async def test_a_foreign_control_key_in_a_begun_card_scraps_it(store: EmbeddedStore, tmp_path: Path) -> None:
    card = blank()
    with pytest.raises(CardTorn):
        await made(store, tmp_path / "j.sqlite", job(Cutting(card, 3, delivered=False), profile=PER_SECTOR))
    ended = await made(store, tmp_path / "j.sqlite", job(DirectChannel(planted(card, control_key)), profile=PER_SECTOR))
    assert ended is not None and "6982" in ended.reason


def _psam(channel: DirectChannel) -> Job:
    return Job(WANTED.identity, "psam", psam_steps(WANTED), channel)


async def test_a_root_planted_in_a_psam(store: EmbeddedStore, tmp_path: Path) -> None:
    """With it, the terminal would take cards of the factory's making."""
    psam = SoftwarePsam.blank("sm4", rng=Random(4))
    root = "84D401" + f"{0x10 + Sector.TRANSIT:02X}", header(0x42, 0xF0, 0xFA, 1, 4) + FOREIGN
    psam.power_on()
    write_key(SM4, psam, TRANSPORT, *root)
    ended = await made(store, tmp_path / "new.sqlite", _psam(DirectChannel(psam)))
    assert ended is not None and "6A86" in ended.reason

    begun = SoftwarePsam.blank("sm4", rng=Random(5))
    with pytest.raises(CardTorn):
        await made(store, tmp_path / "begun.sqlite", _psam(Cutting(begun, 2, delivered=False)))
    begun.power_on()
    write_key(SM4, begun, TRANSPORT, *root)
    assert await made(store, tmp_path / "begun.sqlite", _psam(DirectChannel(begun))) is None
    assert FOREIGN not in [key.secret.value for key in begun.mf.keys.value.values()]
