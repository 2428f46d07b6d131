"""The personalisation script of a card: the ordered steps from a blank to an issued card (docs/card.md).

A chip is taken over first: what is in it is erased, and our control key of its MF replaces the factory's, so that
nothing which follows is guarded by a key that others have. Then the first application with an EF 0015 gets the two keys
that it takes to write it, and its content: from then on each chip says whose it is, so that no other can take its place
when a script is resumed.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from cardcore.authority import KeyStep, Under
from cardcore.bcd import encode_digits
from cardcore.card_map import CITY_CARD, KEY_VERSION, MF_FID, KeyType, Sfi
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
from cardcore.errors import ProfileError
from cardcore.order import CardOrder, PsamOrder
from cardcore.profile import ApplicationSpec, FileSpec, KeySpec, Profile, SuiteProfile
from cardcore.psam_script import limits, psam_steps
from cardcore.step import (
    ALREADY_THERE,
    Act,
    Authenticate,
    Compare,
    CompareSecured,
    Plain,
    Secured,
    SetAllowance,
    Stage,
    Step,
    TakeOver,
    WriteKeyAct,
)
from cardcore.versions import Key, KeyVersions

__all__ = [
    "Act",
    "Authenticate",
    "CardOrder",
    "Compare",
    "CompareSecured",
    "Plain",
    "PsamOrder",
    "Secured",
    "SetAllowance",
    "Stage",
    "Step",
    "TakeOver",
    "WriteKeyAct",
    "key_step",
    "limits",
    "psam_steps",
    "steps",
]

_ALWAYS = 0xF0
# The same on every card of a batch, and nothing of its holder: not read again, at 15 ms a record.
_ALIKE = frozenset({Sfi.DIRECTORY, Sfi.COMPOSITE})
# Keys that calculate carry version and algorithm; the others a next state (FF: none) and an error counter.
_VERSIONED = frozenset({KeyType.ACT, KeyType.TAC, KeyType.OVERDRAFT, KeyType.UNLOAD, KeyType.PURCHASE, KeyType.LOAD})
# A record names the version of the key that opened the purse, and its TAC is verified by that version: a purse has one.
_OF_THE_PURSE = frozenset({KeyType.PURCHASE, KeyType.LOAD, KeyType.TAC})
# These say their own version when they are used; of an act's key no command tells the version, so it stays the first.
_OF_THEIR_OWN = frozenset({KeyType.OVERDRAFT, KeyType.UNLOAD})


def steps(profile: Profile, order: CardOrder) -> tuple[Step, ...]:
    """The whole script of one card; raises ProfileError when the profile is not offered in the suite of the order, and
    KeyUseError when that suite is retired, a key of the card is missing, or those of a purse have no version in
    common."""
    order.versions.offer(order.identity.suite)
    plan = profile.for_suite(order.identity.suite)
    order.versions.require(_named(plan, item, key) for item in plan.profile.applications for key in item.keys)
    return (
        *_identity(plan, order),
        *_of_every_card(plan, order.versions),
        *_contents(plan, order),
        *_readback(plan, order),
    )


@lru_cache(maxsize=16)
def _of_every_card(plan: SuiteProfile, versions: KeyVersions) -> tuple[Step, ...]:
    """What is the same for every card of a profile: made once for a whole batch."""
    return (*_structure(plan), *_keys(plan, versions))


def _select(stage: Stage, spec: ApplicationSpec) -> Step:
    target = spec.aid if spec.number else MF_FID.to_bytes(2, "big")
    return Step(f"{stage.value}.{spec.number}.select", stage, spec.number, Plain(Select(target)))


def _authenticated(stage: Stage, spec: ApplicationSpec) -> Step:
    act = Authenticate(spec.number, Under.CONTROL)
    return Step(f"{stage.value}.{spec.number}.authenticate", stage, spec.number, act)


def _identifying(profile: Profile) -> ApplicationSpec | None:
    """The application that says whose the card is: the first with an EF 0015."""
    return next((item for item in profile.applications if item.number and item.file(Sfi.COMMON)), None)


def _identity(plan: SuiteProfile, order: CardOrder) -> Iterator[Step]:
    stage, mf, item = Stage.IDENTITY, plan.profile.applications[0], _identifying(plan.profile)
    yield _select(stage, mf)
    ours = key_step(plan, 0, mf.keys[0], Under.TRANSPORT, p1=KeyType.CONTROL)
    yield Step("identity.0.39-00", stage, 0, TakeOver(ours))
    if item is None:
        return
    yield _directory(stage, item)
    yield from _opened(plan, stage, item)
    for key in _first_keys(item)[1:]:
        yield _added(plan, item.number, key, stage)
    common = [spec for spec in item.files if spec.fid == Sfi.COMMON]
    for spec in common:
        yield _created(stage, item.number, spec)
        yield from _written(plan, order, item, spec, stage)
    yield from _files(stage, item, [spec for spec in item.files if spec not in common])


def _first_keys(item: ApplicationSpec) -> list[KeySpec]:
    """What it takes to write EF 0015: the control key, and the line key where the file is protected."""
    return [key for key in item.keys if key.type in (KeyType.CONTROL, KeyType.MAINTENANCE)]


def _structure(plan: SuiteProfile) -> Iterator[Step]:
    stage, (mf, *applications) = Stage.STRUCTURE, plan.profile.applications
    others = [item for item in applications if item is not _identifying(plan.profile)]
    yield _select(stage, mf)
    yield from _files(stage, mf, mf.files)
    for item in others:
        yield _directory(stage, item)
    for item in others:
        yield from _opened(plan, stage, item)
        yield from _files(stage, item, item.files)


def _opened(plan: SuiteProfile, stage: Stage, item: ApplicationSpec) -> Iterator[Step]:
    """A directory up to its control key, and proved by it: from then on nobody else creates anything in it."""
    yield _select(stage, item)
    # Once its control key is there, only that may create in it, and a second key file is refused for another reason.
    proof, command = Authenticate(item.number, Under.CONTROL), CreateKeyFile(item.key_file_size, item.add_right)
    yield Step(f"{stage.value}.{item.number}.0000", stage, item.number, Plain(command), ALREADY_THERE, proof)
    yield _added(plan, item.number, item.keys[0], stage)
    yield _authenticated(stage, item)


def _create(stage: Stage, application: int, what: str, command: Command[None]) -> Step:
    return Step(f"{stage.value}.{application}.{what}", stage, application, Plain(command), ALREADY_THERE)


def _directory(stage: Stage, item: ApplicationSpec) -> Step:
    command = CreateDf(item.fid, item.size, item.create_right, item.erase_right, item.aid)
    return _create(stage, 0, f"{item.fid:04X}", command)


def _files(stage: Stage, item: ApplicationSpec, files: Sequence[FileSpec]) -> Iterator[Step]:
    """The purse of an application and these of its files, empty."""
    if item.purse:
        yield _create(stage, item.number, "0002", CreatePurse(item.purse.right, item.purse.log_sfi))
    for spec in files:
        yield _created(stage, item.number, spec)


def _created(stage: Stage, application: int, spec: FileSpec) -> Step:
    command = CreateFile(
        spec.fid,
        spec.kind,
        spec.length,
        spec.read_right,
        spec.write_right,
        spec.protected,
        spec.count,
        spec.enciphered,
    )
    return _create(stage, application, f"{spec.fid:04X}", command)


def _keys(plan: SuiteProfile, versions: KeyVersions) -> Iterator[Step]:
    first = _identifying(plan.profile)
    for item in plan.profile.applications:
        written = _first_keys(item) if item is first else item.keys[:1]
        yield _select(Stage.KEYS, item)
        for key in item.keys:
            if key not in written:
                yield _added(plan, item.number, key, Stage.KEYS, _version(plan, item, key, versions))


def _version(plan: SuiteProfile, item: ApplicationSpec, key: KeySpec, versions: KeyVersions) -> int:
    if key.type in _OF_THE_PURSE:
        return versions.newest([_named(plan, item, one) for one in item.keys if one.type in _OF_THE_PURSE])
    return versions.newest([_named(plan, item, key)]) if key.type in _OF_THEIR_OWN else KEY_VERSION


def _named(plan: SuiteProfile, item: ApplicationSpec, key: KeySpec) -> Key:
    sector = key.sector if item.number != CITY_CARD.number else None
    return plan.suite, key.type, sector or item.number


def _added(plan: SuiteProfile, application: int, key: KeySpec, stage: Stage, version: int = KEY_VERSION) -> Step:
    """A key under its DF's control key; the control key itself under that of the MF."""
    control = key.type is KeyType.CONTROL
    # A control key that is in place guards its directory from then on: writing it again would count as a forgery.
    probe = Authenticate(application, Under.CONTROL) if control else None
    step = key_step(plan, application, key, Under.CONTROL, version=version, guard=0 if control else application)
    name = f"{stage.value}.{application}.{key.type:02X}-{step.id:02X}"
    return Step(name, stage, application, WriteKeyAct(step), frozenset() if control else ALREADY_THERE, probe)


