"""The one command: a group per user, mounted from the rooms, each loaded when it is asked for."""

import os
import select
import sys
from pathlib import Path
from typing import TextIO

import cyclopts
from rich.console import Console
from rich.markup import escape

from cardcore.errors import OnecardError

# What a shell says of a program that SIGPIPE ended.
UNREAD = 128 + 13

app = cyclopts.App(name="onecard", help="One card, many uses: issuing, proving and clearing a public service card.")
app.command("clearing.cli:app", name="clearing")
app.command("onecard.counter:app", name="counter")
app.command("keys.cli:app", name="keys")
app.command("simulators.cli:app", name="sim")
app.command("onecard.demo.command:command", name="demo")
app.command("onecard.doctor:command", name="doctor")


def main() -> None:
    """Run a command; an error that is meant for people is printed as such, without a trace, and ends with status 2.

    Where nobody reads the output to its end (`onecard … | head`), the command ends quietly with status 141.
    """
    if sys.stdout is None:
        # Started with its output closed, as daemons are.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - it is the program's own until it ends
    try:
        status = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # It may as well be a socket of ours that broke, which is not for us to hide.
        if not any(map(_unread, (sys.stdout, sys.stderr))):
            raise
        _silence()
        status = UNREAD
    sys.exit(status)


def _run() -> int | str | None:
    """The command's exit status."""
    try:
        app()
    except SystemExit as end:
        return end.code
    except OnecardError as error:
        name, told = type(error).__name__, escape(str(error))
        Console(stderr=True).print(f"[bold red]{name}[/]: {told}", highlight=False, soft_wrap=True)
        return 2
    return 0


def _unread(stream: TextIO) -> bool:
    """Whether the other end of a stream has been closed."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _silence() -> None:
    """Let what is still buffered go nowhere, so that Python does not complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _unread(stream):
            os.dup2(nowhere, stream.fileno())
