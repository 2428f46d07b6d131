"""Policies as rating, fees and the close read them from the store."""

import json
from datetime import time
from zoneinfo import ZoneInfo

from cardcore.errors import RefusedError
from clearing.rating.policies import Policies, Policy
from clearing.registry.dates import Calendar, CutOff
from clearing.store.registry import read_policies as read_rows
from clearing.store.types import Connection


async def read_policies(connection: Connection) -> Policies:
    """Every version of every policy."""
    return Policies(
        Policy(row["name"], row["scope"], row["valid_from"], row["version"], json.loads(row["value"]))
        for row in await read_rows(connection)
    )


def calendar_of(policies: Policies) -> Calendar:
    """The business calendar of the dated cut-offs; raises RefusedError('no-cut-off') when the registry has none."""
    cut_offs = [
        CutOff(policy.valid_from, ZoneInfo(str(policy.value["timezone"])), time.fromisoformat(str(policy.value["at"])))
        for policy in policies.all("cut-off")
        if policy.scope == "*"
    ]
    if not cut_offs:
        raise RefusedError(
            "no-cut-off",
            "The registry has no `cut-off` policy, so no instant has a business date. Nothing was changed. Add one.",
        )
    return Calendar(cut_offs)
