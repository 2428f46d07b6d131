"""`onecard keys` over a token (a real SoftHSM2): its PIN is asked for or read from a file, what it cannot do is said
whenever it opens, and a custodian reads where the keys are."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardcore.errors import FormatError, KeyUseError, OnecardError, SetupError
from keys import cli
from keys.engine.kek import KekSource
from keys.pkcs11 import Missing, TokenStore
from keys.prompts import Prompts
from keys.store import is_store, open_store
from tests.custody_side import PASSPHRASES
from tests.softhsm import PIN, SoftHsm, softhsm

PEOPLE = ["Li Na", "Wang Wei", *[PASSPHRASES["Li Na"]] * 2, *[PASSPHRASES["Wang Wei"]] * 2]
APPROVING = ["Li Na", PASSPHRASES["Li Na"], "Wang Wei", PASSPHRASES["Wang Wei"]]
ONE, OTHER = secrets.token_hex(16), secrets.token_hex(16)


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftHsm]:
    with softhsm(tmp_path / "hsm") as made:
        yield made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    def set_(*texts: str) -> list[str]:
        left = list(texts)

        def shown(question: str) -> str:
            given = left.pop(0)
            assert given not in (PIN, ONE, OTHER), f"{question} shows a secret as it is typed"
            return given

        monkeypatch.setattr(cli, "prompts", Prompts(shown, lambda _: left.pop(0)))
        return left

    return set_


def run(*words: object) -> None:
    cli.app([str(word) for word in words], result_action="return_value", exit_on_error=False)


def asking(token: SoftHsm) -> str:
    """The token's URI without a source of its PIN."""
    return token.uri.partition("&pin-source")[0]


def test_a_store_in_a_token_from_founding_to_use(
    token: SoftHsm, tmp_path: Path, answers: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--state", tmp_path / "state", "--token", asking(token))
    answers(*PEOPLE, PIN)
    with pytest.raises(SetupError, match=r"no CKM_SM4_ECB.*accept it by `missing`"):
        run("found", *here)
    assert not (tmp_path / "state").exists()
    answers(*PEOPLE, PIN)
    run("found", "--missing", "seal", "--production", *here)
    said = "the token has no CKM_SM4_ECB; these keys lie sealed under the token"
    assert said in capsys.readouterr().out
    for act in ("roll-out", "promote"):
        if act == "roll-out":
            answers(PIN, "Chen Yi", ONE, ONE, "Sun Li", OTHER, OTHER, *APPROVING)
            run("ceremony", "3des/TAC/1", "sm4/TAC/1", "--parts", 2, *here)
        answers(PIN, *APPROVING)
        run(act, "3des/TAC/1", "sm4/TAC/1", "--version", 1, *here)
        assert said in capsys.readouterr().out, "said whenever it opens"
    answers(PIN)
    run("status", *here)
    shown = " ".join(capsys.readouterr().out.split())
    for word in (
        f"keys: pkcs11:token=onecard by {token.module}, serial", "SoftHSM", "opened by: PIN that is asked for",
        f"keys (sealed), list of keys, quota, audit: {tmp_path / 'state' / 'keys' / 'token.sqlite'}",
        "production store", "The token is a program: its keys lie in files.",
        "1 keys lie sealed beside the token and open in this machine's memory.", said, "Li Na, Wang Wei",
    ):  # fmt: skip
        assert word in shown, word
    assert "The store is embedded" not in shown and "key-encryption key" not in shown
    assert not [secret for secret in (PIN, ONE, OTHER) if secret in shown]
    # A service names the URI alone: the rest is as at the founding.
    with open_store(tmp_path / "state" / "keys", token=token.uri) as store:
        assert isinstance(store, TokenStore) and store.source is KekSource.TOKEN
        assert [str(fact.id) for fact in store.inventory()] == ["3des/TAC/1 v1", "sm4/TAC/1 v1"]
        assert store.places()["opened by"] == f"PIN from file:{token.pin_file}"


def test_what_a_token_keeps_it_keeps(token: SoftHsm, tmp_path: Path, answers: Callable[..., list[str]]) -> None:
    here = ("--state", tmp_path / "state", "--token", token.uri)
    answers(*PEOPLE)
    run("found", "--missing", "lack", *here)
    answers("Chen Yi", ONE, "Sun Li", OTHER, *APPROVING)
    run("ceremony", "3des/TAC/1", "--parts", 2, *here)
    nobody = answers("nobody is asked")
    with pytest.raises(KeyUseError, match="3des/TAC/1 v1 TEST stays in its token"):
        run("export", "3des/TAC/1", "--version", 1, "--file", tmp_path / "block", *here)
    with pytest.raises(KeyUseError, match="PIN by the token's own tool"):
        run("passphrase", *here)
    with pytest.raises(KeyUseError, match=r"sm4/RECORD v1 cannot be kept: the token has no CKM_SM4_ECB"):
        run("ceremony", "sm4/RECORD", "--parts", 2, *here)
    assert nobody == ["nobody is asked"]


def test_a_store_is_never_founded_over_one_of_the_other_kind(
    token: SoftHsm, tmp_path: Path, answers: Callable[..., list[str]]
) -> None:
    path = tmp_path / "state" / "keys"
    open_store(path, token=token.uri, missing=Missing.LACK).close()
    assert is_store(path)
    with pytest.raises(SetupError, match="are in a token"):
        open_store(path)
    with pytest.raises(SetupError, match="there is a key store"):
        run("found", "--state", tmp_path / "state")
    open_store(tmp_path / "embedded").close()
    with pytest.raises(SetupError, match="name no token"):
        open_store(tmp_path / "embedded", token=token.uri)
    with pytest.raises(FormatError, match="no passphrase of the store"):
        run("found", "--passphrase", "--state", tmp_path / "new", "--token", token.uri)


def test_a_pin_is_never_given_on_the_command_line(
    token: SoftHsm, tmp_path: Path, answers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path / "state" / "keys", token=token.uri, missing=Missing.LACK).close()
    with pytest.raises(FormatError, match="never stands in a URI") as refusal:
        run("status", "--state", tmp_path / "state", "--token", f"{asking(token)}&pin-value={PIN}")
    assert PIN not in str(refusal.value)
    with pytest.raises(SetupError, match=r"the PIN of pkcs11:token=onecard .* is needed"):
        open_store(tmp_path / "state" / "keys", token=asking(token))
    answers("999999")
    with pytest.raises(OnecardError, match="refuses the PIN"):
        run("status", "--state", tmp_path / "state", "--token", asking(token))
    answers(PIN)
    monkeypatch.setenv("ONECARD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ONECARD_TOKEN", asking(token))
    run("list")


def test_a_break_is_mended_by_the_pin_that_was_asked_for(token: SoftHsm, tmp_path: Path) -> None:
    with open_store(tmp_path / "keys", token=asking(token), passphrase=PIN, missing=Missing.LACK) as store:
        assert isinstance(store, TokenStore)
        store._hsm._submit(lambda: store._hsm._lib.finalize()).result()
        assert len(store._hsm.mark("onecard seal", b"the session is opened anew")) == 16
        assert PIN not in repr(store._hsm.uri) + str(store._hsm.uri) + repr(store._hsm)
