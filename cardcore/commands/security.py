"""Challenges, authentication, PIN and blocking (ISO/IEC 7816-4, FMCOS)."""

from dataclasses import dataclass, field
from typing import ClassVar

from cardcore.apdu import CARD_DATA_BYTES, CommandApdu, ResponseApdu
from cardcore.bcd import encode_digits
from cardcore.commands.command import Command, Silent, exactly
from cardcore.errors import CardError, FormatError
from cardcore.status import tries_left

MAC_BASED = 0x02


@dataclass(frozen=True, slots=True)
class GetChallenge(Command[bytes]):
    """GET CHALLENGE: random bytes that the next command, and only that, may use."""

    length: int = 4
    name: ClassVar[str] = "GET CHALLENGE"

    def apdu(self) -> CommandApdu:
        if self.length not in (4, 8):
            raise FormatError(f"a challenge has 4 or 8 bytes, not {self.length}")
        return CommandApdu(0x00, 0x84, 0x00, 0x00, le=self.length)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, self.length)


@dataclass(frozen=True, slots=True)
class ExternalAuthenticate(Silent):
    """EXTERNAL AUTHENTICATE with key 39.`key_id`: the enciphered challenge, 8 bytes 3DES, 16 bytes SM4."""

    cryptogram: bytes
    key_id: int = 0x00
    name: ClassVar[str] = "EXTERNAL AUTHENTICATE"

    def apdu(self) -> CommandApdu:
        if len(self.cryptogram) not in (8, 16):
            raise FormatError(f"a cryptogram has 8 or 16 bytes, not {len(self.cryptogram)}")
        return CommandApdu(0x00, 0x82, 0x00, self.key_id, self.cryptogram)


@dataclass(frozen=True, slots=True)
class InternalAuthenticate(Command[bytes]):
    """INTERNAL AUTHENTICATE, MAC form: 8 bytes by the act key over a 16-byte digest (rule 6); the PIN comes first."""

    key_id: int
    digest: bytes
    name: ClassVar[str] = "INTERNAL AUTHENTICATE"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0x88, MAC_BASED, self.key_id, exactly(self.digest, 16), 8)

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, 8)


@dataclass(frozen=True, slots=True)
class InternalCipher(Command[bytes]):
    """INTERNAL AUTHENTICATE, enciphering (P1 = 00) or deciphering (P1 = 01) whole blocks with key 30 or 31."""

    key_id: int
    content: bytes
    decipher: bool = False
    name: ClassVar[str] = "INTERNAL AUTHENTICATE"

    def apdu(self) -> CommandApdu:
        if not 8 <= len(self.content) <= CARD_DATA_BYTES or len(self.content) % 8:
            raise FormatError(f"a card ciphers whole blocks of 8 or 16 bytes, not {len(self.content)} bytes")
        return CommandApdu(0x00, 0x88, 0x01 if self.decipher else 0x00, self.key_id, self.content, len(self.content))

    def parse(self, answer: bytes) -> bytes:
        return exactly(answer, len(self.content))


class WrongPinError(CardError):
    """The PIN was wrong; `tries_left` is what remains, 0 when it is blocked now."""

    def __init__(self, message: str, *, command: str, sw: int, tries_left: int) -> None:
        super().__init__(message, command=command, sw=sw)
        self.tries_left = tries_left


def check_tries(command: str, response: ResponseApdu) -> None:
    """Raises WrongPinError when the answer counts a wrong PIN."""
    left = tries_left(response.sw)
    if left is None:
        return
    advice = f"{left} tries left; ask the holder again" if left else "it is blocked now; unblock it at a counter"
    raise WrongPinError(
        f"{command}: {response.sw:04X}, the PIN is wrong, {advice}", command=command, sw=response.sw, tries_left=left
    )


def pin_bytes(pin: str) -> bytes:
    """A PIN of 4 to 12 decimal digits, an even number of them, as the card takes it; raises FormatError."""
    if not 4 <= len(pin) <= 12:
        raise FormatError(f"a PIN has 4 to 12 digits, not {len(pin)}")
    try:
        return encode_digits(pin)
    except FormatError:
        # The digits themselves stay out of every message.
        raise FormatError("a PIN is an even number of decimal digits") from None


@dataclass(frozen=True, slots=True)
class VerifyPin(Silent):
    """VERIFY of a PIN of 4 to 12 decimal digits, an even number of them; never shown by `repr`."""

    pin: str = field(repr=False)
    pin_id: int = 0x00
    name: ClassVar[str] = "VERIFY PIN"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x00, 0x20, 0x00, self.pin_id, pin_bytes(self.pin))

    def read(self, response: ResponseApdu) -> None:
        """Raises WrongPinError with the tries left, CardError for any other refusal."""
        check_tries(self.name, response)
        Silent.read(self, response)


@dataclass(frozen=True, slots=True)
class CardBlock(Silent):
    """CARD BLOCK, for ever, with the MAC (4 bytes) of the MF's line key; the MF must be selected."""

    mac: bytes = b""
    name: ClassVar[str] = "CARD BLOCK"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x84, 0x16, 0x00, 0x00, self.mac)


@dataclass(frozen=True, slots=True)
class ApplicationBlock(Silent):
    """APPLICATION BLOCK of the selected application, with the MAC (4 bytes) of its line key."""

    permanent: bool = False
    mac: bytes = b""
    name: ClassVar[str] = "APPLICATION BLOCK"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x84, 0x1E, 0x00, 0x01 if self.permanent else 0x00, self.mac)


@dataclass(frozen=True, slots=True)
class ApplicationUnblock(Silent):
    """APPLICATION UNBLOCK with the MAC (4 bytes) of the line key. Three wrong MACs block the application for ever."""

    mac: bytes = b""
    name: ClassVar[str] = "APPLICATION UNBLOCK"

    def apdu(self) -> CommandApdu:
        return CommandApdu(0x84, 0x18, 0x00, 0x00, self.mac)
