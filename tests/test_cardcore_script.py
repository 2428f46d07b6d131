"""The personalisation scripts, run with the keys of a TEST store on the software card and PSAM."""

import asyncio
import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest
from cardcore_issuer import Issuer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.authority import PersonalisationAuthority, Under
from cardcore.card_files import CityData, CommonData, Holder, MetroRecord, MetroState
from cardcore.card_map import APPLICATIONS, CITY_CARD, TRANSIT, Sfi, card_factor, city_factor
from cardcore.commands import (
    AppendRecord,
    Crypt,
    GetBalance,
    InitDescrypt,
    ReadBinary,
    ReadObject,
    ReadRecord,
    Select,
    UpdateBinary,
    VerifyPin,
)
from cardcore.commands.command import Command
from cardcore.cryptogram import composite_mac_input
from cardcore.errors import CardError, FormatError
from cardcore.metro import ENTRY_KEY_ID, ENTRY_USAGE
from cardcore.profile import load_profile, profile_names
from cardcore.record import Sector, Suite
from cardcore.script import (
    Authenticate,
    CardOrder,
    Compare,
    Plain,
    PsamOrder,
    Secured,
    Stage,
    Step,
    psam_steps,
    steps,
)
from cardcore.tlv import parse
from keys.ceremony import required_roots, test_ceremony
from keys.store import open_store
from simulators.card_os import SoftwareCard
from simulators.file_system import BinaryFile
from simulators.nvm import TearPoint
from simulators.psam import SoftwarePsam

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

NAMES = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}
PURSES = {"shared-purse": {1}, "purse-per-sector": {1, 3, 4}}
# Every APDU costs 15 ms on a real card.
MOST_APDUS = {"shared-purse": 149, "purse-per-sector": 211}
# Not read again: the directory and the empty records of entries, which are the same on every card (docs/card.md).
ALIKE = {"0001", "001A"}
EVERY_CARD = [(name, suite) for name in PURSES for suite in Suite]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PersonalisationAuthority]:
    with open_store(tmp_path_factory.mktemp("keys") / "store") as store:
        test_ceremony(store, {name: _components(name) for name in required_roots()})
        yield store.personaliser()


def _components(name: str) -> tuple[bytes, bytes]:
    return hashlib.sha256(name.encode()).digest()[:16], hashlib.sha256(b"2" + name.encode()).digest()[:16]


def order(suite: Suite, holder: Holder | None = None) -> CardOrder:
    return CardOrder(
        issuer=bytes.fromhex("02317910"),
        card=bytes.fromhex("03101234567890123456"),
        suite=suite,
        concession=3,
        starts=date(2026, 3, 1),
        expires=date(2036, 2, 29),
        holder=holder,
    )


def personalised(
    authority: PersonalisationAuthority, name: str, wanted: CardOrder, tear: tuple[int, TearPoint] | None = None
) -> tuple[SoftwareCard, Issuer]:
    card = SoftwareCard.blank(NAMES[wanted.suite], rng=random.Random(5))
    card.power_on()
    issuer = Issuer(Tearing(card, tear) if tear else card, authority, wanted.identity)
    asyncio.run(issuer.run(steps(load_profile(name), wanted)))
    card.power_on()
    return card, issuer


class Tearing:
    """A card that loses its power in the n-th command that writes its memory, or the first one after it."""

    def __init__(self, card: SoftwareCard, tear: tuple[int, TearPoint]) -> None:
        self.card = card
        self.left, self.point = tear

    def power_on(self) -> bytes:
        return self.card.power_on()

    def transmit(self, apdu: bytes) -> bytes:
        if self.left == 0:
            self.card.tear_next(self.point)
        self.left -= 1
        return self.card.transmit(apdu)


def ask(card: SoftwareCard | SoftwarePsam, command: Command[object]) -> object:
    return command.read(ResponseApdu.decode(card.transmit(command.apdu().encode())))


