"""What the answer to SELECT says about an application, in any of the layouts and conventions that profiles name."""

from dataclasses import dataclass, field
from enum import Enum

from cardcore.apdu import ResponseApdu
from cardcore.card_files import CommonData, MedicalIdentity, MinistryData
from cardcore.card_map import CITY_CARD, MEDICAL
from cardcore.commands.files import FileControl, Select
from cardcore.errors import FormatError
from cardcore.switches import BlockedSelect

_BLOCKED, _REFUSED, _ABSENT = 0x6283, 0x6A81, 0x6A82


class Availability(Enum):
    """Whether the application can be used."""

    OPEN = "open"
    BLOCKED = "blocked"
    CARD_BLOCKED = "card blocked"
    # 6A81 where a blocked application says so too: select the MF, which a blocked card refuses as well.
    APPLICATION_OR_CARD_BLOCKED = "application or card blocked"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Selection:
    """An application as selected; `control` is empty where the card shows nothing."""

    availability: Availability
    control: FileControl = field(default_factory=FileControl)


def read_selection(command: Select, reply: ResponseApdu, convention: BlockedSelect) -> Selection:
    """The selection, also of a blocked application, whose common data a counter still reads for its replacement.

    Raises CardError for any other refusal and for an FCI of another form.
    """
    if reply.sw == _BLOCKED and convention is BlockedSelect.FCI_6283:
        return Selection(Availability.BLOCKED, command.read(ResponseApdu(reply.data, 0x9000)))
    if reply.sw == _REFUSED:
        refused = convention is BlockedSelect.REFUSED_6A81
        return Selection(Availability.APPLICATION_OR_CARD_BLOCKED if refused else Availability.CARD_BLOCKED)
    if reply.sw == _ABSENT:
        return Selection(Availability.ABSENT)
    return Selection(Availability.OPEN, command.read(reply))


def read_common(application: int, raw: bytes) -> CommonData | MinistryData:
    """EF 0015 of an application by its number: `issuer`, `card`, `starts`, `expires`, `good_on`; raises FormatError."""
    if application == CITY_CARD.number:
        return MinistryData.decode(raw)
    if application == MEDICAL.number:
        return MedicalIdentity.decode(raw).common
    if not raw:
        raise FormatError("the application shows no common data: personalisation was not finished")
    return CommonData.decode(raw)
