"""Reads and writes under secure messaging, as the authority protected them (FMCOS 2.0; `cardcore.secure_messaging`)."""

from dataclasses import dataclass
from typing import ClassVar

from cardcore.apdu import CommandApdu
from cardcore.commands.command import Command, Silent
from cardcore.errors import FormatError
from cardcore.secure_messaging import split_answer


@dataclass(frozen=True, slots=True)
class SecuredAnswer:
    """What a protected read answered: its data as sent (enciphered where the file is), and the card's MAC over it."""

    body: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class ProtectedRead(Command[SecuredAnswer]):
    """A READ BINARY or READ RECORD with its MAC. Nothing of the answer is true until the authority has checked it."""

    plain: Command[bytes]
    command: bytes
    name: ClassVar[str] = "PROTECTED READ"

    def apdu(self) -> CommandApdu:
        sent = _of(self.plain, self.command)
        return CommandApdu(sent.cla, sent.ins, sent.p1, sent.p2, sent.data, self.plain.apdu().le)

    def parse(self, answer: bytes) -> SecuredAnswer:
        return SecuredAnswer(*split_answer(answer))


@dataclass(frozen=True, slots=True)
class ProtectedWrite(Silent):
    """An UPDATE BINARY, UPDATE RECORD or APPEND RECORD with its MAC, enciphered or in clear."""

    plain: Command[None]
    command: bytes
    name: ClassVar[str] = "PROTECTED WRITE"

    def apdu(self) -> CommandApdu:
        return _of(self.plain, self.command)


def _of(plain: Command[object], command: bytes) -> CommandApdu:
    """The protected command; raises FormatError when it is not this one under protection."""
    asked, sent = plain.apdu(), CommandApdu.decode(command)
    if (asked.cla | 0x04, asked.ins, asked.p1, asked.p2) != (sent.cla, sent.ins, sent.p1, sent.p2):
        raise FormatError(f"the protected command is not this {plain.name}: {command[:4].hex()}")
    return sent
