"""`onecard counter`: the reader side's commands, with what holds the keys handed in."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path

from cardcore.authority import PersonalisationAuthority, UpkeepAuthority
from cardcore.errors import RefusedError, SetupError
from clearing.settings import Settings
from keys.store import is_store, open_store
from keys.unlocking import unlock
from readers.cli import app_for
from readers.counter.desk import Desk


class CounterFront:
    """Keys open in this process; the desk is asked over HTTP; the time is the counter's own."""

    @asynccontextmanager
    async def personalisation(
        self, state: Path, alone: bool
    ) -> AsyncIterator[tuple[PersonalisationAuthority, UpkeepAuthority]]:
        """The personaliser and the upkeep of the state's key store; raises SetupError where there is none, and
        RefusedError where no desk registers the cards (`alone`) and the keys are no TEST keys: only the desk knows
        whether the licence covers the profile (rule 7)."""
        settings = Settings(state=state)
        if not is_store(settings.keys):
            raise SetupError(
                f"there is no key store in {settings.keys}; nothing was written to the card, name the state directory"
            )
        secret = unlock(settings.keys, settings.token, settings.passphrase_file)
        with open_store(settings.keys, token=settings.token, passphrase=secret, anchor=settings.anchor) as store:
            if alone and store.production:
                raise RefusedError(
                    "unregistered",
                    f"the keys of {settings.keys} are of production, and their cards are registered before they are "
                    "made; nothing was written to the card, name the desk (--url)",
                )
            yield store.personaliser(), store.upkeep()

    def desk(self, url: str) -> AbstractAsyncContextManager[Desk]:
        return Desk(url)

    def now(self) -> datetime:
        """The local wall-clock moment, which is what a card is dated with."""
        return datetime.now()


app = app_for(CounterFront())
