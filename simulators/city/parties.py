"""The city's registry: issuers, parties, terminals, PSAMs, cards and dated policies (docs/registry.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from random import Random

from simulators.city.facts import ALLOWANCE_FEN, FOREIGN, OWN, Device, PlannedCard
from simulators.city.records import BATCH_JSON, CHINA

PARTIES = {
    101: ("operator", "第一公交公司"), 102: ("operator", "第二公交公司"), 103: ("operator", "城西公交公司"),
    104: ("operator", "城郊巴士"), 111: ("operator", "地铁运营公司"), 112: ("operator", "市域铁路公司"),
    201: ("operator", "便民超市"), 202: ("operator", "校园餐饮"), 301: ("operator", "自来水公司"),
    302: ("operator", "燃气公司"), 401: ("operator", "社会保险经办机构"), 501: ("operator", "市第一医院"),
    502: ("operator", "市中医院"), 901: ("bank", "备付金银行"), 902: ("counter", "公共服务卡服务厅"),
    903: ("treasury", "市财政局"), 904: ("fund", "医疗保险基金"),
}  # fmt: skip
BUS, METRO, SMALLPAY, UTILITY = (101, 102, 103, 104), (111, 112), (201, 202), (301, 302)
FLAT_FEN = {11: 200, 12: 100, 21: 200, 22: 150, 31: 200, 32: 300, 41: 200, 42: 250}
METRO_FARE = {1: (200, 50, 900), 2: (300, 55, 800)}
"""Base, step and most of each line, fen; the odd step leaves half a fen to round where a class pays half."""
CONCESSION = {1: 100, 2: 50, 3: 0}
FEE_BPS = {"*": 30, "201": 55}
PROFILES = ("shared-purse", "purse-per-sector")
_SECTOR_DIGITS = {"transit": "01", "smallpay": "03", "utility": "04"}


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """The devices by what they do; the second twin stands beside them."""

    bus: tuple[Device, ...]
    metro: tuple[Device, ...]
    smallpay: tuple[Device, ...]
    utility: tuple[Device, ...]
    counters: tuple[Device, ...]
    acts: tuple[Device, ...]
    twin: Device

    @property
    def all(self) -> tuple[Device, ...]:
        return (*self.bus, *self.metro, *self.smallpay, *self.utility, *self.counters, *self.acts, self.twin)


def _validators(
    operators: Sequence[int], sector: str, kind: str, count: int, places: Sequence[tuple[int, int]]
) -> list[Device]:
    devices = []
    for i in range(max(count, 2 * len(operators))):
        operator, nth = operators[i % len(operators)], i // len(operators)
        line, station = places[i % len(places)] if kind == "bus" else (0, 0)
        if kind == "metro":
            line, station = 1 + i % len(operators), 1 + nth * 3
        psam = f"7910{_SECTOR_DIGITS[sector]}{operator * 1000 + nth:06d}"
        media = BATCH_JSON if nth == 1 and i % len(operators) == 0 else "application/vnd.onecard.batch"
        devices.append(Device(operator * 1000 + nth + 1, operator, sector, kind, psam, line, station, media))
    return devices


def _desk(terminal: int, operator: int, sector: str, kind: str) -> Device:
    return Device(terminal, operator, sector, kind, f"0000{terminal:08x}")


def fleet(debits: int) -> Fleet:
    """About one device per 200 debits of a day, never fewer than two per operator."""
    size = min(160, max(24, debits // 200))
    bus = _validators(BUS, "transit", "bus", size * 40 // 100, _bus_places())
    # The twin is a second box that was set up with the terminal id of the last bus, and has a PSAM of its own.
    twin = replace(
        bus[-1], psam=f"791001{bus[-1].operator * 1000 + 999:06d}", twin=True, media="application/vnd.onecard.batch"
    )
    bus[-1] = replace(bus[-1], media=twin.media)
    return Fleet(
        tuple(bus),
        tuple(_validators(METRO, "transit", "metro", size * 35 // 100, ())),
        tuple(_validators(SMALLPAY, "smallpay", "pos", size * 15 // 100, ())),
        tuple(_validators(UTILITY, "utility", "utility", size * 10 // 100, ())),
        tuple(_desk(902001 + i, 902, "transit", "counter") for i in range(3)),
        (
            _desk(401001, 401, "social", "agency"),
            _desk(501001, 501, "medical", "hospital"),
            _desk(502001, 502, "medical", "hospital"),
        ),
        twin,
    )


def _bus_places() -> list[tuple[int, int]]:
    """Lines in the order in which `_validators` goes round the operators: operator k owns the lines k1 and k2."""
    return [((1 + i % 4) * 10 + 1 + (i // 4) % 2, 0) for i in range(8)]


def issue(rng: Random, count: int, foreign: int) -> list[PlannedCard]:
    """`count` cards, `foreign` of them of the second city: suites half and half, every eighth with a purse per sector,
    classes 70 : 15 : 15."""
    cards = []
    for i in range(count):
        profile, suite = PROFILES[i % 8 == 7], ("3des", "sm4")[(i // 4 + i // 8) % 2]
        issuer, card_class = OWN, rng.choices((1, 2, 3), (70, 15, 15))[0]
        if i >= count - foreign:
            issuer, card_class = FOREIGN, 1
        cards.append(PlannedCard(f"0310{issuer[4:]}01{i + 1:010d}", issuer, profile, suite, card_class))
    return cards


def registry(
    dates: Sequence[date], devices: Iterable[Device], cards: Iterable[PlannedCard], ceilings: Mapping[str, object]
) -> dict[str, object]:
    """The registry document, with the ceilings of the utilities' PSAMs. Policies and PSAMs are in force since the first
    of January of the first date's year, or 60 days before."""
    since = min(date(dates[0].year, 1, 1), dates[0] - timedelta(days=60))
    opened = datetime(since.year, since.month, since.day, tzinfo=CHINA).isoformat()
    boxes = sorted(devices, key=lambda d: (d.terminal, d.psam))
    return {
        "issuers": [
            {"code": OWN, "name": "本市公共服务卡", "own": True},
            {"code": FOREIGN, "name": "邻市公共服务卡", "own": False},
        ],
        "parties": [{"id": i, "kind": kind, "name": name} for i, (kind, name) in sorted(PARTIES.items())],
        "terminals": [
            {"id": d.terminal, "operator": d.operator, "sector": d.sector, "class": d.terminal_class, "epoch": 1}
            for d in boxes
            if not d.twin
        ],
        "psams": [
            {
                "number": d.psam,
                "sector": d.sector,
                "operator": d.operator,
                "from": opened,
                "to": None,
                "state": "active",
            }
            for d in boxes
            if not d.online
        ],
        "policies": [
            {
                "name": name,
                "scope": scope,
                "from": since.isoformat(),
                "version": 1,
                "basis": "市公共服务卡管理办法",
                "value": value,
            }
            for name, scope, value in [*_policies(), ("ceilings", "utility", ceilings)]
        ],
        "cards": [
            {
                "card": c.serial,
                "issuer": c.issuer,
                "profile": c.profile,
                "suite": c.suite,
                "class": c.entitled_class,
                "generation": 0,
            }
            for c in cards
            if c.own
        ],
    }