def _contents(script: tuple[Step, ...]) -> Iterator[tuple[Step, bytes]]:
    for step in script:
        if isinstance(step.act, Plain | Secured) and isinstance(step.act.command, UpdateBinary | AppendRecord):
            yield step, step.act.command.content


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_what_tells_of_a_card_is_read_back(authority: PersonalisationAuthority, name: str, suite: Suite) -> None:
    """Every content but those that are alike; and a chip that answers with another byte is not made."""
    wanted = order(suite, Holder(name="张三", id_number="610102199001011234", id_type=0))
    script = steps(load_profile(name), wanted)
    compared = [(step.application, step.act.expected) for step in script if isinstance(step.act, Compare)]
    left = {step.id.split(".")[2] for step, content in _contents(script) if (step.application, content) not in compared}
    assert left <= ALIKE and len(compared) >= 9
    for number in range(len(compared)):
        chip = SoftwareCard.blank(NAMES[suite], rng=random.Random(5))
        chip.power_on()
        with pytest.raises(CardError):
            asyncio.run(Issuer(Altering(chip, number), authority, wanted.identity).run(script))


class Altering:
    """A card whose answer number n to a read differs by a bit from what was written."""

    def __init__(self, card: SoftwareCard, number: int) -> None:
        self.card = card
        self.left = number

    def power_on(self) -> bytes:
        return self.card.power_on()

    def transmit(self, apdu: bytes) -> bytes:
        answer = self.card.transmit(apdu)
        if apdu[1] in (0xB0, 0xB2, 0x5C) and len(answer) > 2:
            self.left -= 1
            if self.left == -1:
                return bytes((answer[0] ^ 1,)) + answer[1:]
        return answer


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_a_blank_becomes_a_card(authority: PersonalisationAuthority, name: str, suite: Suite) -> None:
    wanted = order(suite)
    card, issuer = personalised(authority, name, wanted)
    assert {number: purse.balance_fen for number, purse in card.purses().items()} == dict.fromkeys(PURSES[name], 0)
    assert card.serial == wanted.card

    shown = Select(TRANSIT.aid).read(ResponseApdu.decode(card.transmit(Select(TRANSIT.aid).apdu().encode())))
    assert shown.name == TRANSIT.aid and shown.common is not None
    assert CommonData.decode(shown.common) == wanted.common
    assert ask(card, GetBalance()) == 800
    city = CityData.decode(ReadBinary(Sfi.CITY, 60).parse(bytes(card.transmit(bytes.fromhex("00B097003C"))[:-2])))
    assert (city.concession, city.city, city.province) == (3, "7910", "7900")
    metro = ask(card, ReadObject(Sfi.COMPOSITE, 0x21))
    assert isinstance(metro, bytes) and MetroRecord.decode(metro).state is MetroState.OUT
    ask(card, VerifyPin("123456"))
    assert issuer.apdus <= MOST_APDUS[name]


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("name", profile_names())
def test_an_issued_card_is_closed(authority: PersonalisationAuthority, name: str, suite: Suite) -> None:
    """The factory key opens nothing any more; in no directory anyone but the issuer creates, erases or writes."""
    wanted, profile = order(suite), load_profile(name)
    if any(item.number == CITY_CARD.number for item in profile.applications):
        wanted = replace(wanted, card=bytes(2) + wanted.card[2:])
    card, issuer = personalised(authority, name, wanted)
    again = Issuer(card, authority, wanted.identity)
    with pytest.raises(CardError, match="EXTERNAL AUTHENTICATE"):
        asyncio.run(again.run(steps(profile, wanted)))
    card.power_on()
    for item in profile.applications:
        ask(card, Select(item.aid))
        _is_closed(card)
        plain = next(spec.fid & 0x1F for spec in item.files if spec.protected)
        binary = isinstance(card.df.elementary(plain), BinaryFile)
        bare = f"00D6{0x80 + plain:02X}000100" if binary else f"00E200{plain * 8:02X}0100"
        assert card.transmit(bytes.fromhex(bare))[-2:].hex() == "6987", (item.label, "a write without its MAC")
    # The issuer itself still can, where it has proved the control key of that very directory.
    for item in profile.applications:
        ask(card, Select(item.aid))
        asyncio.run(issuer.run((Step("proof", Stage.ISSUE, item.number, Authenticate(item.number, Under.CONTROL)),)))
        assert card.transmit(bytes.fromhex(NEW_FILE))[-2:] == b"\x90\x00"


