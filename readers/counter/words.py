"""What the counter says to a clerk, in Chinese and English; yuan as text, exactly."""

import re

from cardcore.card_files import Concession
from cardcore.commands.purse import TransactionType
from cardcore.commands.security import WrongPinError
from cardcore.errors import (
    CardError,
    FormatError,
    KeyUseError,
    OnecardError,
    ProfileError,
    ReaderError,
    RefusedError,
    SetupError,
)
from cardcore.step import Stage
from readers.counter.desk import DeskUnreachable
from readers.pcsc.ask import TERMINAL_NUMBER_BYTES
from readers.pcsc.budget import OutOfTime
from readers.pcsc.channel import CardTorn, ReaderQuarantined
from readers.pcsc.job import WrongChip

STAY = "请勿移开卡片 do not remove the card"
COME = "请在任一读卡器上放空白卡 put a blank on any of these readers"
BACK = "卡片已离开，请把同一张卡放回读卡器 the card left: put the same card back on the reader"

_YUAN = re.compile(r"(\d{1,7})(?:\.(\d{1,2}))?", re.ASCII)

STAGES = {
    Stage.IDENTITY: "写入卡号 identity",
    Stage.STRUCTURE: "建立文件 structure",
    Stage.KEYS: "写入密钥 keys",
    Stage.DATA: "写入数据 data",
    Stage.ISSUE: "核对出厂 issue",
}
APPLICATIONS = {
    1: "交通 transit",
    2: "社保 social security",
    3: "小额支付 small payment",
    4: "水电气 utility",
    5: "就医 medical",
    6: "城市卡 city card",
}
CLASSES = {
    Concession.ORDINARY: "普通 ordinary",
    Concession.STUDENT: "学生 student",
    Concession.SENIOR: "老年 senior",
}
TRANSACTIONS = {
    TransactionType.DEPOSIT_LOAD: "存折圈存 load of the deposit",
    TransactionType.LOAD: "圈存 load",
    TransactionType.UNLOAD: "圈提 unload",
    TransactionType.CASH: "取现 cash withdrawal",
    TransactionType.DEPOSIT_PURCHASE: "存折消费 purchase from the deposit",
    TransactionType.PURCHASE: "消费 purchase",
    TransactionType.OVERDRAFT: "修改透支限额为 allowance changed to",
    TransactionType.COMPOSITE: "复合消费 composite purchase",
}
_REFUSALS = {
    "bad-mac1": "卡片校验失败，未充值",
    "unknown-card": "卡号未登记，未充值",
    "frozen-card": "卡片已冻结，未充值",
    "over-limit": "超过余额或单笔限额，未充值",
    "over-quota": "今日充值额度已用完，未充值",
    "licence": "该钱包未获许可，未充值",
    "bad-mac3": "圈提凭证不对，请勿付款",
    "not-open": "业务未开放",
    "unknown-terminal": "终端未登记",
}
# The first class that an error is of; the order is from the special to the general.
_ERRORS: tuple[tuple[type[OnecardError], str], ...] = (
    (CardTorn, BACK.split(" the ")[0]),
    (WrongChip, "卡片不对，未作任何更改"),
    (CardError, "卡片拒绝了命令"),
    (ReaderQuarantined, "读卡器无响应，请拿开卡片"),
    (OutOfTime, "操作超时"),
    (ReaderError, "读卡器或卡片没有准备好"),
    (DeskUnreachable, "清算中心没有应答，请稍后再试"),
    (RefusedError, "业务被拒绝"),
    (KeyUseError, "密钥不可用"),
    (ProfileError, "卡片模板有误"),
    (FormatError, "输入有误"),
    (SetupError, "本机缺少必要条件"),
)


def say(error: OnecardError) -> str:
    """An error for the clerk: what happened in Chinese, then everything in English."""
    if isinstance(error, WrongPinError):
        left = error.tries_left
        return f"密码错误，{f'还可试 {left} 次' if left else '已锁定'}。 {error}"
    if isinstance(error, RefusedError):
        return f"{_REFUSALS.get(error.code, '业务被拒绝')}。 {error.code}: {error}"
    chinese = next((text for kind, text in _ERRORS if isinstance(error, kind)), "出错")
    return f"{chinese}。 {error}"


def parse_yuan(text: str) -> int:
    """Fen of a text like 12.50; raises FormatError for anything that is not a positive amount of whole fen."""
    found = _YUAN.fullmatch(text)
    fen = int(found[1]) * 100 + int((found[2] or "").ljust(2, "0")) if found else 0
    if not fen:
        raise FormatError(f"{text!r} is no amount; write yuan like 50 or 12.50, at most two digits after the point")
    return fen


def yuan(fen: int) -> str:
    """An amount in yuan, two decimals: `12.50`, `-0.05`."""
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02}"


def named(number: bytes) -> str:
    """A chip as shown at the counter: a card's serial masked, a PSAM's terminal number, which is nobody's, whole."""
    return f"PSAM {number.hex()}" if len(number) == TERMINAL_NUMBER_BYTES else masked(number)


def masked(card: bytes) -> str:
    """A serial as shown to bystanders: the first and the last four digits."""
    digits = card.hex()
    return f"{digits[:4]}{'*' * (len(digits) - 8)}{digits[-4:]}"
