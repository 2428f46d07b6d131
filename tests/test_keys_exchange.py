"""A root on its way to another party and from it: `onecard keys export` and `import`, checked against psec."""

import secrets
from collections.abc import Callable
from pathlib import Path

import psec
import pytest

from cardcore.errors import FormatError, KeyUseError, OnecardError, RefusedError, SetupError
from cardcore.record import Suite
from keys import acts, cli, exchange
from keys.engine.root import RootKey
from keys.prompts import Prompts
from keys.purposes import KeyId, KeyPurpose, KeyState
from keys.rotation import Move
from keys.store import EmbeddedStore, open_store
from keys.tr31 import ProtectionKey, Version, may_go_on, unwrap, wrap
from tests.custody_side import PASSPHRASES, Moment, approved, hold, move, staffed

ONE, OTHER = secrets.token_hex(32), secrets.token_hex(32)
SHARED = bytes(a ^ b for a, b in zip(bytes.fromhex(ONE), bytes.fromhex(OTHER), strict=True))
KEY = ProtectionKey(Version.AES, [ONE, OTHER])
TAC = KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1")
GIVERS = ["Chen Yi", ONE, "Sun Li", OTHER]
APPROVING = ["Li Na", PASSPHRASES["Li Na"], "Wang Wei", PASSPHRASES["Wang Wei"]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A TEST store with a 3DES TAC root that its custodians made, and an SM4 one."""
    state = tmp_path / "here"
    with staffed(state / "keys", Moment()) as store:
        hold(store, [TAC.name, "sm4/TAC/1"], tmp_path / "t.txt")
    return state


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    def set_(*texts: str) -> list[str]:
        left = list(texts)

        def shown(question: str) -> str:
            given = left.pop(0)
            assert given not in (ONE, OTHER, *PASSPHRASES.values()), f"{question} shows a secret as it is typed"
            return given

        monkeypatch.setattr(cli, "prompts", Prompts(shown, lambda _: left.pop(0)))
        return left

    return set_


def run(*words: object) -> None:
    cli.app([str(word) for word in words], result_action="return_value", exit_on_error=False)


def octets(store: EmbeddedStore, id: KeyId) -> bytes:
    return store._roots[id].undiversified().reveal()


def other_store(folder: Path) -> Path:
    staffed(folder / "there" / "keys", Moment()).close()
    return folder / "there"


@pytest.mark.parametrize("onward", [False, True])
def test_a_root_goes_to_another_store(
    onward: bool, state: Path, tmp_path: Path, answers: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, there = tmp_path / "block.txt", other_store(tmp_path)
    answers(*GIVERS, *APPROVING)
    run("export", TAC.name, "--version", 1, "--file", file, *["--onward"] * onward, "--state", state)
    shown = capsys.readouterr().out
    assert f"protection key: KCV {KEY.kcv.hex().upper()}" in shown and ONE not in shown
    # psec, which is another's, reads the same key out of the block.
    header, key = psec.tr31.unwrap(SHARED, file.read_text().strip())
    with open_store(state / "keys") as store:
        assert key == octets(store, TAC)
        assert store.audit()[-1][2:4] == ("export", str(TAC))
        assert "components of Chen Yi, Sun Li; by Li Na and Wang Wei" in store.audit()[-1][4]
    assert (header.key_usage, header.algorithm, header.exportability) == ("E0", "T", "E" if onward else "N")
    answers(*GIVERS, *APPROVING)
    run("import", file, TAC.name, "--state", there)
    assert "is kept, pre-active" in capsys.readouterr().out
    with open_store(there / "keys") as store:
        (fact,) = store.inventory()
        assert (fact.id, fact.state, fact.test) == (TAC, KeyState.PRE_ACTIVE, True)
        assert octets(store, TAC) == key
        assert store.audit()[-1][2] == "import"
    # What came in as not exportable stays so when the store is opened again.
    answers(*GIVERS, *APPROVING)
    if onward:
        run("export", TAC.name, "--version", 1, "--file", tmp_path / "on.txt", "--state", there)
    else:
        with pytest.raises(KeyUseError, match="came in as not exportable"):
            run("export", TAC.name, "--version", 1, "--file", tmp_path / "on.txt", "--state", there)
    assert (tmp_path / "on.txt").exists() is onward


def test_what_psec_wraps_comes_in_as_the_version_of_its_sender(
    state: Path, tmp_path: Path, answers: Callable[..., list[str]]
) -> None:
    value, file = secrets.token_bytes(16), tmp_path / "theirs.txt"
    file.write_text(psec.tr31.wrap(SHARED, psec.tr31.Header("D", "E0", "T", "X", "05", "N"), value))
    answers(*GIVERS, *APPROVING)
    with pytest.raises(KeyUseError, match="key version"):
        run("import", file, TAC.name, "--state", state)
    answers(*GIVERS, *APPROVING)
    run("import", file, TAC.name, "--version", 5, "--state", state)
    answers(*GIVERS, *APPROVING)
    with pytest.raises(KeyUseError, match="here already"):
        run("import", file, TAC.name, "--version", 5, "--state", state)
    with open_store(state / "keys") as store:
        assert octets(store, KeyId(Suite.TRIPLE_DES, KeyPurpose.TAC, "1", 5)) == value


def test_a_tdes_protection_key_carries_3des_only(
    state: Path, tmp_path: Path, answers: Callable[..., list[str]]
) -> None:
    short = [text[:48] for text in (ONE, OTHER)]
    answers("Chen Yi", short[0], "Sun Li", short[1], *APPROVING)
    run("export", TAC.name, "--version", 1, "--file", tmp_path / "b.txt", "--under", "tdes", "--state", state)
    key = bytes(a ^ b for a, b in zip(*map(bytes.fromhex, short), strict=True))
    with open_store(state / "keys") as store:
        assert psec.tr31.unwrap(key, (tmp_path / "b.txt").read_text().strip())[1] == octets(store, TAC)
    answers("Chen Yi", short[0], "Sun Li", short[1], *APPROVING)
    with pytest.raises(KeyUseError, match="stronger than a TDES"):
        run("export", "sm4/TAC/1", "--version", 1, "--file", tmp_path / "s.txt", "--under", "tdes", "--state", state)
    assert not (tmp_path / "s.txt").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["Chen Yi", ONE, "chen yi"], "given a component already"),
        ([*GIVERS, "Li Na", PASSPHRASES["Li Na"], "Li Na", PASSPHRASES["Li Na"]], "two different custodians"),
        (["Li Na", ONE, "Sun Li", OTHER, *APPROVING], "gave a component of it"),
        ([*GIVERS, "Li Na", "not her words"], "not that of Li Na"),
        (["Chen Yi", "zz", "00", "beef"], "one of"),
        (["Chen Yi", ONE, "Sun Li", OTHER[:32]], "one length"),
    ],
)
def test_one_person_hands_on_nothing(
    given: list[str], why: str, state: Path, tmp_path: Path, answers: Callable[..., list[str]]
) -> None:
    with open_store(state / "keys") as store:
        before = len(store.audit())
    answers(*given)
    with pytest.raises(OnecardError, match=why):
        run("export", TAC.name, "--version", 1, "--file", tmp_path / "block.txt", "--state", state)
    assert not (tmp_path / "block.txt").exists()
    file = tmp_path / "theirs.txt"
    file.write_text(wrap(RootKey(KeyId(Suite.SM4, KeyPurpose.RECORD), bytes(range(16)), test=True), KEY))
    answers(*given)
    with pytest.raises(OnecardError, match=why):
        run("import", file, "sm4/RECORD", "--state", state)
    with open_store(state / "keys") as store:
        assert len(store.inventory()) == 2
        assert not {row[2] for row in store.audit()[before:]} - {"act refused", "approval refused"}


def test_nobody_is_asked_in_vain(state: Path, tmp_path: Path, answers: Callable[..., list[str]]) -> None:
    (tmp_path / "there").write_text("")
    untouched = answers(*GIVERS, *APPROVING)
    for words, why in (
        ((TAC.name, "--version", 2, "--file", tmp_path / "b"), "not here"),
        ((TAC.name, "--version", 1, "--file", tmp_path / "there"), "there already"),
        ((TAC.name, "--version", 1, "--file", tmp_path / "no" / "b"), "its directory is not"),
    ):
        with pytest.raises(OnecardError, match=why):
            run("export", *words, "--state", state)
    for text, why in (("", "no TR-31"), ("X0112", "no TR-31"), ("D" * 10_000, "longer than any"), ("ü", "no TR-31")):
        (tmp_path / "in").write_text(text)
        with pytest.raises(FormatError, match=why):
            run("import", tmp_path / "in", TAC.name, "--state", state)
    with pytest.raises(SetupError, match="cannot be read"):
        run("import", tmp_path / "none", TAC.name, "--state", state)
    with open_store(state / "keys") as store:
        move(store, Move.COMPROMISE, TAC)
    with pytest.raises(KeyUseError, match="compromised and is not exported"):
        run("export", TAC.name, "--version", 1, "--file", tmp_path / "b", "--state", state)
    assert len(untouched) == len(GIVERS + APPROVING)


def test_an_approval_is_of_one_key_one_protection_key_and_one_permission(state: Path, tmp_path: Path) -> None:
    with open_store(state / "keys") as store:
        other = ProtectionKey(Version.AES, [ONE, secrets.token_hex(32)])
        for act in (
            exchange.export_act(store, TAC, other, onward=False),
            exchange.export_act(store, TAC, KEY, onward=True),
            exchange.export_act(store, KeyId(Suite.SM4, KeyPurpose.TAC, "1"), KEY, onward=False),
            acts.installation([store._roots[TAC]]),
        ):
            with pytest.raises(RefusedError, match="approved something else"):
                exchange.export_root(store, TAC, KEY, approved(store, act), ["Chen Yi"], tmp_path / "b")
        assert not (tmp_path / "b").exists()


def test_a_file_that_cannot_be_written_is_told(state: Path, tmp_path: Path) -> None:
    with open_store(state / "keys") as store:
        approvals = approved(store, exchange.export_act(store, TAC, KEY, onward=False))

        class Late(type(tmp_path)):  # type: ignore[misc]  # a path that stops to take files
            def open(self, *_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

        with pytest.raises(SetupError, match=r"is in the audit, but .* export it again"):
            exchange.export_root(store, TAC, KEY, approvals, ["Chen Yi"], Late(tmp_path / "b"))
        assert store.audit()[-1][2] == "export"


def test_a_production_store_takes_no_test_key(tmp_path: Path) -> None:
    with staffed(tmp_path / "keys", Moment(), production=True) as store:
        block = wrap(RootKey(TAC, bytes(range(16)), test=True), KEY)
        with pytest.raises(KeyUseError, match="TEST key"):
            exchange.received(store, block, KEY, TAC.name, None)
        root = exchange.received(store, wrap(RootKey(TAC, bytes(range(16))), KEY), KEY, TAC.name, None)
        assert not root.test and not may_go_on(root)
        exchange.import_root(store, root, approved(store, acts.installation([root])), ["Chen Yi"], KEY)
    with open_store(tmp_path / "keys", clock=Moment()) as store:
        assert [fact.state for fact in store.inventory()] == [KeyState.PRE_ACTIVE]
        assert unwrap(block, KEY, TAC, test=True).kcv == store.inventory()[0].kcv
