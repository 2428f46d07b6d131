"""The personaliser, read back as a card would: decipher, check the MAC, compare the key."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psec.mac
import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4

from cardcore import cryptogram
from cardcore.authority import CardAuthority, CardIdentity, KeyStep, OverdraftRequest, PsamIdentity, Under
from cardcore.errors import FormatError, KeyUseError, RefusedError
from cardcore.record import Suite
from keys.authority import Authority
from keys.ceremony import TEST_TRANSPORT_KEY, test_ceremony
from keys.personaliser import Personaliser
from keys.store import EmbeddedStore, open_store
from keys.uses import MOST_USES
from tests import test_keys_reference as reference
from tests.custody_side import Moment
from tests.test_keys_loads import COMPONENTS, QUOTAS, Noon, asked, root

CHALLENGE = b"\xc0\xff\xee\x01"
TERMINAL = bytes.fromhex("791001000001")
LABEL = {Suite.TRIPLE_DES: "3des", Suite.SM4: "sm4"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with open_store(tmp_path / "keys") as opened:
        test_ceremony(opened, COMPONENTS)
        yield opened


@pytest.fixture
def personaliser(store: EmbeddedStore) -> Personaliser:
    return store.personaliser()


def card(suite: Suite) -> CardIdentity:
    return CardIdentity(reference.ISSUER, reference.CARD, suite)


def psam(suite: Suite) -> PsamIdentity:
    return PsamIdentity(TERMINAL, suite)


def card_key(suite: Suite, rest: str) -> bytes:
    return reference.card_key(suite, root(f"{LABEL[suite]}/{rest}"))


def psam_key(suite: Suite, rest: str) -> bytes:
    return reference.divide(suite, root(f"{LABEL[suite]}/{rest}"), b"\0\0" + TERMINAL)


def secure_mac(suite: Suite, key: bytes, message: bytes) -> bytes:
    blocks = reference.pad(message, reference.BLOCK[suite][1])
    if suite is Suite.SM4:
        return reference.chain(suite, key, blocks, CHALLENGE)[:4]
    first = bytes(a ^ b for a, b in zip(blocks[:8], CHALLENGE + bytes(4), strict=True))
    return psec.mac.generate_retail_mac(key[:8], key[8:], first + blocks[8:], 1, 4)


def content(suite: Suite, guard: bytes, command: bytes) -> bytes:
    """What a card takes out of WRITE KEY once its MAC is right."""
    assert command[4] == len(command) - 5
    assert secure_mac(suite, guard, command[:-4]) == command[-4:]
    algorithm = SM4(guard) if suite is Suite.SM4 else TripleDES(guard + guard[:8])
    plain = Cipher(algorithm, modes.ECB()).decryptor().update(command[5:-4])  # noqa: S305 - as the card does
    length = plain[0]
    rest = plain[1 + length :]
    assert rest == b"" or (rest[0] == 0x80 and not any(rest[1:]))
    return plain[1 : 1 + length]


@pytest.mark.parametrize("suite", Suite)
async def test_authentication(suite: Suite, personaliser: Personaliser) -> None:
    block, size = reference.BLOCK[suite]
    padded = CHALLENGE.ljust(size, b"\0")
    blank = await personaliser.authenticate(card(suite), 0, Under.TRANSPORT, CHALLENGE)
    assert blank == block(TEST_TRANSPORT_KEY, padded)
    own = await personaliser.authenticate(card(suite), 3, Under.CONTROL, CHALLENGE)
    assert own == block(card_key(suite, "CONTROL/3"), padded)
    terminal = await personaliser.authenticate(psam(suite), 0, Under.CONTROL, CHALLENGE)
    assert terminal == block(psam_key(suite, "CONTROL/0"), padded)


VERSIONED = [
    (0x3E, "PURCHASE/smallpay", 1, 3), (0x3F, "LOAD/1", 1, 0), (0x3D, "UNLOAD/3", 3, 0), (0x3C, "OVERDRAFT/4", 4, 0),
    (0x34, "TAC/1", 1, 0), (0x32, "ACT/5", 5, 0),
]  # fmt: skip


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(("kind", "name", "application", "sector"), VERSIONED)
async def test_purse_keys_of_either_suite_on_a_card_of_either(
    suite: Suite, kind: int, name: str, application: int, sector: int, personaliser: Personaliser
) -> None:
    for key_suite in Suite:
        prefix = bytes((kind, 0xF0, 0x02, 1, key_suite))
        step = KeyStep(application, kind, 0x11, key_suite, Under.CONTROL, prefix, sector=sector, guard=application)
        command = await personaliser.write_key(card(suite), step, CHALLENGE)
        assert command[:4] == bytes((0x84, 0xD4, 0x01, 0x11))
        guard = card_key(suite, f"CONTROL/{application}")
        assert content(suite, guard, command) == prefix + card_key(key_suite, name)


@pytest.mark.parametrize("suite", Suite)
async def test_keys_of_the_card_itself_under_the_transport_key(suite: Suite, personaliser: Personaliser) -> None:
    for kind, name in ((0x39, "CONTROL/0"), (0x36, "MAINTENANCE/0"), (0x37, "PIN_UNBLOCK/0"), (0x38, "PIN_RELOAD/0")):
        step = KeyStep(0, kind, 0, suite, Under.TRANSPORT, bytes((kind, 0xF0, 2, 0xFF, 0x33)), p1=kind)
        command = await personaliser.write_key(card(suite), step, CHALLENGE)
        assert command[:4] == bytes((0x84, 0xD4, kind, 0))
        assert content(suite, TEST_TRANSPORT_KEY, command) == step.prefix + card_key(suite, name)
    pin = KeyStep(1, 0x3A, 0, suite, Under.CONTROL, b"\x3a\xf0\xef\x01\x33", b"\x12\x34\x56", guard=1)
    command = await personaliser.write_key(card(suite), pin, CHALLENGE)
    assert content(suite, card_key(suite, "CONTROL/1"), command) == pin.prefix + pin.suffix


@pytest.mark.parametrize("suite", Suite)
async def test_keys_of_a_psam(suite: Suite, personaliser: Personaliser) -> None:
    expected = {
        (0x42, suite, 1): root(f"{LABEL[suite]}/PURCHASE/transit"),
        (0x26, Suite.SM4, 0): psam_key(Suite.SM4, "RECORD"),
    }
    for (usage, key_suite, sector), key in expected.items():
        step = KeyStep(0, usage, 1, key_suite, Under.TRANSPORT, bytes((usage, 0xF0, 2, 1, key_suite)), sector=sector)
        command = await personaliser.write_key(psam(suite), step, CHALLENGE)
        assert content(suite, TEST_TRANSPORT_KEY, command) == step.prefix + key
    own = KeyStep(0, 0x39, 0, suite, Under.TRANSPORT, b"\x39\xf0\x02\x01\x33", p1=0x39)
    command = await personaliser.write_key(psam(suite), own, CHALLENGE)
    assert content(suite, TEST_TRANSPORT_KEY, command) == own.prefix + psam_key(suite, "CONTROL/0")


async def test_a_psam_seals_what_the_verifier_believes(personaliser: Personaliser) -> None:
    """The key that a PSAM gets, derived once more inside it, makes the seal of docs/record.md."""
    step = KeyStep(0, 0x26, 1, Suite.SM4, Under.TRANSPORT, b"\x26\xf0\x02\x01\x04")
    key = content(Suite.SM4, TEST_TRANSPORT_KEY, await personaliser.write_key(psam(Suite.SM4), step, CHALLENGE))[5:]
    raw = reference.debit(terminal_number=TERMINAL).encode()
    inside = reference.divide(Suite.SM4, key, b"\0\0" + TERMINAL)
    assert reference.chain(Suite.SM4, inside, reference.pad(raw[:120], 16))[:8] == reference.seal(
        root("sm4/RECORD"), raw
    )


@pytest.mark.parametrize("suite", Suite)
async def test_secured_commands(suite: Suite, personaliser: Personaliser) -> None:
    command = b"\x00\xd6\x95\x00\x1e" + bytes(range(30))
    secured = await personaliser.secure(card(suite), 1, command, CHALLENGE)
    assert secured[:-4] == b"\x04\xd6\x95\x00\x22" + bytes(range(30))
    assert secured[-4:] == secure_mac(suite, card_key(suite, "MAINTENANCE/1"), secured[:-4])


@pytest.mark.parametrize(
    "command",
    [
        b"\x80\x50\x00\x02\x01\x00",
        b"\x00\x82\x00\x00\x08" + bytes(8),
        b"\x84\xd4\x01\x00\x01\x00",
        b"\x00\x88\x02\x12\x01\x00",
    ],
)
async def test_only_writes_to_files_are_secured(command: bytes, personaliser: Personaliser) -> None:
    with pytest.raises(KeyUseError, match="only writes to files"):
        await personaliser.secure(card(Suite.SM4), 1, command, CHALLENGE)


@pytest.mark.parametrize(
    "command", [b"", b"\x00\xd6\x95\x00", b"\x00\xd6\x95\x00\x02\x01", b"\x00\xd6\x95\x00\xfc" + bytes(252)]
)
async def test_malformed_commands_are_refused(command: bytes, personaliser: Personaliser) -> None:
    with pytest.raises(FormatError):
        await personaliser.secure(card(Suite.SM4), 1, command, CHALLENGE)


async def test_steps_that_are_no_write_key_are_refused(personaliser: Personaliser) -> None:
    good = KeyStep(1, 0x34, 0x11, Suite.SM4, Under.CONTROL, b"\x34\xf0\x02\x01\x04", guard=1)
    bent: list[tuple[dict[str, object], type[Exception]]] = [
        ({"prefix": b"\x35\xf0\x02\x01\x04"}, FormatError),
        ({"prefix": b"\x34\xf0\x02\x01"}, FormatError),
        ({"suffix": bytes(3)}, FormatError),
        ({"p1": 0x39}, FormatError),
        ({"prefix": b"\x34\xf0\x02\x01\x00"}, KeyUseError),  # an SM4 key announced as 3DES
        ({"prefix": b"\x34\xf0\x02\x02\x04"}, KeyUseError),  # a version that the store does not hold
        ({"application": 2}, FormatError),  # no TAC key in social security
        ({"type": 0x42, "prefix": b"\x42\xf0\x02\x01\x04"}, KeyUseError),  # a province root into a card
        ({"type": 0x3A, "prefix": b"\x3a\xf0\xef\x01\x33"}, FormatError),  # a PIN without digits
    ]
    for changes, error in bent:
        with pytest.raises(error):
            await personaliser.write_key(card(Suite.SM4), replace(good, **changes), CHALLENGE)  # type: ignore[arg-type]
    with pytest.raises(KeyUseError, match="type 34"):
        await personaliser.write_key(psam(Suite.SM4), good, CHALLENGE)
    for challenge in (b"", bytes(8)):
        with pytest.raises(FormatError, match="challenge"):
            await personaliser.write_key(card(Suite.SM4), good, challenge)


@pytest.mark.parametrize("suite", Suite)
async def test_overdraft(suite: Suite, personaliser: Personaliser, store: EmbeddedStore) -> None:
    date, time = bytes.fromhex("20260302"), bytes.fromhex("160005")
    block, size = reference.BLOCK[suite]
    session = block(card_key(suite, "OVERDRAFT/1"), reference.pad(CHALLENGE + b"\x00\x07", size))
    mac1 = reference.mac4(suite, session, cryptogram.overdraft_mac1_input(500, 100, TERMINAL))
    request = OverdraftRequest(card(suite), TERMINAL, 1, suite, 800, 100, 500, 7, CHALLENGE, mac1, date, time)
    expected = reference.mac4(suite, session, cryptogram.overdraft_mac2_input(800, TERMINAL, date, time))
    assert await personaliser.set_overdraft(request) == expected
    with pytest.raises(RefusedError) as refusal:
        await personaliser.set_overdraft(replace(request, old_limit_fen=101))
    assert refusal.value.code == "bad-mac1"
    who = f"card {reference.CARD.hex()}"
    by = f"to 800 fen, counter 7, terminal number {TERMINAL.hex()}, key {suite.name} v1"
    assert sorted(row[2:5] for row in store.audit() if row[2].startswith("allowance")) == [
        ("allowance", who, f"purse 1, 100 {by} ×1"),
        ("allowance refused", who, f"bad-mac1, purse 1, 101 {by}"),
    ]


@pytest.mark.parametrize(
    "bent",
    [
        {"date": b"ATTACKER CHOSEN TEXT"}, {"date": b"", "time": b""}, {"date": b"\x20\x26\xab\x02"},
        {"time": b"\x99" * 3},
        {"limit_fen": 2**24}, {"limit_fen": -1}, {"old_limit_fen": -1}, {"counter": 2**16}, {"terminal_number": b"5"},
        {"random": b""}, {"mac1": b""}, {"raw_balance_fen": 2**32}, {"raw_balance_fen": 0, "limit_fen": 0},
    ],
)  # fmt: skip
async def test_an_allowance_covers_no_chosen_text(
    bent: dict[str, object], personaliser: Personaliser, store: EmbeddedStore
) -> None:
    """Whatever MAC1 says, only what a card can have opened reaches the key."""
    date, time = bytes.fromhex("20260302"), bytes.fromhex("160005")
    good = OverdraftRequest(card(Suite.SM4), TERMINAL, 1, Suite.SM4, 800, 100, 500, 7, CHALLENGE, bytes(4), date, time)
    before = store.audit()
    with pytest.raises(FormatError):
        await personaliser.set_overdraft(replace(good, **bent))  # type: ignore[arg-type]
    assert store.audit() == before


async def test_a_chip_of_other_widths_has_no_keys(personaliser: Personaliser) -> None:
    for chip in (
        CardIdentity(reference.ISSUER[:2], reference.CARD, Suite.SM4),
        CardIdentity(reference.ISSUER, reference.CARD[:4], Suite.SM4),
        PsamIdentity(TERMINAL[:5], Suite.SM4),
    ):
        with pytest.raises(FormatError):
            await personaliser.authenticate(chip, 0, Under.CONTROL, CHALLENGE)


async def test_every_use_is_in_the_audit(store: EmbeddedStore, tmp_path: Path) -> None:
    personaliser = store.personaliser()
    for _ in range(3):
        await personaliser.authenticate(card(Suite.SM4), 1, Under.CONTROL, CHALLENGE)
    taken_up = store.audit()[-1]
    assert taken_up[2:5] == ("personalise", f"card {reference.CARD.hex()}", "taken up")
    await personaliser.authenticate(psam(Suite.SM4), 0, Under.TRANSPORT, CHALLENGE)
    store.close()
    with open_store(tmp_path / "keys") as again:
        rows = [row[2:5] for row in again.audit()]
    assert ("used", f"card {reference.CARD.hex()}", "authenticate 1 control ×3") in rows
    assert ("used", f"PSAM {TERMINAL.hex()}", "authenticate 0 transport ×1") in rows


async def test_no_answer_without_a_written_audit(store: EmbeddedStore) -> None:
    personaliser = store.personaliser()
    await personaliser.authenticate(card(Suite.SM4), 1, Under.CONTROL, CHALLENGE)
    store.close()
    with pytest.raises(KeyUseError, match="store is closed"):
        await personaliser.authenticate(card(Suite.SM4), 1, Under.CONTROL, CHALLENGE)
    with pytest.raises(KeyUseError, match="cannot write down"):
        await personaliser.authenticate(card(Suite.TRIPLE_DES), 1, Under.CONTROL, CHALLENGE)


async def test_the_authority_is_both_handles(store: EmbeddedStore) -> None:
    authority: CardAuthority = Authority(
        store.personaliser(),
        store.load_authoriser(Noon(), QUOTAS),
        store.unload_authoriser(Noon(), QUOTAS),
        store.upkeep(),
    )
    assert len(await authority.authenticate(card(Suite.SM4), 0, Under.TRANSPORT, CHALLENGE)) == 16
    assert len((await authority.authorise_load(asked())).mac2) == 4


async def write(personaliser: Personaliser, kind: int = 0x3F, application: int = 1) -> bytes:
    p1, under = (0x01, Under.CONTROL) if application else (kind, Under.TRANSPORT)
    step = KeyStep(application, kind, 0x11, Suite.SM4, under, bytes((kind, 0xF0, 0x02, 1, 4)), p1=p1, guard=application)
    return await personaliser.write_key(card(Suite.SM4), step, CHALLENGE)


@pytest.mark.parametrize("clock", [True, False], ids=["by time", "by number"])
async def test_answers_stop_when_the_audit_cannot_be_written(clock: bool, tmp_path: Path) -> None:
    """Uses that are only counted are few and young, or there is no further answer; with the file free, it goes on."""
    moment = Moment()
    with open_store(tmp_path / "blocked", clock=moment) as store:
        test_ceremony(store, COMPONENTS)
        personaliser = store.personaliser()
        await write(personaliser)
        store.book.state._db.execute("PRAGMA busy_timeout = 20")
        other = sqlite3.connect(store.book.state.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answered = 1
        if clock:
            await write(personaliser)
            moment.pass_(seconds=5)
        with pytest.raises(KeyUseError, match="cannot write down"):
            for _ in range(10_000):
                await write(personaliser)
                answered += 1
        assert answered == (1 if clock else MOST_USES)
        with pytest.raises(KeyUseError, match="cannot write down"):
            await write(personaliser)
        other.execute("ROLLBACK")
        other.close()
        await write(personaliser)
        assert store.audit()[-1][2:5] == (
            "used",
            f"card {reference.CARD.hex()}",
            f"write 1:3F.11 SM4 ×{2 if clock else MOST_USES}",
        )


async def test_a_kill_takes_nothing_of_a_finished_chip(store: EmbeddedStore) -> None:
    """A chip counts as finished once everything of it is on the disk."""
    personaliser = store.personaliser()
    for _ in range(3):
        await write(personaliser)
    await personaliser.finish(card(Suite.SM4))
    with sqlite3.connect(store.book.state.path) as disk:
        rows = disk.execute("SELECT act, detail FROM audit ORDER BY id DESC LIMIT 1").fetchall()
    assert [(act, detail.split("; as ")[0]) for act, detail in rows] == [("used", "write 1:3F.11 SM4 ×3")]
