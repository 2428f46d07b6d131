"""The PSAMs of the utilities' terminals stop at a ceiling, and are let on every night (docs/wire.md, "The ceilings of a
PSAM").

The ceilings of the plan are what the busiest of them needs on its busiest date, to the fen: that one does reach them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING

from simulators.city.facts import Device, Manner, Plan, Tap, business_date
from simulators.city.parts import CityBroken
from simulators.city.records import Kind

if TYPE_CHECKING:
    from simulators.city.player import Player
    from simulators.city.sam import Sam
    from simulators.city.uploads import Uploader

KEPT_SECTOR = "utility"
GAPS, PER_DAY = 20, 8
SM4_ID = 4
AT_CEILING = 0x6985
_GET_CHALLENGE = bytes.fromhex("0084000008")
# INIT SAM FOR PURCHASE of 0 fen by nobody's card.
_PROBE = bytes.fromhex("8070000024" + "00" * 10 + "06" + "20260302000000" + "0104" + "00" * 16 + "08")


def policy(taps: Iterable[Tap]) -> Mapping[str, object]:
    """The value of the `ceilings` policy of these terminals."""
    counts, fen = _opened(taps)
    busiest, richest = max(counts.values(), default=1), max(fen.values(), default=1)
    return {"count": busiest, "amount_fen": max(1, richest), "gaps": GAPS, "per_day": PER_DAY}


def _opened(taps: Iterable[Tap]) -> tuple[Counter[tuple[Device, date]], Counter[tuple[Device, date]]]:
    """How many purchases each of the PSAMs opens on each date, and of how many fen."""
    counts: Counter[tuple[Device, date]] = Counter()
    fen: Counter[tuple[Device, date]] = Counter()
    for tap in taps:
        if tap.device.sector == KEPT_SECTOR and tap.kind is Kind.DEBIT:
            times = 2 if tap.manner is Manner.PSAM_GAP else 1
            counts[tap.device, business_date(tap.at)] += times
            fen[tap.device, business_date(tap.at)] += times * tap.amount_fen
    return counts, fen


class Armer:
    """Has the ceilings of the PSAMs set: before the first date, and each night when the uploads are in."""

    def __init__(self, plan: Plan, player: Player, uploader: Uploader) -> None:
        self._plan, self._player, self._uploader = plan, player, uploader
        self._kept = [d for d in plan.devices if d.sector == KEPT_SECTOR and not d.online]
        self._opened, _ = _opened(plan.taps)
        self._count = max(self._opened.values(), default=1)

    def arm(self, day: date | None) -> None:
        """After the uploads of a date, or, with None, before the first. Raises CityBroken where the service or a PSAM
        does not do it, or a PSAM that has opened all that it may opens more."""
        for device in self._kept:
            sam = self._player.validator(device.psam).sam
            if day and self._opened[device, day] == self._count and (said := sam.word(_PROBE)) != AT_CEILING:
                raise CityBroken(f"PSAM {device.psam} is at its ceiling and answered {said:04X} to one purchase more")
            for step in ("prove", "set"):
                self._take_step(device, sam, step, day)

    def _take_step(self, device: Device, sam: Sam, step: str, day: date | None) -> None:
        said: dict[str, object] = {"step": step, "epoch": 1, "suite": SM4_ID, **self._statement(device, day)}
        said["challenge"] = sam.ask(_GET_CHALLENGE).hex()
        path = f"/v1/t/{device.terminal}/psams/{device.psam}/ceilings"
        body = json.dumps(said).encode()
        answer = self._uploader.ask("POST", path, body, "application/json")
        if answer.status != 200:
            raise CityBroken(f"POST {path}, {step}: {answer.status} {answer.document}")
        sam.ask(bytes.fromhex(str(answer.document["command"])))

    def _statement(self, device: Device, day: date | None) -> Mapping[str, int]:
        """The highest sequence and transaction number by the end of the date."""
        if day is None:
            return {"sequence": 0, "transaction": 0}
        sequences = [s.sequence for s in self._plan.sents if s.device is device and business_date(s.stored_at) <= day]
        numbers = [t.terminal_transaction for t in self._plan.taps if t.device is device and business_date(t.at) <= day]
        return {"sequence": max(sequences, default=0), "transaction": max(numbers, default=0)}
