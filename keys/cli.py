"""`onecard keys`: what a key custodian or an auditor may see of a store. Nothing here shows or takes a key."""

from pathlib import Path

import cyclopts
from rich.console import Console
from rich.table import Table

from cardcore.errors import SetupError
from keys.store import FILE_NAME, EmbeddedStore, open_store

app = cyclopts.App(name="keys", help="Key stores: what they hold, and what was done with it.")


@app.command(name="list")
def list_keys(store: Path) -> None:
    """Name, version, state and check value of every key in the store."""
    with _existing(store) as opened:
        table = Table(
            "key", "version", "state", "KCV", "", title=f"{'production' if opened.production else 'TEST'} store"
        )
        for fact in opened.inventory():
            kcv, test = fact.kcv.hex().upper(), "TEST" if fact.test else ""
            table.add_row(fact.id.name, str(fact.id.version), fact.state, kcv, test)
    Console().print(table)


@app.command
def audit(store: Path, *, last: int = 50) -> None:
    """The last acts on the keys of the store."""
    with _existing(store) as opened:
        rows = opened.audit()[-last:]
    table = Table("no.", "instant", "act", "subject", "detail")
    for number, *texts in rows:
        table.add_row(str(number), *texts)
    Console().print(table)


def _existing(path: Path) -> EmbeddedStore:
    if not (path / FILE_NAME).is_file():
        raise SetupError(f"there is no key store in {path}; a store is founded by a ceremony or by the demo")
    return open_store(path)
