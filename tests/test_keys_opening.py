"""What opens a store, changed: a kill at any write, renaming or step of the database leaves the old or the new one in
force, never neither and never both."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cardcore.errors import FormatError, KeyUseError, OnecardError, RefusedError, SetupError
from keys import acts, custody, wrapping
from keys.custody import Approval
from keys.engine import kek
from keys.engine.kek import KekSource
from keys.proof import sm3
from keys.status import status_of
from keys.store import FILE_NAME, EmbeddedStore, key_file, open_store
from tests import custody_side
from tests.custody_side import PASSPHRASES, Moment, approved, hold, staffed

OLD, NEW = "the old words of it", "the new words of it"
# From what to what; None is a key file.
CHANGES = [(None, None), (None, NEW), (OLD, NEW), (OLD, None)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase is stretched in no time: what is tested here is not how long that takes."""

    def stretched(source: KekSource, words: str, salt: bytes) -> bytes:
        return sm3(words.encode() + salt + source.encode())[:16]

    monkeypatch.setattr(kek, "from_passphrase", stretched)
    monkeypatch.setattr(custody, "from_passphrase", stretched)
    monkeypatch.setattr(custody_side, "enrolled", lambda name: custody.enrol(name, PASSPHRASES[name]))


def made(path: Path, words: str | None, clock: Moment) -> None:
    with staffed(path, clock, passphrase=words) as store:
        hold(store, ["sm4/TAC/1", "3des/LOAD/1"], path.parent / "t.txt")


def change(store: EmbeddedStore, words: str | None, kdf: KekSource = KekSource.ARGON2ID) -> None:
    acts.change_opening(store, approved(store, acts.opening_act(words is not None)), words, kdf)


def opens(path: Path, words: str | None) -> bool:
    with suppress(KeyUseError), open_store(path, passphrase=words, clock=Moment()) as store:
        store.book.state.check_all()
        assert len(store.inventory()) == 2
        # Words that nobody asked for open nothing: the key file did.
        return (store.source is KekSource.FILE) is (words is None)
    return False


@pytest.mark.parametrize("kdf", [KekSource.ARGON2ID, KekSource.PBKDF2_SM3])
def test_a_new_passphrase_opens_and_the_old_does_not(tmp_path: Path, kdf: KekSource) -> None:
    path = tmp_path / "keys"
    made(path, OLD, Moment())
    with open_store(path, passphrase=OLD, clock=Moment()) as store:
        values = store.inventory()
        change(store, NEW, kdf)
        assert store.source is kdf and store.inventory() == values
        assert store.audit()[-1][2:4] == ("change opening", kdf)
        assert store.audit()[-1][4].endswith("by Li Na and Wang Wei")
        # Its own handles, and another program's, go on.
        hold(store, ["sm4/RECORD"], tmp_path / "second.txt")
    with open_store(path, passphrase=NEW, clock=Moment()) as store:
        assert [fact for fact in store.inventory() if fact.id.name != "sm4/RECORD"] == values
    with pytest.raises(KeyUseError, match="does not open"):
        open_store(path, passphrase=OLD)


