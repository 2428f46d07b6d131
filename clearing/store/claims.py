"""SQL expressions for the fields of a stored TapRecord, made from the one field table (docs/record.md)."""

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
