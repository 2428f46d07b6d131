"""Names of accounts, the settlement class of each, and the party that it settles with (docs/ledger.md)."""

from enum import StrEnum

from cardcore.record import Sector

PURSE = "purse"
CLEARING = "clearing"
ISSUER = "issuer"


class SettlementClass(StrEnum):
    """Classes never net with each other (rule 11)."""

    STORED_VALUE = "stored value"
    INSURANCE_FUND = "insurance fund"
    PERSONAL_ACCOUNT = "personal medical account"
    TREASURY_SUBSIDY = "treasury subsidy"
    BANK_CASH = "bank cash"


TRANSFER = "transfer"
_CLASSES = {
    "cash": SettlementClass.BANK_CASH,
    "subsidy": SettlementClass.TREASURY_SUBSIDY,
    "subsidy_payable": SettlementClass.TREASURY_SUBSIDY,
    "fund": SettlementClass.INSURANCE_FUND,
    "fund_payable": SettlementClass.INSURANCE_FUND,
    "account": SettlementClass.PERSONAL_ACCOUNT,
    "account_payable": SettlementClass.PERSONAL_ACCOUNT,
}
_COUNTER_POSITIONS = {"subsidy": "treasury", "fund": "fund", "account": "account", "fee": CLEARING}
FRAUD = "fraud"
DUE_PURSE = "due:purse"
SUBSIDY = "subsidy"


def float_account(purse: int) -> str:
    return f"float:{purse}"


def unsettled(purse: int) -> str:
    return f"unsettled:{purse}"


def channel(name: str) -> str:
    """Where a load takes its money from: cash of a party, or the value of a replaced card."""
    return TRANSFER if name == TRANSFER else f"cash:{name}"


def due(sector: Sector) -> str:
    return f"due:{sector.label}"


def payable(operator: int) -> str:
    return f"payable:{operator}"


def suspense(operator: int) -> str:
    return f"suspense:{operator}"


def pending_receivable(issuer: bytes) -> str:
    return f"pending_receivable:{issuer.hex()}"


def pending_payable(operator: int) -> str:
    return f"pending_payable:{operator}"


def fee(operator: int) -> str:
    return f"fee:{operator}"


def payer_payable(payer: str, operator: int) -> str:
    """The payable of an act's payer (`fund`, `account`) or of the treasury (`subsidy`)."""
    return f"{payer}_payable:{operator}"


def source(scheme: str) -> str:
    """The counter-position of a source without cryptograms."""
    return f"source:{scheme}"


def class_of(account: str) -> SettlementClass:
    """The settlement class of an account, by the head of its name."""
    return _CLASSES.get(account.partition(":")[0], SettlementClass.STORED_VALUE)


def operator_of(account: str) -> int | None:
    """The operator whose settled payable this account is, else None: pending and suspended money is not settled."""
    head, _, party = account.partition(":")
    return int(party) if head in ("payable", "subsidy_payable", "fund_payable", "account_payable") else None


def party_of(account: str) -> str:
    """The party of the net position that an account of a sector's ledger belongs to."""
    operator = operator_of(account)
    if operator is not None:
        return str(operator)
    head = account.partition(":")[0]
    return account if head == "source" else _COUNTER_POSITIONS.get(head, ISSUER)
