"""Lines of a file: whatever ends them, whatever they are encoded in, and a damaged one costs itself and no other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearing.municipal import encoding
from clearing.municipal.encoding import LONGEST_LINE, lines_of, text_of
from clearing.municipal.rows import Layout, Tap
from clearing.store.launcher import Server
from tests.municipal_side import HEADER, bus, metro, new_city

ROWS = [bus("CARD1"), metro("CARD2"), metro("CARD3", "地铁入站", charged="0")]
BODY = "\n".join((HEADER, *ROWS)).encode()


def judged(body: bytes, folder: Path) -> list[Tap]:
    path = folder / "taps.csv"
    path.write_bytes(body)
    layout, *lines = map(text_of, lines_of(path))
    return [Layout(layout[0]).read(number, *line) for number, line in enumerate(lines, 2)]


@pytest.mark.parametrize("body", [BODY, BODY.decode().encode("gb18030")], ids=["utf-8", "gb18030"])
def test_a_tail_cut_anywhere_costs_only_its_row(body: bytes, tmp_path: Path) -> None:
    whole = judged(body, tmp_path)
    last = body.rindex(b"\n")
    for cut in range(last + 2, len(body) - len("227000021")):
        taps = judged(body[:cut], tmp_path)
        assert [tap.key for tap in taps[:2]] == [tap.key for tap in whole[:2]]
        assert taps[2].code


@pytest.mark.parametrize("body", [BODY, BODY.decode().encode("gb18030")], ids=["utf-8", "gb18030"])
def test_a_lost_byte_of_a_character_costs_only_its_row(body: bytes, tmp_path: Path) -> None:
    whole = judged(body, tmp_path)
    for at in (at for at, byte in enumerate(body) if byte > 127):
        row = body[:at].count(b"\n") - 1
        taps = judged(body[:at] + body[at + 1 :], tmp_path)
        assert [tap.key for tap in taps if tap.line != row + 2] == [tap.key for tap in whole if tap.line != row + 2]
        if body is BODY:
            assert taps[row].code, taps[row].text


async def test_splitting_a_damaged_file_changes_nothing(postgres: Server, migrated: str, tmp_path: Path) -> None:
    """One line in the other encoding, one of neither, and a damaged one, together and each on its own."""
    strange = bus("CARD4").encode("gb18030"), bus("CARD5").encode()[:-40] + b"\xff", metro("CARD6").encode()
    lines = [*(row.encode() for row in ROWS), *strange[:2], strange[2].replace("一".encode(), b"\xe4\xb8")]
    head = HEADER.encode()
    async with new_city(postgres, migrated, tmp_path) as city:
        report = await city.take_bytes(b"\n".join((head, *lines)))
        assert report.accepted == 4
        assert sum(report.quarantined.values()) == 2
        assert report.registered == ("东风巴士", "地铁一号线")
        together = await city.digests()
    async with new_city(postgres, migrated, tmp_path) as city:
        for line in reversed(lines):
            await city.take_bytes(b"\n".join((head, line)))
        assert await city.digests() == together


def test_what_no_encoding_reads_is_kept_and_names_no_company() -> None:
    line = bus("CARD1").encode().replace("东".encode(), b"\xff")
    text, readable = text_of(line)
    tap = Layout(HEADER).read(2, text, readable)
    assert (readable, tap.code) == (False, "encoding")
    assert "\\xff风巴士" in text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_every_line_end_of_a_large_file(postgres: Server, migrated: str, tmp_path: Path, end: str) -> None:
    rows = [bus(f"CARD{number}") for number in range(12_000)]
    assert sum(map(len, rows)) > 1 << 20, "more than a block of reading"
    async with new_city(postgres, migrated, tmp_path) as city:
        report = await city.take(*rows, end=end)
    assert (report.lines, report.accepted) == (len(rows), len(rows))


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"abc", b"d" * 7, b" ", b"\xe4\xb8\x80"]), max_size=40))
def test_lines_are_those_of_the_whole_file(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """In blocks of 5 bytes and lines of 4, as if the file were read at once."""
    body = b"".join(parts)
    path = tmp_path_factory.mktemp("lines") / "taps.csv"
    path.write_bytes(body)
    pieces = (line[at : at + 4] for line in body.replace(b"\r", b"\n").split(b"\n") for at in range(0, len(line), 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_BLOCK", 5)
        patch.setattr(encoding, "LONGEST_LINE", 4)
        assert list(lines_of(path)) == [piece for piece in pieces if piece.strip()]


def test_a_line_without_end_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "taps.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"x" * (5 << 20))
    assert {len(piece) for piece in lines_of(path)} == {LONGEST_LINE}
    assert sum(map(len, lines_of(path))) == 5 << 20


@given(st.binary(max_size=300))
def test_any_bytes_are_text(line: bytes) -> None:
    text, readable = text_of(line)
    assert not readable or line in (text.encode(), text.encode("gb18030"))


def test_a_stray_quote_swallows_no_other_line(tmp_path: Path) -> None:
    taps = judged("\n".join((HEADER, '"' + ROWS[0], *ROWS[1:])).encode(), tmp_path)
    assert [tap.code for tap in taps] == ["columns", "", ""]
