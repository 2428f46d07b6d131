"""The one command: a group per user, mounted from the rooms, each loaded when it is asked for."""

import sys

import cyclopts
from rich.console import Console
from rich.markup import escape

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
        name, told = type(error).__name__, escape(str(error))
        Console(stderr=True).print(f"[bold red]{name}[/]: {told}", highlight=False, soft_wrap=True)
        sys.exit(2)
