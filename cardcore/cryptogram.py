"""What a cryptogram covers: the exact input bytes of every MAC and TAC (PBOC electronic purse; docs/record.md).

Inputs only: computing over them is `keys`' work.
"""

from collections.abc import Mapping

from cardcore.errors import FormatError
from cardcore.record import Kind, Sector, Suite, TapRecord
from cardcore.switches import OverdraftTacKey, Sm4SessionKey


def _u(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big")


def session_input(
    suite: Suite,
    random: bytes,
    counter: int,
    terminal_transaction: int | None = None,
    sm4: Sm4SessionKey = Sm4SessionKey.PADDED,
) -> bytes:
    """What the card key enciphers into the session key: 8 bytes for 3DES, 16 for SM4.

    `terminal_transaction` is the PSAM's number of a purchase, None for load, unload and allowance. Raises FormatError.
    """
    if len(random) != 4:
        raise FormatError(f"the card's random number has 4 bytes, not {len(random)}")
    seed = random + _u(counter, 2)
    if terminal_transaction is not None:
        seed += _u(terminal_transaction & 0xFFFF, 2)
    short = (seed + b"\x80\x00")[:8]
    if suite is Suite.TRIPLE_DES:
        return short
    if sm4 is Sm4SessionKey.COMPLEMENT:
        return short + bytes(octet ^ 0xFF for octet in short)
    return (seed + b"\x80").ljust(16, b"\0")


def folds_tac_key(suite: Suite, transaction_type: int, overdraft: OverdraftTacKey = OverdraftTacKey.FOLDED) -> bool:
    """Whether a TAC is made with the halves of the TAC key XORed, and not with the key whole: by 3DES cards only."""
    whole = transaction_type == 0x07 and overdraft is OverdraftTacKey.WHOLE
    return suite is Suite.TRIPLE_DES and not whole


def load_mac1_input(raw_balance_fen: int, amount_fen: int, transaction_type: int, terminal_number: bytes) -> bytes:
    """15 bytes that the card MACs in INITIALIZE FOR LOAD (and for unload, with type 03)."""
    return _u(raw_balance_fen, 4) + _u(amount_fen, 4) + _u(transaction_type, 1) + terminal_number


def host_mac2_input(amount_fen: int, transaction_type: int, terminal_number: bytes, date: bytes, time: bytes) -> bytes:
    """18 bytes of the host's MAC2 (load, unload), and of the PSAM's MAC1 of a purchase."""
    return _u(amount_fen, 4) + _u(transaction_type, 1) + terminal_number + date + time


def purchase_mac2_input(amount_fen: int) -> bytes:
    """4 bytes of the card's MAC2 of a purchase."""
    return _u(amount_fen, 4)


def overdraft_mac1_input(raw_balance_fen: int, limit_fen: int, terminal_number: bytes) -> bytes:
    """14 bytes that the card MACs in INITIALIZE FOR UPDATE (type 07)."""
    return _u(raw_balance_fen, 4) + _u(limit_fen, 3) + b"\x07" + terminal_number


def overdraft_mac2_input(limit_fen: int, terminal_number: bytes, date: bytes, time: bytes) -> bytes:
    """17 bytes of the host's MAC2 of UPDATE OVERDRAW LIMIT."""
    return _u(limit_fen, 3) + b"\x07" + terminal_number + date + time


def overdraft_tac_input(
    raw_balance_after_fen: int, counter: int, limit_fen: int, terminal_number: bytes, date: bytes, time: bytes
) -> bytes:
    """23 bytes of the TAC of UPDATE OVERDRAW LIMIT; the balance is the new one, the counter the one before."""
    return _u(raw_balance_after_fen, 4) + _u(counter, 2) + overdraft_mac2_input(limit_fen, terminal_number, date, time)


def unload_mac3_input(
    raw_balance_after_fen: int, counter: int, amount_fen: int, terminal_number: bytes, date: bytes, time: bytes
) -> bytes:
    """24 bytes of MAC3, by which a card proves under the session key that it unloaded (type 03)."""
    head = _u(raw_balance_after_fen, 4) + _u(counter, 2)
    return head + host_mac2_input(amount_fen, 0x03, terminal_number, date, time)


def composite_mac_input(card: bytes, purse: int, record: bytes) -> bytes:
    """53 bytes of the MAC in a guarded composite record: whose card and purse, and bytes 0..37 (docs/card.md)."""
    if len(card) != 10 or len(record) != 48:
        raise FormatError(f"a serial of 10 and a record of 48 bytes are covered, not {len(card)} and {len(record)}")
    return b"OCM1" + card + _u(purse, 1) + record[:38]


def purchase_tac_input(record: TapRecord) -> bytes:
    """22 bytes of the TAC of a purchase, simple or composite (rule 1)."""
    return (
        _u(record.amount_fen, 4)
        + _u(record.transaction_type, 1)
        + record.terminal_number
        + _u(record.terminal_transaction, 4)
        + record.date
        + record.time
    )


def load_tac_input(record: TapRecord) -> bytes:
    """24 bytes of the TAC of a load; the raw new balance is taken modulo 2**32, so that no claim can raise an error."""
    raw_balance = (record.balance_before_fen + record.overdraft_fen + record.amount_fen) % 2**32
    return (
        _u(raw_balance, 4)
        + _u(record.counter, 2)
        + _u(record.amount_fen, 4)
        + _u(record.transaction_type, 1)
        + record.terminal_number
        + record.date
        + record.time
    )


def split_text(split: Mapping[str, int]) -> bytes:
    """Payer split of an act as the text that the card's digest covers: `account=300;fund=700`."""
    return ";".join(f"{payer}={split[payer]}" for payer in sorted(split)).encode("ascii")


def act_input(record: TapRecord, sector: Sector, challenge: bytes, split_digest: bytes) -> bytes:
    """Bytes whose SM3 (first 16) the card authenticates for an act (rule 6); `split_digest` is SM3 of `split_text`."""
    return (
        b"OCA1"
        + _u(sector, 1)
        + record.act_id
        + challenge
        + _u(record.amount_fen, 4)
        + _u(record.transaction_type, 1)
        + record.terminal_number
        + record.date
        + record.time
        + record.card
        + split_digest
    )


def proof_input(record: TapRecord) -> bytes:
    """Bytes whose SM3 (first 16) is the proof key, the identity of a proven record for ever (rule 3)."""
    prefix = _u(record.suite, 1) + _u(record.key_version, 1) + record.card
    match record.kind:
        case Kind.ACT:
            return prefix + _u(record.purse, 1) + record.act_id
        case Kind.LOAD:
            return prefix + load_tac_input(record)
        case _:
            return prefix + purchase_tac_input(record)
