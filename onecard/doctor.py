"""What is missing on this machine, in plain words, and how to get it."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cardcore.errors import OnecardError
from clearing.store.binaries import embedded_binaries
from readers.pcsc import scard


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
    findings = [check() for check in CHECKS]
    table = Table("", "what", "for", "found", "what to do", title="onecard doctor")
    for finding in findings:
        table.add_row(
            "[green]✓[/]" if finding.well else "[red]✗[/]", finding.thing, finding.whom, finding.found, finding.remedy
        )
    Console().print(table)
    return 0 if all(finding.well for finding in findings) else 1


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding(
        "Python",
        "everyone",
        sys.version_info >= (3, 11),
        version,
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )


def _postgresql() -> Finding:
    try:
        path = embedded_binaries().bin
    except OnecardError as error:
        return Finding("PostgreSQL", "clearing", False, "no embedded binaries", str(error))
    return Finding("PostgreSQL", "clearing", True, f"embedded, in {path}")


def _pyscard() -> Finding:
    try:
        scard.load()
    except OnecardError as error:
        return Finding("pyscard", "counter", False, "not installed", str(error))
    return Finding("pyscard", "counter", True, "installed")


def _service() -> Finding:
    try:
        context = scard.establish()
    except OnecardError as error:
        if shutil.which("pcscd") is None:
            return Finding(
                "PC/SC service", "counter", False, "pcscd is not installed", "Debian: apt install pcscd libccid"
            )
        return Finding("PC/SC service", "counter", False, "pcscd is installed and does not answer", str(error))
    try:
        readers = scard.list_readers(context)
    finally:
        scard.release(context)
    if not readers:
        return Finding(
            "card reader",
            "counter",
            False,
            "the service runs and sees no reader",
            "plug the reader in; a leftover file of a virtual reader in /etc/reader.conf.d hides all others",
        )
    return Finding("card reader", "counter", True, ", ".join(readers))


def _memory() -> Finding:
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free_mb = pages * size // 2**20
    return Finding(
        "memory", "demo", free_mb >= 1024, f"{free_mb} MiB free", "" if free_mb >= 1024 else "the demo wants 1 GiB"
    )


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return Finding("loopback", "service", True, "a port can be opened on 127.0.0.1")
    except OSError as error:
        return Finding("loopback", "service", False, str(error), "allow this user to listen on 127.0.0.1")


def _state() -> Finding:
    home = Path.cwd()
    well = os.access(home, os.W_OK)
    return Finding(
        "state directory",
        "everyone",
        well,
        f"{home} is {'writable' if well else 'not writable'}",
        "" if well else "name another with --state",
    )


CHECKS: tuple[Callable[[], Finding], ...] = (_python, _postgresql, _loopback, _state, _memory, _pyscard, _service)
