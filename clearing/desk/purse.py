"""What the profile of a registered card says of a purse, as far as the desk has to know it."""

from dataclasses import dataclass
from functools import cache

from cardcore.errors import ProfileError
from cardcore.profile import load_profile
from cardcore.record import Sector, Suite
from cardcore.switches import Sm4SessionKey

PURSES = (1, 3, 4)
PURSE_SECTORS = (Sector.TRANSIT, Sector.SMALLPAY, Sector.UTILITY)


@dataclass(frozen=True, slots=True)
class PurseTerms:
    """In which sectors the purse pays, its overdraft allowance in fen, and how its cards make session keys of SM4."""

    sectors: frozenset[str]
    overdraft_fen: int
    session_key: Sm4SessionKey = Sm4SessionKey.PADDED

    @property
    def beyond_transport(self) -> bool:
        """Whether it needs a licence (rule 7)."""
        return self.sectors != {Sector.TRANSIT.label}


@cache
def purse_terms(profile_name: str, suite: Suite, purse: int) -> PurseTerms | None:
    """The purse of application `purse`; None when the card has none there, or its profile is not one of ours."""
    try:
        profile = load_profile(profile_name).for_suite(suite)
        spec = profile.profile.application(purse).purse
    except ProfileError:
        return None
    if spec is None:
        return None
    paid = []
    for sector in PURSE_SECTORS:
        try:
            if profile.purse_for(sector)[0].number == purse:
                paid.append(sector.label)
        except ProfileError:
            continue
    return PurseTerms(frozenset(paid), spec.overdraft_fen, profile.profile.switches.sm4_session_key)