def key_step(
    plan: SuiteProfile,
    application: int,
    key: KeySpec,
    under: Under,
    p1: int = 0x01,
    version: int = KEY_VERSION,
    guard: int = 0,
) -> KeyStep:
    """WRITE KEY of one key of the profile: the content around the key bytes as docs/card.md has it."""
    kind, number = key.type, key.ids[plan.suite]
    attributes = (version, plan.suite) if kind in _VERSIONED else (key.next_state, key.tries)
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
        guard=guard,
    )


def _contents(plan: SuiteProfile, order: CardOrder) -> Iterator[Step]:
    first = _identifying(plan.profile)
    for item in plan.profile.applications:
        files = [spec for spec in item.files if item is not first or spec.fid != Sfi.COMMON]
        written = [(spec, step) for spec in files for step in _written(plan, order, item, spec, Stage.DATA)]
        # Read at once, while the application is selected: once more at the end would cost two commands each.
        told = [spec for spec in files if not _at_the_end(spec) and spec.fid not in _ALIKE]
        compared = [(spec, step) for spec in told for step in _comparisons(plan, order, item, spec, Stage.DATA)]
        allowance = _allowance(plan, item)
        if written or allowance:
            yield _select(Stage.DATA, item)
            if any(_wants_control(spec, step) for spec, step in (*written, *compared)):
                yield _authenticated(Stage.DATA, item)
            yield from (step for _, step in written)
            yield from allowance
            yield from (step for _, step in compared)


