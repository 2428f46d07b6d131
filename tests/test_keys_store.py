"""The embedded store: sealed, bound, refusing, and never showing a key."""

import os
import secrets
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cardcore.errors import FormatError, KeyUseError, SetupError
from cardcore.record import Suite
from keys.ceremony import TEST_TRANSPORT_KEY, required_roots, test_ceremony
from keys.engine.block import Sealer
from keys.engine.kek import KekSource
from keys.engine.root import RootKey
from keys.loads import Quota, Quotas
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.store import FILE_NAME, EmbeddedStore, key_file, open_store


def components() -> dict[str, tuple[bytes, bytes]]:
    return {name: (secrets.token_bytes(16), secrets.token_bytes(16)) for name in required_roots()}


def filled(path: Path) -> dict[str, tuple[bytes, bytes]]:
    parts = components()
    with open_store(path) as store:
        test_ceremony(store, parts)
    return parts


def edit(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path / FILE_NAME, isolation_level=None)
    database.execute(statement, values)
    database.close()


def test_required_roots_are_those_of_the_card_contract() -> None:
    names = required_roots()
    assert len(names) == len(set(names)) == 2 * (3 + 4 * 3 + 2 + 4 * 6) + 1
    assert {"3des/PURCHASE/transit", "sm4/TAC/4", "sm4/ACT/5", "3des/PIN_RELOAD/0", "sm4/RECORD"} <= set(names)
    assert not {"3des/RECORD", "sm4/TAC/2", "sm4/TRANSPORT"} & set(names)
    assert [KeyId.parse(name).name for name in names] == names


def test_opening_a_store_twice_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    # Another process that closes last in its own eyes deletes the write-ahead log, unless our locks tell it better.
    path = tmp_path / "keys"
    filled(path)
    with open_store(path) as first:
        open_store(path).close()
        first.personaliser()
        command = (
            "import sys, pathlib; from keys.store import open_store; open_store(pathlib.Path(sys.argv[1])).close()"
        )
        subprocess.run([sys.executable, "-c", command, str(path)], check=True)
        assert (path / f"{FILE_NAME}-wal").exists()
    database = sqlite3.connect(path / FILE_NAME)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.parametrize("name", ["aes/TAC/1", "sm4/TAC/2", "sm4/MAC/1", "3des/RECORD", "sm4/TAC", "", "sm4/tac/1"])
def test_names_of_no_key_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        KeyId.parse(name)


def test_a_store_opens_again_with_the_same_keys(tmp_path: Path) -> None:
    parts = filled(tmp_path / "keys")
    with open_store(tmp_path / "keys") as store:
        facts = {fact.id.name: fact for fact in store.inventory()}
    assert set(facts) == {*required_roots(), "sm4/TRANSPORT", "3des/TRANSPORT"}
    for name, (first, second) in parts.items():
        value = bytes(a ^ b for a, b in zip(first, second, strict=True))
        assert facts[name].kcv == RootKey(KeyId.parse(name), value).kcv
        assert facts[name].test and facts[name].state is KeyState.ACTIVE


def test_no_key_lies_in_the_files_of_a_store(tmp_path: Path) -> None:
    parts = filled(tmp_path / "keys")
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    secrets_ = [TEST_TRANSPORT_KEY]
    for first, second in parts.values():
        secrets_ += [first, second, bytes(a ^ b for a, b in zip(first, second, strict=True))]
    assert not [secret for secret in secrets_ if secret in files or secret.hex().encode() in files]


