"""The store in a token, where it is a token: what cannot be got out of it, what is said at start-up, and what happens
when PIN, token, module or directory are not what they should be. A real SoftHSM2, one for each test."""

import ast
import asyncio
import inspect
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, Mechanism

import keys.pkcs11.store
from cardcore.authority import Under
from cardcore.errors import KeyUseError, SetupError
from cardcore.record import Kind, Suite
from keys.engine.root import RootKey
from keys.pkcs11 import Missing, TokenStore, open_token_store
from keys.pkcs11.hsm import Hsm
from keys.pkcs11.limits import limits_of
from keys.pkcs11.root import TokenRoot
from keys.pkcs11.store import FILE_NAME
from keys.purposes import KeyId, KeyPurpose, required_roots
from keys.tr31 import ProtectionKey, unwrap, wrap
from keys.verifiers import Verdict
from tests import test_keys_reference as reference
from tests.softhsm import PIN, SoftHsm, softhsm
from tests.test_keys_conformance import OTHER_ISSUER, Kept, Place, asked, batch, card, filled, rides, root
from tests.test_keys_loads import QUOTAS, Noon

CHALLENGE = bytes(4)
SUITE = Suite.TRIPLE_DES


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftHsm]:
    with softhsm(tmp_path / "hsm") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def place(token: SoftHsm, folder: Path) -> Place:
    return Place(Kept.TOKEN_ONLY, folder, token)


@pytest.fixture
def store(token: SoftHsm, folder: Path) -> Iterator[TokenStore]:
    """A store that holds its keys, in that token."""
    copied = filled(Kept.TOKEN_ONLY)
    shutil.rmtree(token.folder / "tokens")
    shutil.copytree(copied / "hsm" / "tokens", token.folder / "tokens")
    for part in copied.glob("keys*"):
        (shutil.copytree if part.is_dir() else shutil.copy2)(part, folder.parent / part.name)
    with opened(token, folder) as made:
        yield made


def opened(token: SoftHsm, folder: Path) -> TokenStore:
    return open_token_store(token.uri, folder, missing=Missing.LACK)


# --- what cannot be got out


def in_token(store: TokenStore, act: Callable[[dict[str, pkcs11.SecretKey]], object]) -> object:
    """Speak with the token as its owner could, by the store's own login."""
    return store._hsm._submit(lambda: act(store._hsm._keys)).result()


LABEL = "onecard 3des/TAC/1 v1 TEST"


@pytest.mark.parametrize("label", [LABEL, "onecard seal", "onecard 3des/TRANSPORT v1 TEST left"])
def test_the_token_gives_no_key_away(label: str, store: TokenStore) -> None:
    def attack(keys: dict[str, pkcs11.SecretKey]) -> None:
        key = keys[label]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[Attribute.VALUE]
        session = key.session
        carrier = session.generate_key(pkcs11.KeyType.AES, 256, template={Attribute.WRAP: True})
        willing = session.generate_key(pkcs11.KeyType.AES, 128, template={Attribute.EXTRACTABLE: True})
        assert len(carrier.wrap_key(willing, mechanism=Mechanism.AES_KEY_WRAP)) == 24  # type: ignore[attr-defined]
        with pytest.raises(pkcs11.KeyUnextractable):
            carrier.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)  # type: ignore[attr-defined]  # a mixin
        for attribute, value in ((Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False), (Attribute.LABEL, "x")):
            with pytest.raises(pkcs11.PKCS11Error):
                key[attribute] = value
        with pytest.raises(pkcs11.PKCS11Error):
            key.copy({Attribute.LABEL: "onecard 3des/TAC/1 v1"})
        assert key[Attribute.PRIVATE]
        for power in (Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP, Attribute.VERIFY):
            assert not key[power]
        assert key[Attribute.SIGN] is (label == "onecard seal")

    in_token(store, attack)


def test_the_key_of_an_issuer_stays_in_the_token(store: TokenStore) -> None:
    store.tac_verifier().verify(batch(*rides(SUITE, 10)))

    def attack(_: object) -> None:
        children = list(store._hsm._children.values())
        assert len(children) == 6  # two issuers, three purses
        for child in children:
            with pytest.raises(pkcs11.AttributeSensitive):
                child[Attribute.VALUE]
            assert not child[Attribute.EXTRACTABLE]
            assert not any(child[power] for power in (Attribute.DECRYPT, Attribute.WRAP, Attribute.DERIVE))

    in_token(store, attack)


