"""Profiles with enciphered files: written and read back under secure messaging, torn at every command, and refused
where the profile contradicts itself or nobody can encipher."""

import asyncio
import copy
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from terminal_side import SUITES as INDEPENDENT

from cardcore.authority import ProtectedAnswer, UpkeepAuthority
from cardcore.card_files import Holder
from cardcore.errors import ProfileError, RefusedError, SetupError
from cardcore.order import CardOrder
from cardcore.profile import Profile, load_profile, profile_names, read_profile
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.step import CompareSecured, Secured
from keys.store import EmbeddedStore
from readers.pcsc.channel import CardTorn
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal, Progress
from readers.pcsc.personalise import Bench, Job, Scrapped
from simulators.card_os import SoftwareCard
from simulators.file_system import DedicatedFile
from tests.counter_side import NOW, SUITE_NAMES, blank, make_store, order
from tests.test_personalise import Cutting, memory

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

SUITES = (Suite.TRIPLE_DES, Suite.SM4)
HOLDER = Holder("王小明", "610102199001011234")
# Of the shared purse: directory and card id of the MF, holder and city, both social files; types 28 and 2C.
ENCIPHERED = {0x3F00: {0x0001, 0x0005}, 0x3F01: {0x0016, 0x0017}, 0x3F02: {0xEF05, 0xEF06}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return make_store(tmp_path_factory.mktemp("keys"))


def document() -> dict[str, Any]:
    return tomllib.loads(Path("cardcore/profiles/shared-purse.toml").read_text(encoding="utf-8"))


def file_of(found: dict[str, Any], df: int, fid: int) -> dict[str, Any]:
    files = next(item["files"] for item in found["application"] if item["fid"] == df)
    file: dict[str, Any] = next(item for item in files if item["fid"] == fid)
    return file


def secret() -> Profile:
    """The shared purse with every file of ENCIPHERED enciphered."""
    changed = document()
    for df, fids in ENCIPHERED.items():
        for fid in fids:
            file_of(changed, df, fid)["enciphered"] = True
    return read_profile(changed, "secret.toml")


def job(channel: DirectChannel, suite: Suite, profile: Profile, wanted: CardOrder | None = None) -> Job:
    made = wanted or replace(order(1, suite), holder=HOLDER)
    return Job(made.identity, "secret", steps(profile, made), channel)


async def make(store: EmbeddedStore, path: Path, wanted: Job, upkeep: UpkeepAuthority | None = None) -> Scrapped | None:
    journal = Journal(path)
    try:
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW, upkeep or store.upkeep())
        return await bench.personalise(wanted)
    finally:
        journal.close()


def file_in(card: SoftwareCard, df: int, fid: int) -> Any:
    found = card.mf if df == 0x3F00 else next(item for item in card.mf.applications() if item.fid == df)
    assert isinstance(found, DedicatedFile)
    return found.files.value[fid]


@pytest.mark.parametrize("name", profile_names())
def test_our_profiles_validate(name: str) -> None:
    """All three are read, and a whole script is made of each in each of its suites."""
    profile = load_profile(name)
    for suite in profile.suites:
        wanted = order(1, suite)
        if name == "construction-ministry":
            wanted = replace(wanted, issuer=bytes.fromhex("02317910"), card=bytes.fromhex("00007910010100000001"))
        assert not any(step.id for step in steps(profile, wanted) if isinstance(step.act, CompareSecured))


