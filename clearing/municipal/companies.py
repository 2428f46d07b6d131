"""Companies of a source as parties: a number follows from the name alone, so that no order of files matters."""

import unicodedata
from collections.abc import Iterable, Mapping

from cardcore.errors import RefusedError
from keys.proof import sm3

# 2^40 numbers from 2^40 on: no party of a registry file is among them, and 6,000 names meet once in 60,000 cities.
FIRST_PARTY = 1 << 40
_NUMBER_BYTES = 5


def name_of(text: str) -> str:
    """The name that a spelling of a company means: NFKC, without spaces around it."""
    return unicodedata.normalize("NFKC", text).strip()


def party_of(scheme: str, company: str) -> int:
    """The number of a company by its name: 2^40 + the first 5 bytes of SM3(scheme ‖ 00 ‖ name)."""
    return FIRST_PARTY + int.from_bytes(sm3(f"{scheme}\0{company}".encode())[:_NUMBER_BYTES], "big")


def parties_of(scheme: str, companies: Iterable[str], operators: Mapping[int, str]) -> dict[str, int]:
    """The party of each company: the least of the known operators (name by number) of its name, else by `party_of`.

    Raises RefusedError('company-number') when the number belongs to a company of another name.
    """
    named = {name_of(name): number for number, name in sorted(operators.items(), reverse=True)}
    holders = {number: name_of(name) for number, name in operators.items()}
    found: dict[str, int] = {}
    for company in sorted(companies):
        number = named.get(company) or party_of(scheme, company)
        if (holder := holders.setdefault(number, company)) != company:
            raise RefusedError(
                "company-number",
                f"The companies {holder} and {company} have the same number {number}, which follows from the name. "
                f"Nothing was imported. Give {company} a party of its own in the registry, then import again.",
            )
        found[company] = number
    return found