def test_no_root_leaves_its_place(store: TokenStore) -> None:
    roots = [held for held in store._roots.values() if isinstance(held, TokenRoot)]
    assert len(roots) == len(place_names())
    for held in roots:
        with pytest.raises(KeyUseError, match="stays in its token"):
            held.undiversified().reveal()
    with pytest.raises(KeyUseError, match="stays in its token"):
        store._roots[KeyId(SUITE, KeyPurpose.TRANSPORT)].undiversified().child(bytes(8))


def place_names() -> list[str]:
    return [name for name in required_roots() if name.startswith("3des/")] + ["3des/TRANSPORT"]


def test_a_readable_key_is_not_worked_with(token: SoftHsm, folder: Path, store: TokenStore) -> None:
    store.close()
    library = pkcs11.lib(str(token.module))
    with library.get_token(token_label="onecard").open(rw=True, user_pin=PIN) as session:
        open_key = {
            Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: pkcs11.KeyType.DES2,
            Attribute.VALUE: bytes(range(16)), Attribute.LABEL: "onecard 3des/TAC/1 v2", Attribute.TOKEN: True,
            Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True,
        }  # fmt: skip
        session.create_object(open_key)
    library.finalize()
    with pytest.raises(KeyUseError, match=r"TAC/1 v2' of the token can be read"):
        opened(token, folder)


def test_other_rooms_see_the_store_and_not_the_token() -> None:
    root_folder = Path(__file__).resolve().parents[1]
    for package in ("cardcore", "clearing", "readers", "simulators", "onecard"):
        for path in (root_folder / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in names if name.startswith(("keys.pkcs11.", "pkcs11"))], path


def test_what_other_rooms_see_takes_and_gives_no_key_bytes() -> None:
    public = (*(getattr(keys.pkcs11, name) for name in keys.pkcs11.__all__), ProtectionKey, wrap, unwrap)
    crossing = set()
    for thing in public:
        members = [member for name, member in vars(thing).items() if not name.startswith("_")]
        for function in [thing, *(members if inspect.isclass(thing) else [])]:
            if callable(function) and function is not keys.pkcs11.Missing:
                signature = inspect.signature(function)
                hints = [str(one.annotation) for one in signature.parameters.values()]
                if any(word in hint for hint in [*hints, str(signature.return_annotation)] for word in SECRET):
                    crossing.add(function.__qualname__)
    # Sealed rows on their way into the file.
    assert crossing == {"TokenStore.rows_of"}


SECRET = ("bytes", "uint8", "SuiteKey", "SessionKey")


# --- what is said at start-up


def test_what_the_token_lacks_is_said_when_it_opens(token: SoftHsm, folder: Path) -> None:
    with pytest.raises(SetupError, match=r"no CKM_SM4_ECB.*sm4/TAC.*\(53 keys\).*missing"):
        open_token_store(token.uri, folder)
    assert not folder.exists()
    with opened(token, folder) as store:
        suite, psams = store.limits
        assert suite.mechanism == "CKM_SM4_ECB"
        wanted = {name for name in required_roots() if name.startswith("sm4/")} | {"sm4/TRANSPORT"}
        assert set(suite.keys) == wanted
        assert set(psams.keys) == {name for name in required_roots() if name.startswith("3des/PURCHASE/")}
        with pytest.raises(KeyUseError, match=r"sm4/TAC/1 v1 cannot be kept: the token has no CKM_SM4_ECB"):
            store.admit([RootKey(KeyId.parse("3des/TAC/1"), root("3des/TAC/1"), test=True),
                         RootKey(KeyId.parse("sm4/TAC/1"), root("sm4/TAC/1"), test=True)])  # fmt: skip
        assert store.inventory() == []
        assert store._hsm.labels() == {"onecard seal"}


def lack(patch: pytest.MonkeyPatch, mechanism: str) -> None:
    """The token does all it did; the store reads from it that it cannot do this."""
    patch.setattr(keys.pkcs11.store, "limits_of", lambda found, missing: limits_of(found - {mechanism}, missing))


