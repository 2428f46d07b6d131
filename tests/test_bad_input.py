"""Bad input: one clear error on the error output, exit status 2, no traceback, and nothing half done."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardcore import profiles
from clearing.municipal.rows import COLUMNS
from clearing.registry import parse_registry, take
from clearing.store.connect import connect_pool
from clearing.store.launcher import Server
from clearing.store.migrate import migrate, migrations
from tests.demo_side import ServiceProcess, onecard, refused, service
from tests.intake_side import (
    BUS,
    CARDS,
    NOON,
    act_request,
    binary,
    debit,
    key_store,
    load_request,
    registry_document,
)

NOWHERE = "postgresql://clerk:hush@127.0.0.1:1/onecard"
BINARY, JSON = "application/vnd.onecard.batch", "application/json"


async def _fetch(dsn: str, question: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(question)]
    finally:
        await connection.close()


def fetch(dsn: str, question: str) -> list[tuple[Any, ...]]:
    return asyncio.run(_fetch(dsn, question))


def counts(dsn: str) -> dict[str, int]:
    """Rows of every table, without the statistics of what was refused."""
    tables = [row[0] for row in fetch(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return {table: fetch(dsn, f'SELECT count(*) FROM "{table}"')[0][0] for table in tables}  # noqa: S608


async def _register(dsn: str) -> None:
    pool = await connect_pool(dsn, size=1)
    async with pool.acquire() as connection:
        await take(connection, parse_registry(json.dumps(registry_document())))
    await pool.close()


# The demo


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cards", 3], "at least 37 cards, 3 are given; say --cards 37"),
        (["--cards", -1], "at least 37 cards, -1 are given; say --cards 37"),
        (["--debits", -1], "at least 200 debits, -1 are given; say --debits 200"),
        (["--cards", 40], "plan more cards or fewer debits"),
        (["--cards", 120, "--debits", 199], "at least 200 debits, 199 are given; say --debits 200"),
    ],
)
def test_a_city_that_cannot_be_planned(tmp_path: Path, options: list[object], words: str) -> None:
    said = refused(onecard("demo", *options, "--out", tmp_path / "out", "--state", tmp_path / "state"))
    assert words in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dsn", ["garbage", "mysql://root@localhost/books", "postgresql://u:hush@127.0.0.1:port/x"])
@pytest.mark.parametrize("command", [("demo", "--cards", 60, "--debits", 500), ("clearing", "verify")])
def test_a_dsn_that_is_none(tmp_path: Path, dsn: str, command: tuple[object, ...]) -> None:
    place = ("--out", tmp_path / "out") if command[0] == "demo" else ()
    said = refused(onecard(*command, *place, "--dsn", dsn, "--state", tmp_path / "state"))
    assert "Correct the DSN" in said
    assert "hush" not in said
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_servers_that_are_not_there_and_one_that_is_no_postgresql(tmp_path: Path) -> None:
    """Side by side, because each is waited for. A web server stands for anything else that answers on a port."""
    with socket.create_server(("127.0.0.1", 0)) as web:
        Thread(target=_answer_bad_request, args=(web,), daemon=True).start()
        other = f"postgresql://clerk:hush@127.0.0.1:{web.getsockname()[1]}/onecard"
        commands = [
            ("clearing", "serve", "--dsn", NOWHERE, "--state", tmp_path / "state"),
            ("demo", "--cards", 60, "--debits", 500, "--dsn", NOWHERE, "--state", tmp_path / "demo"),
            ("clearing", "verify", "--dsn", other),
            ("clearing", "verify", "--dsn", f"{other}?sslmode=disable"),
        ]
        with ThreadPoolExecutor() as threads:
            for said in threads.map(lambda command: refused(onecard(*command)), commands):
                assert "PostgreSQL 127.0.0.1/onecard" in said
                assert "hush" not in said
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def _answer_bad_request(listener: socket.socket) -> None:
    while True:
        try:
            line, _ = listener.accept()
        except OSError:
            return
        with line:
            line.recv(1000)
            line.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_a_demo_that_is_refused_leaves_no_directory_of_its_own(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for out in (tmp_path / "deep" / "out", kept):
        options = ("--cards", 60, "--debits", 300, "--dsn", "garbage", "--out", out, "--state", tmp_path / "state")
        assert "Correct the DSN" in refused(onecard("demo", *options))
    assert list(tmp_path.iterdir()) == [kept]


# State directories and settings


@pytest.mark.parametrize(
    "command", [("demo", "--cards", 60, "--debits", 500), ("clearing", "serve"), ("clearing", "verify")]
)
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_lies_where_the_state_belongs(tmp_path: Path, command: tuple[object, ...], below: str) -> None:
    (tmp_path / "state").write_text("a letter")
    place = ("--out", tmp_path / "out") if command[0] == "demo" else ()
    said = refused(onecard(*command, *place, "--state", tmp_path / "state" / below))
    assert str(tmp_path / "state") in said
    assert {path.name for path in tmp_path.iterdir()} <= {"state"}
    assert (tmp_path / "state").read_text() == "a letter"


def test_a_file_lies_where_the_output_belongs(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a letter")
    said = refused(
        onecard("demo", "--cards", 60, "--debits", 500, "--out", tmp_path / "out", "--state", tmp_path / "s")
    )
    assert str(tmp_path / "out") in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_settings_out_of_range(database: str, tmp_path: Path) -> None:
    for arguments, environment in ((("--port", 99999), {}), ((), {"ONECARD_PORT": "many"})):
        said = refused(onecard("clearing", "serve", "--dsn", database, "--state", tmp_path, *arguments, **environment))
        assert "port" in said
        assert "Nothing was started" in said
    assert "port" in refused(onecard("clearing", "verify", "--dsn", database, ONECARD_PORT="many"))
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(database: str, tmp_path: Path) -> None:
    key_store(tmp_path / "keys").close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(onecard("clearing", "serve", "--dsn", database, "--state", tmp_path, "--port", port))
    assert f"Port {port} of 127.0.0.1 is taken" in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("noon", "no ISO 8601"), ("2026-03-02T12:00:00", "without an offset")]
)
def test_a_clock_that_tells_no_time(database: str, tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "clock").write_text(text)
    command = ("clearing", "serve", "--dsn", database, "--state", tmp_path / "s", "--clock", tmp_path / "clock")
    assert words in refused(onecard(*command))


# Another version's database


def test_a_database_of_a_later_version_is_left_alone(database: str, tmp_path: Path) -> None:
    insert = "INSERT INTO schema_migration (number, name, sm3) VALUES (9999, 'tomorrow', $1)"

    async def age() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(insert, bytes(32))
        await connection.close()

    asyncio.run(age())
    before = counts(database)
    for command in (("serve",), ("verify",), ("close",)):
        said = refused(onecard("clearing", *command, "--dsn", database, "--state", tmp_path / "state"))
        assert "9999_tomorrow, which this version of onecard does not know" in said
    assert "9999_tomorrow" in refused(
        onecard("demo", "--cards", 60, "--debits", 500, "--dsn", database, "--state", tmp_path / "s")
    )
    assert counts(database) == before


def test_a_database_of_an_earlier_version_is_migrated_by_the_service_alone(empty_database: str, tmp_path: Path) -> None:
    """The other commands say what to do."""

    async def make() -> None:
        pool = await connect_pool(empty_database, size=1)
        await migrate(pool, migrations()[:-1])
        await pool.close()

    asyncio.run(make())
    for command in (["verify"], ["cases"], ["close"], ["books", "--out", tmp_path / "books"]):
        said = refused(onecard("clearing", *command, "--dsn", empty_database))
        assert f"The database lacks {migrations()[-1]}. Nothing was changed." in said
    assert fetch(empty_database, "SELECT count(*) FROM schema_migration") == [(len(migrations()) - 1,)]
    key_store(tmp_path / "keys").close()
    with service(tmp_path, empty_database) as running:
        assert running.ask("GET", "/healthz") == (200, {"ready": True})
    applied = fetch(empty_database, "SELECT number FROM schema_migration ORDER BY number")
    assert applied == [(migration.number,) for migration in migrations()]


def test_a_database_that_has_forgotten_a_migration(database: str, tmp_path: Path) -> None:
    """Its tables are there, the row that says so is not: the server refuses the file, and all of it is undone."""
    last = migrations()[-1]

    async def forget() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute("DELETE FROM schema_migration WHERE number = $1", last.number)
        await connection.close()

    asyncio.run(forget())
    before = counts(database)
    said = refused(onecard("clearing", "serve", "--dsn", database, "--state", tmp_path / "state"))
    assert f"The server refused {last}.sql" in said
    assert "the database is as before it" in said
    assert counts(database) == before


# Documents


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"cards": [registry_document()["cards"][0] | {"pin": "1234"}]}, "cards.0.pin"),
        ({"terminals": [registry_document()["terminals"][0] | {"operator": 77}]}, "77"),
    ],
)
def test_a_registry_file_with_something_unknown(
    database: str, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    before = counts(database)
    (tmp_path / "registry.json").write_text(json.dumps(registry_document() | change))
    said = refused(onecard("clearing", "registry", tmp_path / "registry.json", "--dsn", database))
    assert words in said
    assert counts(database) == before


@pytest.mark.parametrize(
    ("command", "content"),
    [(command, content) for command in ("registry", "declare") for content in (None, b"{", b"\xff\xfe", b"[]")]
    + [("registry", b""), ("import", None), ("import", b"taps of a source that nobody vouches for")],
)
def test_a_file_that_cannot_be_read(database: str, tmp_path: Path, command: str, content: bytes | None) -> None:
    asyncio.run(_register(database))
    before = counts(database)
    file = tmp_path / "file[1]"
    if content is not None:
        file.write_bytes(content)
    said = refused(onecard("clearing", command, file, "--dsn", database))
    assert "Nothing was" in said or "Nothing is" in said, said
    assert counts(database) == before


def test_an_import_may_be_the_first_thing_that_happens(database: str, tmp_path: Path) -> None:
    """It was refused with the advice to take the registry file that had been taken."""
    asyncio.run(_register(database))
    (tmp_path / "taps.csv").write_text(",".join(COLUMNS) + "\n")
    done = onecard("clearing", "import", tmp_path / "taps.csv", "--register-companies", "--dsn", database)
    assert done.returncode == 0, done
    assert fetch(database, "SELECT count(*) FROM open_day") == [(1,)]


def test_a_profile_with_an_unknown_field(tmp_path: Path) -> None:
    known = Path(profiles.__file__).parent / "shared-purse.toml"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('colour = "red"\n' + known.read_text(encoding="utf-8"), encoding="utf-8")
    card = ("--serial", "03100000000000000001", "--issuer", "02317910", "--state", tmp_path / "state")
    done = onecard("counter", "issue", *card, "--profile", wrong)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert "'colour'" in said
    assert "wrong.toml" in said
    assert not (tmp_path / "state" / "keys").exists()


def test_commands_and_options_that_do_not_exist() -> None:
    for words in (("frobnicate",), ("demo", "--cardz", "5"), ("clearing", "close", "--date", "2026-13-01")):
        refused(onecard(*words))


# The wire


@pytest.fixture(scope="module")
def wire(postgres: Server, migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service of its own, with keys and a registry, on a database that is shared by what follows."""
    name = f"wire_{uuid4().hex}"
    dsn = postgres.dsn.replace("/onecard?", f"/{name}?")

    async def make() -> None:
        connection = await asyncpg.connect(postgres.dsn.replace("/onecard?", "/postgres?"))
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
        await connection.close()
        await _register(dsn)

    asyncio.run(make())
    state = tmp_path_factory.mktemp("wire")
    key_store(state / "keys").close()
    (state / "clock").write_text(NOON.isoformat())
    with service(state, dsn, "--clock", state / "clock") as running:
        yield running


