"""What a custodian is asked at a terminal: never by argument, never by environment, secrets without echo."""

import getpass
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter
from rich.console import Console

from cardcore.errors import FormatError, OnecardError, RefusedError, SetupError
from keys import acts
from keys.ceremony import Ceremony
from keys.custody import Approval, folded
from keys.purposes import KeyId
from keys.store import EmbeddedStore, open_store, secret_wanted
from keys.tr31 import ProtectionKey, Version, component_value

_TRIES = 3
Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: in `keys/` of a state directory, with its keys there or in a token (a URI), and its anchor
    beside or elsewhere."""

    state: Annotated[Path, Parameter(env_var="ONECARD_STATE", help="The state directory.")] = Path("onecard-state")
    token: Annotated[str | None, Parameter(env_var="ONECARD_TOKEN", help="URI of the token (PKCS#11).")] = None
    anchor: Annotated[
        Path | None, Parameter(env_var="ONECARD_ANCHOR", help="The store's anchor, best on another disk.")
    ] = None

    @property
    def path(self) -> Path:
        return self.state / "keys"


class Prompts:
    """Questions to whoever sits there. `ask` echoes, `ask_secret` does not; both raise SetupError when nobody is."""

    def __init__(self, ask: Callable[[str], str] = input, ask_secret: Callable[[str], str] = getpass.getpass) -> None:
        self._ask = ask
        self._ask_secret = ask_secret
        self.console = Console(highlight=False, soft_wrap=True)

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

    def store(self, place: Place, *, restored: bool = False) -> EmbeddedStore:
        """Open the store, asking for its passphrase, or the token's PIN, where that is wanted. What the token cannot do
        is said at once."""
        wanted = secret_wanted(place.path, place.token)
        secret = self.secret(wanted) if wanted else None
        opened = open_store(place.path, token=place.token, passphrase=secret, anchor=place.anchor, restored=restored)
        self.say_limits(opened)
        return opened

    def say_limits(self, store: EmbeddedStore) -> None:
        """What the place of the keys cannot do."""
        for limit in store.limits:
            self.console.print(str(limit), style="yellow")

    def approvals(self, store: EmbeddedStore, act: str) -> list[Approval]:
        """Two custodians, one after the other, read the act and approve it. Raises RefusedError."""
        self.console.print(f"To be approved by two custodians:\n  {act}")
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

    def protection_key(self, version: Version, parts: int) -> tuple[ProtectionKey, list[str]]:
        """A protection key from the components of as many persons, and who they are; its check value is compared with
        the other party's. Raises FormatError, RefusedError."""
        if parts < 2:
            raise FormatError("a protection key comes from the components of two persons or more; nothing was made")
        people: list[str] = []
        components: list[str] = []
        for place in range(1, parts + 1):
            person = self.name(f"Person {place} of {parts}, name (the others look away)")
            if folded(person) in map(folded, people):
                raise RefusedError("two-persons", f"{person} has given a component already; ask another person in")
            people.append(person)

            def take(component: str) -> str:
                value = component_value(version, component)
                components.append(component)
                return value

            value = self._tried("Your component of the protection key, hexadecimal", take)
            self.console.print(f"  component {place} of the protection key: KCV {value}; compare it with your form")
        key = ProtectionKey(version, components)
        self.console.print(f"protection key: KCV {key.kcv.hex().upper()}; compare it with the other party")
        return key, people

    def _component(self, ceremony: Ceremony, id: KeyId) -> str:
        return self._tried(
            f"Your component of {id}, 32 hexadecimal digits", lambda component: ceremony.give(id, component)
        )

    def _tried(self, question: str, take: Callable[[str], Taken]) -> Taken:
        for tries_left in range(_TRIES - 1, -1, -1):
            secret = self.secret(question)
            try:
                return take(secret)
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
