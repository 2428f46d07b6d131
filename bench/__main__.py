"""Runs the benchmarks, prints one table, writes bench/results.json; exit status 1 when a floor is missed."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import apdu, ingest, tac

RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    results = [result for bench in (tac, ingest, apdu) for result in bench.run()]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = Table(
        "benchmark", "ours", "unit", "peers and limit", "ratios", "floors", title="onecard, measured in one run"
    )
    missed = 0
    for result in results:
        short = [name for name, floor in result["floors"].items() if result["ratios"].get(name, 0) < floor]
        missed += len(short)
        table.add_row(
            result["bench"],
            f"{result['ours']:,.0f}",
            result["unit"],
            "\n".join(f"{name} {figure:,.0f}" for name, figure in result["peers"].items()),
            "\n".join(f"{name} {ratio:.2f} ×" for name, ratio in result["ratios"].items()),
            "\n".join(
                f"{name} ≥ {floor:g}{'  MISSED' if name in short else ''}" for name, floor in result["floors"].items()
            ),
        )
    Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