def _wants_control(spec: FileSpec, step: Step) -> bool:
    """Whether a step writes in clear, or reads or has a probe that not everyone may read."""
    reads = isinstance(step.act, Compare | CompareSecured) or step.probe is not None
    return isinstance(step.act, Plain) or (reads and spec.read_right != _ALWAYS)


def _written(
    plan: SuiteProfile, order: CardOrder, item: ApplicationSpec, spec: FileSpec, stage: Stage
) -> Iterator[Step]:
    records = order.contents(plan.profile, item, spec)
    for place, content in enumerate(records, 1):
        command: Command[None]
        probe = None
        if spec.kind is FileKind.BINARY:
            command = UpdateBinary(spec.sfi, content)
        else:
            command = AppendRecord(spec.sfi, content)
            probe = _comparison(plan, item, spec, place, content)
        act = Secured(item.number, command, spec.enciphered) if spec.protected else Plain(command)
        yield Step(f"{stage.value}.{item.number}.{spec.fid:04X}.{place}", stage, item.number, act, probe=probe)


def _comparison(
    plan: SuiteProfile, item: ApplicationSpec, spec: FileSpec, place: int, content: bytes
) -> Compare | CompareSecured:
    """A read of what was written; raises ProfileError where not even the control key may read it."""
    right, state = spec.read_right, item.keys[0].next_state
    if right != _ALWAYS and not right & 0x0F <= state <= right >> 4:
        raise ProfileError(
            f"profile {plan.profile.name}: file {spec.fid:04X} of application {item.number} cannot be read back after "
            f"its control key, which grants state {state:X}: right {right:02X} would leave nobody to check it"
        )
    binary = spec.kind is FileKind.BINARY
    read = ReadBinary(spec.sfi, len(content)) if binary else ReadRecord(spec.sfi, place)
    return CompareSecured(item.number, read, content) if spec.enciphered else Compare(read, content)


def _allowance(plan: SuiteProfile, item: ApplicationSpec) -> list[Step]:
    if item.purse is None or not item.purse.overdraft_fen:
        return []
    index = plan.key_index(item.number, KeyType.OVERDRAFT)
    rule = plan.profile.switches.sm4_session_key
    act = SetAllowance(item.number, index, plan.suite, item.purse.overdraft_fen, rule)
    return [Step(f"data.{item.number}.allowance", Stage.DATA, item.number, act)]


def _readback(plan: SuiteProfile, order: CardOrder) -> Iterator[Step]:
    """Read back what anyone may read and what is enciphered; what else tells of the holder was read when written."""
    mf, *others = plan.profile.applications
    for item in others:
        compared = list(_compared(plan, order, item))
        if compared:
            yield _select(Stage.ISSUE, item)
            yield from compared
    yield _select(Stage.ISSUE, mf)
    yield from _compared(plan, order, mf)


def _compared(plan: SuiteProfile, order: CardOrder, item: ApplicationSpec) -> Iterator[Step]:
    files = [spec for spec in item.files if _at_the_end(spec)]
    compared = [(spec, step) for spec in files for step in _comparisons(plan, order, item, spec, Stage.ISSUE)]
    if any(_wants_control(spec, step) for spec, step in compared):
        yield _authenticated(Stage.ISSUE, item)
    yield from (step for _, step in compared)
    if item.purse:
        balance = Compare(GetBalance(), item.purse.overdraft_fen.to_bytes(4, "big"))
        yield Step(f"issue.{item.number}.balance", Stage.ISSUE, item.number, balance)


def _comparisons(
    plan: SuiteProfile, order: CardOrder, item: ApplicationSpec, spec: FileSpec, stage: Stage
) -> Iterator[Step]:
    for place, content in enumerate(order.contents(plan.profile, item, spec), 1):
        act = _comparison(plan, item, spec, place, content)
        name = f"{stage.value}.{item.number}.{spec.fid:04X}" + (f".{place}" if spec.count else "")
        yield Step(name if stage is Stage.ISSUE else f"{name}.compare", stage, item.number, act)


def _at_the_end(spec: FileSpec) -> bool:
    """Compared on the finished card: what is enciphered, and a binary file that anyone may read."""
    return spec.enciphered or (spec.kind is FileKind.BINARY and spec.read_right == _ALWAYS)
