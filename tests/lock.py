"""Renews the lock files: every wheel of every platform by hash, no index address (run by `make lock`)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {"requirements.txt": [], "requirements-test.txt": ["test", "pkcs11"], "requirements-pcsc.txt": ["pcsc"]}


def main() -> int:
    for name, extras in LOCKS.items():
        chosen = [part for extra in [*extras, "build"] for part in ("--extra", extra)]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "uv",
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--python-version",
                "3.11",
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--no-emit-index-url",
                *chosen,
                "pyproject.toml",
                "--output-file",
                name,
            ],
            cwd=ROOT,
            check=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
