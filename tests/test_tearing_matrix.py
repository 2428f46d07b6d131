"""Every money command of both purses, cut at every single write to the memory and at every byte sent, and recovered.

Nothing is sampled: the exchange is recorded once and played again for each cut. After every cut the card's memory is
what it was before, or what the whole exchange makes of it; the transaction proof and the next INITIALIZE say which; and
the exchange played once more ends the transaction exactly once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from card_side import ACTS, Act, Tape, ask, memory, octets, tape, tapped, value
from terminal_side import SUITES

from simulators.card_line import Line, Protocol
from simulators.card_os import SoftwareCard

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

LOADED_FEN = 20_000
DEBITS = (0x04, 0x05, 0x06, 0x09)
BOTH = pytest.mark.parametrize("suite", SUITES)
EVERY = pytest.mark.parametrize("name", ACTS)


@dataclass(frozen=True)
class Play:
    """An act on a card with money in both purses: its tape, and the card's memory before and after."""

    act: Act
    tape: Tape
    before: dict[tuple[int, int], object]
    after: dict[tuple[int, int], object]


@cache
def played(suite: str, name: str) -> Play:
    act, till = ACTS[name], tapped(suite)
    till.enter_pin()
    till.purse = 1
    till.load(10_000)
    till.purse, card, before = 2, till.card, memory(till.card)

    def play(recorder: SoftwareCard) -> None:
        till.card = recorder
        till.tap()
        assert act.play(till)[-2:] == b"\x90\x00"

    recorded = tape(card, play)
    return Play(act, recorded, before, memory(card))


@BOTH
@EVERY
def test_cut_at_every_write(suite: str, name: str) -> None:
    play = played(suite, name)
    verdicts = [
        decided(play, told, card)
        for done in range(play.tape.writes + 1)
        for card, told in again(play, writes=done)
        for card in also_cut_in_recovery(card)
    ]
    # A prefix of the writes leaves all as it was; from the marker on, all is done.
    assert verdicts == sorted(verdicts) and set(verdicts) == {False, True}


@BOTH
@EVERY
@pytest.mark.parametrize("protocol", ["T=0", "T=1"])
def test_cut_at_every_byte_sent(suite: str, name: str, protocol: Protocol) -> None:
    play = played(suite, name)
    total = octets(play.tape.told, protocol)
    verdicts = []
    for sent in range(total + 1):
        for card, told in again(play, protocol, octets_sent=sent):
            assert card.power_on()
            verdicts.append(decided(play, told, card))
    # The power goes right behind the last byte of the answer before the last: the last command never comes.
    last = octets(play.tape.told[-1:], protocol)
    assert verdicts == [False] * (total - last + 1) + [True] * last


def again(
    play: Play, protocol: Protocol = "T=1", writes: int | None = None, octets_sent: int | None = None
) -> Iterator[tuple[SoftwareCard, list[bytes]]]:
    """The exchange, cut once; the card without power."""
    card: SoftwareCard = play.tape.chip()
    line = Line(card, protocol)
    card.cut_after(writes)
    line.cut_after(octets_sent)
    told = play.tape.play(line)
    assert not card.powered, "the cut comes"
    assert told != list(play.tape.told) or octets_sent == octets(play.tape.told, protocol)
    yield card, told


def also_cut_in_recovery(card: SoftwareCard) -> Iterator[SoftwareCard]:
    """The card powered on; and, for every write of that, the same card after another cut there."""
    whole = card.clone()
    before = whole.memory.written
    whole.cut_after(None)
    assert whole.power_on()
    writes = whole.memory.written - before
    yield whole
    for done in range(writes):
        twin = card.clone()
        twin.cut_after(done)
        assert twin.power_on() == b""
        assert twin.power_on()
        yield twin


def decided(play: Play, told: list[bytes], card: SoftwareCard) -> bool:
    """Whether the card did the act, by its memory and by both ways to ask it; it ends done in any case."""
    card.cut_after(None)
    found = memory(card)
    committed = found == play.after
    assert committed or found == play.before, "all of it or nothing"
    assert committed or play.tape.told[-1] not in told, "nobody is told of what did not happen"
    assert by_proof(play, card) == by_next_command(play, card) == committed
    assert value(card) == LOADED_FEN + committed * play.act.change_fen
    finish_once(play, card, committed)
    return committed


def by_proof(play: Play, card: SoftwareCard) -> bool:
    """GET TRANSACTION PROOF for the counter that INITIALIZE told: the proof is the answer that got lost."""
    line = tap(play, card)
    opened = opening(play)
    answer = ask(line, bytes([0x80, 0x5A, 0x00, play.act.kind, 2]) + opened[4:6] + b"\x08")
    if answer == b"\x94\x06":
        return False
    mac, tac, lost = answer[:4], answer[4:8], play.tape.told[-1][:-2]
    assert answer[8:] == b"\x90\x00"
    if play.act.kind in DEBITS:
        assert tac + mac == lost
    elif play.act.kind == 0x03:
        assert (mac, tac) == (lost, bytes(4))
    else:
        assert (mac, tac) == (play.tape.asked[-1][-5:-1], lost)
    return True


def by_next_command(play: Play, card: SoftwareCard) -> bool:
    """The next INITIALIZE of the same kind tells the counter and the balance."""
    line = tap(play, card)
    opened = opening(play)
    for apdu in play.tape.asked[1:]:
        answer = ask(line, apdu)
        if apdu[:2] == b"\x80\x50":
            moved = int.from_bytes(answer[4:6], "big") - int.from_bytes(opened[4:6], "big")
            raw = int.from_bytes(answer[:4], "big") - int.from_bytes(opened[:4], "big")
            assert (moved, raw) in ((0, 0), (1, play.act.change_fen or 700))
            return bool(moved)
        assert answer == b"\x90\x00", "the PIN"
    raise AssertionError("no INITIALIZE")


def opening(play: Play) -> bytes:
    """The answer to INITIALIZE before the cut."""
    return next(t for a, t in zip(play.tape.asked, play.tape.told, strict=True) if a[:2] == b"\x80\x50")


def tap(play: Play, card: SoftwareCard) -> Line:
    line = Line(card)
    assert line.power_on()
    assert ask(line, play.tape.asked[0]) == play.tape.told[0]
    return line


def finish_once(play: Play, card: SoftwareCard, committed: bool) -> None:
    """The same exchange with the same random number: it does what is missing, and a second time nothing."""
    card.rng.setstate(play.tape.chip().rng.getstate())
    told = play.tape.play(Line(card))
    assert told[-1] == (b"\x93\x02" if committed else play.tape.told[-1])
    assert memory(card) == play.after
    assert value(card) == LOADED_FEN + play.act.change_fen
