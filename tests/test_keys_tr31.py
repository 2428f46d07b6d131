"""TR-31 key blocks, checked both ways against psec, and by every change of a block and of its attributes."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import psec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cardcore.errors import FormatError, KeyUseError, OnecardError
from cardcore.record import Suite
from keys.engine.root import RootKey
from keys.engine.weakness import weakness
from keys.pkcs11 import Missing, open_token_store
from keys.purposes import SCOPES, KeyId, KeyPurpose, KeyState
from keys.store import open_store
from keys.tr31 import ProtectionKey, Version, may_go_on, unwrap, wrap
from tests.softhsm import softhsm

TAC = KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1", 3)
SM4_TAC = KeyId(Suite.SM4, KeyPurpose.TAC, "1")
KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
LENGTHS = {Version.TDES: (16, 24), Version.AES: (16, 24, 32)}
shapes = st.sampled_from([(version, length) for version, lengths in LENGTHS.items() for length in lengths])


def protection(version: Version, key: bytes) -> ProtectionKey:
    """The protection key of these bytes, by two components."""
    mask = os.urandom(len(key))
    return ProtectionKey(version, [bytes(a ^ b for a, b in zip(key, mask, strict=True)).hex(), mask.hex()])


AES_KEY = bytes(range(32))
AES = protection(Version.AES, AES_KEY)


def foreign(header: str, key: bytes = KEY, under: bytes = AES_KEY) -> str:
    """A block as another party's software makes it."""
    return psec.tr31.KeyBlock(under, header).wrap(key)


def octets(root: RootKey) -> bytes:
    return root.undiversified().reveal()


def test_the_example_of_the_standard() -> None:
    """Version D of TR-31:2018, an AES-128 key for PINs under an AES-256 key: its mark holds, its usage is refused."""
    protecting = protection(
        Version.AES, bytes.fromhex("88E1AB2A2E3DD38C1FA039A536500CC8A87AB9D62DC92C01058FA79F44657DE6")
    )
    block = (
        "D0112P0AE00E0000B82679114F470F540165EDFBF7E250FCEA43F810D215F8D207E2E417C07156A2"
        "7E8E31DA05F7425509593D03A457DC34"
    )
    with pytest.raises(KeyUseError, match="usage is 'P0'"):
        unwrap(block, protecting, TAC)
    plain = protecting._open(block[:16], bytes.fromhex(block[16:80]), bytes.fromhex(block[80:]))
    assert plain[:18] == bytes.fromhex("00803F419E1CB7079442AA37474C2EFBF8B8")


@given(shapes, st.sampled_from(KeyPurpose), st.sampled_from(Suite), st.integers(1, 255), st.binary(min_size=48))
@settings(max_examples=80, deadline=None)
def test_psec_reads_what_we_write_and_we_read_it_too(
    shape: tuple[Version, int], purpose: KeyPurpose, suite: Suite, number: int, seed: bytes
) -> None:
    version, length = shape
    suite = Suite.SM4 if purpose in (KeyPurpose.RECORD, KeyPurpose.ENTRY) else suite
    if version is Version.TDES and suite is Suite.SM4:
        return
    protecting, key = secrets.token_bytes(length), seed[:8] + secrets.token_bytes(8)
    assume(not weakness(key, suite))
    root = RootKey(KeyId(suite, purpose, SCOPES[purpose][0], number), key)
    block = wrap(root, protection(version, protecting))
    theirs = psec.tr31.KeyBlock(protecting)
    assert theirs.unwrap(block) == key
    assert theirs.header.version_id == version
    assert theirs.header.version_num == f"{number:02X}"
    assert theirs.header.exportability == "N"
    assert theirs.header.algorithm == ("T" if suite is Suite.TRIPLE_DES else "4")
    assert theirs.header.blocks["LB"] == root.id.name
    back = unwrap(block, protection(version, protecting), root.id)
    assert (octets(back), back.id, back.state, back.test) == (key, root.id, KeyState.PRE_ACTIVE, False)


