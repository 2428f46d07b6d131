"""Taking a registry document into the store, all of it or nothing."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from cardcore.errors import FormatError
from clearing.clock import Clock, SystemClock
from clearing.registry.document import DeclaredTotal, PolicyRow, RegistryDocument, Row, Source, parse_value
from clearing.store import registry as rows
from clearing.store.types import Connection

ONE_DAY = timedelta(days=1)
# Policies that no closed date was decided by, so that they may begin before one.
_BESIDE_MONEY = frozenset({"source", "grace", "ceilings"})


async def take(connection: Connection, document: RegistryDocument, clock: Clock | None = None) -> dict[str, int]:
    """Store the document in one transaction; the number of new or changed rows by kind. The same document again gives
    zeros. A changed class of a card counts from now, by the machine's clock unless one is given.

    Raises FormatError when a row names a party or issuer that nobody knows, when a policy of the same name, scope and
    `from` (or version) says something else or begins on a closed date, or when terminals come without a `cut-off`
    policy. Then, and when cancelled before it returns, nothing was changed.
    """
    async with connection.transaction():
        _check_single(document)
        await _check_references(connection, document)
        changed = {
            "issuers": await rows.upsert(connection, "issuer", _plain(document.issuers)),
            "parties": await rows.upsert(connection, "party", _plain(document.parties)),
            "terminals": await rows.upsert(connection, "terminal", _plain(document.terminals)),
            "psams": await rows.upsert(connection, "psam", _plain(document.psams)),
            "policies": await _take_policies(connection, document.policies),
            "cards": await rows.upsert_cards(connection, _plain(document.cards), (clock or SystemClock()).now()),
        }
        if document.terminals and not any(row["name"] == "cut-off" for row in await rows.read_policies(connection)):
            raise FormatError(
                "Terminals need a `cut-off` policy, scope `*`. Nothing was changed. Add it to the document."
            )
        return changed


async def declare(connection: Connection, totals: Sequence[DeclaredTotal]) -> int:
    """Store operators' totals, a later one of the same operator, sector and date replacing an earlier; how many
    changed."""
    async with connection.transaction():
        known = {row["id"] for row in (await rows.read_parties(connection))["party"]}
        if strangers := {total.operator for total in totals} - known:
            raise FormatError(f"Operator {min(strangers)} is not in the registry. Nothing was changed.")
        return await rows.upsert(connection, "declared_total", _plain(totals))


def _plain(documents: Sequence[Row]) -> list[dict[str, Any]]:
    return [{name.rstrip("_"): value for name, value in dict(document).items()} for document in documents]


_IDENTITY = {
    "issuers": ("code",),
    "parties": ("id",),
    "terminals": ("id",),
    "psams": ("number", "valid_from"),
    "cards": ("card",),
}


def _check_single(document: RegistryDocument) -> None:
    for member, names in _IDENTITY.items():
        seen = set()
        for row in getattr(document, member):
            identity = tuple(getattr(row, name) for name in names)
            if identity in seen:
                shown = " ".join(part.hex() if isinstance(part, bytes) else str(part) for part in identity)
                raise FormatError(f"{shown} stands twice among the {member}. Nothing was changed.")
            seen.add(identity)


async def _check_references(connection: Connection, document: RegistryDocument) -> None:
    known = await rows.read_parties(connection)
    kinds = {row["id"]: row["kind"] for row in known["party"]} | {party.id: party.kind for party in document.parties}
    issuers = {row["code"] for row in known["issuer"]} | {issuer.code for issuer in document.issuers}
    operators = {terminal.operator for terminal in document.terminals} | {psam.operator for psam in document.psams}
    if strangers := operators - kinds.keys():
        raise FormatError(f"Operator {min(strangers)} is no party of the registry. Nothing was changed. Add the party.")
    for company, operator in _companies(document.policies):
        if kinds.get(operator) != "operator":
            raise FormatError(
                f"Company {company} of a `source` policy is party {operator}, which is "
                f"{'of kind ' + kinds[operator] if operator in kinds else 'not in the registry'}. Nothing was changed. "
                "Name a party of kind `operator`."
            )
    for card in document.cards:
        if card.issuer not in issuers:
            raise FormatError(f"Issuer {card.issuer.hex()} of card {card.card.hex()} is unknown. Nothing was changed.")


def _companies(policies: Sequence[PolicyRow]) -> Iterator[tuple[str, int]]:
    for policy in policies:
        value = parse_value(policy.name, policy.value)
        if isinstance(value, Source):
            yield from value.operators.items()


async def _take_policies(connection: Connection, policies: Sequence[PolicyRow]) -> int:
    known = {
        (row["name"], row["scope"], row["valid_from"]): (row["version"], row["basis"], json.loads(row["value"]))
        for row in await rows.read_policies(connection)
    }
    versions = {(name, scope, version) for (name, scope, _), (version, _, _) in known.items()}
    closed = await rows.last_closed(connection)
    fresh = []
    for policy in policies:
        identity = (policy.name, policy.scope, policy.valid_from)
        said = (policy.version, policy.basis, policy.value)
        if known.get(identity) == said:
            continue
        if identity in known or (policy.name, policy.scope, policy.version) in versions:
            raise FormatError(
                f"Policy {policy.name} of scope {policy.scope} from {policy.valid_from}, version {policy.version}, is "
                "already in the registry and says something else. Nothing was changed. A new version needs a new "
                "`from`."
            )
        if closed and policy.valid_from <= closed and policy.name not in _BESIDE_MONEY:
            raise FormatError(
                f"Policy {policy.name} of scope {policy.scope} begins on {policy.valid_from}, but the dates up to "
                f"{closed} are closed and never change. Nothing was changed. Let it begin on "
                f"{closed + ONE_DAY} or later."
            )
        known[identity] = said
        versions.add((policy.name, policy.scope, policy.version))
        fresh.append((*identity, policy.version, policy.basis, json.dumps(policy.value)))
    await rows.insert_policies(connection, fresh)
    return len(fresh)
