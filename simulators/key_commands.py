"""Commands on keys and locks: EXTERNAL and INTERNAL AUTHENTICATE, WRITE KEY, block and unblock."""

from dataclasses import replace

from simulators.chip import OK, Chip, Command, Run
from simulators.cipher import SUITES
from simulators.file_system import (
    CONTROL,
    KEY_FILE_ID,
    LINE,
    PIN,
    PIN_RELOAD,
    PIN_UNBLOCK,
    KeyFile,
    KeyRecord,
    Lock,
    PinRecord,
    Refused,
    Tries,
)
from simulators.nvm import Write

ADD = 0x01


def external_authenticate(chip: Chip, command: Command) -> bytes:
    """EXTERNAL AUTHENTICATE with key 39.P2 of the current DF: its next state becomes the security state."""
    record = chip.key(CONTROL, command.p2)
    chip.require(record.use)
    if command.p1:
        raise Refused(0x6A86)
    if len(command.data) != record.secret.block:
        raise Refused(0x6700)
    tries = record.tries
    if record.secret.authenticate(chip.take_challenge()) != command.data:
        if tries is None:
            raise Refused(0x6300)
        chip.memory.commit(chip.df.with_key(CONTROL, command.p2, replace(record, tries=tries.missed())))
        raise Refused(0x63C0 | tries.left - 1)
    if tries is not None and tries.left < tries.most:
        chip.memory.commit(chip.df.with_key(CONTROL, command.p2, replace(record, tries=tries.restored())))
    chip.grant(record.next_state)
    chip.control_proved = chip.control_proved or command.p2 == 0
    return OK


def internal_authenticate(chip: Chip, command: Command) -> bytes:
    """INTERNAL AUTHENTICATE: P1 00 enciphers, 01 deciphers, 02 answers an 8-byte MAC, with a key of type 30, 31, 32."""
    if command.p1 > 0x02:
        raise Refused(0x6A86)
    record = chip.key(0x30 + command.p1, command.p2)
    chip.require(record.use)
    if not command.data or (command.p1 < 0x02 and len(command.data) % record.secret.block):
        raise Refused(0x6700)
    if command.p1 == 0x02:
        return record.secret.mac(command.data)[:8] + OK
    return (record.secret.decrypt if command.p1 else record.secret.encrypt)(command.data) + OK


def write_key(chip: Chip, command: Command) -> bytes:
    """WRITE KEY, enciphered and MACed under 39.00 of the current DF or, while it has none, of the nearest above it.

    P1 = 01 adds a key, another P1 changes the key of that type. When the MF's own 39.00 is changed, the card leaves the
    factory: from then on creating and erasing below the MF take the state that the new key grants.
    """
    df = chip.df
    key_file = df.files.value.get(KEY_FILE_ID)
    if not isinstance(key_file, KeyFile):
        raise Refused(0x6A82)
    owner = df.guard
    if command.p1 == ADD:
        chip.require(key_file.write_right)
    body, control, _ = chip.protected_body(command, owner, CONTROL)
    content = control.secret.decipher(body)
    if content is None or len(content) < 7:
        raise Refused(0x6A80)
    kind, number = content[0], command.p2
    record = _pin_record(content) if kind == PIN else _key_record(chip, content)
    old = df.pins.value.get(number) if kind == PIN else df.keys.value.get((kind, number))
    if command.p1 == ADD:
        if old is not None:
            raise Refused(0x6A86)
    elif command.p1 != kind:
        raise Refused(0x6A80)
    elif old is None:
        raise Refused(0x6A88)
    else:
        chip.require(old.change if isinstance(old, KeyRecord) else old.use)
    if isinstance(record, PinRecord):
        chip.memory.commit(df.with_pin(number, record))
    else:
        closing = _factory_gate(chip, record) if (kind, number) == (CONTROL, 0) else ()
        chip.memory.commit(df.with_key(kind, number, record), *closing)
    return OK


def bare_key(chip: Chip, command: Command) -> bytes:
    """WRITE KEY without secure messaging: 6987, no key enters a chip in the clear."""
    raise Refused(0x6987)


def _factory_gate(chip: Chip, control: KeyRecord) -> tuple[Write, ...]:
    if chip.df is not chip.mf:
        return ()
    right = 0xF0 | control.next_state & 15
    return chip.mf.create_right.becomes(right), chip.mf.erase_right.becomes(right)


def _key_record(chip: Chip, content: bytes) -> KeyRecord:
    kind, use, change, third, fourth = content[:5]
    value = content[5:]
    if kind in chip.calculating_kinds:
        return KeyRecord(kind, use, change, chip.stored_key(fourth, value), version=third, algorithm=fourth)
    secret = chip.stored_key(SUITES[chip.suite], value)
    if kind == CONTROL:
        return KeyRecord(kind, use, change, secret, next_state=third, tries=Tries.of(fourth))
    if kind in (LINE, PIN_UNBLOCK, PIN_RELOAD):
        return KeyRecord(kind, use, change, secret, tries=Tries.of(fourth))
    raise Refused(0x6A80)


def _pin_record(content: bytes) -> PinRecord:
    if not 2 <= len(content) - 5 <= 8:
        raise Refused(0x6A80)
    return PinRecord(content[1], content[3], Tries.of(content[4]), content[5:])


def card_block(chip: Chip, command: Command) -> bytes:
    """CARD BLOCK, in the MF alone: nothing is answered any more but 6A81."""
    if chip.df is not chip.mf:
        raise Refused(0x6985)
    _maintenance(chip, command, command.p2 == 0)
    chip.memory.commit(chip.blocked.becomes(True))
    return OK


def application_block(chip: Chip, command: Command) -> bytes:
    """APPLICATION BLOCK of the current DF: P2 00 until unblocked, 01 for ever."""
    _maintenance(chip, command, command.p2 <= 1)
    chip.memory.commit(chip.df.lock.becomes(Lock.LOCKED if command.p2 else Lock.BLOCKED))
    return OK


def application_unblock(chip: Chip, command: Command) -> bytes:
    """APPLICATION UNBLOCK: counters and files are as they were; 9303 when it is too late."""
    if chip.df.lock.value is Lock.LOCKED:
        raise Refused(0x9303)
    _maintenance(chip, command, command.p2 == 0)
    chip.memory.commit(chip.df.lock.becomes(Lock.OPEN))
    return OK


def _maintenance(chip: Chip, command: Command, known: bool) -> None:
    if command.p1 or not known:
        raise Refused(0x6A86)
    if len(command.data) > 4:
        raise Refused(0x6700)
    chip.protected_body(command, chip.df, LINE)


KEY_COMMANDS: dict[bytes, Run] = {
    b"\x00\x82": external_authenticate,
    b"\x00\x88": internal_authenticate,
    b"\x80\xd4": bare_key,
    b"\x84\xd4": write_key,
}
LOCK_COMMANDS: dict[bytes, Run] = {
    b"\x84\x16": card_block,
    b"\x84\x1e": application_block,
    b"\x84\x18": application_unblock,
}
