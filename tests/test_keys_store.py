"""The embedded store: sealed, bound, refusing, and never showing a key."""

import asyncio
import os
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore.errors import FormatError, KeyUseError, RefusedError, SetupError
from cardcore.record import Suite
from keys import acts
from keys.ceremony import TEST_TRANSPORT_KEY, required_roots, test_ceremony
from keys.chain import Anchor
from keys.engine.block import Sealer
from keys.engine.kek import KekSource
from keys.engine.root import RootKey
from keys.loads import Quota, Quotas
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.status import status_of
from keys.store import FILE_NAME, EmbeddedStore, anchor_file, key_file, open_store
from tests.custody_side import Moment, approved, hold, move, staffed
from tests.test_keys_loads import COMPONENTS, QUOTAS, Noon, asked, spent


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
    assert len(names) == len(set(names)) == 2 * (4 + 4 * 4 + 2 + 4 * 7) + 2
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
    with pytest.raises(KeyUseError, match="changed by another hand"):
        open_store(tmp_path / "keys")


def test_a_production_store_refuses_test_keys_for_ever(tmp_path: Path) -> None:
    with open_store(tmp_path / "keys", production=True) as store:
        with pytest.raises(KeyUseError, match="production store"):
            test_ceremony(store, components())
        assert store.inventory() == []
        with pytest.raises(KeyUseError, match="no TEST key"):
            store.admit([RootKey(KeyId(Suite.SM4, KeyPurpose.TAC, "1"), bytes(range(16)))])
    with open_store(tmp_path / "keys") as store, pytest.raises(KeyUseError, match="production store"):
        test_ceremony(store, components())
    edit(tmp_path / "keys", "UPDATE store SET value = ? WHERE name = 'kind'", b"test")
    with pytest.raises(KeyUseError, match="does not open"):
        open_store(tmp_path / "keys")


def test_a_test_store_refuses_keys_of_production(tmp_path: Path) -> None:
    with open_store(tmp_path / "keys") as store, pytest.raises(KeyUseError, match="key of production"):
        store.admit([RootKey(KeyId(Suite.SM4, KeyPurpose.TAC, "1"), bytes(range(16)))])


