"""The switches of a profile, one test each: exact names and values, the default, and what the choice changes."""

import tomllib
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gmssl.sm4 import SM4_ENCRYPT, CryptSM4
from terminal_side import TripleDes, xor

from cardcore.apdu import ResponseApdu
from cardcore.authority import BlockAct, OverdraftProof, PinReloadRequest, PinUnblockRequest
from cardcore.card_files import LogRecord
from cardcore.commands import ApplicationBlock, ApplicationUnblock, CardBlock, Select
from cardcore.commands.pin import unblock_head
from cardcore.commands.psam import ordered_factors
from cardcore.cryptogram import folds_tac_key, session_input
from cardcore.errors import ProfileError
from cardcore.profile import Profile, load_profile, profile_names, read_profile
from cardcore.record import Suite
from cardcore.script import steps
from cardcore.selection import Availability, read_selection
from cardcore.switches import (
    BlockedSelect,
    LogCounter,
    OverdraftTacKey,
    PinUnblockPlace,
    PsamFactorOrder,
    Sm4SessionKey,
    Switches,
)
from readers.pcsc.direct import DirectChannel
from readers.pcsc.journal import Journal
from readers.pcsc.personalise import Bench, Job
from simulators.card_behaviour import Behaviour
from simulators.card_os import SoftwareCard
from tests.counter_side import NOW, make_store, order

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

SWITCHES = {
    "log_counter": ("before", "after"),
    "overdraft_tac_key": ("folded", "whole"),
    "blocked_select": ("fci-6283", "6a81"),
    "psam_factor_order": ("card-city", "city-card"),
    "pin_unblock_place": ("p2", "p1"),
    "sm4_session_key": ("padded", "complement"),
}
RANDOM = bytes.fromhex("11223344")


def altered(**changes: object) -> Profile:
    document: dict[str, Any] = tomllib.loads(Path("cardcore/profiles/shared-purse.toml").read_text(encoding="utf-8"))
    document.pop("log_counter")
    return read_profile(document | changes, "altered.toml")


@pytest.mark.parametrize("name", SWITCHES)
def test_names_values_and_default(name: str) -> None:
    default, other = SWITCHES[name]
    assert getattr(altered().switches, name) == getattr(Switches(), name) == default
    for value in (default, other):
        switches = altered(**{name: value}).switches
        assert {field: str(getattr(switches, field)) for field in SWITCHES} == {
            field: value if field == name else SWITCHES[field][0] for field in SWITCHES
        }


@pytest.mark.parametrize("name", profile_names())
def test_our_profiles_have_the_defaults(name: str) -> None:
    assert load_profile(name).switches == Switches()


def only(document: dict[str, Any], suite: str) -> dict[str, Any]:
    document["suites"] = [suite]
    for application in document["application"]:
        for key in application["keys"]:
            key["ids"] = {suite: key["ids"][suite]}
    return document


def test_a_switch_that_nothing_uses_is_refused() -> None:
    source = Path("cardcore/profiles/shared-purse.toml").read_text(encoding="utf-8")
    for suite, name, value in (("3des", "sm4_session_key", "padded"), ("sm4", "overdraft_tac_key", "folded")):
        assert read_profile(only(tomllib.loads(source), suite), "one.toml")
        with pytest.raises(ProfileError, match=f"'{name}' is unknown, or unused"):
            read_profile(only(tomllib.loads(source), suite) | {name: value}, "one.toml")
    without: dict[str, Any] = tomllib.loads(source)
    without.pop("log_counter")
    without["application"] = [without["application"][0], without["application"][2]]
    assert read_profile(without, "none.toml").purses == ()
    for name in ("log_counter", "overdraft_tac_key", "psam_factor_order", "sm4_session_key"):
        with pytest.raises(ProfileError, match=f"'{name}' is unknown, or unused"):
            read_profile(without | {name: SWITCHES[name][0]}, "none.toml")


def test_log_counter() -> None:
    record = LogRecord(8, 0, 100, 6, bytes(6), bytes(4), bytes(3))
    assert record.counter_before(LogCounter("before")) == 8
    assert record.counter_before(LogCounter("after")) == 7


def test_overdraft_tac_key() -> None:
    """Only the TAC of an allowance, and only under 3DES, knows a choice."""
    for switch in OverdraftTacKey:
        assert folds_tac_key(Suite.TRIPLE_DES, 0x07, switch) is (switch == "folded")
        for kind in (0x02, 0x06, 0x09):
            assert folds_tac_key(Suite.TRIPLE_DES, kind, switch)
            assert not folds_tac_key(Suite.SM4, kind, switch)
        assert not folds_tac_key(Suite.SM4, 0x07, switch)
    assert OverdraftProof.__dataclass_fields__["tac_key"].default is OverdraftTacKey.FOLDED


