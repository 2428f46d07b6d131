"""Which versions of keys go into a chip (docs/card.md, "Keys"): told by who holds the keys, chosen by the scripts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cardcore.card_map import KEY_VERSION
from cardcore.errors import FormatError, KeyUseError
from cardcore.record import Suite

# Suite, type as a card's key (26 and 46 for a PSAM's record and entry key), and the application, or the sector of a
# purchase key.
Key = tuple[int, int, int]
_FIRST = frozenset({KEY_VERSION})
SUITE_NAMES = {Suite.TRIPLE_DES: "3DES", Suite.SM4: "SM4"}


@dataclass(frozen=True, slots=True)
class KeyVersions:
    """The versions in force, each a key and its number; a key that is not named has the first alone.

    `active` go into cards, and into PSAMs, which get those that are `rolling_out` too: cards will carry them soon.
    `retired` are the suites (algorithm ids) of which nothing goes into a chip any more, `missing` the keys of which no
    version does now, each with the name that its custodians know.
    """

    active: frozenset[tuple[Key, int]] = frozenset()
    rolling_out: frozenset[tuple[Key, int]] = frozenset()
    retired: frozenset[int] = frozenset()
    missing: frozenset[tuple[Key, str]] = frozenset()

    def offer(self, suite: Suite) -> None:
        """Raises KeyUseError where chips of this suite are made no more."""
        if suite in self.retired:
            others = " or ".join(SUITE_NAMES[one] for one in Suite if one not in self.retired) or "after a ceremony"
            raise KeyUseError(
                f"{SUITE_NAMES[suite]} is retired: its keys go into no chip any more; nothing was made, no serial was "
                f"spent, order it in {others}"
            )

    def require(self, keys: Iterable[Key]) -> None:
        """Raises KeyUseError, naming them, where some of these keys go into no chip now: a chip that was begun would
        stay half made."""
        wanted = set(keys)
        if names := ", ".join(sorted(name for key, name in self.missing if key in wanted)):
            raise KeyUseError(
                f"no version of {names} may go into a chip, and this one needs it; nothing was made, no serial was "
                "spent: let the custodians promote or resume it (onecard keys status says where it stands), or order "
                "in a suite that has all its keys"
            )

    def newest(self, keys: Sequence[Key]) -> int:
        """The newest version that all of these keys have in force; raises KeyUseError when there is none."""
        held = {key: self._in_force(key) for key in keys}
        if shared := frozenset.intersection(*held.values()):
            return max(shared)
        told = ", ".join(
            f"{Suite(suite).name} {kind:02X} of {place}: {' and '.join(f'v{number}' for number in sorted(numbers))}"
            for (suite, kind, place), numbers in held.items()
        )
        raise KeyUseError(
            f"the keys of one purse have one version, and none is active in all of them ({told}); nothing was made, "
            "promote the missing ones"
        )

    def coming(self, key: Key) -> list[int]:
        """Every version of a key that cards carry or are about to, in ascending order."""
        return sorted(self._in_force(key) | {number for one, number in self.rolling_out if one == key})

    def _in_force(self, key: Key) -> frozenset[int]:
        return frozenset(number for one, number in self.active if one == key) or _FIRST

    @property
    def text(self) -> str:
        """What goes into cards, for a journal; nothing as long as nothing was rotated."""
        return " ".join(f"{bytes((*key, number)).hex()}" for key, number in sorted(self.active))

    @classmethod
    def read(cls, text: str) -> "KeyVersions":
        """What `text` has told; raises FormatError on anything else."""
        try:
            rows = [tuple(bytes.fromhex(word)) for word in text.split()]
            return cls(frozenset(((suite, kind, place), number) for suite, kind, place, number in rows))
        except ValueError as error:
            raise FormatError(f"{text!r} names no versions of keys; the journal was changed by another hand") from error


# Of a store that has never rotated a key.
FIRST_VERSIONS = KeyVersions()
