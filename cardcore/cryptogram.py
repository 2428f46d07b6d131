"""What a cryptogram covers: the exact input bytes of every MAC and TAC (PBOC electronic purse; docs/record.md).

Inputs only: computing over them is `keys`' work.
"""

from collections.abc import Mapping

from cardcore.record import Kind, Sector, TapRecord


def _u(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big")


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
