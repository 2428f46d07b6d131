"""The personaliser over a token: each step runs in the token's thread, so that no event loop waits for a device."""

from collections.abc import Iterable

from cardcore.authority import CardIdentity, KeyStep, OverdraftRequest, PsamIdentity, Under
from keys.engine.root import RootKey
from keys.governed import Book, Personaliser
from keys.pkcs11.hsm import Hsm


class TokenPersonaliser(Personaliser):
    """As `Personaliser`, in every answer and every refusal."""

    __slots__ = ("_hsm",)

    def __init__(self, roots: Iterable[RootKey], book: Book, psams: frozenset[str] | None, hsm: Hsm) -> None:
        super().__init__(roots, book, psams)
        self._hsm = hsm

    async def authenticate(
        self, identity: CardIdentity | PsamIdentity, application: int, under: Under, challenge: bytes
    ) -> bytes:
        return await self._hsm.run(super().authenticate(identity, application, under, challenge))

    async def write_key(self, identity: CardIdentity | PsamIdentity, step: KeyStep, challenge: bytes) -> bytes:
        return await self._hsm.run(super().write_key(identity, step, challenge))

    async def secure(
        self, identity: CardIdentity | PsamIdentity, application: int, command: bytes, challenge: bytes
    ) -> bytes:
        return await self._hsm.run(super().secure(identity, application, command, challenge))

    async def set_overdraft(self, request: OverdraftRequest) -> bytes:
        return await self._hsm.run(super().set_overdraft(request))
