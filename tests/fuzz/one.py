"""One target in this process, under atheris: `python -m tests.fuzz.one MODULE NAME RUNS SEED SECONDS FOLDER`.

libFuzzer writes to standard error, and leaves an input that fails in the folder.
"""

import sys
import time
from importlib import import_module
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # it brings no types

from tests.fuzz.target import Target

PRODUCT = ("cardcore", "keys", "clearing")


def main(module: str, name: str, runs: int, seed: int, seconds: int, folder: Path) -> None:
    # What is imported in here is instrumented, which takes its time: so this module's targets, and no others.
    with atheris.instrument_imports(include=PRODUCT, enable_loader_override=False):
        targets: tuple[Target, ...] = import_module(module).TARGETS
    target = next(target for target in targets if target.name == name)
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for place, octets in enumerate(target.seeds):
        (corpus / f"seed{place}").write_bytes(octets)
    words.write_text("".join(map(_entry, target.words)), encoding="ascii")
    options = {
        "runs": runs, "seed": seed, "max_total_time": seconds, "max_len": target.longest, "timeout": 20,
        "rss_limit_mb": 2048, "artifact_prefix": f"{folder}/", **({"dict": words} if target.words else {}),
    }  # fmt: skip
    atheris.Setup(["fuzz", *(f"-{option}={value}" for option, value in options.items()), str(corpus)], target.read)
    # The parent measures from here; this clock is one for all processes.
    sys.stderr.write(f"\nstarted {time.monotonic()}\n")
    sys.stderr.flush()
    atheris.Fuzz()


def _entry(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{octet:02X}" for octet in word) + '"\n'


if __name__ == "__main__":
    _, module, name, runs, seed, seconds, folder = sys.argv
    main(module, name, int(runs), int(seed), int(seconds), Path(folder))
