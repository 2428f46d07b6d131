"""What is missing on this machine, in plain words, and how to get it."""

import hashlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cardcore.errors import OnecardError
from clearing.store.account import namespace_account, system_account
from clearing.store.binaries import Binaries, embedded_binaries
from readers.pcsc import scard

NEEDED_MB = 1024
MEMORY = Path("/proc/meminfo")
# An ordinary user of Debian does not have the directory of the daemon in his path.
DAEMON_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
READER_FILES = Path("/etc/reader.conf.d")
_LIBRARY = re.compile(r"^\s*LIBPATH\s+\"?([^\"\s]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: for whom it matters, what was found, and what to do when it is not well."""

    thing: str
    whom: str
    well: bool
    found: str
    remedy: str = ""


def command() -> int:
    """Look at this machine and say what is missing and how to get it; exit status 1 if something is."""
    findings = [finding for check in CHECKS for finding in check()]
    table = Table("", "what", "for", "found", "what to do", title="onecard doctor")
    for finding in findings:
        mark = "[green]✓[/]" if finding.well else "[red]✗[/]"
        texts = finding.thing, finding.whom, finding.found, finding.remedy
        table.add_row(mark, *map(escape, texts))
    Console().print(table)
    return 0 if all(finding.well for finding in findings) else 1


def _python() -> Iterator[Finding]:
    well = sys.version_info >= (3, 11)
    yield Finding("Python", "everyone", well, sys.version.split()[0], "" if well else "install Python 3.11 or newer")


def _terminal() -> Iterator[Finding]:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "一卡通".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        remedy = "the counter speaks Chinese and English: choose a UTF-8 locale (LANG=C.UTF-8), or PYTHONUTF8=1"
        yield Finding("terminal", "counter", False, f"its encoding, {encoding}, has no Chinese", remedy)
    else:
        yield Finding("terminal", "counter", True, encoding)


def _sm3() -> Iterator[Finding]:
    """What the Python of a distribution may have been built without; the counter's journal is digested by it."""
    well = "sm3" in hashlib.algorithms_available
    remedy = "" if well else "use a Python whose OpenSSL has it: 1.1.1 or newer, and not in FIPS mode"
    yield Finding("SM3", "counter", well, "in hashlib" if well else "not in this Python's hashlib", remedy)


def _postgresql() -> Iterator[Finding]:
    try:
        binaries = embedded_binaries()
        runs_as = _account(binaries)
    except OnecardError as error:
        yield Finding("PostgreSQL", "clearing", False, "the embedded server cannot be used", str(error))
    else:
        yield Finding("PostgreSQL", "clearing", True, f"embedded, {binaries.version}, runs as {runs_as}")


def _account(binaries: Binaries) -> str:
    """As whom the server would run here. Raises AccountUnusable."""
    if os.geteuid() != 0:
        return "this user"
    if namespace_account(binaries, Path.cwd()) is not None:
        return "root in a user namespace"
    return f"the system user with uid {system_account().uid}"


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            yield Finding("loopback", "service", True, "a port can be opened on 127.0.0.1")
    except OSError as error:
        yield Finding("loopback", "service", False, str(error), "allow this user to listen on 127.0.0.1")


def _state() -> Iterator[Finding]:
    home = Path.cwd()
    free_mb = shutil.disk_usage(home).free // 2**20
    if not os.access(home, os.W_OK):
        yield Finding("state directory", "everyone", False, f"{home} is not writable", "name another with --state")
    elif free_mb < NEEDED_MB:
        remedy = "free 1 GiB, or name a directory on another disk with --state"
        yield Finding("state directory", "everyone", False, f"{home} has {free_mb} MiB left", remedy)
    else:
        yield Finding("state directory", "everyone", True, f"{home} is writable, {free_mb} MiB left")


def _memory() -> Iterator[Finding]:
    free_mb = _available_mb()
    well = free_mb >= NEEDED_MB
    yield Finding("memory", "demo", well, f"{free_mb} MiB available", "" if well else "the demo wants 1 GiB")


def _available_mb() -> int:
    """What programs can have, the caches that the system gives back counted in."""
    try:
        told = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text(), re.MULTILINE)
    except OSError:
        told = None
    if told:
        return int(told[1]) // 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def _readers() -> Iterator[Finding]:
    """The library, the service, the readers and their cards; where one is missing, what rests on it cannot be seen."""
    yield from _leftovers()
    try:
        scard.load()
    except OnecardError as error:
        yield Finding("pyscard", "counter", False, "cannot be loaded, so that no reader can be asked for", str(error))
        return
    yield Finding("pyscard", "counter", True, "installed")
    try:
        context = scard.establish()
    except OnecardError as error:
        yield _no_service(str(error))
        return
    try:
        names = scard.list_readers(context)
        states = scard.status_change(context, 0, [(name, 0) for name in names]) if names else []
    except OnecardError as error:
        yield _no_service(str(error))
        return
    finally:
        scard.release(context)
    yield Finding("PC/SC service", "counter", True, "answers")
    if not states:
        remedy = "plug the reader in; Debian: apt install libccid, which drives most of them"
        yield Finding("card reader", "counter", False, "the service sees no reader", remedy)
    for name, state, atr in states:
        yield _reader(name, state, atr)


def _no_service(error: str) -> Finding:
    if shutil.which("pcscd", path=DAEMON_PATH) is None:
        return Finding("PC/SC service", "counter", False, "pcscd is not installed", "Debian: apt install pcscd libccid")
    return Finding("PC/SC service", "counter", False, "pcscd is installed and does not answer", error)


def _reader(name: str, state: int, atr: bytes) -> Finding:
    if state & scard.EXCLUSIVE:
        remedy = "close the program that holds the card: often gpg's scdaemon or a browser"
        return Finding("card reader", "counter", False, f"{name}: its card is held by another program", remedy)
    if state & scard.MUTE_CARD:
        remedy = "take it away, or turn it over"
        return Finding("card reader", "counter", False, f"{name}: what lies on it does not answer", remedy)
    return Finding("card reader", "counter", True, f"{name}: {'a card' if atr else 'no card'}")


def _leftovers() -> Iterator[Finding]:
    """Files of drivers that are gone: one of them makes the service see no reader at all, the healthy ones neither."""
    for file in sorted(READER_FILES.iterdir()) if READER_FILES.is_dir() else ():
        try:
            libraries = _LIBRARY.findall(file.read_text(errors="replace"))
        except OSError:
            continue
        for library in libraries:
            if not Path(library).exists():
                remedy = "remove the file and restart pcscd: the service may hide all readers because of it"
                yield Finding("reader driver", "counter", False, f"{file} names {library}, which is gone", remedy)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _terminal,
    _sm3,
    _postgresql,
    _loopback,
    _state,
    _memory,
    _readers,
)
