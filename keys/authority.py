"""The reader side's `CardAuthority`, made of the handles of a store: for use in one process (a far counter asks the
clearing desk instead)."""

from cardcore.authority import (
    BlockRequest,
    CardIdentity,
    KeyStep,
    LoadAuthority,
    LoadGrant,
    LoadRequest,
    OverdraftProof,
    OverdraftRequest,
    PersonalisationAuthority,
    PinReloadRequest,
    PinUnblockRequest,
    ProtectedAnswer,
    ProtectRequest,
    PsamIdentity,
    Under,
    UnloadAuthority,
    UnloadGrant,
    UnloadRequest,
    UpkeepAuthority,
)


class Authority:
    """Implements `cardcore.authority.CardAuthority`. The clearing desk puts its own load authority, which also
    writes the load into the books, in the place of the bare authoriser."""

    def __init__(
        self,
        personaliser: PersonalisationAuthority,
        loads: LoadAuthority,
        unloads: UnloadAuthority,
        upkeep: UpkeepAuthority,
    ) -> None:
        self._personaliser = personaliser
        self._loads = loads
        self._unloads = unloads
        self._upkeep = upkeep

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

    async def finish(self, identity: CardIdentity | PsamIdentity) -> None:
        await self._personaliser.finish(identity)

    async def authorise_load(self, request: LoadRequest) -> LoadGrant:
        return await self._loads.authorise_load(request)

    async def authorise_unload(self, request: UnloadRequest) -> UnloadGrant:
        return await self._unloads.authorise_unload(request)

    async def confirm_unload(self, request: UnloadRequest, grant: UnloadGrant, mac3: bytes) -> None:
        await self._unloads.confirm_unload(request, grant, mac3)

    async def protect(self, request: ProtectRequest) -> bytes:
        return await self._upkeep.protect(request)

    async def reveal(self, answer: ProtectedAnswer) -> bytes:
        return await self._upkeep.reveal(answer)

    async def block(self, request: BlockRequest) -> bytes:
        return await self._upkeep.block(request)

    async def reload_pin(self, request: PinReloadRequest) -> bytes:
        return await self._upkeep.reload_pin(request)

    async def unblock_pin(self, request: PinUnblockRequest) -> bytes:
        return await self._upkeep.unblock_pin(request)

    async def confirm_overdraft(self, proof: OverdraftProof) -> None:
        await self._upkeep.confirm_overdraft(proof)