def test_blocked_select() -> None:
    """6A81 means the card under one convention, and the application or the card under the other."""
    refused = ResponseApdu(b"", 0x6A81)
    found = {item.value: read_selection(Select(b"\x3f\x01"), refused, item).availability for item in BlockedSelect}
    assert found == {"fci-6283": Availability.CARD_BLOCKED, "6a81": Availability.APPLICATION_OR_CARD_BLOCKED}


def test_psam_factor_order() -> None:
    card, city = b"\1" * 8, b"\2" * 8
    wire = {item.value: ordered_factors(item, card, city) for item in PsamFactorOrder}
    assert wire == {"card-city": card + city, "city-card": city + card}


def test_pin_unblock_place() -> None:
    heads = {item.value: unblock_head(item, "123456", 2).encode()[:4].hex() for item in PinUnblockPlace}
    assert heads == {"p2": "84240002", "p1": "84240200"}


def test_sm4_session_key() -> None:
    """Both rules by hand, and that they are different keys (SM4 of another library)."""
    padded = session_input(Suite.SM4, RANDOM, 7, 0x0102ABCD)
    turned = session_input(Suite.SM4, RANDOM, 7, 0x0102ABCD, Sm4SessionKey.COMPLEMENT)
    assert padded.hex() == "112233440007abcd8000000000000000"
    assert turned.hex() == "112233440007abcd" + "eeddccbbfff85432"
    assert session_input(Suite.SM4, RANDOM, 7).hex() == "11223344000780000000000000000000"
    assert session_input(Suite.SM4, RANDOM, 7, sm4=Sm4SessionKey.COMPLEMENT).hex() == "1122334400078000eeddccbbfff87fff"
    cipher = CryptSM4()
    cipher.set_key(bytes.fromhex("0123456789abcdeffedcba9876543210"), SM4_ENCRYPT)
    assert cipher.crypt_ecb(padded)[:16] != cipher.crypt_ecb(turned)[:16]
    for rule in Sm4SessionKey:
        assert session_input(Suite.TRIPLE_DES, RANDOM, 7, sm4=rule).hex() == "1122334400078000", "SM4's alone"


def test_session_keys_of_published_examples() -> None:
    """Two public worked examples (3DES by another library): load and purchase, key 1122…2211."""
    key = bytes.fromhex("11223344556677888877665544332211")
    suite = TripleDes()
    load = suite.encrypt(key, session_input(Suite.TRIPLE_DES, RANDOM, 0))
    assert load.hex() == "9b1d924e05595603"
    bought = suite.encrypt(key, session_input(Suite.TRIPLE_DES, RANDOM, 0, 1))
    assert bought.hex() == "003238abc57659dd"
    folded, whole = xor(key[:8], key[8:]), key
    assert suite.mac(folded, b"\1" * 23)[:4] != suite.mac(whole, b"\1" * 23)[:4], "what overdraft_tac_key decides"


def test_block_acts_are_the_headers_of_their_commands() -> None:
    plain = {
        BlockAct.CARD_BLOCK: CardBlock(),
        BlockAct.APPLICATION_BLOCK: ApplicationBlock(),
        BlockAct.APPLICATION_BLOCK_FOR_EVER: ApplicationBlock(permanent=True),
        BlockAct.APPLICATION_UNBLOCK: ApplicationUnblock(),
    }
    assert {act: command.apdu().encode().hex() for act, command in plain.items()} == {
        act: act.value for act in BlockAct
    }


def test_requests_do_not_show_a_pin() -> None:
    shown = (
        repr(PinReloadRequest.__dataclass_fields__["pin"].repr),
        repr(PinUnblockRequest.__dataclass_fields__["command"].repr),
    )
    assert shown == ("False", "False")


@pytest.mark.parametrize("said", Sm4SessionKey)
async def test_a_card_gets_its_allowance_by_the_rule_of_its_profile(said: Sm4SessionKey, tmp_path: Path) -> None:
    """A card of the complement rule is issued by a profile that says so, and by no other."""
    chip = SoftwareCard.blank("sm4", rng=Random(1), behaviour=Behaviour(sm4_session_key="complement"))
    made = order(1, Suite.SM4)
    script = steps(altered(sm4_session_key=said.value), made)
    with closing(Journal(tmp_path / "journal")) as journal, make_store(tmp_path) as store:
        bench = Bench(store.personaliser(), journal, "wang", lambda: NOW)
        job = Job(made.identity, "altered", script, DirectChannel(chip))
        if said is Sm4SessionKey.COMPLEMENT:
            assert await bench.personalise(job) is None
        else:
            scrapped = await bench.personalise(job)
            assert scrapped is not None and "MAC1" in scrapped.reason
