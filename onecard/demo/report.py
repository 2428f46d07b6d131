"""What came of it: two auditors, the product's own invariants, report.json, the table at the end."""

import asyncio
import json
import time as stopwatch
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from clearing.ledger.books import Books
from clearing.ledger.export import debits, export
from clearing.verify import Check, verify
from onecard.demo.stage import Stage
from simulators import auditor_evidence, auditor_truth
from simulators.city import Plan

REPORT = "report.json"
MOST_SHOWN = 20
CLASSES = {
    "stored value": "stored value",
    "treasury subsidy": "subsidy",
    "insurance fund": "fund",
    "personal medical account": "account",
}
Nets = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class AuditorFigures:
    """What one auditor found, over how many figures."""

    differences: int
    checked: int


@dataclass(frozen=True, slots=True)
class SectorFigures:
    """One sector over both dates; fen, and the net per operator and class."""

    debits: int
    charged_fen: int
    subsidy_fen: int
    fees_fen: int
    net: Nets


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """Cases found against the cases that the city's truth asks for."""

    expected: int
    found: int
    missing: int
    extra: int


@dataclass(frozen=True, slots=True)
class Invariant:
    """One invariant that the product checked by itself."""

    ok: bool
    checked: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What report.json says of the city and its books: the auditors find it written, and compare it as well."""

    seed: int
    debits: int
    cards: int
    books_digest: str
    substance_digest: str
    truth_digest: str
    faults: Mapping[str, int]
    cases: CaseFigures
    sectors: Mapping[str, SectorFigures]


@dataclass(frozen=True, slots=True)
class Report:
    """report.json (docs/demo.md): the figures, and who has judged them."""

    figures: Figures
    auditor_t: AuditorFigures
    auditor_e: AuditorFigures
    invariants: Mapping[str, Invariant]
    rate_per_s: int
    seconds: float

    @property
    def proven(self) -> bool:
        """Both auditors and every invariant agree to the fen, and no case is missing or extra."""
        auditors = self.auditor_t.differences == self.auditor_e.differences == 0
        cases = self.figures.cases.missing == self.figures.cases.extra == 0
        return auditors and cases and all(check.ok for check in self.invariants.values())


async def judge(
    stage: Stage, city: Plan, records: int, upload_s: float, truth_digest: str, started: float, processes: Executor
) -> Report:
    """Export the books, let both auditors, in `processes` of their own, and the product's own checks judge them."""
    books = await export(stage.pool, stage.out)
    sectors = _sectors(stage.out, books, await debits(stage.pool))
    figures = Figures(
        seed=city.seed,
        debits=sum(sector.debits for sector in sectors.values()),
        cards=len(city.cards),
        books_digest=books.books_digest,
        substance_digest=books.substance_digest,
        truth_digest=truth_digest,
        faults=dict(sorted(Counter(fault.name for fault in city.faults).items())),
        cases=_cases(stage.out),
        sectors=sectors,
    )
    _write(asdict(figures), stage.out)
    loop = asyncio.get_running_loop()
    auditors = [loop.run_in_executor(processes, one.audit, stage.out) for one in (auditor_evidence, auditor_truth)]
    checks = await verify(stage.pool)
    evidence, truth = await asyncio.gather(*auditors)
    _tell_checks(checks)
    return Report(
        figures=figures,
        auditor_t=_audited("T", truth),
        auditor_e=_audited("E", evidence),
        invariants={check.name: Invariant(check.ok, check.checked) for check in checks},
        rate_per_s=round(records / upload_s) if upload_s else 0,
        seconds=round(stopwatch.monotonic() - started, 1),
    )


def write(report: Report, out: Path) -> None:
    """report.json; the same figures are in the table at the end."""
    verdicts = asdict(report)
    _write(verdicts.pop("figures") | verdicts, out)


def _write(document: Mapping[str, object], out: Path) -> None:
    (out / REPORT).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _tell_checks(checks: Sequence[Check]) -> None:
    console = Console(stderr=True, highlight=False)
    for check in checks:
        if not check.ok:
            console.print(f"invariant {check.name}: {check.detail}", markup=False)