def test_a_test_store_never_becomes_a_production_store(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    with pytest.raises(KeyUseError, match="founded as a test store"):
        open_store(tmp_path / "keys", production=True)


@pytest.mark.parametrize("kdf", [KekSource.ARGON2ID, KekSource.PBKDF2_SM3])
def test_a_passphrase_opens_and_another_does_not(tmp_path: Path, kdf: KekSource) -> None:
    path = tmp_path / "keys"
    with open_store(path, passphrase="一卡通 onecard 西安", passphrase_kdf=kdf) as store:
        test_ceremony(store, components())
    assert not key_file(path).exists()
    with open_store(path, passphrase="一卡通 onecard 西安") as store:
        assert len(store.inventory()) == len(required_roots()) + 2
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
        (parts | {"3des/TAC/1": (bytes(16), b"A" * 8 + b"@" * 8)}, "single DES"),
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
        assert [act for _, _, act, *_ in store.audit()] == ["ceremony"]


def test_an_empty_store_has_no_handles(tmp_path: Path) -> None:
    with open_store(tmp_path / "keys") as store:
        for getter in (store.tac_verifier, store.seal_verifier, store.act_verifier, store.personaliser):
            with pytest.raises(KeyUseError, match="no usable key"):
                getter()
        with pytest.raises(KeyUseError, match="no usable key"):
            load_authoriser(store)


def load_authoriser(store: EmbeddedStore) -> object:
    from keys.store import MachineClock

    return store.load_authoriser(MachineClock(), Quotas(Quota(1, 1), Quota(1, 1), Quota(1, 1)))


def test_the_audit_cannot_be_rewritten(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    for statement in ("UPDATE audit SET act = 'nothing'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            edit(tmp_path / "keys", statement)


# -- The file against whoever writes into it, or puts an older one back.


def small(folder: Path) -> Path:
    """A store with two keys, a rule's worth of custodians, a spent load and an audit, closed."""
    path = folder / "keys"
    with staffed(path, Moment()) as store:
        store.admit([test_root("sm4/LOAD/1"), test_root("sm4/TAC/1")])
        asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked()))
    return path


def test_root(name: str) -> RootKey:
    first, second = COMPONENTS[name]
    return RootKey(KeyId.parse(name), bytes(a ^ b for a, b in zip(first, second, strict=True)), test=True)


test_root.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name says to pytest


def facts_of(store: EmbeddedStore) -> object:
    """All that a store tells once it is open: keys, lives, rules, custodians, audit, quota."""
    state = store.book.state
    tables = [state.rows(name) for name in ("store", "block", "life", "rule", "custodian", "approval")]
    return tables, state.audit_rows(), state.quotas("2026-03-02"), spent(store), state.head(), store.inventory()


def told(path: Path) -> tuple[object, object]:
    """The facts, and the loads after everything was followed."""
    with open_store(path, clock=Moment()) as store:
        facts = facts_of(store)
        store.book.state.check_all()
        return facts, store.book.state._read("SELECT * FROM load")


def put(path: Path, octets: bytes) -> None:
    """The file as it is copied back: without the log of the one that was there."""
    for log in ("-wal", "-shm"):
        path.with_name(path.name + log).unlink(missing_ok=True)
    path.write_bytes(octets)


def test_every_flip_of_the_file_is_refused_or_means_nothing(tmp_path: Path) -> None:
    """Each byte that is not zero, and one of zero in forty: an open store tells what was written, or does not open."""
    path = small(tmp_path)
    database = sqlite3.connect(path / FILE_NAME, isolation_level=None)
    database.executescript("PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM; PRAGMA journal_mode = WAL;")
    database.close()
    right, original, anchor = told(path), (path / FILE_NAME).read_bytes(), anchor_file(path).read_bytes()
    places = [at for at, octet in enumerate(original) if octet or at % 60 == 0]
    refused = 0
    for at in places:
        turned = bytearray(original)
        turned[at] ^= 1 << at % 8
        put(path / FILE_NAME, bytes(turned))
        anchor_file(path).write_bytes(anchor)
        try:
            with open_store(path, clock=Moment()) as store:
                # What opens tells what was written, even before everything is followed.
                assert facts_of(store) == right[0], at
            assert told(path) == right, at
        except (KeyUseError, SetupError):
            refused += 1
    assert refused > len(places) * 0.8
    put(path / FILE_NAME, original)
    assert told(path) == right


def cells(path: Path) -> list[tuple[str, int, str]]:
    """Every cell of every table, but of SQLite's own."""
    database = sqlite3.connect(path / FILE_NAME)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = []
    for table in tables:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        for (rowid,) in database.execute(f"SELECT rowid FROM {table}").fetchall():  # noqa: S608
            found += [(table, rowid, column) for column in columns]
    database.close()
    return found


def forge(path: Path, *statements: str) -> None:
    """Write as one does who has the file, and knows SQL: no trigger is in the way."""
    database = sqlite3.connect(path / FILE_NAME, isolation_level=None)
    triggers = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
    for trigger in triggers:
        database.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        database.execute(statement)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def test_every_changed_cell_and_every_missing_row_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    original = (path / FILE_NAME).read_bytes()
    done = set()
    for table, rowid, column in cells(path):
        other = f"""CASE typeof({column}) WHEN 'integer' THEN 1000 - {column} WHEN 'text' THEN {column} || '0'
            ELSE CAST(substr({column}, 2) || x'00' AS BLOB) END"""
        change = f"UPDATE {table} SET {column} = {other} WHERE rowid = {rowid}"  # noqa: S608 - our own file
        for statement in (change, f"DELETE FROM {table} WHERE rowid = {rowid}"):  # noqa: S608
            # A load that is gone can only be asked for, and paid out of the quota, once more.
            if (table, statement[:6]) == ("load", "DELETE") or (table, column) == ("head", "one"):
                continue
            put(path / FILE_NAME, original)
            forge(path, statement)
            with pytest.raises((KeyUseError, SetupError)):
                told(path)
            done.add(table)
    assert done >= {"store", "block", "life", "custodian", "audit", "quota", "load", "head"}


def test_two_blocks_that_change_places_are_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    forge(path, "UPDATE block SET sealed = (SELECT other.sealed FROM block other WHERE other.name <> block.name)")
    with pytest.raises(KeyUseError, match="changed by another hand"):
        open_store(path)


def test_two_blocks_that_change_places_are_refused_even_under_a_right_head(tmp_path: Path) -> None:
    """The block itself says whose it is: behind the digest of the register stands a second wall."""
    path = small(tmp_path)
    with open_store(path) as store:
        one, other = store.book.state.blocks()
        swapped = [
            ("UPDATE block SET sealed = ? WHERE name = ?", (a[2], b[0])) for a, b in ((one, other), (other, one))
        ]
        store.book.state.change(swapped, [])
    with pytest.raises(KeyUseError, match="lies under the name"):
        open_store(path)


def test_a_spent_quota_cannot_be_given_back(tmp_path: Path) -> None:
    path = small(tmp_path)
    for statement in ("DELETE FROM quota", "UPDATE quota SET fen = 0", "UPDATE quota SET scope = 'x' || scope"):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy / "keys")
        for file in (key_file(path), anchor_file(path)):
            shutil.copy(file, copy / file.name)
        forge(copy / "keys", statement)
        with pytest.raises(KeyUseError, match="spent quota"):
            open_store(copy / "keys")
        shutil.rmtree(copy)


