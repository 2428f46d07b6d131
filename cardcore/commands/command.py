"""What every command has: a name, an APDU, and a reading of the answer."""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from cardcore.apdu import CARD_DATA_BYTES, CommandApdu, ResponseApdu
from cardcore.errors import CardError, FormatError
from cardcore.status import explain

AnswerT = TypeVar("AnswerT", covariant=True)


class Command(ABC, Generic[AnswerT]):
    """One command of the card; `name` is also the key of its status table (`cardcore.status`)."""

    __slots__ = ()
    name: ClassVar[str]

    @abstractmethod
    def apdu(self) -> CommandApdu:
        """The command as sent; raises FormatError when a parameter does not fit it."""

    @abstractmethod
    def parse(self, answer: bytes) -> AnswerT:
        """Read the data of a 9000 answer; raises FormatError."""

    def read(self, response: ResponseApdu) -> AnswerT:
        """The typed answer; raises CardError for any status but 9000, and for an answer of another length or shape."""
        if not response.ok:
            raise CardError(explain(self.name, response.sw), command=self.name, sw=response.sw)
        try:
            return self.parse(response.data)
        except FormatError as error:
            raise CardError(
                f"{self.name}: the card answered 9000 with data of another form ({error}); "
                "treat the outcome as unknown and check that this is a card of ours",
                command=self.name,
                sw=response.sw,
            ) from error


class Silent(Command[None]):
    """A command whose answer is its status word alone."""

    __slots__ = ()

    def parse(self, answer: bytes) -> None:
        if answer:
            raise FormatError(f"{len(answer)} bytes where none are expected")


def exactly(answer: bytes, size: int) -> bytes:
    """The answer, when it has `size` bytes; raises FormatError."""
    if len(answer) != size:
        raise FormatError(f"{len(answer)} bytes, not {size}")
    return answer


def number(value: int, width: int, what: str) -> bytes:
    """A big-endian number of the command's data; raises FormatError when it does not fit."""
    try:
        return value.to_bytes(width, "big")
    except OverflowError as error:
        raise FormatError(f"{what} = {value} does not fit {width} bytes") from error


def writable(content: bytes) -> bytes:
    """Content of one write, with room left for the MAC of secure messaging; raises FormatError."""
    if not 1 <= len(content) <= CARD_DATA_BYTES - 4:
        raise FormatError(f"one write takes 1 to {CARD_DATA_BYTES - 4} bytes, not {len(content)}; split it")
    return content
