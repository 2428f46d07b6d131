"""Cards and receipts on a terminal."""

from rich.console import Console
from rich.table import Table

from cardcore.card_files import Concession, LogRecord, MinistryData
from cardcore.commands.purse import TransactionType
from cardcore.purse import Committed, Refused
from readers.counter.loading import Ended
from readers.counter.words import APPLICATIONS, BACK, CLASSES, TRANSACTIONS, masked, yuan
from readers.pcsc.look import CardView, PurseView

_STRANGER = "不是本系统的卡"


def show_card(console: Console, view: CardView) -> None:
    """A card as it was read: whose, what is on it, what it did last."""
    if not view.ours:
        text = f"{_STRANGER} not a card of ours: {view.remark} (ATR {view.atr.hex().upper()})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if view.common is None:
        return
    table = Table(show_header=False, title="一卡通 onecard")
    table.add_row("卡号 serial", masked(view.common.card))
    table.add_row("发卡方 issuer", view.common.issuer.hex())
    table.add_row("有效期 valid", f"{view.common.starts} – {view.common.expires}")
    if view.concession is not None:
        table.add_row("类别 class", _class(view.concession))
    if isinstance(view.common, MinistryData) and not view.common.enabled:
        table.add_row("状态 state", "未启用 not enabled yet")
    names = [
        APPLICATIONS[number] + (" (锁定 blocked)" if number in view.blocked else "") for number in view.applications
    ]
    table.add_row("应用 applications", "\n".join(names))
    for purse in view.purses:
        table.add_row(f"余额 balance: {APPLICATIONS[purse.application]}", f"{yuan(purse.value_fen)} 元 yuan")
    console.print(table)
    for purse in view.purses:
        if purse.log:
            console.print(_log(purse))


def _class(number: int) -> str:
    return CLASSES[Concession(number)] if number in set(Concession) else f"{number}"


def _log(purse: PurseView) -> Table:
    titles = "时间 time", "交易 what", "金额 yuan", "终端 terminal"
    table = Table(*titles, title=f"交易记录 log: {APPLICATIONS[purse.application]}")
    names = {int(kind): name for kind, name in TRANSACTIONS.items()}
    for record in purse.log:
        date, time = record.date.hex(), record.time.hex()
        when = f"{date[:4]}-{date[4:6]}-{date[6:]} {time[:2]}:{time[2:4]}:{time[4:]}"
        what = names.get(record.transaction_type, f"{record.transaction_type:02X}")
        table.add_row(when, what, yuan(_sum_fen(record)), record.terminal_number.hex())
    return table


def _sum_fen(record: LogRecord) -> int:
    """What a record is about: a change of the allowance has no amount, but the new limit."""
    return record.overdraft_fen if record.transaction_type == TransactionType.OVERDRAFT else record.amount_fen


def show_load(console: Console, ended: Ended) -> None:
    """How a load ended: a receipt, a refusal, or what is open and what to do."""
    record, outcome = ended.load.draft, ended.outcome
    amount = f"{yuan(record.amount_fen)} 元 yuan"
    match outcome:
        case Committed():
            table = Table(show_header=False, title="充值凭条 receipt")
            table.add_row("卡号 serial", masked(record.card))
            table.add_row("充值 loaded", amount)
            table.add_row("余额 balance", f"{yuan(record.balance_before_fen + record.amount_fen)} 元 yuan")
            table.add_row("时间 time", f"{record.date.hex()} {record.time.hex()}")
            table.add_row("凭证 load", ended.load.load_id)
            if outcome.tac is not None:
                table.add_row("TAC", outcome.tac.hex().upper())
            console.print(table)
            if outcome.tac is None:
                console.print(
                    "卡内凭证已被覆盖，由清算按下次刷卡入账 the card has no proof any more; clearing books it"
                )
        case Refused(reason=reason):
            console.print(f"未充值 {amount}: nothing was loaded: {reason}")
        case _:
            console.print(
                f"充值 {amount} 结果未知，请勿退款也勿重收 the load is open: neither pay back nor charge again"
            )
            if ended.ran_out_at:
                console.print(f"超时于 time ran out at: {ended.ran_out_at}", highlight=False)
            console.print(BACK)