@pytest.mark.parametrize("suite", SUITES)
async def test_enciphered_files_are_written_and_read_back(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    card, plain = blank(suite), blank(suite)
    heard: list[bytes] = []

    class Listening(DirectChannel):
        async def run(self, commands: Any, deadline_s: float = 10.0) -> Any:
            heard.extend(command.encode() for command in commands)
            return await super().run(commands, deadline_s)

    wanted = job(Listening(card), suite, secret())
    assert wanted.enciphers
    assert await make(store, tmp_path / "1.sqlite", wanted) is None
    usual = job(DirectChannel(plain), suite, load_profile("shared-purse"))
    assert not usual.enciphers
    assert await make(store, tmp_path / "2.sqlite", usual) is None
    for df, fids in ENCIPHERED.items():
        for fid in fids:
            one, other = file_in(card, df, fid), file_in(plain, df, fid)
            assert one.enciphered and not other.enciphered
            held = [getattr(file, "content", None) or file.records for file in (one, other)]
            assert held[0].value == held[1].value, f"{df:04X} {fid:04X}: the same content behind both"
    name = HOLDER.name.encode("gbk")
    assert not any(name in apdu for apdu in heard), "the holder's name was never sent in clear"
    reads = [apdu for apdu in heard if apdu[:2] in (b"\x04\xb0", b"\x04\xb2")]
    compared = sum(isinstance(step.act, CompareSecured) for step in wanted.steps)
    assert len(reads) == compared >= 10


@pytest.mark.parametrize("suite", SUITES)
async def test_what_is_sent_is_what_the_standard_says(store: EmbeddedStore, tmp_path: Path, suite: Suite) -> None:
    """The enciphered write of the holder, taken apart by an independent library with the key that lies in the card."""
    card = blank(suite)
    exchanges: list[tuple[bytes, bytes]] = []

    class Listening(DirectChannel):
        async def run(self, commands: Any, deadline_s: float = 10.0) -> Any:
            replies = await super().run(commands, deadline_s)
            exchanges.extend((c.encode(), a.data) for c, a in zip(commands, replies.answers, strict=False))
            return replies

    assert await make(store, tmp_path / "1.sqlite", job(Listening(card), suite, secret())) is None
    at = next(place for place, (apdu, _) in enumerate(exchanges) if apdu[:3] == bytes.fromhex("04d696"))
    apdu, challenge = exchanges[at][0], exchanges[at - 1][1]
    key = next(df for df in card.mf.applications() if df.fid == 0x3F01).keys.value[0x36, 0].secret.value
    independent = INDEPENDENT[SUITE_NAMES[suite]]
    assert apdu[-4:] == independent.mac(key, apdu[:-4], challenge)[:4]
    content = HOLDER.encode()
    field = bytes([len(content)]) + content
    if len(field) % independent.block:
        field += b"\x80" + bytes(-(len(field) + 1) % independent.block)
    assert apdu[5:-4] == independent.encrypt(key, field)


@pytest.mark.parametrize("delivered", [False, True], ids=["unheard", "unanswered"])
async def test_torn_while_data_are_written_and_compared(store: EmbeddedStore, tmp_path: Path, delivered: bool) -> None:
    """Records behind PIN or cipher are found again by a resumed script, and not appended twice."""
    whole = Cutting(blank(), 0, delivered=False)
    assert await make(store, tmp_path / "whole.sqlite", job(whole, Suite.SM4, secret())) is None
    wanted, at_once = memory(whole._chip), asyncio.Semaphore(8)

    async def tear(cut: int) -> None:
        async with at_once:
            card, path = blank(seed=cut), tmp_path / f"{cut}.sqlite"
            with pytest.raises(CardTorn):
                await make(store, path, job(Cutting(card, cut, delivered), Suite.SM4, secret()))
            assert await make(store, path, job(DirectChannel(card), Suite.SM4, secret())) is None, f"cut at {cut}"
            assert memory(card) == wanted, f"cut at {cut}"

    await asyncio.gather(*map(tear, range(45 + delivered, whole.sent + 1, 2)))


async def test_records_behind_the_pin_in_clear_are_not_appended_twice(store: EmbeddedStore, tmp_path: Path) -> None:
    """EF06 of the usual profile is read after the PIN only; the control key, which is at hand, opens it too."""
    whole = Cutting(blank(), 0, delivered=False)
    profile = load_profile("shared-purse")
    assert await make(store, tmp_path / "whole.sqlite", job(whole, Suite.SM4, profile)) is None
    for cut in range(whole.sent - 40, whole.sent + 1):
        card, path = blank(seed=cut), tmp_path / f"{cut}.sqlite"
        with pytest.raises(CardTorn):
            await make(store, path, job(Cutting(card, cut, True), Suite.SM4, profile))
        assert await make(store, path, job(DirectChannel(card), Suite.SM4, profile)) is None
        assert memory(card) == memory(whole._chip), f"cut at {cut}"


async def test_what_reads_back_otherwise_scraps(store: EmbeddedStore, tmp_path: Path) -> None:
    """A card that holds another content, and one that answers with another MAC, are not issued."""

    class Bent:
        """The upkeep; what it reveals is another content, or what it is given has another MAC."""

        def __init__(self, content: bool) -> None:
            self._real, self._content = store.upkeep(), content

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        async def reveal(self, answer: ProtectedAnswer) -> bytes:
            if self._content:
                return (await self._real.reveal(answer))[:-1] + b"\xaa"
            with pytest.raises(RefusedError):
                await self._real.reveal(replace(answer, mac=bytes(4)))
            return await self._real.reveal(replace(answer, mac=bytes(4)))

    for content, why in ((True, "not what was written"), (False, "bad-mac|is wrong")):
        path = tmp_path / f"{content}.sqlite"
        bent: Any = Bent(content)
        scrapped = await make(store, path, job(DirectChannel(blank()), Suite.SM4, secret()), bent)
        assert isinstance(scrapped, Scrapped)
        assert any(part in scrapped.reason for part in why.split("|"))
        assert HOLDER.id_number.encode().hex() not in scrapped.reason, "a secret stays out of the journal"


async def test_nobody_to_encipher(store: EmbeddedStore, tmp_path: Path) -> None:
    """Said before the chip is touched and before a serial is spent."""
    journal = Journal(tmp_path / "readers.sqlite")
    card = blank()
    with pytest.raises(SetupError, match="enciphered files"):
        await Bench(store.personaliser(), journal, "wang", lambda: NOW).personalise(
            job(DirectChannel(card), Suite.SM4, secret())
        )
    assert journal.stock() == dict.fromkeys(Progress, 0) and memory(card) == memory(blank())
    journal.close()


@pytest.mark.parametrize(
    ("df", "fid", "change", "said"),
    [
        (0x3F01, 0x0017, {"enciphered": True, "protected": False}, "is enciphered, and so is protected too"),
        (0x3F01, 0x0015, {"enciphered": True}, "SELECT shows it"),
        (0x3F01, 0x001A, {"enciphered": True, "protected": True, "composites": ["metro"]}, "composite records"),
        (0x3F01, 0x0017, {"enciphered": True, "length": 224}, "at most 223 bytes"),
        (0x3F01, 0x0017, {"enciphered": "yes"}, "takes true or false"),
        (0x3F01, 0x0017, {"enciphred": True}, "unknown"),
    ],
    ids=["without MAC", "shown", "composite", "too long", "no flag", "misspelt"],
)
def test_contradictions(df: int, fid: int, change: dict[str, Any], said: str) -> None:
    changed = copy.deepcopy(document())
    file_of(changed, df, fid).update(change)
    with pytest.raises(ProfileError, match=said):
        read_profile(changed, "wrong.toml")


def test_what_nobody_could_check_is_no_order() -> None:
    """A record that not even the control key reads back could be appended twice; said before the first card."""
    changed = document()
    file_of(changed, 0x3F02, 0xEF05).update({"read": 0x11})
    with pytest.raises(ProfileError, match="EF05 of application 2 cannot be read back"):
        steps(read_profile(changed, "wrong.toml"), order(1, Suite.SM4))


def test_the_longest_enciphered_file_fits_one_command() -> None:
    changed = document()
    file_of(changed, 0x3F01, 0x0017).update({"enciphered": True, "length": 223})
    profile = read_profile(changed, "long.toml")
    spec = profile.application(1).file(0x0017)
    assert spec is not None and spec.enciphered and spec.length == 223
    script = steps(secret(), replace(order(1, Suite.SM4), holder=HOLDER))
    assert any(isinstance(step.act, Secured) and step.act.enciphered for step in script)
