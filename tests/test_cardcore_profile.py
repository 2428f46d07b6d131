"""Card profiles: both parse, agree with the contract, and every fault is named with file and field."""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardcore.card_files import LogCounter
from cardcore.card_map import ALL_APPLICATIONS, CITY_CARD, KeyType, key_id
from cardcore.errors import ProfileError
from cardcore.profile import CommonLayout, Profile, load_profile, profile_names, read_profile
from cardcore.record import Sector, Suite

PROFILES = Path("cardcore/profiles")
PAYING = (Sector.TRANSIT, Sector.SMALLPAY, Sector.UTILITY)


def test_the_profiles_are_there() -> None:
    assert profile_names() == ("construction-ministry", "purse-per-sector", "shared-purse")
    city = load_profile("construction-ministry")
    assert [item.number for item in city.purses] == [CITY_CARD.number] == [6]
    assert city.application(6).common_layout is CommonLayout.MINISTRY
    shared, apart = load_profile("shared-purse"), load_profile(PROFILES / "purse-per-sector.toml")
    assert [item.number for item in shared.purses] == [1]
    assert [item.number for item in apart.purses] == [1, 3, 4]
    for profile in (shared, apart):
        assert (profile.pin, profile.log_counter) == ("123456", LogCounter.BEFORE)
        assert all(item.purse and item.purse.overdraft_fen == 800 for item in profile.purses)


OURS = ("purse-per-sector", "shared-purse")


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("suite", Suite)
def test_keys_and_applications_are_those_of_the_contract(name: str, suite: Suite) -> None:
    profile = load_profile(name)
    plan = profile.for_suite(suite)
    for item in profile.applications:
        assert (item.aid, item.fid) == (ALL_APPLICATIONS[item.number].aid, ALL_APPLICATIONS[item.number].fid)
        for key in item.keys:
            assert key.ids[suite] == key_id(key.type, suite, key.sector)
            assert plan.key_index(item.number, key.type, key.sector) == key.ids[suite]
    for sector in PAYING if name in OURS else PAYING[:1]:
        application, index = plan.purse_for(sector)
        assert application.number == {"shared-purse": 1, "construction-ministry": 6}.get(name, sector)
        assert index == key_id(KeyType.PURCHASE, suite, sector)
    with pytest.raises(ProfileError, match="medical"):
        plan.purse_for(Sector.MEDICAL)
    with pytest.raises(ProfileError, match="act key"):
        plan.key_index(profile.purses[0].number, KeyType.ACT)


@pytest.mark.parametrize("name", OURS)
def test_files_have_the_documented_sizes(name: str) -> None:
    """docs/card.md, "Files"; and the whole fits a card of 32 KiB."""
    profile = load_profile(name)
    transit = {item.fid: (item.count, item.length) for item in profile.application(1).files}
    assert transit[0x15] == (0, 30) and transit[0x16] == (0, 55) and transit[0x17] == (0, 60)
    assert transit[0x18] == (10, 23) and transit[0x1E] == (30, 48) and transit[0x1A][1] == 48
    medical = {item.fid: (item.count, item.length) for item in profile.application(5).files}
    assert medical == {0x15: (0, 32), 0x19: (10, 32)}
    accounts = profile.application(4).file(0x19)
    assert accounts is not None and (accounts.count, accounts.length) == (8, 32)
    assert sum(item.size for item in profile.applications) < 0x8000
    for item in profile.applications[1:]:
        needed = item.key_file_size + sum((file.count or 1) * file.length for file in item.files)
        assert needed < item.size, f"application {item.number}"


Change = Callable[[dict[str, Any]], object]


def broken(change: Change) -> Profile:
    document = tomllib.loads((PROFILES / "shared-purse.toml").read_text(encoding="utf-8"))
    altered = copy.deepcopy(document)
    change(altered)
    assert altered != document
    return read_profile(altered, "broken.toml")


