"""SQL expressions for the fields of a stored TapRecord, made from the one field table (docs/record.md)."""
# ruff: noqa: S608 - the texts are made of constants and of the record's field table, never of input

from cardcore.record import BY_NAME, OFFLINE_KINDS, Sector

OFFLINE = f"({', '.join(str(kind.value) for kind in sorted(OFFLINE_KINDS))})"


def claim(name: str, record: str = "record") -> str:
    """The expression of a field of the bytea expression `record`: bytea, signed integer (`i`) or bigint (`u`)."""
    field = BY_NAME[name]
    if field.unit == "b":
        return f"substring({record} FROM {field.offset + 1} FOR {field.width})"
    # The shift of an integer does not overflow in PostgreSQL, it sets the sign: what a signed field means.
    width = "" if field.unit == "i" else "::bigint"
    octets = (
        f"(get_byte({record}, {field.offset + at}){width} << {8 * (field.width - 1 - at)})" for at in range(field.width)
    )
    return f"({' | '.join(octets)})"


def _first_said(record: str) -> str:
    """What orders copies of one tap: epoch and sequence, then all bytes."""
    place = BY_NAME["epoch"].offset + 1, BY_NAME["epoch"].width + BY_NAME["sequence"].width
    return f"substring({record} FROM {place[0]} FOR {place[1]}) || {record}"


# Of the sealed copies of a proven record that are not itself, the one that its terminal said first: the order of
# arrival decides nothing (rule 14).
LENT = f"""(
    SELECT DISTINCT ON (card, proof_key) card, proof_key, record FROM (
        SELECT card, proof_key, record FROM exhibit WHERE state = 'conflict' AND sealed
        UNION ALL SELECT card, proof_key, record FROM record_event WHERE kind = 'adopted') AS copy
    ORDER BY card, proof_key, {_first_said("record")})"""


def believed(fact: str, lent: str) -> str:
    """The expression of the bytes whose claims count: those of the fact, unless a row of LENT comes before them."""
    stands = f"{fact}.sealed AND {_first_said(f'{fact}.record')} <= {_first_said(f'{lent}.record')}"
    return f"(CASE WHEN {lent}.record IS NULL OR {stands} THEN {fact}.record ELSE {lent}.record END)"


def sector_label(column: str) -> str:
    """The expression that names a sector number as ledgers and files do."""
    arms = " ".join(f"WHEN {sector.value} THEN '{sector.label}'" for sector in Sector)
    return f"(CASE {column} {arms} END)"


def record_subject(alias: str) -> str:
    """`terminal/epoch/sequence`, the subject of a case about a record."""
    return f"{alias}.terminal || '/' || {alias}.epoch || '/' || {alias}.sequence"


def purse_subject(alias: str) -> str:
    """`card/purse/generation`, the beginning of the subject of a case about a purse."""
    return f"encode({alias}.card, 'hex') || '/' || {alias}.purse || '/' || {alias}.generation"


def reference(alias: str) -> str:
    """`card/proof key` in hex, the name of a proven record among what the closes carried."""
    return f"encode({alias}.card, 'hex') || '/' || encode({alias}.proof_key, 'hex')"
