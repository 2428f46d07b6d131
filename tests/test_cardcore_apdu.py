"""APDUs, status words and TLV: round trips, published examples, and totality on any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore import commands, status
from cardcore.apdu import CommandApdu, ResponseApdu
from cardcore.commands import Command
from cardcore.errors import FormatError
from cardcore.status import Standing, classify, explain, tries_left
from cardcore.tlv import Tlv, build, build_all, find, parse

octet = st.integers(0, 255)
command_apdus = st.builds(
    CommandApdu, octet, octet, octet, octet, st.binary(max_size=255), st.none() | st.integers(1, 256)
)


@given(command_apdus)
def test_commands_survive_the_wire(apdu: CommandApdu) -> None:
    assert CommandApdu.decode(apdu.encode()) == apdu


@given(st.binary(max_size=270))
def test_what_decodes_encodes_to_the_same(raw: bytes) -> None:
    try:
        apdu = CommandApdu.decode(raw)
    except FormatError:
        return
    assert apdu.encode() == raw


@pytest.mark.parametrize(
    ("apdu", "wire"),
    [
        (CommandApdu(0x00, 0x84, 0, 0), "00840000"),
        (CommandApdu(0x00, 0x84, 0, 0, le=4), "0084000004"),
        (CommandApdu(0x00, 0xB2, 1, 0x0C, le=256), "00B2010C00"),
        (CommandApdu(0x00, 0xA4, 0, 0, b"\x3f\x00"), "00A40000023F00"),
        (CommandApdu(0x00, 0xA4, 4, 0, b"1PAY.SYS.DDF01", 256), "00A404000E315041592E5359532E444446303100"),
    ],
)
def test_four_cases(apdu: CommandApdu, wire: str) -> None:
    assert apdu.encode() == bytes.fromhex(wire)


@pytest.mark.parametrize("wire", ["", "00A404", "00A404000231", "00A40400023100FF00", "00A4040000FF"])
def test_lengths_that_contradict_are_refused(wire: str) -> None:
    with pytest.raises(FormatError):
        CommandApdu.decode(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "apdu",
    [
        CommandApdu(0, 0, 0, 0, bytes(256)),
        CommandApdu(256, 0, 0, 0),
        CommandApdu(0, 0, 0, 0, le=0),
        CommandApdu(0, 0, 0, 0, le=257),
    ],
)
def test_values_that_do_not_fit_are_refused(apdu: CommandApdu) -> None:
    with pytest.raises(FormatError):
        apdu.encode()


@given(st.binary(max_size=256), st.integers(0, 0xFFFF))
def test_responses_survive(data: bytes, sw: int) -> None:
    response = ResponseApdu(data, sw)
    assert ResponseApdu.decode(response.encode()) == response
    assert response.ok is (sw == 0x9000)


@pytest.mark.parametrize("raw", [b"", b"\x90"])
def test_a_short_answer_is_an_unknown_outcome(raw: bytes) -> None:
    with pytest.raises(FormatError, match="unknown"):
        ResponseApdu.decode(raw)


def command_names() -> set[str]:
    classes = [getattr(commands, name) for name in commands.__all__]
    return {
        item.name for item in classes if isinstance(item, type) and issubclass(item, Command) and item is not Command
    }


def test_every_command_owns_a_status_table() -> None:
    assert command_names() == set(status.BY_COMMAND)


@given(st.sampled_from(sorted(status.BY_COMMAND)), st.integers(0, 0xFFFF))
def test_every_status_word_is_explained(command: str, sw: int) -> None:
    text = explain(command, sw)
    assert text.startswith(f"{command}: {sw:04X}, ")
    assert ";" in text or sw == 0x9000
    assert (classify(sw, command) is Standing.OK) == (sw == 0x9000)


@pytest.mark.parametrize(
    ("sw", "standing"),
    [
        (0x9000, Standing.OK),
        (0x63C2, Standing.RETRIES),
        (0x6310, Standing.UNKNOWN),
        (0x9401, Standing.INSUFFICIENT),
        (0x9301, Standing.INSUFFICIENT),
        (0x6283, Standing.BLOCKED),
        (0x6982, Standing.DENIED),
        (0x6581, Standing.MEMORY),
        (0x6110, Standing.MORE),
        (0x6C1E, Standing.LENGTH),
        (0x6901, Standing.ORDER),
        (0x9302, Standing.CRYPTOGRAM),
    ],
)
def test_classes(sw: int, standing: Standing) -> None:
    assert classify(sw) is standing


def test_words_say_what_to_do() -> None:
    assert explain("INITIALIZE FOR LOAD", 0x6982) == (
        "INITIALIZE FOR LOAD: 6982, a load needs the PIN; verify the PIN first"
    )
    assert "2 tries left" in explain("VERIFY PIN", 0x63C2)
    assert "blocked" in explain("VERIFY PIN", 0x63C0)
    assert tries_left(0x63C2) == 2 and tries_left(0x6982) is None
    assert "30 bytes" in explain("READ BINARY", 0x6C1E)


tags = st.sampled_from([0x4F, 0x50, 0x61, 0x6F, 0x84, 0x87, 0xA5, 0x9F0C, 0x9F08, 0xBF0C])


@given(st.lists(st.builds(Tlv, tags, st.binary(max_size=300)), max_size=8))
def test_tlv_survives(objects: list[Tlv]) -> None:
    assert parse(build_all(objects)) == tuple(objects)


@given(st.binary(max_size=64) | st.lists(st.sampled_from(b"\x6f\x9f\xa5\x81\x82\x83\x00\xff\x01\x03")).map(bytes))
def test_tlv_is_total(raw: bytes) -> None:
    try:
        objects = parse(raw)
        for item in objects:
            _ = item.children
    except FormatError:
        return
    assert sum(len(item.value) for item in objects) <= len(raw)


def test_tlv_reads_a_published_directory() -> None:
    """SELECT answer of a payment environment (EMV book 1, the example that every EMV tutorial prints)."""
    fci = bytes.fromhex("6F1A840E315041592E5359532E4444463031A5088801025F2D02656E")
    assert find(fci, 0x6F, 0x84) == b"1PAY.SYS.DDF01"
    assert find(fci, 0x6F, 0xA5, 0x5F2D) == b"en"
    assert find(fci, 0x6F, 0xA5, 0x88) == b"\x02"
    assert find(fci, 0x6F, 0x50) is None
    assert build(0x6F, fci[2:]) == fci


@pytest.mark.parametrize("tag", [0, 0xFF, 0x1F, 0x9F, 0x9F80, 0x4F01, 0x9F0C01, -1])
def test_tags_that_are_none_are_refused(tag: int) -> None:
    with pytest.raises(FormatError):
        build(tag, b"")


@pytest.mark.parametrize(("size", "head"), [(127, "507F"), (128, "508180"), (255, "5081FF"), (256, "50820100")])
def test_lengths_take_the_shortest_form(size: int, head: str) -> None:
    assert build(0x50, bytes(size)) == bytes.fromhex(head) + bytes(size)


def test_tlv_is_bounded() -> None:
    with pytest.raises(FormatError, match="256"):
        parse(b"\x50\x00" * 257)
    with pytest.raises(FormatError, match="65535"):
        build(0x50, bytes(0x10000))