def put(wire: ServiceProcess, n: int, body: bytes, media: str = BINARY) -> tuple[int, dict[str, Any]]:
    return wire.ask("PUT", f"/v1/t/{BUS}/batches/{n}", body, {"Content-Type": media})


def test_a_truncated_batch_and_then_the_whole_one(wire: ServiceProcess) -> None:
    whole = binary([debit(sequence) for sequence in range(1, 11)])
    before = counts(wire.dsn)
    for cut in (len(whole) - 1, len(whole) - 128, 160, 32, 31, 0):
        status, problem = put(wire, 1, whole[:cut])
        assert (status, problem["code"], problem["retry"]) == (400, "bad-frame", "now")
    assert counts(wire.dsn) == before
    status, answer = put(wire, 1, whole)
    assert (status, answer["accepted"], answer["ack_seq"], answer["missing"]) == (200, 10, 10, [])
    after = counts(wire.dsn)
    assert after["fact"] - before["fact"] == 10
    assert put(wire, 1, whole) == (200, answer)
    assert counts(wire.dsn) == after


_NUMBERS = st.integers(1000, 2**40)
_WHOLE = binary([debit(sequence) for sequence in range(101, 104)])


def _framed(header: tuple[int, ...], tail: bytes) -> bytes:
    return struct.pack(">4sIHHIIQ4s", b"OCB1", *header, bytes(4)) + tail


