"""Rows of everything else that a key makes: derivation, secure messaging, WRITE KEY, seals, key blocks."""

import asyncio
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psec
from gmssl.sm3 import sm3_hash
from pyemv.tools import key_check_digits

from cardcore import cryptogram, secure_messaging
from cardcore.apdu import CommandApdu
from cardcore.authority import CardIdentity, KeyStep, Under
from cardcore.record import Sector, Suite
from keys.ceremony import TEST_TRANSPORT_KEY, test_ceremony
from keys.columns import from_bytes
from keys.engine.root import RootKey
from keys.engine.suites import suite_of
from keys.proof import proof_keys
from keys.purposes import SUITE_LABELS, KeyId, KeyPurpose, required_roots
from keys.store import open_store
from keys.tr31 import ProtectionKey, Version, unwrap, wrap
from keys.verifiers import SealVerifier
from tests.oracles.purse import ride
from tests.oracles.strangers import STRANGERS, Compared, Drawn, retail, u
from tests.terminal_side import iso_pad, xor


def derivation(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    oracle, stranger = STRANGERS[suite]
    for _ in range(cases):
        case = Drawn(draw)
        root = RootKey(KeyId(suite, KeyPurpose.TAC, "1"), case.key)
        card = stranger.derive(stranger.derive(case.key, case.issuer * 2), case.serial[-8:])
        yield Compared("key of a card, two levels", oracle, root.card(case.issuer, case.serial).reveal(), card)
        bulk = root.cards(case.issuer, np.frombuffer(case.serial[-8:], np.uint8).reshape(1, 8)).tobytes()
        yield Compared("key of a card, in bulk", oracle, bulk, card)
        own = stranger.derive(case.key, b"\0\0" + case.terminal)
        yield Compared("key of a PSAM", oracle, root.psam(case.terminal).reveal(), own)
        digits = key_check_digits(case.key, 3) if suite is Suite.TRIPLE_DES else stranger.encrypt(case.key, bytes(16))
        yield Compared("check value", "pyemv" if suite is Suite.TRIPLE_DES else oracle, root.kcv, digits[:3])


def messages(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """Secure messaging of files, authentications, acts."""
    oracle, stranger = STRANGERS[suite]
    for _ in range(cases):
        case = Drawn(draw)
        ours = suite_of(suite)(case.key)
        head, challenge = draw.randbytes(4), draw.randbytes(draw.choice((4, 8)))
        content = draw.randbytes(draw.choice((1, 2, 6, 7, 8, 15, 16, 23, 30, 31, 48, 60, 110)))
        plain = CommandApdu(head[0], head[1], head[2], head[3], content)
        start = bytes((head[0] | 4, *head[1:]))
        mac = stranger.mac(case.key, start + u(len(content) + 4, 1) + content, challenge)[:4]
        made = ours.secure_mac(challenge, secure_messaging.mac_input(plain))
        yield Compared("MAC of a command in clear", oracle, made, mac)
        framed = u(len(content), 1) + content
        body = stranger.encrypt(
            case.key, iso_pad(framed, stranger.block) if len(framed) % stranger.block else framed
        )  # fmt: skip
        field = ours.encrypt(secure_messaging.enciphered_field(content, suite))
        yield Compared("enciphered field", oracle, (field, ours.encipher(content)), (body, body))
        mac = stranger.mac(case.key, start + u(len(body) + 4, 1) + body, challenge)[:4]
        made = ours.secure_mac(challenge, secure_messaging.mac_input(plain, field))
        yield Compared("MAC of an enciphered command", oracle, made, mac)
        shown = challenge.ljust(stranger.block, b"\0")
        yield Compared("authentication", oracle, ours.authentication(challenge), stranger.encrypt(case.key, shown))
        digest = draw.randbytes(16)
        act = retail(case.key, digest) if suite is Suite.TRIPLE_DES else stranger.mac(case.key, digest)[:8]
        yield Compared("act", "pyemv" if suite is Suite.TRIPLE_DES else oracle, ours.act_mac(digest), act)


def key_writes(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """WRITE KEY of a card as the personaliser makes it, the whole command."""
    oracle, stranger = STRANGERS[suite]
    parts = {name: (draw.randbytes(16), draw.randbytes(16)) for name in required_roots()}
    written = ((0x3E, "PURCHASE/transit"), (0x3F, "LOAD/1"), (0x3D, "UNLOAD/1"), (0x3C, "OVERDRAFT/1"), (0x34, "TAC/1"))
    identities = [CardIdentity(draw.randbytes(4), draw.randbytes(10), suite) for _ in range(8)]

    def card_key(who: CardIdentity, name: str) -> bytes:
        root = xor(*parts[f"{SUITE_LABELS[suite]}/{name}"])
        return stranger.derive(stranger.derive(root, who.issuer * 2), who.card[-8:])

    with tempfile.TemporaryDirectory(prefix="oracles-") as folder, open_store(Path(folder) / "keys") as store:
        test_ceremony(store, parts)
        personaliser = store.personaliser()
        kept = {(who, name): card_key(who, name) for who in identities for _, name in (*written, (0, "CONTROL/1"))}

        async def commands() -> list[Compared]:
            made = []
            for _ in range(cases):
                who, (kind, name), under = draw.choice(identities), draw.choice(written), draw.choice(list(Under))
                prefix = u(kind, 1) + draw.randbytes(2) + b"\x01" + u(suite, 1)
                id, challenge = draw.randrange(256), draw.randbytes(4)
                step = KeyStep(1, kind, id, suite, under, prefix, sector=Sector.TRANSIT, guard=1)
                guard = kept[who, "CONTROL/1"] if under is Under.CONTROL else TEST_TRANSPORT_KEY
                framed = b"\x15" + prefix + kept[who, name]
                body = stranger.encrypt(guard, iso_pad(framed, stranger.block))
                start = b"\x84\xd4\x01" + u(id, 1) + u(len(body) + 4, 1) + body
                theirs = start + stranger.mac(guard, start, challenge)[:4]
                ours = await personaliser.write_key(who, step, challenge)
                made.append(Compared("WRITE KEY", oracle, ours, theirs))
            return made

        yield from asyncio.run(commands())


def seals(_suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """Seals of PSAMs and the MAC of a metro entry, SM4 whatever the suite of the card; proof keys, SM3."""
    stranger, root = STRANGERS[Suite.SM4][1], draw.randbytes(16)
    terminals = [draw.randbytes(6) for _ in range(20)]
    sealed = []
    for _ in range(cases):
        raw = bytearray(draw.randbytes(120))
        raw[29:35] = draw.choice(terminals)
        factor = b"\0\0" + bytes(raw[29:35])
        key = stranger.derive(stranger.derive(root, factor), factor)
        sealed.append(bytes(raw) + stranger.mac(key, bytes(raw))[:8])
        case, entry = Drawn(draw), draw.randbytes(48)
        covered = cryptogram.composite_mac_input(case.serial, 1, entry)
        ours = suite_of(Suite.SM4)(case.key).child(case.issuer * 2).child(case.serial[-8:]).act_mac(covered)
        key = stranger.derive(stranger.derive(case.key, case.issuer * 2), case.serial[-8:])
        theirs = stranger.mac(key, b"OCM1" + case.serial + b"\x01" + entry[:38])[:8]
        yield Compared("MAC of a metro entry", "gmssl", ours, theirs)
        named = u(4, 1) + b"\x01" + case.serial + u(case.fen) + u(case.kind, 1) + case.terminal
        named += u(case.transaction) + case.when
        digest = bytes.fromhex(sm3_hash(list(named)))[:16]
        yield Compared("proof key", "gmssl", proof_keys(from_bytes(ride(Suite.SM4, case).encode())).tobytes(), digest)
    verifier = SealVerifier([RootKey(KeyId(Suite.SM4, KeyPurpose.RECORD), root)])
    turned = [one[:60] + bytes((one[60] ^ 1,)) + one[61:] for one in sealed]
    for name, batch, holds in (("right", sealed, True), ("a balance turned", turned, False)):
        for found in verifier.verify(from_bytes(b"".join(batch))).tolist():
            yield Compared(f"verdict on seals, {name}", "gmssl", found, holds)


def blocks(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """TR-31 both ways."""
    shapes = [(Version.AES, 16), (Version.AES, 24), (Version.AES, 32)]
    shapes += [(Version.TDES, 16), (Version.TDES, 24)] if suite is Suite.TRIPLE_DES else []
    id = KeyId(suite, KeyPurpose.TAC, "1", 1)
    for _ in range(cases):
        (version, length), key = draw.choice(shapes), draw.randbytes(16)
        mask, protecting = draw.randbytes(length), draw.randbytes(length)
        under = ProtectionKey(version, [mask.hex(), xor(mask, protecting).hex()])
        theirs = psec.tr31.KeyBlock(protecting).unwrap(wrap(RootKey(id, key), under))
        yield Compared("TR-31 block of ours", "psec", theirs, key)
        algorithm = "T" if suite is Suite.TRIPLE_DES else "4"
        block = psec.tr31.KeyBlock(protecting, f"{version}0000E0{algorithm}X01E0000").wrap(key)
        yield Compared("TR-31 block of theirs", "psec", unwrap(block, under, id).undiversified().reveal(), key)
