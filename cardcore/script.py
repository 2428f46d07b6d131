"""The personalisation script of a card: the ordered steps from a blank to an issued card (docs/card.md)."""

from collections.abc import Iterator

from cardcore.authority import KeyStep, Under
from cardcore.bcd import encode_digits
from cardcore.card_map import KEY_VERSION, MF_FID, KeyType
from cardcore.commands import (
    AppendRecord,
    Command,
    CreateDf,
    CreateFile,
    CreateKeyFile,
    CreatePurse,
    GetBalance,
    ReadBinary,
    ReadRecord,
    Select,
    UpdateBinary,
)
from cardcore.commands.personalise import FileKind
from cardcore.order import CardOrder, PsamOrder
from cardcore.profile import ApplicationSpec, FileSpec, KeySpec, Profile, SuiteProfile
from cardcore.psam_script import psam_steps
from cardcore.step import (
    ALREADY_THERE,
    Act,
    Authenticate,
    Compare,
    Plain,
    Secured,
    SetAllowance,
    Stage,
    Step,
    WriteKeyAct,
)

__all__ = [
    "Act",
    "Authenticate",
    "CardOrder",
    "Compare",
    "Plain",
    "PsamOrder",
    "Secured",
    "SetAllowance",
    "Stage",
    "Step",
    "WriteKeyAct",
    "key_step",
    "psam_steps",
    "steps",
]

_ALWAYS = 0xF0
# Keys that calculate carry version and algorithm; the others a next state (FF: none) and an error counter.
_VERSIONED = frozenset({KeyType.ACT, KeyType.TAC, KeyType.OVERDRAFT, KeyType.UNLOAD, KeyType.PURCHASE, KeyType.LOAD})


def steps(profile: Profile, order: CardOrder) -> tuple[Step, ...]:
    """The whole script of one card; raises ProfileError when the profile is not offered in the suite of the order."""
    plan = profile.for_suite(order.identity.suite)
    return (*_structure(plan), *_keys(plan), *_contents(plan, order), *_issue(plan, order))


def _select(stage: Stage, spec: ApplicationSpec) -> Step:
    target = spec.aid if spec.number else MF_FID.to_bytes(2, "big")
    return Step(f"{stage.value}.{spec.number}.select", stage, spec.number, Plain(Select(target)))


def _create(application: int, what: str, command: Command[None]) -> Step:
    return Step(f"structure.{application}.{what}", Stage.STRUCTURE, application, Plain(command), ALREADY_THERE)


def _created(application: int, spec: FileSpec) -> Step:
    command = CreateFile(
        spec.fid, spec.kind, spec.length, spec.read_right, spec.write_right, spec.protected, spec.count
    )
    return _create(application, f"{spec.fid:04X}", command)


def _structure(plan: SuiteProfile) -> Iterator[Step]:
    mf, *others = plan.profile.applications
    yield _select(Stage.STRUCTURE, mf)
    yield Step("structure.0.authenticate", Stage.STRUCTURE, 0, Authenticate(0, Under.TRANSPORT))
    for spec in mf.files:
        yield _created(0, spec)
    for item in others:
        directory = CreateDf(item.fid, item.size, item.create_right, item.erase_right, item.aid)
        yield _create(0, f"{item.fid:04X}", directory)
    for item in others:
        yield _select(Stage.STRUCTURE, item)
        yield _create(item.number, "0000", CreateKeyFile(item.key_file_size, item.add_right))
        if item.purse:
            yield _create(item.number, "0002", CreatePurse(item.purse.right, item.purse.log_sfi))
        for spec in item.files:
            yield _created(item.number, spec)


def _keys(plan: SuiteProfile) -> Iterator[Step]:
    for item in plan.profile.applications:
        yield _select(Stage.KEYS, item)
        for key in item.keys:
            if item.number or key.type is not KeyType.CONTROL:
                yield _added(plan, item.number, key)


