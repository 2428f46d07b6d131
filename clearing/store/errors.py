"""What can be wrong with the store.

StoreError
├── BinariesMissing        no usable PostgreSQL programs on this machine
├── StateDirUnwritable     the state directory cannot be made or written
├── StateDirOccupied       something that is not ours, or is not ours to run, lies where the database belongs
├── OtherMajorVersion      the database was made by another major version of PostgreSQL
├── DiskFull               too little space to make or start the database
├── SocketDirUnsafe        the directory of the socket belongs to, or is open to, somebody else
├── AccountUnusable        root, but neither a user namespace nor a system user is to be had
├── LaunchBusy             another launch of the same database does not come to an end
├── ServerFailed           the server did not start, answer or stop
├── ServerUnreachable      no connection within the time that was granted
├── ServerRefused          the server answered, and does not let us in
├── ServerTooOld           PostgreSQL older than 16
├── MigrationsInvalid      the numbered SQL files of this program are not 0001, 0002, …
├── MigrationFailed        a numbered SQL file was refused by the server
├── DatabaseOlder          the database lacks migrations of this program
└── DatabaseNewer          the database holds migrations that this program does not know
"""

from cardcore.errors import SetupError


class StoreError(SetupError):
    """The store cannot be used; the message says what happened, in what state things are, and what to do."""


class BinariesMissing(StoreError):
    """No usable PostgreSQL programs."""


class StateDirUnwritable(StoreError):
    """The state directory cannot be made or written."""


class StateDirOccupied(StoreError):
    """Something else lies where the database belongs."""


class OtherMajorVersion(StoreError):
    """The data directory is of another major version than the programs."""


class DiskFull(StoreError):
    """Too little space for the database."""


class SocketDirUnsafe(StoreError):
    """The socket's directory is not ours alone."""


class AccountUnusable(StoreError):
    """Root cannot run PostgreSQL itself, and found nobody else to run it as."""


class LaunchBusy(StoreError):
    """Another launch holds the lock."""


class ServerFailed(StoreError):
    """The embedded server did not start, answer or stop."""


class ServerUnreachable(StoreError):
    """No connection within the granted time."""


class ServerRefused(StoreError):
    """Wrong password, user or database: waiting does not help."""


class ServerTooOld(StoreError):
    """PostgreSQL older than 16."""


class MigrationsInvalid(StoreError):
    """The numbered SQL files are not 0001, 0002, …"""


class MigrationFailed(StoreError):
    """A numbered SQL file was refused; its transaction was undone."""


class DatabaseOlder(StoreError):
    """The database lacks migrations that the program needs."""


class DatabaseNewer(StoreError):
    """The database holds migrations that the program does not know."""