@settings(max_examples=12, deadline=None)
@given(back_to=st.integers(0, 5), done=st.integers(1, 6))
def test_an_older_file_is_refused(back_to: int, done: int) -> None:
    """Whatever was done, and however far back the copy lies."""
    with tempfile.TemporaryDirectory() as folder:
        path, copies = Path(folder) / "keys", []
        with open_store(path, clock=Moment()) as store:
            store.admit([test_root("sm4/LOAD/1")])
        for counter in range(done):
            copies.append((path / FILE_NAME).read_bytes())
            with open_store(path, clock=Moment()) as store:
                asyncio.run(
                    store.load_authoriser(Noon(), QUOTAS).authorise_load(
                        asked(counter=counter % 3, terminal=9000 + counter)
                    )
                ) if counter < 5 else store.book.state.record([("note", "", "")])
        put(path / FILE_NAME, copies[min(back_to, len(copies) - 1)])
        with pytest.raises(KeyUseError, match="an older copy was put back"):
            open_store(path)


def test_a_restored_backup_is_accepted_by_two_custodians_only(tmp_path: Path) -> None:
    path = small(tmp_path)
    clock = Moment()
    backup = (path / FILE_NAME).read_bytes()
    with open_store(path, clock=clock) as store:
        for _ in range(3):
            store.book.state.record([("note", "", "")])
    put(path / FILE_NAME, backup)
    with pytest.raises(KeyUseError, match="older copy"):
        open_store(path)
    with open_store(path, clock=clock, restored=True) as store:
        with pytest.raises(KeyUseError, match="nobody has accepted"):
            store.tac_verifier()
        with pytest.raises(RefusedError, match="two different custodians"):
            acts.accept_restored(store, approved(store, acts.ACCEPT_RESTORED, ["Li Na"]))
    with pytest.raises(KeyUseError, match="older copy"):
        open_store(path)
    with open_store(path, clock=clock, restored=True) as store:
        acts.accept_restored(store, approved(store, acts.ACCEPT_RESTORED))
        store.tac_verifier()
    with open_store(path, clock=clock) as store:
        assert store.audit()[-1][2] == "accept restored"
        with pytest.raises(KeyUseError, match="nothing to accept"):
            acts.accept_restored(store, [])


