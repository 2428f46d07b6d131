"""The one thread that speaks with the token.

The binding crashes when two threads use one module, so a module has one thread, and that thread one session. It runs
an event loop: coroutines come to it by `run`, plain calls by `call`.
"""

import asyncio
import ctypes
import struct
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread, current_thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from cardcore.errors import KeyUseError, SetupError
from keys.guarded import Guarded
from keys.pkcs11.uri import TokenUri

if TYPE_CHECKING:
    from pkcs11 import Session

Result = TypeVar("Result")
# The binding gives its keys their methods by mixins that its types do not tell of.
SecretKey = Any
# Issuers' keys kept in the session; a store of a province has a few dozen.
_CHILDREN = 256
_open_modules: set[str] = set()
_opening = Lock()


class Hsm(Guarded):
    """A session of one token in a thread of its own. It speaks of keys by their labels in the token.

    A session that breaks is opened anew, once a call; a PIN that is refused is never tried again, because tokens lock.
    Every method may be called from any thread and raises KeyUseError when the token does not answer.
    """

    __slots__ = (
        "_children",
        "_keys",
        "_lib",
        "_loop",
        "_refused",
        "_session",
        "_thread",
        "made_by",
        "mechanisms",
        "serial",
        "uri",
    )

    def __init__(self, uri: TokenUri) -> None:
        """Log in; raises SetupError when the module, the token or its PIN is not what the URI says."""
        self.uri = uri
        with _opening:
            if str(uri.module) in _open_modules:
                raise KeyUseError(f"{uri.module} is in use in this program already; use the store that is open")
            _open_modules.add(str(uri.module))
        self._keys: dict[str, SecretKey] = {}
        self._children: dict[tuple[str, bytes], SecretKey] = {}
        self._session: Session | None = None
        self._lib: Any = None
        self._refused = ""
        self.serial = b""
        self.made_by = ""
        self.mechanisms: frozenset[str] = frozenset()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="hsm", daemon=True)
        self._thread.start()
        try:
            self._submit(self._log_in).result()
        except BaseException:
            self.close()
            raise

    @property
    def label(self) -> str:
        return str(self.uri)

    def close(self) -> None:
        """Log out and end the thread; closing twice is no mistake."""
        if self._loop.is_closed():
            return
        self._submit(self._log_out).result()
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        with _opening:
            _open_modules.discard(str(self.uri.module))

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the token's thread; cancelling here cancels it there."""
        if self._loop.is_closed():
            work.close()
            raise _closed()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def encrypt(self, label: str, blocks: bytes) -> bytes:
        """ECB of whole blocks under a key of the token, in one call to it."""
        return self._call(lambda: self._ecb(self._key(label), blocks))

    def encrypt_below(self, label: str, factor: bytes, blocks: bytes) -> bytes:
        """ECB under DIV(key, factor of 8 bytes), which is derived inside the token and stays there."""
        return self._call(lambda: self._ecb(self._child(label, factor), blocks))

    def chain(self, label: str, iv: bytes, blocks: bytes) -> bytes:
        """Last block of CBC over whole blocks under a key of the token."""
        mechanism = _pkcs11().Mechanism.DES3_CBC
        return self._call(
            lambda: bytes(self._key(label).encrypt(blocks, mechanism=mechanism, mechanism_param=iv))[-len(iv) :]
        )

    def mark(self, label: str, text: bytes) -> bytes:
        """AES-CMAC (16 bytes) under a key of the token."""
        return self._call(lambda: bytes(self._key(label).sign(text, mechanism=_pkcs11().Mechanism.AES_CMAC)))

    def labels(self) -> frozenset[str]:
        """Labels of all secret keys in the token; raises KeyUseError for one that could be read out of it."""

        def find() -> frozenset[str]:
            self._find_keys()
            return frozenset(self._keys)

        return self._call(find)

    def generate(self, label: str) -> None:
        """An AES-256 key, drawn in the token, that only makes marks."""
        of = _pkcs11()
        template = _template(label) | {of.Attribute.SIGN: True}
        self._call(lambda: self._keep(label, self._open_session().generate_key(of.KeyType.AES, 256, template=template)))

    def install(self, label: str, octets: bytes) -> None:
        """Bring a 16-byte key in by a ceremony; a key that an interrupted ceremony left under the label is replaced."""
        of = _pkcs11()
        template = _template(label) | {
            of.Attribute.CLASS: of.ObjectClass.SECRET_KEY,
            of.Attribute.KEY_TYPE: of.KeyType.DES2,
            of.Attribute.VALUE: octets,
            of.Attribute.ENCRYPT: True,
            of.Attribute.DERIVE: True,
        }

        def install() -> None:
            if label in self._keys:
                self._keys.pop(label).destroy()
            self._keep(label, self._open_session().create_object(template))

        self._call(install)

    def destroy(self, labels: Iterable[str]) -> None:
        """Destroy these keys of the token for good."""

        def destroy() -> None:
            for label in labels:
                if (key := self._keys.pop(label, None)) is not None:
                    key.destroy()

        self._call(destroy)

    def _call(self, act: Callable[[], Result]) -> Result:
        if current_thread() is self._thread:
            return self._twice(act)
        return self._submit(lambda: self._twice(act)).result()

    def _submit(self, act: Callable[[], Result]) -> "Future[Result]":
        if self._loop.is_closed():
            raise _closed()

        async def in_thread() -> Result:
            return act()

        return asyncio.run_coroutine_threadsafe(in_thread(), self._loop)

    def _twice(self, act: Callable[[], Result]) -> Result:
        """A token that was unplugged and is back answers the second time; one that is gone does not."""
        errors = _pkcs11().PKCS11Error
        try:
            return act()
        except errors:
            self._log_out()
        try:
            self._log_in()
            return act()
        except (errors, SetupError) as error:
            raise KeyUseError(
                f"the token {self.uri} does not answer ({_why(error)}); nothing was made, put it back and ask again"
            ) from error

    def _log_in(self) -> None:
        of = _pkcs11()
        if self._refused:
            raise SetupError(self._refused)
        try:
            self._lib = of.lib(str(self.uri.module))
        except (of.PKCS11Error, RuntimeError, OSError) as error:
            raise SetupError(
                f"the PKCS#11 module {self.uri.module} cannot be loaded ({_why(error)}); install it or correct "
                "module-path, nothing was opened"
            ) from error
        token = self._token(of)
        pin = self.uri.pin()
        try:
            self._session = token.open(rw=True, user_pin=pin)
        except (of.PinIncorrect, of.PinInvalid, of.PinLenRange, of.PinLocked, of.PinExpired) as error:
            self._refused = (
                f"the token {self.uri} refuses the PIN ({_why(error)}); it was tried once and is not tried again, "
                "because tokens lock: correct the PIN, then open the store"
            )
            raise SetupError(self._refused) from error
        except of.PKCS11Error as error:
            raise SetupError(f"no session with {self.uri}: {_why(error)}; nothing was opened, try again") from error
        self.mechanisms = frozenset(f"CKM_{mechanism.name}" for mechanism in token.slot.get_mechanisms()
                                    if hasattr(mechanism, "name"))  # fmt: skip
        self._find_keys()

    def _token(self, of: ModuleType) -> Any:
        """The one token that the URI names, and after a break the same one."""
        asked = self.uri.token
        found = [
            token
            for token in self._lib.get_tokens()
            if all(_text(getattr(token, _ATTRIBUTES[name])) == value for name, value in asked.items())
        ]
        if len(found) != 1:
            raise SetupError(
                f"{len(found) or 'no'} tokens match {self.uri}; plug it in, initialise it, or name it by its serial=, "
                "nothing was opened"
            )
        if self.serial not in (b"", found[0].serial):
            raise SetupError(f"{self.uri} is another token than before; put the first one back")
        self.serial = found[0].serial
        self.made_by = f"{_text(found[0].manufacturer_id)} {_text(found[0].model)}".strip()
        return found[0]

    def _find_keys(self) -> None:
        of = _pkcs11()
        wanted = {of.Attribute.CLASS: of.ObjectClass.SECRET_KEY, of.Attribute.TOKEN: True}
        found: Iterable[SecretKey] = self._open_session().get_objects(wanted)
        keys = {key.label: key for key in found}
        for label, key in keys.items():
            closed = key[of.Attribute.SENSITIVE] and not key[of.Attribute.EXTRACTABLE] and key[of.Attribute.PRIVATE]
            if not closed and label.startswith(PREFIX):
                raise KeyUseError(f"the key {label!r} of the token can be read out of it; nothing was opened")
        self._keys = {label: key for label, key in keys.items() if label.startswith(PREFIX)}

    def _log_out(self) -> None:
        """Let go of a session, whatever state it is in; the module forgets everything, also what it thinks of slots."""
        self._keys, self._children, session, self._session = {}, {}, self._session, None
        # What cannot be closed any more is closed.
        with suppress(Exception):
            if session is not None:
                session.close()
        with suppress(Exception):
            if self._lib is not None and self._lib.initialized:
                self._lib.finalize()

    def _open_session(self) -> "Session":
        if self._session is None:
            raise _pkcs11().SessionClosed
        return self._session

    def _key(self, label: str) -> SecretKey:
        self._open_session()
        try:
            return self._keys[label]
        except KeyError:
            raise KeyUseError(f"the token {self.uri} holds no key {label!r} any more; restore the token") from None

    def _child(self, label: str, factor: bytes) -> SecretKey:
        """A key below another, derived in the session: sensitive, not extractable, and good for ECB only."""
        child = self._children.get((label, factor))
        if child is None:
            if len(self._children) >= _CHILDREN:
                for old in self._children.values():
                    old.destroy()
                self._children.clear()
            child = self._children[label, factor] = self._derive(self._key(label), factor)
        return child

    @staticmethod
    def _derive(parent: SecretKey, factor: bytes) -> SecretKey:
        of = _pkcs11()
        text = factor + bytes(octet ^ 0xFF for octet in factor)
        # CK_KEY_DERIVATION_STRING_DATA by hand, which the binding does not know for DES: `held` must outlive the call.
        held = ctypes.create_string_buffer(text, len(text))
        parameter = struct.pack("@PL", ctypes.addressof(held), len(text))
        template = _template("", stored=False) | {
            of.Attribute.ENCRYPT: True,
            of.Attribute.VALUE_LEN: of.constants.DEFAULT,
        }
        return parent.derive_key(
            of.KeyType.DES2, 128, mechanism=of.Mechanism.DES3_ECB_ENCRYPT_DATA, mechanism_param=parameter,
            template=template,
        )  # fmt: skip

    @staticmethod
    def _ecb(key: SecretKey, blocks: bytes) -> bytes:
        return bytes(key.encrypt(blocks, mechanism=_pkcs11().Mechanism.DES3_ECB)) if blocks else b""

    def _keep(self, label: str, key: Any) -> None:
        self._keys[label] = key


# What is ours among the keys of a token.
PREFIX = "onecard "
_ATTRIBUTES = {"token": "label", "serial": "serial", "manufacturer": "manufacturer_id", "model": "model"}


def _template(label: str, *, stored: bool = True) -> dict[Any, Any]:
    """Attributes of every key of ours: it can neither be read nor copied nor given other powers; those it has are
    added."""
    at = _pkcs11().Attribute
    powers = (at.ENCRYPT, at.DECRYPT, at.SIGN, at.VERIFY, at.WRAP, at.UNWRAP, at.DERIVE)
    fixed = {at.MODIFIABLE: False, at.COPYABLE: False} if stored else {}
    return {
        at.LABEL: label, at.TOKEN: stored, at.PRIVATE: True, at.SENSITIVE: True, at.EXTRACTABLE: False,
    } | fixed | dict.fromkeys(powers, False)  # fmt: skip


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _closed() -> KeyUseError:
    return KeyUseError("the token store is closed; nothing was made, open the store again")


def _pkcs11() -> ModuleType:
    """The binding, an extra: most counters have no token."""
    try:
        import pkcs11
    except ImportError as error:
        raise SetupError("a store in a token needs python-pkcs11: install onecard[pkcs11]") from error
    return pkcs11
