"""Where sources and cards differ, as named choices of a profile; the first of each is the default (docs/card.md).

Every choice changes a parameter or an input that is chosen here; the cryptography behind it stays in `keys`.
"""

from dataclasses import dataclass
from enum import StrEnum


class LogCounter(StrEnum):
    """Which counter a card writes into its log; the cryptograms cover the one before in either case."""

    BEFORE = "before"
    AFTER = "after"


class OverdraftTacKey(StrEnum):
    """What a 3DES card makes the TAC of UPDATE OVERDRAFT LIMIT with: TAC key halves XORed, or the whole key."""

    FOLDED = "folded"
    WHOLE = "whole"


class BlockedSelect(StrEnum):
    """What SELECT of a blocked application answers: the FCI with 6283, or 6A81 alone."""

    FCI_6283 = "fci-6283"
    REFUSED_6A81 = "6a81"


class PsamFactorOrder(StrEnum):
    """Order of the derivation factors on the wire of INIT SAM FOR PURCHASE; the derivation is city, then card."""

    CARD_CITY = "card-city"
    CITY_CARD = "city-card"


class PinUnblockPlace(StrEnum):
    """Where PIN UNBLOCK names the PIN: in P2 with P1 = 00, or in P1 with P2 = 00."""

    P2 = "p2"
    P1 = "p1"


class Sm4SessionKey(StrEnum):
    """What an SM4 card enciphers into its session key: the input padded with 80 00…, or beside its complement."""

    PADDED = "padded"
    COMPLEMENT = "complement"


@dataclass(frozen=True, slots=True)
class Switches:
    """One choice each."""

    log_counter: LogCounter = LogCounter.BEFORE
    overdraft_tac_key: OverdraftTacKey = OverdraftTacKey.FOLDED
    blocked_select: BlockedSelect = BlockedSelect.FCI_6283
    psam_factor_order: PsamFactorOrder = PsamFactorOrder.CARD_CITY
    pin_unblock_place: PinUnblockPlace = PinUnblockPlace.P2
    sm4_session_key: Sm4SessionKey = Sm4SessionKey.PADDED


DEFAULTS = Switches()
"""The first of each: the cards of the profiles that come with the product."""