def test_an_anchor_lost_foreign_or_cut(tmp_path: Path) -> None:
    path = small(tmp_path)
    file = anchor_file(path)
    whole = file.read_bytes()
    for start, end in ((0, len(whole)), (0, 512), (512, len(whole))):
        file.write_bytes(whole[:start] + bytes(end - start) + whole[end:])
        if (start, end) == (0, len(whole)):
            with pytest.raises(KeyUseError, match="another store or was changed"):
                open_store(path)
        else:
            # One slot is as good as two: a cut in the middle of a write costs nothing.
            open_store(path).close()
    file.unlink()
    with pytest.raises(KeyUseError, match=r"anchor .* cannot be read"):
        open_store(path)
    other = tmp_path / "other"
    other.mkdir()
    small(other)
    shutil.copy(anchor_file(other / "keys"), file)
    with pytest.raises(KeyUseError, match="another store or was changed"):
        open_store(path)


def test_another_history_of_the_same_length_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    before, anchor = (path / FILE_NAME).read_bytes(), anchor_file(path).read_bytes()
    with open_store(path) as store:
        store.book.state.record([("note", "one", "")])
    newer = anchor_file(path).read_bytes()
    put(path / FILE_NAME, before)
    anchor_file(path).write_bytes(anchor)
    with open_store(path) as store:
        store.book.state.record([("note", "other", "")])
    anchor_file(path).write_bytes(newer)
    with pytest.raises(KeyUseError, match="its history is another one"):
        open_store(path)


def test_a_use_whose_anchor_cannot_be_written_is_not_answered(tmp_path: Path) -> None:
    path = small(tmp_path)
    with open_store(path) as store:
        store.book.state.anchor = Anchor(tmp_path / "gone" / "anchor")
        with pytest.raises(KeyUseError, match="was not answered"):
            asyncio.run(store.load_authoriser(Noon(), QUOTAS).authorise_load(asked(counter=9)))
        assert spent(store) == Quota(2, 20_000)


def test_a_store_of_an_older_form_says_so(tmp_path: Path) -> None:
    path = small(tmp_path)
    edit(path, "PRAGMA user_version = 1")
    with pytest.raises(KeyUseError, match="form 1"):
        open_store(path)


def test_status_says_what_is_not_fit(tmp_path: Path) -> None:
    path = small(tmp_path)
    with open_store(path, clock=Moment()) as store:
        found = status_of(store, {"ONECARD_PASSPHRASE": "x"})
        words = " ".join(found.unfit)
        missing = f"{len(required_roots()) - 2} roots"
        for word in ("TEST keys", "ONECARD_PASSPHRASE", "embedded", "disk of the store", missing, "lies in a file"):
            assert word in words, word
        assert not [key for key in COMPONENTS if test_root(key).undiversified().reveal().hex() in words]
        (total, operator, terminal) = found.quotas
        assert (operator.scope, operator.spent) == ("operator 902", Quota(1, 10_000))
        assert (total.scope, total.spent, total.left) == ("total", Quota(1, 10_000), Quota(4, 90_000))
        assert terminal.left == Quota(2, 50_000)
        anchor_file(path).unlink()
        assert "no rollback anchor" in " ".join(status_of(store, {}).unfit)


def test_a_complete_production_store_keeps_only_what_is_true_of_any(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Moment()
    with staffed(path, clock, production=True, passphrase="a passphrase of its own") as store:
        names = [name for name in required_roots() if name.startswith("sm4/")]
        hold(store, names, tmp_path / "t.txt")
        ids = [KeyId.parse(name) for name in names]
        for step in (acts.Move.ROLL_OUT, acts.Move.PROMOTE):
            move(store, step, *ids)
        words = status_of(store, {}).unfit
    assert len(words) == 3 and "embedded" in words[1] and "disk of the store" in words[2]
    missing = [name for name in required_roots() if not name.startswith("sm4/")]
    assert words[0].startswith(f"{len(missing)} roots of docs/card.md have no active version, the first is 3des/ACT/2")
