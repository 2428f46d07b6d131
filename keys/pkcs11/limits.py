"""What a token cannot do, found when it is opened and not when a card stands at the counter."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cardcore.errors import SetupError
from cardcore.record import Suite
from keys.purposes import SCOPES, SUITE_LABELS, KeyId, KeyPurpose, required_roots

ECB, CBC, DERIVE, CMAC = "CKM_DES3_ECB", "CKM_DES3_CBC", "CKM_DES3_ECB_ENCRYPT_DATA", "CKM_AES_CMAC"
# PKCS#11 up to 3.1 has no mechanism for SM4: only vendors' own, which no two share.
NEEDED = {Suite.TRIPLE_DES: (ECB, CBC, DERIVE), Suite.SM4: ("CKM_SM4_ECB",)}


class Missing(StrEnum):
    """What becomes of a suite that the token cannot do."""

    REFUSE = "refuse"
    """The store does not open."""
    LACK = "lack"
    """The store opens without the keys of that suite."""
    SEAL = "seal"
    """Its keys lie sealed under a key of the token, and open in this process."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that a token cannot do: which mechanism it lacks, which keys that concerns, and what follows."""

    mechanism: str
    keys: tuple[str, ...]
    effect: str

    def __str__(self) -> str:
        families = dict.fromkeys("/".join(name.split("/")[:2]) for name in self.keys)
        return f"the token has no {self.mechanism}; {self.effect}: {', '.join(families)} ({len(self.keys)} keys)"


def limits_of(mechanisms: frozenset[str], missing: Missing) -> tuple[tuple[Limit, ...], frozenset[Suite]]:
    """The limits of a token with these mechanisms, and the suites that it does itself.

    Raises SetupError when it lacks a suite and `missing` is REFUSE, or lacks both and `missing` is LACK.
    """
    if CMAC not in mechanisms:
        raise SetupError(f"the token has no {CMAC}, by which a store is bound to it; use another token")
    done = frozenset(suite for suite, needed in NEEDED.items() if mechanisms.issuperset(needed))
    effect = {
        Missing.REFUSE: "these keys cannot live in it",
        Missing.LACK: "these keys are not in the store, and what they prove stays undecided",
        Missing.SEAL: "these keys lie sealed under the token and are opened in this process",
    }[missing]
    limits = [
        Limit(", ".join(name for name in NEEDED[suite] if name not in mechanisms), _names([suite]), effect)
        for suite in NEEDED
        if suite not in done
    ]
    if limits and (missing is Missing.REFUSE or (missing is Missing.LACK and not done)):
        raise SetupError(
            f"{'; '.join(map(str, limits))}. Nothing was opened: use a token that can, or accept it by `missing` "
            "(lack: go without these keys; seal: keep them sealed under the token)"
        )
    if Suite.TRIPLE_DES in done:
        label = SUITE_LABELS[Suite.TRIPLE_DES]
        purchase = tuple(f"{label}/{KeyPurpose.PURCHASE}/{scope}" for scope in SCOPES[KeyPurpose.PURCHASE])
        limits.append(
            Limit("way to encipher one key among other bytes", purchase,
                  "cards get keys made from these, PSAMs are personalised with the embedded store of the ceremony")
        )  # fmt: skip
    return tuple(limits), done


def _names(suites: Iterable[Suite]) -> tuple[str, ...]:
    """Every key of these suites."""
    transport = [KeyId(suite, KeyPurpose.TRANSPORT).name for suite in suites]
    labels = tuple(f"{SUITE_LABELS[suite]}/" for suite in suites)
    return tuple(sorted(transport + [name for name in required_roots() if name.startswith(labels)]))