@given(shapes, st.sampled_from(["00", "03"]), st.sampled_from("EN"), st.binary(min_size=16, max_size=16))
@settings(max_examples=60, deadline=None)
def test_we_read_what_psec_writes(shape: tuple[Version, int], number: str, exportability: str, key: bytes) -> None:
    version, length = shape
    assume(not weakness(key, Suite.TRIPLE_DES))
    protecting = secrets.token_bytes(length)
    block = foreign(f"{version}0000E0TX{number}{exportability}0000", key, protecting)
    assert octets(unwrap(block, protection(version, protecting), TAC)) == key
    labelled = psec.tr31.KeyBlock(protecting, f"{version}0000E0TX{number}{exportability}0000")
    labelled.header.blocks["LB"] = "3des/TAC/1"
    assert octets(unwrap(labelled.wrap(key), protection(version, protecting), TAC)) == key


@pytest.mark.parametrize("version", Version)
def test_every_change_of_a_block_is_refused(version: Version) -> None:
    under = protection(version, bytes(range(16)))
    block = wrap(RootKey(TAC, KEY), under)
    assert octets(unwrap(block, under, TAC)) == KEY
    for place in range(len(block)):
        for other in "0F9AEX4 \n":
            changed = block[:place] + other + block[place + 1 :]
            if changed != block:
                with pytest.raises(OnecardError):
                    unwrap(changed, under, TAC)
    for cut in (block[:-1], block[:16], block[:-16], block + "00", block.lower(), "", f" {block}"):
        with pytest.raises(FormatError):
            unwrap(cut, under, TAC)


@given(st.text(max_size=120), st.text(alphabet="0123456789ABCDEFXTNDP", max_size=160))
def test_any_text_is_refused(text: str, body: str) -> None:
    for tried in (text, f"D{len(body) + 5:04d}{body}"):
        with pytest.raises(OnecardError):
            unwrap(tried, AES, TAC)


def test_another_protection_key_opens_nothing() -> None:
    block = wrap(RootKey(TAC, KEY), AES)
    with pytest.raises(KeyUseError, match="another protection key"):
        unwrap(block, protection(Version.AES, bytes(32)), TAC)
    with pytest.raises(KeyUseError, match="version D and the protection key of version B"):
        unwrap(block, protection(Version.TDES, bytes(range(16))), TAC)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("D0000P0TE03N0000", "usage is 'P0'"),
        ("D0000K0TE03N0000", "usage is 'K0'"),
        ("D0000E2TX03N0000", "usage is 'E2'"),
        ("D0000E0AX03N0000", "algorithm is 'A'"),
        ("D0000E0SX03N0000", "algorithm is 'S'"),
        ("D0000E04X03N0000", "algorithm is '4'"),
        ("D0000E0TE03N0000", "mode of use is 'E'"),
        ("D0000E0TN03N0000", "mode of use is 'N'"),
        ("D0000E0TX04N0000", "key version is '04'"),
        ("D0000E0TXc3N0000", "no TR-31 key block"),
        ("D0000E0TX03Q0000", "exportability is 'Q'"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(header: str, why: str) -> None:
    with pytest.raises(OnecardError, match=why):
        unwrap(foreign(header), AES, TAC)


def test_a_label_binds_a_block_to_its_key() -> None:
    block = wrap(RootKey(TAC, KEY), AES)
    with pytest.raises(KeyUseError, match="holds '3des/TAC/1', which is not 3des/LOAD/1"):
        unwrap(block, AES, KeyId(Suite.TRIPLE_DES, KeyPurpose.LOAD, "1", 3))
    with pytest.raises(KeyUseError, match="not 3des/TAC/3"):
        unwrap(block, AES, KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "3", 3))