@pytest.mark.usefixtures("quick")
def test_the_key_file_comes_goes_and_changes(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Moment()
    made(path, None, clock)
    first = key_file(path).read_text()
    with open_store(path, clock=clock) as store:
        change(store, None)
        second = key_file(path).read_text()
        change(store, NEW)
        assert not key_file(path).exists()
        change(store, None)
        assert status_of(store, {}).places["opened by"] == f"key file {key_file(path)}"
    third = key_file(path).read_text()
    with open_store(path, clock=clock) as store:
        change(store, NEW)
        key_file(path).write_text(third)  # as a kill right after the commit leaves it
        told = status_of(store, {"ONECARD_TOKEN_PIN": "1"})
        words = " ".join(told.unfit)
        assert "opens this store no more, only older copies of it" in words and "ONECARD_TOKEN_PIN" in words
        assert told.places["opened by"] == "a passphrase, argon2id"
        change(store, None)
    third = key_file(path).read_text()
    assert len({first, second, third}) == 3 and key_file(path).stat().st_mode & 0o777 == 0o600
    for text, right in ((first, False), (second, False), (third, True)):
        key_file(path).write_text(text)
        assert opens(path, None) is right
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keys", "keys.anchor", "keys.kek", "t.txt"]


@pytest.mark.usefixtures("quick")
def test_nothing_of_the_old_wrapping_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made(path, OLD, Moment())
    with open_store(path, passphrase=OLD, clock=Moment()) as store:
        wrapped = store.book.state.facts()["key"]
        assert wrapped in (path / FILE_NAME).read_bytes() + (path / f"{FILE_NAME}-wal").read_bytes()
        change(store, NEW)
        assert wrapped not in (path / FILE_NAME).read_bytes() + (path / f"{FILE_NAME}-wal").read_bytes()


@pytest.mark.usefixtures("quick")
def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Moment()
    made(path, OLD, clock)
    with open_store(path, passphrase=OLD, clock=clock) as store:
        act = acts.opening_act(True)
        for approvals in ([], approved(store, act)[:1], approved(store, acts.opening_act(False))):
            with pytest.raises(RefusedError):
                acts.change_opening(store, approvals, NEW)
            with pytest.raises(RefusedError):
                acts.change_opening(store, approved(store, act), None)
        with pytest.raises(FormatError, match="12 characters"):
            change(store, "short")
        with wrapping._alone(path), pytest.raises(SetupError, match="by another program"):
            change(store, NEW)
        assert store.source is KekSource.ARGON2ID
    assert opens(path, OLD) and not opens(path, NEW) and not opens(path, "short")
    assert not key_file(path).exists() and not wrapping._next_file(path).exists()


@pytest.mark.usefixtures("quick")
def test_an_anchor_that_cannot_be_written_does_not_lose_the_store(tmp_path: Path) -> None:
    """The change is committed then, and not answered: the new key file has to stay."""
    path, clock = tmp_path / "keys", Moment()
    made(path, None, clock)
    with open_store(path, clock=clock) as store:
        approvals = approved(store, acts.opening_act(False))
        before, anchor = key_file(path).read_text(), store.anchor.path
        kept = anchor.read_bytes()
        anchor.unlink()
        anchor.mkdir()
        with pytest.raises(KeyUseError, match="anchor"):
            acts.change_opening(store, approvals, None)
    anchor.rmdir()
    anchor.write_bytes(kept)
    assert key_file(path).read_text() != before and opens(path, None)


class Cut:
    """Kills this process before its n-th step: a call that touches a file, or some instructions of the database."""

    STEPS = ("open", "replace", "rename", "unlink", "fsync", "fdatasync", "pwrite")

    def __init__(self, at: int, store: EmbeddedStore) -> None:
        self.at, self.passed = at, 0
        for name in self.STEPS:
            setattr(os, name, self._before(getattr(os, name)))
        store.book.state._db.set_progress_handler(self.step, 40)

    def step(self) -> int:
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def _before(self, call: Callable[..., object]) -> Callable[..., object]:
        def stepped(*arguments: object, **options: object) -> object:
            self.step()
            return call(*arguments, **options)

        return stepped


def in_child(work: Callable[[], int]) -> int:
    """What a child process came to: 200 at most, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = work()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != 255, "the child raised"
    return code


@pytest.fixture(params=CHANGES, ids=lambda pair: " to ".join("words" if one else "file" for one in pair))
def scene(request: pytest.FixtureRequest, tmp_path: Path, quick: None) -> Iterator["Scene"]:
    yield Scene(tmp_path, *request.param)


class Scene:
    """A store, and the same store before the same change again and again."""

    def __init__(self, folder: Path, old: str | None, new: str | None) -> None:
        self.old, self.new, self.clock = old, new, Moment()
        self.original, self.folder = folder / "original", folder / "copy"
        made(self.original / "keys", old, self.clock)
        with open_store(self.original / "keys", passphrase=old, clock=self.clock) as store:
            self.approvals: list[Approval] = approved(store, acts.opening_act(new is not None))
            self.wrapped = store.book.state.facts()["key"]

    def play(self, prepare: Callable[[EmbeddedStore], object]) -> int:
        """Change it in a child; answers 200 or the signal that killed it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.original, self.folder)

        def work() -> int:
            store = open_store(self.folder / "keys", passphrase=self.old, clock=self.clock)
            prepare(store)
            acts.change_opening(store, self.approvals, self.new)
            return 200

        return in_child(work)

    def judge(self) -> bool:
        """Whether the new one is in force; the other then opens nothing, and the next change goes well."""
        path = self.folder / "keys"
        ways = {self.old, self.new}
        opened = [words for words in ways if opens(path, words)]
        assert len(opened) == 1, opened
        with open_store(path, passphrase=opened[0], clock=self.clock) as store:
            done = store.book.state.facts()["key"] != self.wrapped
            assert opened[0] == (self.new if done else self.old)
            told = [row for row in store.audit() if row[2] == "change opening"]
            assert len(told) == done
            change(store, OLD)
        assert opens(path, OLD)
        assert not key_file(path).exists() and not wrapping._next_file(path).exists()
        return done


def test_a_kill_before_any_step_leaves_one_of_both(scene: Scene) -> None:
    outcomes: list[bool] = []
    while (code := scene.play(lambda store: Cut(len(outcomes) + 1, store))) != 200:
        assert code == -signal.SIGKILL
        outcomes.append(scene.judge())
    assert scene.judge()
    # First the old one, from the commit on the new one.
    assert outcomes == sorted(outcomes) and {*outcomes} == {False, True} and len(outcomes) > 20


def test_a_kill_in_the_middle_of_any_write_leaves_one_of_both(scene: Scene) -> None:
    """The limit of a file's size ends the write that goes beyond it where it goes beyond it, and the process."""

    def limit(size: int) -> Callable[[EmbeddedStore], None]:
        def prepare(store: EmbeddedStore) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return prepare

    outcomes, size = [], 0
    while (code := scene.play(limit(size))) != 200:
        assert code == -signal.SIGXFSZ
        outcomes.append(scene.judge())
        size += 13 if size < 52 else 1_373  # first through a key file, then three times through each page
    assert scene.judge()
    assert outcomes == sorted(outcomes) and len(outcomes) > 10


def test_an_older_copy_is_opened_by_what_opened_it_then(tmp_path: Path, quick: None) -> None:
    """Said in docs/keys.md: who has an old copy and the old words has the keys."""
    path, clock = tmp_path / "keys", Moment()
    made(path, OLD, clock)
    copy = (path / FILE_NAME).read_bytes()
    with open_store(path, passphrase=OLD, clock=clock) as store:
        change(store, NEW)
    (path / FILE_NAME).write_bytes(copy)
    with pytest.raises(OnecardError, match="older copy"):
        open_store(path, passphrase=OLD, clock=clock)
    with open_store(path, passphrase=OLD, clock=clock, restored=True) as store:
        assert len(store.inventory()) == 2