def test_a_token_without_a_mechanism_of_3des(token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "CKM_DES3_ECB_ENCRYPT_DATA")
    for missing in (Missing.REFUSE, Missing.LACK):
        with pytest.raises(SetupError, match=r"no CKM_DES3_ECB_ENCRYPT_DATA; .*3des/TAC.*CKM_SM4_ECB"):
            open_token_store(token.uri, folder, missing=missing)
    # Sealed under the token, all keys do all they did; the token then guards them at rest only.
    with open_token_store(token.uri, folder, missing=Missing.SEAL) as store:
        store.admit([RootKey(KeyId.parse(f"{label}/TAC/{purse}"), root(f"{label}/TAC/{purse}"), test=True)
                     for label in ("3des", "sm4") for purse in (1, 3, 4)])  # fmt: skip
        assert store._hsm.labels() == {"onecard seal"}
        verdicts = store.tac_verifier().verify(batch(*rides(SUITE, 20), *rides(Suite.SM4, 20)))
        assert set(verdicts.tolist()) == {Verdict.OK}
    with pytest.raises(SetupError, match="no CKM_DES3_ECB_ENCRYPT_DATA"):
        opened(token, folder)


def test_sealed_keys_are_opened_by_those_who_accept_it(token: SoftHsm, folder: Path) -> None:
    with open_token_store(token.uri, folder, missing=Missing.SEAL) as store:
        store.admit([RootKey(KeyId.parse("sm4/RECORD"), root("sm4/RECORD"), test=True)])
    with pytest.raises(KeyUseError, match="sm4/RECORD v1 lies sealed under the token"):
        opened(token, folder)


def test_a_token_that_cannot_bind_a_store(token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "CKM_AES_CMAC")
    with pytest.raises(SetupError, match="no CKM_AES_CMAC"):
        open_token_store(token.uri, folder, missing=Missing.SEAL)
    assert not folder.exists()


# --- PIN, token, module, directory


def test_a_wrong_pin_is_tried_once(token: SoftHsm, folder: Path, store: TokenStore) -> None:
    store.close()
    token.pin_file.write_text("999999")
    with pytest.raises(SetupError, match="refuses the PIN"):
        opened(token, folder)
    token.pin_file.write_text(PIN)
    with opened(token, folder) as again:
        # The PIN changes while the session breaks: one try, however often the handles are asked.
        tried: list[int] = []
        token.pin_file.write_text("999999")
        break_session(again)
        logged_in, verifier = Hsm._token, again.tac_verifier()
        Hsm._token = lambda hsm, of: (tried.append(1), logged_in(hsm, of))[1]  # type: ignore[method-assign, assignment]
        try:
            for _ in range(5):
                with pytest.raises(KeyUseError, match="refuses the PIN"):
                    verifier.verify(batch(*rides(SUITE, 1)))
        finally:
            Hsm._token = logged_in  # type: ignore[method-assign]
        assert len(tried) == 1


def break_session(store: TokenStore) -> None:
    """What a pulled plug does to a module: every session of it is gone."""
    store._hsm._submit(lambda: store._hsm._lib.finalize()).result()


