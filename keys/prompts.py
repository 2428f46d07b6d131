"""What a custodian is asked at a terminal: never by argument, never by environment, secrets without echo."""

import getpass
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from cardcore.errors import FormatError, OnecardError, RefusedError, SetupError
from keys import acts
from keys.ceremony import Ceremony
from keys.custody import Approval
from keys.purposes import KeyId
from keys.store import EmbeddedStore, open_store, wants_passphrase

_TRIES = 3


class Prompts:
    """Questions to whoever sits there. `ask` echoes, `ask_secret` does not; both raise SetupError when nobody is."""

    def __init__(self, ask: Callable[[str], str] = input, ask_secret: Callable[[str], str] = getpass.getpass) -> None:
        self._ask = ask
        self._ask_secret = ask_secret
        self.console = Console()

    def name(self, question: str) -> str:
        """A person's name."""
        return self._answer(self._ask, f"{question}: ").strip()

    def secret(self, question: str) -> str:
        """Something that is not shown."""
        return self._answer(self._ask_secret, f"{question} (not shown): ")

    def new_passphrase(self, whose: str) -> str:
        """The same passphrase twice. Raises FormatError when they differ."""
        first = self.secret(f"New passphrase of {whose}")
        if first != self.secret("The same again"):
            raise FormatError("the two passphrases differ; nothing was done, begin again")
        return first

    def store(self, path: Path, *, anchor: Path | None = None, restored: bool = False) -> EmbeddedStore:
        """Open the store, asking for its passphrase where it has one."""
        passphrase = self.secret(f"Passphrase of the store {path}") if wants_passphrase(path) else None
        return open_store(path, passphrase=passphrase, anchor=anchor, restored=restored)

    def approvals(self, store: EmbeddedStore, act: str) -> list[Approval]:
        """Two custodians, one after the other, read the act and approve it. Raises RefusedError."""
        self.console.print(f"To be approved by two custodians:\n  {act}", highlight=False)
        given: list[Approval] = []
        for place in ("First", "Second"):
            name = self.name(f"{place} custodian, name")
            given.append(acts.approve(store, act, name, self.secret(f"Passphrase of {name}")))
        return given

    def components(self, ceremony: Ceremony) -> None:
        """Every person's components, with their check values. Raises RefusedError after three wrong entries of one."""
        for place in range(1, ceremony.parts + 1):
            person = self.name(f"Person {place} of {ceremony.parts}, name (the others look away)")
            ceremony.seat(person)
            for id in ceremony.ids:
                value = self._component(ceremony, id)
                self.console.print(f"  component {place} of {id}: KCV {value}; compare it with your form")
        for id, value in ceremony.check_values().items():
            self.console.print(f"{id}: KCV {value}; write it down, all of you")

    def _component(self, ceremony: Ceremony, id: KeyId) -> str:
        for tries_left in range(_TRIES - 1, -1, -1):
            component = self.secret(f"Your component of {id}, 32 hexadecimal digits")
            try:
                return ceremony.give(id, component)
            except OnecardError as error:
                if not tries_left:
                    raise
                self.console.print(str(error), style="red")
        raise AssertionError("the last try returns or raises")

    @staticmethod
    def _answer(ask: Callable[[str], str], question: str) -> str:
        try:
            answer = ask(question)
        except (EOFError, KeyboardInterrupt) as error:
            raise RefusedError("two-persons", "nobody answered; nothing was done, begin again") from error
        except OSError as error:
            raise SetupError(f"this needs a terminal to ask at ({error}); nothing was done") from error
        return answer


def expect_values(ceremony: Ceremony, expected: Sequence[str]) -> None:
    """Compare the check values with those on paper, `<key>=<6 digits>`. Raises FormatError, and nothing is kept."""
    wanted = dict(text.partition("=")[::2] for text in expected)
    values = {id.name: value for id, value in ceremony.check_values().items()}
    if missing := sorted(set(values) ^ set(wanted)):
        raise FormatError(f"the check value of {missing[0]} is on one side only; nothing was kept")
    for name, value in values.items():
        if wanted[name].upper() != value:
            raise FormatError(
                f"{name} has the check value {value} and not {wanted[name].upper()} of the form: a component is wrong. "
                "Nothing was kept; hold the ceremony again"
            )
