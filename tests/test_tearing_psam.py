"""A PSAM cut at every single write and every byte sent: no transaction number is told twice, no purchase uncounted."""

import pytest
from card_side import Tape, octets, tape
from psam_side import equip, prove_control, purchase, set_ceilings
from terminal_side import SUITES, Suite, must

from simulators.card_line import Line
from simulators.psam import SoftwarePsam
from simulators.psam_ceilings import Ceilings

pytestmark = pytest.mark.filterwarnings("ignore:TripleDES has been moved")

ASKED = "80700000"
PURCHASES = 3


@pytest.fixture(params=SUITES, scope="module")
def recorded(request: pytest.FixtureRequest) -> Tape:
    """Three purchases, the second with a wrong MAC2, at a PSAM with ceilings."""
    suite: Suite = SUITES[request.param]
    psam = equip(request.param)
    prove_control(request.param, psam)
    assert set_ceilings(request.param, psam, 100, 100_000) == 0x9000

    def play(recorder: SoftwarePsam) -> None:
        recorder.power_on()
        for number in range(PURCHASES):
            must(recorder, ASKED, purchase(bytes(4), bytes([0, number]), 6, suite.algorithm), 8)
            recorder.transmit(bytes.fromhex("8072000004") + bytes(4))

    return tape(psam, play)


def test_cut_at_every_write(recorded: Tape) -> None:
    for done in range(recorded.writes + 1):
        psam = recorded.chip()
        psam.cut_after(done)
        told = recorded.play(Line(psam))
        assert not psam.powered
        goes_on(psam, told)


@pytest.mark.parametrize("protocol", ["T=0", "T=1"])
def test_cut_at_every_byte_sent(recorded: Tape, protocol: str) -> None:
    for sent in range(octets(recorded.told, "T=0" if protocol == "T=0" else "T=1") + 1):
        psam = recorded.chip()
        line = Line(psam, "T=0" if protocol == "T=0" else "T=1")
        line.cut_after(sent)
        told = recorded.play(line)
        assert not psam.powered
        goes_on(psam, told)
        if line.stump:  # the number that began to be told is spent
            assert psam.next_transaction > len(numbers(told))


def numbers(told: list[bytes]) -> list[int]:
    return [int.from_bytes(answer[:4], "big") for answer in told if len(answer) == 10]


def goes_on(psam: SoftwarePsam, told: list[bytes]) -> None:
    assert psam.power_on()
    spent = numbers(told)
    assert spent == list(range(1, len(spent) + 1))
    assert psam.next_transaction in (len(spent) + 1, len(spent) + 2)
    ceilings: Ceilings = psam.ceilings.value
    assert (ceilings.used, ceilings.used_fen) == (psam.next_transaction - 1, 350 * (psam.next_transaction - 1))
    judged = sum(1 for answer in told if answer[:1] in (b"\x93", b"\x63"))
    assert 15 - ceilings.tries in (judged, judged + 1), "a guess cut off may have been counted, one told always"
