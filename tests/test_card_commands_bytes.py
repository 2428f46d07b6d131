"""The rest of the commands to the byte (FMCOS 2.0 chapters 7 and 8, docs/card.md), and what they refuse to send."""

from pathlib import Path

import pytest

from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.commands import (
    ApplicationBlock,
    ApplicationUnblock,
    CardBlock,
    ChangePin,
    Command,
    CreateFile,
    CreatePurse,
    CreditSam,
    Crypt,
    DebitPurchase,
    GetBalance,
    InitCash,
    InitComposite,
    InitDescrypt,
    InitLoad,
    InitPurchase,
    InitSamPurchase,
    InitUnload,
    InternalCipher,
    ProtectedRead,
    ProtectedWrite,
    PsamGrant,
    PurchaseInitialisation,
    PurseKind,
    ReadBinary,
    ReloadPin,
    SecuredAnswer,
    Select,
    SetCeilings,
    UnblockPin,
    UpdateBinary,
    UpdateComposite,
    composite,
)
from cardcore.commands.personalise import DEPOSIT_FILE, FileKind
from cardcore.commands.pin import unblock_head
from cardcore.commands.psam import ordered_factors
from cardcore.commands.security import WrongPinError
from cardcore.errors import CardError, FormatError
from cardcore.selection import Availability, read_common, read_selection
from cardcore.status import BY_COMMAND, GENERAL, Move, Standing, classify, explain, move
from cardcore.switches import BlockedSelect, PinUnblockPlace, PsamFactorOrder

NUMBER = bytes.fromhex("001122334455")
DATE, TIME, MAC = bytes.fromhex("20111221"), bytes.fromhex("214822"), bytes.fromhex("3A845BF0")
CARD_FACTOR, CITY_FACTOR = bytes.fromhex("1234567890123456"), bytes.fromhex("0231791002317910")
OPENED = PurchaseInitialisation(5000, 7, 800, 1, 4, bytes.fromhex("11223344"))
READ = ReadBinary(0x16, 7)
WRITE = UpdateBinary(0x15, b"\x77", offset=0x1D)
UNBLOCK = "842400010C" + "11" * 8 + "AABBCCDD"
ENCIPHERED_FILE = CreateFile(0x16, FileKind.BINARY, 55, 0xF1, 0xF0, protected=True, enciphered=True)
SAM = "8070000024 11223344 0007 000000FA 09 20111221 214822 01 04"


