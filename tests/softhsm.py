"""A private SoftHSM2: its own configuration and token directory, one token, its PIN in a file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cardcore.errors import SetupError

PIN = "271828"
_MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """A token named `label`; `uri` opens it. `folder` holds configuration, tokens and PIN file."""

    folder: Path
    label: str
    module: Path

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def uri(self) -> str:
        return f"pkcs11:token={self.label}?module-path={self.module}&pin-source=file:{self.pin_file}"

    def initialise(self, label: str) -> None:
        """Another token beside the first, with the same PIN; a program that has the module open does not see it."""
        self._util("--init-token", "--free", "--label", label, "--so-pin", "31415926", "--pin", PIN)

    def delete(self, label: str) -> None:
        """Take a token away for good."""
        self._util("--delete-token", "--token", label)

    def _util(self, *arguments: str) -> None:
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)


@contextmanager
def softhsm(folder: Path, copied: Path | None = None) -> Iterator[SoftHsm]:
    """A fresh token, or one with the tokens of another `folder` copied; SetupError when softhsm2 is missing."""
    module = next((path for path in _MODULES if path.exists()), None)
    if module is None:
        raise SetupError("SoftHSM2 is not here; the tests need it (Debian: apt install softhsm2, or `make test`)")
    folder.mkdir(parents=True)
    if copied:
        shutil.copytree(copied / "tokens", folder / "tokens")
    else:
        (folder / "tokens").mkdir()
    lines = [f"directories.tokendir = {folder / 'tokens'}", "objectstore.backend = file", "log.level = ERROR"]
    (folder / "softhsm2.conf").write_text("\n".join(lines) + "\n")
    token = SoftHsm(folder, "onecard", module)
    token.pin_file.touch(0o600)
    token.pin_file.write_text(PIN + "\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    try:
        if not copied:
            token.initialise(token.label)
        yield token
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
