"""Where the texts of the standards differ, or leave a choice, a card or PSAM is ordered with one of the readings."""

from dataclasses import dataclass, fields
from typing import Literal, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The readings that a chip follows; each default is the reading of docs/card.md and docs/onecard-sm4-1.md.

    `log_counter`: the counter in a log record is the one before the transaction, or after it.
    `overdraft_tac_key`: UPDATE OVERDRAW LIMIT makes its TAC with the folded TAC key (3DES: halves XORed), or the whole.
    `blocked_select`: SELECT of a blocked application answers FCI and 6283, or only 6A81; it is selected either way, or
    it could never be unblocked.
    `pin_unblock_place`: where PIN UNBLOCK names the PIN; the other parameter is 00.
    `sm4_session_key`: the seed of an SM4 session key is padded with 80 00…, or d ‖ ~d with d = seed ‖ 80 00, 8 bytes.
    `psam_factor_order`: the order of the factors in INIT SAM FOR PURCHASE and INIT FOR DESCRYPT; the PSAM derives from
    the outermost, the city, in either case.

    Raises ValueError for a value that is none of these.
    """

    log_counter: Literal["before", "after"] = "before"
    overdraft_tac_key: Literal["folded", "whole"] = "folded"
    blocked_select: Literal["fci-6283", "6a81"] = "fci-6283"
    pin_unblock_place: Literal["p2", "p1"] = "p2"
    sm4_session_key: Literal["padded", "complement"] = "padded"
    psam_factor_order: Literal["card-city", "city-card"] = "card-city"

    def __post_init__(self) -> None:
        for field in fields(self):
            chosen, known = getattr(self, field.name), get_args(field.type)
            if chosen not in known:
                raise ValueError(f"{field.name} is one of {', '.join(known)}, not {chosen!r}")


STANDARD = Behaviour()
