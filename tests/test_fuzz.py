"""A short run of every fuzzer, and the fuzzer itself: it finds a fault, keeps its input, and says what is missing."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu
from tests.fuzz import broken
from tests.fuzz.__main__ import Run, fuzz, main
from tests.fuzz.targets import TARGETS

RUNS = 2_000
SIDE_BY_SIDE = 2


@pytest.fixture(scope="module")
def runs() -> Mapping[str, Run]:
    """Every target, a few thousand times."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return {run.name: run for run in pool.map(lambda target: fuzz(target, RUNS, 1), TARGETS.values())}


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_gets_out_but_documented_errors(name: str, runs: Mapping[str, Run]) -> None:
    run = runs[name]
    assert not run.failure, f"{run.failure}\npython -m tests.fuzz {name} --input {(run.found or b'').hex()}"
    assert run.executions >= RUNS
    assert run.edges > 10 and run.inputs > 1, "the product was watched, and new inputs led further"


@pytest.mark.parametrize("name", TARGETS)
def test_good_documents_are_read(name: str) -> None:
    """Each seed passes, the empty input too: a fuzzer that starts from refusals never gets behind them."""
    for seed in (*TARGETS[name].seeds, b""):
        TARGETS[name].read(seed)


def test_a_fault_is_found() -> None:
    run = fuzz(broken.TARGETS[0], 200_000, 1)
    assert "KeyError: 'the fault that was to be found'" in run.failure
    assert run.found is not None and CommandApdu.decode(run.found).data
    assert 0 < run.executions < 200_000 and "FAILED" in run.line()
    with pytest.raises(KeyError, match="the fault"):
        broken.read(run.found)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apdu", "--runs", "500"]) == 0
    head, line, end = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["target", "executions"]
    assert line.split()[:2] == ["apdu", "500"]
    assert end.startswith("1 of 1 targets")
    assert main(["apdu", "--input", "9000"]) == 0
    with pytest.raises(SystemExit):
        main(["no-such-target"])
    assert "no target is named no-such-target" in capsys.readouterr().err


def test_without_atheris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "atheris.py").write_text("raise ModuleNotFoundError(\"No module named 'atheris'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["apdu", "--runs", "10"]) == 2
    assert "atheris is missing: `make test` installs it" in capsys.readouterr().out
