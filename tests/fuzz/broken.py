"""A target with a fault of its own, by which the fuzzer is tested: it falls over at a command that is right."""

from contextlib import suppress

from cardcore.apdu import CommandApdu
from cardcore.errors import FormatError
from tests.fuzz.target import Target


def read(raw: bytes) -> None:
    with suppress(FormatError):
        command = CommandApdu.decode(raw)
        if command.data and command.le:
            raise KeyError("the fault that was to be found")


TARGETS = (Target("broken", read, 16),)
