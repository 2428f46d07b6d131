"""The reader side's `CardAuthority`, made of two handles: for use in one process (a far counter asks the clearing
desk instead)."""

from cardcore.authority import (
    CardIdentity,
    KeyStep,
    LoadAuthority,
    LoadGrant,
    LoadRequest,
    OverdraftRequest,
    PersonalisationAuthority,
    PsamIdentity,
    Under,
)


class Authority:
    """Implements `cardcore.authority.CardAuthority`. The clearing desk puts its own load authority, which also
    writes the load into the books, in the place of the bare authoriser."""

    def __init__(self, personaliser: PersonalisationAuthority, loads: LoadAuthority) -> None:
        self._personaliser = personaliser
        self._loads = loads

    async def authenticate(
        self, identity: CardIdentity | PsamIdentity, application: int, under: Under, challenge: bytes
    ) -> bytes:
        return await self._personaliser.authenticate(identity, application, under, challenge)

    async def write_key(self, identity: CardIdentity | PsamIdentity, step: KeyStep, challenge: bytes) -> bytes:
        return await self._personaliser.write_key(identity, step, challenge)

    async def secure(
        self, identity: CardIdentity | PsamIdentity, application: int, command: bytes, challenge: bytes
    ) -> bytes:
        return await self._personaliser.secure(identity, application, command, challenge)

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        return await self._personaliser.set_overdraft(request)

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        return await self._loads.authorise_load(request)