def _policies() -> list[tuple[str, str, Mapping[str, object]]]:
    licences = {"1": ["transit", "smallpay", "utility"], "3": ["smallpay"], "4": ["utility"]}
    return [
        ("cut-off", "*", {"timezone": "Asia/Shanghai", "at": "02:00"}),
        *(("fare-flat", str(line), {"fen": fen}) for line, fen in FLAT_FEN.items()),
        *(
            ("fare-metro", str(line), {"base_fen": base, "step_fen": step, "max_fen": top})
            for line, (base, step, top) in METRO_FARE.items()
        ),
        ("concession", "transit", {str(c): percent for c, percent in CONCESSION.items()}),
        *(("fee", scope, {"bps": bps}) for scope, bps in FEE_BPS.items()),
        ("grace", "*", {"hours": 24}),
        ("clock", "*", {"ahead_s": 300}),
        ("overdraft", "transit", {"fen": ALLOWANCE_FEN}),
        *(("licence", purse, {"sectors": sectors, "reserve_bank": 901}) for purse, sectors in licences.items()),
        ("limit", "load", {"max_balance_fen": 100000, "max_load_fen": 50000}),
        ("denylist", "*", {"effective_after_s": 0, "publish_after_s": 3600}),
        ("replacement", "*", {"offline_window_h": 12}),
    ]


def metro_fare(line: int, start: int, end: int) -> int:
    """Full fare of a trip, fen."""
    base, step, top = METRO_FARE[line]
    return min(top, base + step * abs(end - start))
