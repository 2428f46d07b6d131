"""Command and response APDUs in the short form (ISO/IEC 7816-4, cases 1 to 4)."""

from dataclasses import dataclass, field

from cardcore.errors import FormatError

MAX_DATA_BYTES = 255
# FMCOS cards take no more than this in one command, the 4-byte MAC of secure messaging included.
CARD_DATA_BYTES = 239
OK = 0x9000


@dataclass(frozen=True, slots=True)
class CommandApdu:
    """One command; `le` is None when no answer is expected, 1..256 bytes otherwise (256 asks for all there is)."""

    cla: int
    ins: int
    p1: int
    p2: int
    # Some carry a PIN: neither an error nor a log shows them.
    data: bytes = field(default=b"", repr=False)
    le: int | None = None

    def encode(self) -> bytes:
        """The bytes as they go to the card; raises FormatError when a value does not fit the short form."""
        data, le = self.data, self.le
        if len(data) > MAX_DATA_BYTES:
            raise FormatError(f"a short command carries at most {MAX_DATA_BYTES} data bytes, not {len(data)}; split it")
        try:
            head = bytes((self.cla, self.ins, self.p1, self.p2))
        except ValueError as error:
            raise FormatError(
                f"CLA, INS, P1 and P2 are one byte each, not {self.cla}, {self.ins}, {self.p1}, {self.p2}"
            ) from error
        if data:
            head += bytes((len(data),)) + data
        if le is None:
            return head
        if not 1 <= le <= 256:
            raise FormatError(f"Le is 1..256, not {le}; 256 asks for everything there is")
        return head + bytes((le & 0xFF,))

    @classmethod
    def decode(cls, raw: bytes) -> "CommandApdu":
        """Read one short command; raises FormatError when its length contradicts its Lc."""
        size = len(raw)
        if size < 4:
            raise FormatError(f"a command has at least 4 bytes, not {size}")
        header = raw[0], raw[1], raw[2], raw[3]
        if size == 4:
            return cls(*header)
        if size == 5:
            return cls(*header, le=raw[4] or 256)
        lc = raw[4]
        if not lc or size - 5 not in (lc, lc + 1):
            raise FormatError(f"Lc says {lc} data bytes, but {size - 5} bytes follow it")
        le = (raw[-1] or 256) if size == lc + 6 else None
        return cls(*header, raw[5 : 5 + lc], le)


@dataclass(frozen=True, slots=True)
class ResponseApdu:
    """One answer: data and status word."""

    data: bytes
    sw: int

    @property
    def ok(self) -> bool:
        return self.sw == OK

    def encode(self) -> bytes:
        return self.data + self.sw.to_bytes(2, "big")

    @classmethod
    def decode(cls, raw: bytes) -> "ResponseApdu":
        """Split an answer; raises FormatError under 2 bytes, which means that the outcome is unknown (D5)."""
        if len(raw) < 2:
            raise FormatError(f"the card answered {len(raw)} bytes: whether it acted is unknown; ask it again")
        return cls(raw[:-2], raw[-2] << 8 | raw[-1])
