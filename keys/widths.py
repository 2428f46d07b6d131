"""The widths of what a MAC covers: a part of another width would let a MAC mean another text than the one asked for."""

from collections.abc import Mapping

from cardcore.errors import FormatError


def check_widths(act: str, unharmed: str, parts: Mapping[str, tuple[bytes, int]]) -> None:
    """`parts` are bytes and their width, by name. Raises FormatError at the first that differs; `unharmed` says what
    state things are in."""
    for name, (octets, width) in parts.items():
        if len(octets) != width:
            raise FormatError(f"{name} of {act} has {width} bytes, not {len(octets)}; {unharmed}")
