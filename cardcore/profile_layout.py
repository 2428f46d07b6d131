"""Where the files of a profile may stand: identifiers, names and room that a card would refuse, or confuse.

A card personalised by a profile that breaks these ends as scrap, or worse, as a card on which one file hides another.
"""

from collections.abc import Iterator, Sequence

from cardcore.commands.personalise import DEPOSIT_FILE, KEY_FILE, PURSE_FILE
from cardcore.profile_spec import ApplicationSpec

# ISO/IEC 7816-4 keeps these back; 3F00 is the MF.
_RESERVED_FIDS = frozenset({KEY_FILE, 0x3F00, 0x3FFF, 0xFFFF})
_PURSE_FIDS = frozenset({DEPOSIT_FILE, PURSE_FILE})
_LAST_SFI = 0x1E
_ALWAYS = 0xF0
_NAME_BYTES = range(5, 17)


def layout_faults(application: ApplicationSpec) -> Iterator[str]:
    """What is wrong within one directory, each fault with the field that it is in."""
    if len(application.aid) not in _NAME_BYTES:
        yield f"field 'aid' has 5 to 16 bytes, not {len(application.aid)}"
    for field, right in (("create", application.create_right), ("erase", application.erase_right)):
        if application.number and right == _ALWAYS:
            yield f"field '{field}' F0 gives that right to everyone, on an issued card too; FA asks for the control key"
    sfis = {PURSE_FILE: PURSE_FILE} if application.purse else {}
    seen: set[int] = set()
    for item in application.files:
        name = f"file {item.fid:04X}"
        if item.fid in _RESERVED_FIDS:
            yield f"{name}: field 'fid' is reserved; give the file another"
        elif application.number and item.fid in _PURSE_FIDS:
            yield f"{name}: field 'fid' is that of a purse, which 'purse' makes; give the file another"
        elif item.fid in seen:
            yield f"{name}: two files have the same fid"
        elif not 1 <= item.sfi <= _LAST_SFI:
            yield f"{name}: field 'fid' ends in no short identifier (01 to 1E in its last five bits)"
        elif (other := sfis.setdefault(item.sfi, item.fid)) != item.fid:
            yield f"{name}: field 'fid' has the short identifier {item.sfi:02X} of file {other:04X}, and one would hide"
        if not item.length or (item.holds_records and not item.count):
            yield f"{name}: fields 'length' and 'count' are at least 1"
        seen.add(item.fid)
    needed = application.key_file_size + sum((item.count or 1) * item.length for item in application.files)
    if application.number and application.size < needed:
        yield f"field 'size' is {application.size}, and the key file and the files take {needed} bytes"


def naming_faults(applications: Sequence[ApplicationSpec]) -> Iterator[str]:
    """What is wrong among the directories of a card: each is found by its fid and by its name alone."""
    fids: dict[int, str] = {item.fid: f"file {item.fid:04X} of the MF" for item in applications[0].files}
    names: dict[bytes, str] = {}
    for place, item in enumerate(applications, 1):
        here = f"application[{place}]"
        if place > 1 and item.fid in _RESERVED_FIDS:
            yield f"{here}: field 'fid' {item.fid:04X} is reserved; give the directory another"
        if (other := fids.setdefault(item.fid, here)) != here:
            yield f"{here}: field 'fid' {item.fid:04X} is that of {other}"
        if (other := names.setdefault(item.aid, here)) != here:
            yield f"{here}: field 'aid' {item.aid.hex().upper()} is that of {other}"
    directories = {item.fid for item in applications}
    for place, item in enumerate(applications, 1):
        for file in item.files:
            if file.fid in directories:
                yield f"application[{place}]: file {file.fid:04X}: field 'fid' is that of a directory"
