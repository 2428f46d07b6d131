"""Rows of the purse: session keys, MAC1 to MAC3, TACs.

What a cryptogram covers is put together here from docs/card.md and docs/record.md, beside what `cardcore` says.
"""

import random
from collections.abc import Iterator

import numpy as np

from cardcore import cryptogram
from cardcore.record import Kind, Suite, TapRecord
from cardcore.switches import OverdraftTacKey, Sm4SessionKey
from keys.columns import from_bytes
from keys.engine.root import RootKey
from keys.engine.suites import SessionKey, suite_of
from keys.purposes import KeyId, KeyPurpose
from keys.verifiers import TacVerifier, Verdict
from tests.oracles.strangers import STRANGERS, Compared, Drawn, retail, u
from tests.terminal_side import xor


def sessions(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    oracle, stranger = STRANGERS[suite]
    for _ in range(cases):
        case = Drawn(draw)
        ours, seed = suite_of(suite)(case.key), case.random4 + u(case.counter, 2)
        load = ours.encrypt(cryptogram.session_input(suite, case.random4, case.counter))
        yield Compared("session key, with the host", oracle, load, stranger.session(case.key, seed))
        asked = cryptogram.session_input(suite, case.random4, case.counter, case.transaction)
        ride = stranger.session(case.key, seed + u(case.transaction)[2:])
        yield Compared("session key, with a PSAM", oracle, ours.encrypt(asked), ride)
        if suite is Suite.SM4:
            other = cryptogram.session_input(suite, case.random4, case.counter, sm4=Sm4SessionKey.COMPLEMENT)
            filled = seed + b"\x80\0"
            theirs = stranger.encrypt(case.key, filled + xor(filled, b"\xff" * 8))
            yield Compared("session key, complement", oracle, ours.encrypt(other), theirs)


def money(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """MAC1, MAC2 and MAC3 of everything that moves money."""
    oracle, stranger = STRANGERS[suite]
    for _ in range(cases):
        case = Drawn(draw)
        ours, seed = suite_of(suite)(case.key), case.random4 + u(case.counter, 2)
        host = ours.load_session(case.random4, case.counter)
        psam = ours.purchase_session(case.random4, case.counter, case.transaction)
        keys = stranger.session(case.key, seed), stranger.session(case.key, seed + u(case.transaction)[2:])
        for row, session, covered, message in _messages(case, host, psam):
            key = keys[session is psam]
            yield Compared(row, oracle, session.mac4(covered), stranger.mac(key, message)[:4])


def _messages(case: Drawn, host: SessionKey, psam: SessionKey) -> Iterator[tuple[str, SessionKey, bytes, bytes]]:
    """Row, session, what `cardcore` says that is covered, and what docs/card.md says."""
    fen, raw, limit, old, term, when = (
        u(case.fen), u(case.raw_fen), u(case.limit_fen, 3), u(case.old_fen, 3), case.terminal, case.when
    )  # fmt: skip
    of = cryptogram
    for what, kind in (("a load", 2), ("an unload", 3)):
        one = of.load_mac1_input(case.raw_fen, case.fen, kind, term)
        yield f"MAC1 of {what}", host, one, raw + fen + u(kind, 1) + term
        two = of.host_mac2_input(case.fen, kind, term, case.date, case.time)
        yield f"MAC2 of {what}", host, two, fen + u(kind, 1) + term + when
    three = of.unload_mac3_input(case.raw_fen, case.counter, case.fen, term, case.date, case.time)
    yield "MAC3 of an unload", host, three, raw + u(case.counter, 2) + fen + b"\x03" + term + when
    one = of.host_mac2_input(case.fen, case.kind, term, case.date, case.time)
    yield "MAC1 of a purchase", psam, one, fen + u(case.kind, 1) + term + when
    yield "MAC2 of a purchase", psam, of.purchase_mac2_input(case.fen), fen
    yield "MAC1 of an allowance", host, of.overdraft_mac1_input(case.raw_fen, case.old_fen, term), (
        raw + old + b"\x07" + term
    )  # fmt: skip
    two = of.overdraft_mac2_input(case.limit_fen, term, case.date, case.time)
    yield "MAC2 of an allowance", host, two, limit + b"\x07" + term + when


def tacs(suite: Suite, draw: random.Random, cases: int) -> Iterator[Compared]:
    """TACs over the lanes of bulk verification, one key a lane, and the verdicts over whole records."""
    oracle, stranger = STRANGERS[suite]
    root, drawn = draw.randbytes(16), [Drawn(draw) for _ in range(cases)]
    keys = [stranger.derive(stranger.derive(root, case.issuer * 2), case.serial[-8:]) for case in drawn]
    lanes, octets = np.arange(cases), np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    verifier = TacVerifier([RootKey(KeyId(suite, KeyPurpose.TAC, "1"), root)])
    for row, records, covered, messages in _tac_rows(suite, drawn):
        macs = suite_of(suite).tac_macs(octets, lanes, np.frombuffer(b"".join(covered), np.uint8).reshape(cases, -1))
        pairs = zip(keys, messages, strict=True)
        theirs = [stranger.mac(stranger.tac_key(key), message)[:4] for key, message in pairs]
        for mac, tac in zip(macs, theirs, strict=True):
            yield Compared(row, oracle, mac.tobytes(), tac)
        raw = [one[:46] + tac + bytes(4) + one[54:] for one, tac in zip(records, theirs, strict=bool(records))]
        turned = [one[:24] + bytes((one[24] ^ 1,)) + one[25:] for one in raw]
        for name, batch, verdict in (("right", raw, Verdict.OK), ("amount turned", turned, Verdict.BAD)):
            for found in verifier.verify(from_bytes(b"".join(batch))).tolist():
                yield Compared(f"{row}, verdict, {name}", oracle, found, int(verdict))
    if not cryptogram.folds_tac_key(suite, 7) or cryptogram.folds_tac_key(suite, 7, OverdraftTacKey.WHOLE):
        return
    for key, one, message in zip(keys, covered, messages, strict=True):
        made = suite_of(suite)(key).secure_mac(b"", one)
        yield Compared("TAC of an allowance, whole key", "pyemv", made, retail(key, message)[:4])


def _tac_rows(suite: Suite, drawn: list[Drawn]) -> Iterator[tuple[str, list[bytes], list[bytes], list[bytes]]]:
    """Row, records that carry such a TAC, what `cardcore` says that it covers, and what docs/card.md says. The
    allowance, which no record carries, comes last."""
    rides, loads = [ride(suite, case) for case in drawn], [_load(suite, case) for case in drawn]
    yield (
        "TAC of a purchase",
        [record.encode() for record in rides],
        [cryptogram.purchase_tac_input(record) for record in rides],
        [u(d.fen) + u(d.kind, 1) + d.terminal + u(d.transaction) + d.when for d in drawn],
    )
    yield (
        "TAC of a load",
        [record.encode() for record in loads],
        [cryptogram.load_tac_input(record) for record in loads],
        [_raw_after(d) + u(d.counter, 2) + u(d.fen) + b"\x02" + d.terminal + d.when for d in drawn],
    )
    yield (
        "TAC of an allowance",
        [],
        [cryptogram.overdraft_tac_input(d.raw_fen, d.counter, d.limit_fen, d.terminal, d.date, d.time) for d in drawn],
        [u(d.raw_fen) + u(d.counter, 2) + u(d.limit_fen, 3) + b"\x07" + d.terminal + d.when for d in drawn],
    )


def ride(suite: Suite, case: Drawn) -> TapRecord:
    """A debit of these inputs, without its TAC."""
    return TapRecord(
        kind=Kind.DEBIT, suite=suite, issuer=case.issuer, card=case.serial, counter=case.counter, amount_fen=case.fen,
        transaction_type=case.kind, terminal_number=case.terminal, terminal_transaction=case.transaction,
        date=case.date, time=case.time, terminal=1, sequence=1,
    )  # fmt: skip


def _load(suite: Suite, case: Drawn) -> TapRecord:
    return TapRecord(
        kind=Kind.LOAD, suite=suite, issuer=case.issuer, card=case.serial, counter=case.counter, amount_fen=case.fen,
        transaction_type=2, terminal_number=case.terminal, date=case.date, time=case.time, terminal=1, sequence=1,
        balance_before_fen=case.raw_fen - 2**31, overdraft_fen=case.limit_fen,
    )  # fmt: skip


def _raw_after(case: Drawn) -> bytes:
    return u((case.raw_fen - 2**31 + case.limit_fen + case.fen) % 2**32)
