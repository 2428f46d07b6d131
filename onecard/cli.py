"""The one command: a group per user, mounted from the rooms, each loaded when it is asked for."""

import sys

import cyclopts
from rich.console import Console

from cardcore.errors import OnecardError

app = cyclopts.App(name="onecard", help="One card, many uses: issuing, proving and clearing a public service card.")
app.command("clearing.cli:app", name="clearing")
app.command("onecard.counter:app", name="counter")
app.command("keys.cli:app", name="keys")
app.command("simulators.cli:app", name="sim")
app.command("onecard.demo.command:command", name="demo")
app.command("onecard.doctor:command", name="doctor")


def main() -> None:
    """Run a command; an error that is meant for people is printed as such, without a trace, and ends with status 2."""
    try:
        app()
    except OnecardError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False)
        sys.exit(2)
