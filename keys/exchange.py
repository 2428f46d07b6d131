"""How a root goes to another party's module and comes from it, as a TR-31 block (`keys.tr31`): acts of two custodians
who gave no component of the protection key."""

from collections.abc import Sequence
from pathlib import Path

from cardcore.errors import FormatError, KeyUseError, SetupError
from keys import acts
from keys.custody import Approval
from keys.engine.root import RootKey
from keys.purposes import KeyId, KeyState
from keys.rotation import next_version
from keys.store import EmbeddedStore
from keys.tr31 import ProtectionKey, Version, may_go_on, unwrap, wrap

# What a store remembers of a root whose sender forbade handing it on.
KEPT = "not exportable"
_LONGEST = 9_999
_STATES = frozenset({KeyState.PRE_ACTIVE, KeyState.ROLLING_OUT, KeyState.ACTIVE, KeyState.VERIFY_ONLY})


def export_act(store: EmbeddedStore, id: KeyId, under: ProtectionKey, *, onward: bool) -> str:
    """The words of the act of handing a root on."""
    life = store.book.register.lives()[id]
    further = "they may hand it on" if onward else "they may not hand it on"
    return f"export {id} KCV {life.kcv} under a protection key {under.version} KCV {under.kcv.hex().upper()}, {further}"


def check_export(store: EmbeddedStore, id: KeyId) -> RootKey:
    """The root, when it may leave. Raises KeyUseError, so that nobody is asked in vain."""
    life = store.book.register.lives().get(id)
    if life is None or life.state not in _STATES:
        raise KeyUseError(f"{id} is {life.state if life else 'not here'} and is not exported; nothing was made")
    if any((kind, name) == (KEPT, str(id)) for kind, name, _ in store.book.state.rows("rule")):
        raise KeyUseError(f"{id} came in as not exportable; nothing was made, ask its owner for a block")
    root = store.in_state(id, life.state)
    # What lives in a token says so here, before anybody has typed a component.
    root.undiversified().reveal()
    return root


def export_root(
    store: EmbeddedStore, id: KeyId, under: ProtectionKey, approvals: Sequence[Approval], givers: Sequence[str],
    file: Path, *, onward: bool = False,
) -> None:  # fmt: skip
    """Leave the block of a root in a new file; `givers` held the components of `under`. Raises KeyUseError,
    RefusedError, and SetupError when the file cannot be written."""
    act = export_act(store, id, under, onward=onward)
    block = wrap(check_export(store, id), under, onward=onward)
    free(file)
    row = ("export", str(id), f"{act}; components of {', '.join(givers)}")
    acts.decide(store, act, approvals, [], row, givers)
    try:
        with file.open("x", encoding="ascii") as out:
            out.write(block + "\n")
    except OSError as error:
        raise SetupError(
            f"the export of {id} is in the audit, but its file cannot be written ({error}): export it again"
        ) from error


def free(file: Path) -> None:
    """Raises SetupError when a file cannot be the new one that it shall be."""
    if file.exists() or not file.parent.is_dir():
        raise SetupError(f"{file} is there already, or its directory is not; nothing was made, name another file")


def read_block(file: Path) -> str:
    """The text of a block. Raises SetupError, FormatError."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SetupError(f"{file} cannot be read ({error}); nothing was taken in") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is no TR-31 key block; nothing was taken in, ask for it again") from error
    if len(text) > _LONGEST:
        raise FormatError(f"{file} is longer than any TR-31 key block; nothing was taken in")
    return text


def version_of(block: str) -> Version:
    """Which protection key a block asks for. Raises FormatError."""
    try:
        return Version(block[:1])
    except ValueError as error:
        raise FormatError("this is no TR-31 key block of version B or D; nothing was taken in") from error


def received(store: EmbeddedStore, block: str, under: ProtectionKey, name: str, version: int | None) -> RootKey:
    """The root of a block as the store would keep it, pre-active: the next version of its name, unless the sender's
    is named. Raises FormatError, KeyUseError."""
    id = KeyId.parse(name, version or next_version(name, store.book.register.lives()))
    root = unwrap(block, under, id, test=not store.production)
    if not store.fresh([root]):
        raise KeyUseError(f"{id} is here already; nothing was kept")
    return root


def import_root(
    store: EmbeddedStore, root: RootKey, approvals: Sequence[Approval], givers: Sequence[str], under: ProtectionKey
) -> None:
    """Take a received root in; what came as not exportable stays so. Raises KeyUseError, RefusedError."""
    act, kept = acts.installation([root]), not may_go_on(root)
    sender = f"protection key {under.version} KCV {under.kcv.hex().upper()}, components of {', '.join(givers)}"
    rows = store.rows_of([root])
    if kept:
        rows.append(("INSERT INTO rule VALUES (?, ?, ?)", (KEPT, str(root.id), sender)))
    row = ("import", str(root.id), f"{act}; {sender}{f'; {KEPT}' if kept else ''}")
    acts.decide(store, act, approvals, rows, row, givers)
    store.reload()
