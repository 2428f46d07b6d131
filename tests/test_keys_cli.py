"""`onecard keys` as a custodian meets it: prompts, errors, and nothing left of an interruption at any of them."""

import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardcore.errors import FormatError, OnecardError, RefusedError, SetupError
from keys import cli
from keys.prompts import Prompts
from keys.store import FILE_NAME, open_store
from tests.custody_side import PASSPHRASES

ONE, OTHER = secrets.token_hex(16), secrets.token_hex(16)
CEREMONY = ["Chen Yi", ONE, "Sun Li", OTHER, "Li Na", PASSPHRASES["Li Na"], "Wang Wei", PASSPHRASES["Wang Wei"]]
FOUNDING = ["Li Na", "Wang Wei", *[PASSPHRASES["Li Na"]] * 2, *[PASSPHRASES["Wang Wei"]] * 2]
APPROVING = CEREMONY[4:]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_(*texts: str | BaseException) -> None:
        left = list(texts)

        def answer(question: str) -> str:
            given = left.pop(0)
            if isinstance(given, BaseException):
                raise given
            return given

        def shown(question: str) -> str:
            given = answer(question)
            assert given not in (ONE, OTHER, *PASSPHRASES.values()), f"{question} shows a secret as it is typed"
            return given

        monkeypatch.setattr(cli, "prompts", Prompts(shown, answer))

    return set_


def run(*words: object) -> None:
    cli.app([str(word) for word in words], result_action="return_value", exit_on_error=False)


