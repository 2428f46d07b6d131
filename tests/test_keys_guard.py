"""What cannot be done with keys (decision D4): no bytes in or out, no copies, no oracle, each handle its own acts
only."""

import ast
import copy
import inspect
import json
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import keys
from cardcore.errors import KeyUseError
from cardcore.record import Suite
from keys.ceremony import test_ceremony
from keys.engine.root import RootKey
from keys.engine.suites import suite_of
from keys.entries import EntryGuard
from keys.guarded import Guarded
from keys.purposes import KeyId, KeyPurpose
from keys.store import EmbeddedStore, open_store
from keys.unloads import UnloadAuthoriser
from keys.upkeep import CardUpkeep
from keys.verifiers import ActVerifier, SealVerifier, TacVerifier
from tests.test_keys_loads import COMPONENTS, QUOTAS, Noon, root

ROOM = Path(keys.__file__).parent
PUBLIC = [
    import_module(f"keys.{module.name}") for module in pkgutil.iter_modules([str(ROOM)]) if module.name != "engine"
]
# Every public act of a handle; a handle that grows another one has to be thought about here.
ACTS = {
    "TacVerifier": {"verify"},
    "SealVerifier": {"verify"},
    "ActVerifier": {"verify"},
    "LoadAuthoriser": {"authorise_load"},
    "Personaliser": {"authenticate", "finish", "key_versions", "write_key", "secure", "set_overdraft"},
    "UnloadAuthoriser": {"authorise_unload", "confirm_unload"},
    "CardUpkeep": {"protect", "reveal", "block", "reload_pin", "unblock_pin", "confirm_overdraft"},
    "EntryGuard": {"guard", "holds"},
    "PsamKeeper": {"prove", "set_ceilings"},
}
# Every place where bytes cross a public callable, and what they are; a new one has to be thought about here.
BYTES = {
    # A card's challenge in; a cryptogram, an enciphered command or a secured command out.
    "authority.Authority.authenticate": {"challenge", "return"},
    "authority.Authority.block": {"return"},
    "authority.Authority.confirm_unload": {"mac3"},
    "authority.Authority.protect": {"return"},
    "authority.Authority.reload_pin": {"return"},
    "authority.Authority.reveal": {"return"},
    "authority.Authority.secure": {"challenge", "command", "return"},
    "authority.Authority.set_overdraft": {"return"},
    "authority.Authority.unblock_pin": {"return"},
    "authority.Authority.write_key": {"challenge", "return"},
    "entries.EntryGuard.guard": {"return"},
    "personaliser.Personaliser.authenticate": {"challenge", "return"},
    "personaliser.Personaliser.secure": {"challenge", "command", "return"},
    "personaliser.Personaliser.set_overdraft": {"return"},
    "personaliser.Personaliser.write_key": {"challenge", "return"},
    # Parts of a request, to be measured.
    "widths.check_widths": {"parts"},
    # MAC2 for a checked change of an allowance out.
    "allowances.answer": {"return"},
    # The card's answer to an unload in; protected commands, MACs and what a card answered under protection out.
    "unloads.UnloadAuthoriser.confirm_unload": {"mac3"},
    "upkeep.CardUpkeep.block": {"return"},
    "upkeep.CardUpkeep.protect": {"return"},
    "upkeep.CardUpkeep.reload_pin": {"return"},
    "upkeep.CardUpkeep.reveal": {"return"},
    "upkeep.CardUpkeep.unblock_pin": {"return"},
    # A PSAM's challenge in; the one command that it serves out.
    "psams.PsamKeeper.prove": {"challenge", "return"},
    "psams.PsamKeeper.set_ceilings": {"challenge", "return"},
    # Records, digests, verdicts.
    "columns.from_bytes": {"raw"},
    "columns.number": {"columns"},
    "columns.octets": {"return"},
    "columns.octets_of": {"return"},
    "columns.part": {"rows", "return"},
    "columns.taken": {"columns", "return"},
    "proof.Sibling.__init__": {"digest"},
    "proof.act_digest": {"challenge", "return"},
    "proof.includes": {"root", "leaf"},
    "proof.inclusion_proof": {"leaves", "leaf"},
    "proof.merkle_root": {"leaves", "return"},
    "proof.proof_keys": {"return"},
    "proof.sm3": {"message", "return"},
    "proof.split_digest": {"return"},
    "verifiers.ActVerifier.verify": {"return"},
    "verifiers.OpenedAct.__init__": {"challenge", "split_digest"},
    "verifiers.TacVerifier.verify": {"return"},
    # Sealed blocks, what a store says of itself, a load's date and time, a check value.
    "spending.Spending.__init__": {"request", "date", "time"},
    "state.StateFile.blocks": {"return"},
    "state.StateFile.facts": {"return"},
    "state.StateFile.found": {"facts"},
    "state.StateFile.keep": {"blocks"},
    # The same handles as a store gives them out; a batch's cryptograms on their way into its digest.
    "governed.ActVerifier.verify": {"return"},
    "governed.Book.tell": {"cryptograms"},
    "governed.Personaliser.authenticate": {"challenge", "return"},
    "governed.Personaliser.secure": {"challenge", "command", "return"},
    "governed.Personaliser.set_overdraft": {"return"},
    "governed.Personaliser.write_key": {"challenge", "return"},
    "governed.TacVerifier.verify": {"return"},
    # Public keys, messages and signatures.
    "sm2.PublicKey.__init__": {"point"},
    "sm2.PublicKey.verify": {"message", "signature", "id"},
    "sm2.Signer.sign": {"message", "id", "return"},
    # Rows for the file: sealed blocks, and texts.
    "register.custodian_row": {"return"},
    "register.demand_row": {"return"},
    "register.life_row": {"return"},
    "register.psam_row": {"return"},
    "register.sunset_row": {"return"},
    "state.StateFile.change": {"statements"},
    "state.StateFile.rows": {"return"},
    "acts.decide": {"statements"},
    "embedded.EmbeddedStore.rows_of": {"return"},
    "embedded.KeyFacts.__init__": {"kcv"},
    # What a store says of itself: among it, its own key, wrapped.
    "wrapping.founded": {"kind", "return"},
    "wrapping.marked": {"facts", "return"},
    "wrapping.opened": {"facts"},
    "wrapping.rewrapped": {"return"},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path / "keys") as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


