"""Which token, by which module, with the PIN from where: a URI of RFC 7512.

pkcs11:token=onecard?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/onecard/pin

Without pin-source the PIN is asked for where somebody sits; a service has a source.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from cardcore.errors import FormatError, SetupError

SCHEME = "pkcs11:"
# What names a token; `object`, `type` and `id` would name one key of it, and a store is a whole token.
_PATH = frozenset({"token", "serial", "manufacturer", "model"})
_QUERY = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A parsed URI; the PIN itself is never part of it."""

    token: Mapping[str, str]
    module: Path
    _pin_source: str = ""
    _pin: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        named = ";".join(f"{name}={value}" for name, value in self.token.items())
        return f"{SCHEME}{named} by {self.module}"

    @property
    def has_pin(self) -> bool:
        """Whether the PIN is at hand, or its source is named."""
        return bool(self._pin_source or self._pin)

    @property
    def opened_by(self) -> str:
        """Where its PIN comes from, for people."""
        return f"PIN from {self._pin_source}" if self._pin_source else "PIN that is asked for"

    @classmethod
    def parse(cls, text: str, pin: str | None = None) -> "TokenUri":
        """Raises FormatError on anything but a token's URI with a module, and on a source of its PIN that is none."""
        if not text.startswith(SCHEME):
            raise FormatError(f"a token is named by a URI pkcs11:token=…?module-path=…&pin-source=…, not by {text!r}")
        path, _, query = text.removeprefix(SCHEME).partition("?")
        if "pin-value" in query:
            # The text is not shown: it would hand the PIN to a log.
            raise FormatError("a PIN never stands in a URI, where others read it: use pin-source=file:… or env:…")
        token, where = _attributes(path, ";", _PATH), _attributes(query, "&", _QUERY)
        if not token or "module-path" not in where:
            raise FormatError(
                "the URI of a token has at least one of token=, serial=, manufacturer=, model= before the ? and "
                "module-path= after it; nothing was opened"
            )
        source = where.get("pin-source", "")
        if source and not source.startswith(("file:", "env:", "/")):
            raise FormatError("pin-source is file:<path> or env:<variable>; nothing was opened")
        return cls(token, Path(where["module-path"]), source, pin)

    def pin(self) -> str:
        """The PIN, read anew each time; raises SetupError when its file or variable is missing or open to others."""
        if not self._pin_source:
            if not self._pin:
                raise SetupError(
                    f"the PIN of {self} is needed: name its source in the URI (pin-source=file:…), or use a command "
                    "that asks for it; nothing was opened"
                )
            return self._pin
        kind, _, name = self._pin_source.rpartition(":")
        if kind == "env":
            if not (pin := os.environ.get(name, "")):
                raise SetupError(f"the environment variable {name} does not hold the token's PIN; set it, try again")
            return pin
        # file:/path and file:///path are the same file.
        path = Path("/" + name.lstrip("/")) if name.startswith("/") else Path(name)
        try:
            mode, pin = path.stat().st_mode, path.read_text().strip()
        except OSError as error:
            raise SetupError(f"the token's PIN cannot be read from {path}: {error}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SetupError(f"the PIN file {path} is open to other users; set its mode to 0600, nothing was opened")
        if not pin:
            raise SetupError(f"the file {path} holds no PIN; nothing was opened, write the token's PIN into it")
        return pin


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, str]:
    """Names and decoded values; an attribute that is not understood could mean another token, so it is refused."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, _, value = part.partition("=")
        if name not in known or name in found or not value:
            raise FormatError(
                f"the token's URI has an unknown, repeated or empty attribute {name!r}; known are {sorted(known)}"
            )
        found[name] = unquote(value)
    return found
