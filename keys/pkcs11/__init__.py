"""Key stores in a token, by PKCS#11: roots that are sensitive and never extractable, derivation inside.

    uri          which token, by which module, with the PIN from where (RFC 7512)
    hsm          the one thread that speaks with the token
    root         a root that stays in the token, in the place of the engine's `RootKey`
    limits       what a token cannot do, found when it is opened
    personaliser the personaliser, taken off the caller's event loop
    store        the `KeyStore` (`open_token_store`)

What comes out of a token are keys of single chips, the lowest level; roots and issuers' keys stay inside. The rest of
the product imports from this page only.
"""

from keys.pkcs11.limits import Limit, Missing
from keys.pkcs11.store import TokenStore, needs_pin, open_token_store

__all__ = ["Limit", "Missing", "TokenStore", "needs_pin", "open_token_store"]
