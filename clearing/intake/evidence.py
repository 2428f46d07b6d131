"""What one transaction looks up before a group is judged."""

import json
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from cardcore.record import Kind, Sector
from clearing.intake.settle import Arrivals, Evidence, OpenAct
from clearing.registry.dates import instant_us
from clearing.store import intake as rows
from clearing.store.types import Connection, StoredRow
from clearing.verdict.precedence import Tally
from clearing.verdict.table import Proofs
from keys.columns import Records
from keys.proof import split_digest
from keys.verifiers import OpenedAct

# The purse application of an act, by its sector (docs/record.md).
ACT_APPLICATION = {Sector.SOCIAL: 2, Sector.MEDICAL: 5}
Run = tuple[int, int, int, int]


def sequence_runs(records: Records) -> list[Run]:
    """Contiguous sequences among the records: (terminal, epoch, first, last)."""
    columns = [records[name].astype(np.int64) for name in ("sequence", "epoch", "terminal")]
    order = np.lexsort(columns)
    sequence, epoch, terminal = (column[order] for column in columns)
    edge = (np.diff(terminal) != 0) | (np.diff(epoch) != 0) | (np.diff(sequence) > 1)
    starts = np.concatenate(([0], np.flatnonzero(edge) + 1))
    stops = np.concatenate((np.flatnonzero(edge), [len(order) - 1]))
    return list(
        zip(
            terminal[starts].tolist(),
            epoch[starts].tolist(),
            sequence[starts].tolist(),
            sequence[stops].tolist(),
            strict=True,
        )
    )


async def look_up(
    connection: Connection,
    arrivals: Arrivals,
    proofs: Proofs,
    open_date: date,
    owners: Sequence[tuple[int, date]] = (),
    *,
    runs: Sequence[Run] = (),
    facts: bool,
) -> Evidence:
    """Evidence on the group: exhibits within `runs`, tallies of `owners`, acts, loads, and with `facts` the stored
    proof keys."""
    records = arrivals.records
    cards = np.unique(records["card"][records["kind"] == Kind.LOAD])
    act_ids = np.unique(records["act_id"][records["kind"] == Kind.ACT])
    tallies = await rows.day_tallies(connection, *zip(*owners, strict=True)) if owners else {}
    return Evidence(
        open_date=open_date,
        exhibits=await rows.seen_exhibits(connection, runs) if runs else frozenset(),
        facts=await rows.known_facts(
            connection,
            [card.tobytes() for card in records["card"]],
            [key.tobytes() for key in proofs.key],
        )
        if facts
        else {},
        loads=await rows.authorised_loads(connection, [card.tobytes() for card in cards]) if len(cards) else {},
        acts=_opened(await rows.opened_acts(connection, [act.tobytes() for act in act_ids])) if len(act_ids) else {},
        tallies={at: Tally(*tallies.get(owner, (0, 0))) for at, owner in enumerate(owners)},
    )


def _opened(acts: Mapping[bytes, StoredRow]) -> dict[bytes, OpenAct]:
    return {act_id: _open_act(row) for act_id, row in acts.items()}


def _open_act(row: StoredRow) -> OpenAct:
    sector = Sector(row["sector"])
    split: dict[str, int] = json.loads(row["split"])
    named = ("card", "amount_fen", "transaction_type", "terminal", "terminal_number", "date", "time")
    return OpenAct(
        fields={name: row[name] for name in named} | {"purse": ACT_APPLICATION[sector]},
        split=split,
        proof=OpenedAct(sector, row["challenge"], split_digest(split)),
        opened=instant_us(row["opened_at"]),
    )
