"""The commands of the card, one small class each: it builds its APDU and reads its own answer.

    apdu = command.apdu()            # CommandApdu
    answer = command.read(response)  # a typed answer, or CardError that names the command and what to do

Families: `files`, `security`, `purse`, `personalise`. Sources: FMCOS 2.0, JR/T 0025, docs/card.md.
"""

from cardcore.commands.command import Command
from cardcore.commands.files import (
    AppendRecord,
    FileControl,
    GetResponse,
    ReadBinary,
    ReadObject,
    ReadRecord,
    Select,
    UpdateBinary,
    UpdateRecord,
)
from cardcore.commands.personalise import CreateDf, CreateFile, CreateKeyFile, CreatePurse, EraseDf, WriteKey
from cardcore.commands.purse import (
    CreditLoad,
    DebitPurchase,
    DebitReceipt,
    DebitUnload,
    GetBalance,
    GetTransactionProof,
    InitComposite,
    InitLoad,
    InitPurchase,
    InitUnload,
    InitUpdate,
    LoadInitialisation,
    PurchaseInitialisation,
    TransactionProof,
    UpdateComposite,
    UpdateInitialisation,
    UpdateOverdraft,
)
from cardcore.commands.security import (
    ApplicationBlock,
    ApplicationUnblock,
    CardBlock,
    ExternalAuthenticate,
    GetChallenge,
    InternalAuthenticate,
    VerifyPin,
)

__all__ = [
    "AppendRecord",
    "ApplicationBlock",
    "ApplicationUnblock",
    "CardBlock",
    "Command",
    "CreateDf",
    "CreateFile",
    "CreateKeyFile",
    "CreatePurse",
    "CreditLoad",
    "DebitPurchase",
    "DebitReceipt",
    "DebitUnload",
    "EraseDf",
    "ExternalAuthenticate",
    "FileControl",
    "GetBalance",
    "GetChallenge",
    "GetResponse",
    "GetTransactionProof",
    "InitComposite",
    "InitLoad",
    "InitPurchase",
    "InitUnload",
    "InitUpdate",
    "InternalAuthenticate",
    "LoadInitialisation",
    "PurchaseInitialisation",
    "ReadBinary",
    "ReadObject",
    "ReadRecord",
    "Select",
    "TransactionProof",
    "UpdateBinary",
    "UpdateComposite",
    "UpdateInitialisation",
    "UpdateOverdraft",
    "UpdateRecord",
    "VerifyPin",
    "WriteKey",
]
