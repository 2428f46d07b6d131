"""The transcript of an act of several persons: text, without any key, that shows when a line of it was changed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardcore.errors import FormatError, SetupError
from keys.chain import START
from keys.proof import sm3
from keys.state import Clock

# A transcript is written over blanks that were there before the keys are kept: a full disk is found in time.
_RESERVED_BYTES = 262_144


class Transcript:
    """Numbered lines with their instants, each ending in the beginning of SM3(the seal before ‖ the line); the last
    seal, noted on paper, tells whether the file is the one that was signed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: list[str] = []
        self.seal = START

    def add(self, text: str) -> None:
        """One line more."""
        self.seal, line = _sealed(
            self.seal, f"{len(self._lines) + 1:03} {self._clock.now():%Y-%m-%d %H:%M:%S} UTC {text}"
        )
        self._lines.append(line)

    @property
    def text(self) -> str:
        """All lines, and the seal."""
        return "\n".join([*self._lines, f"seal {self.seal}", ""])

    @contextmanager
    def written_to(self, path: Path) -> Iterator[None]:
        """Leave the transcript in a new file of mode 0600, and nothing when what is done inside fails. Raises
        SetupError before it begins when there is no room, or a file is there."""
        draft = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists():
                raise FileExistsError("it is there already")
            draft.touch(mode=0o600)
            _write(draft, " " * _RESERVED_BYTES)
        except OSError as error:
            raise SetupError(
                f"the transcript {path} cannot be written ({error}); nothing was done, name another file"
            ) from error
        try:
            yield
            _write(draft, self.text)
            draft.rename(path)
        except OSError as error:
            raise SetupError(
                f"the act is done, but its transcript {path} could not be finished ({error}); its rows are in the "
                "audit: copy them to paper from onecard keys audit"
            ) from error
        finally:
            draft.unlink(missing_ok=True)


def _write(draft: Path, text: str) -> None:
    """The whole file, on the disk when this returns, in the room that it has already."""
    with draft.open("r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def follow(text: str) -> str:
    """The seal of a transcript, made anew from its lines. Raises FormatError at the first that was changed."""
    seal, lines = START, text.rstrip("\n").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        seal, expected = _sealed(seal, line.rpartition("  [")[0])
        if line != expected or not line.startswith(f"{number:03} "):
            raise FormatError(f"line {number} of the transcript is not as it was written; do not rely on it")
    if lines[-1] != f"seal {seal}":
        raise FormatError("the transcript does not end as it was written; do not rely on it")
    return seal


def _sealed(before: str, line: str) -> tuple[str, str]:
    seal = sm3((before + line).encode()).hex()
    return seal, f"{line}  [{seal[:16]}]"
