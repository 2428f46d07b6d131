"""Two business days of a city, planned ahead by a seed, and played with real APDUs over real HTTP.

Here live the plan (`plan`), what must follow from it (`truth`), its faults, the validators and the uploads. No key of
the city's cards is known here, and nothing of the product is imported: both sides meet in APDUs, HTTP and files.
"""

from simulators.city.ceilings import Armer
from simulators.city.facts import (
    ActResult,
    DeskStep,
    LoadResult,
    Plan,
    ReplacementResult,
    ReportResult,
)
from simulators.city.papers import declared_lines, write_cards, write_papers
from simulators.city.plan import plan
from simulators.city.player import Player
from simulators.city.truth import truth_lines
from simulators.city.uploads import Uploader, upload

__all__ = [
    "ActResult",
    "Armer",
    "DeskStep",
    "LoadResult",
    "Plan",
    "Player",
    "ReplacementResult",
    "ReportResult",
    "Uploader",
    "declared_lines",
    "plan",
    "truth_lines",
    "upload",
    "write_cards",
    "write_papers",
]
