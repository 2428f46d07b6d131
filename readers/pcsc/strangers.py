"""Cards that are not ours, told by their ATR and by the names of their applications.

Only SELECT is sent, which changes nothing on any card, and nothing at all to a memory card: there a reader would make
something of its own of a command. Sources: PC/SC part 3, 3.1.3.2.3 (ATR of memory cards); EMV book 1, 12.3 (payment
directory).
"""

from cardcore.apdu import ResponseApdu
from cardcore.card_map import CONTACTLESS_DIRECTORY, MF, SOCIAL
from cardcore.commands import Select
from cardcore.errors import FormatError
from cardcore.tlv import Tlv, parse
from readers.pcsc.channel import Channel

# By application name; several names may stand on one card.
KNOWN = {
    SOCIAL.aid: "社会保障卡，非本系统发行 a social-security card that is not ours",
    bytes.fromhex("A00000000386980701"): "住建部互联互通卡 a construction-ministry city card",
    bytes.fromhex("A00000000371008698070100"): "手机上的住建部互联互通卡 a construction-ministry city card on a phone",
    bytes.fromhex("A000000333010101"): "银联借记卡 a bank debit card (UnionPay)",
    bytes.fromhex("A000000333010102"): "银联贷记卡 a bank credit card (UnionPay)",
    bytes.fromhex("A000000333010103"): "银联准贷记卡 a bank card (UnionPay, quasi credit)",
    bytes.fromhex("A000000333010106"): "银联电子现金卡 a bank card with electronic cash (UnionPay)",
    bytes.fromhex("A000000632010106"): "交通联合电子现金卡 a T-Union card with electronic cash",
    bytes.fromhex("A0000000031010"): "Visa 银行卡 a bank card (Visa)",
    bytes.fromhex("A0000000041010"): "万事达银行卡 a bank card (Mastercard)",
    bytes.fromhex("A0000000651010"): "JCB 银行卡 a bank card (JCB)",
    bytes.fromhex("D2760000850101"): "NFC 标签 an NFC tag (type 4)",
}
BLANK = (
    "无本系统应用的 CPU 卡（空白卡或其他系统的卡） a CPU card without our applications: a blank, or of another scheme"
)
NOTHING = "未知卡片，没有认识的应用 a card with no application that we know"
MUTE = "卡片不应答任何命令（存储卡、放反或损坏） it answers no command: a memory card, turned over, or broken"
OTHER_CITY = "外地交通联合卡，本网点只能查看 a T-Union card of another city: it can be looked at here, not served"
OTHER_CITY_CARD = (
    "外地住建部互联互通卡，本网点只能查看 a construction-ministry city card of another city: it can be looked at here, "
    "not served"
)
HIDDEN = (
    "钱包应用已锁定，读不出卡号，须由发卡方解锁或换卡 its purse is blocked and shows no serial: the issuer unblocks "
    "it, or replaces the card"
)
UNFINISHED = (
    "本系统的卡，个人化未完成 an application of ours without readable card data: personalisation was not finished"
)
_MEMORY_NAMES = {
    0x0001: "Mifare Classic 1K", 0x0002: "Mifare Classic 4K", 0x0003: "Mifare Ultralight", 0x0026: "Mifare Mini",
    0x003A: "Mifare Ultralight C", 0x003D: "Mifare Ultralight EV1", 0xF004: "Topaz", 0xF011: "FeliCa",
}  # fmt: skip
# In an ATR: initial bytes of a contactless storage card, then the RID of the PC/SC workgroup.
_STORAGE, _WORKGROUP = bytes.fromhex("804F0C"), bytes.fromhex("A000000306")
_AID, _LABEL = 0x4F, 0x50
_MOST_NAMES = 8


def memory_card(atr: bytes) -> str:
    """What an ATR says of a contactless memory card, "" for any other card."""
    at = atr.find(_STORAGE + _WORKGROUP)
    if at < 0 or len(atr) < at + 11:
        return ""
    name = _MEMORY_NAMES.get(int.from_bytes(atr[at + 9 : at + 11], "big"), "")
    return f"存储卡，没有应用 a memory card without applications{f' ({name})' if name else ''}"


async def remark(channel: Channel) -> str:
    """What a card without our applications is, as far as it says. Raises CardTorn, ReaderError."""
    directory = await _select(channel, CONTACTLESS_DIRECTORY)
    listed = names(directory.data) if directory.ok else []
    for aid, what in KNOWN.items():
        if any(told.startswith(aid) for told, _ in listed) or (await _select(channel, aid)).ok:
            return what + _labels(listed)
    if directory.ok or (await _select(channel, MF.aid)).ok:
        return (NOTHING if listed else BLANK) + _labels(listed)
    return NOTHING


def names(fci: bytes) -> list[tuple[bytes, str]]:
    """AIDs of a payment directory with their labels, a few at most; [] when it is none that can be read."""
    found: list[tuple[bytes, str]] = []
    try:
        _gather(parse(fci), found, depth=4)
    except FormatError:
        return found
    return found


def _gather(objects: tuple[Tlv, ...], found: list[tuple[bytes, str]], depth: int) -> None:
    aid = next((item.value for item in objects if item.tag == _AID), None)
    if aid is not None and len(found) < _MOST_NAMES:
        label = next((item.value for item in objects if item.tag == _LABEL), b"")
        found.append((aid, label.decode("ascii", "replace")))
    for item in objects:
        if item.tag in (0x6F, 0xA5, 0xBF0C, 0x61) and depth:
            _gather(item.children, found, depth - 1)


def _labels(listed: list[tuple[bytes, str]]) -> str:
    """Labels as the card tells them; what is not printable is left out, and so is all that is longer than a label."""
    told = ["".join(filter(str.isprintable, label))[:16].strip() for _, label in listed]
    shown = ", ".join(label for label in told if label)
    return f": {shown}" if shown else ""


async def _select(channel: Channel, name: bytes) -> ResponseApdu:
    return (await channel.run([Select(name).apdu()])).last()
