"""The PIN: VERIFY, CHANGE PIN, RELOAD PIN, PIN UNBLOCK (JR/T 0025; MAC of RELOAD PIN over the new PIN only).

A try is counted before the PIN is compared and given back after: who cuts the power in between has spent it.
"""

from dataclasses import replace

from simulators.chip import OK, Chip, Command, Run
from simulators.file_system import PIN_RELOAD, PIN_UNBLOCK, PinRecord, Refused


def verify(chip: Chip, command: Command) -> bytes:
    """VERIFY: the PIN's next state becomes the security state; 63Cx tells the tries left, 6983 that there are none."""
    if command.p1:
        raise Refused(0x6A86)
    record = _presented(chip, command.p2, command.data)
    chip.grant(record.next_state)
    chip.pin_verified = True
    return OK


def reload_or_change(chip: Chip, command: Command) -> bytes:
    """RELOAD PIN (P1 00): new PIN ‖ MAC. CHANGE PIN (P1 01): old ‖ FF ‖ new, which counts as a try."""
    if command.p1 == 0x01:
        old, separator, new = command.data.partition(b"\xff")
        if not separator:
            raise Refused(0x6A80)
        _require_pin(new)
        record = _presented(chip, command.p2, old)
    elif command.p1 == 0x00:
        record, new = _pin(chip, command.p2), command.data[:-4]
        _require_pin(new)
        _check_reload(chip, new, command.data[-4:])
    else:
        raise Refused(0x6A86)
    _store(chip, command.p2, record, new)
    return OK


def unblock(chip: Chip, command: Command) -> bytes:
    """PIN UNBLOCK: the PIN's number in P2 (or P1, by behaviour); enciphered PIN ‖ MAC under key 37."""
    number, other = command.p2, command.p1
    if chip.behaviour.pin_unblock_place == "p1":
        number, other = other, number
    if other:
        raise Refused(0x6A86)
    record = _pin(chip, number)
    body, key, _ = chip.protected_body(command, chip.df, PIN_UNBLOCK)
    new = key.secret.decipher(body)
    if new is None:
        raise Refused(0x6A80)
    _require_pin(new)
    _store(chip, number, record, new)
    return OK


def _check_reload(chip: Chip, new: bytes, mac: bytes) -> None:
    key = chip.key(PIN_RELOAD, 0)
    good = key.secret.tac_key().mac(new)[:4] == mac
    tries = key.tries
    if tries is not None and not (good and tries.left == tries.most):
        after = tries.restored() if good else tries.missed()
        chip.memory.commit(chip.df.with_key(PIN_RELOAD, 0, replace(key, tries=after)))
    if not good:
        raise Refused(0x9302)


def _pin(chip: Chip, number: int) -> PinRecord:
    record = chip.df.pins.value.get(number)
    if record is None:
        raise Refused(0x9403)
    chip.require(record.use)
    return record


def _require_pin(pin: bytes) -> None:
    if not 2 <= len(pin) <= 6:
        raise Refused(0x6700)


def _presented(chip: Chip, number: int, pin: bytes) -> PinRecord:
    """The PIN record, its counter restored, when `pin` is right; otherwise one try fewer."""
    record = _pin(chip, number)
    _require_pin(pin)
    tries = record.tries
    if tries is not None and not tries.left:
        raise Refused(0x6983)
    if tries is not None:
        chip.memory.note(chip.df.with_pin(number, replace(record, tries=tries.missed())))
    if not record.matches(pin):
        chip.pin_verified = False
        chip.withdraw(record.next_state)
        raise Refused(0x6300 if tries is None else 0x63C0 | tries.left - 1)
    if tries is not None:
        record = replace(record, tries=tries.restored())
        chip.memory.note(chip.df.with_pin(number, record))
    return record


def _store(chip: Chip, number: int, record: PinRecord, pin: bytes) -> None:
    tries = None if record.tries is None else record.tries.restored()
    chip.memory.commit(chip.df.with_pin(number, replace(record, pin=pin, tries=tries)))


PIN_COMMANDS: dict[bytes, Run] = {b"\x00\x20": verify, b"\x80\x5e": reload_or_change, b"\x84\x24": unblock}