def test_files_are_closed_to_others(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    for file, mode in (
        (tmp_path / "keys", 0o700),
        (tmp_path / "keys" / FILE_NAME, 0o600),
        (key_file(tmp_path / "keys"), 0o600),
    ):
        assert stat.S_IMODE(file.stat().st_mode) == mode
    key_file(tmp_path / "keys").chmod(0o640)
    with pytest.raises(KeyUseError, match="open to other users"):
        open_store(tmp_path / "keys")


def test_every_flip_of_a_block_is_refused() -> None:
    sealer = Sealer(os.urandom(16))
    block = sealer.seal(RootKey(KeyId(Suite.SM4, KeyPurpose.LOAD, "1"), os.urandom(16), test=True))
    assert sealer.open(block).test
    for place in range(len(block)):
        for bit in range(8):
            turned = bytearray(block)
            turned[place] ^= 1 << bit
            with pytest.raises(KeyUseError):
                sealer.open(bytes(turned))
    for cut in (block[:-1], block + b"\0", block[:10], b""):
        with pytest.raises(KeyUseError):
            sealer.open(cut)
    with pytest.raises(KeyUseError):
        Sealer(os.urandom(16)).open(block)


def test_seals_of_one_key_differ() -> None:
    sealer, root = Sealer(bytes(16)), RootKey(KeyId(Suite.SM4, KeyPurpose.TAC, "1"), bytes(range(16)))
    assert sealer.seal(root) != sealer.seal(root)


def test_a_block_under_another_name_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    edit(
        tmp_path / "keys",
        "UPDATE block SET sealed = (SELECT sealed FROM block WHERE name = 'sm4/TAC/1') WHERE name = 'sm4/LOAD/1'",
    )
    with pytest.raises(KeyUseError, match="lies under the name sm4/LOAD/1"):
        open_store(tmp_path / "keys")


def test_a_production_store_refuses_test_keys_for_ever(tmp_path: Path) -> None:
    with open_store(tmp_path / "keys", production=True) as store:
        with pytest.raises(KeyUseError, match="production store"):
            test_ceremony(store, components())
        assert store.inventory() == []
    with open_store(tmp_path / "keys") as store, pytest.raises(KeyUseError, match="production store"):
        test_ceremony(store, components())
    edit(tmp_path / "keys", "UPDATE store SET value = ? WHERE name = 'kind'", b"test")
    with pytest.raises(KeyUseError, match="does not open"):
        open_store(tmp_path / "keys")


def test_a_test_store_never_becomes_a_production_store(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    with pytest.raises(KeyUseError, match="founded as a test store"):
        open_store(tmp_path / "keys", production=True)


@pytest.mark.parametrize("kdf", [KekSource.ARGON2ID, KekSource.PBKDF2_SM3])
def test_a_passphrase_opens_and_another_does_not(tmp_path: Path, kdf: KekSource) -> None:
    path = tmp_path / "keys"
    with open_store(path, passphrase="一卡通 onecard", passphrase_kdf=kdf) as store:
        test_ceremony(store, components())
    assert not key_file(path).exists()
    with open_store(path, passphrase="一卡通 onecard") as store:
        assert len(store.inventory()) == 85
    for wrong in ("onecard", None):
        with pytest.raises(KeyUseError, match="passphrase"):
            open_store(path, passphrase=wrong)


def test_lost_or_foreign_key_files(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    file = key_file(tmp_path / "keys")
    original = file.read_text()
    file.write_text(secrets.token_hex(16))
    with pytest.raises(KeyUseError, match="does not open"):
        open_store(tmp_path / "keys")
    for text in ("not hex", "00ff"):
        file.write_text(text)
        with pytest.raises(KeyUseError, match="restore it"):
            open_store(tmp_path / "keys")
    file.unlink()
    with pytest.raises(KeyUseError, match="cannot be read"):
        open_store(tmp_path / "keys")
    file.write_text(original)
    file.chmod(0o600)
    open_store(tmp_path / "keys").close()


def test_a_key_file_without_its_store_is_not_overwritten(tmp_path: Path) -> None:
    key_file(tmp_path / "keys").write_text(secrets.token_hex(16))
    with pytest.raises(SetupError, match="exists, but its store does not"):
        open_store(tmp_path / "keys")


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        open_store(tmp_path / "file")


def test_the_ceremony_wants_exactly_its_keys(tmp_path: Path) -> None:
    parts = components()
    wrong = [
        ({name: parts[name] for name in parts if name != "sm4/RECORD"}, "sm4/RECORD"),
        (parts | {"sm4/TRANSPORT": parts["sm4/RECORD"]}, "no root key"),
        (parts | {"sm4/RECORD": (bytes(16), bytes(15))}, "16 bytes each"),
        (parts | {"3des/TAC/1": (bytes(16), b"A" * 16)}, "equal halves"),
    ]
    with open_store(tmp_path / "keys") as store:
        for mapping, why in wrong:
            with pytest.raises((FormatError, KeyUseError), match=why):
                test_ceremony(store, mapping)
            assert store.inventory() == []


def test_a_ceremony_may_be_repeated_but_not_changed(tmp_path: Path) -> None:
    parts = components()
    with open_store(tmp_path / "keys") as store:
        first = test_ceremony(store, parts)
        assert test_ceremony(store, parts) == first
        with pytest.raises(KeyUseError, match="another value"):
            test_ceremony(store, parts | {"sm4/TAC/1": (bytes(16), bytes(range(16)))})
        assert {fact.id.name: fact.kcv for fact in store.inventory()} == first
        assert [act for _, _, act, _, _ in store.audit()] == ["ceremony"]


def test_an_empty_store_has_no_handles(tmp_path: Path) -> None:
    with open_store(tmp_path / "keys") as store:
        for getter in (store.tac_verifier, store.seal_verifier, store.act_verifier, store.personaliser):
            with pytest.raises(KeyUseError, match="no usable key"):
                getter()
        with pytest.raises(KeyUseError, match="no usable key"):
            load_authoriser(store)


def load_authoriser(store: EmbeddedStore) -> object:
    from keys.store import MachineClock

    return store.load_authoriser(MachineClock(), Quotas(Quota(1, 1), Quota(1, 1)))


def test_the_audit_cannot_be_rewritten(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    for statement in ("UPDATE audit SET act = 'nothing'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            edit(tmp_path / "keys", statement)
