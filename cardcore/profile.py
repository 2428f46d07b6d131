"""The card as data: a TOML profile says which applications, files, keys and purses a card has (D2).

Every field is read or refused: an unknown, unused, missing or contradictory one is a ProfileError that names file and
field.
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from cardcore.card_files import METRO_ID, TRANSFER_ID
from cardcore.card_map import ALL_APPLICATIONS, MF_FID, KeyType, Sfi
from cardcore.commands.personalise import FileKind
from cardcore.errors import ProfileError
from cardcore.profile_layout import layout_faults, naming_faults
from cardcore.profile_spec import (
    ApplicationSpec,
    CommonLayout,
    FileSpec,
    KeySpec,
    Profile,
    PurseSpec,
    SuiteProfile,
)
from cardcore.profile_table import Table
from cardcore.record import Sector, Suite
from cardcore.switches import (
    BlockedSelect,
    LogCounter,
    OverdraftTacKey,
    PinUnblockPlace,
    PsamFactorOrder,
    Sm4SessionKey,
    Switches,
)

__all__ = [
    "SUITE_NAMES",
    "ApplicationSpec",
    "CommonLayout",
    "FileSpec",
    "KeySpec",
    "Profile",
    "PurseSpec",
    "SuiteProfile",
    "load_profile",
    "profile_names",
    "read_profile",
]

SUITE_NAMES = {"3des": Suite.TRIPLE_DES, "sm4": Suite.SM4}
COMPOSITES = {"metro": METRO_ID, "transfer": TRANSFER_ID}
# One command carries 235 bytes before its MAC: 14 blocks of SM4, the first byte of which is the length.
MOST_ENCIPHERED_BYTES = 223
# What the control key of a blank grants, and so what the script has once it has taken the blank over.
FACTORY_STATE = 0x0A
# What FMCOS spends on one 16-byte key with its header.
_KEY_BYTES = 24


def load_profile(name_or_path: str | Path) -> Profile:
    """A profile of this package by name (`shared-purse`), or the TOML file at a path; raises ProfileError."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        where, source = str(path), path
    else:
        where, source = f"{name_or_path}.toml", Path(str(files("cardcore.profiles"))) / f"{name_or_path}.toml"
    try:
        document = tomllib.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileError(
            f"there is no card profile {name_or_path}; known are {', '.join(profile_names())}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ProfileError(f"{where} cannot be read as a card profile: {error}") from error
    return read_profile(document, where)


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    return tuple(sorted(item.name[:-5] for item in files("cardcore.profiles").iterdir() if item.name.endswith(".toml")))


def read_profile(document: Mapping[str, object], where: str) -> Profile:
    """A profile from a parsed TOML document; `where` names it in errors. Raises ProfileError."""
    with Table(document, where) as table:
        suites = table.choices("suites", SUITE_NAMES)
        if not suites:
            raise table.fault("field 'suites' names at least one suite")
        applications = tuple(_application(item, suites) for item in table.tables("application"))
        profile = Profile(
            name=table.text("name"),
            title=table.text("title"),
            suites=suites,
            pin=table.text("pin"),
            switches=_switches(table, suites, applications),
            applications=applications,
        )
    numbers = [item.number for item in profile.applications]
    if numbers[:1] != [0] or len(set(numbers)) != len(numbers):
        raise ProfileError(f"{where}: a profile has applications of different numbers, 0 (the MF) first")
    for fault in naming_faults(applications):
        raise ProfileError(f"{where}: {fault}")
    if not (profile.pin.isascii() and profile.pin.isdecimal() and len(profile.pin) == 6):
        raise ProfileError(f"{where}: pin has 6 decimal digits")
    return profile


def _switches(table: Table, suites: tuple[Suite, ...], applications: tuple[ApplicationSpec, ...]) -> Switches:
    """The switches of a profile; one that nothing on the card uses is left unread, and so refused."""
    kinds = {key.type for item in applications for key in item.keys}
    purses = any(item.purse for item in applications)
    return Switches(
        log_counter=table.switch(LogCounter, purses, "log_counter"),
        overdraft_tac_key=table.switch(OverdraftTacKey, purses and Suite.TRIPLE_DES in suites, "overdraft_tac_key"),
        blocked_select=table.switch(BlockedSelect, True, "blocked_select"),
        psam_factor_order=table.switch(PsamFactorOrder, purses, "psam_factor_order"),
        pin_unblock_place=table.switch(PinUnblockPlace, KeyType.PIN_UNBLOCK in kinds, "pin_unblock_place"),
        sm4_session_key=table.switch(Sm4SessionKey, purses and Suite.SM4 in suites, "sm4_session_key"),
    )


def _application(source: Table, suites: tuple[Suite, ...]) -> ApplicationSpec:
    with source as table:
        number = table.number("number", max(ALL_APPLICATIONS))
        is_mf = number == 0
        size = create = erase = key_file_size = add = 0
        if not is_mf:
            size, create, erase = table.number("size", 0xFFFF), table.number("create"), table.number("erase")
            with table.table("key_file") as key_file:
                key_file_size, add = key_file.number("size", 0xFFFF), key_file.number("add")
        application = ApplicationSpec(
            number=number,
            label="MF" if is_mf else table.text("label"),
            fid=table.number("fid", 0xFFFF),
            aid=table.octets("aid"),
            size=size,
            create_right=create,
            erase_right=erase,
            key_file_size=key_file_size,
            add_right=add,
            files=tuple(map(_file, table.tables("files"))),
            keys=tuple(_key(item, suites) for item in table.tables("keys")),
            purse=_purse(table.table("purse")) if "purse" in table else None,
            common_layout=table.switch(CommonLayout, not is_mf, "common_layout"),
        )
        for fault in _contradictions(application, suites):
            raise table.fault(fault)
    return application


def _file(source: Table) -> FileSpec:
    with source as table:
        kind = table.choice("kind", {item.name.lower(): item for item in FileKind})
        binary = kind is FileKind.BINARY
        return FileSpec(
            fid=table.number("fid", 0xFFFF),
            kind=kind,
            length=table.number("length", 0xFFFF if binary else 0xFF),
            count=0 if binary else table.number("count"),
            read_right=table.number("read"),
            write_right=table.number("write"),
            protected=table.flag("protected"),
            composites=table.choices("composites", COMPOSITES) if "composites" in table and not binary else (),
            enciphered=table.flag("enciphered") if "enciphered" in table else False,
        )


_WITH_STATE = frozenset({KeyType.CONTROL, KeyType.PIN})
_WITH_TRIES = _WITH_STATE | {KeyType.MAINTENANCE, KeyType.PIN_UNBLOCK, KeyType.PIN_RELOAD}


def _key(source: Table, suites: tuple[Suite, ...]) -> KeySpec:
    with source as table:
        kind = table.choice("type", {item.name.lower(): item for item in KeyType})
        purchase = kind is KeyType.PURCHASE
        sectors = {item.label: item for item in Sector}
        with table.table("ids") as ids:
            numbers = {suite: ids.number(name) for name, suite in SUITE_NAMES.items() if suite in suites}
        return KeySpec(
            type=kind,
            ids=numbers,
            use=table.number("use"),
            # A PIN has no right to be changed by WRITE KEY: the standard puts EF there.
            change=0xEF if kind is KeyType.PIN else table.number("change"),
            next_state=table.number("next_state", 0x0F) if kind in _WITH_STATE else 0xFF,
            tries=table.number("tries") if kind in _WITH_TRIES else 0,
            sector=table.choice("sector", sectors) if purchase else None,
        )


def _purse(source: Table) -> PurseSpec:
    with source as table:
        return PurseSpec(table.number("right"), table.number("log_sfi", 30), table.number("overdraft_fen", 0xFFFFFF))


def _contradictions(application: ApplicationSpec, suites: tuple[Suite, ...]) -> Iterator[str]:
    kinds = {key.type for key in application.keys}
    if (application.fid == MF_FID) != (application.number == 0):
        yield "the MF, and only the MF, is application 0 with fid 3F00"
    if not application.keys or application.keys[0].type is not KeyType.CONTROL:
        yield "the first key is the control key, for it protects the others"
    elif not application.number and application.keys[0].next_state != FACTORY_STATE:
        yield "the control key of the MF grants state A, as the factory's does, in whose place it comes"
    if any(item.protected for item in application.files) and KeyType.MAINTENANCE not in kinds:
        yield "a protected file needs a maintenance key"
    for item in application.files:
        yield from (f"file {item.fid:04X} {fault}" for fault in _enciphered_faults(item))
    for suite in suites:
        names = [(key.type, key.ids[suite]) for key in application.keys]
        if len(set(names)) != len(names):
            yield "two keys have the same type and id"
    yield from layout_faults(application)
    if application.number and application.key_file_size < _KEY_BYTES * len(application.keys):
        yield f"key_file.size is too small for {len(application.keys)} keys of {_KEY_BYTES} bytes"
    if application.purse:
        if missing := _PURSE_KEYS - kinds:
            yield f"a purse needs a {min(missing).name.lower()} key"
        log = next((item for item in application.files if item.sfi == application.purse.log_sfi), None)
        if log is None or log.kind is not FileKind.CYCLIC or log.length != 23:
            yield "purse.log_sfi names a cyclic file of 23-byte records"


def _enciphered_faults(item: FileSpec) -> Iterator[str]:
    if not item.enciphered:
        return
    if not item.protected:
        yield "is enciphered, and so is protected too: its writes carry a MAC as well"
    if item.fid == Sfi.COMMON:
        yield "cannot be enciphered: SELECT shows it to everyone"
    if item.composites:
        yield "cannot be enciphered: the card itself writes composite records, in clear"
    if item.length > MOST_ENCIPHERED_BYTES:
        yield f"is enciphered, and so has at most {MOST_ENCIPHERED_BYTES} bytes, which one command carries"


_PURSE_KEYS = frozenset({KeyType.PURCHASE, KeyType.LOAD, KeyType.UNLOAD, KeyType.TAC, KeyType.OVERDRAFT, KeyType.PIN})
