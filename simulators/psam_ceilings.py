"""How much a PSAM may sign for before its owner must see it again (docs/card.md, "The PSAM").

A stolen validator keeps its PSAM: without a ceiling it collects debits for ever. And a PSAM that may be asked without
end whether a MAC2 is right is an oracle of MAC2s.
"""

from dataclasses import dataclass, replace

MAC2_TRIES = 15


@dataclass(frozen=True, slots=True)
class Ceilings:
    """A count and an amount of purchases, 0 for no ceiling, what is used of each, and the tries left for a MAC2."""

    count: int = 0
    amount_fen: int = 0
    used: int = 0
    used_fen: int = 0
    tries: int = MAC2_TRIES

    def admit(self, amount_fen: int) -> bool:
        """Whether one more purchase of this amount stays below both."""
        in_count = not self.count or self.used < self.count
        return in_count and (not self.amount_fen or self.used_fen + amount_fen <= self.amount_fen)

    def after(self, amount_fen: int) -> "Ceilings":
        """One purchase more, counted from the answer to INIT on: that answer lets a card be debited."""
        if not self.count and not self.amount_fen:
            return self
        return replace(self, used=self.used + 1, used_fen=self.used_fen + amount_fen)

    def missed(self) -> "Ceilings":
        """A wrong MAC2."""
        return replace(self, tries=self.tries - 1)

    def restored(self) -> "Ceilings":
        """A right MAC2: only wrong ones in a row count."""
        return self if self.tries == MAC2_TRIES else replace(self, tries=MAC2_TRIES)
