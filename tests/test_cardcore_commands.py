"""Commands to the byte: published traces (PBOC tutorials, T-Union validators, FMCOS issue scripts) and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.apdu import ResponseApdu
from cardcore.commands import (
    AppendRecord,
    ApplicationBlock,
    ApplicationUnblock,
    CardBlock,
    Command,
    CreateDf,
    CreateFile,
    CreateKeyFile,
    CreatePurse,
    CreditLoad,
    DebitPurchase,
    DebitUnload,
    EraseDf,
    ExternalAuthenticate,
    GetBalance,
    GetChallenge,
    GetResponse,
    GetTransactionProof,
    InitComposite,
    InitLoad,
    InitPurchase,
    InitUnload,
    InitUpdate,
    InternalAuthenticate,
    LoadInitialisation,
    PurchaseInitialisation,
    ReadBinary,
    ReadObject,
    ReadRecord,
    Select,
    TransactionProof,
    UpdateBinary,
    UpdateComposite,
    UpdateInitialisation,
    UpdateOverdraft,
    UpdateRecord,
    VerifyPin,
    WriteKey,
)
from cardcore.commands.personalise import FileKind
from cardcore.commands.security import WrongPinError
from cardcore.errors import CardError, FormatError

NUMBER = bytes.fromhex("001122334455")
DATE, TIME, MAC = bytes.fromhex("20111221"), bytes.fromhex("214822"), bytes.fromhex("3A845BF0")


@pytest.mark.parametrize(
    ("command", "wire"),
    [
        (Select(bytes.fromhex("3F01")), "00A40000023F0100"),
        (Select(bytes.fromhex("A000000632010105")), "00A4040008A00000063201010500"),
        (ReadBinary(0x15, 30), "00B095001E"),
        (ReadBinary(0x17, 10, offset=6), "00B097060A"),
        (UpdateBinary(0x15, b"\x01\x02"), "00D69500020102"),
        (ReadRecord(0x1E, 1), "00B201F400"),
        (ReadObject(0x19, 0xC8), "00B2C8C800"),
        (UpdateRecord(0x19, 2, b"\xaa"), "00DC02CC01AA"),
        (AppendRecord(0x18, b"\x01"), "00E200C00101"),
        (GetResponse(0x1E), "00C000001E"),
        (GetChallenge(), "0084000004"),
        (ExternalAuthenticate(bytes(8)), "0082000008" + "00" * 8),
        (ExternalAuthenticate(bytes(16)), "0082000010" + "00" * 16),
        (InternalAuthenticate(0x12, bytes(16)), "0088021210" + "00" * 16 + "08"),
        (VerifyPin("123456"), "0020000003123456"),
        (CardBlock(), "84160000"),
        (ApplicationBlock(), "841E0000"),
        (ApplicationBlock(permanent=True), "841E0001"),
        (ApplicationUnblock(), "84180000"),
        (GetBalance(), "805C000204"),
        (GetTransactionProof(0x06, 0x0102), "805A000602010208"),
        (InitLoad(1, 0x1000, NUMBER), "805000020B010000100000112233445510"),
        (CreditLoad(DATE, TIME, MAC), "805200000B201112212148223A845BF004"),
        (InitPurchase(1, 0x1000, NUMBER), "805001020B01000010000011223344550F"),
        (InitComposite(1, 0, NUMBER), "805003020B01000000000011223344550F"),
        (UpdateComposite(0x1E, 0x00, bytes(48)), "80DC00F030" + "00" * 48),
        (UpdateComposite(0x19, 0xAA, b"\xaa\x00"), "80DCAAC802AA00"),
        (DebitPurchase(1, DATE, TIME, MAC), "805401000F00000001201112212148223A845BF008"),
        (InitUnload(1, 0x1000, NUMBER), "805005020B010000100000112233445510"),
        (DebitUnload(DATE, TIME, MAC), "805403000B201112212148223A845BF004"),
        (InitUpdate(1, NUMBER), "80500402070100112233445513"),
        (UpdateOverdraft(800, DATE, TIME, MAC), "805800000E000320201112212148223A845BF004"),
        (
            CreateDf(0x3F01, 0x0C00, 0xF0, 0xFA, bytes.fromhex("A000000632010105")),
            "80E03F0110380C00F0FA95FFFFA000000632010105",
        ),
        (CreateKeyFile(0x0180, 0xF0), "80E00000073F018095F0FFFF"),
        (CreateFile(0x15, FileKind.BINARY, 30, 0xF0, 0xF0, protected=True), "80E0001507A8001EF0F0FFFF"),
        (CreateFile(0x18, FileKind.CYCLIC, 23, 0xF0, 0xEF, protected=False, count=10), "80E00018072E0A17F0EFFFFF"),
        (CreatePurse(0xF0), "80E00002072F0208F000FF18"),
        (WriteKey(bytes.fromhex("84D401000501020304")[:4] + b"\x04\1\2\3\4"), "84D401000401020304"),
        (EraseDf(), "800E000000"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bytes_of_commands(command: Command[object], wire: str) -> None:
    assert command.apdu().encode() == bytes.fromhex(wire)


def answer(text: str) -> ResponseApdu:
    return ResponseApdu.decode(bytes.fromhex(text))


def test_answers_of_published_traces() -> None:
    loaded = InitLoad(1, 0x1000, NUMBER).read(answer("00000000 0000 02 00 11223344 2988AE5A 9000"))
    assert loaded == LoadInitialisation(0, 0, 2, 0, bytes.fromhex("11223344"), bytes.fromhex("2988AE5A"))
    bought = InitPurchase(1, 0x1000, NUMBER).read(answer("00001388 0007 000320 01 04 11223344 9000"))
    assert bought == PurchaseInitialisation(5000, 7, 800, 1, 4, bytes.fromhex("11223344"))
    assert bought.value_fen == 4200
    allowed = InitUpdate(1, NUMBER).read(answer("00000000 0000 000000 01 00 11223344 AABBCCDD 9000"))
    assert allowed == UpdateInitialisation(0, 0, 0, 1, 0, bytes.fromhex("11223344"), bytes.fromhex("AABBCCDD"))
    paid = DebitPurchase(1, DATE, TIME, MAC).read(answer("01020304 56988A13 9000"))
    assert (paid.tac.hex(), paid.mac2.hex()) == ("01020304", "56988a13")
    proof = GetTransactionProof(6, 0).read(answer("AAAAAAAA BBBBBBBB 9000"))
    assert proof == TransactionProof(b"\xaa" * 4, b"\xbb" * 4)
    assert GetBalance().read(answer("80000064 9000")) == 100


def test_select_shows_the_common_file() -> None:
    """A T-Union application with version (9F08) before EF 0015 (9F0C)."""
    common = "01011000FFFFFFFF02010310517001017090798420190101204001010000"
    body = "8408A000000632010105" + "A525" + "9F080102" + "9F0C1E" + common
    shown = Select(bytes.fromhex("A000000632010105")).read(answer(f"6F{len(body) // 2:02X}" + body + "9000"))
    assert shown.name.hex() == "a000000632010105"
    assert shown.common == bytes.fromhex(common)
    assert Select(b"\x3f\x00").read(answer("9000")).name == b""


def test_refusals_name_command_and_remedy() -> None:
    with pytest.raises(
        CardError, match="DEBIT FOR PURCHASE: 9302, MAC1 of the PSAM is wrong; nothing was deb"
    ) as caught:
        DebitPurchase(1, DATE, TIME, MAC).read(answer("9302"))
    assert (caught.value.command, caught.value.sw) == ("DEBIT FOR PURCHASE", 0x9302)
    with pytest.raises(WrongPinError, match="2 tries left") as wrong:
        VerifyPin("000000").read(answer("63C2"))
    assert wrong.value.tries_left == 2
    with pytest.raises(WrongPinError, match="blocked now"):
        VerifyPin("000000").read(answer("63C0"))
    with pytest.raises(CardError, match="blocked"):
        VerifyPin("000000").read(answer("6983"))


def test_a_pin_is_never_shown() -> None:
    assert "123456" not in repr(VerifyPin("123456"))


ALL = [
    Select(b"\x3f\x00"),
    ReadBinary(1, 4),
    ReadRecord(1, 1, 4),
    ReadObject(1, 0x61),
    GetChallenge(),
    GetBalance(),
    GetTransactionProof(6, 1),
    InitLoad(1, 1, NUMBER),
    InitPurchase(1, 1, NUMBER),
    InitUpdate(1, NUMBER),
    CreditLoad(DATE, TIME, MAC),
    DebitPurchase(1, DATE, TIME, MAC),
    InternalAuthenticate(1, bytes(16)),
    VerifyPin("1234"),
    UpdateBinary(1, b"\0"),
]


@given(st.sampled_from(ALL), st.binary(max_size=40), st.integers(0, 0xFFFF))
def test_any_answer_is_read_or_refused(command: Command[object], data: bytes, sw: int) -> None:
    try:
        command.read(ResponseApdu(data, sw))
    except CardError as error:
        assert str(error).startswith(command.name) and error.sw == sw
    else:
        assert sw == 0x9000


@pytest.mark.parametrize(
    "command",
    [
        Select(b"\x3f"),
        Select(bytes(17)),
        ReadBinary(0, 4),
        ReadBinary(31, 4),
        ReadBinary(1, 4, offset=256),
        UpdateBinary(1, b""),
        UpdateBinary(1, bytes(236)),
        AppendRecord(1, bytes(236)),
        GetChallenge(5),
        ExternalAuthenticate(bytes(7)),
        InternalAuthenticate(1, bytes(15)),
        VerifyPin("123"),
        VerifyPin("12345"),
        VerifyPin("12ab"),
        InitLoad(1, 2**32, NUMBER),
        InitLoad(1, -1, NUMBER),
        InitLoad(1, 1, bytes(5)),
        CreditLoad(DATE, TIME, bytes(3)),
        DebitPurchase(2**32, DATE, TIME, MAC),
        UpdateOverdraft(2**24, DATE, TIME, MAC),
        CreateDf(0x3F01, 1, 0, 0, bytes(4)),
        CreateFile(1, FileKind.CYCLIC, 256, 0, 0, protected=False, count=1),
    ],
    ids=repr,
)
def test_parameters_that_no_card_takes_are_refused(command: Command[object]) -> None:
    with pytest.raises(FormatError):
        command.apdu()