@pytest.fixture
def store(tmp_path: Path, answers: Callable[..., None]) -> Iterator[Path]:
    answers(*FOUNDING)
    run("found", "--state", tmp_path)
    yield tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_key_from_founding_to_destruction(
    store: Path, answers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(*CEREMONY)
    run("ceremony", "sm4/TAC/1", "--parts", 2, "--state", store)
    for step in ("roll-out", "promote", "suspend", "retire", "destroy"):
        answers(*APPROVING)
        if step == "retire":
            with pytest.raises(OnecardError, match="only active version"):
                run(step, "sm4/TAC/1", "--version", 1, "--state", store)
            step = "compromise"
        run(step, "sm4/TAC/1", "--version", 1, "--state", store)
    shown = capsys.readouterr().out
    assert "is destroyed since" in shown
    run("status", "--state", store)
    shown += capsys.readouterr().out
    for word in (
        "destroyed",
        "TEST store",
        "anchor",
        "Li Na, Wang Wei",
        "not fit for production",
        "whole quota is left",
    ):
        assert word in shown, word
    for secret in (ONE, OTHER, *PASSPHRASES.values()):
        assert secret not in shown
    (transcript,) = store.glob("keys-transcripts/*.txt")
    run("check-transcript", transcript)
    assert "every line holds" in capsys.readouterr().out


@pytest.mark.parametrize("at", range(len(CEREMONY)))
@pytest.mark.parametrize("how", [KeyboardInterrupt, EOFError])
def test_an_interruption_at_any_prompt_leaves_nothing(
    at: int, how: type[BaseException], store: Path, answers: Callable[..., None]
) -> None:
    before = contents(store)
    answers(*CEREMONY[:at], how())
    with pytest.raises(RefusedError, match="nothing was done"):
        run("ceremony", "sm4/TAC/1", "--parts", 2, "--state", store)
    after = contents(store)
    assert set(after) - {f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"} == set(before)
    assert not [name for name, octets in after.items() if ONE.encode() in octets or bytes.fromhex(ONE) in octets]
    with open_store(store / "keys") as opened:
        assert opened.inventory() == []
        assert [row[2] for row in opened.audit()] == ["enrol", "enrol"]


@pytest.mark.parametrize("at", range(len(FOUNDING)))
def test_an_interrupted_founding_leaves_no_store(at: int, tmp_path: Path, answers: Callable[..., None]) -> None:
    answers(*FOUNDING[:at], KeyboardInterrupt())
    with pytest.raises(RefusedError):
        run("found", "--state", tmp_path)
    assert not contents(tmp_path)


def test_foundings_that_are_refused_leave_no_store(tmp_path: Path, answers: Callable[..., None]) -> None:
    for texts, why in (
        (["Li Na", "li na", *FOUNDING[2:]], "one person"),
        ([*FOUNDING[:3], "another", *FOUNDING[4:]], "differ"),
        (["Li Na", "Wang Wei", "short", "short", "short", "short"], "12 characters"),
    ):
        answers(*texts)
        with pytest.raises(OnecardError, match=why):
            run("found", "--state", tmp_path)
        assert not contents(tmp_path)


def test_a_store_under_a_passphrase_asks_for_it(
    tmp_path: Path, answers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(*FOUNDING, "words of the store", "words of the store")
    run("found", "--state", tmp_path, "--production", "--passphrase")
    answers("words of the store")
    run("status", "--state", tmp_path)
    assert "production store" in capsys.readouterr().out
    answers("others")
    with pytest.raises(OnecardError, match="passphrase"):
        run("status", "--state", tmp_path)


def test_three_wrong_components_end_a_ceremony(store: Path, answers: Callable[..., None]) -> None:
    answers("Chen Yi", "zz", "yy", "xx")
    with pytest.raises(FormatError, match="type it again"):
        run("ceremony", "sm4/TAC/1", "--parts", 2, "--state", store)
    answers("Chen Yi", "zz", *CEREMONY[1:])
    run("ceremony", "sm4/TAC/1", "--parts", 2, "--state", store)


def test_imported_keys_have_to_match_their_form(store: Path, answers: Callable[..., None]) -> None:
    answers(*CEREMONY)
    with pytest.raises(FormatError, match="a component is wrong"):
        run("import-components", "sm4/TAC/1", "--parts", 2, "--kcv", "sm4/TAC/1=000000", "--state", store)
    with open_store(store / "keys") as opened:
        assert opened.inventory() == []
    from gmssl.sm4 import SM4_ENCRYPT, CryptSM4

    cipher = CryptSM4()
    cipher.set_key((int(ONE, 16) ^ int(OTHER, 16)).to_bytes(16, "big"), SM4_ENCRYPT)
    expected = cipher.crypt_ecb(bytes(16))[:3].hex().upper()
    answers(*CEREMONY)
    run("import-components", "sm4/TAC/1", "--parts", 2, "--kcv", f"sm4/TAC/1={expected}", "--state", store)
    with open_store(store / "keys") as opened:
        assert [fact.kcv.hex().upper() for fact in opened.inventory()] == [expected]


def test_dates_and_demands_show_in_the_status(
    store: Path, answers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(*APPROVING)
    run("sunset", "3des", "--making-until", "2027-06-30", "--verifying-until", "2029-06-30", "--state", store)
    answers(*APPROVING)
    run("sm4-only", "terminal 900001", "--since", "2027-01-01", "--state", store)
    answers(*APPROVING)
    run("issue-psams", "0000000dbba1", "--state", store)
    run("status", "--state", store)
    shown = capsys.readouterr().out
    assert "loads until 2027-06-30, verified until 2029-06-30" in shown
    assert "SM4 only: terminal 900001 since 2027-01-01" in shown
    with pytest.raises(FormatError, match="no suite"):
        run("sunset", "aes", "--making-until", "2027-06-30", "--verifying-until", "2029-06-30", "--state", store)


def test_a_restored_backup(store: Path, answers: Callable[..., None]) -> None:
    backup = (store / "keys" / FILE_NAME).read_bytes()
    answers(*CEREMONY)
    run("ceremony", "sm4/TAC/1", "--parts", 2, "--state", store)
    (store / "keys" / FILE_NAME).write_bytes(backup)
    with pytest.raises(OnecardError, match="accept-restored"):
        run("list", "--state", store)
    answers(*APPROVING)
    run("accept-restored", "--state", store)
    run("list", "--state", store)


def test_what_is_not_there_is_said(tmp_path: Path, answers: Callable[..., None]) -> None:
    with pytest.raises(SetupError, match="no key store"):
        run("status", "--state", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_without_a_terminal_nothing_is_done(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from onecard.cli import main; main()", "keys", "ceremony", "sm4/TAC/1"],
        env=os.environ | {"ONECARD_STATE": str(store)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode and "nothing was done" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def shown_commands() -> list[str]:
    """Every `onecard keys …` of the documents, with its placeholders filled."""
    folder, found = Path(cli.__file__).parents[1], []
    for file in (folder / "docs" / "keys.md", folder / "README.md"):
        for text in re.findall(r"`onecard keys ([^`]+)`", file.read_text(encoding="utf-8")):
            acts_, _, rest = text.replace("KEY… --version N", "sm4/TAC/1 --version 1").replace(" …", "").partition(" ")
            found += [f"{act} {rest}" for act in acts_.split("|") if act != "…"]
    return found


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_that_the_documents_show_is_understood(command: str) -> None:
    words = shlex.split(command)
    assert words[0] in set(cli.app)
    if len(words) > 1:  # a name alone may be a mention
        cli.app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_documents_show_every_command() -> None:
    shown = {command.split()[0] for command in shown_commands()}
    assert {name for name in cli.app if not name.startswith("-")} == shown