@pytest.mark.parametrize(
    ("command", "wire"),
    [
        (ReadBinary(None, 16, offset=0x0102), "00B0010210"),
        (UpdateBinary(None, b"\x01", offset=0x7FFF), "00D67FFF0101"),
        (ProtectedRead(READ, bytes.fromhex("04B0960004AABBCCDD")), "04B0960004AABBCCDD07"),
        (ProtectedWrite(WRITE, bytes.fromhex("04D6951D0577AABBCCDD")), "04D6951D0577AABBCCDD"),
        (InternalCipher(0x01, bytes(8)), "0088000108" + "00" * 8 + "08"),
        (InternalCipher(0x02, bytes(16), decipher=True), "0088010210" + "00" * 16 + "10"),
        (ChangePin("123456", "654321"), "805E010007123456FF654321"),
        (ReloadPin("1234", MAC, pin_id=1), "805E00010612343A845BF0"),
        (UnblockPin(bytes.fromhex(UNBLOCK)), UNBLOCK),
        (CardBlock(MAC), "84160000043A845BF0"),
        (ApplicationBlock(permanent=True, mac=MAC), "841E0001043A845BF0"),
        (ApplicationUnblock(MAC), "84180000043A845BF0"),
        (GetBalance(PurseKind.DEPOSIT), "805C000104"),
        (InitLoad(1, 0x1000, NUMBER, PurseKind.DEPOSIT), "805000010B010000100000112233445510"),
        (InitPurchase(1, 1, NUMBER, PurseKind.DEPOSIT), "805001010B01000000010011223344550F"),
        (InitCash(1, 1, NUMBER), "805002010B01000000010011223344550F"),
        (InitUnload(1, 1, NUMBER, PurseKind.DEPOSIT), "805005010B010000000100112233445510"),
        (UpdateComposite(0x1A, 2, b"\x22", by_number=True), "80DC02D40122"),
        (ENCIPHERED_FILE, "80E0001607E80037F1F0FFFF"),
        (CreatePurse(0xF1, fid=DEPOSIT_FILE), "80E00001072F0208F100FF18"),
        (
            InitSamPurchase(OPENED, 250, 9, DATE, TIME, CARD_FACTOR, CITY_FACTOR),
            SAM + "1234567890123456 0231791002317910 08",
        ),
        (
            InitSamPurchase(OPENED, 250, 9, DATE, TIME, CARD_FACTOR, CITY_FACTOR, PsamFactorOrder.CITY_CARD),
            SAM + "0231791002317910 1234567890123456 08",
        ),
        (CreditSam(MAC), "80720000043A845BF0"),
        (InitDescrypt(0x26, 0x01, bytes(2) + NUMBER), "801A2601080000001122334455"),
        (Crypt(bytes(53)), "80FA050035" + "00" * 53 + "08"),
        (SetCeilings(2000, 400_000), "80E8000008 000007D0 00061A80"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_bytes_of_commands(command: Command[object], wire: str) -> None:
    assert command.apdu().encode() == bytes.fromhex(wire)


@pytest.mark.parametrize(
    "command",
    [
        ReadBinary(None, 1, offset=0x8000),
        ProtectedRead(READ, bytes.fromhex("04B0970004AABBCCDD")),
        ProtectedWrite(WRITE, bytes.fromhex("00D6951D0577AABBCCDD")),
        InternalCipher(1, bytes(9)),
        InternalCipher(1, b""),
        ChangePin("12345", "123456"),
        ReloadPin("123456", bytes(3)),
        UnblockPin(bytes.fromhex("842C000004AABBCCDD")),
        UpdateComposite(31, 1, b"\0"),
        CreateFile(0x16, FileKind.BINARY, 55, 0xF1, 0xF0, protected=False, enciphered=True),
        InitSamPurchase(OPENED, 250, 9, DATE, TIME, CARD_FACTOR, bytes(7)),
        CreditSam(bytes(3)),
        InitDescrypt(0x46, 1, bytes(8)),
        Crypt(bytes(240)),
        SetCeilings(2**32, 1),
        SetCeilings(1, -1),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_no_card_takes_is_refused(command: Command[object]) -> None:
    with pytest.raises(FormatError):
        command.apdu()


def test_answers() -> None:
    read = ProtectedRead(READ, b"")
    assert read.read(ResponseApdu(b"\1\2\3" + MAC, 0x9000)) == SecuredAnswer(b"\1\2\3", MAC)
    with pytest.raises(CardError, match="no protected answer"):
        read.read(ResponseApdu(MAC, 0x9000))
    sam = InitSamPurchase(OPENED, 250, 9, DATE, TIME, CARD_FACTOR, CITY_FACTOR)
    assert sam.read(ResponseApdu(b"\0\0\1\2" + MAC, 0x9000)) == PsamGrant(0x102, MAC)
    with pytest.raises(WrongPinError, match="CHANGE PIN: 63C1") as wrong:
        ChangePin("1234", "4321").read(ResponseApdu(b"", 0x63C1))
    assert wrong.value.tries_left == 1


def test_pins_are_never_shown() -> None:
    shown = [ChangePin("123456", "654321"), ReloadPin("123456", MAC), UnblockPin(bytes.fromhex("8424000007123456"))]
    for command in shown:
        assert "123456" not in repr(command) and "654321" not in repr(command) and r"\x124V" not in repr(command)
    for pin in ("12345a", "1234567"):
        with pytest.raises(FormatError) as caught:
            ChangePin("123456", pin).apdu()
        assert pin not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(("place", "head"), [(PinUnblockPlace.P2, "84240003"), (PinUnblockPlace.P1, "84240300")])
def test_pin_unblock_names_the_pin_where_the_profile_says(place: PinUnblockPlace, head: str) -> None:
    assert unblock_head(place, "654321", 3).encode() == bytes.fromhex(head + "03654321")


def test_factor_order_is_of_the_wire_only() -> None:
    assert ordered_factors(PsamFactorOrder.CARD_CITY, CARD_FACTOR, CITY_FACTOR) == CARD_FACTOR + CITY_FACTOR
    assert ordered_factors(PsamFactorOrder.CITY_CARD, CARD_FACTOR, CITY_FACTOR) == CITY_FACTOR + CARD_FACTOR


def test_a_composite_purchase_caches_each_record_once() -> None:
    opening, debit = InitComposite(1, 250, NUMBER), DebitPurchase(1, DATE, TIME, MAC)
    metro, transfer = UpdateComposite(0x1A, 0x21, bytes(48)), UpdateComposite(0x1A, 0x22, bytes(48))
    trips = UpdateComposite(0x1E, 0x00, bytes(48))
    whole = composite(opening, (metro, transfer, trips, trips), debit)
    assert [command.apdu().encode()[:4].hex() for command in whole] == [
        "80500302", "80dc21d0", "80dc22d0", "80dc00f0", "80dc00f0", "80540100",
    ]  # fmt: skip
    for records in ((), (metro, metro)):
        with pytest.raises(FormatError):
            composite(opening, records, debit)


# Status words

# What FMCOS names for each command (chapters 7 and 8), besides 9000 and 63Cx.
LISTED = {
    "SELECT": "6283 6700 6A81 6A82 6A86",
    "READ BINARY": "6281 6700 6981 6982 6A81 6A82 6B00",
    "UPDATE BINARY": "6581 6700 6981 6982 6987 6988 6A82 6B00 9302 9303",
    "READ RECORD": "6981 6982 6A82 6A83",
    "UPDATE RECORD": "6283 6581 6700 6981 6982 6A82 6A83 6A84 6987 6988",
    "APPEND RECORD": "6981 6982 6A84",
    "GET CHALLENGE": "6700 6A81",
    "EXTERNAL AUTHENTICATE": "6700 6982 6983 6A88 9302",
    "INTERNAL AUTHENTICATE": "6981 6982 6985 6A88",
    "VERIFY PIN": "6983 6982 9403",
    "APPLICATION UNBLOCK": "9303 6988",
    "GET TRANSACTION PROOF": "9406",
    "WRITE KEY": "6982 6A80 6A84 6A86 6A88 6700 9302",
    "CREATE FILE": "6982 6A80 6A84 6A86 6700",
}
MONEY = ["6901", "6985", "6982", "6A86", "6700", "6A81", "9302", "9401", "9402", "9403"]


@pytest.mark.parametrize("command", LISTED)
def test_each_command_explains_what_it_may_answer(command: str) -> None:
    for word in LISTED[command].split():
        assert int(word, 16) in BY_COMMAND[command], f"{command}: {word}"


def test_money_commands_explain_every_word_of_their_chapter() -> None:
    openings = [name for name in BY_COMMAND if name.startswith("INITIALIZE")]
    assert len(openings) == 6
    for name in openings:
        assert {0x6982, 0x6985, 0x6700, 0x6A81, 0x9402, 0x9403} <= set(BY_COMMAND[name])
    for name in ("CREDIT FOR LOAD", "DEBIT FOR PURCHASE", "DEBIT FOR UNLOAD", "UPDATE OVERDRAFT LIMIT"):
        assert {0x6901, 0x6985, 0x9302} <= set(BY_COMMAND[name])
    for name in ("INITIALIZE FOR PURCHASE", "DEBIT FOR PURCHASE", "INITIALIZE FOR UNLOAD", "DEBIT FOR UNLOAD"):
        assert {0x9401, 0x9301} <= set(BY_COMMAND[name]), "insufficient, in either spelling"
    assert all(int(word, 16) in GENERAL for word in MONEY)


def test_one_word_means_what_its_command_makes_of_it() -> None:
    assert "gate" in explain("CREDIT SAM FOR PURCHASE", 0x9302)
    assert "nothing was loaded" in explain("CREDIT FOR LOAD", 0x9302)
    assert "lock the application for ever" in explain("PROTECTED WRITE", 0x6988)
    assert "pin_unblock_place" in explain("PIN UNBLOCK", 0x6A86)
    assert classify(0x6283, "SELECT") is Standing.BLOCKED


@pytest.mark.parametrize(
    ("sw", "command", "expected"),
    [
        (0x9000, "CREDIT FOR LOAD", Move.GO_ON),
        (0x6110, "SELECT", Move.FETCH),
        (0x6C10, "READ BINARY", Move.FETCH),
        (0x63C1, "VERIFY PIN", Move.ASK_PIN),
        (0x63C0, "VERIFY PIN", Move.SEND_TO_COUNTER),
        (0x6982, "INITIALIZE FOR LOAD", Move.ASK_PIN),
        (0x9401, "INITIALIZE FOR PURCHASE", Move.OTHER_PAYMENT),
        (0x6A81, "INITIALIZE FOR PURCHASE", Move.SEND_TO_COUNTER),
        (0x9403, "INITIALIZE FOR PURCHASE", Move.REPORT),
        (0x9302, "DEBIT FOR PURCHASE", Move.REPORT),
        (0x6901, "DEBIT FOR PURCHASE", Move.START_AGAIN),
        (0x6581, "DEBIT FOR PURCHASE", Move.ASK_CARD),
        (0x1234, "DEBIT FOR PURCHASE", Move.ASK_CARD),
    ],
)
def test_what_a_terminal_does(sw: int, command: str, expected: Move) -> None:
    assert move(sw, command) is expected


def test_the_contract_lists_every_command() -> None:
    text = Path("docs/card.md").read_text(encoding="utf-8")
    assert not [name for name in BY_COMMAND if f"| {name} |" not in text]


# Selection

COMMON = bytes.fromhex("02317910FFFFFFFF02010310123456789012345620260301203602290000")
FCI = bytes.fromhex("6F2D8408A000000632010105A5219F0C1E") + COMMON


@pytest.mark.parametrize(
    ("convention", "sw", "expected"),
    [
        (BlockedSelect.FCI_6283, 0x9000, Availability.OPEN),
        (BlockedSelect.FCI_6283, 0x6283, Availability.BLOCKED),
        (BlockedSelect.FCI_6283, 0x6A81, Availability.CARD_BLOCKED),
        (BlockedSelect.REFUSED_6A81, 0x6A81, Availability.APPLICATION_OR_CARD_BLOCKED),
        (BlockedSelect.REFUSED_6A81, 0x6A82, Availability.ABSENT),
    ],
)
def test_a_blocked_application_is_told_as_the_profile_says(
    convention: BlockedSelect, sw: int, expected: Availability
) -> None:
    command = Select(bytes.fromhex("A000000632010105"))
    shown = sw in (0x9000, 0x6283)
    found = read_selection(command, ResponseApdu(FCI if shown else b"", sw), convention)
    assert found.availability is expected
    assert (found.control.common == COMMON) is shown
    if shown:
        assert read_common(1, found.control.common or b"").card.hex() == "03101234567890123456"


def test_other_refusals_of_select_are_errors() -> None:
    command = Select(bytes.fromhex("A000000632010105"))
    with pytest.raises(CardError, match="6283"):
        read_selection(command, ResponseApdu(FCI, 0x6283), BlockedSelect.REFUSED_6A81)
    with pytest.raises(FormatError, match="not finished"):
        read_common(1, b"")
    assert CommandApdu.decode(command.apdu().encode()) == command.apdu()
