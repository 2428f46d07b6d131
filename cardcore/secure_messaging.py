"""The bytes that secure messaging covers and enciphers (FMCOS 2.0; docs/card.md). Inputs only: `keys` computes.

covered = mac_input(command, body)         # what the 4-byte MAC of a command is made over
body = enciphered_field(content, suite)    # what is enciphered in place of the content
data, mac = split_answer(answer)           # a protected read; the MAC is over `data` as sent
"""

from cardcore.apdu import CARD_DATA_BYTES, CommandApdu
from cardcore.errors import FormatError
from cardcore.record import Suite

MAC_BYTES = 4
_SECURE = 0x04
_BLOCK = {Suite.TRIPLE_DES: 8, Suite.SM4: 16}


def initial_vector(challenge: bytes, suite: Suite) -> bytes:
    """The card's challenge (4 or 8 bytes), zeros on the right up to one block."""
    if len(challenge) not in (4, 8):
        raise FormatError(f"a challenge has 4 or 8 bytes, not {len(challenge)}")
    return challenge.ljust(_BLOCK[suite], b"\0")


def mac_input(command: CommandApdu, body: bytes | None = None) -> bytes:
    """CLA x4, INS, P1, P2, Lc with the MAC counted in, and the body as sent; no Le.

    `body` is the data of the command where it goes in clear. The MAC's own padding (80, then 00, always) is the suite's
    work. Raises FormatError when body and MAC do not fit one command.
    """
    content = command.data if body is None else body
    size = len(content) + MAC_BYTES
    if size > CARD_DATA_BYTES:
        raise FormatError(
            f"a protected command carries {CARD_DATA_BYTES - MAC_BYTES} bytes, not {len(content)}; split it"
        )
    return bytes((command.cla | _SECURE, command.ins, command.p1, command.p2, size)) + content


def enciphered_field(content: bytes, suite: Suite) -> bytes:
    """Length (1 byte) and content, padded with 80 00… only when they do not fill whole blocks; enciphered in ECB."""
    if len(content) > 0xFF:
        raise FormatError(f"at most 255 bytes are enciphered at once, not {len(content)}")
    field, block = bytes((len(content),)) + content, _BLOCK[suite]
    if len(field) % block:
        field += b"\x80"
        field += bytes(-len(field) % block)
    return field


def read_field(field: bytes, suite: Suite) -> bytes:
    """The content of a deciphered field; raises FormatError when length or padding is not what the card writes."""
    content = field[1 : 1 + field[0]] if field else b""
    if not field or enciphered_field(content, suite) != field:
        raise FormatError("the deciphered answer has another length or padding: the key is wrong, or the bytes are")
    return content


def split_answer(answer: bytes) -> tuple[bytes, bytes]:
    """Data as sent and MAC of a protected read; raises FormatError when there is no data before the MAC."""
    if len(answer) <= MAC_BYTES:
        raise FormatError(f"{len(answer)} bytes are no protected answer: data, then a MAC of {MAC_BYTES} bytes")
    return answer[:-MAC_BYTES], answer[-MAC_BYTES:]