def test_suites_do_not_pass_for_each_other() -> None:
    with pytest.raises(KeyUseError, match="algorithm is '4'"):
        unwrap(foreign("D0000E04X01N0000"), AES, KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1"))
    with pytest.raises(KeyUseError, match="algorithm is 'T'"):
        unwrap(foreign("D0000E0TX01N0000"), AES, SM4_TAC)
    with pytest.raises(KeyUseError, match="stronger than a TDES protection key"):
        wrap(RootKey(SM4_TAC, KEY), protection(Version.TDES, bytes(range(16))))


TWINS = KEY[:8] + bytes(byte ^ 1 for byte in KEY[:8])


@pytest.mark.parametrize("key", [bytes(24), KEY[:8], KEY[:8] * 2, TWINS, KEY + KEY[:8], b""])
def test_a_key_of_another_length_or_strength_is_refused(key: bytes) -> None:
    with pytest.raises(KeyUseError, match=r"no key of 16 bytes|two equal halves|single DES"):
        unwrap(foreign("D0000E0TX03N0000", key), AES, TAC)


def test_versions_a_and_c_are_refused() -> None:
    for version in "AC":
        block = psec.tr31.KeyBlock(bytes(range(16)), f"{version}0000E0TX03N0000").wrap(KEY)
        with pytest.raises(FormatError, match="version B or D"):
            unwrap(block, protection(Version.TDES, bytes(range(16))), TAC)


def test_the_test_mark_travels() -> None:
    block = wrap(RootKey(TAC, KEY, test=True), AES)
    assert unwrap(block, AES, TAC).test
    assert unwrap(foreign("D0000E0TX03N0000"), AES, TAC, test=True).test


def test_what_came_in_as_not_exportable_stays() -> None:
    with pytest.raises(KeyUseError, match="not exportable"):
        wrap(unwrap(wrap(RootKey(TAC, KEY), AES), AES, TAC), AES)
    onward = unwrap(wrap(RootKey(TAC, KEY), AES, onward=True), AES, TAC)
    assert octets(unwrap(wrap(onward, AES), AES, TAC)) == KEY


def test_a_block_says_nothing_twice() -> None:
    root = RootKey(TAC, KEY)
    assert wrap(root, AES) != wrap(root, AES)
    assert {len(wrap(RootKey(id, KEY), AES)) for id in (TAC, SM4_TAC)} == {len(wrap(root, AES))}


def test_protection_keys() -> None:
    parts = [secrets.token_hex(16) for _ in range(3)]
    key = bytes(a ^ b ^ c for a, b, c in zip(*map(bytes.fromhex, parts), strict=True))
    block = wrap(RootKey(TAC, KEY), ProtectionKey(Version.AES, parts))
    assert psec.tr31.KeyBlock(key).unwrap(block) == KEY
    wrong: list[tuple[Version, list[str], str]] = [
        (Version.AES, ["00" * 16], "two or more components"),
        (Version.AES, ["00" * 16, "00" * 24], "one length"),
        (Version.AES, ["00" * 8, "11" * 8], "16, 24, 32"),
        (Version.TDES, ["00" * 32, "11" * 32], "16, 24"),
        (Version.AES, ["zz" * 16, "00" * 16], "hexadecimal"),
        (Version.TDES, ["00" * 16, "0123456789abcdef" + "0022446688aaccee"], "single DES"),
        (Version.TDES, ["00" * 24, "0123456789abcdef" * 2 + "fedcba9876543210"], "single DES"),
        (Version.TDES, ["00" * 16, "01" * 8 + "fedcba9876543210"], "weak"),
    ]
    for version, components, why in wrong:
        with pytest.raises(OnecardError, match=why):
            ProtectionKey(version, components)
    # The check values that the standards give: CMAC over zeros for AES, the encipherment of zeros for TDES.
    assert ProtectionKey(Version.TDES, [KEY.hex(), "00" * 16]).kcv.hex().upper() == "08D7B4"
    assert repr(ProtectionKey(Version.TDES, [KEY.hex(), "00" * 16])) == "<ProtectionKey of version B KCV 08D7B4>"


def test_an_imported_key_works_in_a_store_and_a_token_gives_none(tmp_path: Path) -> None:
    root = unwrap(foreign("D0000E0TX03N0000"), AES, TAC, test=True, state=KeyState.ACTIVE)
    with open_store(tmp_path / "embedded") as store:
        store.admit([root])
        assert [fact.kcv.hex() for fact in store.inventory()] == ["08d7b4"]
    with (
        softhsm(tmp_path / "hsm") as token,
        open_token_store(token.uri, tmp_path / "keys", missing=Missing.LACK) as store,
    ):
        store.admit([root])
        assert [fact.kcv.hex() for fact in store.inventory()] == ["08d7b4"]
        with pytest.raises(KeyUseError, match="stays in its token"):
            wrap(store._roots[TAC], AES)


@pytest.mark.parametrize("show", [repr, str, "{!r:>9}".format, lambda thing: f"{thing}"])
def test_protection_keys_show_their_check_value_only(show: Callable[[object], str]) -> None:
    text = show(AES).lower()
    assert AES.kcv.hex() in text
    assert AES_KEY.hex() not in text
    assert AES._enciphering.hex() not in text


def with_optional(blocks: dict[str, str], under: bytes = AES_KEY, header: str = "D0000E0TX03E0000") -> str:
    """A block of another party with these optional blocks."""
    made = psec.tr31.KeyBlock(under, header)
    for name, content in blocks.items():
        made.header.blocks[name] = content
    return made.wrap(KEY)


@pytest.mark.parametrize("label", ["PROVINCE TAC KEY", "3des/TAC/1 of the province", "TAC", "sm4/TAC/1 x", ""])
def test_a_label_of_another_party_decides_nothing(label: str) -> None:
    root = unwrap(with_optional({"LB": label}), AES, TAC)
    assert (octets(root), root.test, may_go_on(root)) == (KEY, False, True)


@pytest.mark.parametrize("label", ["3des/LOAD/1", "sm4/TAC/1", "3des/TAC/3 TEST"])
def test_a_label_of_ours_is_of_the_named_key(label: str) -> None:
    with pytest.raises(KeyUseError, match="which is not 3des/TAC/1"):
        unwrap(with_optional({"LB": label}), AES, TAC)
    assert unwrap(with_optional({"LB": "3des/TAC/1 TEST"}), AES, TAC).test


@pytest.mark.parametrize("length", [1, 250, 251, 252, 300, 4_000])
@pytest.mark.parametrize("version", Version)
def test_an_optional_block_of_any_length(length: int, version: Version) -> None:
    """Beyond 255 characters the length itself is longer (00, and how many bytes it has)."""
    protecting = bytes(range(16))
    header = f"{version}0000E0TX03E0000"
    block = with_optional({"CT": "A" * length, "TS": "2026-01-01T00:00:00Z"}, protecting, header)
    under = protection(version, protecting)
    assert octets(unwrap(block, under, TAC)) == KEY
    for place in range(16, 40):
        changed = f"{block[:place]}{'1' if block[place] == '0' else '0'}{block[place + 1 :]}"
        with pytest.raises(OnecardError):
            unwrap(changed, under, TAC)


@pytest.mark.parametrize("size", ["0000", "0001", "0001FF", "00FF", "00020009", "0002FFFF", "00021", "03", "0G"])
def test_an_optional_block_of_no_length_is_refused(size: str) -> None:
    text = f"D0000E0TX03E0100CT{size}" + "0" * 96
    with pytest.raises(FormatError):
        unwrap(f"D{len(text):04d}{text[5:]}", AES, TAC)


def test_a_sensitive_root_comes_in_and_goes_no_further() -> None:
    """S allows handing on in weaker ways than a key block; here it is as not exportable."""
    root = unwrap(foreign("D0000E0TX03S0000"), AES, TAC)
    assert octets(root) == KEY
    with pytest.raises(KeyUseError, match="not exportable"):
        wrap(root, AES)