def test_pins_come_from_closed_files_or_the_environment(
    token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.pin_file.chmod(0o640)
    with pytest.raises(SetupError, match="open to other users"):
        opened(token, folder)
    token.pin_file.unlink()
    with pytest.raises(SetupError, match="PIN cannot be read"):
        opened(token, folder)
    by_name = token.uri.replace(f"file:{token.pin_file}", "env:ONECARD_TEST_PIN")
    with pytest.raises(SetupError, match="ONECARD_TEST_PIN does not hold"):
        open_token_store(by_name, folder, missing=Missing.LACK)
    monkeypatch.setenv("ONECARD_TEST_PIN", PIN)
    open_token_store(by_name, folder, missing=Missing.LACK).close()
    absolute = token.uri.replace("file:", "")
    token.pin_file.touch(0o600)
    token.pin_file.write_text(PIN)
    open_token_store(absolute, folder, missing=Missing.LACK).close()


def test_a_missing_or_doubtful_token(token: SoftHsm, folder: Path) -> None:
    with pytest.raises(SetupError, match="no tokens match pkcs11:token=elsewhere"):
        open_token_store(token.uri.replace("token=onecard", "token=elsewhere"), folder)
    token.initialise("onecard")
    with pytest.raises(SetupError, match="2 tokens match"):
        opened(token, folder)


@pytest.mark.parametrize("kind", ["absent", "text", "another library"])
def test_a_module_that_is_none(kind: str, token: SoftHsm, folder: Path, tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    if kind == "text":
        module.write_text("this is no library")
    if kind == "another library":
        module = Path(sqlite3.__file__).parent.parent / "lib-dynload" / "_sqlite3.cpython-311-x86_64-linux-gnu.so"
    with pytest.raises(SetupError, match="cannot be loaded"):
        open_token_store(token.uri.replace(str(token.module), str(module)), folder)


def test_the_binding_is_an_extra(token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pkcs11", None)
        with pytest.raises(SetupError, match=r"install onecard\[pkcs11\]"):
            opened(token, folder)
    opened(token, folder).close()


def test_one_module_is_open_once(token: SoftHsm, folder: Path, store: TokenStore) -> None:
    with pytest.raises(KeyUseError, match="in use in this program already"):
        opened(token, folder)
    assert set(store.tac_verifier().verify(batch(*rides(SUITE, 5))).tolist()) == {Verdict.OK}


def test_token_and_directory_belong_together(token: SoftHsm, folder: Path, tmp_path: Path, store: TokenStore) -> None:
    store.close()
    with pytest.raises(KeyUseError, match="spent quota and audit would be lost"):
        opened(token, tmp_path / "elsewhere")
    token.initialise("second")
    second = replace(token, label="second")
    with pytest.raises(KeyUseError, match="belongs to another token"):
        opened(second, folder)
    opened(second, tmp_path / "second").close()
    with pytest.raises(KeyUseError, match=r"belongs to another token|changed"):
        opened(second, folder)
    opened(token, folder).close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE block SET sealed = (SELECT sealed FROM block WHERE name = '3des/TAC/3') WHERE name = '3des/TAC/1'",
        "UPDATE block SET sealed = CAST(replace(CAST(sealed AS TEXT), 'TEST', '-') AS BLOB) WHERE name = '3des/TAC/1'",
        "UPDATE block SET name = '3des/LOAD/1', version = 9 WHERE name = '3des/TAC/1'",
    ],
)
def test_a_changed_row_is_refused(change: str, token: SoftHsm, folder: Path, store: TokenStore) -> None:
    store.close()
    database = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    database.execute(change)
    database.close()
    with pytest.raises(KeyUseError):
        opened(token, folder)


# --- while it runs


def test_an_unplugged_token_answers_when_it_is_back(token: SoftHsm, folder: Path, store: TokenStore) -> None:
    verifier, authoriser = store.tac_verifier(), store.load_authoriser(Noon(), QUOTAS)
    away = token.folder / "unplugged"
    (token.folder / "tokens").rename(away)
    (token.folder / "tokens").mkdir()
    break_session(store)
    for _ in range(2):
        with pytest.raises(KeyUseError, match=r"does not answer.*no tokens match"):
            verifier.verify(batch(*rides(SUITE, 3)))
    with pytest.raises(KeyUseError, match="does not answer"):
        asyncio.run(authoriser.authorise_load(asked(SUITE)))
    with pytest.raises(KeyUseError, match="does not answer"):
        asyncio.run(store.personaliser().authenticate(card(SUITE), 0, Under.CONTROL, CHALLENGE))
    assert store._state.spent("2026-03-02", "total").loads == 0
    (token.folder / "tokens").rmdir()
    away.rename(token.folder / "tokens")
    assert set(verifier.verify(batch(*rides(SUITE, 20))).tolist()) == {Verdict.OK}
    assert len(asyncio.run(authoriser.authorise_load(asked(SUITE))).mac2) == 4


def test_another_token_under_the_same_name_is_not_taken(token: SoftHsm, store: TokenStore) -> None:
    token.delete("onecard")
    token.initialise("onecard")
    break_session(store)
    with pytest.raises(KeyUseError, match="another token than before"):
        store.tac_verifier().verify(batch(*rides(SUITE, 1)))


def test_a_broken_session_is_opened_anew(store: TokenStore) -> None:
    verifier = store.tac_verifier()
    for _ in range(3):
        assert set(verifier.verify(batch(*rides(SUITE, 20))).tolist()) == {Verdict.OK}
        break_session(store)
    break_session(store)
    answer = asyncio.run(store.personaliser().authenticate(card(SUITE), 0, Under.TRANSPORT, CHALLENGE))
    assert answer == reference.ede(b"TEST TRANSPORT 1", bytes(8))


def test_a_batch_is_one_call_for_each_parent_key(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = Hsm._ecb
    monkeypatch.setattr(
        Hsm, "_ecb", staticmethod(lambda key, blocks: (calls.append(len(blocks)), whole(key, blocks))[1])
    )
    # Debits under one root, each card of one issuer.
    many = [
        ride
        for ride in rides(SUITE, 400)
        if ride.purse == 1 and ride.kind == Kind.DEBIT and ride.card[-1] % 2 == (ride.issuer == OTHER_ISSUER)
    ]
    assert len(many) > 40
    assert {ride.issuer for ride in many} == {reference.ISSUER, OTHER_ISSUER}
    assert set(store.tac_verifier().verify(batch(*many)).tolist()) == {Verdict.OK}
    # 16 bytes a card, whatever the number of its records.
    assert sum(calls) == 16 * len({(ride.issuer, ride.card) for ride in many})
    assert len(calls) == 2


def test_many_threads_have_one_token(store: TokenStore) -> None:
    """The binding dies of two threads in one module; here eight ask at once, and an event loop besides."""
    verifier, personaliser = store.tac_verifier(), store.personaliser()
    wanted, seen = rides(SUITE, 60), set()
    whole = Hsm._ecb

    def watched(key: object, blocks: bytes) -> bytes:
        seen.add(threading.current_thread().name)
        return whole(key, blocks)

    async def many() -> list[bytes]:
        asks = (personaliser.authenticate(card(SUITE), at % 6, Under.CONTROL, CHALLENGE) for at in range(60))
        return await asyncio.gather(*asks)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(Hsm, "_ecb", staticmethod(watched))
        verdicts = [pool.submit(verifier.verify, batch(*wanted)) for _ in range(40)]
        answers = asyncio.run(many())
        assert all(set(done.result().tolist()) == {Verdict.OK} for done in verdicts)
    assert len(set(answers)) == 6
    assert seen == {"hsm"}


async def test_the_event_loop_does_not_wait_for_the_token(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(key: object, blocks: bytes) -> bytes:
        time.sleep(0.5)
        return bytes(len(blocks))

    monkeypatch.setattr(Hsm, "_ecb", staticmethod(slow))
    asks = [store.personaliser().authenticate(card(SUITE), 0, Under.CONTROL, CHALLENGE),
            asyncio.to_thread(store.tac_verifier().verify, batch(*rides(SUITE, 1)))]  # fmt: skip
    work = asyncio.gather(*asks)
    longest, last = 0.0, time.perf_counter()
    while not work.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await work
    assert longest < 0.3


async def test_a_cancelled_step_leaves_a_working_store(store: TokenStore) -> None:
    personaliser = store.personaliser()
    step = asyncio.ensure_future(personaliser.authenticate(card(SUITE), 0, Under.CONTROL, CHALLENGE))
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert len(await personaliser.authenticate(card(SUITE), 0, Under.CONTROL, CHALLENGE)) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from keys.pkcs11 import Missing, open_token_store
from keys.state import StateFile
from tests.test_keys_conformance import Kept, Place

store = open_token_store(sys.argv[1], Path(sys.argv[2]), missing=Missing.LACK)
StateFile.change = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.admit(Place(Kept.TOKEN_ONLY, Path(), None).roots())
"""


def test_a_killed_ceremony_leaves_nothing_that_counts(token: SoftHsm, folder: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, token.uri, str(folder)]
    ended = subprocess.run(arguments, env=os.environ | {"PYTHONPATH": "."}, check=False)
    assert ended.returncode == -signal.SIGKILL
    with opened(token, folder) as store:
        assert store.inventory() == []
        left = store._hsm.labels()
        assert len(left) == len(place_names()) + 2
        changed = RootKey(KeyId.parse("3des/TAC/1"), bytes(range(16)), test=True)
        store.admit([changed])
        assert [fact.kcv for fact in store.inventory()] == [changed.kcv]
        store.admit([one for one in place(token, folder).roots() if one.id != changed.id])
        assert store._hsm.labels() == left
    with opened(token, folder) as store:
        assert len(store.inventory()) == len(place_names())


def test_a_ceremony_that_cannot_be_written_down_takes_its_keys_back(
    token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(token, folder) as store:
        monkeypatch.setattr(store._state, "change", full_disk)
        with pytest.raises(KeyUseError, match="disk"):
            store.admit(place(token, folder).roots())
        assert store.inventory() == []
        assert len(store._hsm.labels()) > 40
        monkeypatch.undo()
        store.admit(place(token, folder).roots()[:1])
        assert len(store._hsm.labels()) == 2
        monkeypatch.setattr(store._state, "change", full_disk)
        with pytest.raises(KeyUseError, match="disk"):
            store.admit(place(token, folder).roots())
    with opened(token, folder) as store:
        assert len(store._hsm.labels()) == 2
        assert len(store.inventory()) == 1


def full_disk(*_: object) -> None:
    raise KeyUseError("the disk is full")
