"""SM2 signatures with SM3 (GB/T 32918.2), where strangers check a signature: the one seam to whatever computes them.

It is the OpenSSL 3 of the system, by ctypes: `cryptography` has no SM2, pure Python packages are twenty times slower.
Builds without SM2 exist, so the library shows with the published example that it computes rightly before first use.
Signatures are r ‖ s (64 bytes), public keys x ‖ y (64 bytes).
"""

import ctypes
import ctypes.util
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from cardcore.errors import FormatError, SetupError
from keys.guarded import Guarded
from keys.proof import sm3

# The distinguishing identifier that GM/T 0009 gives when none is agreed.
DEFAULT_ID = b"1234567812345678"
_NUMBER_BYTES = 32
_ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_EC_KEY, _SM2_CURVE = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06082a811ccf5501822d")
# The example of GB/T 32918.2 on the recommended curve (GB/T 32918.5): "message digest".
_EXAMPLE_KEY = bytes.fromhex(
    "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
_EXAMPLE_SIGNATURE = bytes.fromhex(
    "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)


class PublicKey:
    """Checks signatures. A key that is no point of the curve raises FormatError."""

    __slots__ = ("point",)

    def __init__(self, point: bytes) -> None:
        if len(point) != 2 * _NUMBER_BYTES:
            raise FormatError(f"a public key of SM2 has 64 bytes, not {len(point)}; nothing was checked")
        self.point = point
        with self._opened():
            pass

    def verify(self, message: bytes, signature: bytes, id: bytes = DEFAULT_ID) -> bool:
        """Whether the signature is this key's over this message, by the signer of this identifier."""
        if len(signature) != 2 * _NUMBER_BYTES:
            return False
        numbers = (int.from_bytes(signature[at : at + _NUMBER_BYTES], "big") for at in (0, _NUMBER_BYTES))
        der = _tlv(0x30, *(_integer(number) for number in numbers))
        with self._opened() as key:
            return bool(
                _digest("EVP_DigestVerify", key, id, lambda call: call(der, len(der), message, len(message)) == 1)
            )

    @contextmanager
    def _opened(self) -> Iterator[ctypes.c_void_p]:
        with _key("d2i_PUBKEY", _tlv(0x30, _tlv(0x30, _EC_KEY, _SM2_CURVE), _tlv(3, b"\0\4" + self.point))) as key:
            yield key


class Signer(Guarded):
    """Holds a private key and signs; it serves no other purpose and is drawn here."""

    __slots__ = ("_scalar", "public")

    def __init__(self) -> None:
        self._take(secrets.randbelow(_ORDER - 2) + 1)

    @property
    def label(self) -> str:
        return f"SM2 key {sm3(self.public.point).hex()[:16]}"

    def sign(self, message: bytes, id: bytes = DEFAULT_ID) -> bytes:
        """A fresh signature; two of one message differ."""
        der = ctypes.create_string_buffer(80)
        size = ctypes.c_size_t(len(der))
        with _key("d2i_AutoPrivateKey", _private(self._scalar)) as key:
            made = _digest(
                "EVP_DigestSign", key, id, lambda call: call(der, ctypes.byref(size), message, len(message)) == 1
            )
        if not made:
            raise SetupError("the OpenSSL of this machine did not sign; nothing was signed, see onecard doctor")
        return _numbers(der.raw[: size.value])

    def _take(self, scalar: int) -> None:
        self._scalar = scalar.to_bytes(_NUMBER_BYTES, "big")
        point = ctypes.create_string_buffer(2 * _NUMBER_BYTES + 1)
        with _key("d2i_AutoPrivateKey", _private(self._scalar)) as key:
            told = _openssl().EVP_PKEY_get_octet_string_param(key, b"pub", point, ctypes.c_size_t(len(point)), None)
        if told != 1 or point.raw[0] != 4:
            raise SetupError("the OpenSSL of this machine makes no SM2 public key; install one of version 3 with SM2")
        self.public = PublicKey(point.raw[1:])


def _private(scalar: bytes) -> bytes:
    return _tlv(0x30, b"\2\1\1", _tlv(4, scalar), _tlv(0xA0, _SM2_CURVE))


def _tlv(tag: int, *values: bytes) -> bytes:
    content = b"".join(values)
    length = bytes((len(content),)) if len(content) < 128 else bytes((0x81, len(content)))
    return bytes((tag,)) + length + content


def _integer(number: int) -> bytes:
    return _tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _numbers(der: bytes) -> bytes:
    """r ‖ s of SEQUENCE { r, s }, each below 2**256."""
    numbers, at = b"", 2
    for _ in range(2):
        end = at + 2 + der[at + 1]
        numbers += int.from_bytes(der[at + 2 : end], "big").to_bytes(_NUMBER_BYTES, "big")
        at = end
    return numbers


@contextmanager
def _key(reader: str, der: bytes) -> Iterator[ctypes.c_void_p]:
    """An OpenSSL key read from DER, freed afterwards."""
    library = _openssl()
    place = ctypes.c_char_p(der)
    read = getattr(library, reader)(None, ctypes.byref(place), ctypes.c_long(len(der)))
    if not read:
        library.ERR_clear_error()
        raise FormatError("this is no key of SM2: its point does not lie on the curve; nothing was checked or signed")
    key = ctypes.c_void_p(read)
    try:
        yield key
    finally:
        library.EVP_PKEY_free(key)


def _digest(act: str, key: ctypes.c_void_p, id: bytes, use: Callable[[Callable[..., int]], bool]) -> bool:
    """Sign or verify in one call under a context that knows the signer's identifier."""
    library = _openssl()
    context = ctypes.c_void_p(library.EVP_MD_CTX_new())
    about = ctypes.c_void_p(library.EVP_PKEY_CTX_new(key, None))
    try:
        # The identifier is hashed first, so it is set before the start; and the context does not own it.
        if library.EVP_PKEY_CTX_set1_id(about, id, len(id)) != 1:
            raise FormatError("the signer's identifier cannot be used; nothing was checked or signed")
        library.EVP_MD_CTX_set_pkey_ctx(context, about)
        sm3_of_openssl = ctypes.c_void_p(library.EVP_sm3())
        if getattr(library, f"{act}Init")(context, None, sm3_of_openssl, None, key) != 1:
            return False
        function = getattr(library, act)
        return use(lambda first, size, text, length: function(context, first, _size(size), text, _size(length)))
    finally:
        library.ERR_clear_error()
        library.EVP_MD_CTX_free(context)
        library.EVP_PKEY_CTX_free(about)


def _size(value: object) -> object:
    return ctypes.c_size_t(value) if isinstance(value, int) else value


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
        for name in ("d2i_PUBKEY", "d2i_AutoPrivateKey", "EVP_MD_CTX_new", "EVP_PKEY_CTX_new", "EVP_sm3"):
            getattr(library, name).restype = ctypes.c_void_p
        library.EVP_PKEY_get_octet_string_param.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise SetupError(
            f"SM2 needs OpenSSL 3 as a library of the system, which is not here ({error}); nothing was checked or "
            "signed, install it (Debian: libssl3)"
        ) from error
    return library


_shown = False


def _openssl() -> ctypes.CDLL:
    """The library, once it has shown by the published example that it can tell right from wrong."""
    global _shown
    library = _library()
    if not _shown:
        _shown = True
        try:
            key = PublicKey(_EXAMPLE_KEY)
            right = key.verify(b"message digest", _EXAMPLE_SIGNATURE)
            wrong = key.verify(b"message digesu", _EXAMPLE_SIGNATURE)
        except FormatError:
            right, wrong = False, False
        if not right or wrong:
            _shown = False
            raise SetupError(
                "the OpenSSL of this machine does not compute SM2 as GB/T 32918 does; nothing was checked or signed, "
                "install a build of version 3 with SM2"
            )
    return library
