"""Commands on files: create, erase, read, update, append; plain or under line protection as the file's type asks."""

from simulators.chip import OK, Chip, Command, Run
from simulators.file_system import (
    CONTROL,
    KEY_FILE_ID,
    LINE,
    MF_ID,
    BinaryFile,
    DedicatedFile,
    File,
    KeyFile,
    PurseFile,
    RecordFile,
    Refused,
    created,
)


def create_file(chip: Chip, command: Command) -> bytes:
    """CREATE FILE: P1 P2 = file identifier; the key file comes before all others of its DF.

    A DF without a 39.00 could be proved by nobody: there the right is that of the nearest above it that has one.
    """
    fid, df = command.p1 << 8 | command.p2, chip.df
    guard = df.guard
    chip.require(guard.create_right.value, guard)
    if len(command.data) < 5:
        raise Refused(0x6700)
    files = df.files.value
    if fid == MF_ID or fid in files:
        raise Refused(0x6A86)
    file = created(fid, command.data, df)
    if isinstance(file, KeyFile) and (fid or files):
        raise Refused(0x6A80)
    if isinstance(file, DedicatedFile) and any(other.name == file.name for other in chip.mf.applications()):
        raise Refused(0x6A86)
    chip.memory.commit(df.files.becomes({**files, fid: file}))
    return OK


def erase_df(chip: Chip, command: Command) -> bytes:
    """ERASE DF: the files and keys of the current DF go; the MF keeps its control key, or the card would be lost. Whose
    right counts is as at CREATE FILE."""
    if command.p1 or command.p2:
        raise Refused(0x6A86)
    if command.data:
        raise Refused(0x6700)
    df, guard = chip.df, chip.df.guard
    chip.require(guard.erase_right.value, guard)
    stays = df is chip.mf
    kept = {fid: file for fid, file in df.files.value.items() if stays and fid == KEY_FILE_ID}
    control = {name: key for name, key in df.keys.value.items() if stays and name == (CONTROL, 0)}
    chip.memory.commit(df.files.becomes(kept), df.keys.becomes(control), df.pins.becomes({}))
    chip.ef = None
    return OK


def read_binary(chip: Chip, command: Command) -> bytes:
    """READ BINARY; CLA 04 proves the request by a MAC and gets its answer under one."""
    file, offset = _binary(chip, command)
    return _answer(chip, command, file, file.content.value, offset)


def update_binary(chip: Chip, command: Command) -> bytes:
    """UPDATE BINARY inside the file."""
    file, offset = _binary(chip, command)
    octets = _sent(chip, command, file)
    content = file.content.value
    if not octets or offset + len(octets) > len(content):
        raise Refused(0x6700)
    chip.memory.commit(file.content.becomes(content[:offset] + octets + content[offset + len(octets) :]))
    return OK


def read_record(chip: Chip, command: Command) -> bytes:
    """READ RECORD by number or identifier."""
    file = _record_file(chip, command)
    records = file.records.value
    return _answer(chip, command, file, records[file.number(records, command.p1, command.p2)], 0)


def update_record(chip: Chip, command: Command) -> bytes:
    """UPDATE RECORD; in a cyclic file without a number the new record becomes number 1."""
    file = _record_file(chip, command)
    record = _sent(chip, command, file)
    chip.memory.commit(file.records.becomes(file.updated(file.records.value, command.p1, command.p2, record)))
    return OK


def append_record(chip: Chip, command: Command) -> bytes:
    """APPEND RECORD: one more record, the newest of a cyclic file."""
    if command.p1:
        raise Refused(0x6A86)
    file = _record_file(chip, command)
    record = _sent(chip, command, file)
    chip.memory.commit(file.records.becomes(file.appended(file.records.value, record)))
    return OK


def _binary(chip: Chip, command: Command) -> tuple[BinaryFile, int]:
    if command.p1 & 0xE0 == 0x80:
        file, offset = chip.elementary(command.p1 & 0x1F), command.p2
    elif command.p1 & 0x80:
        raise Refused(0x6A86)
    else:
        file, offset = chip.elementary(0), command.p1 << 8 | command.p2
    if not isinstance(file, BinaryFile):
        raise Refused(0x6981)
    if offset >= len(file.content.value):
        raise Refused(0x6B00)
    return file, offset


def _record_file(chip: Chip, command: Command) -> RecordFile:
    file = chip.elementary(command.p2 >> 3)
    if not isinstance(file, RecordFile):
        raise Refused(0x6981)
    return file


def _answer(chip: Chip, command: Command, file: File, content: bytes, offset: int) -> bytes:
    chip.require(file.read_right)
    le = command.le or 256
    if isinstance(file, RecordFile):
        le = 256
    elif le != 256 and le > len(content) - offset:
        raise Refused(0x6C00 | len(content) - offset)
    octets = content[offset : offset + le]
    if not command.head[0] & 0x04:
        if file.enciphered:
            raise Refused(0x6987)
        if command.data:
            raise Refused(0x6700)
        return octets + OK
    body, line, iv = chip.protected_body(command, chip.df, LINE)
    if body:
        raise Refused(0x6700)
    if file.enciphered:
        octets = line.secret.encipher(octets)
    return octets + line.secret.mac(octets, iv)[:4] + OK


def _sent(chip: Chip, command: Command, file: File) -> bytes:
    """What a command brings for `file`, its protection taken off."""
    if isinstance(file, PurseFile | KeyFile):
        raise Refused(0x6981)
    chip.require(file.write_right)
    if not file.protected:
        if command.head[0] & 0x04:
            raise Refused(0x6900)
        return command.data
    if not command.head[0] & 0x04:
        raise Refused(0x6987)
    body, line, _ = chip.protected_body(command, chip.df, LINE)
    if not file.enciphered:
        return body
    plain = line.secret.decipher(body)
    if plain is None:
        raise Refused(0x6988)
    return plain


FILE_COMMANDS: dict[bytes, Run] = {
    b"\x80\xe0": create_file,
    b"\x80\x0e": erase_df,
    b"\x00\xb0": read_binary,
    b"\x04\xb0": read_binary,
    b"\x00\xd6": update_binary,
    b"\x04\xd6": update_binary,
    b"\x00\xb2": read_record,
    b"\x04\xb2": read_record,
    b"\x00\xdc": update_record,
    b"\x04\xdc": update_record,
    b"\x00\xe2": append_record,
    b"\x04\xe2": append_record,
}