def _framed_well(records: list[bytes]) -> bytes:
    """A frame that says the truth about records that say anything."""
    ours = [record[:62] + BUS.to_bytes(4) + record[66:] for record in records]
    total = sum(int.from_bytes(record[24:28]) for record in ours)
    return _framed((BUS, 1, len(ours), 1, len(ours), total), b"".join(ours))


def _mutated(changes: list[tuple[int, int]]) -> bytes:
    body = bytearray(_WHOLE)
    for place, value in changes:
        body[place % len(body)] = value
    return bytes(body)


_HEADERS = st.tuples(
    st.sampled_from([BUS, 0, 2**32 - 1]), st.integers(0, 2**16 - 1), st.integers(0, 4), st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
)  # fmt: skip
_RECORDS = st.lists(st.binary(min_size=128, max_size=128), max_size=4).map(b"".join)
_PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
_TREES = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)
_MEMBERS = st.fixed_dictionaries({
    "terminal": st.just(BUS) | _PLAIN, "epoch": _PLAIN, "count": _PLAIN, "first_seq": _PLAIN, "last_seq": _PLAIN,
    "amount_fen": _PLAIN,
    "records": _TREES | st.lists(st.dictionaries(st.sampled_from(sorted(debit(1).to_json())), _PLAIN), max_size=2),
})  # fmt: skip
BODIES = st.one_of(
    st.tuples(st.just(BINARY), st.binary(max_size=400)),
    st.tuples(st.just(BINARY), st.builds(_framed, _HEADERS, _RECORDS)),
    st.tuples(st.just(BINARY), st.builds(_mutated, st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255))))),
    st.tuples(
        st.just(BINARY), st.lists(st.binary(min_size=128, max_size=128), min_size=1, max_size=4).map(_framed_well)
    ),
    st.tuples(st.just(JSON), st.binary(max_size=100)),
    st.tuples(st.just(JSON), (_TREES | _MEMBERS).map(lambda tree: json.dumps(tree).encode())),
)