def handles(store: EmbeddedStore) -> list[Guarded]:
    return [
        store.tac_verifier(), store.seal_verifier(), store.act_verifier(), store.personaliser(),
        store.load_authoriser(Noon(), QUOTAS), UnloadAuthoriser(store._in_use(), store.book, Noon(), QUOTAS),
        CardUpkeep(store._in_use(), store.book), EntryGuard(store._in_use(), store.book), store.psam_keeper(),
    ]  # fmt: skip


def guarded(store: EmbeddedStore) -> list[Guarded]:
    """Handles, and the inner objects that a debugger or a log could come across."""
    key = suite_of(Suite.SM4)(root("sm4/TAC/1"))
    return [*handles(store), *store._roots.values(), store._sealer, key, key.load_session(bytes(4), 0)]


def planted() -> list[bytes]:
    return [root(name) for name in COMPONENTS]


@pytest.mark.parametrize("show", [repr, str, format, "{!r:>10}".format, lambda thing: f"{thing}"])
def test_text_of_a_handle_is_id_and_check_value(show: Callable[[object], str], store: EmbeddedStore) -> None:
    for thing in guarded(store):
        text = show(thing)
        assert not [key for key in planted() if key.hex() in text.lower() or repr(key) in text]
    assert repr(store.seal_verifier()) == f"<SealVerifier sm4/RECORD v1 KCV {kcv('sm4/RECORD')} active TEST>"


def kcv(name: str) -> str:
    return RootKey(KeyId.parse(name), root(name)).kcv.hex().upper()


