"""Auditor T, taken apart: what the city's truth says of the faults and of the report, beside what was published.

Each module gives two dictionaries under the same names, what the city says and what the outputs say; the auditor
compares them. Nothing here is shared with the city that wrote the truth, nor with the other auditor.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Facts: TypeAlias = dict[str, object]
Pair: TypeAlias = tuple[Facts, Facts]