NEW_FILE = "80E0400107280010F0F0FFFF"
# A directory, a file, one that would stand before another of its SFI, and a purse.
CREATED = "80E03F090D380100F0F095FFFFF0000000FF", NEW_FILE, "80E00005072C0828F0F0FFFF", "80E00007072F0208F000FF18"


def _is_closed(chip: SoftwareCard | SoftwarePsam) -> None:
    """Nobody who has proved nothing makes or erases anything in the directory that is selected."""
    for apdu in (*CREATED, "800E000000"):
        assert chip.transmit(bytes.fromhex(apdu))[-2:].hex() == "6982", apdu


def test_directory_lists_the_applications(authority: PersonalisationAuthority) -> None:
    card, _ = personalised(authority, "purse-per-sector", order(Suite.SM4))
    ask(card, Select(b"2PAY.SYS.DDF01"))
    listed = []
    for number in range(1, 6):
        entry = ask(card, ReadRecord(Sfi.DIRECTORY, number))
        assert isinstance(entry, bytes)
        listed.append(next(item.value for item in parse(entry)[0].children if item.tag == 0x4F))
    assert listed == [APPLICATIONS[number].aid for number in (1, 2, 3, 4, 5)]


def test_holder_is_behind_the_pin(authority: PersonalisationAuthority) -> None:
    holder = Holder("王小明", "610102199001011234")
    card, _ = personalised(authority, "shared-purse", order(Suite.TRIPLE_DES, holder))
    ask(card, Select(TRANSIT.aid))
    with pytest.raises(CardError, match="verify the PIN"):
        ask(card, ReadBinary(Sfi.HOLDER, 55))
    ask(card, VerifyPin("123456"))
    content = ask(card, ReadBinary(Sfi.HOLDER, 55))
    assert isinstance(content, bytes) and Holder.decode(content) == holder


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suite=st.sampled_from(Suite), at=st.integers(0, 160), point=st.sampled_from(TearPoint))
def test_a_torn_personalisation_resumes(
    authority: PersonalisationAuthority, suite: Suite, at: int, point: TearPoint
) -> None:
    """Wherever the power goes, the stage is repeated and the card ends as if nothing had happened."""
    wanted = order(suite)
    card, _ = personalised(authority, "shared-purse", wanted, (at, point))
    whole, _ = personalised(authority, "shared-purse", wanted)
    assert _memory(card) == _memory(whole)


LOG = 0x18


def _memory(card: SoftwareCard) -> list[tuple[object, ...]]:
    """Everything but the online counter of the allowance and its log, which a repeated step moves once more."""
    found: list[tuple[object, ...]] = []
    for df in (card.mf, *card.mf.applications()):
        keys = [(name, key.secret.value, key.use, key.change, key.tries) for name, key in df.keys.value.items()]
        found += [(df.fid, df.name, sorted(keys), sorted(df.pins.value))]
        for fid, file in df.files.value.items():
            for part in ("content", "records"):
                if hasattr(file, part) and fid != LOG:
                    found.append((df.fid, fid, file.kind, file.read_right, file.write_right, getattr(file, part).value))
    return [*found, *((number, purse.balance_fen, purse.offline) for number, purse in card.purses().items())]


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("sector", [Sector.TRANSIT, Sector.SMALLPAY, Sector.UTILITY])
def test_a_psam_is_made(authority: PersonalisationAuthority, suite: Suite, sector: Sector) -> None:
    wanted = PsamOrder(
        terminal_number=bytes.fromhex("791001000001"), serial=bytes.fromhex("00" * 9 + "07"), sector=sector, suite=suite
    )
    psam = SoftwarePsam.blank(NAMES[suite], rng=random.Random(6))
    psam.power_on()
    asyncio.run(Issuer(psam, authority, wanted.identity).run(psam_steps(wanted)))
    psam.power_on()
    assert psam.terminal_number == wanted.terminal_number
    for algorithm in Suite:
        told = psam.transmit(_init_for_purchase(algorithm))
        assert told[-2:] == b"\x90\x00" and len(told) == 10, "one PSAM takes the cards of both suites"
    assert psam.transmit(bytes.fromhex("801A2601080000") + wanted.terminal_number) == b"\x90\x00"
    assert len(psam.transmit(bytes.fromhex("80FA050078") + bytes(120) + b"\x08")) == 10
    _is_closed(psam)


