"""When the value of a lost or dead card may be paid out (rule 18)."""

from datetime import datetime, timedelta

from cardcore.errors import RefusedError
from clearing.registry.document import Replacement
from clearing.registry.snapshot import Registry
from clearing.store import desk as rows
from clearing.store.types import Connection


async def check_window(connection: Connection, registry: Registry, old: bytes, now: datetime) -> None:
    """Raises RefusedError `not-open` unless the card was reported, the time in which its taps may still come in has
    passed, and nothing about its value is in doubt.
    """
    policy = registry.value(Replacement, "*", registry.business_date(now))
    if policy is None:
        raise RefusedError(
            "not-open",
            "No `replacement` policy is in force, so nobody said how long taps of a lost card may still come in. "
            "Nothing was done. Take one into the registry.",
        )
    since = await rows.reported_since(connection, old)
    if since is None:
        raise RefusedError("not-open", "The card is not reported. Nothing was done. Report it as lost or dead first.")
    opens = since + timedelta(hours=policy.offline_window_h)
    if now < opens:
        raise RefusedError(
            "not-open",
            f"Taps of the card may still come in until {opens.isoformat(timespec='minutes')}. Nothing was done. "
            "Come again then.",
        )
    if doubts := await rows.in_doubt(connection, old):
        raise RefusedError(
            "not-open",
            f"The value of the card is not certain: {', '.join(doubts)}. Nothing was done. Settle the case first.",
        )
