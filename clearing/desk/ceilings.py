"""How much a PSAM may sign for before its owner has seen it again (docs/wire.md, "The ceilings of a PSAM").

A stolen validator keeps its PSAM. So a PSAM stops at a ceiling, and goes on only with an answer from here, which is
given when what it has signed for is stored, and never to one that is lost.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from cardcore.authority import PsamIdentity
from clearing.clock import Clock
from clearing.problem import Problem, Retry
from clearing.registry.dates import instant_us
from clearing.registry.document import CeilingsValue
from clearing.registry.snapshot import Policy, Registry, RegistryFeed, Terminal
from clearing.store import ceilings as rows
from clearing.store.intake import day_tallies, write_security_event
from clearing.store.types import Connection, Pool
from clearing.verdict.precedence import Tally
from keys.psams import Ceilings, PsamKeeper

TOMORROW_S = 3600


@dataclass(frozen=True, slots=True)
class Statement:
    """What a terminal says of its PSAM: the highest sequence that it has made in its epoch, and the last transaction
    number that the PSAM has told; 0 before the first."""

    terminal: int
    psam: PsamIdentity
    epoch: int
    sequence: int
    transaction: int


@dataclass(frozen=True, slots=True)
class Armed:
    """The command that sets the ceilings, for the challenge that was given, and which they are."""

    command: bytes
    ceilings: Ceilings


@dataclass(frozen=True, slots=True)
class Arming:
    """Answers terminals whose PSAMs ask to go on. `keeper` is None where this house holds no keys of PSAMs."""

    pool: Pool
    keeper: PsamKeeper | None
    clock: Clock
    feed: RegistryFeed

    async def prove(self, statement: Statement, challenge: bytes) -> bytes:
        """EXTERNAL AUTHENTICATE for a PSAM that would be armed now. Raises Problem with a code of docs/wire.md."""
        keeper = self._keeper()
        async with self._permitted(statement):
            pass
        return await keeper.prove(statement.psam, challenge)

    async def arm(self, statement: Statement, challenge: bytes) -> Armed:
        """SET CEILINGS; that the PSAM was armed is written down and committed before the command is made. Raises
        Problem with a code of docs/wire.md.

        A cancelled call may have written it down; asking again is what a lost answer costs, and one of the day's.
        """
        keeper = self._keeper()
        async with self._permitted(statement) as permit:
            await rows.write_arming(permit.connection, permit.row(statement))
        ceilings = Ceilings(permit.value.count, permit.value.amount_fen)
        return Armed(await keeper.set_ceilings(statement.psam, ceilings, challenge), ceilings)

    def _keeper(self) -> PsamKeeper:
        if self.keeper is None:
            raise Problem(422, "no-key", Retry.NEVER, "This service holds no keys of PSAMs. Nothing was done.")
        return self.keeper

    @asynccontextmanager
    async def _permitted(self, statement: Statement) -> "AsyncIterator[_Permit]":
        """The transaction in which everything was found to be in order; a refusal that tells of a thief is kept."""
        now = self.clock.now()
        async with self.pool.acquire() as connection:
            registry = await self.feed.current(connection)
            terminal = registry.terminals.get(statement.terminal)
            if terminal is None:
                await self._note(connection, "unknown-terminal", statement)
                raise Problem(403, "unknown-terminal", Retry.NEVER, "This terminal is not in the registry.")
            if not _in_force(registry, terminal, statement.psam.terminal_number, now):
                await self._note(connection, "psam-inactive", statement)
                raise Problem(
                    403,
                    "psam-inactive",
                    Retry.NEVER,
                    "No PSAM of this number is in force for the operator and sector of this terminal. It stays as it "
                    "is. See its row in the registry.",
                )
            async with connection.transaction():
                await rows.hold(connection, statement.psam.terminal_number)
                policy = _policy(registry, terminal, now)
                permit = _Permit(connection, registry.business_date(now), now, policy)
                await permit.check_terminal(statement, terminal)
                await permit.check_records(statement)
                await permit.check_transactions(statement)
                await permit.check_day(statement)
                yield permit

    async def _note(self, connection: Connection, kind: str, statement: Statement) -> None:
        number = statement.psam.terminal_number.hex()
        detail = f"ceilings of PSAM {number} were asked for"
        await write_security_event(connection, kind, statement.terminal, detail, None, self.clock.now())


@dataclass(frozen=True, slots=True)
class _Permit:
    """The conditions, one after the other; each raises Problem."""

    connection: Connection
    day: date
    now: datetime
    policy: Policy

    @property
    def value(self) -> CeilingsValue:
        assert isinstance(self.policy.value, CeilingsValue)
        return self.policy.value

    async def check_terminal(self, statement: Statement, terminal: Terminal) -> None:
        if statement.epoch != terminal.epoch:
            raise _behind(f"This terminal is in epoch {terminal.epoch}, not {statement.epoch}.")
        tallies = await day_tallies(self.connection, [terminal.id], [self.day])
        if any(Tally(*tally).over for tally in tallies.values()):
            raise Problem(
                403,
                "terminal-suspended",
                Retry.AFTER,
                "Too many records of this terminal had no proof today. Its PSAM stays as it is until tomorrow.",
                TOMORROW_S,
            )

    async def check_records(self, statement: Statement) -> None:
        holes = await rows.missing_sequences(self.connection, statement.terminal, statement.epoch, statement.sequence)
        if holes:
            epoch = holes[0][0]
            raise Problem(
                409,
                "records-missing",
                Retry.NOW,
                f"Records of epoch {epoch} are not stored. The PSAM stays as it is. Upload them, then ask again.",
                missing=[(first, last) for each, first, last in holes if each == epoch],
            )

    async def check_transactions(self, statement: Statement) -> None:
        """From the second time on: before the first a PSAM has no ceiling, so that arming it can only do good."""
        psam = statement.psam.terminal_number
        before = await rows.last_arming(self.connection, psam)
        if before is None:
            return
        terminals = sorted({statement.terminal, *await rows.terminals_of(self.connection, psam)})
        proven = await rows.highest_transaction(self.connection, psam, terminals, before["batch_id"])
        known = max(before["transaction"], proven)
        if statement.transaction < known:
            raise _behind(
                f"This PSAM has told number {known} already, and {statement.transaction} is said to be its last."
            )
        count, holes = await rows.missing_transactions(
            self.connection, psam, terminals, before["batch_id"], before["transaction"] + 1, statement.transaction
        )
        if count > self.value.gaps:
            raise Problem(
                409,
                "transactions-missing",
                Retry.NOW,
                f"{count} transaction numbers of this PSAM are in no stored record, and {self.value.gaps} may be. The "
                "PSAM stays as it is. Upload their records, then ask again.",
                missing=holes,
            )

    async def check_day(self, statement: Statement) -> None:
        done = await rows.armings_on(self.connection, statement.psam.terminal_number, self.day)
        if done >= self.value.per_day:
            raise Problem(
                409,
                "over-quota",
                Retry.AFTER,
                f"The ceilings of this PSAM were set {done} times today, which is all. Ask again tomorrow.",
                TOMORROW_S,
            )

    def row(self, statement: Statement) -> dict[str, object]:
        return {
            "psam": statement.psam.terminal_number,
            "terminal": statement.terminal,
            "epoch": statement.epoch,
            "sequence": statement.sequence,
            "transaction": statement.transaction,
            "count": self.value.count,
            "amount_fen": self.value.amount_fen,
            "policy_version": self.policy.version,
            "date": self.day,
            "armed_at": self.now,
        }


def _in_force(registry: Registry, terminal: Terminal, number: bytes, now: datetime) -> bool:
    """Whether the PSAM is active now, and of the terminal's operator and sector."""
    instants = np.array([instant_us(now)], np.int64)
    found = registry.psams.locate(np.array([int.from_bytes(number)], np.int64), instants)
    ours = (int(found.operator[0]), int(found.sector[0])) == (terminal.operator, int(terminal.sector))
    return bool(found.active[0]) and ours


def _policy(registry: Registry, terminal: Terminal, now: datetime) -> Policy:
    dated = registry.calendar is not None
    found = registry.policy(CeilingsValue.policy, terminal.class_, registry.business_date(now)) if dated else None
    if found is None:
        raise Problem(
            422,
            "no-ceilings",
            Retry.NEVER,
            f"No `ceilings` policy is in force for terminals of class {terminal.class_}. Nothing was done.",
        )
    return found


def _behind(message: str) -> Problem:
    return Problem(
        409, "behind", Retry.NEVER, f"{message} The PSAM stays as it is. Ask with what it and its terminal say now."
    )
