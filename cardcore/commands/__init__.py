"""The commands of the card, one small class each: it builds its APDU and reads its own answer.

    apdu = command.apdu()            # CommandApdu
    answer = command.read(response)  # a typed answer, or CardError that names the command and what to do

Families: `files`, `protected` (secure messaging), `security`, `pin`, `purse` with `online` and `offline`,
`personalise`, `psam`. Sources: FMCOS 2.0, JR/T 0025, docs/card.md.
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
from cardcore.commands.offline import DebitPurchase, InitCash, InitComposite, InitPurchase, UpdateComposite, composite
from cardcore.commands.online import CreditLoad, DebitUnload, InitLoad, InitUnload, InitUpdate, UpdateOverdraft
from cardcore.commands.personalise import CreateDf, CreateFile, CreateKeyFile, CreatePurse, EraseDf, WriteKey
from cardcore.commands.pin import ChangePin, ReloadPin, UnblockPin
from cardcore.commands.protected import ProtectedRead, ProtectedWrite, SecuredAnswer
from cardcore.commands.psam import CreditSam, Crypt, InitDescrypt, InitSamPurchase, PsamGrant, SetCeilings
from cardcore.commands.purse import (
    DebitReceipt,
    GetBalance,
    GetTransactionProof,
    LoadInitialisation,
    PurchaseInitialisation,
    PurseKind,
    TransactionProof,
    TransactionType,
    UpdateInitialisation,
)
from cardcore.commands.security import (
    ApplicationBlock,
    ApplicationUnblock,
    CardBlock,
    ExternalAuthenticate,
    GetChallenge,
    InternalAuthenticate,
    InternalCipher,
    VerifyPin,
)

__all__ = [
    "AppendRecord",
    "ApplicationBlock",
    "ApplicationUnblock",
    "CardBlock",
    "ChangePin",
    "Command",
    "CreateDf",
    "CreateFile",
    "CreateKeyFile",
    "CreatePurse",
    "CreditLoad",
    "CreditSam",
    "Crypt",
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
    "InitCash",
    "InitComposite",
    "InitDescrypt",
    "InitLoad",
    "InitPurchase",
    "InitSamPurchase",
    "InitUnload",
    "InitUpdate",
    "InternalAuthenticate",
    "InternalCipher",
    "LoadInitialisation",
    "ProtectedRead",
    "ProtectedWrite",
    "PsamGrant",
    "PurchaseInitialisation",
    "PurseKind",
    "ReadBinary",
    "ReadObject",
    "ReadRecord",
    "ReloadPin",
    "SecuredAnswer",
    "Select",
    "SetCeilings",
    "TransactionProof",
    "TransactionType",
    "UnblockPin",
    "UpdateBinary",
    "UpdateComposite",
    "UpdateInitialisation",
    "UpdateOverdraft",
    "UpdateRecord",
    "VerifyPin",
    "WriteKey",
    "composite",
]