def _added(plan: SuiteProfile, application: int, key: KeySpec) -> Step:
    """A key under its DF's control key; the control key itself, and keys of the MF, under the transport key."""
    control = key.type is KeyType.CONTROL
    under = Under.TRANSPORT if control or not application else Under.CONTROL
    # A control key that is in place guards its directory from then on: writing it again would count as a forgery.
    probe = Authenticate(application, Under.CONTROL) if control else None
    step = key_step(plan, application, key, under)
    name = f"keys.{application}.{key.type:02X}-{step.id:02X}"
    return Step(name, Stage.KEYS, application, WriteKeyAct(step), ALREADY_THERE, probe)


def key_step(plan: SuiteProfile, application: int, key: KeySpec, under: Under, p1: int = 0x01) -> KeyStep:
    """WRITE KEY of one key of the profile: the content around the key bytes as docs/card.md has it."""
    kind, number = key.type, key.ids[plan.suite]
    attributes = (KEY_VERSION, plan.suite) if kind in _VERSIONED else (key.next_state, key.tries)
    return KeyStep(
        application=application,
        type=kind,
        id=number,
        suite=plan.suite,
        under=under,
        prefix=bytes((kind, key.use, key.change, *attributes)),
        suffix=encode_digits(plan.profile.pin) if kind is KeyType.PIN else b"",
        sector=key.sector or 0,
        p1=p1,
        guard=application,
    )


def _contents(plan: SuiteProfile, order: CardOrder) -> Iterator[Step]:
    for item in plan.profile.applications:
        written = [step for spec in item.files for step in _written(plan, order, item, spec)]
        allowance = _allowance(plan, item)
        if written or allowance:
            yield _select(Stage.DATA, item)
            if any(isinstance(step.act, Plain) for step in written):
                act = Authenticate(item.number, Under.CONTROL)
                yield Step(f"data.{item.number}.authenticate", Stage.DATA, item.number, act)
            yield from written
            yield from allowance


def _written(plan: SuiteProfile, order: CardOrder, item: ApplicationSpec, spec: FileSpec) -> Iterator[Step]:
    records = order.contents(plan.profile, item, spec)
    for place, content in enumerate(records, 1):
        command: Command[None]
        probe = None
        if spec.kind is FileKind.BINARY:
            command = UpdateBinary(spec.sfi, content)
        else:
            command = AppendRecord(spec.sfi, content)
            probe = Compare(ReadRecord(spec.sfi, place), content)
        act = Secured(item.number, command) if spec.protected else Plain(command)
        yield Step(f"data.{item.number}.{spec.fid:04X}.{place}", Stage.DATA, item.number, act, probe=probe)


def _allowance(plan: SuiteProfile, item: ApplicationSpec) -> list[Step]:
    if item.purse is None or not item.purse.overdraft_fen:
        return []
    index = plan.key_index(item.number, KeyType.OVERDRAFT)
    act = SetAllowance(item.number, index, plan.suite, item.purse.overdraft_fen)
    return [Step(f"data.{item.number}.allowance", Stage.DATA, item.number, act)]


def _issue(plan: SuiteProfile, order: CardOrder) -> Iterator[Step]:
    """Read back what anyone may read, then let the card leave the factory: the MF's transport key goes last."""
    mf, *others = plan.profile.applications
    for item in others:
        compared = list(_compared(plan, order, item))
        if compared:
            yield _select(Stage.ISSUE, item)
            yield from compared
    yield _select(Stage.ISSUE, mf)
    yield from _compared(plan, order, mf)
    key = key_step(plan, 0, mf.keys[0], Under.TRANSPORT, p1=KeyType.CONTROL)
    probe = Authenticate(0, Under.CONTROL)
    yield Step("issue.0.39-00", Stage.ISSUE, 0, WriteKeyAct(key), probe=probe)


def _compared(plan: SuiteProfile, order: CardOrder, item: ApplicationSpec) -> Iterator[Step]:
    for spec in item.files:
        if spec.kind is FileKind.BINARY and spec.read_right == _ALWAYS:
            for content in order.contents(plan.profile, item, spec):
                act = Compare(ReadBinary(spec.sfi, len(content)), content)
                yield Step(f"issue.{item.number}.{spec.fid:04X}", Stage.ISSUE, item.number, act)
    if item.purse:
        act = Compare(GetBalance(), item.purse.overdraft_fen.to_bytes(4, "big"))
        yield Step(f"issue.{item.number}.balance", Stage.ISSUE, item.number, act)