@pytest.mark.parametrize(
    "attempt",
    [
        pickle.dumps, copy.copy, copy.deepcopy, bytes,
        lambda thing: pickle.dumps([thing]), lambda thing: thing.__getstate__(),
    ],
)  # fmt: skip
def test_nothing_guarded_can_be_copied(attempt: Callable[[object], object], store: EmbeddedStore) -> None:
    for thing in guarded(store):
        with pytest.raises(KeyUseError, match="cannot be copied"):
            attempt(thing)


def test_nothing_guarded_has_a_dict_or_json(store: EmbeddedStore) -> None:
    for thing in guarded(store):
        with pytest.raises(TypeError):
            vars(thing)
        with pytest.raises(TypeError):
            json.dumps(thing)


def public_callables(module: ModuleType) -> Iterator[tuple[str, Callable[..., object]]]:
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield f"{module.__name__}.{name}", thing
        elif inspect.isclass(thing):
            for member, method in inspect.getmembers(thing, inspect.isfunction):
                if not member.startswith("_") or (member == "__init__" and member in vars(thing)):
                    yield f"{module.__name__}.{name}.{member}", method


def test_no_public_callable_takes_or_gives_key_bytes() -> None:
    """K1: key bytes go in by the ceremony alone, and nowhere out."""
    found: dict[str, set[str]] = {}
    for module in PUBLIC:
        for name, function in public_callables(module):
            hints = {parameter: str(hint) for parameter, hint in inspect.get_annotations(function).items()}
            assert not [hint for hint in hints.values() if "SuiteKey" in hint or "SessionKey" in hint], name
            if crossing := {parameter for parameter, hint in hints.items() if "bytes" in hint or "uint8" in hint}:
                found[name.removeprefix("keys.")] = crossing
    assert found.pop("ceremony.test_ceremony") == {"components", "return"}
    assert found == BYTES


def test_acts_of_each_handle(store: EmbeddedStore) -> None:
    """K2, K4: nothing generic, and no verifier that makes."""
    for handle in handles(store):
        public = {name for name in dir(handle) if not name.startswith("_")} - {"label", "purpose"}
        assert public == ACTS[type(handle).__name__]


@pytest.mark.parametrize("verifier", [TacVerifier, SealVerifier, ActVerifier])
def test_a_handle_of_another_purpose_cannot_be_made(verifier: type[TacVerifier]) -> None:
    for purpose, scope in ((KeyPurpose.LOAD, "1"), (KeyPurpose.PURCHASE, "transit"), (KeyPurpose.TRANSPORT, "")):
        with pytest.raises(KeyUseError, match="no usable key"):
            verifier([RootKey(KeyId(Suite.SM4, purpose, scope), bytes(range(16)))])


def test_handles_hold_keys_of_their_purpose_only(store: EmbeddedStore) -> None:
    purposes = {KeyPurpose.TAC: TacVerifier, KeyPurpose.RECORD: SealVerifier, KeyPurpose.ACT: ActVerifier}
    for handle in (store.tac_verifier(), store.seal_verifier(), store.act_verifier()):
        (purpose,) = {held.id.purpose for held in handle._roots.values()}
        assert isinstance(handle, purposes[purpose])
    assert {held.id.purpose for held in store.load_authoriser(Noon(), QUOTAS)._roots.values()} == {KeyPurpose.LOAD}


def test_errors_and_tables_never_show_keys(store: EmbeddedStore, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyUseError) as refusal:
        test_ceremony(store, COMPONENTS | {"sm4/TAC/1": (bytes(16), bytes(range(16)))})
    shown = str(refusal.value) + json.dumps([row[1:] for row in store.audit()]) + capsys.readouterr().out
    assert not [key for key in planted() if key.hex() in shown]


def test_the_engine_is_imported_in_this_room_only() -> None:
    for package in ("cardcore", "clearing", "readers", "simulators", "onecard"):
        for path in (ROOM.parent / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in names if name.startswith("keys.engine")], path
