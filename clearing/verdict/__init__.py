"""What a record is: a pure function from records, registry, proofs and what is known, to one verdict per record.

Total: any 128 bytes get a verdict, none an exception.
"""

from clearing.verdict.bearings import Bearings, take_bearings
from clearing.verdict.table import Findings, Proofs, State, Verdict, decide, find

__all__ = ["Bearings", "Findings", "Proofs", "State", "Verdict", "decide", "find", "take_bearings"]
