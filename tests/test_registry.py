"""The registry file of docs/registry.md."""

import asyncio
import json
from datetime import date
from typing import Any

import pytest

from cardcore.errors import FormatError
from clearing.registry import RegistryFeed, declare, parse_declared, parse_registry, read_registry, take
from clearing.registry.document import Fee
from clearing.store.connect import connect_pool
from tests.intake_side import BUS, CARDS, NOON, registry_document


def _parsed(**more: Any) -> Any:
    return parse_registry(json.dumps(registry_document(**more)))


def policy(name: str, scope: str, start: str, version: int, value: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "scope": scope, "from": start, "version": version, "basis": "test", "value": value}


def _source(operator: int) -> dict[str, Any]:
    value = {"cryptogram": False, "operators": {"甲巴士": operator}}
    return policy("source", "municipal-taps", "2026-02-01", 1, value)


async def test_the_same_document_twice_changes_nothing_and_a_changed_row_replaces(database: str) -> None:
    pool = await connect_pool(database, size=1)
    async with pool.acquire() as connection:
        first = await take(connection, _parsed())
        assert (first["terminals"], first["policies"], first["cards"]) == (4, 6, 22)
        assert not any((await take(connection, _parsed())).values())
        terminals = registry_document()["terminals"]
        terminals[0] |= {"epoch": 2}
        assert (await take(connection, _parsed(terminals=terminals)))["terminals"] == 1
        assert (await read_registry(connection)).terminals[BUS].epoch == 2
    await pool.close()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"parties": [{"id": 1, "kind": "operator", "name": "x", "phone": "1"}]}, "phone"),
        ({"issuers": [{"code": "0231791", "name": "x", "own": True}]}, "8 lower-case hex"),
        ({"parties": [{"id": "1", "kind": "operator", "name": "x"}]}, "integer"),
        ({"policies": [policy("colour", "*", "2026-01-01", 1, {})]}, "colour"),
        ({"policies": [policy("fee", "*", "2026-01-01", 1, {"bps": 30.5})]}, "integer"),
        ({"policies": [policy("fee", "*", "2026-01-01", 1, {"bps": 30, "more": 1})]}, "more"),
        ({"policies": [policy("cut-off", "*", "2026-01-01", 1, {"timezone": "Moon/Sea", "at": "02:00"})]}, "time zone"),
        ({"cards": [{"card": "0310000000000000000a", "issuer": "02317910", "profile": "x", "suite": "3des", "class": 1,
                     "generation": 0}]}, "decimal"),
        ({"policies": [policy("source", "x", "2026-01-01", 1, {"cryptogram": True, "operators": {}})]}, "False"),
        ({"parties": [{"id": 1, "kind": "bank", "name": "a\0b"}]}, r"U\+0000"),
        ({"psams": [{"number": "791001000001", "sector": "medical", "operator": 101, "from": NOON.isoformat(),
            "to": None,
                     "state": "active"}]}, "no purchase key"),
        ({"psams": [{"number": "791001000001", "sector": "transit", "operator": 101, "from": "2026-01-01T00:00:00",
                     "to": None, "state": "active"}]}, "timezone"),
    ],
)  # fmt: skip
def test_wrong_documents_are_named(more: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        _parsed(**more)


def test_a_backslash_before_u0000_is_a_text_like_others() -> None:
    name = r"a\u0000b"
    assert _parsed(parties=[{"id": 1, "kind": "bank", "name": name}]).parties[0].name == name


async def test_what_contradicts_the_registry_is_refused_whole(database: str) -> None:
    pool = await connect_pool(database, size=1)
    cut_off = policy("cut-off", "*", "2026-01-01", 1, {"timezone": "Asia/Shanghai", "at": "03:00"})
    party = {"id": 777, "kind": "operator", "name": "new"}
    async with pool.acquire() as connection:
        with pytest.raises(FormatError, match="cut-off"):
            await take(connection, _parsed(policies=[]))
        await take(connection, _parsed())
        card = registry_document()["cards"][0]
        for more, words in (
            ({"policies": [cut_off]}, "new version needs a new `from`"),
            ({"policies": [cut_off | {"from": "2026-02-01"}]}, "new version needs a new `from`"),
            ({"terminals": [{"id": 5, "operator": 9, "sector": "transit", "class": "bus", "epoch": 1}]}, "Operator 9"),
            ({"cards": [card | {"issuer": "0a0b0c0d"}]}, "0a0b0c0d"),
            ({"cards": [card, card]}, "twice"),
            ({"policies": [_source(7777)]}, "Company 甲巴士 .* party 7777, which is not in the registry"),
            ({"policies": [_source(901)]}, "party 901, which is of kind bank"),
        ):
            with pytest.raises(FormatError, match=words):
                await take(connection, _parsed(parties=[*registry_document()["parties"], party], **more))
        assert 777 not in (await read_registry(connection)).parties
    await pool.close()


async def test_dated_policies_with_a_scope_for_all(database: str) -> None:
    pool = await connect_pool(database, size=1)
    policies = registry_document()["policies"] + [
        policy("fee", "*", "2026-01-01", 1, {"bps": 10}),
        policy("fee", "*", "2026-03-01", 2, {"bps": 20}),
        policy("fee", "101", "2026-02-01", 1, {"bps": 30}),
    ]
    async with pool.acquire() as connection:
        await take(connection, _parsed(policies=policies))
        registry = await read_registry(connection)
    await pool.close()

    def bps(scope: str, day: date) -> int | None:
        fee = registry.value(Fee, scope, day)
        return fee.bps if fee else None

    assert [bps("102", date(2026, month, 1)) for month in (1, 2, 3)] == [10, 10, 20]
    assert [bps("101", date(2026, month, 1)) for month in (1, 2, 3)] == [10, 30, 30]
    assert bps("101", date(2025, 12, 31)) is None


async def test_a_feed_reads_again_only_what_moved(database: str) -> None:
    pool = await connect_pool(database, size=2)
    feed = RegistryFeed()
    async with pool.acquire() as connection, pool.acquire() as other:
        await take(connection, _parsed())
        before = await feed.current(other)
        assert await feed.current(other) is before
        instant = NOON
        await connection.execute(
            "INSERT INTO denylist VALUES ($1, 1, 'lost', $2, $2, $2)", bytes.fromhex(CARDS[0]), instant
        )
        after = await feed.current(other)
        assert (len(before.denied.serials), len(after.denied.serials)) == (0, 1)
        assert after.terminals is before.terminals
        assert after.cards is before.cards
    await asyncio.wait_for(pool.close(), 5)


async def test_declared_totals(database: str) -> None:
    pool = await connect_pool(database, size=1)
    line = {"operator": 101, "sector": "transit", "date": "2026-03-02", "count": 812, "fen": 151200}
    text = "\n".join((json.dumps(line), json.dumps(line | {"sector": "smallpay"}), ""))
    async with pool.acquire() as connection:
        await take(connection, _parsed())
        assert await declare(connection, parse_declared(text)) == 2
        assert await declare(connection, parse_declared(text)) == 0
        assert await declare(connection, parse_declared(json.dumps(line | {"fen": 1}))) == 1
        with pytest.raises(FormatError, match="55"):
            await declare(connection, parse_declared(json.dumps(line | {"operator": 55})))
    with pytest.raises(FormatError, match="line 2: fen"):
        parse_declared(json.dumps(line) + "\n" + json.dumps(line | {"fen": "x"}))
    await pool.close()