def _audited(name: str, audit: auditor_truth.Audit | auditor_evidence.Audit) -> AuditorFigures:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in audit.differences[:MOST_SHOWN]:
        console.print(f"auditor {name}: {line}", markup=False)
    if len(audit.differences) > MOST_SHOWN:
        console.print(
            f"auditor {name}: and {len(audit.differences) - MOST_SHOWN} more (onecard sim audit DIR prints all)"
        )
    return AuditorFigures(len(audit.differences), audit.checked)


def _cases(out: Path) -> CaseFigures:
    truth = (json.loads(line) for line in (out / "truth.jsonl").read_text(encoding="utf-8").splitlines())
    expected = {(line["kind"], line["subject"]) for line in truth if line["type"] == "case"}
    lines = (out / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(line["kind"], line["subject"]) for line in map(json.loads, lines)}
    return CaseFigures(len(expected), len(found), len(expected - found), len(found - expected))


def _sectors(out: Path, books: Books, counts: Mapping[str, int]) -> dict[str, SectorFigures]:
    """Per sector: the statements give the nets, the books what was charged, subsidies and fees."""
    nets: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for path in sorted((out / "statements").glob("*/*.json")):
        if path.stem == "net":
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        for line in document["lines"]:
            nets[line["sector"]][str(document["operator"])][line["class"]] += line["net_fen"]
    charged: Counter[str] = Counter()
    subsidy: Counter[str] = Counter()
    fees: Counter[str] = Counter()
    for line in books.lines:
        rule = line.rule.partition("@")[0]
        if rule in ("debit", "act"):
            charged[line.ledger] += line.debit_fen
        elif rule == "subsidy" and line.account == "subsidy":
            subsidy[line.ledger] += line.debit_fen - line.credit_fen
        elif rule == "fee" and line.account.startswith("fee:"):
            fees[line.ledger] += line.credit_fen - line.debit_fen
    return {
        name: SectorFigures(
            counts.get(name, 0),
            charged[name],
            subsidy[name],
            fees[name],
            {operator: dict(sorted(classes.items())) for operator, classes in sorted(nets[name].items())},
        )
        for name in ("transit", "social", "smallpay", "utility", "medical")
    }


def show(report: Report, console: Console) -> None:
    """The short table at the end: yuan by sector, and per operator the net in each settlement class."""
    sectors = _figures("sector", "debits", "charged", "subsidy", "fees")
    operators = _figures("net of", "sector", *CLASSES.values())
    figures = report.figures
    for name, sector in figures.sectors.items():
        totals = (sector.charged_fen, sector.subsidy_fen, sector.fees_fen)
        sectors.add_row(name, f"{sector.debits:,}", *map(_yuan, totals))
        for operator, classes in sector.net.items():
            operators.add_row(operator, name, *(_yuan(classes[x]) if classes.get(x) else "" for x in CLASSES))
    console.print(sectors, operators)
    well = sum(check.ok for check in report.invariants.values())
    console.print(
        f"faults      {sum(figures.faults.values())} injected, of {len(figures.faults)} kinds\n"
        f"cases       {figures.cases.found} found, {figures.cases.expected} expected;"
        f" missing {figures.cases.missing}, extra {figures.cases.extra}\n"
        f"invariants  {well} of {len(report.invariants)} hold\n"
        f"auditor T   {report.auditor_t.differences} differences in {report.auditor_t.checked:,} figures\n"
        f"auditor E   {report.auditor_e.differences} differences in {report.auditor_e.checked:,} figures\n"
        f"ingest      {report.rate_per_s:,} records verified and posted per second\n"
        f"books       {figures.books_digest}\n"
        f"{'PROVEN' if report.proven else 'NOT PROVEN'} in {report.seconds:g} s"
    )


def _figures(*names: str) -> Table:
    table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("sector", "net of") else "right"
    return table


def _yuan(fen: int) -> str:
    sign, fen = ("-", -fen) if fen < 0 else ("", fen)
    return f"{sign}{fen // 100:,}.{fen % 100:02d}"