@pytest.mark.parametrize("gate", [True, False])
def test_only_the_psam_of_a_gate_has_the_entry_root(tmp_path: Path, gate: bool) -> None:
    """What it makes of an entry is what the store's own guard believes, and nothing else."""
    wanted = PsamOrder(
        terminal_number=bytes.fromhex("791001111001"),
        serial=bytes(10),
        sector=Sector.TRANSIT,
        suite=Suite.SM4,
        gate=gate,
    )
    psam = SoftwarePsam.blank("sm4", rng=random.Random(6))
    psam.power_on()
    rider = order(Suite.TRIPLE_DES)
    record = MetroRecord(MetroState.IN, 1, 4, datetime(2026, 3, 2, 8), wanted.terminal_number, counter=7)
    with open_store(tmp_path / "store") as store:
        test_ceremony(store, {name: _components(name) for name in required_roots()})
        asyncio.run(Issuer(psam, store.personaliser(), wanted.identity).run(psam_steps(wanted)))
        psam.power_on()
        factors = card_factor(rider.card) + city_factor(rider.issuer)
        selected = psam.transmit(InitDescrypt(ENTRY_USAGE, ENTRY_KEY_ID, factors).apdu().encode())
        assert selected == (b"\x90\x00" if gate else b"\x94\x03")
        if gate:
            mac = ask(psam, Crypt(composite_mac_input(rider.card, 1, record.encode())))
            assert isinstance(mac, bytes)
            guard = store.entry_guard()
            assert asyncio.run(guard.holds(rider.identity, 1, replace(record, mac=mac)))
            assert not asyncio.run(guard.holds(rider.identity, 1, replace(record, mac=mac, entry_station=5)))


def _init_for_purchase(algorithm: int) -> bytes:
    data = bytes.fromhex("112233440000000000C80620260302081530") + bytes((1, algorithm)) + bytes(16)
    return CommandApdu(0x80, 0x70, 0x00, 0x00, data, 8).encode()


@pytest.mark.parametrize(("name", "suite"), EVERY_CARD)
def test_steps_have_stable_names_in_stages(name: str, suite: Suite) -> None:
    script = steps(load_profile(name), order(suite))
    assert len({step.id for step in script}) == len(script)
    assert [step.id for step in script] == [step.id for step in steps(load_profile(name), order(suite))]
    stages = [step.stage for step in script]
    assert stages == sorted(stages, key=list(Stage).index)
    assert script[1].id == "identity.0.39-00", "the chip is ours before anything else"
    for step in script:
        command = getattr(step.act, "command", None)
        if command is not None:
            assert len(command.apdu().data) <= 235


def test_orders_are_checked() -> None:
    good = order(Suite.SM4)
    for wrong in (
        {"issuer": b"\0"},
        {"card": bytes(9)},
        {"card": b"\xab" * 10},
        {"expires": date(2026, 2, 28)},
        {"city": "79"},
    ):
        with pytest.raises(FormatError):
            replace(good, **wrong)
    with pytest.raises(FormatError):
        PsamOrder(terminal_number=bytes(5), serial=bytes(10), sector=Sector.TRANSIT, suite=Suite.SM4)
    with pytest.raises(FormatError, match="gate"):
        PsamOrder(terminal_number=bytes(6), serial=bytes(10), sector=Sector.SMALLPAY, suite=Suite.SM4, gate=True)
