"""Once only: batches become facts, exhibits and postings, in one transaction before the answer.

`decode_batch` reads a body, `Intake` takes it in, `retake` takes up again what lacked a key or a registry row.
"""

from clearing.intake.frame import Batch, decode_batch
from clearing.intake.intake import Intake
from clearing.intake.proving import Verifiers
from clearing.intake.retake import Retaken, retake

__all__ = ["Batch", "Intake", "Retaken", "Verifiers", "decode_batch", "retake"]