def another(place: int, fid: int, length: int = 10) -> Change:
    """One file more in the directory at this place."""
    file = {"fid": fid, "kind": "binary", "length": length, "read": 0xF0, "write": 0xEF, "protected": True}
    return lambda document: document["application"][place]["files"].append(file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(colour="red"), "'colour'"),
        (lambda d: d["application"][1].update(fee=1), r"application\[2\].*'fee'"),
        (lambda d: d["application"][0].update(size=1), r"application\[1\].*'size' is unknown, or unused"),
        (lambda d: d["application"][1]["files"][0].update(count=1), r"application\[2\]: files\[1\].*'count'"),
        (lambda d: d["application"][1]["keys"][2].update(tries=3), r"keys\[3\].*'tries'"),
        (lambda d: d["application"][1]["keys"][2]["ids"].update(aes=3), r"ids.*'aes'"),
        (lambda d: d["application"][1]["purse"].update(limit=3), "purse.*'limit'"),
        (lambda d: d.pop("pin"), "'pin' is missing"),
        (lambda d: d.update(pin="12345"), "pin has 6"),
        (lambda d: d.update(pin=123456), "'pin' takes a text"),
        (lambda d: d.update(log_counter="never"), "before, after"),
        (lambda d: d.update(overdraft_tac_key="half"), "folded, whole"),
        (lambda d: d.update(blocked_select="6283"), "fci-6283, 6a81"),
        (lambda d: d.update(psam_factor_order="city"), "card-city, city-card"),
        (lambda d: d.update(pin_unblock_place="p3"), "p2, p1"),
        (lambda d: d.update(sm4_session_key=1), "padded, complement"),
        (lambda d: d["application"][0].update(common_layout="pboc"), r"application\[1\].*'common_layout'"),
        (lambda d: d["application"][1].update(common_layout="own"), "pboc, construction-ministry"),
        (lambda d: d["application"][1]["files"][0].update(composites=["metro"]), "'composites' is unknown, or unused"),
        (lambda d: d["application"][1]["files"][4].update(composites=["tram"]), "metro, transfer"),
        (lambda d: d.update(suites=["des"]), "'suites' takes one of 3des, sm4"),
        (lambda d: d.update(suites=[]), "at least one suite"),
        (lambda d: d.update(suites="sm4"), "takes a list"),
        (lambda d: d.update(application=[1]), "takes tables"),
        (lambda d: d["application"].pop(0), "the MF. first"),
        (lambda d: d["application"].append(d["application"][1]), "different numbers"),
        (lambda d: d["application"][1].update(aid="xyz"), "bytes in hex"),
        (lambda d: d["application"][1].update(erase=256), "0 to 255"),
        (lambda d: d["application"][1].update(purse=5), "takes a table"),
        (lambda d: d["application"][1]["files"][0].update(protected="yes"), "true or false"),
        (lambda d: d["application"][1]["keys"].pop(0), "first key is the control key"),
        (lambda d: d["application"][3]["keys"].pop(1), "needs a maintenance key"),
        (lambda d: d["application"][1]["keys"].pop(8), "a purse needs a tac key"),
        (lambda d: d["application"][1]["keys"][3]["ids"].update(sm4=0x11), "same type and id"),
        (lambda d: d["application"][1]["files"].append(d["application"][1]["files"][0]), "same fid"),
        (another(1, 0x0035), r"application\[2\]: file 0035: field 'fid' has the short identifier 15 of file 0015"),
        (another(1, 0xEF02), "file EF02: field 'fid' has the short identifier 02 of file 0002"),
        (another(1, 0x0001), "file 0001: field 'fid' is that of a purse"),
        (another(2, 0x0002), "file 0002: field 'fid' is that of a purse"),
        (another(1, 0x0000), "file 0000: field 'fid' is reserved"),
        (another(0, 0x3F00), "file 3F00: field 'fid' is reserved"),
        (another(1, 0x0020), "file 0020: field 'fid' ends in no short identifier"),
        (another(1, 0x001F), "file 001F: field 'fid' ends in no short identifier"),
        (another(0, 0x3F04), r"application\[4\]: field 'fid' 3F04 is that of file 3F04 of the MF"),
        (another(1, 0x3F04), r"application\[2\]: file 3F04: field 'fid' is that of a directory"),
        (another(1, 0x0003, length=0), "fields 'length' and 'count' are at least 1"),
        (lambda d: d["application"][1]["files"][3].update(count=0), "file 0018: fields 'length' and 'count'"),
        (lambda d: d["application"][1].update(fid=0x0001), r"application\[2\]: field 'fid' 0001 is that of file 0001"),
        (lambda d: d["application"][3].update(fid=0x3F01), r"application\[4\]: field 'fid' 3F01 is that of .*\[2\]"),
        (lambda d: d["application"][3].update(fid=0x3FFF), "'fid' 3FFF is reserved"),
        (
            lambda d: d["application"][3].update(aid=d["application"][1]["aid"]),
            r"\[4\]: field 'aid' A0.* is that of .*\[2\]",
        ),
        (lambda d: d["application"][1].update(aid="AABB"), "field 'aid' has 5 to 16 bytes, not 2"),
        (lambda d: d["application"][1].update(size=2390), "field 'size' is 2390, and .* take 2391 bytes"),
        (lambda d: d["application"][1].update(create=0xF0), "field 'create' F0 gives that right to everyone"),
        (lambda d: d["application"][1].update(erase=0xF0), "field 'erase' F0"),
        (lambda d: d["application"][1]["key_file"].update(size=100), "too small for 12 keys"),
        (lambda d: d["application"][1]["purse"].update(log_sfi=0x17), "log_sfi names a cyclic"),
        (lambda d: d["application"][1].update(fid=0x3F00), "only the MF"),
        (lambda d: d["application"][1]["keys"][2].update(sector="air"), "takes one of transit"),
    ],
)
def test_faults_name_file_and_field(change: Change, named: str) -> None:
    with pytest.raises(ProfileError, match=named) as caught:
        broken(change)
    assert str(caught.value).startswith("broken.toml")


def test_one_suite_needs_no_ids_of_the_other() -> None:
    def only_sm4(document: dict[str, Any]) -> None:
        document["suites"] = ["sm4"]
        for application in document["application"]:
            for key in application["keys"]:
                del key["ids"]["3des"]

    profile = broken(only_sm4)
    assert profile.for_suite(Suite.SM4).key_index(1, KeyType.LOAD) == 0x11
    with pytest.raises(ProfileError, match="another suite"):
        profile.for_suite(Suite.TRIPLE_DES)


def test_unreadable_profiles_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="known are construction-ministry, purse-per-sector, shared-purse"):
        load_profile("one-purse")
    bad = tmp_path / "bad.toml"
    bad.write_text("name = ")
    with pytest.raises(ProfileError, match=r"bad\.toml"):
        load_profile(bad)