@settings(max_examples=200, deadline=None)
@given(n=_NUMBERS, sent=BODIES)
def test_garbage_is_named_and_never_breaks_the_service(wire: ServiceProcess, n: int, sent: tuple[str, bytes]) -> None:
    status, document = put(wire, n, sent[1], sent[0])
    assert status < 500, document
    if status != 200:
        assert document["code"] in {"bad-frame", "bad-schema", "batch-conflict", "wrong-terminal", "too-large"}
        assert document["retry"] in {"never", "now"}


@pytest.mark.parametrize("terminal", [0, 2**31, 2**32, 9_999_999_999])
def test_terminals_that_cannot_be(wire: ServiceProcess, terminal: int) -> None:
    body = binary([debit(1)])
    status, problem = wire.ask("PUT", f"/v1/t/{terminal}/batches/{10**18 - 1}", body, {"Content-Type": BINARY})
    assert (status, problem["code"]) == (403, "unknown-terminal")
    assert wire.ask("GET", f"/v1/t/{terminal}/batches/{10**18 - 1}")[0] == 404


_LOAD, _ACT = load_request(CARDS[0]), act_request(CARDS[0])
_REPORT = {"card": CARDS[0], "reason": "lost", "reported_at": NOON.isoformat()}
_REPLACEMENT = {"old": CARDS[0], "new": CARDS[1]}
_CALLS = {"loads": _LOAD, "acts": _ACT, "reports": _REPORT, "replacements": _REPLACEMENT}


@st.composite
def _desk_calls(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good request with some members left out, replaced or added, or no such thing at all."""
    call = draw(st.sampled_from(sorted(_CALLS)))
    known = _CALLS[call]
    changes = draw(st.dictionaries(st.sampled_from(sorted(known)) | st.text(max_size=5), _TREES, max_size=3))
    left_out = draw(st.sets(st.sampled_from(sorted(known)), max_size=1))
    document = {name: value for name, value in (known | changes).items() if name not in left_out}
    return call, draw(st.just(json.dumps(document).encode()) | st.binary(max_size=60))


@settings(max_examples=200, deadline=None)
@given(sent=_desk_calls())
def test_garbage_at_the_desk_is_named_too(wire: ServiceProcess, sent: tuple[str, bytes]) -> None:
    call, body = sent
    status, document = wire.ask("POST", f"/v1/desk/{call}", body, {"Content-Type": JSON})
    assert status < 500, document
    assert status == 201 or document["code"]
