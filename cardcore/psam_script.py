"""The personalisation script of a PSAM (docs/card.md, "The PSAM")."""

from collections.abc import Iterator

from cardcore.authority import KeyStep, Under
from cardcore.card_map import MF_FID, KeyType, Sfi, psam_purchase_id
from cardcore.commands import CreateFile, ReadBinary, Select, UpdateBinary
from cardcore.commands.personalise import FileKind
from cardcore.errors import FormatError
from cardcore.metro import ENTRY_KEY_ID, ENTRY_USAGE
from cardcore.order import PsamOrder
from cardcore.record import Suite
from cardcore.step import ALREADY_THERE, Compare, Plain, Secured, Stage, Step, TakeOver, WriteKeyAct
from cardcore.versions import SUITE_NAMES, Key

# Usage bytes: levels of derivation << 5 | kind of key.
PURCHASE_USAGE = 0x42
RECORD_USAGE = 0x26
RECORD_KEY_ID = 0x01
# PSAM and card agree on a purchase root by version and suite, so the id of each only has to be free.
_NEXT_ID = 0x20
_ALWAYS = 0xF0
_CONTROLLED = 0xFA
_RIGHTS = bytes((_ALWAYS, _CONTROLLED))
# Next state A, five tries; the line key locks after three wrong MACs.
_CONTROL_TAIL = b"\x0a\x55"
_MAINTENANCE_TAIL = b"\xff\x33"


def psam_steps(order: PsamOrder) -> tuple[Step, ...]:
    """The whole script of one PSAM: purchase roots of every suite that is not retired, in every version that cards
    carry or soon will, so that it takes every such card of its sector; a gate's has the entry root too. `limits` says
    what it cannot do. Raises FormatError for too many of them, KeyUseError for a PSAM of a retired suite, and where a
    key of it is missing."""
    order.versions.offer(order.suite)
    order.versions.offer(Suite.SM4)
    order.versions.require(_wanted(order))
    return (*_structure(order), *_keys(order), *_contents(order), *_issue(order))


def _wanted(order: PsamOrder) -> Iterator[Key]:
    yield from ((order.suite, kind, 0) for kind in (KeyType.CONTROL, KeyType.MAINTENANCE))
    yield from ((suite, KeyType.PURCHASE, order.sector) for suite in Suite if suite not in order.versions.retired)
    yield Suite.SM4, RECORD_USAGE, 0
    if order.gate:
        yield Suite.SM4, ENTRY_USAGE, 0


def limits(order: PsamOrder) -> str:
    """What a PSAM of this order cannot do, for people; nothing where it takes every card of its sector."""
    gone = ", ".join(SUITE_NAMES[suite] for suite in Suite if suite in order.versions.retired)
    return f"PSAM {order.terminal_number.hex()} debits no {gone} card: that suite is retired" if gone else ""


def _files(order: PsamOrder) -> tuple[tuple[int, bytes], ...]:
    return (Sfi.COMMON, order.common), (Sfi.TERMINAL_NUMBER, order.terminal_number)


def _select(stage: Stage) -> Step:
    return Step(f"{stage.value}.0.select", stage, 0, Plain(Select(MF_FID.to_bytes(2, "big"))))


def _structure(order: PsamOrder) -> Iterator[Step]:
    stage = Stage.STRUCTURE
    yield _select(stage)
    ours = _key_step(order, KeyType.CONTROL, 0x00, order.suite, _CONTROL_TAIL, Under.TRANSPORT, KeyType.CONTROL)
    yield Step("structure.0.39-00", stage, 0, TakeOver(ours))
    for sfi, content in _files(order):
        command = CreateFile(sfi, FileKind.BINARY, len(content), _ALWAYS, _ALWAYS, protected=True)
        yield Step(f"structure.0.{sfi:04X}", stage, 0, Plain(command), ALREADY_THERE)


def _keys(order: PsamOrder) -> Iterator[Step]:
    yield _select(Stage.KEYS)
    yield _key(order, KeyType.MAINTENANCE, 0x00, order.suite, _MAINTENANCE_TAIL)
    for suite in (one for one in Suite if one not in order.versions.retired):
        coming = order.versions.coming((suite, KeyType.PURCHASE, order.sector))
        first = psam_purchase_id(order.sector, suite)
        numbers = range(first, 0x100, _NEXT_ID)
        if len(coming) > len(numbers):
            raise FormatError(
                f"a PSAM holds {len(numbers)} versions of a purchase root, and of {order.sector.label} {len(coming)} "
                "are in force; nothing was made, retire those that no card carries"
            )
        for number, version in zip(numbers, coming, strict=False):
            yield _key(order, PURCHASE_USAGE, number, suite, bytes((version, suite)))
    yield _sealing(order, RECORD_USAGE, RECORD_KEY_ID)
    if order.gate:
        yield _sealing(order, ENTRY_USAGE, ENTRY_KEY_ID)


def _sealing(order: PsamOrder, usage: int, number: int) -> Step:
    version = order.versions.newest([(Suite.SM4, usage, 0)])
    return _key(order, usage, number, Suite.SM4, bytes((version, Suite.SM4)))


def _key(order: PsamOrder, usage: int, number: int, suite: Suite, tail: bytes) -> Step:
    act = WriteKeyAct(_key_step(order, usage, number, suite, tail, Under.CONTROL))
    return Step(f"keys.0.{usage:02X}-{number:02X}", Stage.KEYS, 0, act, ALREADY_THERE)


def _key_step(
    order: PsamOrder, usage: int, number: int, suite: Suite, tail: bytes, under: Under, p1: int = 0x01
) -> KeyStep:
    return KeyStep(
        application=0,
        type=usage,
        id=number,
        suite=suite,
        under=under,
        prefix=bytes((usage,)) + _RIGHTS + tail,
        sector=order.sector if usage == PURCHASE_USAGE else 0,
        p1=p1,
    )


def _contents(order: PsamOrder) -> Iterator[Step]:
    yield _select(Stage.DATA)
    for sfi, content in _files(order):
        yield Step(f"data.0.{sfi:04X}", Stage.DATA, 0, Secured(0, UpdateBinary(sfi, content)))


def _issue(order: PsamOrder) -> Iterator[Step]:
    yield _select(Stage.ISSUE)
    for sfi, content in _files(order):
        yield Step(f"issue.0.{sfi:04X}", Stage.ISSUE, 0, Compare(ReadBinary(sfi, len(content)), content))
